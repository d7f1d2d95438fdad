//! The publisher's decisions without a producer, for `crate::sim`: which batch is
//! next, what its records look like, and when the cursor follows. The waiting
//! between them, and the sending, are the simulation's.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::cursor::{self, Progress};
use super::record::{Form, Outlet};
use crate::domain::journal::Sink;
use crate::domain::{Command, State};
use crate::kafka::{Message, Topics};

pub(crate) struct Publisher {
    outlet: Outlet,
    progress: Progress,
    committed: Option<Instant>,
}

/// Records that are sent together, and how far the cursor may go when all of them are acknowledged.
#[derive(Clone)]
pub(crate) struct Parcel {
    /// With the numbers of their entries.
    pub messages: Vec<(u64, Message)>,
    pub through: u64,
}

impl Publisher {
    /// As a new leader begins: behind the replicated cursor. The command makes the journal keep what is not published.
    pub fn begin(state: &State) -> Result<Self, Box<Command>> {
        let Some(through) = state.journal().cursor(Sink::Kafka) else {
            let through = state.journal().first_seq().saturating_sub(1);
            return Err(Command::Delivered { sink: Sink::Kafka, through }.into());
        };
        let topics = Topics { jobs: "jobs".to_owned(), workers: "workers".to_owned(), results: "results".to_owned() };
        let outlet = Outlet { topics, cluster: "sim".to_owned() };
        Ok(Self { outlet, progress: Progress { through, published: 0 }, committed: None })
    }

    /// What is to be sent now, if anything.
    pub fn next(&mut self, state: &State) -> Option<Parcel> {
        let mut batch = Batch::after(self.progress.through);
        while batch.extend(state) {}
        assert_eq!(batch.lost, 0, "entries were dropped that Kafka has not got");
        let message = |item| self.outlet.message(item, &Form::Whole);
        let messages: Vec<_> = batch.items.iter().map(|item| (item.seq, message(item))).collect();
        if messages.is_empty() {
            self.progress.through = self.progress.through.max(batch.through);
            return None;
        }
        Some(Parcel { messages, through: batch.through })
    }

    /// The broker acknowledged all of a parcel.
    pub fn acknowledged(&mut self, parcel: &Parcel) {
        self.progress.through = self.progress.through.max(parcel.through);
        self.progress.published = parcel.messages.last().map_or(self.progress.published, |(seq, _)| *seq);
    }

    /// The report that is due now.
    pub fn report(&mut self, state: &State, now: Instant) -> Option<Command> {
        let committed = state.journal().cursor(Sink::Kafka).unwrap_or(0);
        let since = self.committed.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        let due = cursor::due(self.progress, committed, since);
        due.filter(Duration::is_zero)?;
        self.committed = Some(now);
        Some(Command::Delivered { sink: Sink::Kafka, through: self.progress.through })
    }
}
