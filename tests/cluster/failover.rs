//! The leader dies, at every stage of a job's life.

use std::collections::BTreeSet;
use std::time::Duration;

use ciro::clock;
use serde_json::json;

use crate::cluster::{Cluster, ELECTION};
use crate::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_job_survives_the_leader() {
    let mut cluster = Cluster::start(3, 0).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let ticket = cluster.client.submit(follower, &cluster.client.mark(0.1)).await;
    cluster.client.in_state(follower, &ticket.id, "pending", secs(5)).await;
    cluster.kill(leader);
    assert_ne!(cluster.leader().await, leader);
    let answer = cluster.client.get(follower, &format!("/jobs/{}?consistency=linearizable", ticket.id)).await;
    assert_eq!(answer.expect("the follower answers").body["state"], "pending");
    cluster.add_worker();
    let job = cluster.client.ended(follower, &ticket.id, secs(20)).await;
    assert_eq!(job["attempt"], 1, "{job}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_at_every_moment_of_a_job() {
    let mut cluster = Cluster::start(3, 2).await;
    let mut stages = BTreeSet::new();
    // From the announcement, over the award, which comes early when all have bid, to the result.
    for after in [0, 2, 5, 10, 15, 20, 30, 60, 200, 400, 420, 450] {
        let (leader, follower) = (cluster.leader().await, cluster.follower().await);
        let ticket = cluster.client.submit(follower, &cluster.client.mark(0.4)).await;
        tokio::time::sleep(Duration::from_millis(after)).await;
        cluster.kill(leader);
        let seen = cluster.client.get(follower, &format!("/jobs/{}", ticket.id)).await.expect("the follower answers");
        let stage = seen.body["state"].as_str().expect("a job has a state").to_owned();
        let job = cluster.client.ended(follower, &ticket.id, secs(20)).await;
        println!("leader killed {after} ms after the submission, job {stage}: attempt {}", job["attempt"]);
        assert_eq!(job["state"], "completed", "{job}");
        assert!(
            stage != "running" || job["attempt"] == 1,
            "killed after {after} ms, a running job was restarted: {job}"
        );
        stages.insert(stage);
        cluster.restart(leader).await;
    }
    assert!(stages.contains("running") && stages.len() > 1, "the leader died in one stage only: {stages:?}");
    cluster.finish().await;
}

/// hatchet #552, chronos #371: the same task runs twice after a restart or a hand-over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_job_is_not_restarted_because_the_leader_died() {
    let mut cluster = Cluster::start(3, 3).await;
    let marks: Vec<_> = (0..10).map(|_| cluster.client.mark(4.0)).collect();
    let mut tickets = Vec::new();
    for (turn, mark) in marks.iter().enumerate() {
        tickets.push(cluster.client.submit(turn % 3, mark).await);
    }
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    for ticket in &tickets {
        cluster.client.in_state(follower, &ticket.id, "running", secs(10)).await;
    }
    cluster.kill(leader);
    let start = clock::instant();
    cluster.leader().await;
    println!("a new leader after {:?}", start.elapsed());
    for ticket in &tickets {
        let job = cluster.client.ended(follower, &ticket.id, secs(20)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    cluster.finish().await;
}

/// As an upgrade does it, at its fastest. Over QUIC a worker takes the connection to a node that was killed for alive
/// for seconds, so that it would soon speak to dead nodes only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_jobs_are_not_restarted_when_each_leader_is_killed_as_soon_as_the_last_one_is_back() {
    let mut cluster = Cluster::start(3, 3).await;
    let marks: Vec<_> = (0..6).map(|_| cluster.client.mark(30.0)).collect();
    let mut tickets = Vec::new();
    for mark in &marks {
        tickets.push(cluster.client.submit(0, mark).await);
    }
    for ticket in &tickets {
        cluster.client.in_state(0, &ticket.id, "running", secs(10)).await;
    }
    let start = clock::instant();
    let mut kills = 0;
    while start.elapsed() < secs(20) {
        let leader = cluster.leader().await;
        cluster.kill(leader);
        cluster.leader().await;
        cluster.restart(leader).await;
        kills += 1;
    }
    println!("{kills} leaders killed in {:?}", start.elapsed());
    for ticket in &tickets {
        let job = cluster.client.ended(0, &ticket.id, secs(40)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_on_its_way_survives_the_leader() {
    let mut cluster = Cluster::start(3, 1).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let ticket = cluster.client.submit(follower, &cluster.client.mark(1.0)).await;
    cluster.client.in_state(follower, &ticket.id, "running", secs(10)).await;
    // While the leader sleeps the job ends, and its result waits for somebody to take it.
    cluster.pause(leader);
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    cluster.kill(leader);
    let job = cluster.client.ended(follower, &ticket.id, secs(20)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
    assert_eq!(cluster.executions(&ticket.name), 1);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_gives_the_same_job_across_leaders() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader().await;
    let mark = cluster.client.mark(0.1);
    let first = cluster.client.submit(leader, &mark).await;
    cluster.kill(leader);
    cluster.leader().await;
    for node in cluster.running() {
        let again = cluster.client.submit(node, &mark).await;
        assert_eq!(again.id, first.id, "on node {node}");
    }
    let mut other = cluster.client.mark(0.2);
    other.name.clone_from(&mark.name);
    let node = cluster.running()[0];
    let refused = cluster.client.try_submit(node, &other).await.expect("the node answers");
    assert_eq!(refused.status, 409, "the same key with another body: {refused:?}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_accepted_soon_after_the_leader_died() {
    let mut cluster = Cluster::start(3, 0).await;
    let mut taken = Vec::new();
    for _ in 0..5 {
        let (leader, follower) = (cluster.leader().await, cluster.follower().await);
        let mark = cluster.client.mark(0.1);
        cluster.kill(leader);
        let start = clock::instant();
        until(ELECTION, "a write is accepted", async || {
            let answer = cluster.client.try_submit(follower, &mark).await?;
            (answer.status == 201 || answer.status == 200).then_some(())
        })
        .await;
        taken.push(start.elapsed());
        cluster.restart(leader).await;
    }
    println!("from SIGKILL to the first accepted write: {taken:?}");
    cluster.add_worker();
    cluster.finish().await;
}
