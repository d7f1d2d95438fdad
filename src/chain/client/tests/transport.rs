//! Several endpoints, of which some misbehave.

use std::time::Duration;

use serde_json::json;

use super::endpoint::{Answer, Endpoint};
use crate::chain::{
    Error, Generation, Handle, Hidden, Kind, Options, Rpc, SendError, Signer, State, Timing, calls, keys,
};
use crate::clock;
use crate::domain::chain::{Bounds, Confirmation, Felt, Transaction};
use crate::tasks::Tasks;

const SEPOLIA: &str = "0x534e5f5345504f4c4941";

fn options(endpoints: &[&Endpoint]) -> Options {
    let rpc = |endpoint: &&Endpoint| Rpc { url: Hidden::new(endpoint.url.clone()), shown: "http://***".to_owned() };
    Options {
        rpc: endpoints.iter().map(rpc).collect(),
        chain_id: Some(SEPOLIA.parse().unwrap()),
        contract: Felt::from(1u64),
        account: Felt::from(2u64),
        signer: Signer::Plain(Hidden::new("0x5ec2e7")),
        generation: Generation::Auto,
        policy: None,
        confirmation: Confirmation::AcceptedL2,
        default_max_price: None,
        max_escrow: None,
        charge_clients: false,
        batch_calls: 150,
        batch_wait: Duration::ZERO,
        max_fee: None,
        max_spend_per_hour: None,
        tip: 0,
        replace_after: Duration::from_secs(60),
        watch_blocks: 10,
        follow_from: None,
        timing: Timing { probe: Duration::from_millis(50), request: Duration::from_millis(500) },
    }
}

/// A well endpoint at block `number`.
fn well(number: u64) -> impl Fn(&str) -> Answer {
    move |method| match method {
        "starknet_chainId" => Answer::Result(json!(SEPOLIA)),
        "starknet_blockHashAndNumber" => Answer::Result(json!({ "block_hash": "0x7", "block_number": number })),
        other => panic!("{other} was not expected"),
    }
}

/// One of our chain that does `answer` with everything else.
fn ill(answer: Answer) -> impl Fn(&str) -> Answer {
    move |method| match method {
        "starknet_chainId" => Answer::Result(json!(SEPOLIA)),
        _ => answer.clone(),
    }
}

fn transaction(handle: &Handle) -> Transaction {
    let lead = vec![calls::assert_epoch(Felt::from(1u64), 1)];
    handle.transaction(0, 1, lead, vec![], Bounds::default()).unwrap()
}

#[tokio::test]
async fn a_question_goes_to_the_next_endpoint_whatever_is_wrong_with_the_first() {
    let answers = [
        Answer::Drop,
        Answer::Hang,
        Answer::Status(503, ""),
        Answer::Status(404, ""),
        Answer::Status(302, "location: http://127.0.0.1:1/\r\n"),
        Answer::Flood(64 << 20),
    ];
    for answer in answers {
        let tasks = Tasks::new();
        let first = Endpoint::start(&tasks, ill(answer.clone())).await;
        let second = Endpoint::start(&tasks, well(5)).await;
        let handle = Handle::for_one_use(options(&[&first, &second]), &tasks).unwrap();
        assert_eq!(handle.head().await.unwrap().number, 5, "{answer:?}");
        // While it rests the first is not asked again.
        assert_eq!(handle.head().await.unwrap().number, 5);
        assert_eq!(first.count("starknet_blockHashAndNumber"), 1, "{answer:?}");
        tasks.cancel();
    }
}

