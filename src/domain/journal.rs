//! What happened, in order, for everyone who tells the outside world.
//!
//! `apply` appends; sinks read from their replicated cursor. A sequence number
//! is never reused and never changes for an entry. Entries that every enabled
//! sink has, and that are older than the newest [`KEEP`], are dropped.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::ids::{JobId, WorkerId};
use super::job::{Cause, JobState};
use super::time::Timestamp;
use super::worker::WorkerState;

/// Entries kept for readers without a cursor (server-sent events).
pub const KEEP: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sink {
    Kafka,
    Chain,
    History,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub seq: u64,
    pub at: Timestamp,
    pub index: u64,
    pub term: u64,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Job { job: JobId, state: JobState, attempt: u32, cause: Cause, worker: Option<WorkerId> },
    Worker { worker: WorkerId, state: WorkerState },
    WorkerGone { worker: WorkerId },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    next_seq: u64,
    entries: VecDeque<Entry>,
    cursors: BTreeMap<Sink, u64>,
}

impl Journal {
    /// Sequence number of the newest entry; 0 if there never was one.
    pub fn last_seq(&self) -> u64 {
        todo!()
    }

    /// Sequence number of the oldest entry still here.
    pub fn first_seq(&self) -> u64 {
        todo!()
    }

    /// At most `limit` entries after `seq`, oldest first.
    pub fn after(&self, _seq: u64, _limit: usize) -> Vec<Entry> {
        todo!()
    }

    pub fn cursor(&self, sink: Sink) -> Option<u64> {
        self.cursors.get(&sink).copied()
    }
}
