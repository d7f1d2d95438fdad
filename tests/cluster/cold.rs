//! Finished jobs on disk: read as before on every node, kept through kills, removed where retention says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{secs, until};

/// What is said of any job, and of one that completed.
const ANY: &[&str] = &["", "/status", "/events", "/explain"];
const COMPLETED: &[&str] = &["", "/status", "/result", "/events", "/explain", "/receipt"];

/// Finished jobs that stay in memory, as few as may be, and those that leave it together.
const HOT: usize = 16;
const SEGMENT: usize = 256;

/// The first segment is sealed at this many.
const FULL: usize = HOT + SEGMENT;

/// Jobs that are submitted at once.
const WAVE: usize = 64;

const SETTINGS: &[(&str, &str)] = &[("CIRO__JOBS__HOT", "16"), ("CIRO__CLUSTER__SNAPSHOT_EVERY_ENTRIES", "100")];

fn body(n: usize) -> Value {
    json!({"type": "noop", "payload": "aGVsbG8=", "tags": [format!("n{}", n % 3)]})
}

/// Submits one job under its number, and waits until it has ended.
async fn run(cluster: &Cluster, node: usize, n: usize) -> String {
    let answer = until(secs(20), "a job is accepted", async || {
        let answer = cluster.client.post(node, "/jobs", &format!("cold-{n}"), &body(n)).await?;
        matches!(answer.status, 200 | 201).then_some(answer)
    })
    .await;
    let id = answer.body["id"].as_str().unwrap().to_owned();
    cluster.client.ended(node, &id, secs(30)).await;
    id
}

async fn run_many(cluster: &Cluster, from: usize, to: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for wave in (from..to).step_by(WAVE) {
        let jobs = (wave..to.min(wave + WAVE)).map(|n| run(cluster, n % 3, n));
        ids.extend(futures::future::join_all(jobs).await);
    }
    ids
}

