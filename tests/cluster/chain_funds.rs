//! The account has nothing left to pay fees with, or fees are higher than they may be. Settlement waits, and says why.

use ciro::tasks::Tasks;
use serde_json::{Value, json};

use crate::chain_desk::{Desk, FUNDS, Jobs, give};
use crate::chain_node::{Devnet, Kind};
use crate::chain_oracle;
use crate::cluster::Cluster;
use crate::{secs, until};

/// 1 000 STRK, as it had at first.
const PLENTY: u128 = 1_000_000_000_000_000_000_000;
/// More than the coordinator has of the token that jobs are paid in.
const DEAR: u128 = FUNDS * 50;
/// In fri, for a unit of L2 gas; what a devnet begins with.
const USUAL: u64 = 1_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_account_without_funds_and_fees_above_the_ceiling_cost_time_only() {
    let tasks = Tasks::new();
    let devnet = Devnet::start(Kind::Fleeting).await;
    let desk = Desk::open(&devnet, &tasks).await;
    // 20 STRK: a full transaction costs about a fortieth of it at usual prices.
    let mut cluster = desk.cluster_with(&[("MAX_FEE", "20000000000000000000"), ("REPLACE_AFTER_SECS", "10")]).await;
    let mut jobs = Jobs::default();
    settle(&desk, &mut cluster, &mut jobs).await;

    println!("the account is exhausted");
    devnet.set_balance(desk.coordinator.address, 1).await;
    waits(&desk, &mut cluster, &mut jobs, &json!({}), "balance").await;
    devnet.set_balance(desk.coordinator.address, PLENTY).await;
    settle(&desk, &mut cluster, &mut jobs).await;

    println!("fees are ten thousand times what they were");
    price(&devnet, USUAL * 10_000).await;
    waits(&desk, &mut cluster, &mut jobs, &json!({}), "max_fee").await;
    price(&devnet, USUAL).await;
    settle(&desk, &mut cluster, &mut jobs).await;

    println!("two jobs take more into escrow than there is, and stand in nobody's way");
    let dear = json!({"max_price": DEAR.to_string()});
    let first = json!({"max_price": DEAR.to_string(), "settlement": "register_before_distribution"});
    let dear = jobs.submit(&cluster.client, 1, &dear).await.remove(0);
    let first = jobs.submit(&cluster.client, 1, &first).await.remove(0);
    let others = jobs.submit(&cluster.client, 20, &json!({})).await;
    cluster.client.ended(0, &dear, secs(90)).await;
    for id in &others {
        cluster.client.ended(0, id, secs(90)).await;
    }
    let told = chain_oracle::told(&cluster.client).await;
    chain_oracle::settled(&desk, &told.into_iter().filter(|(id, _)| others.contains(id)).collect()).await;
    say_so(&cluster, &first).await;
    desk.admin.invoke(vec![give(desk.token, desk.coordinator.address, 2 * DEAR)]).await;
    chain_oracle::judge_funded(&cluster.client, &desk, &jobs, 2 * DEAR).await;
    cluster.finish().await;
    tasks.cancel();
}

/// Every node tells that the account has to be funded, and that the job `first` waits for that.
async fn say_so(cluster: &Cluster, first: &str) {
    for node in 0..3 {
        until(secs(30), &format!("node {node} says escrow_low"), async || {
            let status = cluster.client.get(node, "/blockchain/status").await?.body;
            let alarms = status["alarms"].as_array()?;
            let alarm = alarms.iter().find(|alarm| alarm["code"] == "escrow_low")?;
            alarm["detail"].as_str()?.starts_with("2 jobs take more").then_some(())
        })
        .await;
        let told = cluster.client.get(node, &format!("/jobs/{first}/explain")).await.expect("the node answers").body;
        assert_eq!((&told["state"], &told["reason"]), (&json!("pending"), &json!("awaits_chain")), "{told}");
        assert!(told["detail"].to_string().contains("escrow_low"), "{told}");
    }
}

async fn price(devnet: &Devnet, fri: u64) {
    let prices =
        json!({"l2_gas_price_fri": fri, "gas_price_fri": fri, "data_gas_price_fri": fri, "generate_block": true});
    devnet.rpc("devnet_setGasPrice", prices).await;
}

async fn settle(desk: &Desk<'_>, cluster: &mut Cluster, jobs: &mut Jobs) {
    jobs.submit(&cluster.client, 20, &json!({})).await;
    jobs.ended(&cluster.client).await;
    let told = chain_oracle::told(&cluster.client).await;
    chain_oracle::settled(desk, &told).await;
}

/// Jobs end, of which the first is like `first`; nothing is sent, and the leader's alarm has `word` in it.
async fn waits(desk: &Desk<'_>, cluster: &mut Cluster, jobs: &mut Jobs, first: &Value, word: &str) {
    chain_oracle::nothing_waits(&cluster.client).await;
    let nonce = desk.nonce().await;
    jobs.submit(&cluster.client, 1, first).await;
    jobs.submit(&cluster.client, 20, &json!({})).await;
    jobs.ended(&cluster.client).await;
    let leader = cluster.leader().await;
    until(secs(30), &format!("the leader says {word}"), async || {
        let status = cluster.client.get(leader, "/blockchain/status").await?.body;
        status["alarms"].to_string().contains(word).then_some(())
    })
    .await;
    assert_eq!(desk.nonce().await, nonce, "something was sent all the same");
}
