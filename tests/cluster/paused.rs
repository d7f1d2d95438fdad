//! The leader is stopped in its tracks, past its lease, and wakes as if nothing had happened.

use futures::future::join_all;
use serde_json::json;

use crate::cluster::Cluster;
use crate::secs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_wakes_serves_no_stale_linearizable_read() {
    let mut cluster = Cluster::start(3, 0).await;
    let (old, follower) = (cluster.leader().await, cluster.follower().await);
    let before = cluster.client.submit(old, &cluster.client.mark(0.1)).await;
    cluster.pause(old);
    let new = cluster.leader().await;
    assert_ne!(new, old);
    let after = cluster.client.submit(follower, &cluster.client.mark(0.1)).await;
    let answer = cluster.client.delete(follower, &format!("/jobs/{}", before.id)).await.expect("the node answers");
    assert!(answer.status < 300, "{answer:?}");
    cluster.client.expect_end(&before.id, "cancelled");

    // The questions lie in its socket when it wakes, so they are the first thing it sees.
    let client = cluster.client.clone();
    let asked = cluster.tasks.spawn("ask", async move {
        let path = |id: &str| format!("/jobs/{id}?consistency=linearizable");
        let (new, old_job) = (path(&after.id), path(&before.id));
        join_all((0..20).map(|turn| client.get(old, if turn % 2 == 0 { &new } else { &old_job }))).await
    });
    tokio::time::sleep(secs(1)).await;
    cluster.resume(old);
    let answers = asked.await.unwrap();
    let mut served = 0;
    for (turn, answer) in answers.into_iter().enumerate() {
        let answer = answer.expect("the woken node answers");
        match answer.status {
            503 => {}
            200 if turn % 2 == 0 => served += 1,
            200 => assert_eq!(answer.body["state"], "cancelled", "a stale linearizable read: {answer:?}"),
            _ => panic!("a stale linearizable read: {answer:?}"),
        }
    }
    println!("{served} of 10 reads of the new job were served, the others refused");
    cluster.add_worker();
    cluster.finish().await;
}

/// nomad #4749, river #1161: a deposed leader goes on acting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_wakes_accepts_nothing_twice() {
    let mut cluster = Cluster::start(3, 2).await;
    let (old, follower) = (cluster.leader().await, cluster.follower().await);
    let mut tickets = Vec::new();
    for _ in 0..6 {
        tickets.push(cluster.client.submit(follower, &cluster.client.mark(1.5)).await);
    }
    for ticket in &tickets {
        cluster.client.in_state(follower, &ticket.id, "running", secs(10)).await;
    }
    cluster.pause(old);
    // It sleeps through the end of every job.
    for ticket in &tickets {
        let job = cluster.client.ended(follower, &ticket.id, secs(20)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
    }
    cluster.resume(old);
    // A write on the woken node right away: taken by the true leader, or refused, never lost.
    let late = cluster.client.submit(old, &cluster.client.mark(0.1)).await;
    cluster.client.ended(follower, &late.id, secs(20)).await;
    let leader = cluster.leader().await;
    println!("node {old} slept, and now all know node {leader} as the leader");
    for ticket in &tickets {
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    cluster.finish().await;
}
