//! A job's life on chain, and what is read back.

use serde_json::json;

use super::devnet::{Devnet, id, item, plan, worker};
use crate::chain::calls::{self, Outcome, Share};
use crate::chain::deploy::deploy;
use crate::chain::{JobStatus, What, sample, worker_felt};
use crate::domain::Digest;
use crate::domain::chain::{Confirmation, Felt, Stage, U256};

const PAYEE: u64 = 0xbeef;

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_job_is_registered_assigned_settled_and_read_back() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    let (handle, contract, account) = (&site.handle, site.deployed.contract, site.options.account);
    let (job, chain_job) = (sample::job(id(1)), U256::of(id(1)));
    let outcome = Outcome { worker: worker(1), output: Digest([2; 32]), seconds: 3 };
    let items = vec![
        item(1, job.id, Stage::Register, vec![calls::submit_ai_job(contract, &job, 1_000, account)]),
        item(2, job.id, Stage::Assign, vec![calls::assign_job_to_worker(contract, chain_job, worker(1))]),
        item(
            3,
            job.id,
            Stage::Settle,
            vec![
                calls::register_worker(contract, worker(1), Felt::from(PAYEE)),
                calls::settle_job(contract, chain_job, &outcome, &[Share { worker: worker(1), amount: 600 }]),
            ],
        ),
    ];
    let before = handle.balance(site.deployed.token, account).await.unwrap();
    let (first, landed) = site.settle(4, items.clone()).await;
    assert_eq!((landed.hash, &landed.reverted, &landed.ids), (first.hash, &None, &vec![]));
    assert_eq!(landed.confirmation, Confirmation::AcceptedL2);
    let block = landed.block.expect("a block each");
    assert_eq!(handle.block_hash(block.number).await.unwrap(), Some(block.hash));
    assert_eq!(handle.block_hash(block.number + 1_000).await.unwrap(), None);
    assert!(landed.fee > 0);

    // The same again, as a new leader would after a fail-over: nothing moves. A job that is done is not assigned.
    let again = items.into_iter().filter(|item| item.stage != Stage::Assign).collect();
    let (_, again) = site.settle(5, again).await;
    assert_eq!(again.reverted, None);
    let low = |number: U256| number.low;
    assert_eq!(low(handle.balance(site.deployed.token, Felt::from(PAYEE)).await.unwrap()), 594);
    assert_eq!(low(handle.balance(site.deployed.token, Felt::from(0xfeeu64)).await.unwrap()), 6);
    assert_eq!(low(before) - low(handle.balance(site.deployed.token, account).await.unwrap()), 600);
    assert_eq!(handle.escrow().await.unwrap(), U256::default());
    assert_eq!(handle.epoch().await.unwrap(), 5);
    assert_eq!(low(handle.paid(chain_job).await.unwrap()), 600);
    assert_eq!(handle.payee_of(worker(1)).await.unwrap(), Felt::from(PAYEE));

    let unknown = U256 { high: 0, low: 77 };
    let details = handle.details(&[unknown, chain_job]).await.unwrap();
    assert_eq!((details[0].created_at, details[0].job), (0, unknown));
    assert_eq!((details[1].state, details[1].payment.low), (JobStatus::Completed, 1_000));
    assert_eq!((details[1].result_hash, details[1].client), (calls::cut(outcome.output), account));

    let events = handle.events(0, handle.head().await.unwrap().number).await.unwrap();
    let names: Vec<&str> = events.iter().map(|event| event.what.name()).collect();
    let expected = [
        "EpochRaised",
        "JobSubmitted",
        "JobAssigned",
        "WorkerRegistered",
        "JobCompleted",
        "PaymentReleased",
        "EpochRaised",
    ];
    assert_eq!(names, expected);
    assert!(events[..6].iter().all(|event| event.transaction == first.hash && event.block == Some(block)));
    let payment = U256 { high: 0, low: 1_000 };
    assert_eq!(events[1].what, What::Submitted { job: chain_job, client: account, payment });
    assert_eq!(events[2].what, What::Assigned { job: chain_job, worker: worker_felt(worker(1)) });
    let amount = U256 { high: 0, low: 594 };
    assert_eq!(events[5].what, What::Paid { job: chain_job, payee: Felt::from(PAYEE), amount });
    assert_eq!(handle.events(block.number + 1, block.number + 1).await.unwrap().len(), 1, "by block");
    assert_eq!(handle.events_of(chain_job, 0).await.unwrap().len(), 4);
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn what_is_deployed_is_not_deployed_again() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    let mut steps = vec![];
    let again = deploy(&site.handle, &plan(), &mut |step| steps.push(step.clone())).await.unwrap();
    assert_eq!((again.contract, again.block), (site.deployed.contract, None));
    assert!(steps.iter().all(|step| step.transaction.is_none()), "{steps:?}");
    let dear = crate::chain::Options { max_fee: Some(1), ..site.options.clone() };
    let other = crate::chain::deploy::Plan { salt: Felt::from(2u64), ..plan() };
    let refused = deploy(&devnet.handle(dear).await, &other, &mut |_| ()).await.unwrap_err().to_string();
    assert!(refused.contains("blockchain.max_fee is 1"), "{refused}");
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_thousand_events_are_read_page_by_page() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    let contract = site.deployed.contract;
    for round in 0..4u128 {
        let register = |n| {
            let job = sample::job(id(round * 100 + n));
            let call = calls::submit_ai_job(contract, &job, 1, site.options.account);
            item(u64::try_from(n).unwrap() + 1, job.id, Stage::Register, vec![call])
        };
        let (_, landed) = site.settle(1, (0..100).map(register).collect()).await;
        assert_eq!(landed.reverted, None);
    }
    let head = site.handle.head().await.unwrap().number;
    let events = site.handle.events(0, head).await.unwrap();
    let jobs: Vec<U256> = events.iter().filter_map(|event| event.what.job()).collect();
    assert_eq!(jobs, (0..400).map(|n| U256::of(id(n))).collect::<Vec<_>>());
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_block_that_is_aborted_takes_its_transaction_with_it() {
    let devnet = Devnet::start(&["--state-archive-capacity", "full"]).await;
    let site = devnet.deploy().await;
    let job = sample::job(id(1));
    let call = calls::submit_ai_job(site.deployed.contract, &job, 1, site.options.account);
    let (transaction, landed) = site.settle(1, vec![item(1, job.id, Stage::Register, vec![call])]).await;
    let block = landed.block.unwrap();
    devnet.ask("devnet_abortBlocks", json!({ "starting_block_id": { "block_number": block.number } })).await;
    assert_eq!(site.handle.status(&transaction).await.unwrap(), None);
    assert_eq!(site.handle.nonce().await.unwrap(), transaction.nonce);
    assert_ne!(site.handle.block_hash(block.number).await.unwrap(), Some(block.hash));
    site.handle.send(&transaction).await.unwrap();
    let landed = super::devnet::landed(&site.handle, &transaction).await;
    assert_eq!(landed.reverted, None);
}
