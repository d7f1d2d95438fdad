//! What the probe says of chains, contracts and accounts.

use std::time::Duration;

use serde_json::json;

use super::devnet::{Devnet, id, item, landed};
use crate::chain::client::deploy::{Class, declare, instance, invoke};
use crate::chain::{Error, Generation, Handle, Hidden, Options, Signer, State, View, calls, keys, sample};
use crate::clock;
use crate::domain::chain::{Felt, Stage, U256};

const V1: &str = include_str!("../../../../contracts/artifacts/job_manager_v1.sierra.json");

/// What the probe says as soon as `wanted` is met.
async fn view(handle: &Handle, wanted: impl Fn(&View) -> bool) -> View {
    let deadline = clock::instant() + Duration::from_secs(30);
    loop {
        let view = handle.view();
        if wanted(&view) {
            return view;
        }
        assert!(clock::instant() < deadline, "{view:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The view of a node with these options, once it has one.
async fn seen(devnet: &Devnet, options: Options) -> View {
    let handle = Handle::start(options, &devnet.tasks).unwrap();
    view(&handle, |view| view.state != State::Connecting).await
}

fn trouble(view: &View) -> &str {
    view.last_error.as_deref().unwrap_or_default()
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn our_contract_is_seen_with_all_it_can_do() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    let probed = Handle::start(site.options.clone(), &devnet.tasks).unwrap();
    let seen = view(&probed, |view| view.state == State::Connected).await;
    assert_eq!(seen.last_error, None);
    assert_eq!(seen.chain_id, Felt::short(b"SN_SEPOLIA"));
    assert_eq!(seen.rpc_url.as_deref(), Some(devnet.url.as_str()));
    let contract = seen.contract.unwrap();
    assert_eq!((contract.class_hash, contract.generation), (site.deployed.class_hash, Generation::Full));
    assert!(contract.capabilities.contains(&"settle_job"));
    assert_eq!((contract.paused, contract.fee_bps, contract.epoch), (Some(false), Some(100), Some(0)));
    assert_eq!((contract.token, contract.coordinator), (Some(site.deployed.token), Some(true)));
    let account = seen.account.unwrap();
    assert_eq!(account.key_fits, Some(true));
    assert_eq!(account.payment.unwrap().allowance, U256 { high: 0, low: 1_000_000_000 });
    assert!(account.balance > U256::default() && account.nonce > Some(0));
    assert!(seen.gas_prices.unwrap().l2 > 0);

    invoke(&site.handle, vec![calls::pause(site.deployed.contract, true)]).await.unwrap();
    let paused = view(&probed, |view| view.state == State::Paused).await;
    assert_eq!(trouble(&paused), "the contract is paused");
    invoke(&site.handle, vec![calls::pause(site.deployed.contract, false)]).await.unwrap();
    view(&probed, |view| view.state == State::Connected).await;
    let alarm = probed.alarm("settle");
    alarm.note(Some("waits for fees".to_owned()));
    assert_eq!(probed.view().alarms, ["settle: waits for fees"]);
    drop(alarm);
    assert!(probed.view().alarms.is_empty());
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_class_with_the_known_defect_takes_submissions_only_and_gives_their_ids() {
    let devnet = Devnet::start(&[]).await;
    let first = devnet.handle(devnet.options(0)).await;
    let class = Class::of("job manager v1", V1).unwrap();
    declare(&first, &class).await.unwrap();
    let account = devnet.accounts[0].0;
    let (step, _) = instance(&first, "job manager", &class, Felt::ZERO, &[account; 4]).await.unwrap();
    let options = Options { contract: step.at, ..devnet.options(0) };
    let view = seen(&devnet, options.clone()).await;
    assert_eq!((view.state, view.generation()), (State::Connected, Some(Generation::SubmissionOnly)), "{view:?}");
    assert_eq!(view.contract.unwrap().capabilities, ["submit_ai_job", "submit_prove_job"]);
    let full = seen(&devnet, Options { generation: Generation::Full, ..options.clone() }).await;
    assert_eq!(full.state, State::Paused);
    assert!(trouble(&full).contains("can only take submissions"), "{full:?}");

    let handle = devnet.handle(options).await;
    let register = |n: u64| {
        let call = calls::submit_ai_job(step.at, &sample::job(id(n.into())), 10u128.pow(18), account);
        item(n, id(n.into()), Stage::Register, vec![call])
    };
    let items: Vec<_> = (1..=3).map(register).collect();
    let nonce = handle.nonce().await.unwrap();
    let estimate = handle.estimate(nonce, &[], &items).await.unwrap();
    let transaction = handle.transaction(nonce, 0, vec![], items, estimate.bounds).unwrap();
    handle.send(&transaction).await.unwrap();
    let ids = landed(&handle, &transaction).await.ids;
    let expected = |n: u128| (id(n), U256 { high: 0, low: n });
    assert_eq!(ids, [expected(1), expected(2), expected(3)]);
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn what_is_not_what_was_configured_is_told_by_name() {
    let devnet = Devnet::start(&[]).await;
    let site = devnet.deploy().await;
    let main = Options { chain_id: Felt::short(b"SN_MAIN"), ..site.options.clone() };
    let view = seen(&devnet, main.clone()).await;
    assert_eq!((view.state, view.contract), (State::Down, None));
    assert_eq!(view.last_error.as_deref(), Some("SN_SEPOLIA is another chain than SN_MAIN"));
    let handle = Handle::for_one_use(main, &devnet.tasks).unwrap();
    assert!(matches!(handle.head().await, Err(Error::OtherChain { .. })));

    let stranger = Signer::Plain(Hidden::new(devnet.accounts[1].1.clone()));
    let view = seen(&devnet, Options { signer: stranger, ..site.options.clone() }).await;
    assert_eq!(view.state, State::Paused);
    assert!(trouble(&view).contains("does not take signatures of this node's key"), "{view:?}");

    let view = seen(&devnet, Options { contract: site.options.contract, ..devnet.options(1) }).await;
    assert!(trouble(&view).contains("is no coordinator of the contract"), "{view:?}");

    let view = seen(&devnet, Options { contract: site.deployed.token, ..site.options.clone() }).await;
    assert_eq!(view.state, State::Paused);
    assert!(trouble(&view).contains("is it another one?"), "{view:?}");

    let view = seen(&devnet, Options { contract: Felt::from(0x1234u64), ..site.options.clone() }).await;
    assert_eq!(trouble(&view), "there is no contract at 0x1234");

    let view = seen(&devnet, Options { account: Felt::from(0x1234u64), ..site.options.clone() }).await;
    assert_eq!(trouble(&view), "account 0x1234 is not deployed");
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_wrong_key_is_a_bad_signature() {
    use crate::chain::{EstimateError, Kind};
    let devnet = Devnet::start(&[]).await;
    let stranger = Signer::Plain(Hidden::new(devnet.accounts[1].1.clone()));
    let handle = devnet.handle(Options { signer: stranger, ..devnet.options(0) }).await;
    let call = calls::approve(keys::fee_token(), Felt::from(5u64), U256::default());
    match handle.estimate(0, &[call], &[]).await {
        Err(EstimateError::Refused(refused)) => assert_eq!(refused.kind, Kind::BadSignature),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs starknet-devnet"]
async fn a_new_account_is_deployed_with_the_contract() {
    let devnet = Devnet::start(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.json");
    let key = keys::create(&file, "hunter2").unwrap();
    let class: Felt = keys::ACCOUNT_CLASS.parse().unwrap();
    let account = keys::account_address(key.public(), class, Felt::ZERO);
    devnet.ask("devnet_mint", json!({ "address": account, "amount": 10_u64.pow(19), "unit": "FRI" })).await;
    for _ in 0..9 {
        devnet.ask("devnet_mint", json!({ "address": account, "amount": 10_u64.pow(19), "unit": "FRI" })).await;
    }
    let password = Some(crate::chain::Password::Given(Hidden::new("hunter2")));
    let options = Options { account, signer: Signer::Keystore { file, password }, ..devnet.options(0) };
    let handle = devnet.handle(options.clone()).await;
    let plan = crate::chain::deploy::Plan { account: Some((class, Felt::ZERO)), ..super::devnet::plan() };
    let wrong = crate::chain::deploy::Plan { account: Some((class, Felt::from(1u64))), ..plan.clone() };
    let refused = crate::chain::deploy::deploy(&handle, &wrong, &mut |_| ()).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("not {account}")), "{refused}");
    let deployed = crate::chain::deploy::deploy(&handle, &plan, &mut |_| ()).await.unwrap();
    let view = seen(&devnet, Options { contract: deployed.contract, ..options }).await;
    assert_eq!((view.state, view.account.unwrap().key_fits), (State::Connected, Some(true)));
}
