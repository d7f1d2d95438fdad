//! Snapshot files that are damaged, or not for this build.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use openraft::async_runtime::WatchReceiver;
use openraft::impls::leader_id_std::LeaderId;
use openraft::storage::RaftStateMachine as _;
use openraft::vote::RaftLeaderId;
use sha2::{Digest as _, Sha256};

use crate::consensus::Error;
use crate::consensus::codec::Blob;
use crate::consensus::frames::{SnapshotBegin, SnapshotChunk, SnapshotEnd};
use crate::consensus::snapshot::Directory;
use crate::consensus::state_machine::Machine;
use crate::consensus::tests::cluster::{Cluster, LIMIT, submission};
use crate::consensus::types::{LogId, SnapshotMeta};
use crate::domain::{PeerId, State};
use crate::storage::OpenOptions;
use crate::storage::tests::durability::SmallDisk;
use crate::tasks::Tasks;

const HASH: usize = 32;

fn meta(index: u64) -> SnapshotMeta {
    let last = LogId::new(LeaderId::new(1, PeerId([1; 32])).to_committed(), index);
    SnapshotMeta { last_log_id: Some(last), last_membership: Default::default() }
}

/// As another build would have written it: whole, but of a format of the future.
fn make_foreign(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.len() - HASH);
    let head = 12 + u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
    bytes[head + 8..head + 12].copy_from_slice(&77u32.to_be_bytes());
    let hash = Sha256::digest(&bytes);
    bytes.extend(hash);
    fs::write(path, bytes).unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_snapshot_of_another_build_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    for index in [10, 20] {
        let path = directory.write(&meta(index), &State::default()).unwrap().path.clone();
        make_foreign(&path);
    }
    let before = files(dir.path());
    let error = directory.load_newest().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("format 77"), "{error}");
    drop(Directory::open(dir.path()).unwrap());
    assert_eq!(files(dir.path()), before);
}

#[test]
fn damaged_snapshots_are_set_aside_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    for index in [10, 20] {
        let path = directory.write(&meta(index), &State::default()).unwrap().path.clone();
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert!(directory.load_newest().unwrap().is_none());
    drop(Directory::open(dir.path()).unwrap());
    let kept = files(dir.path());
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.iter().all(|path| path.extension().unwrap() == "damaged"), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_refuses_a_snapshot_it_can_not_read_and_goes_on() {
    let cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.converge().await;
    let client = cluster.client(follower);
    let too_long = SnapshotBegin { transfer: 1, meta: meta(900), length: 1_001 };
    client.core.receiver.begin(leader, too_long, 1_000).await.unwrap_err();
    let vote = cluster.client(leader).core.raft.metrics().borrow_watched().vote;

    let dir = tempfile::tempdir().unwrap();
    let written = Directory::open(dir.path()).unwrap().write(&meta(900), &State::default()).unwrap();
    let other_meta = fs::read(&written.path).unwrap();
    make_foreign(&written.path);
    let other_format = fs::read(&written.path).unwrap();
    for (meta, bytes) in [(meta(900), other_format), (meta(901), other_meta), (meta(900), b"nonsense".repeat(100))] {
        let receiver = &client.core.receiver;
        let (transfer, length) = (rand::random(), bytes.len() as u64);
        receiver.begin(leader, SnapshotBegin { transfer, meta, length }, length).await.unwrap();
        let sha256 = Sha256::digest(&bytes).into();
        receiver.chunk(leader, SnapshotChunk { transfer, offset: 0, bytes: Blob(bytes.into()) }).await.unwrap();
        let refused = receiver.end(&client.core, leader, SnapshotEnd { transfer, vote, sha256 }).await;
        assert!(matches!(refused, Err(Error::Setup(_))), "{refused:?}");
        client.submit(submission(length), LIMIT).await.unwrap().1.unwrap();
    }
    assert!(client.core.failure.borrow().is_none());
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_broke_off_goes_on_where_it_stopped_whoever_sends() {
    let cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let follower = cluster.follower().await;
    let other = cluster.ids.iter().copied().find(|id| *id != leader && *id != follower).unwrap();
    let client = cluster.client(follower);
    let vote = cluster.client(leader).core.raft.metrics().borrow_watched().vote;
    let receiver = &client.core.receiver;
    let bytes: Vec<u8> = (0..1_000u32).map(|n| (n % 251) as u8).collect();
    let begin = |transfer, index| SnapshotBegin { transfer, meta: meta(index), length: 1_000 };
    let chunk = |transfer, from: usize, to: usize| {
        let bytes = Blob(bytes[from..to].to_vec().into());
        SnapshotChunk { transfer, offset: from as u64, bytes }
    };
    assert_eq!(receiver.begin(leader, begin(1, 900), 1_000).await.unwrap(), 0);
    receiver.chunk(leader, chunk(1, 0, 400)).await.unwrap();
    receiver.chunk(leader, chunk(1, 500, 600)).await.unwrap_err();
    // Another leader has the same snapshot; the first one's frames come too late.
    assert_eq!(receiver.begin(other, begin(2, 900), 0).await.unwrap(), 400);
    receiver.chunk(leader, chunk(1, 400, 500)).await.unwrap_err();
    receiver.chunk(other, chunk(2, 400, 1_000)).await.unwrap();
    // Only the checksum of all of it says that it is the same. If it is not, it is wanted again from the beginning.
    let end = SnapshotEnd { transfer: 2, vote, sha256: [0; 32] };
    receiver.end(&client.core, other, end).await.unwrap_err();
    assert_eq!(receiver.begin(other, begin(3, 900), 1_000).await.unwrap(), 0);
    receiver.chunk(other, chunk(3, 0, 400)).await.unwrap();
    assert_eq!(receiver.begin(other, begin(4, 901), 1_000).await.unwrap(), 0, "another snapshot begins anew");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_is_put_off_while_the_disk_has_no_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (tasks, dir) = (Tasks::new(), disk.path().join("store"));
    let store = OpenOptions::new().ballast_bytes(0).open(&dir, PeerId([1; 32])).unwrap();
    let directory = Directory::open(&dir.join("snapshots")).unwrap();
    let mut machine =
        Machine::open(directory, &store, crate::domain::level::NEWEST, Default::default(), &tasks).unwrap();
    assert!(machine.try_create_snapshot_builder(false).await.is_none());
    assert!(machine.try_create_snapshot_builder(true).await.is_some(), "Raft has to have this one");
}
