//! What happened, in order, for everyone who tells the outside world.
//!
//! `apply` appends; sinks read from their replicated cursor. A sequence number
//! is never reused and never changes for an entry. Entries that every registered
//! sink has, and that are older than the newest [`KEEP`], are dropped.
//!
//! A sink registers with its first `Delivered`. What a registered sink has not
//! got is kept beyond [`KEEP`], up to [`JOURNAL_MAX`]; there new submissions are
//! refused, so that the market runs dry instead of the memory. Jobs that are
//! already accepted go on and may take the journal further, up to
//! [`OVERRUN`] times that bound. Then the oldest entries go, and a sink that far
//! behind sees [`Journal::first_seq`] jump past its cursor.
//!
//! Invariants
//!
//! * Sequence numbers are contiguous; the first ever is 1.
//! * A cursor never goes back and never passes the newest entry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cow::Map;
use super::ids::{JobId, WorkerId};
use super::job::{Cause, JobState};
use super::time::Timestamp;
use super::worker::WorkerState;

/// Entries kept for readers without a cursor (server-sent events).
pub const KEEP: usize = 50_000;

/// Entries kept for sinks that lag. From here on submissions are refused.
pub const JOURNAL_MAX: usize = 1_000_000;

/// Times [`JOURNAL_MAX`] at which entries are dropped although a sink lacks them.
pub const OVERRUN: usize = 2;

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
    Job {
        job: JobId,
        state: JobState,
        attempt: u32,
        cause: Cause,
        worker: Option<WorkerId>,
    },
    Worker {
        worker: WorkerId,
        state: WorkerState,
    },
    WorkerGone {
        worker: WorkerId,
    },
    /// A record of Kafka could not be taken in. The letter's id is this entry's number.
    Letter,
    /// A letter goes back to the topic it came from.
    Replay {
        letter: u64,
    },
}

/// Cloning shares the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    last_seq: u64,
    entries: Map<u64, Entry>,
    cursors: BTreeMap<Sink, u64>,
}

impl Journal {
    /// Sequence number of the newest entry; 0 if there never was one.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Sequence number of the oldest entry still here; one above [`Self::last_seq`] if there is none.
    pub fn first_seq(&self) -> u64 {
        self.entries.first().map_or(self.last_seq + 1, |(seq, _)| *seq)
    }

    pub(super) fn newest(&self) -> Option<&Entry> {
        self.entries.get(&self.last_seq)
    }

    /// At most `limit` entries after `seq`, oldest first.
    pub fn after(&self, seq: u64, limit: usize) -> Vec<Entry> {
        self.entries.after(Some(seq)).take(limit).map(|(_, entry)| entry.clone()).collect()
    }

    /// Entries after `seq` through `last`, oldest first.
    pub(super) fn after_while(&self, seq: u64, last: u64) -> impl Iterator<Item = &Entry> {
        self.entries.after(Some(seq)).map(|(_, entry)| entry).take_while(move |entry| entry.seq <= last)
    }

    /// How many entries the sink that is farthest behind lacks; 0 without a sink.
    pub fn undelivered(&self) -> u64 {
        self.slowest().map_or(0, |cursor| self.last_seq - cursor)
    }

    /// When the first entry happened that some sink lacks; `None` if all have all.
    pub(super) fn undelivered_since(&self) -> Option<Timestamp> {
        self.entries.after(Some(self.slowest()?)).next().map(|(_, entry)| entry.at)
    }

    /// The cursor of the sink that is farthest behind.
    fn slowest(&self) -> Option<u64> {
        self.cursors.values().copied().min()
    }

    /// How far a sink got; `None` if it never reported.
    pub fn cursor(&self, sink: Sink) -> Option<u64> {
        self.cursors.get(&sink).copied()
    }

    /// Every registered sink and how far it got.
    pub fn cursors(&self) -> impl Iterator<Item = (Sink, u64)> {
        self.cursors.iter().map(|(sink, cursor)| (*sink, *cursor))
    }

    /// Entries still here.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    pub(super) fn append(&mut self, at: Timestamp, index: u64, term: u64, event: Event) {
        self.last_seq += 1;
        self.entries.insert(self.last_seq, Entry { seq: self.last_seq, at, index, term, event });
    }

    /// Moves a cursor forward; `false` if it is there already.
    pub(super) fn deliver(&mut self, sink: Sink, through: u64) -> bool {
        match self.cursors.get_mut(&sink) {
            Some(cursor) if *cursor >= through => false,
            Some(cursor) => {
                *cursor = through;
                true
            }
            None => {
                self.cursors.insert(sink, through);
                true
            }
        }
    }

    /// Keeps nothing for a sink any more; `false` if it is not registered.
    pub(super) fn forget_sink(&mut self, sink: Sink) -> bool {
        self.cursors.remove(&sink).is_some()
    }

    /// Drops what nobody needs any more, and what is beyond the bound.
    pub(super) fn trim(&mut self, keep: usize, max: usize) {
        let delivered = self.slowest().unwrap_or(u64::MAX);
        while let Some((&oldest, _)) = self.entries.first() {
            let spare = self.entries.len() > keep && oldest <= delivered;
            if !spare && self.entries.len() <= max.saturating_mul(OVERRUN) {
                break;
            }
            self.entries.remove(&oldest);
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// Puts a journal together again; `None` if the parts do not fit each other.
    pub(super) fn from_parts(last_seq: u64, cursors: BTreeMap<Sink, u64>, entries: Map<u64, Entry>) -> Option<Self> {
        let count = u64::try_from(entries.len()).ok()?;
        let first = last_seq.checked_sub(count)?.checked_add(1)?;
        let sane = last_seq < u64::MAX / 2;
        let contiguous =
            entries.iter().zip(first..=last_seq).all(|((seq, entry), want)| *seq == want && entry.seq == want);
        let cursors_fit = cursors.values().all(|cursor| *cursor <= last_seq);
        (sane && contiguous && cursors_fit).then_some(Self { last_seq, entries, cursors })
    }
}
