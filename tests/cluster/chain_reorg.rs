//! The node is killed and comes back with its state, or takes back blocks that it had closed.

use ciro::tasks::Tasks;
use serde_json::json;

use crate::chain_desk::{Desk, Jobs};
use crate::chain_node::{Devnet, Kind};
use crate::chain_oracle;
use crate::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_node_that_is_killed_and_comes_back_with_its_state_costs_time_only() {
    let tasks = Tasks::new();
    let devnet = Devnet::start(Kind::Kept).await;
    let desk = Desk::open(&devnet, &tasks).await;
    let cluster = desk.cluster().await;
    let mut jobs = Jobs::default();
    for round in 0..2 {
        jobs.submit(&cluster.client, 40, &json!({})).await;
        // In mid-settlement, wherever that is.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        println!("round {round}: the node is killed at block {}", devnet.head().await);
        devnet.kill();
        jobs.submit(&cluster.client, 20, &json!({})).await;
        jobs.ended(&cluster.client).await;
        devnet.start_again().await;
        for node in 0..3 {
            desk.state(&cluster.client, node, "connected").await;
        }
    }
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    cluster.finish().await;
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_blocks_that_are_aborted_are_made_again() {
    let tasks = Tasks::new();
    let devnet = Devnet::start(Kind::Archived).await;
    let desk = Desk::open(&devnet, &tasks).await;
    let mut cluster = desk.cluster().await;
    let mut jobs = Jobs::default();
    jobs.submit(&cluster.client, 10, &json!({})).await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    let (head, nonce) = (devnet.head().await, desk.nonce().await);
    jobs.submit(&cluster.client, 30, &json!({})).await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    let top = devnet.head().await;
    println!("blocks {} to {top} are taken back", head + 1);
    devnet.abort_from(head + 1).await;
    assert_eq!(desk.nonce().await, nonce, "as if they had never been");
    // The first transaction after them is somebody's who does not know.
    jobs.submit(&cluster.client, 5, &json!({})).await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    println!("all of it is there again by block {}", devnet.head().await);

    // Once more, and the leader dies before it has seen it.
    let head = devnet.head().await;
    jobs.submit(&cluster.client, 10, &json!({})).await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    devnet.abort_from(head + 1).await;
    until(secs(60), "the next leader makes them again", async || (devnet.head().await > head).then_some(())).await;
    cluster.heal().await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    cluster.finish().await;
    tasks.cancel();
}
