//! Barriers: grouped, in order, asked of the kernel, and final when they fail.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::{Error, OpenOptions, Store};
use super::{OWNER, open, value};

/// A store whose syncs are counted and answered by `sync`.
fn open_with(dir: &std::path::Path, sync: impl FnMut() -> io::Result<()> + Send + 'static) -> Store {
    OpenOptions::new().ballast_bytes(0).syncer(Box::new(sync)).open(dir, OWNER).unwrap()
}

#[tokio::test]
async fn many_waiters_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (release, gate) = sync_channel::<()>(8);
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&syncs);
    let store = open_with(dir.path(), move || {
        counted.fetch_add(1, Ordering::SeqCst);
        gate.recv_timeout(Duration::from_secs(60)).map_err(io::Error::other)
    });

    let order = Arc::new(Mutex::new(Vec::new()));
    let submit = |n: u32| {
        let order = Arc::clone(&order);
        store.on_durable(move |result| {
            result.unwrap();
            order.lock().unwrap().push(n);
        });
    };
    submit(0);
    while syncs.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await; // until the thread is in its first sync
    }
    (1..1000).for_each(submit);
    assert!(order.lock().unwrap().is_empty(), "nobody is told before the sync is over");
    release.send(()).unwrap();
    release.send(()).unwrap();
    release.send(()).unwrap();
    store.barrier().await.unwrap();

    assert_eq!(*order.lock().unwrap(), (0..1000).collect::<Vec<_>>());
    let syncs = syncs.load(Ordering::SeqCst);
    assert!((2..=3).contains(&syncs), "{syncs} syncs for 1001 waiters");
    let stats = store.sync_stats();
    assert_eq!(stats.barriers, syncs);
    assert!(stats.p50_us <= stats.p99_us && stats.p99_us <= stats.max_us);
}

#[tokio::test]
async fn a_barrier_begun_during_a_sync_waits_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (release, gate): (_, Receiver<()>) = sync_channel(8);
    let (entered, inside): (Sender<()>, _) = std_channel();
    let store = open_with(dir.path(), move || {
        entered.send(()).map_err(io::Error::other)?;
        gate.recv_timeout(Duration::from_secs(60)).map_err(io::Error::other)
    });
    let done = Arc::new(AtomicU64::new(0));
    let count = || {
        let done = Arc::clone(&done);
        move |result: Result<(), Error>| {
            result.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        }
    };
    store.on_durable(count());
    inside.recv().unwrap();
    store.on_durable(count()); // its bytes may have missed the sync that runs
    release.send(()).unwrap();
    inside.recv().unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 1);
    release.send(()).unwrap();
    release.send(()).unwrap();
    store.barrier().await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 2);
}

#[expect(clippy::disallowed_methods, reason = "at most three messages")]
fn std_channel() -> (Sender<()>, Receiver<()>) {
    std::sync::mpsc::channel()
}

#[tokio::test]
async fn a_failed_sync_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let mut left = 2;
    let store = open_with(dir.path(), move || {
        left -= 1; // works once, fails once, would work again
        if left == 0 { Err(io::Error::other("bad sector")) } else { Ok(()) }
    });
    let tree = store.tree("t").unwrap();
    tree.put(b"k", b"v").unwrap();
    store.barrier().await.unwrap();
    let watched = store.clone();
    let failed = async move { watched.failed().await };

    let first = store.barrier().await.unwrap_err();
    let second = store.barrier().await.unwrap_err();
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    assert!(format!("{first:?}").contains("bad sector"));
    assert_eq!(format!("{first:?}"), format!("{:?}", failed.await));
    assert_eq!(format!("{first:?}"), format!("{:?}", tree.put(b"k", b"w").unwrap_err()), "writes are refused too");
    assert_eq!(tree.get(b"k").unwrap().unwrap(), b"v", "reads go on");
}

#[tokio::test]
async fn a_store_ends_after_what_was_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let told = Arc::new(AtomicU64::new(0));
    for _ in 0..100 {
        let told = Arc::clone(&told);
        store.on_durable(move |result| {
            result.unwrap();
            told.fetch_add(1, Ordering::SeqCst);
        });
    }
    let (last, ended) = tokio::sync::oneshot::channel();
    let held = store.clone();
    store.on_durable(move |_| {
        drop(held); // the last handle may go on the storage thread
        last.send(()).unwrap();
    });
    drop(store);
    ended.await.unwrap();
    assert_eq!(told.load(Ordering::SeqCst), 100);
    // The thread lets go of the lock just after.
    let deadline = crate::clock::instant() + Duration::from_secs(10);
    while Store::open(dir.path(), OWNER).is_err() {
        assert!(crate::clock::instant() < deadline, "never let go");
        tokio::task::yield_now().await;
    }
}

