//! What a state must change of itself before another cluster goes on from it.
//!
//! A backup is the past. The cluster it was taken of went on: it gave numbers to
//! events that consumers have seen, attempts to workers that may still hand in
//! their results, epochs to transactions. The cluster that begins with the backup
//! knows nothing of these, and must not use the same again for something else.
//!
//! | what the old cluster gave away since | why it is never given again |
//! |---|---|
//! | numbers of journal entries, hence `ce_id` and `event_id` | the first entry after a restore takes its number from the clock, far above all that were given |
//! | attempts of jobs that the backup knows | the next attempt of each is above [`Fence::floor`]; a result for an attempt that only the old cluster knew is stale |
//! | log positions and terms | the state is put at a position of its own, in a term above all that were |
//! | the chain's epoch | a leader claims one above the contract's own before it prepares anything |
//! | transactions and payments on chain | the contract takes what is repeated for the same job as a repetition |
//!
//! A run that was in force when the backup was taken stays in force: its worker
//! was awarded it, whichever cluster hears the result.
//!
//! Entries of the journal that a sink had not reported keep their numbers, and go
//! out again under them, unless [`Sinks`] says that they are out.
//!
//! Invariants
//!
//! * Pure and the same everywhere: the nodes of a new cluster begin with equal
//!   bytes. What needs the time (the number of the next entry) waits for the
//!   first record of the log.
//! * All else comes back as it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::apply::Position;
use super::ids::Digest;
use super::job::{Job, JobState};
use super::journal::{Event, Sink};
use super::state::State;

/// Attempts are continued at a multiple of this.
const STEP: u32 = 1_000;

/// A term in the new cluster is at least so far above those in the backup: the old cluster may have gone on.
pub const TERMS: u64 = 1_000;

/// Up to which entry a sink has everything, as an operator knows better than the backup.
pub type Sinks = BTreeMap<Sink, Through>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// All that is in the backup is out.
    All,
    /// This entry and all before it.
    Entry(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0:?} never was a sink of this cluster")]
    NoSink(Sink),
    #[error("the backup says that {sink:?} has everything through entry {known}, which is more than {said}")]
    Behind { sink: Sink, said: u64, known: u64 },
}

/// Which attempts the cluster of the backup may have given since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Jobs that entered the log up to here are meant.
    pub index: u64,
    /// Their next attempts have higher numbers.
    pub floor: u32,
}

impl Fence {
    /// Called after every change of a job: one that waits goes on above the floor. A run in force keeps its number.
    pub(super) fn lift(self, job: &mut Job) {
        if job.submitted_index <= self.index && job.attempt < self.floor && awaits_attempt(job) {
            job.attempt = self.floor;
        }
    }
}

/// Whether the job may get another attempt while it is as it is.
fn awaits_attempt(job: &Job) -> bool {
    match job.state {
        JobState::Pending => true,
        JobState::Assigned | JobState::Running => job.spec.redundancy > 1,
        JobState::Completed | JobState::Failed | JobState::Cancelled => false,
    }
}

impl State {
    /// Makes a state that a new cluster can begin with, one entry behind this one. `term`: the highest that is known.
    /// `name`: of what its nodes must agree on besides.
    ///
    /// # Errors
    ///
    /// What `sinks` says contradicts the backup.
    pub fn restored(mut self, sinks: &Sinks, term: u64, name: Digest) -> Result<Self, Error> {
        let term = term.max(self.applied_term).saturating_add(TERMS);
        let position = Position { index: self.applied.saturating_add(1), term };
        self.move_sinks(sinks)?;
        self.journal.passed.due = true;
        let highest = self.jobs.iter().map(|(_, job)| job.attempt).max().unwrap_or(0);
        // At least a step above all that the backup knows.
        let floor = (highest / STEP).saturating_add(2).saturating_mul(STEP);
        self.fence = Fence { index: self.applied, floor: floor.max(self.fence.floor.saturating_add(STEP)) };
        let waiting: Vec<_> = self.index.active.keys().copied().collect();
        for id in waiting {
            if let Some(job) = self.jobs.get_mut(&id) {
                self.fence.lift(Arc::make_mut(job));
            }
        }
        // Nodes that were restored differently show it from the first entry on.
        let mut seed = self.hash.0.to_vec();
        seed.extend(self.fence.index.to_be_bytes());
        seed.extend(self.fence.floor.to_be_bytes());
        seed.extend(name.0);
        self.hash = Digest::of(&seed);
        // What a client was told by the old cluster says nothing of this one.
        let salt = self.hash.0.iter().take(8).fold(0, |salt, byte| salt << 8 | u64::from(*byte));
        self.begin_history(salt);
        self.skip(position);
        Ok(self)
    }

    fn move_sinks(&mut self, sinks: &Sinks) -> Result<(), Error> {
        for (&sink, &through) in sinks {
            let known = self.journal.cursor(sink).ok_or(Error::NoSink(sink))?;
            let newest = self.journal.last_seq();
            let said = match through {
                Through::All => newest,
                Through::Entry(said) if said < known => return Err(Error::Behind { sink, said, known }),
                // What came after the backup is not in it.
                Through::Entry(said) => said.min(newest),
            };
            // A letter that went back is not kept.
            let replayed = |event: &Event| match event {
                Event::Replay { letter } => Some(*letter),
                _ => None,
            };
            let range = self.journal.after_while(known, said).filter_map(|entry| replayed(&entry.event));
            for letter in range.filter(|_| sink == Sink::Kafka).collect::<Vec<_>>() {
                self.kafka.remove(letter);
            }
            self.journal.deliver(sink, said);
            if sink == Sink::Chain {
                self.chain.books.planned = self.chain.books.planned.max(said);
                // All of it is about entries that planning has passed, so none is after what was said.
                self.chain.settled_elsewhere();
            }
        }
        Ok(())
    }
}
