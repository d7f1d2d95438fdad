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
//! * Sequence numbers are contiguous but for the ranges passed over when a
//!   backup was restored, see [`super::restore`]; the first ever is 1.
//! * A cursor never goes back and never passes the newest number.

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
    pub(super) passed: Passed,
}

/// Numbers that no entry has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Passed {
    /// First and last of each range, ascending. One for each restore whose entries are still needed.
    pub ranges: Vec<(u64, u64)>,
    /// The next entry's number is taken from the clock.
    pub due: bool,
}

/// Numbers for each second since 1970, when one is taken from the clock: more than a cluster gives out, and few enough
/// for all to be exact in a double until 2242.
const PER_SECOND: u64 = 1 << 20;

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
        self.slowest().map_or(0, |cursor| self.waiting_after(cursor))
    }

    /// Entries there ever were after `cursor`.
    pub fn waiting_after(&self, cursor: u64) -> u64 {
        self.given(cursor, self.last_seq)
    }

    /// How many numbers after `after`, up to `through`, were given to an entry.
    pub fn given(&self, after: u64, through: u64) -> u64 {
        let within = |(first, last): &(u64, u64)| (through.min(*last) + 1).saturating_sub((after + 1).max(*first));
        through.saturating_sub(after).saturating_sub(self.passed.ranges.iter().map(within).sum())
    }

    /// Whether numbers beyond the newest may be known outside: a backup was restored, and nothing happened since.
    pub fn is_behind(&self) -> bool {
        self.passed.due
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
        if std::mem::take(&mut self.passed.due) {
            let begin = (at.0 / 1_000).saturating_mul(PER_SECOND).max(self.last_seq);
            if begin > self.last_seq {
                self.passed.ranges.push((self.last_seq + 1, begin));
            }
            self.last_seq = begin;
        }
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
        let needed = self.first_seq().min(delivered);
        self.passed.ranges.retain(|(_, last)| *last >= needed);
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// Puts a journal together again; `None` if the parts do not fit each other.
    pub(super) fn from_parts(
        last_seq: u64,
        cursors: BTreeMap<Sink, u64>,
        entries: Map<u64, Entry>,
        passed: Passed,
    ) -> Option<Self> {
        let sane = last_seq < u64::MAX / 2
            && passed.ranges.iter().all(|(first, last)| 0 < *first && first <= last && *last <= last_seq)
            && passed.ranges.is_sorted_by(|(_, before), (first, _)| before < first);
        let cursors_fit = cursors.values().all(|cursor| *cursor <= last_seq);
        let journal = Self { last_seq, entries, cursors, passed };
        (sane && cursors_fit && journal.is_contiguous()).then_some(journal)
    }

    /// Whether no entry is missing between the first and the newest number.
    fn is_contiguous(&self) -> bool {
        let mut before = None;
        for (seq, entry) in self.entries.iter() {
            let follows = before.is_none_or(|before| self.given(before, *seq) == 1);
            let passed = self.passed.ranges.iter().any(|(first, last)| (*first..=*last).contains(seq));
            if *seq == 0 || *seq > self.last_seq || entry.seq != *seq || !follows || passed {
                return false;
            }
            before = Some(*seq);
        }
        before.is_none_or(|newest| self.given(newest, self.last_seq) == 0)
    }
}
