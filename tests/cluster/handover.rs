//! Leadership is handed over: asked to, before a stop, and because a disk is slow.

use std::collections::BTreeSet;
use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::load::Load;
use crate::{secs, until};

/// The longest that writes may wait for a planned hand-over, here and everywhere. What is usual is a bench's to say:
/// this is a debug build on a machine that does other things.
const GAP: Duration = secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_for_a_hand_over_and_none_fails() {
    let mut cluster = Cluster::start(3, 0).await;
    cluster.add_idler();
    let load = Load::start(&cluster.client, 6);
    let mut gaps = Vec::new();
    for round in 0..10 {
        load.flows().await;
        let before = cluster.leader().await;
        let begun = clock::instant();
        // Asked again if it was not seen: on a busy machine the old leader may be elected again.
        let answer = until(secs(20), "leadership moves", async || {
            let asked = cluster.client.post(round % 3, "/cluster/transfer-leadership", "transfer", &json!({})).await?;
            (asked.status == 200 && asked.body["leader_id"] != cluster.nodes[before].id.as_str()).then_some(asked)
        })
        .await;
        assert_ne!(answer.body["leader_id"], cluster.nodes[before].id.as_str(), "{answer:?}");
        load.flows().await;
        gaps.push(load.gap_since(begun));
    }
    // How long writes wait is measured by `bench handover`.
    println!("write gaps of hand-overs: {gaps:?}");
    load.stop().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_restarted_under_load_and_no_request_fails() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.add_idler();
    let held = cluster.client.submit(0, &cluster.client.mark(25.0)).await;
    cluster.client.in_state(0, &held.id, "running", secs(10)).await;
    let load = Load::start(&cluster.client, 6);
    let mut gaps = Vec::new();
    let mut left: BTreeSet<usize> = (0..3).collect();
    while !left.is_empty() {
        load.flows().await;
        // The one that leads, as long as it had no turn yet.
        let leader = cluster.leader().await;
        let node = left.take(&leader).or_else(|| left.pop_first()).unwrap();
        let begun = clock::instant();
        cluster.stop(node).await;
        if node == leader {
            assert!(cluster.log(node).contains("leadership handed over"), "node {node} left the others to find out");
        }
        cluster.restart(node).await;
        load.flows().await;
        gaps.push(load.gap_since(begun));
    }
    println!("write gaps of restarts: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= GAP), "{gaps:?}");
    load.stop().await;
    let job = cluster.client.ended(0, &held.id, secs(40)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
    assert_eq!(cluster.executions(&held.name), 1);
    cluster.finish().await;
}

/// etcd #15247: there, a leader with a slow disk revoked every lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_slow_disk_gives_leadership_away_and_revokes_no_lease() {
    let limits = [
        ("CIRO__CLUSTER__SLOW_DISK_MS", "200"),
        ("CIRO__CLUSTER__SLOW_DISK_FOR_SECS", "4"),
        ("CIRO__METRICS__ENABLED", "true"),
    ];
    let mut cluster = Cluster::start_with(3, 2, &limits).await;
    let slow = cluster.leader().await;
    let mut tickets = Vec::new();
    for node in 0..4 {
        tickets.push(cluster.client.submit(node % 3, &cluster.client.mark(25.0)).await);
    }
    for ticket in &tickets {
        cluster.client.in_state(0, &ticket.id, "running", secs(20)).await;
    }
    cluster.nodes[slow].machine.slow_disk(Duration::from_millis(300));
    let load = Load::start(&cluster.client, 2);
    let handed = until(secs(40), "it gives leadership away", async || {
        let cluster = cluster.client.get(slow, "/cluster").await?.body;
        (cluster["handed_over"]["reason"] == "slow_disk").then(|| cluster["handed_over"].clone())
    })
    .await;
    println!("{handed}");
    assert!(handed["detail"].as_str().is_some_and(|why| why.contains("above 200 ms")), "{handed}");
    assert!(cluster.log(slow).contains("leadership given away"));
    let metrics = cluster.client.get(slow, "/metrics?format=json").await.expect("the node answers").body.to_string();
    assert!(metrics.contains("ciro_raft_leadership_given_away"), "{metrics}");

    // It does not come back while that disk is slow.
    let status = |status: Value| (status["term"].clone(), status["leader_id"].clone());
    let leader = cluster.leader().await;
    assert_ne!(leader, slow);
    let then = status(cluster.client.get(leader, "/status").await.expect("the node answers").body);
    load.flows().await;
    load.stop().await;
    for ticket in &tickets {
        let job = cluster.client.ended(leader, &ticket.id, secs(60)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    let now = status(cluster.client.get(leader, "/status").await.expect("the node answers").body);
    assert_eq!(then, now, "leadership went back and forth");
    cluster.add_idler();
    cluster.finish().await;
}
