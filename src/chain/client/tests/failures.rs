//! What goes wrong with a transaction, and how it is told.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::devnet::{Devnet, Site, id, item, landed, worker};
use crate::chain::{EstimateError, Kind, Options, SendError, Timing, calls, sample};
use crate::domain::chain::{Bounds, Felt, Stage, U256};

fn refused(answer: Result<(), SendError>) -> Kind {
    match answer {
        Err(SendError::Refused(refused)) => refused.kind,
        other => panic!("{other:?}"),
    }
}

/// Bounds for anything.
fn wide(bounds: Bounds) -> Bounds {
    Bounds { l2_gas: 100_000_000, l1_data_gas: 10_000, ..bounds }
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn what_reverts_is_named_by_the_estimate_and_by_the_receipt() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    let (handle, contract) = (&site.handle, site.deployed.contract);
    let nonce = handle.nonce().await.unwrap();
    let lead = vec![calls::assert_epoch(contract, 1)];
    let call = calls::assign_job_to_worker(contract, U256::of(id(9)), worker(1));
    let items = vec![item(1, id(9), Stage::Assign, vec![call])];
    match handle.estimate(nonce, &lead, &items).await {
        Err(EstimateError::Reverted { word, reason }) => {
            assert_eq!(word, "no_such_job");
            assert!(reason.ends_with(": 'NO_SUCH_JOB'"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    // A nonce that is not its turn yet is no matter for an estimate.
    handle.estimate(nonce + 3, &lead, &[]).await.unwrap();

    let transaction = handle.transaction(nonce, 1, lead, items, wide(site.bounds().await)).unwrap();
    handle.send(&transaction).await.unwrap();
    let landed = landed(handle, &transaction).await;
    let reason = landed.reverted.unwrap();
    assert!(reason.ends_with(": 'NO_SUCH_JOB'"), "{reason}");
    assert!(landed.fee > 0, "its fee is paid all the same");
    assert_eq!(handle.nonce().await.unwrap(), nonce + 1);
    assert_eq!(handle.epoch().await.unwrap(), 0, "all of it was reverted");
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_deposed_leader_is_told_that_its_epoch_is_stale() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    site.settle(7, vec![]).await;
    let nonce = site.handle.nonce().await.unwrap();
    let lead = vec![calls::assert_epoch(site.deployed.contract, 6)];
    match site.handle.estimate(nonce, &lead, &[]).await {
        Err(EstimateError::Reverted { word, .. }) => assert_eq!(word, "stale_epoch"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn the_node_s_refusals_have_their_kinds() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    let handle = &site.handle;
    let lead = || vec![calls::assert_epoch(site.deployed.contract, 1)];
    let estimated = site.bounds().await;
    let bounds = wide(estimated);
    let nonce = handle.nonce().await.unwrap();
    let make = |nonce, bounds| handle.transaction(nonce, 1, lead(), vec![], bounds).unwrap();
    let sent = make(nonce, bounds);
    assert_eq!(sent, make(nonce, bounds), "the same has the same hash");
    handle.send(&sent).await.unwrap();
    assert_eq!(refused(handle.send(&sent).await), Kind::Duplicate);
    let raised = crate::chain::fees::raised(&bounds, &bounds);
    assert_eq!(refused(handle.send(&make(nonce, raised)).await), Kind::NonceUsed);
    assert_eq!(refused(handle.send(&make(nonce + 9, bounds)).await), Kind::NonceUsed);
    let next = nonce + 1;
    let dear = Bounds { l2_gas_price: u128::MAX >> 40, ..bounds };
    assert_eq!(refused(handle.send(&make(next, dear)).await), Kind::InsufficientBalance);
    let little = Bounds { l2_gas: 1, ..bounds };
    assert_eq!(refused(handle.send(&make(next, little)).await), Kind::InsufficientBounds);
    let tight = Bounds { l2_gas: estimated.l2_gas * 2 / 5, ..bounds };
    let cut_short = make(next, tight);
    handle.send(&cut_short).await.unwrap();
    let reason = landed(handle, &cut_short).await.reverted.unwrap();
    assert!(reason.ends_with("'OUT_OF_GAS'"), "{reason}");
    assert_eq!(handle.status(&make(next + 50, bounds)).await.unwrap(), None);
    let mut forged = make(next + 1, bounds);
    forged.hash = Felt::from(1u64);
    assert!(matches!(handle.send(&forged).await, Err(SendError::NotSent(_))), "it is not what the log says");
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn signatures_are_the_same_each_time() {
    use crate::chain::client::account::prepared;
    let devnet = Devnet::start(&[]).await;
    let handle = devnet.handle(devnet.options(0)).await;
    let calls = [calls::assert_epoch(Felt::from(1u64), 1)];
    let owner = handle.owner().unwrap();
    let mut seen = vec![];
    for _ in 0..3 {
        let made = prepared(&owner, 3, calls.iter(), &Bounds::default()).unwrap();
        seen.push(made.get_invoke_request(false, false).await.unwrap().signature);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]) && seen[0].len() == 2);
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_frozen_node_leaves_the_outcome_unknown_and_the_same_again_lands_once() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    let quick =
        Options { timing: Timing { request: Duration::from_millis(700), ..Timing::default() }, ..site.options.clone() };
    let handle = devnet.handle(quick).await;
    let (nonce, bounds) = (handle.nonce().await.unwrap(), wide(site.bounds().await));
    let lead = vec![calls::assert_epoch(site.deployed.contract, 1)];
    let transaction = handle.transaction(nonce, 1, lead, vec![], bounds).unwrap();
    devnet.signal(Signal::SIGSTOP);
    let begun = crate::clock::instant();
    match handle.send(&transaction).await {
        Err(SendError::Unknown(text)) => assert!(text.contains("no answer within 700 ms"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(handle.status(&transaction).await.unwrap_err().is_retryable());
    assert!(begun.elapsed() < Duration::from_secs(5));
    devnet.signal(Signal::SIGCONT);
    // The node may have read it before we gave up, or not: the very same again does no harm.
    match site.handle.send(&transaction).await {
        Ok(()) => {}
        answer => assert_eq!(refused(answer), Kind::Duplicate),
    }
    let found = landed(&site.handle, &transaction).await;
    assert_eq!((found.hash, found.reverted), (transaction.hash, None));
    assert_eq!(site.handle.nonce().await.unwrap(), nonce + 1, "once");
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn an_account_without_fees_is_told_so_and_goes_on_when_it_has_some() {
    let devnet = Devnet::start(&["--initial-balance", "1"]).await;
    let handle = devnet.handle(devnet.options(1)).await;
    let call = calls::approve(crate::chain::keys::fee_token(), Felt::from(5u64), U256 { high: 0, low: 1 });
    let bounds = Bounds {
        l1_gas_price: 1 << 60,
        l2_gas: 10_000_000,
        l2_gas_price: 1 << 40,
        l1_data_gas: 10_000,
        l1_data_gas_price: 1 << 40,
        ..Bounds::default()
    };
    let transaction = handle.transaction(0, 0, vec![call], vec![], bounds).unwrap();
    assert_eq!(refused(handle.send(&transaction).await), Kind::InsufficientBalance);
    let mint = json!({ "address": devnet.accounts[1].0, "amount": 10_u64.pow(19), "unit": "FRI" });
    for _ in 0..3 {
        devnet.ask("devnet_mint", mint.clone()).await;
    }
    handle.send(&transaction).await.unwrap();
    assert_eq!(landed(&handle, &transaction).await.reverted, None);
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_paused_contract_says_so() {
    let devnet = Devnet::start(&[]).await;
    let site: Site = devnet.deploy().await;
    let contract = site.deployed.contract;
    let pause = item(1, id(1), Stage::Assign, vec![calls::pause(contract, true)]);
    assert_eq!(site.settle(1, vec![pause]).await.1.reverted, None);
    let call = calls::submit_ai_job(contract, &sample::job(id(1)), 1, site.options.account);
    let nonce = site.handle.nonce().await.unwrap();
    match site.handle.estimate(nonce, &[], &[item(1, id(1), Stage::Register, vec![call])]).await {
        Err(EstimateError::Reverted { word, .. }) => assert_eq!(word, "paused"),
        other => panic!("{other:?}"),
    }
}
