//! Bad disks and full ones: what a node with one refuses, and what the others do meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::{secs, until};

fn log_of(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.nodes[node].dir.join("data/store/db/db")
}

/// Zeroes the last page of the log that says something: what was written last, and acknowledged.
fn spoil_the_end(log: &Path) {
    let mut bytes = fs::read(log).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[end.saturating_sub(4096)..end].fill(0);
    fs::write(log, bytes).unwrap();
}

/// Starts `node`, which must end by itself; returns its exit code and what it said.
async fn refused(cluster: &mut Cluster, node: usize) -> (Option<i32>, String) {
    let before = cluster.log(node).len();
    cluster.launch(node);
    let process = cluster.nodes[node].process.take().unwrap();
    let status = process.wait(secs(30)).await;
    (status.code(), cluster.log(node).split_off(before))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_a_bad_disk_refuses_to_start_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, 1).await;
    let follower = cluster.follower().await;
    for _ in 0..4 {
        let mark = cluster.client.mark(0.0);
        let ticket = cluster.client.submit(follower, &mark).await;
        cluster.client.ended(follower, &ticket.id, secs(60)).await;
    }
    cluster.kill(follower);
    let log = log_of(&cluster, follower);
    let whole = fs::read(&log).unwrap();

    spoil_the_end(&log);
    for _ in 0..2 {
        let (code, said) = refused(&mut cluster, follower).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("store") && said.contains("its end is lost"), "{said}");
        assert!(
            said.contains("cluster remove") && said.contains("cluster invite") && said.contains("--join"),
            "{said}"
        );
    }
    let leader = cluster.leader().await;
    let ticket = cluster.client.submit(leader, &cluster.client.mark(0.0)).await;
    cluster.client.ended(leader, &ticket.id, secs(60)).await;

    let data = cluster.nodes[follower].dir.join("data");
    let key = fs::read(data.join("node.key")).unwrap();
    fs::remove_file(data.join("node.key")).unwrap();
    let (code, said) = refused(&mut cluster, follower).await;
    assert!(code == Some(1) && said.contains("node.key is missing") && said.contains("put the key back"), "{said}");
    assert!(!data.join("node.key").exists(), "no new identity beside the data of the old one");
    fs::write(data.join("node.key"), key).unwrap();
    run_private(&data.join("node.key"));

    // The very bytes it had may come back, the disk was not at fault.
    fs::write(&log, whole).unwrap();
    cluster.restart(follower).await;
    cluster.finish().await;
}

fn run_private(key: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
}

async fn storage_health(cluster: &Cluster, node: usize) -> Value {
    let answer = cluster.client.get(node, "/health").await.expect("the node answers");
    answer.body["components"]["storage"]["status"].clone()
}

/// Waits until a submission through `node` is answered with `status`.
async fn answered(cluster: &Cluster, node: usize, status: u16) -> crate::client::Answer {
    until(secs(20), &format!("a submission through node {node} is answered with {status}"), async || {
        let answer = cluster.client.try_submit(node, &cluster.client.mark(0.0)).await?;
        (answer.status == status).then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_jobs_answers_reads_and_recovers_without_a_restart() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let before = cluster.client.submit(follower, &cluster.client.mark(0.0)).await;
    cluster.client.ended(follower, &before.id, secs(60)).await;

    let little = Some(100 << 20);
    cluster.nodes[follower].machine.free_space(little);
    assert_eq!(answered(&cluster, follower, 503).await.code(), "storage_full");
    assert_eq!(storage_health(&cluster, follower).await, "unhealthy");
    let job = cluster.client.get(follower, &format!("/jobs/{}", before.id)).await.expect("the node answers");
    assert_eq!((job.status, &job.body["state"]), (200, &"completed".into()), "reads go on");
    let elsewhere = cluster.client.submit(leader, &cluster.client.mark(0.0)).await;
    cluster.client.ended(follower, &elsewhere.id, secs(60)).await;

    cluster.nodes[leader].machine.free_space(little);
    cluster.nodes[follower].machine.free_space(None);
    assert_eq!(answered(&cluster, follower, 503).await.code(), "storage_full", "the leader has no room");
    cluster.nodes[leader].machine.free_space(None);
    let after = cluster.client.submit(follower, &cluster.client.mark(0.0)).await;
    cluster.client.ended(follower, &after.id, secs(60)).await;
    assert_eq!(storage_health(&cluster, leader).await, "healthy");

    // A node that starts on a full disk gives its reserve up, says so, and serves reads.
    cluster.kill(follower);
    cluster.nodes[follower].machine.free_space(Some(0));
    cluster.restart(follower).await;
    assert!(cluster.log(follower).contains("disk full, released the ballast"));
    assert_eq!(answered(&cluster, follower, 503).await.code(), "storage_full");
    let job = cluster.client.get(follower, &format!("/jobs/{}", after.id)).await.expect("the node answers");
    assert_eq!((job.status, &job.body["state"]), (200, &"completed".into()), "reads go on");
    cluster.nodes[follower].machine.free_space(None);
    cluster.finish().await;
}
