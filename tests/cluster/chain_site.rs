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

    println!("the right contract: nothing was noted of the others, so nobody has to accept it");
    restart_with(&mut cluster, "CIRO__BLOCKCHAIN__JOB_MANAGER_ADDRESS", &hex(desk.contract)).await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    for node in 0..3 {
        let status = desk.state(&cluster.client, node, "connected").await;
        assert_eq!(status["contract"]["generation"], "full", "{status}");
        assert_eq!(
            (&status["recorded"]["chain_id"], &status["alarms"]),
            (&json!("SN_SEPOLIA"), &json!([])),
            "{status}"
        );
    }

    println!("another contract, and books of this one until an operator accepts that");
    let other = Desk::open(desk.devnet, &tasks).await;
    cluster.set("CIRO__BLOCKCHAIN__ACCOUNT_ADDRESS", &hex(other.coordinator.address));
    cluster.set("CIRO__BLOCKCHAIN__INSECURE_DEV_KEY", &hex(other.coordinator.key));
    restart_with(&mut cluster, "CIRO__BLOCKCHAIN__JOB_MANAGER_ADDRESS", &hex(other.contract)).await;
    let (nonce, begun) = (other.nonce().await, jobs.ids.len());
    for node in 0..3 {
        let status = other.state(&cluster.client, node, "connected").await;
        assert_eq!(status["recorded"]["job_manager_address"], hex(desk.contract), "{status}");
        assert!(status["alarms"].to_string().contains("other_chain"), "{status}");
    }
    jobs.submit(&cluster.client, 10, &json!({})).await;
    jobs.ended(&cluster.client).await;
    assert_eq!(other.nonce().await, nonce, "something was sent");
    cluster.cli(1, &["blockchain", "reset", "--yes"]);
    settled_since(begun, &cluster, &other, &jobs).await;

    println!("the contract is paused");
    other.admin.invoke(vec![call(other.contract, "pause", vec![])]).await;
    nothing_is_sent(&other, &mut cluster, &mut jobs, "paused").await;
    other.admin.invoke(vec![call(other.contract, "unpause", vec![])]).await;
    settled_since(begun, &cluster, &other, &jobs).await;
    assert_eq!(other.escrow().await, 0);
    cluster.finish().await;
    tasks.cancel();
}

/// Waits until the jobs but the first `begun` are settled there.
async fn settled_since(begun: usize, cluster: &Cluster, desk: &Desk<'_>, jobs: &Jobs) {
    let since: Vec<&String> = jobs.ids.values().skip(begun).collect();
    let told = chain_oracle::told(&cluster.client).await;
    chain_oracle::settled(desk, &told.into_iter().filter(|(id, _)| since.contains(&id)).collect()).await;
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
