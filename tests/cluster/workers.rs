//! Workers die or sleep, alone or together with the leader, and come back.

use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};

use crate::client::Ticket;
use crate::cluster::Cluster;
use crate::{secs, until};

/// A silent worker is noticed within this time.
const NOTICED: Duration = secs(5);

/// A job whose first execution takes `first` seconds and whose second is quick, and the id of the worker that runs it.
async fn running_job(cluster: &Cluster, node: usize, first: f64) -> (Ticket, String) {
    let ticket = cluster.client.submit(node, &cluster.client.mark(first)).await;
    let job = cluster.client.in_state(node, &ticket.id, "running", secs(10)).await;
    (ticket, job["worker_id"].as_str().expect("a running job has a worker").to_owned())
}

/// A job whose first execution outlives the story, and the number of its worker.
async fn long_job(cluster: &Cluster, node: usize) -> (Ticket, usize) {
    let (ticket, worker) = running_job(cluster, node, 50.0).await;
    (ticket, cluster.worker_by_id(&worker))
}

/// Waits until the worker itself says, in the last heartbeat that `node` heard, that it runs `jobs` jobs.
async fn says_it_runs(cluster: &Cluster, node: usize, worker: &str, jobs: u64) {
    until(secs(10), &format!("{worker} says that it runs {jobs} jobs"), async || {
        let health = cluster.client.get(node, &format!("/workers/{worker}/health")).await?.body;
        (health["heartbeat"]["jobs_running"].as_u64()? == jobs).then_some(())
    })
    .await;
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
    let (ticket, worker) = running_job(&cluster, follower, 50.0).await;
    says_it_runs(&cluster, follower, &worker, 1).await;
    let answer = cluster.client.delete(follower, &format!("/jobs/{}", ticket.id)).await.expect("the node answers");
    assert!(answer.status < 300, "{answer:?}");
    cluster.client.expect_end(&ticket.id, "cancelled");
    says_it_runs(&cluster, follower, &worker, 0).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_slept_through_its_lease_changes_nothing_when_it_wakes() {
    let mut cluster = Cluster::start(3, 2).await;
    let (ticket, sleeper) = running_job(&cluster, 0, 3.0).await;
    says_it_runs(&cluster, 0, &sleeper, 1).await;
    // Only the agent sleeps. Its job goes on, and has ended when it wakes.
    let number = cluster.worker_by_id(&sleeper);
    cluster.pause_worker(number);
    let job = cluster.client.ended(0, &ticket.id, secs(20)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(2)), "{job}");
    assert_ne!(job["worker_id"], sleeper.as_str(), "{job}");
    cluster.resume_worker(number);
    says_it_runs(&cluster, 0, &sleeper, 0).await;
    cluster.workers_online(2).await;
    let result = cluster.client.get(0, &format!("/jobs/{}/result", ticket.id)).await.expect("the node answers").body;
    assert_eq!((&result["attempt"], &result["worker_id"]), (&json!(2), &job["worker_id"]), "{result}");
    assert_eq!(cluster.executions(&ticket.name), 2);
    cluster.finish().await;
}