/// Set for the copy of this process that is traced: where its store is.
const TRACED: &str = "CIRO_TEST_TRACED_STORE";
const BARRIERS: usize = 5;

/// Runs itself under strace, and looks for a sync of sled's log between one barrier and the next.
#[test]
fn every_barrier_is_a_sync_that_the_kernel_answered() {
    if let Some(dir) = std::env::var_os(TRACED) {
        return barriers(std::path::Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, trace) = (dir.path().join("store"), dir.path().join("trace"));
    let name = "storage::tests::durability::every_barrier_is_a_sync_that_the_kernel_answered";
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=fdatasync,write", "-o"]).arg(&trace).arg(std::env::current_exe().unwrap());
    let output = strace.args(["--exact", name, "--nocapture"]).env(TRACED, &store).output();
    let output = output.expect("strace is needed, and the right to trace: scripts/test.sh installs it");
    let trace = std::fs::read_to_string(&trace).unwrap_or_default();
    assert!(output.status.success(), "{output:?}");
    let syncs = syncs_before_each_barrier(&trace);
    assert_eq!(syncs.len(), BARRIERS, "{trace}");
    assert!(syncs.iter().all(|syncs| *syncs > 0), "{syncs:?} syncs before each barrier:\n{trace}");
}

/// Says on standard error, where the trace shows it, when a barrier is passed.
#[tokio::main(flavor = "current_thread")]
async fn barriers(dir: &std::path::Path) {
    let store = open(dir);
    let tree = store.tree("t").unwrap();
    store.barrier().await.unwrap();
    eprintln!("barrier open");
    for n in 0..BARRIERS {
        tree.put(b"k", &value(n as u8, 100)).unwrap();
        store.barrier().await.unwrap();
        eprintln!("barrier {n}");
    }
}

/// Successful syncs of sled's log since the barrier before. A call may be cut in two lines by another thread.
fn syncs_before_each_barrier(trace: &str) -> Vec<usize> {
    let mut syncs = Vec::new();
    let mut begun = std::collections::BTreeSet::new();
    for line in trace.lines() {
        let thread = line.split_whitespace().next().unwrap_or_default();
        let of_log = line.contains("fdatasync(") && line.contains("/db/db>");
        if of_log && line.contains("unfinished") {
            begun.insert(thread);
        } else if (of_log || line.contains("fdatasync resumed") && begun.remove(thread)) && line.ends_with("= 0") {
            syncs.last_mut().into_iter().for_each(|count| *count += 1);
        } else if line.contains("write(2") && line.contains("\"barrier ") {
            syncs.push(0);
        }
    }
    syncs.pop(); // nothing was asked for after the last barrier
    syncs
}

/// A file system of 48 MiB in memory, unmounted at the end. Needs to be root.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` if that is not allowed here and the one who runs the tests knows: he set `CIRO_TEST_NO_MOUNT`.
    pub(crate) fn mount() -> Option<Self> {
        if std::env::var_os("CIRO_TEST_NO_MOUNT").is_some() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(dir.path());
        let output = mount.output().expect("mount");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "be root, or set CIRO_TEST_NO_MOUNT=1 to go without: {said}");
        Some(Self(dir))
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_writes_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.path().join("store");
    let open = || OpenOptions::new().ballast_bytes(12 << 20).open(&dir, OWNER);
    let store = open().unwrap();
    assert!(dir.join("ballast").exists());
    let tree = store.tree("t").unwrap();

    let mut durable = 0u32;
    let error = loop {
        let written = tree.put(&durable.to_be_bytes(), &value(durable as u8, 40_000));
        match written.and(store.barrier().await) {
            Ok(()) => durable += 1,
            Err(error) => break error,
        }
        assert!(durable < 5000, "the disk never filled");
    };
    println!("full after {durable} entries");
    assert!(durable > 100);
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert!(matches!(store.failed().await, Error::Full(_)));
    assert_eq!(tree.get(&0u32.to_be_bytes()).unwrap().unwrap().len(), 40_000, "reads go on");
    drop((tree, store));

    let store = open().unwrap();
    assert!(!dir.join("ballast").exists(), "released to open");
    let tree = store.tree("t").unwrap();
    for n in 0..durable {
        assert!(tree.get(&n.to_be_bytes()).unwrap().unwrap() == value(n as u8, 40_000), "entry {n} of {durable}");
    }
    tree.delete(&0u32.to_be_bytes()).unwrap();
    store.barrier().await.unwrap();
}
