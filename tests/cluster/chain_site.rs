//! Nodes that are pointed at the wrong chain or the wrong contract send nothing; a paused contract is waited for.

use ciro::tasks::Tasks;
use serde_json::json;

use crate::chain_desk::{Desk, Jobs};
use crate::chain_hand::call;
use crate::chain_node::{Devnet, hex};
use crate::chain_oracle;
use crate::cluster::Cluster;
use crate::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_that_is_another_or_a_contract_that_is_none_or_paused_is_told_and_nothing_is_lost() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let mut cluster = desk.cluster_with(&[("CHAIN_ID", "SN_MAIN")]).await;
    let mut jobs = Jobs::default();
    nothing_is_sent(&desk, &mut cluster, &mut jobs, "SN_SEPOLIA").await;

    println!("the right chain, and a contract that is no Job Manager");
    cluster.set("CIRO__BLOCKCHAIN__JOB_MANAGER_ADDRESS", &hex(desk.token));
    restart_with(&mut cluster, "CIRO__BLOCKCHAIN__CHAIN_ID", "SN_SEPOLIA").await;
    nothing_is_sent(&desk, &mut cluster, &mut jobs, "").await;

    println!("the right contract, and books of another chain until an operator accepts this one");
    restart_with(&mut cluster, "CIRO__BLOCKCHAIN__JOB_MANAGER_ADDRESS", &hex(desk.contract)).await;
    let nonce = desk.nonce().await;
    for node in 0..3 {
        let status = desk.state(&cluster.client, node, "connected").await;
        assert_eq!(status["contract"]["generation"], "full", "{status}");
        assert_eq!(status["recorded"]["chain_id"], "SN_MAIN", "{status}");
        assert!(status["alarms"].to_string().contains("other_chain"), "{status}");
    }
    assert_eq!(desk.nonce().await, nonce, "something was sent");
    cluster.cli(1, &["blockchain", "reset", "--yes"]);
    jobs.submit(&cluster.client, 10, &json!({})).await;
    let told = chain_oracle::told(&cluster.client).await;
    chain_oracle::settled(&desk, &told).await;

    println!("the contract is paused");
    desk.admin.invoke(vec![call(desk.contract, "pause", vec![])]).await;
    nothing_is_sent(&desk, &mut cluster, &mut jobs, "paused").await;
    desk.admin.invoke(vec![call(desk.contract, "unpause", vec![])]).await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    cluster.finish().await;
    tasks.cancel();
}

async fn restart_with(cluster: &mut Cluster, name: &str, value: &str) {
    cluster.set(name, value);
    for node in 0..3 {
        cluster.kill(node);
        cluster.restart(node).await;
    }
    cluster.leader().await;
}

/// Jobs end; every node says that it is not connected, and why, with `word` in it.
async fn nothing_is_sent(desk: &Desk<'_>, cluster: &mut Cluster, jobs: &mut Jobs, word: &str) {
    let nonce = desk.nonce().await;
    jobs.submit(&cluster.client, 10, &json!({})).await;
    jobs.ended(&cluster.client).await;
    for node in 0..3 {
        until(secs(20), &format!("node {node} says {word}"), async || {
            let status = cluster.client.get(node, "/blockchain/status").await?.body;
            let told = ["down", "paused"].iter().any(|state| status["state"] == *state);
            (told && status["last_error"].as_str()?.contains(word)).then_some(())
        })
        .await;
    }
    tokio::time::sleep(secs(2)).await;
    assert_eq!(desk.nonce().await, nonce, "something was sent");
}
