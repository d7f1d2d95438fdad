//! Without a majority nothing is promised, and what is read says how old it is.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_majority_leaves_marked_stale_reads_and_heals() {
    let mut cluster = Cluster::start(3, 1).await;
    let alone = cluster.leader().await;
    let ticket = cluster.client.submit(alone, &cluster.client.mark(0.1)).await;
    cluster.client.ended(alone, &ticket.id, secs(20)).await;
    for node in (0..3).filter(|node| *node != alone) {
        cluster.kill(node);
    }
    refuses_writes_and_marks_reads(&cluster, alone, &ticket.id).await;
    cluster.finish_after_a_write().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_others_are_paused_marks_its_reads_and_heals() {
    let mut cluster = Cluster::start(3, 1).await;
    let alone = cluster.follower().await;
    let ticket = cluster.client.submit(alone, &cluster.client.mark(0.1)).await;
    cluster.client.ended(alone, &ticket.id, secs(20)).await;
    for node in (0..3).filter(|node| *node != alone) {
        cluster.pause(node);
    }
    refuses_writes_and_marks_reads(&cluster, alone, &ticket.id).await;
    cluster.finish_after_a_write().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_in_doubt_has_one_outcome_under_its_key() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    others.iter().for_each(|other| cluster.pause(*other));
    // The leader has not missed them yet, so it takes the write into its log, and nobody confirms it.
    let mark = cluster.client.mark(0.1);
    let doubt = cluster.client.try_submit(leader, &mark).await.expect("the node answers");
    assert_eq!((doubt.status, doubt.code()), (503, "outcome_unknown"), "{doubt:?}");
    others.iter().for_each(|other| cluster.resume(*other));
    let first = cluster.client.submit(others[0], &mark).await;
    for node in 0..3 {
        let again = cluster.client.submit(node, &mark).await;
        assert_eq!(again.id, first.id, "on node {node}");
    }
    cluster.client.ended(leader, &first.id, secs(20)).await;
    assert_eq!(cluster.executions(&mark.name), 1);
    cluster.finish().await;
}

async fn refuses_writes_and_marks_reads(cluster: &Cluster, alone: usize, id: &str) {
    let client = &cluster.client;
    // The lease of the leader runs out, or the follower misses its leader.
    until(secs(15), "reads are marked stale", async || {
        let answer = client.get(alone, &format!("/jobs/{id}")).await?;
        assert_eq!(answer.status, 200, "a stale read is served: {answer:?}");
        let staleness: u64 = answer.header("X-Ciro-Staleness-Ms").parse().ok()?;
        (staleness >= 1_000).then_some(())
    })
    .await;
    let path = format!("/jobs/{id}?max_staleness_ms=200");
    let answer = client.get(alone, &path).await.expect("the node answers");
    assert_eq!(answer.status, 503, "staler than asked for: {answer:?}");
    let path = format!("/jobs/{id}?consistency=linearizable");
    let answer = client.get(alone, &path).await.expect("the node answers");
    assert_eq!(answer.status, 503, "a linearizable read without a majority: {answer:?}");
    let mark = client.mark(0.1);
    let answer = client.try_submit(alone, &mark).await.expect("the node answers");
    assert_eq!(answer.status, 503, "a write without a majority: {answer:?}");
    assert!(!answer.header("Retry-After").is_empty() || answer.code() == "outcome_unknown", "{answer:?}");
}

impl Cluster {
    /// Heals, resolves what was refused with the same keys, and finishes.
    async fn finish_after_a_write(mut self) {
        self.heal().await;
        let start = ciro::clock::instant();
        // Names count up: the refused write had the second one, and its key makes it the same job.
        let mut refused = self.client.mark(0.1);
        refused.name = "job-00001".to_owned();
        let ticket = self.client.submit(0, &refused).await;
        assert!(start.elapsed() < secs(10), "a healed cluster takes writes: {:?}", start.elapsed());
        self.client.ended(1, &ticket.id, secs(20)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.finish().await;
    }
}
