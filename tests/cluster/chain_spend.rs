//! What may be spent has a limit, and what pays too little by now is replaced: whoever leads.

use std::collections::BTreeSet;

use ciro::tasks::Tasks;
use serde_json::{Value, json};

use crate::chain_desk::{Desk, Jobs};
use crate::chain_node::{Devnet, Kind};
use crate::chain_oracle;
use crate::chain_proxy::{Rule, SEND};
use crate::cluster::Cluster;
use crate::{secs, until};

/// In fri, for a unit of L2 gas; what a devnet begins with.
const USUAL: u64 = 1_000_000_000;

const LIMIT: &str = "CIRO__BLOCKCHAIN__MAX_SPEND_PER_HOUR";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_limit_for_an_hour_holds_whoever_leads_until_it_is_raised() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let mut cluster = desk.cluster().await;
    let mut jobs = Jobs::default();
    settle(&desk, &mut cluster, &mut jobs).await;

    // So low that it is used up in whatever hour this is.
    limited(&mut cluster, "1").await;
    let nonce = desk.nonce().await;
    jobs.submit(&cluster.client, 20, &json!({})).await;
    jobs.ended(&cluster.client).await;
    says_so(&mut cluster).await;
    let leader = cluster.leader().await;
    println!("node {leader} leads, and dies");
    cluster.kill(leader);
    says_so(&mut cluster).await;
    assert_eq!(desk.nonce().await, nonce, "something was sent all the same");
    cluster.restart(leader).await;

    limited(&mut cluster, "1000000000000000000000000").await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    assert!(desk.nonce().await > nonce);
    cluster.finish().await;
    tasks.cancel();
}

/// golem #2270, #2658, livepeer #1590: one stuck nonce stalls every payment after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_transaction_that_pays_too_little_by_now_is_replaced_at_its_nonce_by_the_next_leader() {
    let tasks = Tasks::new();
    let devnet = Devnet::start(Kind::Fleeting).await;
    let desk = Desk::open(&devnet, &tasks).await;
    let mut cluster = desk.cluster_with(&[("MAX_FEE", "20000000000000000000"), ("REPLACE_AFTER_SECS", "10")]).await;
    let mut jobs = Jobs::default();
    settle(&desk, &mut cluster, &mut jobs).await;
    chain_oracle::nothing_waits(&cluster.client).await;

    let nonce = desk.nonce().await;
    let gate = desk.proxy.first(Rule::hold_request(&[SEND]));
    jobs.submit(&cluster.client, 20, &json!({})).await;
    gate.reached(secs(30), "a transaction is prepared and sent").await;
    let leader = cluster.leader().await;
    let prepared = of_nonce(&cluster, leader, nonce).await.expect("the leader has it in its books")["tries"].clone();
    assert_eq!(prepared.as_array().map(Vec::len), Some(1), "{prepared}");
    // It never arrives, and gas is dearer when the next leader finds it in the books.
    price(&devnet, USUAL * 20).await;
    cluster.kill(leader);
    gate.shut();
    let node = cluster.running()[0];
    let replaced = until(secs(60), "it is tried again at the same nonce", async || {
        let found = of_nonce(&cluster, node, nonce).await?;
        (found["tries"].as_array()?.len() > 1 && found["block"].is_u64()).then_some(found)
    })
    .await;
    println!("replaced: {replaced}");
    let tries: BTreeSet<&str> = replaced["tries"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(tries.contains(prepared[0].as_str().unwrap()), "the first is kept beside it");
    assert_ne!(replaced["hash"], prepared[0], "the first can not have landed: it pays too little");
    cluster.restart(leader).await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    cluster.finish().await;
    tasks.cancel();
}

/// What a node's books have at a nonce.
async fn of_nonce(cluster: &Cluster, node: usize, nonce: u64) -> Option<Value> {
    let list = cluster.client.get(node, "/blockchain/transactions?limit=100").await?.body;
    list["transactions"].as_array()?.iter().find(|it| it["nonce"] == nonce).cloned()
}

/// All nodes start again with this limit.
async fn limited(cluster: &mut Cluster, most: &str) {
    cluster.set(LIMIT, most);
    for node in cluster.running() {
        cluster.kill(node);
        cluster.restart(node).await;
    }
    cluster.leader().await;
}

async fn says_so(cluster: &mut Cluster) {
    until(secs(60), "the leader says that nothing more is spent", async || {
        let leader = cluster.leader().await;
        let status = cluster.client.get(leader, "/blockchain/status").await?.body;
        let text = status["alarms"].to_string();
        (text.contains("nothing is sent in this hour") && text.contains("max_spend_per_hour (1)")).then_some(())
    })
    .await;
}

async fn settle(desk: &Desk<'_>, cluster: &mut Cluster, jobs: &mut Jobs) {
    jobs.submit(&cluster.client, 20, &json!({})).await;
    jobs.ended(&cluster.client).await;
    let told = chain_oracle::told(&cluster.client).await;
    chain_oracle::settled(desk, &told).await;
}

async fn price(devnet: &Devnet, fri: u64) {
    let prices =
        json!({"l2_gas_price_fri": fri, "gas_price_fri": fri, "data_gas_price_fri": fri, "generate_block": true});
    devnet.rpc("devnet_setGasPrice", prices).await;
}
