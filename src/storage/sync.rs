//! The storage thread: one sync for all who wait.
//!
//! Invariants
//!
//! * A callback gets `Ok` only if a flush **and** an `fdatasync` that both began
//!   after it was submitted have succeeded. The order matters: flush hands the
//!   bytes to the kernel, `fdatasync` hands them and the file's size to the disk.
//! * Callbacks run in the order of submission, on this thread.
//! * A failure is final. The kernel drops dirty pages whose write-back failed,
//!   so a second `fdatasync` that succeeds proves nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;
use tracing::error;

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
    /// `hold` lives as long as the thread.
    pub(super) fn start(db: sled::Db, dir: &Path, syncer: Syncer, hold: impl Send + 'static) -> Result<Self, Error> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let failure = Arc::new(Failure::new());
        let recent = Arc::new(Mutex::new(Recent::default()));
        let mut worker = Worker {
            db,
            dir: dir.to_owned(),
            blobs: dir.join(open::DB).join("blobs"),
            syncer,
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
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).stats()
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
    failure: Arc<Failure>,
    recent: Arc<Mutex<Recent>>,
}

impl Worker {
    fn run(&mut self, jobs: &Receiver<Done>) {
        while let Ok(first) = jobs.recv() {
            let mut group = vec![first];
            group.extend(jobs.try_iter().take(GROUP_MAX - 1));
            let result = self.sync();
            for done in group {
                done(result.clone());
            }
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        if let Some(error) = self.failure.get() {
            return Err(error);
        }
        let began = clock::instant();
        self.try_sync().map_err(|error| self.failure.set(error))?;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        Ok(())
    }

    fn try_sync(&mut self) -> Result<(), Error> {
        self.db.flush().map_err(|e| Error::sled("flush", &self.dir, e))?;
        let synced = sync_blobs(&self.blobs).and_then(|()| (self.syncer)());
        synced.map_err(|error| {
            // sled does not know of this failure and would sync, and panic, when
            // it is dropped. The process is about to end: let it never drop.
            std::mem::forget(self.db.clone());
            Error::io("sync", &self.dir, error)
        })
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
    micros: Vec<u64>,
}

impl Recent {
    fn add(&mut self, micros: u64) {
        let slot = usize::try_from(self.count % RECENT as u64).unwrap_or(0);
        match self.micros.get_mut(slot) {
            Some(old) => *old = micros,
            None => self.micros.push(micros),
        }
        self.count += 1;
    }

    fn stats(&self) -> SyncStats {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or(0)
        };
        SyncStats { barriers: self.count, p50_us: at(50), p99_us: at(99), max_us: at(100) }
    }
}
