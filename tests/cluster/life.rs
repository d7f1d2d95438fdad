//! Stories without a fault, and with the gentlest one: a stop in good order.

use std::fs;

use ciro::clock;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::cluster::Cluster;
use crate::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_submitted_on_a_follower_is_read_everywhere() {
    let mut cluster = Cluster::start(3, 3).await;
    let follower = cluster.follower().await;
    let ticket = cluster.client.submit(follower, &cluster.client.mark(0.1)).await;
    for node in 0..3 {
        let path = format!("/jobs/{}?consistency=linearizable", ticket.id);
        let answer = cluster.client.get(node, &path).await.expect("the node answers");
        assert_eq!((answer.status, answer.body["id"].as_str()), (200, Some(ticket.id.as_str())), "on node {node}");
    }
    let job = cluster.client.ended(follower, &ticket.id, secs(20)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_found_in_the_log_of_the_leader_it_was_forwarded_to() {
    let mut cluster = Cluster::start(3, 1).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mark = cluster.client.mark(0.1);
    let answer = cluster.client.try_submit_as("story-4711", follower, &mark).await.expect("the node answers");
    assert_eq!((answer.status, answer.header("X-Request-Id")), (201, "story-4711"), "{answer:?}");
    let log = cluster.nodes[leader].dir.join("log");
    until(secs(5), "the leader notes the request", async || {
        let text = std::fs::read_to_string(&log).ok()?;
        text.lines().any(|line| line.contains("story-4711") && line.contains("forwarded to us")).then_some(())
    })
    .await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_from_all_sides_run_on_all_workers() {
    let cluster = Cluster::start(3, 3).await;
    let marks: Vec<_> = (0..60).map(|_| cluster.client.mark(0.1)).collect();
    let submit = marks.iter().enumerate().map(|(turn, mark)| cluster.client.submit(turn % 3, mark));
    let tickets = futures::future::join_all(submit).await;
    let mut workers = std::collections::BTreeSet::new();
    for ticket in &tickets {
        let job = cluster.client.ended(0, &ticket.id, secs(60)).await;
        workers.insert(job["worker_id"].to_string());
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    assert_eq!(workers.len(), 3, "24 places for 60 jobs: every worker had some");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_works_and_survives_a_kill() {
    let mut cluster = Cluster::start(1, 1).await;
    let first = cluster.client.submit(0, &cluster.client.mark(0.1)).await;
    cluster.client.ended(0, &first.id, secs(20)).await;
    cluster.kill(0);
    cluster.restart(0).await;
    let answer = cluster.client.get(0, &format!("/jobs/{}", first.id)).await.expect("the node answers");
    assert_eq!(answer.body["state"], "completed", "{answer:?}");
    cluster.workers_online(1).await;
    let second = cluster.client.submit(0, &cluster.client.mark(0.1)).await;
    cluster.client.ended(0, &second.id, secs(20)).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_in_good_order_hands_over_first() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader().await;
    let next = (leader + 1) % 3;
    let (old, log) = (cluster.nodes[leader].id.clone(), cluster.nodes[leader].dir.join("log"));
    let mut process = cluster.nodes[leader].process.take().expect("it runs");
    let start = clock::instant();
    process.signal(Signal::SIGTERM);
    let mark = cluster.client.mark(0.1);
    until(secs(5), "a write is accepted by another leader", async || {
        let answer = cluster.client.try_submit(next, &mark).await?;
        let leader = answer.header("X-Ciro-Leader");
        (matches!(answer.status, 200 | 201) && !leader.is_empty() && leader != old).then_some(())
    })
    .await;
    println!("a write was accepted {:?} after the leader was asked to stop", start.elapsed());
    assert!(start.elapsed() < secs(2), "no hand-over: {:?}", start.elapsed());
    let status = process.wait(secs(10)).await;
    assert!(status.success(), "{status}");
    let said = fs::read_to_string(log).unwrap();
    assert!(said.contains("leadership handed over"), "it left the others to find out");
    println!("the process ended after {:?}", start.elapsed());
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_award_can_be_judged_again_on_any_node() {
    let mut cluster = Cluster::start(3, 2).await;
    let follower = cluster.follower().await;
    // The first round may be over before both workers are heard of.
    let id = until(secs(20), "both workers bid for a job", async || {
        let ticket = cluster.client.submit(follower, &cluster.client.mark(0.1)).await;
        cluster.client.ended(follower, &ticket.id, secs(20)).await;
        let told = cluster.client.get(follower, &format!("/jobs/{}/explain", ticket.id)).await?.body;
        (told["award"]["evidence"]["bids"] == 2).then_some(ticket.id)
    })
    .await;
    for node in 0..3 {
        let said = cluster.cli(node, &["job", "verify-award", &id, "--json"]);
        let judged: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(judged["verified"], true, "node {node}: {judged}");
        let evidence = &judged["award"]["evidence"];
        assert_eq!(evidence["offers"][0]["fate"], "won", "{evidence}");
        assert!(evidence["offers"][0]["rtt_us"].as_u64() > Some(0), "the distance was measured: {evidence}");
    }
    cluster.finish().await;
}
