//! Finished jobs on disk: the segments that `apply` seals, and where each job is in them.
//!
//! `apply` hands a sealed segment over and goes on; a task writes it. A snapshot
//! waits until every segment that its state names is on disk, so the log that
//! made them goes only after that: what is lost before, the replay of the log
//! makes again. In memory is where each job is ([`index::Place`]), which is built from
//! the segments' own indexes at start.
//!
//! A segment that is missing or damaged is never served: whoever asks for a job
//! in it is told which it is, and [`fetch`] gets it from another member.
//!
//! Invariants
//!
//! * A job that left the state is here before anyone can see that it left.
//! * A file with a segment's name is whole and durable, unless the disk damaged it.
//! * No more than [`WAITING_MAX`] segments wait for the disk: then `apply` writes them, so that it never waits for
//!   a task that may not run yet. While a node starts, none does.
//! * Files go only when neither of the two kept snapshots names them.

mod copy;
pub(super) mod fetch;
mod files;
mod index;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use crate::domain::archive::{Archived, Sealed, Segment};
use crate::domain::{Digest, JobId, JobState, State};
use crate::tasks::Tasks;

use super::Error;
pub use copy::SegmentFile;
pub(super) use files::Files;
use index::{At, Held, Inner, SLICE};

/// Where segments are, below the directory for files.
pub(super) const DIR: &str = "archive";

/// Segments that wait for the disk. Beyond it `apply` waits until they are written.
const WAITING_MAX: usize = 64;

/// Why an archived job can not be read here and now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment} of the archive can not be read: {why}")]
pub struct Unreadable {
    /// The file's name.
    pub segment: String,
    pub why: String,
}

/// What of the archive is where, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveView {
    /// Segments that wait to be written.
    pub waiting: u64,
    /// Segments that are missing or damaged here, until another member gives them.
    pub missing: u64,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Archive {
    shared: Arc<Shared>,
}

struct Shared {
    files: Files,
    inner: RwLock<Inner>,
    failure: OnceLock<String>,
    /// There is something to write, or to fetch.
    work: Notify,
    repair: Notify,
    /// Segments up to this number are gone by the word of the last snapshot but one.
    pruned: AtomicU64,
}

impl Archive {
    /// Nothing is known until [`Self::follow`]. Blocking.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let shared = Shared {
            files: Files::open(path)?,
            inner: RwLock::default(),
            failure: OnceLock::new(),
            work: Notify::new(),
            repair: Notify::new(),
            pruned: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.shared.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.shared.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a record sealed, and forgets what it dropped. Called with the state locked: it must be short.
    pub fn adopt(&self, state: &mut State) {
        let sealed = state.take_sealed();
        let dropped = state.archive().dropped();
        if sealed.is_empty() && self.read().dropped == dropped {
            return;
        }
        let mut inner = self.write();
        inner.drop_through(dropped);
        for Sealed { segment, bytes } in sealed.into_iter().filter(|sealed| sealed.segment.number > dropped) {
            // What was just sealed is as it was sealed.
            let entries = files::entries(&bytes).unwrap_or_default();
            inner.place(&segment, &entries);
            inner.insert(Held { segment, at: At::Memory(bytes), indexed: true });
        }
        drop(inner);
        self.shared.work.notify_one();
    }

    /// Learns of all the segments of a state that did not come by the log. Blocking: reads their indexes.
    pub fn follow(&self, state: &State) {
        let dropped = state.archive().dropped();
        let known = |segment: &&Arc<Segment>| self.read().segment(segment.number).is_some();
        let new: Vec<_> = state.archive().segments().filter(|segment| !known(segment)).cloned().collect();
        for segment in new {
            self.learn(&segment);
        }
        self.write().drop_through(dropped);
        self.shared.repair.notify_one();
    }

