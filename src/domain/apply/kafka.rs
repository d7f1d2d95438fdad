//! What commands do to the replicated part of Kafka: intake, letters, cursors.
//!
//! A batch is taken item by item and in order. The first job that is refused
//! ends it: the offset stays before it, and whoever sent the batch hears why. So
//! nothing is skipped, and what was taken is never taken again.

use std::sync::Arc;

use super::Step;
use crate::domain::check;
use crate::domain::command::{Done, Refusal, Reply, Submit};
use crate::domain::journal::{Event, Sink};
use crate::domain::kafka::{Dead, Ingest, Ingested, Intake, Lane, Letter, Partition, Taken};

impl Step<'_> {
    pub(super) fn ingest(&mut self, ingest: &Ingest) -> Reply {
        self.same_cluster(&ingest.cluster)?;
        let mut intake = self.intake(&ingest.partition)?;
        let known = self.state.kafka.intake.contains_key(&ingest.partition);
        if known && intake.next < ingest.from {
            return Ok(Done::Ingested(Ingested { next: intake.next, refused: None }));
        }
        let mut refused = None;
        for item in &ingest.items {
            if item.offset < intake.next {
                continue;
            }
            let taken = match &item.taken {
                Taken::Job(submit) => self.take_job(submit, &mut intake),
                Taken::Letter(letter) => self.take_letter(letter, &mut intake),
            };
            if let Err(refusal) = taken {
                intake.next = item.offset;
                refused = Some(Box::new(refusal));
                break;
            }
            intake.next = item.offset.saturating_add(1);
        }
        if refused.is_none() {
            intake.next = intake.next.max(ingest.next);
        }
        self.state.kafka.cluster.get_or_insert_with(|| ingest.cluster.as_str().into());
        self.state.kafka.intake.insert(ingest.partition.clone(), intake);
        self.touched.partitions.insert(ingest.partition.clone());
        Ok(Done::Ingested(Ingested { next: intake.next, refused }))
    }

    fn take_job(&mut self, submit: &Submit, intake: &mut Intake) -> Result<(), Refusal> {
        check::submit(submit).map_err(Refusal::Invalid)?;
        match self.submit(submit) {
            Ok(Done::Submitted { created: true, .. }) => intake.jobs = intake.jobs.saturating_add(1),
            // The same submission again, even if its job ended long ago.
            Ok(_) | Err(Refusal::Forgotten { .. }) => intake.repeats = intake.repeats.saturating_add(1),
            Err(refusal) => return Err(refusal),
        }
        Ok(())
    }

    fn take_letter(&mut self, letter: &Letter, intake: &mut Intake) -> Result<(), Refusal> {
        self.room_for_letter(letter.size())?;
        let id = self.append(Event::Letter);
        self.touched.letters.insert(id);
        let failed_at = letter.first_failed_at.unwrap_or(self.state.now);
        self.state.kafka.add(Dead { id, failed_at, letter: Arc::new(letter.clone()), replay: None });
        intake.letters = intake.letters.saturating_add(1);
        Ok(())
    }

    /// Makes room by forgetting the oldest letters that are published.
    fn room_for_letter(&mut self, size: usize) -> Result<(), Refusal> {
        let published = self.state.journal.cursor(Sink::Kafka).unwrap_or(0);
        loop {
            let (limits, kafka) = (&self.state.limits, &self.state.kafka);
            let bounds = [
                (kafka.letters() + 1, limits.letters),
                (kafka.letter_bytes().saturating_add(size), limits.letter_bytes),
                (self.state.journal.len() + 1, limits.journal_max),
            ];
            let Some((_, limit)) = bounds.into_iter().find(|(wanted, limit)| wanted > limit) else { return Ok(()) };
            let oldest = kafka.letters.first().map(|(_, dead)| (dead.id, dead.replay));
            match oldest {
                Some((id, None)) if id <= published => {
                    self.state.kafka.remove(id);
                    self.touched.letters.insert(id);
                }
                _ => return Err(Refusal::LettersFull { limit: u64::try_from(limit).unwrap_or(u64::MAX) }),
            }
        }
    }

    /// Of a partition that is known, or that there is room for.
    fn intake(&self, partition: &Partition) -> Result<Intake, Refusal> {
        let (known, most) = (&self.state.kafka.intake, self.state.limits.partitions);
        match known.get(partition) {
            Some(intake) => Ok(*intake),
            None if known.len() < most => Ok(Intake::default()),
            None => Err(Refusal::Invalid(format!("{most} partitions are read already"))),
        }
    }

    fn same_cluster(&self, found: &str) -> Result<(), Refusal> {
        match self.state.kafka.cluster() {
            Some(known) if known != found => {
                Err(Refusal::OtherKafka { known: known.to_owned(), found: found.to_owned() })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn seek_intake(&mut self, partition: &Partition, next: u64) -> Reply {
        let intake = Intake { next, ..self.intake(partition)? };
        self.state.kafka.intake.insert(partition.clone(), intake);
        self.touched.partitions.insert(partition.clone());
        Ok(Done::Ingested(Ingested { next, refused: None }))
    }

    pub(super) fn reset_intake(&mut self, cluster: &str) -> Reply {
        if self.state.kafka.cluster() == Some(cluster) {
            return Ok(Done::Unchanged);
        }
        self.state.kafka.cluster = Some(cluster.into());
        self.touched.partitions.extend(std::mem::take(&mut self.state.kafka.intake).into_keys());
        Ok(Done::Ingested(Ingested { next: 0, refused: None }))
    }

    pub(super) fn replay_letter(&mut self, id: u64) -> Reply {
        match self.state.kafka.letter(id) {
            None => return Err(Refusal::UnknownLetter(id)),
            Some(dead) if dead.replay.is_some() => return Ok(Done::Unchanged),
            Some(dead) if dead.letter.left_out > 0 => {
                let bytes = dead.letter.left_out;
                return Err(Refusal::Invalid(format!("letter {id} does not carry its value of {bytes} bytes")));
            }
            Some(_) => {}
        }
        let replay = self.append(Event::Replay { letter: id });
        if let Some(dead) = self.state.kafka.letters.get_mut(&id) {
            dead.replay = Some(replay);
        }
        self.touched.letters.insert(id);
        Ok(Done::Letter { letter: id })
    }

    pub(super) fn drop_letter(&mut self, id: u64) -> Reply {
        self.state.kafka.remove(id).ok_or(Refusal::UnknownLetter(id))?;
        self.touched.letters.insert(id);
        Ok(Done::Letter { letter: id })
    }

    pub(super) fn delivered(&mut self, sink: Sink, through: u64) -> Reply {
        let newest = self.state.journal.last_seq();
        if through > newest {
            return Err(Refusal::Invalid(format!("journal entry {through} does not exist, the newest is {newest}")));
        }
        let before = self.state.journal.cursor(sink);
        if !self.state.journal.deliver(sink, through) {
            return Ok(Done::Unchanged);
        }
        if sink == Sink::Kafka {
            self.published(before.unwrap_or(0), through);
        }
        Ok(Done::Delivered { through })
    }

    /// Counts what Kafka has got, and takes letters that went back out of the queue.
    fn published(&mut self, before: u64, through: u64) {
        let state = &mut *self.state;
        let mut gone = vec![];
        for entry in state.journal.after_while(before, through) {
            let Some(lane) = Lane::of(&entry.event) else { continue };
            let count = state.kafka.published.entry(lane).or_default();
            *count = count.saturating_add(1);
            if let Event::Replay { letter } = entry.event {
                gone.push(letter);
            }
        }
        for letter in gone {
            state.kafka.remove(letter);
            self.touched.letters.insert(letter);
        }
    }

    pub(super) fn forget_sink(&mut self, sink: Sink) -> Reply {
        Ok(if self.state.journal.forget_sink(sink) { Done::Delivered { through: 0 } } else { Done::Unchanged })
    }
}
