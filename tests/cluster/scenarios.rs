//! What went wrong for others: each story is named after the report of it.

use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cluster::Cluster;
use crate::links::Party::Node;
use crate::{secs, until};

/// Fails the first time, and succeeds the second.
const SECOND_TIME: &str = r#"
[worker]
max_parallel_jobs = 8

[jobs.second]
command = ["/bin/sh", "-c", "read file; if [ -e \"$file\" ]; then echo done; else : > \"$file\"; exit 1; fi"]
"#;

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

async fn job(cluster: &Cluster, node: usize, id: &str) -> Value {
    cluster.client.get(node, &format!("/jobs/{id}")).await.expect("the node answers").body
}

async fn post(cluster: &Cluster, node: usize, key: &str, body: Value) -> String {
    let answer = until(secs(30), "the job is accepted", async || {
        let answer = cluster.client.post(node, "/jobs", key, &body).await?;
        matches!(answer.status, 200 | 201).then_some(answer)
    })
    .await;
    answer.body["id"].as_str().expect("a job has an id").to_owned()
}

async fn term(cluster: &Cluster, node: usize) -> u64 {
    let answer = cluster.client.get(node, "/status").await.expect("the node answers");
    answer.body["term"].as_u64().expect("a term")
}

/// dkron #1210, #998: the job due at the moment of an election never runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_falls_due_in_an_election_runs() {
    let mut cluster = Cluster::start(3, 0).await;
    cluster.add_worker_with(SECOND_TIME);
    cluster.workers_online(1).await;
    // Due before the leader is missed, while one is elected, and when one just was.
    for (turn, before_ms) in [50, 250, 600].into_iter().enumerate() {
        let (leader, follower) = (cluster.leader().await, cluster.follower().await);
        let flag = cluster.file(&format!("flag-{turn}"), b"");
        std::fs::remove_file(&flag).unwrap();
        let retry = json!({"max_attempts": 3, "initial_delay_ms": 2_000, "multiplier": 1, "max_delay_ms": 2_000});
        let body = json!({"type": "second", "payload": base64(&format!("{flag}\n")), "retry": retry});
        let id = post(&cluster, follower, &format!("due-{turn}"), body).await;
        until(secs(20), "the first attempt fails", async || {
            let job = job(&cluster, follower, &id).await;
            (job["state"] == "pending" && job["attempt"] == 1).then_some(())
        })
        .await;
        // It falls due between 1.8 and 2 seconds from here, or a little later.
        tokio::time::sleep(Duration::from_millis(2_000 - before_ms)).await;
        cluster.kill(leader);
        let start = clock::instant();
        let job = cluster.client.ended(follower, &id, secs(20)).await;
        println!("{before_ms} ms before it was due the leader died; it ended {:?} later", start.elapsed());
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(2)), "{job}");
        cluster.restart(leader).await;
    }
    cluster.finish().await;
}

/// nomad #17974: the leader is away for 15–30 s and every running job restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_jobs_outlive_twenty_seconds_without_a_leader() {
    // With the lease of other environments, of which forty of the sixty seconds are left whenever a leader goes.
    let mut cluster = Cluster::start_with(3, 2, &[("CIRO__SCHEDULER__LEASE_SECS", "60")]).await;
    let (leader, alone) = (cluster.leader().await, cluster.follower().await);
    let third = 3 - leader - alone;
    let mut tickets = Vec::new();
    for _ in 0..4 {
        tickets.push(cluster.client.submit(alone, &cluster.client.mark(35.0)).await);
    }
    let at = |time: &Value| OffsetDateTime::parse(time.as_str()?, &Rfc3339).ok();
    for ticket in &tickets {
        // The award's own lease is a short one: the worker's first heartbeat brings the whole.
        until(secs(15), "it runs under a whole lease", async || {
            let job = job(&cluster, alone, &ticket.id).await;
            (at(&job["lease_until"])? - at(&job["assigned_at"])? > secs(50)).then_some(())
        })
        .await;
    }
    cluster.kill(leader);
    cluster.kill(third);
    tokio::time::sleep(secs(20)).await;
    cluster.restart(leader).await;
    cluster.restart(third).await;
    for ticket in &tickets {
        let job = cluster.client.ended(alone, &ticket.id, secs(60)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    cluster.finish().await;
}

/// nomad #25808, #19805: a job stays pending, nobody can say why, nobody can cancel it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_nobody_can_run_says_why_and_can_be_cancelled_whoever_leads() {
    let mut cluster = Cluster::start(3, 2).await;
    let body =
        json!({"type": "mark", "payload": "", "requirements": {"min_gpu_memory_gb": 4_000}, "tags": ["job-00000"]});
    let named = cluster.client.mark(0.1);
    let id = post(&cluster, 0, &named.name, body).await;
    let said = async |cluster: &Cluster, node: usize| {
        until(secs(10), "the node says which requirement nobody meets", async || {
            let answer = cluster.client.get(node, &format!("/jobs/{id}/explain")).await?;
            (answer.status == 200 && answer.body.to_string().contains("min_gpu_memory_gb")).then_some(())
        })
        .await;
    };
    for node in 0..3 {
        said(&cluster, node).await;
    }
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let other = cluster.follower().await;
    said(&cluster, other).await;
    let answer = cluster.client.delete(other, &format!("/jobs/{id}")).await.expect("the node answers");
    assert_eq!((answer.status, &answer.body["state"]), (200, &json!("cancelled")), "{answer:?}");
    cluster.restart(leader).await;
    cluster.client.in_state(leader, &id, "cancelled", secs(10)).await;
    // It is of the type that the oracle counts, so it is told of it.
    cluster.client.promise(&named, &id, "cancelled");
    cluster.finish().await;
}