    /// Looks at a segment's file.
    fn learn(&self, segment: &Arc<Segment>) {
        let found = self.shared.files.index(segment);
        let mut inner = self.write();
        let indexed = found.is_ok() || inner.segment(segment.number).is_some_and(|held| held.indexed);
        let at = match found {
            Ok(entries) => {
                inner.place(segment, &entries);
                At::Disk
            }
            Err(why) => {
                tracing::error!(segment = segment.name(), why, "a segment of the archive is not whole here");
                At::Missing(why)
            }
        };
        inner.insert(Held { segment: Arc::clone(segment), at, indexed });
    }

    /// Writes what waits, if that is too much.
    ///
    /// # Errors
    ///
    /// The disk has failed.
    pub async fn make_way(&self, tasks: &Tasks) -> io::Result<()> {
        if let Some(why) = self.shared.failure.get() {
            return Err(io::Error::other(why.clone()));
        }
        if self.read().waits() <= WAITING_MAX {
            return Ok(());
        }
        let archive = self.clone();
        tasks.spawn_blocking(move || archive.flush()).await.map_err(io::Error::other)?
    }

    /// Writes what waits, the oldest first. Blocking.
    ///
    /// # Errors
    ///
    /// Those of the disk: then this node must stop.
    pub fn flush(&self) -> io::Result<()> {
        let waiting = self.read().waiting();
        for (segment, bytes) in waiting {
            if let Err(error) = self.shared.files.write(&segment, &bytes) {
                let why = format!("write segment {}: {error}", segment.name());
                let why = self.shared.failure.get_or_init(|| why).clone();
                return Err(io::Error::other(why));
            }
            self.write().set(segment.number, At::Disk);
        }
        Ok(())
    }

    /// A snapshot is durable whose state had dropped so much: files that no kept snapshot names go. Blocking.
    pub fn snapshotted(&self, dropped: u64) {
        let before = self.write().last_snapshot.replace(dropped);
        let through = before.map_or(0, |before| before.min(dropped));
        if through <= self.shared.pruned.swap(through, Ordering::Relaxed) {
            return;
        }
        match self.shared.files.remove_through(through) {
            Ok(removed) => tracing::info!(removed, through, "segments of removed jobs deleted"),
            Err(error) => tracing::warn!(%error, through, "delete segments of removed jobs"),
        }
    }

    /// Archived jobs after `cursor` in id order with their final states; at most some thousand at once, `None` is the end.
    pub fn after(&self, cursor: Option<JobId>, most: usize) -> Vec<(JobId, JobState)> {
        let inner = self.read();
        let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let kept = inner.places.range((from, Bound::Unbounded)).filter(|(_, place)| inner.keeps(**place));
        kept.take(most.min(SLICE)).map(|(id, place)| (*id, place.state())).collect()
    }

    /// The final state of an archived job; `None`: it is none.
    pub fn state_of(&self, id: JobId) -> Option<JobState> {
        let inner = self.read();
        inner.places.get(&id).filter(|place| inner.keeps(**place)).map(|place| place.state())
    }

    /// Reads an archived job; `None`: it is none. Blocking.
    ///
    /// # Errors
    ///
    /// Its segment is missing or damaged here.
    pub fn get(&self, id: JobId) -> Result<Option<Archived>, Unreadable> {
        let (held, place) = {
            let inner = self.read();
            let Some(place) = inner.places.get(&id).copied().filter(|place| inner.keeps(*place)) else {
                return match inner.lacking() {
                    // It may be in one whose index is not known.
                    Some(held) => Err(held.unreadable("it is being fetched from another member")),
                    None => Ok(None),
                };
            };
            let Some(held) = inner.segment(u64::from(place.segment)).cloned() else { return Ok(None) };
            (held, place)
        };
        let found = match &held.at {
            At::Memory(bytes) => files::record_in(bytes, place.offset(), id).map_err(files::Trouble::Damaged),
            At::Disk => self.shared.files.record(&held.segment, place.offset(), id),
            At::Missing(why) => return Err(held.unreadable(why)),
        };
        found.map(Some).map_err(|trouble| self.note(&held, trouble))
    }

