//! Workers die, alone or together with the leader, and come back.

use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};

use crate::client::{Mark, Ticket};
use crate::cluster::Cluster;
use crate::{secs, until};

/// A silent worker is noticed within this time.
const NOTICED: Duration = secs(5);

/// A job whose first execution outlives the story, and whose second is quick.
async fn long_job(cluster: &Cluster, node: usize) -> (Ticket, usize) {
    let mark = Mark { first: 50.0, ..cluster.client.mark(0.1) };
    let ticket = cluster.client.submit(node, &mark).await;
    let job = cluster.client.in_state(node, &ticket.id, "running", secs(10)).await;
    let worker = cluster.worker_by_id(job["worker_id"].as_str().expect("a running job has a worker"));
    (ticket, worker)
}

async fn moves_on(cluster: &Cluster, node: usize, ticket: &Ticket, limit: Duration) {
    let start = clock::instant();
    until(limit, "the job is taken from the dead worker", async || {
        let job = cluster.client.get(node, &format!("/jobs/{}", ticket.id)).await?.body;
        (job["attempt"] != 1 || job["state"] == "pending").then_some(())
    })
    .await;
    println!("the job moved on after {:?}", start.elapsed());
    let job: Value = cluster.client.ended(node, &ticket.id, secs(20)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(2)), "{job}");
    assert_eq!(cluster.executions(&ticket.name), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_of_a_killed_worker_moves_on_within_five_seconds() {
    let mut cluster = Cluster::start(3, 2).await;
    let (ticket, worker) = long_job(&cluster, 0).await;
    cluster.kill_worker(worker);
    moves_on(&cluster, 0, &ticket, NOTICED).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_moves_on_when_worker_and_leader_die_together() {
    let mut cluster = Cluster::start(3, 2).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let (ticket, worker) = long_job(&cluster, follower).await;
    cluster.kill_worker(worker);
    cluster.kill(leader);
    moves_on(&cluster, follower, &ticket, NOTICED + secs(3)).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_worker_delivers_what_it_had_finished() {
    let mut cluster = Cluster::start(3, 1).await;
    let ticket = cluster.client.submit(0, &cluster.client.mark(1.0)).await;
    cluster.client.in_state(0, &ticket.id, "running", secs(10)).await;
    // Nobody is there to take the result, and then the worker dies over it.
    for node in 0..3 {
        cluster.pause(node);
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    cluster.kill_worker(0);
    cluster.launch_worker(0);
    for node in 0..3 {
        cluster.resume(node);
    }
    cluster.all_ready().await;
    let job = cluster.client.ended(0, &ticket.id, secs(30)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
    assert_eq!(cluster.executions(&ticket.name), 1, "the result was delivered, not made again");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_stops_in_its_worker() {
    let mut cluster = Cluster::start(3, 1).await;
    let follower = cluster.follower().await;
    let (ticket, _) = long_job(&cluster, follower).await;
    let answer = cluster.client.delete(follower, &format!("/jobs/{}", ticket.id)).await.expect("the node answers");
    assert!(answer.status < 300, "{answer:?}");
    cluster.client.expect_end(&ticket.id, "cancelled");
    until(secs(10), "the worker is idle again", async || {
        let workers = cluster.client.get(follower, "/workers").await?.body;
        (workers["workers"][0]["jobs_running"] == 0).then_some(())
    })
    .await;
    cluster.finish().await;
}
