//! What is to be published next, and all it takes to write it down.
//!
//! The journal says what happened; the records it names hold the details. Both
//! are looked at under the state's lock, in slices so short that `apply` does not
//! wait, and only references are taken. Writing records is done outside.
//!
//! A job may have gone on since an entry was written: one that failed may have
//! been given another chance, and have ended again. Its details are taken only
//! while the entry is the last thing that happened to it; else the record has
//! what the entry itself says, and says that this is all.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::job::Cause;
use crate::domain::journal::{Entry, Event};
use crate::domain::kafka::{Dead, Lane};
use crate::domain::run::Run;
use crate::domain::worker::WorkerState;
use crate::domain::{Job, JobId, JobState, State, Timestamp, Worker, WorkerId};

/// Entries looked at while the state's lock is held.
const SLICE: usize = 256;

/// Records in a batch.
const RECORDS: usize = 4_000;

/// Entries looked at for a batch: many are not published.
const ENTRIES: usize = 16_000;

/// Bytes of outputs and letters in a batch. The last record may go beyond it.
const BYTES: usize = 4 << 20;

/// Bytes a record takes beside its output.
const RECORD_BYTES: usize = 512;

/// One entry that becomes a record, with its details.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub seq: u64,
    pub at: Timestamp,
    pub lane: Lane,
    pub fact: Fact,
}

/// What a record is about.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    Ended(Ended),
    Awarded(Awarded),
    Worker {
        worker: WorkerId,
        life: Life,
        /// `None`: no longer registered.
        known: Option<Arc<Worker>>,
    },
    Letter(Dead),
    Replay(Dead),
}

/// What is said of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It is online, for the first time.
    Registered,
    Is(WorkerState),
    Departed,
}

/// A job came to its end.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub job: JobId,
    pub state: JobState,
    pub attempt: u32,
    pub cause: Cause,
    pub worker: Option<WorkerId>,
    /// `None`: the job went on since, or is forgotten.
    pub details: Option<Arc<Job>>,
    pub output: Option<Arc<[u8]>>,
}

/// A worker won a job.
#[derive(Clone, Debug)]
pub(super) struct Awarded {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    /// `None`: the run is over and no longer kept.
    pub run: Option<Run>,
}

/// Entries of the journal that are published together.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub items: Vec<Item>,
    /// The last entry that was looked at; those without a record are included.
    pub through: u64,
    /// Entries that were due, but are no longer in the journal: it ran over its bound.
    pub lost: u64,
    bytes: usize,
    entries: usize,
    /// Records in it, at most.
    records: usize,
}

impl Batch {
    /// An empty batch after `seq`.
    #[cfg(test)]
    pub fn after(seq: u64) -> Self {
        Self::within(seq, RECORDS)
    }

    /// An empty batch after `seq`, for so many records at most.
    pub fn within(seq: u64, records: usize) -> Self {
        Self { through: seq, records: records.clamp(1, RECORDS), ..Self::default() }
    }

    /// Adds what follows, as far as one short look goes. `false`: nothing follows yet, or the batch is full.
    pub fn extend(&mut self, state: &State) -> bool {
        let entries = state.journal().after(self.through, SLICE);
        let more = !entries.is_empty();
        for entry in entries {
            if self.is_full() {
                return false;
            }
            self.add(state, &entry);
        }
        more && !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.items.len() >= self.records || self.entries >= ENTRIES || self.bytes >= BYTES
    }

    fn add(&mut self, state: &State, entry: &Entry) {
        self.lost += state.journal().given(self.through, entry.seq.saturating_sub(1));
        self.through = entry.seq;
        self.entries += 1;
        let Some(lane) = Lane::of(&entry.event) else { return };
        let Some(fact) = fact(state, entry) else { return };
        self.bytes += RECORD_BYTES + fact.size();
        self.items.push(Item { seq: entry.seq, at: entry.at, lane, fact });
    }

    /// Records by lane.
    pub fn lanes(&self) -> BTreeMap<Lane, usize> {
        let mut lanes = BTreeMap::new();
        for item in &self.items {
            *lanes.entry(item.lane).or_default() += 1;
        }
        lanes
    }
}

impl Fact {
    fn size(&self) -> usize {
        match self {
            Self::Ended(ended) => ended.output.as_ref().map_or(0, |output| output.len()),
            Self::Letter(dead) | Self::Replay(dead) => dead.letter.size(),
            Self::Awarded(_) | Self::Worker { .. } => 0,
        }
    }
}

/// `None`: a letter that an operator dropped in the meantime.
fn fact(state: &State, entry: &Entry) -> Option<Fact> {
    Some(match entry.event {
        Event::Job { job, cause: Cause::Awarded, attempt, worker: Some(worker), .. } => {
            let known = state.job(job).and_then(|job| job.runs.iter().find(|run| run.attempt == attempt));
            Fact::Awarded(Awarded { job, attempt, worker, run: known.cloned() })
        }
        Event::Job { job, state: ended, attempt, cause, worker } => {
            let details = state.job(job).filter(|job| is_last(job, entry, ended)).cloned();
            let output = details.as_ref().and_then(|_| state.output(job)).cloned();
            Fact::Ended(Ended { job, state: ended, attempt, cause, worker, details, output })
        }
        Event::Worker { worker, state: is } => {
            let known = state.worker(worker).cloned();
            Fact::Worker { worker, life: life(is, known.as_deref(), entry), known }
        }
        Event::WorkerGone { worker } => Fact::Worker { worker, life: Life::Departed, known: None },
        Event::Letter => Fact::Letter(state.kafka().letter(entry.seq)?.clone()),
        Event::Replay { letter } => Fact::Replay(state.kafka().letter(letter)?.clone()),
    })
}

/// Whether nothing happened to a job after `entry`, which ended it.
fn is_last(job: &Job, entry: &Entry, ended: JobState) -> bool {
    job.state == ended && job.history.last().is_some_and(|last| last.index == entry.index && last.at == entry.at)
}

fn life(is: WorkerState, known: Option<&Worker>, entry: &Entry) -> Life {
    let first = known.is_some_and(|worker| worker.registered_at == entry.at);
    if first && is == WorkerState::Online { Life::Registered } else { Life::Is(is) }
}
