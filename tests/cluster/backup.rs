//! The whole state leaves the cluster as a file, and comes back as another cluster.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{secs, until};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_becomes_another_cluster_with_every_job() {
    let mut cluster = Cluster::start(3, 2).await;
    let follower = cluster.follower().await;
    let mut tickets = Vec::new();
    for turn in 0..30 {
        tickets
            .push(cluster.client.submit(turn % 3, &cluster.client.mark(if turn % 3 == 0 { 0.1 } else { 2.0 })).await);
    }
    // Load that nobody was promised: a type that no worker runs.
    let client = cluster.client.clone();
    let load = cluster.tasks.spawn("load", async move {
        for number in 0..200 {
            let body = json!({"type": "void", "payload": "eA=="});
            client.post(number % 3, "/jobs", &format!("void-{number}"), &body).await;
        }
    });
    let file = cluster.file("a.ciro-backup", b"in its place");
    let told: Value = serde_json::from_str(&cluster.cli(follower, &["cluster", "backup", &file, "--json"])).unwrap();
    load.await.unwrap();
    assert_eq!(told["members"].as_array().unwrap().len(), 3, "{told}");
    let (inspected, code) = cluster.offline(&["cluster", "inspect", &file, "--json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&inspected).unwrap()), (Some(0), told.clone()));
    damaged_files_are_refused(&cluster, &file);

    // The old cluster goes on for a moment: what it does now is lost.
    let lost = cluster.client.post(0, "/jobs", "lost", &json!({"type": "void", "payload": "eQ=="})).await.unwrap();
    assert_eq!(lost.status, 201);
    let running = cluster.beside(0, &["cluster", "restore", &file]);
    assert_eq!(running.0, Some(4), "a directory in use is not restored into: {running:?}");
    for node in 0..3 {
        cluster.kill(node);
    }
    for worker in 0..2 {
        cluster.kill_worker(worker);
    }

    cluster.replace_nodes();
    let mut beginnings = Vec::new();
    for node in 0..3 {
        let (code, said, why) = cluster.beside(node, &["cluster", "restore", &file, "--json"]);
        assert_eq!(code, Some(0), "{why}");
        let mut told: Value = serde_json::from_str(&said).unwrap();
        told["node_id"] = Value::Null;
        told["data_dir"] = Value::Null;
        beginnings.push(told);
        let again = cluster.beside(node, &["cluster", "restore", &file]);
        assert_eq!(again.0, Some(4), "{again:?}");
    }
    assert!(beginnings.windows(2).all(|pair| pair[0] == pair[1]), "{beginnings:?}");
    assert_ne!(beginnings[0]["state_hash"], told["state_hash"], "it is another cluster");
    for node in 0..3 {
        cluster.launch(node);
    }
    cluster.all_ready().await;
    for worker in 0..2 {
        cluster.launch_worker(worker);
    }
    for ticket in &tickets {
        cluster.client.ended(0, &ticket.id, secs(90)).await;
    }
    let gone = cluster.client.get(1, &format!("/jobs/{}", lost.body["id"].as_str().unwrap())).await.unwrap();
    assert_eq!(gone.status, 404, "{gone:?}");
    let after = cluster.client.submit(1, &cluster.client.mark(0.1)).await;
    let job = cluster.client.ended(2, &after.id, secs(30)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "a new job begins with attempt 1");
    cluster.finish().await;
}

fn damaged_files_are_refused(cluster: &Cluster, file: &str) {
    let bytes = fs::read(file).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    let newer = {
        let mut newer = bytes.clone();
        newer[11] = 9;
        let end = newer.len() - 32;
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&newer[..end]);
        newer[end..].copy_from_slice(&digest);
        newer
    };
    let cases: [(&str, &[u8], i32); 4] = [
        ("flipped", &flipped, 7),
        ("cut", &bytes[..bytes.len() - 100], 7),
        ("foreign", b"PK\x03\x04 something else", 4),
        ("newer", &newer, 4),
    ];
    for (name, bytes, expected) in cases {
        let bad = cluster.file(name, bytes);
        let (said, code) = cluster.offline(&["cluster", "inspect", &bad]);
        assert_eq!((code, said.as_str()), (Some(expected), ""), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_backups_are_kept_by_number_and_their_failure_is_seen() {
    let backups = tempfile::tempdir().unwrap();
    let dir = backups.path().join("here");
    let text: &'static str = Box::leak(path(&dir).to_owned().into_boxed_str());
    let settings = [("CIRO__BACKUP__DIRECTORY", text), ("CIRO__BACKUP__EVERY_SECS", "1"), ("CIRO__BACKUP__KEEP", "2")];
    let cluster = Cluster::start_with(1, 1, &settings).await;
    let names = || -> Vec<String> {
        let Ok(entries) = fs::read_dir(&dir) else { return vec![] };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    };
    let first = until(secs(30), "two backups are there", async || Some(names()).filter(|names| names.len() == 2)).await;
    let ticket = cluster.client.submit(0, &cluster.client.mark(0.1)).await;
    cluster.client.ended(0, &ticket.id, secs(20)).await;
    let later = until(secs(30), "both are replaced", async || {
        Some(names()).filter(|names| names.len() == 2 && names.iter().all(|name| !first.contains(name)))
    })
    .await;
    let (_, code) = cluster.offline(&["cluster", "inspect", path(&dir.join(&later[0]))]);
    assert_eq!(code, Some(0));
    let component = async || Some(cluster.client.get(0, "/health").await?.body["components"]["backup"].clone());
    assert_eq!(component().await.unwrap()["status"], "healthy");

    // Somebody puts a file in its place.
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, b"in the way").unwrap();
    until(secs(30), "the failure is seen", async || (component().await?["status"] == "degraded").then_some(())).await;
    let metrics = cluster.client.get(0, "/metrics?format=json").await.unwrap().body;
    assert_eq!(metrics["metrics"]["ciro_backup_failing"]["samples"][0]["value"], 1.0, "{metrics}");
    let ticket = cluster.client.submit(0, &cluster.client.mark(0.1)).await;
    cluster.client.ended(0, &ticket.id, secs(20)).await;
    fs::remove_file(&dir).unwrap();
    until(secs(30), "it is well again", async || (component().await?["status"] == "healthy").then_some(())).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_goes_on_when_two_have_lost_everything() {
    let mut cluster = Cluster::start(3, 1).await;
    let mut tickets = Vec::new();
    for turn in 0..10 {
        tickets.push(cluster.client.submit(turn % 3, &cluster.client.mark(0.1)).await);
    }
    for ticket in &tickets {
        cluster.client.ended(0, &ticket.id, secs(30)).await;
    }
    let survivor = cluster.follower().await;
    for node in (0..3).filter(|node| *node != survivor) {
        cluster.kill(node);
        fs::remove_dir_all(cluster.nodes[node].dir.join("data")).unwrap();
    }
    let (code, _, why) = cluster.beside(survivor, &["cluster", "recover", "--yes"]);
    assert!(code == Some(4) && why.contains("in use by another process"), "it runs: {code:?} {why}");
    cluster.kill(survivor);
    let (code, _, why) = cluster.beside(survivor, &["cluster", "recover"]);
    assert!(code == Some(4) && why.contains("nothing was changed"), "nobody typed anything: {code:?} {why}");

    let (code, said, why) = cluster.beside(survivor, &["cluster", "recover", "--yes", "--json"]);
    assert_eq!(code, Some(0), "{why}");
    assert!(why.contains("10 jobs that were ever accepted") && why.contains("What may be lost"), "{why}");
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(told["removed"].as_array().unwrap().len(), 2, "{told}");

    cluster.restart(survivor).await;
    let view = cluster.client.get(survivor, "/cluster").await.unwrap().body;
    assert_eq!((view["role"].as_str(), view["voters"].as_array().unwrap().len()), (Some("leader"), 1), "{view}");
    for ticket in &tickets {
        let job = cluster.client.get(survivor, &format!("/jobs/{}", ticket.id)).await.unwrap().body;
        assert_eq!(job["state"], "completed", "{job}");
    }
    let mark = cluster.client.mark(0.1);
    let answer = cluster.client.try_submit(survivor, &mark).await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.body["id"].as_str().unwrap().to_owned();
    cluster.client.in_state(survivor, &id, "completed", secs(60)).await;

    // The wiped ones come back under new keys only; the old cluster has no data left to come back with.
    let again = cluster.beside(survivor, &["cluster", "recover", "--yes"]);
    assert_eq!(again.0, Some(4), "{again:?}");
}