/// Jobs that nobody runs, cancelled one by one: two entries of the log each.
async fn cancel_many(cluster: &Cluster, node: usize, from: usize, to: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in from..to {
        let body = json!({"type": "nobody", "payload": "aGVsbG8="});
        let answer = cluster.client.post(node, "/jobs", &format!("cold-{n}"), &body).await.expect("the node answers");
        assert_eq!(answer.status, 201, "{answer:?}");
        let id = answer.body["id"].as_str().unwrap().to_owned();
        let answer = cluster.client.delete(node, &format!("/jobs/{id}")).await.expect("the node answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        ids.push(id);
    }
    ids
}

/// What a node says of a job, without what tells of the moment or of the node.
async fn told(cluster: &Cluster, node: usize, id: &str, parts: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    for part in parts {
        let answer = cluster.client.get(node, &format!("/jobs/{id}{part}")).await.expect("the node answers");
        assert_eq!(answer.status, 200, "{part}: {answer:?}");
        let mut body = answer.body;
        for volatile in ["applied_index", "issuer", "ask_node", "queue_length"] {
            body.as_object_mut().unwrap().remove(volatile);
        }
        all.push(body);
    }
    all
}

async fn finished(cluster: &Cluster, node: usize) -> Value {
    cluster.client.get(node, "/status").await.expect("the node answers").body["finished_jobs"].take()
}

/// Waits until all but so many have left memory on every node, and every file is there.
async fn archived(cluster: &Cluster, least: usize) {
    for node in 0..3 {
        until(secs(30), &format!("{least} jobs are archived on node {node}"), async || {
            let told = finished(cluster, node).await;
            let on_disk = segments(cluster, node).len() as u64;
            (told["archived"].as_u64()? >= least as u64 && told["segments"] == on_disk).then_some(())
        })
        .await;
    }
}

fn segments(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    let dir = cluster.nodes[node].dir.join("data/store/files/archive");
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

async fn list(cluster: &Cluster, node: usize, query: &str) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/jobs?limit=17&{query}{cursor}");
        let page = cluster.client.get(node, &path).await.expect("the node answers");
        assert_eq!(page.status, 200, "{page:?}");
        let jobs = page.body["jobs"].as_array().unwrap();
        ids.extend(jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let Some(next) = page.body["next_cursor"].as_str() else { return ids };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_left_memory_are_read_as_before_on_every_node() {
    let mut cluster = Cluster::start_with(3, 0, SETTINGS).await;
    cluster.add_idler();
    cluster.workers_online(1).await;
    let leader = cluster.leader().await;
    let mut ids = run_many(&cluster, 0, 4).await;
    let probe = ids[0].clone();
    let before = told(&cluster, leader, &probe, COMPLETED).await;
    let output = cluster.client.output(leader, &probe, None).await.expect("the node answers");
    ids.extend(run_many(&cluster, 4, FULL + 20).await);
    archived(&cluster, SEGMENT).await;
    let all: BTreeSet<String> = ids.iter().cloned().collect();
    for node in 0..3 {
        assert_eq!(told(&cluster, node, &probe, COMPLETED).await, before, "on node {node}");
        assert_eq!(cluster.client.output(node, &probe, None).await.expect("the node answers"), output);
        for query in ["state=all", "state=completed"] {
            let listed = list(&cluster, node, query).await;
            assert!(listed.is_sorted() && listed.len() == all.len(), "{} of {}", listed.len(), all.len());
            assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), all, "node {node}, {query}");
        }
        assert_eq!(list(&cluster, node, "state=failed").await, Vec::<String>::new());
        let tagged = list(&cluster, node, "state=all&tag=n1").await.len();
        assert_eq!(tagged, (0..FULL + 20).filter(|n| n % 3 == 1).count());
        let again = cluster.client.post(node, "/jobs", "cold-0", &body(0)).await.unwrap();
        assert_eq!((again.status, again.body["id"].as_str()), (200, Some(&*probe)), "a retry is the same job");
        let cancel = cluster.client.delete(node, &format!("/jobs/{probe}")).await.unwrap();
        assert_eq!((cancel.status, cancel.code()), (409, "already_finished"));
        let status = cluster.client.get(node, "/status").await.unwrap().body;
        assert_eq!(status["jobs"]["completed"], FULL as u64 + 20, "{status}");
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_no_finished_job_and_a_damaged_segment_comes_back() {
    let mut cluster = Cluster::start_with(3, 0, SETTINGS).await;
    cluster.add_idler();
    cluster.workers_online(1).await;
    // The second of three times twenty more makes a segment.
    let begun = FULL - 30;
    let mut ids = run_many(&cluster, 0, begun).await;
    // One leader after the other dies when jobs have just ended: what it sealed may be written, in part or not at all.
    for round in 0..3 {
        let victim = cluster.leader().await;
        let from = begun + round * 20;
        let jobs = async {
            let jobs = (from..from + 20).map(|n| run(&cluster, (victim + 1) % 3, n));
            futures::future::join_all(jobs).await
        };
        ids.extend(jobs.await);
        cluster.kill(victim);
        cluster.restart(victim).await;
        cluster.workers_online(1).await;
    }
    archived(&cluster, SEGMENT).await;
    for node in 0..3 {
        assert_eq!(list(&cluster, node, "state=all").await.len(), ids.len(), "node {node}");
    }
    let victim = cluster.follower().await;
    cluster.kill(victim);
    let file = segments(&cluster, victim).remove(0);
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad.truncate(good.len() - 7);
    fs::write(&file, bad).unwrap();
    cluster.restart(victim).await;
    until(secs(20), "the damaged segment is there again", async || (fs::read(&file).ok()? == good).then_some(())).await;
    for id in &ids {
        let answer = cluster.client.get(victim, &format!("/jobs/{id}")).await.expect("the node answers");
        assert_eq!(answer.body["state"], "completed", "{answer:?}");
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_gets_the_segments_with_the_snapshot() {
    let mut settings = SETTINGS.to_vec();
    settings.push(("CIRO__CLUSTER__KEEP_ENTRIES", "10"));
    let mut cluster = Cluster::start_with(3, 0, &settings).await;
    let away = cluster.follower().await;
    cluster.kill(away);
    let node = cluster.leader().await;
    let ids = cancel_many(&cluster, node, 0, FULL + 20).await;
    until(secs(20), "the log is purged", async || {
        let told = cluster.client.get(node, "/cluster").await?.body;
        (told["purged_index"].as_u64()? > 100).then_some(())
    })
    .await;
    cluster.restart(away).await;
    archived(&cluster, SEGMENT).await;
    assert!(cluster.log(away).contains("snapshot installed"));
    let name = |path: &PathBuf| path.file_name().unwrap().to_owned();
    let files = |cluster: &Cluster, node| -> Vec<_> {
        segments(cluster, node).iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
    };
    assert_eq!(files(&cluster, away), files(&cluster, node), "segments are the same everywhere");
    for id in &ids {
        assert_eq!(told(&cluster, away, id, ANY).await, told(&cluster, node, id, ANY).await);
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_removes_jobs_everywhere_and_their_keys_stay() {
    let mut settings = SETTINGS.to_vec();
    settings.push(("CIRO__JOBS__RETENTION_COUNT", "90"));
    let mut cluster = Cluster::start_with(3, 0, &settings).await;
    cluster.add_idler();
    cluster.workers_online(1).await;
    let ids = run_many(&cluster, 0, FULL + 100).await;
    for node in 0..3 {
        until(secs(30), "no more is kept than is to be", async || {
            let told = finished(&cluster, node).await;
            let kept = told["in_memory"].as_u64()? + told["archived"].as_u64()?;
            ((90..90 + SEGMENT as u64).contains(&kept)).then_some(())
        })
        .await;
        let listed = list(&cluster, node, "state=all").await;
        assert!((90..90 + SEGMENT).contains(&listed.len()), "{} jobs on node {node}", listed.len());
        let kept: BTreeSet<_> = listed.into_iter().collect();
        let gone = ids.iter().position(|id| !kept.contains(id)).expect("some are gone");
        let answer = cluster.client.get(node, &format!("/jobs/{}", ids[gone])).await.unwrap();
        assert_eq!((answer.status, answer.code()), (404, "unknown_job"));
        let again = cluster.client.post(node, "/jobs", &format!("cold-{gone}"), &body(gone)).await.unwrap();
        assert_eq!((again.status, again.code()), (410, "job_forgotten"), "a retry is not a second job");
    }
    cancel_many(&cluster, 0, FULL + 100, FULL + 220).await;
    until(secs(30), "files of removed segments are gone", async || {
        let first =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("0000000001-"));
        let gone = (0..3).all(|node| !segments(&cluster, node).iter().any(first));
        gone.then_some(())
    })
    .await;
    cluster.finish().await;
}
