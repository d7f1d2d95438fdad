//! Finished jobs on the disks of a cluster: the same everywhere, and got back where they are lost.

use std::fs;
use std::path::PathBuf;

use crate::consensus::Options;
use crate::consensus::tests::cluster::{Cluster, LIMIT, job, options, submission_of, wait_until};
use crate::domain::archive::Retain;
use crate::domain::{Command, NodeId};

fn files(cluster: &Cluster, id: NodeId) -> Vec<PathBuf> {
    let dir = cluster.dir(id).join("files/archive");
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

fn contents(cluster: &Cluster, id: NodeId) -> Vec<(String, Vec<u8>)> {
    let read = |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap());
    files(cluster, id).into_iter().map(read).collect()
}

/// Twenty finished jobs stay in memory, five make a segment.
async fn few_in_memory(snapshot_every: u64) -> Cluster {
    let options = Options { snapshot_every, keep_entries: 5, ..options() };
    let cluster = Cluster::with(3, options).await;
    let (leader, _) = cluster.leader().await;
    let hold = Command::Retain(Retain::Hold { hot: 20, batch: 5 });
    cluster.client(leader).submit(hold, LIMIT).await.unwrap().1.unwrap();
    cluster
}

async fn end_jobs(cluster: &Cluster, from: u64, to: u64) {
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader);
    for n in from..to {
        let cancel = Command::Cancel { job: job(n), reason: "enough".to_owned() };
        client.submit_many(vec![submission_of(n, 500), cancel], LIMIT).await.unwrap();
    }
}

async fn same_segments(cluster: &Cluster) -> usize {
    cluster.converge().await;
    let ids = cluster.running();
    let sealed = cluster.client(ids[0]).read(|state| state.archive().segment_count());
    wait_until("every segment on every disk", || ids.iter().all(|id| files(cluster, *id).len() == sealed)).await;
    let first = contents(cluster, ids[0]);
    assert!(ids.iter().all(|id| contents(cluster, *id) == first), "segments differ");
    sealed
}

fn reads(cluster: &Cluster, id: NodeId, jobs: u64) -> bool {
    let client = cluster.client(id);
    (0..jobs).all(|n| {
        let hot = client.read(|state| state.job(job(n)).is_some());
        hot || client.archived(job(n)).is_ok_and(|found| found.is_some())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_the_same_on_every_node_and_survive_a_kill() {
    let mut cluster = few_in_memory(100_000).await;
    end_jobs(&cluster, 0, 60).await;
    assert!(same_segments(&cluster).await >= 8);
    // Without a snapshot all of it comes from the log again, also what was not written yet.
    let late = cluster.follower().await;
    cluster.kill(late).await;
    fs::remove_file(&files(&cluster, late)[0]).unwrap();
    cluster.start(late).await.unwrap();
    cluster.converge().await;
    same_segments(&cluster).await;
    assert!(cluster.ids.iter().all(|id| reads(&cluster, *id, 60)));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_the_log_gets_the_segments_with_the_snapshot() {
    let mut cluster = few_in_memory(50).await;
    let (leader, _) = cluster.leader().await;
    let late = cluster.follower().await;
    cluster.kill(late).await;
    end_jobs(&cluster, 0, 200).await;
    wait_until("the log is purged", || cluster.client(leader).status().purged > 100).await;
    cluster.start(late).await.unwrap();
    cluster.converge().await;
    assert!(cluster.client(late).status().snapshot > 0);
    same_segments(&cluster).await;
    assert!(reads(&cluster, late, 200));
    // And it starts again from that.
    cluster.kill(late).await;
    cluster.start(late).await.unwrap();
    cluster.converge().await;
    assert!(reads(&cluster, late, 200));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_not_served_and_comes_from_another_member() {
    let cluster = few_in_memory(100_000).await;
    end_jobs(&cluster, 0, 60).await;
    same_segments(&cluster).await;
    let id = cluster.follower().await;
    let whole = contents(&cluster, id);
    let path = files(&cluster, id)[2].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[60] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let client = cluster.client(id);
    let damaged: Vec<_> = (0..60).filter_map(|n| client.archived(job(n)).err()).collect();
    assert!(damaged.iter().all(|error| path.ends_with(&error.segment)), "{damaged:?}");
    assert!(!damaged.is_empty());
    wait_until("the segment is repaired", || contents(&cluster, id) == whole && reads(&cluster, id, 60)).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_segments_leave_every_disk() {
    let cluster = few_in_memory(20).await;
    let (leader, _) = cluster.leader().await;
    end_jobs(&cluster, 0, 60).await;
    same_segments(&cluster).await;
    let drop = Command::Retain(Retain::Drop { through: 6 });
    cluster.client(leader).submit(drop, LIMIT).await.unwrap().1.unwrap();
    cluster.converge().await;
    for id in &cluster.ids {
        assert!(cluster.client(*id).archived(job(0)).unwrap().is_none(), "it is gone with the command");
    }
    end_jobs(&cluster, 60, 140).await;
    let numbers =
        |id| files(&cluster, id).iter().all(|path| path.file_name().unwrap() > std::ffi::OsStr::new("0000000007"));
    wait_until("the files are gone everywhere", || cluster.ids.iter().all(|id| numbers(*id))).await;
    cluster.shutdown().await;
}
