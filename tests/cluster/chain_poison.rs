//! A call that reverts, among good ones: it is found and parked, the others are settled, and an operator has it tried again.
//! What is known to revert does not come so far: it is refused at the door.

use ciro::tasks::Tasks;
use serde_json::{Value, json};
use starknet::core::types::Felt;
use starknet::core::utils::cairo_short_string_to_felt;

use crate::chain_desk::{Desk, Jobs, PAYMENT_MIN, PRICE};
use crate::chain_hand::call;
use crate::chain_node::Devnet;
use crate::chain_oracle;
use crate::chain_proxy::{Fault, Rule};
use crate::cluster::Cluster;
use crate::{secs, until};

/// Enough for a worker, too little for the contract.
const CHEAP: u128 = PAYMENT_MIN - 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_call_that_reverts_is_parked_and_the_others_are_settled() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let mut cluster = desk.cluster().await;
    let mut jobs = Jobs::default();
    const { assert!(CHEAP > PRICE) };
    until_all_know(&cluster, PAYMENT_MIN).await;
    refused(&cluster).await;

    // The contract takes less; then it takes more while no node can see it.
    least(&desk, CHEAP).await;
    until_all_know(&cluster, CHEAP).await;
    desk.proxy.rule(Rule::all(&[], Fault::Refuse));
    least(&desk, PAYMENT_MIN).await;
    jobs.submit(&cluster.client, 20, &json!({})).await;
    let cheap = jobs.submit(&cluster.client, 1, &json!({"max_price": CHEAP.to_string()})).await.remove(0);
    jobs.submit(&cluster.client, 20, &json!({})).await;
    jobs.ended(&cluster.client).await;
    desk.proxy.heal();
    let mut good = chain_oracle::told(&cluster.client).await;
    good.remove(&cheap).expect("it is a job like the others");
    chain_oracle::settled(&desk, &good).await;

    let parked = until(secs(40), "all stages of the cheap job are parked", async || {
        let parked = listed(&cluster, 0);
        (parked.len() == 3).then_some(parked)
    })
    .await;
    let told = |field: &str| parked.iter().map(|it| it[field].as_str().unwrap_or_default()).collect::<Vec<_>>();
    println!("parked: {parked:?}");
    assert_eq!(told("job_id"), [&cheap; 3], "no other is parked");
    assert_eq!(told("stage"), ["register", "assign", "settle"]);
    assert_eq!(told("code")[0], "payment_too_low");

    // The contract comes to take it, and a leader that did not park it is told to try again.
    least(&desk, 1).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    cluster.restart(leader).await;
    let node = cluster.follower().await;
    cluster.cli(node, &["blockchain", "dlq", "retry", told("id")[0]]);
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    assert_eq!(listed(&cluster, 0), Vec::<Value>::new());
    cluster.finish().await;
    tasks.cancel();
}

/// From now on the contract takes no job for less.
async fn least(desk: &Desk<'_>, payment: u128) {
    let minimum = cairo_short_string_to_felt("min_payment").unwrap();
    desk.admin.invoke(vec![call(desk.contract, "update_config", vec![minimum, Felt::from(payment)])]).await;
}

async fn until_all_know(cluster: &Cluster, payment: u128) {
    for node in 0..3 {
        until(secs(60), &format!("node {node} knows what the contract takes"), async || {
            let status = cluster.client.get(node, "/blockchain/status").await?.body;
            (status["contract"]["min_payment"] == payment.to_string()).then_some(())
        })
        .await;
    }
}

/// Alone, in a batch, and by every node.
async fn refused(cluster: &Cluster) {
    let body = json!({"type": "noop", "payload": "", "max_price": CHEAP.to_string()});
    for node in 0..3 {
        let answer = cluster.client.post(node, "/jobs", "too-cheap", &body).await.expect("the node answers");
        assert_eq!((answer.status, answer.code()), (422, "invalid_field"), "{answer:?}");
        assert_eq!(answer.body["field"], "max_price", "{answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains(&format!("at least {PAYMENT_MIN}")), "{answer:?}");
        assert!(answer.body["hint"].is_string(), "{answer:?}");
    }
    let answer = cluster.client.post(0, "/jobs/batch", "cheap", &json!([body, body])).await.expect("an answer").body;
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(0), &json!(2)), "{answer}");
    assert_eq!(answer["results"][1]["problem"]["field"], "max_price", "{answer}");
}

/// What is parked, oldest first.
fn listed(cluster: &Cluster, node: usize) -> Vec<Value> {
    let text = cluster.cli(node, &["--json", "blockchain", "dlq", "list"]);
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    answer["entries"].as_array().unwrap_or_else(|| panic!("no list: {answer}")).clone()
}
