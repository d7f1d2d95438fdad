//! The storage thread: one sync for all who wait.
//!
//! Invariants
//!
//! * A callback gets `Ok` only if a flush **and** an `fdatasync` that both began
//!   after it was submitted have succeeded. The order matters: flush hands the
//!   bytes to the kernel, `fdatasync` hands them and the file's size to the disk.
//! * Callbacks run in the order of submission, on this thread.
//! * The mark follows a sync that succeeded, before anyone is told of it.
//! * A failure is final. The kernel drops dirty pages whose write-back failed,
//!   so a second `fdatasync` that succeeds proves nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;
use tracing::error;

use super::mark::Mark;
use super::{Error, SyncStats, open};
use crate::clock;
use crate::tasks::Tasks;

/// Callbacks waiting for the thread. Beyond this, submitting blocks.
const QUEUE_MAX: usize = 16_384;

/// Callbacks served by one sync.
const GROUP_MAX: usize = 4096;

/// Syncs that the statistics look back on.
const RECENT: usize = 1024;

pub(super) type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What puts flushed bytes on the disk. Tests put a faulty one in its place.
pub(super) type Syncer = Box<dyn FnMut() -> io::Result<()> + Send>;

pub(super) fn ended(dir: &Path) -> Error {
    Error::Io {
        action: "reach the storage thread",
        path: dir.to_owned(),
        source: Arc::new(io::ErrorKind::BrokenPipe.into()),
    }
}

/// The first fatal error of a store.
pub(super) struct Failure(watch::Sender<Option<Error>>);

impl Failure {
    fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(super) fn get(&self) -> Option<Error> {
        self.0.borrow().clone()
    }

    /// Records `error` unless an earlier one stands; returns the one that stands.
    pub(super) fn set(&self, error: Error) -> Error {
        let first = self.0.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| error.clone());
            first
        });
        if first {
            error!(error = &error as &dyn std::error::Error, "storage failed");
        }
        self.get().unwrap_or(error)
    }

    pub(super) async fn wait(&self) -> Error {
        let mut failure = self.0.subscribe();
        loop {
            if let Some(error) = failure.borrow_and_update().clone() {
                return error;
            }
            if failure.changed().await.is_err() {
                return std::future::pending().await; // the sender is `self`
            }
        }
    }
}

/// Handle to the thread. Dropping it waits for what was submitted.
pub(super) struct Thread {
    dir: PathBuf,
    queue: Option<SyncSender<Done>>,
    handle: Option<JoinHandle<()>>,
    failure: Arc<Failure>,
    recent: Arc<Mutex<Recent>>,
}

impl Thread {
    /// `taken` counts the batches that sled has; `hold` lives as long as the thread.
    pub(super) fn start(
        db: sled::Db,
        dir: &Path,
        syncer: Syncer,
        (taken, mark): (Arc<AtomicU64>, Mark),
        hold: impl Send + 'static,
    ) -> Result<Self, Error> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let failure = Arc::new(Failure::new());
        let recent = Arc::new(Mutex::new(Recent::default()));
        let mut worker = Worker {
            db,
            dir: dir.to_owned(),
            blobs: dir.join(open::DB).join("blobs"),
            syncer,
            taken,
            mark,
            failure: Arc::clone(&failure),
            recent: Arc::clone(&recent),
        };
        let work = move || {
            worker.run(&jobs);
            drop(worker);
            drop(hold);
        };
        let handle = Tasks::thread("storage", work).map_err(|e| Error::io("start the storage thread", dir, e))?;
        Ok(Self { dir: dir.to_owned(), queue: Some(queue), handle: Some(handle), failure, recent })
    }

    pub(super) fn submit(&self, done: Done) {
        let refused = match &self.queue {
            Some(queue) => queue.send(done).err().map(|refused| refused.0),
            None => Some(done),
        };
        if let Some(done) = refused {
            done(Err(ended(&self.dir)));
        }
    }

    pub(super) fn failure(&self) -> &Arc<Failure> {
        &self.failure
    }

    pub(super) fn stats(&self) -> SyncStats {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).stats(None)
    }

    pub(super) fn stats_since(&self, begin: Instant) -> SyncStats {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).stats(Some(begin))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.queue = None;
        // The last handle may have been dropped by a callback, on the thread itself.
        let Some(handle) = self.handle.take() else { return };
        if handle.thread().id() != std::thread::current().id() {
            let _ = handle.join(); // a panic there has been reported by the panic hook
        }
    }
}

struct Worker {
    db: sled::Db,
    dir: PathBuf,
    blobs: PathBuf,
    syncer: Syncer,
    taken: Arc<AtomicU64>,
    mark: Mark,
    failure: Arc<Failure>,
    recent: Arc<Mutex<Recent>>,
}