    fn note(&self, held: &Held, trouble: files::Trouble) -> Unreadable {
        match trouble {
            files::Trouble::Damaged(why) => {
                tracing::error!(segment = held.segment.name(), why, "a segment of the archive is damaged");
                self.write().set(held.segment.number, At::Missing(why));
                self.shared.repair.notify_one();
                held.unreadable(why)
            }
            files::Trouble::Disk(error) => held.unreadable(&error.to_string()),
        }
    }

    /// A part of a segment for another member; `None`: it is not here. That it is damaged shows with the last part.
    /// Blocking.
    pub fn part(&self, number: u64, sha256: &Digest, offset: u64, most: usize) -> Option<Vec<u8>> {
        let held = self.read().segment(number).filter(|held| held.segment.sha256 == *sha256).cloned()?;
        match &held.at {
            At::Memory(bytes) => {
                let start = usize::try_from(offset).ok()?;
                let part = bytes.get(start..)?;
                Some(part.get(..most.min(part.len()))?.to_vec())
            }
            At::Disk => {
                let part = self.shared.files.part(&held.segment, offset, most);
                part.map_err(|trouble| self.note(&held, trouble)).ok()
            }
            At::Missing(_) => None,
        }
    }

    /// Which of these are not on this disk. Blocking.
    pub fn lacking(&self, segments: Vec<Arc<Segment>>) -> Vec<Arc<Segment>> {
        let here = |segment: &Arc<Segment>| {
            let held = self.read().segment(segment.number).map(|held| held.at.clone());
            match held {
                Some(At::Memory(_) | At::Disk) => true,
                Some(At::Missing(_)) => false,
                None => self.shared.files.index(segment).is_ok(),
            }
        };
        segments.into_iter().filter(|segment| !here(segment)).collect()
    }

    /// What is missing or damaged here.
    pub fn missing(&self) -> Vec<Arc<Segment>> {
        let inner = self.read();
        let missing = inner.segments().filter(|held| matches!(held.at, At::Missing(_)));
        missing.map(|held| Arc::clone(&held.segment)).collect()
    }

    /// Puts a segment from elsewhere in its place. Its digest was checked. Blocking.
    pub fn restore(&self, segment: &Arc<Segment>, bytes: &[u8]) -> io::Result<()> {
        self.shared.files.write(segment, bytes)?;
        if self.read().segment(segment.number).is_some() {
            self.learn(segment);
        }
        Ok(())
    }

    /// Completes when something may be missing.
    pub async fn wants_repair(&self) {
        self.shared.repair.notified().await;
    }

    /// Writes what is sealed, as it comes. Ends when the disk has failed.
    pub async fn run(self, tasks: Tasks) -> Error {
        loop {
            let archive = self.clone();
            match tasks.spawn_blocking(move || archive.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Error::Setup(format!("archive finished jobs: {error}")),
                Err(error) => return Error::Setup(format!("archive finished jobs: {error}")),
            }
            while self.write().let_go() {
                tokio::task::yield_now().await;
            }
            self.shared.work.notified().await;
        }
    }

    pub fn view(&self) -> ArchiveView {
        let inner = self.read();
        let missing = inner.segments().filter(|held| matches!(held.at, At::Missing(_)));
        ArchiveView { waiting: inner.waits() as u64, missing: missing.count() as u64 }
    }

    /// The files of a state's segments, once they are there. Blocking.
    ///
    /// # Errors
    ///
    /// The disk has failed, or one is missing here.
    pub fn files_of(&self, state: &State) -> Result<Vec<SegmentFile>, Unreadable> {
        let segments: Vec<_> = state.archive().segments().cloned().collect();
        let failed = |why: String| Unreadable { segment: "being written".to_owned(), why };
        self.flush().map_err(|error| failed(error.to_string()))?;
        if let Some(lacking) = self.lacking(segments.clone()).first() {
            return Err(Unreadable { segment: lacking.name(), why: "it is missing on this node".to_owned() });
        }
        Ok(segments.into_iter().map(|segment| SegmentFile::new(segment, self.clone())).collect())
    }
}