/// consul #5928: one half-partitioned node makes gossip flap for everyone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hears_or_is_heard_only_makes_nobody_else_flap() {
    let mut cluster = Cluster::start_with_links(3, 2).await;
    let leader = cluster.leader().await;
    let sick = cluster.follower().await;
    let third = 3 - leader - sick;
    let before = term(&cluster, leader).await;
    for deaf in [true, false] {
        for other in [leader, third] {
            match deaf {
                true => cluster.cut_one_way(Node(other), Node(sick)),
                false => cluster.cut_one_way(Node(sick), Node(other)),
            }
        }
        let start = clock::instant();
        // Longer than it takes to miss a leader, or a worker.
        while start.elapsed() < secs(8) {
            for node in [leader, third] {
                let status = cluster.client.get(node, "/status").await.expect("the node answers").body;
                let usable =
                    status["workers"]["online"].as_u64().unwrap_or(0) + status["workers"]["busy"].as_u64().unwrap_or(0);
                assert_eq!(usable, 2, "deaf: {deaf}: a worker is in doubt on node {node}: {status}");
                assert_eq!(status["leader_id"], json!(cluster.nodes[leader].id), "deaf: {deaf}: {status}");
                assert_eq!(status["term"], json!(before), "deaf: {deaf}: {status}");
            }
            let ticket = cluster.client.submit(third, &cluster.client.mark(0.1)).await;
            cluster.client.ended(leader, &ticket.id, secs(20)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.mend();
        let ticket = cluster.client.submit(leader, &cluster.client.mark(0.1)).await;
        cluster.client.in_state(sick, &ticket.id, "completed", secs(20)).await;
        assert_eq!(term(&cluster, leader).await, before, "deaf: {deaf}: an election when it was mended");
    }
    cluster.finish().await;
}

/// openraft 0.10 alpha.2: a pre-vote or a higher vote stored as granted lets a stale candidate win.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_candidate_never_wins() {
    let mut cluster = Cluster::start_with_links(3, 1).await;
    for round in 0..4 {
        let (leader, stale) = (cluster.leader().await, cluster.follower().await);
        let third = 3 - leader - stale;
        cluster.cut(Node(stale), Node(leader));
        cluster.cut(Node(stale), Node(third));
        let start = clock::instant();
        let mut acknowledged = 0;
        // It stands for election over and over, alone, and misses all of this.
        while start.elapsed() < secs(3) {
            acknowledged = cluster.client.submit(leader, &cluster.client.mark(0.05)).await.submitted_index;
        }
        // The only one that has it all is left with the stale one.
        cluster.kill(leader);
        cluster.mend();
        let elected = cluster.leader().await;
        assert_eq!(elected, third, "round {round}");
        // It leads before it has applied what it has.
        until(secs(10), "the elected one has what was acknowledged", async || {
            let status = cluster.client.get(elected, "/status").await?.body;
            (status["applied_index"].as_u64() >= Some(acknowledged)).then_some(())
        })
        .await;
        cluster.restart(leader).await;
    }
    cluster.finish().await;
}

/// hashicorp/raft #472, #522: no leader ever again because one node cannot read its snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_snapshot_is_damaged_does_not_cost_the_cluster_its_leader() {
    let settings = [("CIRO__CLUSTER__SNAPSHOT_EVERY_ENTRIES", "100"), ("CIRO__CLUSTER__KEEP_ENTRIES", "10")];
    let mut cluster = Cluster::start_with(3, 1, &settings).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    for turn in 0..150 {
        post(&cluster, leader, &format!("filler-{turn}"), json!({"type": "filler", "payload": ""})).await;
    }
    let snapshots = until(secs(20), "the node has a snapshot", async || {
        let found = snapshots(&cluster.nodes[follower].dir);
        (!found.is_empty()).then_some(found)
    })
    .await;
    cluster.kill(follower);
    for path in snapshots {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&path, bytes).unwrap();
    }
    // It may refuse to start, and it may not take the others with it.
    cluster.launch(follower);
    let start = clock::instant();
    while start.elapsed() < secs(6) {
        let ticket = cluster.client.submit(leader, &cluster.client.mark(0.05)).await;
        cluster.client.ended(leader, &ticket.id, secs(20)).await;
    }
    // The third leads on with whoever is left, or waits for the old leader; either way there is one again.
    cluster.kill(leader);
    cluster.launch(leader);
    let ticket = cluster.client.submit(leader, &cluster.client.mark(0.05)).await;
    cluster.client.ended(leader, &ticket.id, secs(30)).await;
    let refused = cluster.forgive(follower);
    println!("the node with the damaged snapshot {}", if refused { "refused to start" } else { "came back" });
    cluster.nodes[follower].absent = refused;
    cluster.finish().await;
}

fn snapshots(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "snapshot") {
                found.push(path);
            }
        }
    }
    found
}