impl Worker {
    fn run(&mut self, jobs: &Receiver<Done>) {
        while let Some(first) = self.next(jobs) {
            let mut group = vec![first];
            group.extend(jobs.try_iter().take(GROUP_MAX - 1));
            let result = self.sync();
            for done in group {
                done(result.clone());
            }
        }
        self.sync_mark();
    }

    /// The next callback; `None` at the end. Syncs the mark when it is time for that.
    fn next(&mut self, jobs: &Receiver<Done>) -> Option<Done> {
        while let Some(left) = self.mark.due_in() {
            match jobs.recv_timeout(left) {
                Ok(done) if left.is_zero() => {
                    self.sync_mark(); // or a busy store would never get to it
                    return Some(done);
                }
                Ok(done) => return Some(done),
                Err(RecvTimeoutError::Timeout) => self.sync_mark(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        jobs.recv().ok()
    }

    fn sync_mark(&mut self) {
        if let Err(error) = self.mark.sync() {
            self.failure.set(Error::io("sync", self.mark.path(), error));
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        if let Some(error) = self.failure.get() {
            return Err(error);
        }
        self.recent().began = Some(clock::instant());
        self.try_sync().map_err(|error| self.failure.set(error))?;
        self.recent().end(clock::instant());
        Ok(())
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_sync(&mut self) -> Result<(), Error> {
        let through = self.taken.load(Ordering::Acquire);
        self.db.flush().map_err(|e| Error::sled("flush", &self.dir, e))?;
        let synced = sync_blobs(&self.blobs).and_then(|()| (self.syncer)());
        synced.map_err(|error| {
            // sled does not know of this failure and would sync, and panic, when
            // it is dropped. The process is about to end: let it never drop.
            std::mem::forget(self.db.clone());
            Error::io("sync", &self.dir, error)
        })?;
        self.mark.advance(through).map_err(|e| Error::io("write", self.mark.path(), e))
    }
}

/// sled keeps pages above a quarter of a segment as files and never syncs them.
/// Values are split so that there is none; if there is one, it is not lost.
fn sync_blobs(blobs: &Path) -> io::Result<()> {
    let mut found = false;
    for blob in fs::read_dir(blobs)? {
        File::open(blob?.path())?.sync_all()?;
        found = true;
    }
    if found { File::open(blobs)?.sync_all() } else { Ok(()) }
}

/// How long the last syncs took.
#[derive(Default)]
struct Recent {
    count: u64,
    /// When each ended, and its microseconds.
    syncs: Vec<(Instant, u64)>,
    /// The one that is at work.
    began: Option<Instant>,
}

impl Recent {
    fn end(&mut self, now: Instant) {
        let Some(began) = self.began.take() else { return };
        let sync = (now, micros(now - began));
        let slot = usize::try_from(self.count % RECENT as u64).unwrap_or(0);
        match self.syncs.get_mut(slot) {
            Some(old) => *old = sync,
            None => self.syncs.push(sync),
        }
        self.count += 1;
    }

    /// Of those that ended since `begin`, and of the one at work if it began before: a disk that hangs ends none.
    /// `None`: of all that are remembered and ended.
    fn stats(&self, begin: Option<Instant>) -> SyncStats {
        let ended = self.syncs.iter().filter(|(at, _)| begin.is_none_or(|begin| *at >= begin));
        let mut sorted: Vec<u64> = ended.map(|(_, micros)| *micros).collect();
        let hanging = self.began.filter(|began| begin.is_some_and(|begin| *began < begin));
        sorted.extend(hanging.map(|began| micros(began.elapsed())));
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or(0)
        };
        let barriers = if begin.is_some() { sorted.len() as u64 } else { self.count };
        SyncStats { barriers, p50_us: at(50), p99_us: at(99), max_us: at(100) }
    }
}

fn micros(took: std::time::Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_look_back_sees_what_ended_since_and_what_hangs() {
        let start = clock::instant().checked_sub(Duration::from_secs(60)).unwrap();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let mut recent = Recent::default();
        for (began, ended) in [(0, 9), (10, 11), (20, 22)] {
            recent.began = Some(at(began));
            recent.end(at(ended));
        }
        let of = |stats: SyncStats| (stats.barriers, stats.p50_us / 1_000_000, stats.max_us / 1_000_000);
        assert_eq!(of(recent.stats(None)), (3, 2, 9));
        assert_eq!(of(recent.stats(Some(at(10)))), (2, 1, 2));
        assert_eq!(of(recent.stats(Some(at(30)))), (0, 0, 0));
        recent.began = Some(at(25));
        let (count, _, longest) = of(recent.stats(Some(at(30))));
        assert!(count == 1 && longest >= 35, "{longest} s");
    }
}
