//! An output too large for the log: it stays with its worker, and comes through every node.

use std::path::Path;

use ciro::domain::Digest;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{secs, until};

const MIB: u64 = 1 << 20;

/// The file in which a worker keeps an output.
fn kept(worker: &Path, sha256: &str) -> std::path::PathBuf {
    worker.join("data/outputs").join(sha256.trim_start_matches("0x"))
}

/// The result of a job that says so many mebibytes, done.
async fn large_result(cluster: &Cluster, node: usize, mebibytes: u64) -> (String, Value) {
    use base64::Engine as _;
    let payload = base64::engine::general_purpose::STANDARD.encode(format!("{mebibytes}\n"));
    let body = json!({"type": "large", "payload": payload});
    let made = cluster.client.post(node, "/jobs", &format!("large-{mebibytes}"), &body).await.expect("an answer");
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.body["id"].as_str().unwrap().to_owned();
    let job = cluster.client.ended(node, &id, secs(30)).await;
    assert_eq!(job["state"], "completed", "{job}");
    let result = cluster.client.get(node, &format!("/jobs/{id}/result?consistency=linearizable")).await.unwrap().body;
    assert!(result["output"].is_null(), "{result}");
    assert_eq!(result["output_ref"]["size"], mebibytes * MIB, "{result}");
    (id, result)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_output_is_fetched_through_every_node_also_after_its_worker_restarted() {
    let mut cluster = Cluster::start(3, 1).await;
    let (id, result) = large_result(&cluster, 0, 8).await;
    let sha256 = result["output_sha256"].as_str().unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let mut whole = Vec::new();
    for life in 0..2 {
        for node in 0..3 {
            let path = dir.path().join(format!("{life}-{node}"));
            cluster.cli(node, &["job", "result", &id, "--output", path.to_str().unwrap()]);
            whole = std::fs::read(&path).unwrap();
            assert_eq!((whole.len() as u64, Digest::of(&whole).to_string()), (8 * MIB, sha256.clone()));

            let (status, part) = cluster.client.output(node, &id, Some("bytes=5000000-5999999")).await.unwrap();
            assert_eq!((status, &part[..]), (206, &whole[5_000_000..6_000_000]), "through node {node}");
            let (status, end) = cluster.client.output(node, &id, Some("bytes=-1")).await.unwrap();
            assert_eq!((status, &end[..]), (206, &whole[whole.len() - 1..]));
            assert_eq!(cluster.client.output(node, &id, Some("bytes=8388608-")).await.unwrap().0, 416);
        }
        if life == 0 {
            cluster.kill_worker(0);
            until(secs(20), "nobody reaches the dead worker", async || {
                let answer = cluster.client.get(0, &format!("/jobs/{id}/output")).await?;
                (answer.status == 503 && answer.code() == "output_unreachable").then_some(())
            })
            .await;
            cluster.launch_worker(0);
            cluster.workers_online(1).await;
            until(secs(20), "the worker is connected to the nodes again", async || {
                (cluster.client.output(0, &id, Some("bytes=0-0")).await?.0 == 206).then_some(())
            })
            .await;
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6, "nothing but what was asked for");
    assert!(kept(&cluster.workers[0].dir, &sha256).exists());
    assert_eq!(whole.len() as u64, 8 * MIB);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_never_delivered_as_right() {
    let cluster = Cluster::start(3, 1).await;
    let (id, result) = large_result(&cluster, 1, 4).await;
    let path = kept(&cluster.workers[0].dir, result["output_sha256"].as_str().unwrap());
    let good = std::fs::read(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("output");

    // The disk spoils one byte in the middle.
    let mut bad = good.clone();
    bad[2_500_000] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    for node in 0..3 {
        assert!(cluster.client.output(node, &id, None).await.is_none(), "node {node} breaks off");
        let answer = cluster.client.output(node, &id, Some("bytes=2500000-2500000")).await.unwrap();
        assert_eq!(answer.0, 502, "node {node}");
        assert_eq!(cluster.client.output(node, &id, Some("bytes=0-9")).await.unwrap(), (206, good[..10].to_vec()));
    }
    let said = cluster.cli_fails(0, &["job", "result", &id, "--output", file.to_str().unwrap()]);
    assert!(said.contains("output") && !file.exists(), "{said}");

    // A worker that lies about its own disk: whole, and of other bytes.
    let blocks: Vec<u8> = bad.chunks(256 * 1024).flat_map(|block| Digest::of(block).0).collect();
    std::fs::write(path.with_extension("blocks"), blocks).unwrap();
    for node in 0..3 {
        assert!(cluster.client.output(node, &id, None).await.is_none(), "node {node} breaks off before the end");
    }
    let said = cluster.cli_fails(1, &["job", "result", &id, "--output", file.to_str().unwrap()]);
    assert!(!file.exists(), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of it");

    std::fs::write(&path, &good).unwrap();
    let blocks: Vec<u8> = good.chunks(256 * 1024).flat_map(|block| Digest::of(block).0).collect();
    std::fs::write(path.with_extension("blocks"), blocks).unwrap();
    assert_eq!(cluster.client.output(2, &id, None).await.unwrap(), (200, good));

    // Evicted.
    std::fs::remove_file(&path).unwrap();
    let mut cluster = cluster;
    cluster.kill_worker(0);
    cluster.launch_worker(0);
    until(secs(20), "the worker says that it is gone", async || {
        (cluster.client.get(0, &format!("/jobs/{id}/output")).await?.status == 410).then_some(())
    })
    .await;
    cluster.finish().await;
}
