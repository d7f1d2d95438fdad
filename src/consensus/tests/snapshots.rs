//! Snapshots: taken, purged behind, installed by a follower that fell behind.

use openraft::RaftLogReader as _;

use crate::consensus::Options;
use crate::consensus::tests::cluster::{Cluster, LIMIT, has, options, submission, submission_of, wait_until};
use crate::domain::NodeId;

fn snapshot_files(cluster: &Cluster, id: NodeId) -> Vec<String> {
    let dir = cluster.dir(id).join("files/snapshots");
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_the_log_installs_a_snapshot() {
    let mut cluster = Cluster::with(3, Options { snapshot_every: 50, keep_entries: 10, ..options() }).await;
    let (leader, _) = cluster.leader().await;
    let late = cluster.follower().await;
    cluster.kill(late).await;

    let client = cluster.client(leader);
    for n in 0..300 {
        client.submit(submission_of(n, 2_000), LIMIT).await.unwrap().1.unwrap();
    }
    wait_until("the log is purged", || client.status().purged > 200).await;
    wait_until("only the newest snapshots are kept", || {
        let files = snapshot_files(&cluster, leader);
        files.len() <= 2 && files.iter().all(|name| name.ends_with(".snapshot"))
    })
    .await;

    cluster.start(late).await.unwrap();
    cluster.converge().await;
    let status = cluster.client(late).status();
    assert!(status.snapshot > 0 && status.purged > 0, "{status:?}");
    assert!(cluster.client(late).read(|state| (0..300).all(|n| has(state, n))));
    assert!(snapshot_files(&cluster, late).iter().all(|name| name.ends_with(".snapshot")));

    // And it starts again from what it installed.
    cluster.kill(late).await;
    cluster.start(late).await.unwrap();
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_trigger_a_snapshot_too() {
    let cluster = Cluster::with(1, Options { snapshot_every_bytes: 1 << 20, ..options() }).await;
    let client = cluster.client(cluster.ids[0]);
    for n in 0..8 {
        client.submit(submission_of(n, 200 << 10), LIMIT).await.unwrap().1.unwrap();
    }
    wait_until("a snapshot", || client.status().snapshot > 0).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_newest_snapshot_is_passed_over_while_the_log_reaches_back() {
    let mut cluster = Cluster::with(1, Options { snapshot_every: 20, keep_entries: 10_000, ..options() }).await;
    let id = cluster.ids[0];
    for n in 0..100 {
        cluster.client(id).submit(submission(n), LIMIT).await.unwrap().1.unwrap();
    }
    wait_until("two snapshots", || snapshot_files(&cluster, id).len() == 2).await;
    let hash = cluster.client(id).read(|state| (state.applied(), state.hash()));
    cluster.kill(id).await;

    let mut files = snapshot_files(&cluster, id);
    files.sort();
    let newest = cluster.dir(id).join("files/snapshots").join(files.pop().unwrap());
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();

    cluster.start(id).await.unwrap();
    let client = cluster.client(id);
    client.linearize(LIMIT).await.unwrap();
    assert!(client.read(|state| (0..100).all(|n| has(state, n)) && state.applied() >= hash.0));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_entries_are_not_kept_behind_a_snapshot() {
    let cluster = Cluster::with(1, Options { snapshot_every_bytes: 1 << 20, ..options() }).await;
    let client = cluster.client(cluster.ids[0]);
    for n in 0..40 {
        client.submit(submission_of(n, 200 << 10), LIMIT).await.unwrap().1.unwrap();
    }
    let log = client.core.log.clone();
    wait_until("a short log", || client.status().purged > 0 && log.stored_bytes() < 5 << 20).await;

    // Who asks for what is gone gets nothing in its place.
    let purged = client.status().purged;
    let mut reader = log.clone();
    reader.limited_get_log_entries(purged, purged + 2).await.unwrap_err();
    let (index, _) = client.submit(submission(99), LIMIT).await.unwrap();
    let entries = reader.limited_get_log_entries(index, index + 1).await.unwrap();
    assert_eq!(entries[0].log_id.index, index);
    cluster.shutdown().await;
}
