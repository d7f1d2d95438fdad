//! What of Kafka is replicated: how far intake is, and what could not be taken in.
//!
//! Offsets commit together with the jobs that came from them, so a new leader
//! goes on exactly where the log is, whoever read what before. A record that
//! can not become a job is a *letter*: one command moves the offset past it and
//! puts it into the queue and the journal, so it neither blocks nor is lost.
//!
//! Invariants
//!
//! * A partition's next offset only grows, except by [`Command::SeekIntake`]
//!   and [`Command::ResetIntake`], which an operator sends.
//! * All offsets are of one Kafka cluster, the recorded one.
//! * A letter's id is the number of the journal entry that published it; ids ascend.
//! * Letters are bounded in number and bytes. The oldest that are published make
//!   room; if none is, intake is refused until Kafka took some.
//!
//! Absent: connections, lag, high watermarks. They are each node's own view.
//!
//! [`Command::SeekIntake`]: super::Command::SeekIntake
//! [`Command::ResetIntake`]: super::Command::ResetIntake

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bytes;
use super::command::{Refusal, Submit};
use super::cow::Map;
use super::journal::Event;
use super::time::Timestamp;

/// Bytes of a record's key, value and headers that a letter carries. Of a longer value nothing is carried.
pub const LETTER_BYTES: usize = 1 << 20;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition {
    pub topic: Box<str>,
    pub number: u32,
}

/// What was read from one partition: one command, so jobs, letters and offset commit together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingest {
    /// Id of the Kafka cluster. The first one is recorded; another is refused.
    pub cluster: String,
    pub partition: Partition,
    /// Where the sender takes the log to be. If the log is before it, an operator moved it meanwhile: nothing is taken,
    /// and the answer says where it is.
    pub from: u64,
    /// Ascending by offset. Those below the replicated offset are skipped: they were taken before.
    pub items: Vec<Item>,
    /// Where to go on after all of them. Above the last offset plus one where the broker left a gap.
    pub next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub offset: u64,
    pub taken: Taken,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Taken {
    Job(Box<Submit>),
    Letter(Box<Letter>),
}

/// How far an [`Ingest`] got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingested {
    /// The partition's next offset now.
    pub next: u64,
    /// Why the job at `next` was not taken; nothing after it was. `None`: all were.
    pub refused: Option<Box<Refusal>>,
}

/// A header of a record: names may repeat, a value may be absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub name: Box<str>,
    #[serde(with = "bytes::optional")]
    pub value: Option<Vec<u8>>,
}

/// A record that could not be taken in, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    pub partition: Partition,
    pub offset: u64,
    /// The record's own time, ms since 1970.
    pub timestamp_ms: Option<u64>,
    #[serde(with = "bytes::optional")]
    pub key: Option<Vec<u8>>,
    #[serde(with = "bytes::optional")]
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
    /// Bytes of a value that is too long to be carried; then `value` is `None`. 0: `value` is all of it.
    pub left_out: u64,
    /// Stable, for machines.
    pub code: Box<str>,
    /// For people.
    pub message: Box<str>,
    /// Times it was tried: 1, and one more for each replay.
    pub attempts: u32,
    /// When it failed first, if it was replayed before.
    pub first_failed_at: Option<Timestamp>,
}

impl Letter {
    /// Bytes it takes beyond its fixed part.
    pub fn size(&self) -> usize {
        let bytes = |field: &Option<Vec<u8>>| field.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|header| header.name.len() + bytes(&header.value)).sum();
        bytes(&self.key) + bytes(&self.value) + headers + self.message.len() + self.code.len()
    }
}

/// A letter in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// Number of the journal entry that publishes it.
    pub id: u64,
    pub failed_at: Timestamp,
    pub letter: Arc<Letter>,
    /// Number of the journal entry that sends it back to its topic. It leaves the queue when that is published.
    pub replay: Option<u64>,
}

/// Which records of Kafka a journal entry becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    Results,
    Workers,
    DeadLetters,
    /// Dead letters sent back to where they came from.
    Replays,
}

impl Lane {
    /// Where an event goes; `None`: it is not published.
    pub fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Job { state, .. } if state.is_final() => Some(Self::Results),
            Event::Job { cause: super::job::Cause::Awarded, .. } | Event::Worker { .. } | Event::WorkerGone { .. } => {
                Some(Self::Workers)
            }
            Event::Job { .. } => None,
            Event::Letter => Some(Self::DeadLetters),
            Event::Replay { .. } => Some(Self::Replays),
        }
    }
}

/// What was taken from a partition, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intake {
    /// Where to go on reading.
    pub next: u64,
    /// Records that made a job.
    pub jobs: u64,
    /// Records that named a job which was accepted before.
    pub repeats: u64,
    pub letters: u64,
}

/// The replicated part of Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kafka {
    pub(super) cluster: Option<Box<str>>,
    pub(super) intake: BTreeMap<Partition, Intake>,
    /// Records published, by lane.
    pub(super) published: BTreeMap<Lane, u64>,
    pub(super) letters: Map<u64, Dead>,
    pub(super) letter_bytes: usize,
}

impl Kafka {
    /// The Kafka cluster that offsets are of; `None` before the first record was taken.
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Every partition that was ever read.
    pub fn intake(&self) -> impl Iterator<Item = (&Partition, &Intake)> {
        self.intake.iter()
    }

    pub fn next_offset(&self, partition: &Partition) -> Option<u64> {
        self.intake.get(partition).map(|intake| intake.next)
    }

    /// Records published in a lane, as far as the cursor knows.
    pub fn published(&self, lane: Lane) -> u64 {
        self.published.get(&lane).copied().unwrap_or(0)
    }

    pub fn letter(&self, id: u64) -> Option<&Dead> {
        self.letters.get(&id)
    }

    /// Letters in the queue after `cursor`, oldest first.
    pub fn letters_after(&self, cursor: Option<u64>) -> impl Iterator<Item = &Dead> {
        self.letters.after(cursor).map(|(_, dead)| dead)
    }

    pub fn letters(&self) -> usize {
        self.letters.len()
    }

    pub fn letter_bytes(&self) -> usize {
        self.letter_bytes
    }

    /// Puts it together again.
    pub(super) fn from_parts(
        cluster: Option<Box<str>>,
        intake: BTreeMap<Partition, Intake>,
        published: BTreeMap<Lane, u64>,
        letters: Map<u64, Dead>,
    ) -> Self {
        let letter_bytes = letters.iter().map(|(_, dead)| dead.letter.size()).sum();
        Self { cluster, intake, published, letters, letter_bytes }
    }

    pub(super) fn add(&mut self, dead: Dead) {
        self.letter_bytes += dead.letter.size();
        self.letters.insert(dead.id, dead);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Dead> {
        let dead = self.letters.remove(&id)?;
        self.letter_bytes -= dead.letter.size();
        Some(dead)
    }
}
