//! What the stories about the chain are told with, held against the chain alone: no node is part of this.
//!
//! A line that breaks what it should not, or an oracle that sees nothing, would make every story pass.

use std::time::Duration;

use ciro::clock;
use ciro::tasks::Tasks;
use serde_json::{Value, json};
use starknet::core::types::{Call, Felt};
use starknet::core::utils::cairo_short_string_to_felt;

use crate::chain_desk::{Desk, FUNDS, Jobs, PRICE, PRICE_MAX, payout};
use crate::chain_hand::{Hand, call, u256};
use crate::chain_node::{Devnet, Kind};
use crate::chain_oracle;
use crate::chain_proxy::{Fault, Proxy, Rule};
use crate::secs;

const HEAD: &[&str] = &["starknet_blockNumber"];

/// Status and body; `None`: the connection ended without an answer.
async fn ask(proxy: &Proxy, method: &str) -> Option<(u16, String, Value)> {
    let http = reqwest::Client::builder().timeout(secs(10)).no_proxy().build().unwrap();
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": []});
    let answer = http.post(&proxy.url).json(&body).send().await.ok()?;
    let wait = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    Some((status, wait.unwrap_or_default(), answer.json().await.unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_line_breaks_what_it_is_told_to_and_nothing_else() {
    let tasks = Tasks::new();
    let devnet = Devnet::shared().await;
    let proxy = Proxy::start(&devnet.url, 1, &tasks).await;
    let head = devnet.head().await;
    let whole = async || {
        ask(&proxy, HEAD[0]).await.is_some_and(|(status, _, body)| (status, &body["result"]) == (200, &json!(head)))
    };
    assert!(whole().await, "what the node says is passed on");

    for (fault, seen) in [
        (Fault::Refuse, None),
        (Fault::DropAnswer, None),
        (Fault::TooMany(3), Some((429, "3".to_owned(), Value::Null))),
        (Fault::Unavailable, Some((503, String::new(), Value::Null))),
    ] {
        proxy.rule(Rule::next(1, HEAD, fault));
        assert_eq!(ask(&proxy, HEAD[0]).await, seen);
        assert!(whole().await, "one request, not the next");
    }
    proxy.rule(Rule::all(HEAD, Fault::Delay(Duration::from_millis(300))));
    let (start, other) = (clock::instant(), ask(&proxy, "starknet_chainId").await);
    assert!(other.is_some() && start.elapsed() < Duration::from_millis(300), "another method");
    assert!(whole().await && start.elapsed() >= Duration::from_millis(300), "late, and whole");
    proxy.heal();

    let gate = proxy.first(Rule::hold_answer(HEAD));
    let waiting = tasks.spawn("ask", {
        let proxy = proxy.clone();
        async move { ask(&proxy, HEAD[0]).await }
    });
    gate.reached(secs(5), "an answer waits").await;
    gate.shut();
    assert_eq!(waiting.await.unwrap(), None, "it never comes");
    assert_eq!(proxy.seen(HEAD[0]), 11);
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_node_keeps_its_state_over_a_kill_and_its_blocks_can_be_aborted() {
    let tasks = Tasks::new();
    let kept = Devnet::start(Kind::Kept).await;
    let desk = Desk::open(&kept, &tasks).await;
    let (head, nonce) = (kept.head().await, desk.nonce().await);
    kept.kill();
    assert!(kept.try_rpc("starknet_blockNumber", json!([])).await.is_err());
    kept.start_again().await;
    assert_eq!(
        (kept.head().await, desk.nonce().await, desk.balance(desk.coordinator.address).await),
        (head, nonce, FUNDS)
    );
    drop(kept);

    let archived = Devnet::start(Kind::Archived).await;
    let desk = Desk::open(&archived, &tasks).await;
    let head = archived.head().await;
    let hand = Hand::of(&archived, &desk.coordinator).await;
    hand.invoke(vec![call(desk.contract, "assert_epoch", vec![Felt::from(7_u8)])]).await;
    assert_eq!(desk.epoch().await, 7);
    archived.abort_from(head + 1).await;
    assert_eq!((desk.epoch().await, archived.head().await), (0, head));
    archived.set_balance(desk.coordinator.address, 5).await;
    assert!(hand_fails(&hand, desk.contract).await.contains("balance"));
    archived.set_balance(desk.coordinator.address, FUNDS * FUNDS).await;
    hand.invoke(vec![call(desk.contract, "assert_epoch", vec![Felt::from(8_u8)])]).await;
    tasks.cancel();
}

async fn hand_fails(hand: &Hand, contract: Felt) -> String {
    let failed = hand.try_invoke(vec![call(contract, "assert_epoch", vec![Felt::from(9_u8)])]).await;
    failed.expect_err("it can not pay").to_lowercase()
}

/// A job by hand, call by call, and what the oracle and starknet.py read of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_oracle_reads_what_was_put_there() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let hand = Hand::of(desk.devnet, &desk.coordinator).await;
    let id = uuid::Uuid::from_u128(rand::random::<u128>() | 1 << 64);
    let worker = Felt::from(0xC1_50_u32);
    let job = [Felt::from(id.as_u128()), Felt::ZERO];
    hand.invoke(register(&desk, id.as_u128())).await;
    assert_eq!((desk.escrow().await, desk.balance(desk.contract).await), (PRICE_MAX, PRICE_MAX));
    let known = call(desk.contract, "register_worker", vec![worker, payout(1)]);
    let assign = call(desk.contract, "assign_job_to_worker", [&job[..], &[worker]].concat());
    let sent = hand.invoke(vec![known, assign]).await;
    // Again: it is no event.
    hand.invoke(register(&desk, id.as_u128())).await;
    let result = [&job[..], &job[..], &[worker, Felt::from(77_u8), Felt::ZERO], &u256(0), &[Felt::ZERO]].concat();
    let shares = [&[Felt::ONE, worker][..], &u256(PRICE)].concat();
    hand.invoke(vec![call(desk.contract, "settle_job", [result, shares].concat())]).await;

    let events = chain_oracle::events(&desk).await;
    let names: Vec<&str> = events.iter().map(|event| event.name).collect();
    assert_eq!(names, ["JobSubmitted", "JobAssigned", "JobCompleted", "PaymentReleased"]);
    assert_eq!((events[1].hash, events[1].who, events[1].job), (sent, worker, id.as_u128()));
    let paid = PRICE - chain_oracle::fee(PRICE);
    assert_eq!(events[3].data, u256(paid), "what was paid, less the fee");
    assert_eq!((desk.balance(payout(1)).await, desk.balance(desk.fee_recipient).await), (paid, PRICE - paid));
    assert_eq!((desk.escrow().await, desk.balance(desk.coordinator.address).await), (0, FUNDS - PRICE));
    let mut jobs = Jobs::default();
    jobs.ids.insert("job-0".to_owned(), id.to_string());
    chain_oracle::independent(&desk, &jobs).await;
    tasks.cancel();
}

fn register(desk: &Desk<'_>, id: u128) -> Vec<Call> {
    let mut felts = vec![Felt::ZERO; 6];
    felts.extend(u256(PRICE_MAX));
    let tag = cairo_short_string_to_felt("ciro.job.v1").unwrap();
    felts.extend([Felt::from(4_000_000_000_u64), Felt::ZERO, Felt::TWO, tag, Felt::from(id)]);
    felts.extend(u256(PRICE_MAX));
    felts.push(desk.coordinator.address);
    vec![call(desk.contract, "submit_ai_job", felts)]
}
