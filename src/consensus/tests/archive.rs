//! Finished jobs on the disks of a cluster: the same everywhere, and got back where they are lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};

use crate::consensus::Options;
use crate::consensus::codec::{Blob, Encoded, Proposal, encode, record};
use crate::consensus::snapshot::{Directory, File};
use crate::consensus::state_machine::Machine;
use crate::consensus::tests::cluster::{Cluster, LIMIT, job, options, submission_of, wait_until};
use crate::consensus::types::{Entry, LogId, LogTerm};
use crate::domain::archive::{Retain, Segment};
use crate::domain::{Command, Digest, NodeId, PeerId, Timestamp, level};
use crate::storage::OpenOptions;
use crate::tasks::Tasks;

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
    few_on(3, snapshot_every).await
}

async fn few_on(nodes: u8, snapshot_every: u64) -> Cluster {
    let options = Options { snapshot_every, keep_entries: 5, ..options() };
    let cluster = Cluster::with(nodes, options).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_though_the_log_seals_more_than_may_wait() {
    let mut cluster = few_on(1, 100_000).await;
    end_jobs(&cluster, 0, 370).await;
    assert!(same_segments(&cluster).await >= 70);
    let id = cluster.ids[0];
    cluster.kill(id).await;
    tokio::time::timeout(LIMIT, cluster.start(id)).await.expect("the start hangs").unwrap();
    same_segments(&cluster).await;
    assert!(reads(&cluster, id, 370));
    wait_until("its use of the disk is known", || cluster.client(id).storage().used_bytes > 0).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_lost_everywhere_does_not_keep_a_follower_away() {
    let mut cluster = few_in_memory(50).await;
    let (leader, _) = cluster.leader().await;
    let late = cluster.follower().await;
    cluster.kill(late).await;
    end_jobs(&cluster, 0, 200).await;
    wait_until("the log is purged", || cluster.client(leader).status().purged > 100).await;
    same_segments(&cluster).await;
    let whole = contents(&cluster, leader);
    // One copy is gone, the other is not what was written, and nobody has noticed.
    let other = cluster.running().into_iter().find(|id| *id != leader).unwrap();
    fs::remove_file(&files(&cluster, other)[1]).unwrap();
    let mut bytes = whole[1].1.clone();
    bytes[60] ^= 1;
    fs::write(&files(&cluster, leader)[1], &bytes).unwrap();
    cluster.start(late).await.unwrap();
    cluster.converge().await;
    assert!(cluster.client(late).status().snapshot > 0);
    let missing = || cluster.ids.iter().map(|id| cluster.client(*id).archive().missing).collect::<Vec<_>>();
    wait_until("everyone knows that it is missing", || missing() == [1, 1, 1]).await;
    // It is found again on one of them, and with that on all.
    cluster.kill(other).await;
    fs::write(cluster.dir(other).join("files/archive").join(&whole[1].0), &whole[1].1).unwrap();
    cluster.start(other).await.unwrap();
    wait_until("everyone has it", || cluster.ids.iter().all(|id| contents(&cluster, *id) == whole)).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_the_disk_has_no_room_for_are_not_fetched() {
    let cluster = Cluster::new(3).await;
    let client = cluster.client(cluster.follower().await);
    let (leader, _) = cluster.leader().await;
    let segment = |number| {
        let (sha256, first) = (Digest::of(b"nowhere"), Timestamp(1));
        Arc::new(Segment { number, sha256, bytes: 500, jobs: [1, 0, 0], first, last: first })
    };
    let complete = |room| client.core.receiver.complete(&client.core, leader, vec![segment(1), segment(2)], room);
    assert!(complete(999).await.unwrap_err().to_string().contains("no room"));
    complete(1_000).await.unwrap();
    cluster.shutdown().await;
}

/// A state machine without the tasks that write for it.
fn machine(dir: &Path, tasks: &Tasks) -> (Directory, Machine) {
    let store = OpenOptions::new().ballast_bytes(0).open(dir, PeerId([1; 32])).unwrap();
    let directory = Directory::open(&dir.join("snapshots")).unwrap();
    let machine = Machine::open(directory.clone(), &store, level::NEWEST, Default::default(), tasks).unwrap();
    (directory, machine)
}

fn apply(machine: &mut Machine, index: u64, commands: &[Command]) {
    let part = |command| Encoded { count: 1, bytes: Blob(encode(command).unwrap().into()) };
    let parts: Vec<Encoded> = commands.iter().map(part).collect();
    let record = record(level::FIRST, Timestamp(index), parts.iter()).unwrap();
    let payload = EntryPayload::Normal(Proposal(Blob(record)));
    machine.apply_one(Entry { log_id: LogId::new(LogTerm::new(1), index), payload }).unwrap();
}

fn run(machine: &mut Machine, to: u64) {
    let from = machine.last().map_or(1, |id| id.index + 1);
    for n in from..=to {
        let hold = Command::Retain(Retain::Hold { hot: 2, batch: 2 });
        let cancel = Command::Cancel { job: job(n), reason: String::new() };
        apply(machine, n, &[hold, submission_of(n, 50), cancel]);
    }
}

#[tokio::test]
async fn what_is_sealed_is_on_disk_before_a_snapshot_takes_its_place() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let (_, mut ahead) = machine(&dir.path().join("ahead"), &tasks);
    let (directory, mut behind) = machine(&dir.path().join("behind"), &tasks);
    run(&mut ahead, 20);
    run(&mut behind, 10);
    assert_eq!(behind.archive().view().waiting, 4);
    let snapshot = ahead.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let received = File::received(directory.part("received"));
    fs::copy(&snapshot.snapshot.path, &received.path).unwrap();
    behind.install_snapshot(&snapshot.meta, received).await.unwrap();
    assert_eq!((behind.archive().view().waiting, behind.archive().view().missing), (0, 5));
    let written = fs::read_dir(dir.path().join("behind/files/archive")).unwrap().count();
    assert_eq!(written, 4, "what the log had sealed here");
}
