//! Backups: the replicated state of one moment as a file, and back.
//!
//! A backup is taken of a frozen view on any node, written as a stream and paced,
//! so that neither `apply` nor memory feels it. [`mod@file`] knows the format, [`take`]
//! writes one, [`read`] checks and reads one, [`schedule`] takes them by itself.
//! How a cluster begins with one is the business of `consensus` (the log) and of
//! `domain::restore` (the state).
//!
//! Invariants
//!
//! * What a file says is believed only after the SHA-256 of all of it was
//!   compared. A section that this build does not know can be seen, but such a
//!   file is not restored: half a state is none.
//! * At most [`TOGETHER`] backups are taken at a time for who asks, and one by
//!   schedule: readers that are slow do not keep it waiting. None holds its view
//!   for longer than [`take::LONGEST`].
//!
//! Absent: encryption and remote stores. The file is as secret as the jobs in it.

pub mod file;
pub mod header;
pub mod read;
pub mod schedule;
pub mod take;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::Timestamp;

/// Backups that are taken at the same time for who asks.
pub const TOGETHER: usize = 2;

/// The section with the state.
pub const STATE: &str = "state";
/// The section with the segments that the state names, one after the other: finished jobs that left memory. Only if there are any.
pub const ARCHIVE: &str = "archive";
/// The section with the [`header::Header`].
pub const HEADER: &str = "header";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read or write backup")]
    Io(#[from] std::io::Error),
    #[error("it is no backup of ciro-coordinator: it does not begin like one")]
    Foreign,
    #[error("it is cut short: it ends after {0} bytes, within the backup")]
    CutShort(u64),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it has format {found}, this build reads up to {known}: use a newer version of ciro-coordinator")]
    Format { found: u32, known: u32 },
    #[error("its state has format {found}, this build reads {known}: restore it with the version that wrote it")]
    StateFormat { found: u32, known: u32 },
    #[error("it has a section {0:?} that this build can not restore: use a newer version of ciro-coordinator")]
    Section(String),
}

/// Backups that a node takes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub directory: PathBuf,
    pub every: Duration,
    /// Files of this node that are kept.
    pub keep: usize,
    /// Bytes that a backup leaves free on the disk of the directory.
    pub leave_free: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of state per second, before they are compressed.
    pub bytes_per_sec: u64,
    /// `None`: only who asks gets one.
    pub schedule: Option<Schedule>,
}

impl Default for Options {
    fn default() -> Self {
        Self { bytes_per_sec: 32 << 20, schedule: None }
    }
}

/// A backup that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub at: Timestamp,
    pub index: u64,
    pub bytes: u64,
}

/// What became of the scheduled ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub scheduled: bool,
    /// The last one that went well, also one that was there at start.
    pub last: Option<Done>,
    pub taken: u64,
    pub failed: u64,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
}

/// Where backups are asked for. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub options: Arc<Options>,
    slots: Arc<Semaphore>,
    view: Arc<Mutex<View>>,
}

impl Desk {
    pub fn new(options: Options) -> Self {
        let view = View { scheduled: options.schedule.is_some(), ..View::default() };
        Self { options: Arc::new(options), slots: Arc::new(Semaphore::new(TOGETHER)), view: Arc::new(Mutex::new(view)) }
    }

    /// A place for who asks; `None` while all are taken.
    pub fn try_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