#[tokio::test]
async fn nobody_at_all_is_down_and_shows_no_credentials() {
    let tasks = Tasks::new();
    let gone = Endpoint::start(&tasks, well(1)).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = options(&[&gone]);
    options.rpc[0].url = Hidden::new(format!("http://user:hunter2@{closed}/0123456789abcdef"));
    assert!(!format!("{options:?}").contains("hunter"));
    let handle = Handle::for_one_use(options, &tasks).unwrap();
    let error = handle.head().await.unwrap_err();
    assert!(matches!(error, Error::Down(_)), "{error:?}");
    for shown in [error.to_string(), format!("{error:?}"), format!("{handle:?}"), format!("{:?}", handle.view())] {
        assert!(!shown.contains("hunter") && !shown.contains("0123456789abcdef"), "{shown}");
    }
    match handle.send(&transaction(&handle)).await {
        Err(SendError::NotSent(Error::Down(_))) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_endpoint_that_was_asked_too_often_is_left_alone_as_long_as_it_says() {
    let tasks = Tasks::new();
    let busy = Endpoint::start(&tasks, ill(Answer::Status(429, "retry-after: 7\r\n"))).await;
    let handle = Handle::for_one_use(options(&[&busy]), &tasks).unwrap();
    for _ in 0..5 {
        match handle.head().await {
            Err(Error::Busy { retry_in_ms }) => assert!((5_000..=7_000).contains(&retry_in_ms), "{retry_in_ms}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(busy.count("starknet_blockHashAndNumber"), 1);

    // Another one is asked meanwhile, also for a transaction: nothing of it was taken in here.
    let second = Endpoint::start(&tasks, well(6)).await;
    let handle = Handle::for_one_use(options(&[&busy, &second]), &tasks).unwrap();
    assert_eq!(handle.head().await.unwrap().number, 6);
}

#[tokio::test]
async fn a_transaction_that_may_have_been_taken_in_is_not_sent_elsewhere() {
    for answer in [Answer::Drop, Answer::Hang, Answer::Status(502, ""), Answer::Text("{}"), Answer::Text("<html>")] {
        let tasks = Tasks::new();
        let first = Endpoint::start(&tasks, ill(answer.clone())).await;
        let second = Endpoint::start(&tasks, ill(Answer::Drop)).await;
        let handle = Handle::for_one_use(options(&[&first, &second]), &tasks).unwrap();
        match handle.send(&transaction(&handle)).await {
            Err(SendError::Unknown(_)) => {}
            other => panic!("{answer:?} gave {other:?}"),
        }
        assert_eq!(first.count("starknet_addInvokeTransaction"), 1, "{answer:?}");
        assert_eq!(second.asked(), Vec::<String>::new(), "{answer:?}");
        tasks.cancel();
    }
}

#[tokio::test]
async fn what_the_node_itself_says_of_a_transaction_is_believed() {
    let cases = [
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":59,"message":"x"}}"#, Kind::Duplicate),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":52,"message":"x","data":"Account nonce: 2; got: 0."}}"#,
            Kind::NonceUsed,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":54,"message":"x"}}"#, Kind::InsufficientBalance),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":64,"message":"x"}}"#, Kind::Underpriced),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":55,"message":"x","data":"Invalid transaction nonce of contract"}}"#,
            Kind::NonceUsed,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":55,"message":"x","data":"invalid signature"}}"#,
            Kind::BadSignature,
        ),
    ];
    for (text, kind) in cases {
        let tasks = Tasks::new();
        let endpoint = Endpoint::start(&tasks, ill(Answer::Text(text))).await;
        let handle = Handle::for_one_use(options(&[&endpoint]), &tasks).unwrap();
        match handle.send(&transaction(&handle)).await {
            Err(SendError::Refused(refused)) => assert_eq!(refused.kind, kind, "{text}"),
            other => panic!("{text} gave {other:?}"),
        }
        tasks.cancel();
    }
    // Not one of Starknet's codes: nobody knows what it means for the transaction.
    let tasks = Tasks::new();
    let odd = Answer::Text(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"internal"}}"#);
    let endpoint = Endpoint::start(&tasks, ill(odd)).await;
    let handle = Handle::for_one_use(options(&[&endpoint]), &tasks).unwrap();
    assert!(matches!(handle.send(&transaction(&handle)).await, Err(SendError::Unknown(_))));
}

#[tokio::test]
async fn an_endpoint_of_another_chain_is_not_used() {
    let tasks = Tasks::new();
    let other = Endpoint::start(&tasks, |method: &str| match method {
        "starknet_chainId" => Answer::Result(json!("0x534e5f4d41494e")),
        _ => panic!("{method} was not expected"),
    })
    .await;
    let ours = Endpoint::start(&tasks, well(8)).await;
    let both = Handle::for_one_use(options(&[&other, &ours]), &tasks).unwrap();
    assert_eq!(both.head().await.unwrap().number, 8);
    let alone = Handle::for_one_use(options(&[&other]), &tasks).unwrap();
    let error = alone.head().await.unwrap_err();
    assert_eq!(error.to_string(), "SN_MAIN is another chain than SN_SEPOLIA");
    assert!(matches!(alone.send(&transaction(&alone)).await, Err(SendError::NotSent(_))));

    // Without one configured the first that answers says which chain it is, for good.
    let free = Options { chain_id: None, ..options(&[&ours, &other]) };
    let handle = Handle::for_one_use(free, &tasks).unwrap();
    assert_eq!((handle.chain_id(), handle.site()), (None, None));
    handle.head().await.unwrap();
    assert_eq!(handle.chain_id().unwrap().to_string(), SEPOLIA);
}

#[tokio::test]
async fn an_endpoint_is_asked_again_which_chain_it_is_after_it_failed() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let (tasks, moved) = (Tasks::new(), Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&moved);
    let endpoint = Endpoint::start(&tasks, move |method: &str| match (method, flag.load(Ordering::Relaxed)) {
        ("starknet_chainId", true) => Answer::Result(json!("0x1")),
        (_, true) => Answer::Drop,
        (method, false) => well(1)(method),
    })
    .await;
    let handle = Handle::for_one_use(options(&[&endpoint]), &tasks).unwrap();
    handle.head().await.unwrap();
    handle.head().await.unwrap();
    assert_eq!(endpoint.count("starknet_chainId"), 1, "once is enough while it is well");
    moved.store(true, Ordering::Relaxed);
    assert!(matches!(handle.head().await, Err(Error::Down(_))));
    assert!(matches!(handle.head().await, Err(Error::OtherChain { .. })));
}

#[tokio::test]
async fn nobody_turns_pages_for_ever() {
    let tasks = Tasks::new();
    let page = json!({ "events": [], "continuation_token": "more" });
    let endpoint = Endpoint::start(&tasks, ill(Answer::Result(page))).await;
    let handle = Handle::for_one_use(options(&[&endpoint]), &tasks).unwrap();
    assert!(matches!(handle.events(1, 2).await, Err(Error::TooMany { .. })));
}

#[tokio::test]
async fn the_probe_tells_that_the_chain_is_down_and_that_it_came_back() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let (tasks, up) = (Tasks::new(), Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&up);
    let endpoint = Endpoint::start(&tasks, move |method: &str| match (method, flag.load(Ordering::Relaxed)) {
        (_, false) => Answer::Status(500, ""),
        ("starknet_chainId" | "starknet_blockHashAndNumber", true) => well(3)(method),
        ("starknet_getBlockWithTxHashes", true) => {
            Answer::Text(r#"{"jsonrpc":"2.0","id":1,"error":{"code":24,"message":"no block"}}"#)
        }
        (_, true) => Answer::Text(r#"{"jsonrpc":"2.0","id":1,"error":{"code":20,"message":"no contract"}}"#),
    })
    .await;
    let handle = Handle::start(options(&[&endpoint]), &tasks).unwrap();
    assert_eq!(handle.view().state, State::Connecting);
    let deadline = clock::instant() + Duration::from_secs(20);
    let wait = async |wanted: State| {
        while handle.view().state != wanted {
            assert!(clock::instant() < deadline, "{:?}", handle.view());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        handle.view()
    };
    assert_eq!(wait(State::Down).await.last_error.as_deref(), Some("reach the chain: HTTP status 500"));
    up.store(true, Ordering::Relaxed);
    assert_eq!(wait(State::Paused).await.last_error.as_deref(), Some("there is no contract at 0x1"));
    tasks.cancel();
    assert!(tasks.join(Duration::from_secs(5)).await, "the probe ends with the node");
}

#[tokio::test]
async fn the_same_transaction_has_the_same_hash_and_needs_a_key_and_a_chain() {
    let tasks = Tasks::new();
    let endpoint = Endpoint::start(&tasks, well(1)).await;
    let handle = Handle::for_one_use(options(&[&endpoint]), &tasks).unwrap();
    assert_eq!(transaction(&handle), transaction(&handle));
    assert_eq!(endpoint.asked(), Vec::<String>::new(), "it is computed here");
    let keyless = Handle::for_one_use(Options { signer: Signer::None, ..options(&[&endpoint]) }, &tasks).unwrap();
    assert!(matches!(keyless.transaction(0, 1, vec![], vec![], Bounds::default()), Err(Error::Key(_))));
    let unknown = Handle::for_one_use(Options { chain_id: None, ..options(&[&endpoint]) }, &tasks).unwrap();
    assert!(unknown.transaction(0, 1, vec![], vec![], Bounds::default()).unwrap_err().is_retryable());
    let class: Felt = keys::ACCOUNT_CLASS.parse().unwrap();
    assert_ne!(keys::account_address(Felt::from(1u64), class, Felt::ZERO), Felt::ZERO);
}
