//! Kafka as this node knows it at one moment: its own connection beside what is replicated.
//!
//! The replicated part (offsets, letters, counts, cursor) is the same on every
//! node at the same index. The connection, the brokers and the watermarks are
//! this node's own, whether it leads or not: so a follower that can not reach
//! Kafka says so before it has to lead.
//!
//! Status, statistics, health and metrics are all made from one [`Picture`], so
//! that they can not disagree. What is not known is `None`, never 0.

use std::collections::BTreeMap;

use crate::domain::journal::Sink;
use crate::domain::kafka::{Intake, Lane, Partition};
use crate::domain::state::LIMITS;
use crate::domain::{State, Timestamp};
use crate::kafka;
use crate::telemetry::metrics;
use crate::telemetry::traffic::Traffic;

use super::alarms::{self, Alarm};
use crate::api::Context;

/// This node's own view.
#[derive(Clone, Debug)]
pub struct Own {
    pub state: &'static str,
    pub bootstrap_servers: Vec<String>,
    pub mode: &'static str,
    pub delivery: &'static str,
    pub topics: Topics,
    /// Where a partition that was never read begins.
    pub from: kafka::Start,
    pub cluster_id: Option<String>,
    pub brokers: Vec<String>,
    /// Oldest offset, and the one after the newest, by partition of all our topics.
    pub marks: BTreeMap<Partition, (u64, u64)>,
    /// Topics of ours that do not exist.
    pub missing: Vec<String>,
    pub last_error: Option<String>,
    /// What keeps the duties of this node from their work; only on the leader.
    pub complaints: Vec<String>,
    /// When the broker was asked last.
    pub as_of: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct Topics {
    pub jobs: String,
    pub workers: String,
    pub results: String,
    pub dead_letters: String,
}

/// One partition of a topic that is read.
#[derive(Clone, Debug)]
pub struct Reading {
    pub partition: Partition,
    /// Replicated; `None` if nothing of it was ever taken.
    pub intake: Option<Intake>,
    /// Oldest offset, and the one after the newest.
    pub marks: Option<(u64, u64)>,
    /// Where it is read from if it never was, if this node knows.
    pub begin: Option<u64>,
}

impl Reading {
    /// Records that were not read yet; `None` if this node does not know how many there are.
    pub fn lag(&self) -> Option<u64> {
        let (_, high) = self.marks?;
        Some(high.saturating_sub(self.intake.map(|intake| intake.next).or(self.begin)?))
    }

    /// Records that made a job, repeated one, or became a letter.
    pub fn taken(&self) -> u64 {
        self.intake.map_or(0, |intake| intake.jobs.saturating_add(intake.repeats).saturating_add(intake.letters))
    }
}

#[derive(Clone, Debug)]
pub struct Picture {
    /// `None`: Kafka is disabled on this node.
    pub own: Option<Own>,
    /// The cluster that the offsets are of.
    pub recorded_cluster: Option<String>,
    pub readings: Vec<Reading>,
    pub published: BTreeMap<Lane, u64>,
    pub letters: u64,
    pub letter_bytes: u64,
    pub cursor: Option<u64>,
    /// Events of the journal that Kafka has not got.
    pub undelivered: u64,
    /// Events that were dropped although Kafka had not got them: it was behind for too long.
    pub lost: u64,
    pub applied_index: u64,
}

impl Picture {
    /// Looks at this node and its state.
    pub fn of(context: &Context) -> Self {
        let own = context.kafka.as_ref().map(own);
        context.client.read(|state| Self::from_parts(own, state))
    }

    pub fn from_parts(own: Option<Own>, state: &State) -> Self {
        let (kafka, journal) = (state.kafka(), state.journal());
        let cursor = journal.cursor(Sink::Kafka);
        let dropped = journal.first_seq().saturating_sub(1);
        // A sink that never reported begins with the oldest event there is.
        let behind = cursor.unwrap_or(dropped);
        let wanted = cursor.is_some() || own.is_some();
        let all = [Lane::Results, Lane::Workers, Lane::DeadLetters, Lane::Replays];
        Self {
            readings: readings(own.as_ref(), state),
            own,
            recorded_cluster: kafka.cluster().map(str::to_owned),
            published: all.into_iter().map(|lane| (lane, kafka.published(lane))).collect(),
            letters: count(kafka.letters()),
            letter_bytes: count(kafka.letter_bytes()),
            cursor,
            undelivered: if wanted { journal.waiting_after(behind) } else { 0 },
            lost: cursor.map_or(0, |cursor| journal.given(cursor, dropped)),
            applied_index: state.applied(),
        }
    }

    /// connected, connecting, down or disabled.
    pub fn state(&self) -> &'static str {
        self.own.as_ref().map_or("disabled", |own| own.state)
    }

    pub fn alarms(&self) -> Vec<Alarm> {
        alarms::of(self)
    }

    /// Records not read yet, over all partitions; `None` if that of one is not known.
    pub fn lag(&self) -> Option<u64> {
        self.readings.iter().map(Reading::lag).sum()
    }

    pub fn published(&self, lane: Lane) -> u64 {
        self.published.get(&lane).copied().unwrap_or(0)
    }

    /// What was read from and written to each topic, as far as its name is known here.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        let mut topics: BTreeMap<String, Traffic> = BTreeMap::new();
        let mut add = |topic: &str, read: u64, written: u64| {
            let traffic = topics.entry(topic.to_owned()).or_default();
            traffic.read = traffic.read.saturating_add(read);
            traffic.written = traffic.written.saturating_add(written);
        };
        for reading in &self.readings {
            add(&reading.partition.topic, reading.taken(), 0);
        }
        if let Some(Own { topics, .. }) = &self.own {
            add(&topics.jobs, 0, self.published(Lane::Replays));
            add(&topics.results, 0, self.published(Lane::Results));
            add(&topics.workers, 0, self.published(Lane::Workers));
            add(&topics.dead_letters, 0, self.published(Lane::DeadLetters));
        }
        topics
    }

    /// The same for a scrape.
    pub fn gauges(&self) -> metrics::Kafka {
        let raised = self.alarms();
        metrics::Kafka {
            connected: self.own.as_ref().map(|own| own.state == "connected"),
            partitions: self.readings.iter().map(partition_gauges).collect(),
            lag: self.own.as_ref().and_then(|_| self.lag()),
            letters: self.letters,
            letter_bytes: self.letter_bytes,
            undelivered: self.undelivered,
            undelivered_limit: count(LIMITS.journal_max),
            cursor: self.cursor,
            topics: self.traffic(),
            alarms: alarms::CODES
                .into_iter()
                .map(|code| (code, raised.iter().any(|alarm| alarm.code == code)))
                .collect(),
        }
    }
}

fn partition_gauges(reading: &Reading) -> metrics::KafkaPartition {
    metrics::KafkaPartition {
        topic: reading.partition.topic.to_string(),
        number: reading.partition.number,
        next: reading.intake.map(|intake| intake.next),
        lag: reading.lag(),
    }
}

/// Partitions that were read, and those of the job topic that this node sees beside them.
fn readings(own: Option<&Own>, state: &State) -> Vec<Reading> {
    let mut all: BTreeMap<Partition, Reading> = BTreeMap::new();
    for (partition, intake) in state.kafka().intake() {
        let reading = Reading { partition: partition.clone(), intake: Some(*intake), marks: None, begin: None };
        all.insert(partition.clone(), reading);
    }
    let Some(own) = own else { return all.into_values().collect() };
    for (partition, marks) in &own.marks {
        // The end of a partition that is read from there on is not known: it is where the leader first looked.
        let begin = (own.from == kafka::Start::Earliest).then_some(marks.0);
        match all.get_mut(partition) {
            Some(reading) => reading.marks = Some(*marks),
            None if *partition.topic == *own.topics.jobs => {
                let partition = partition.clone();
                all.insert(partition.clone(), Reading { partition, intake: None, marks: Some(*marks), begin });
            }
            None => {}
        }
    }
    all.into_values().collect()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// What this node's own connection says.
fn own(handle: &kafka::Handle) -> Own {
    let (view, options) = (handle.view(), handle.options());
    let topics = &options.topics;
    Own {
        state: view.state.as_str(),
        bootstrap_servers: options.bootstrap_servers.clone(),
        mode: options.mode.as_str(),
        delivery: options.delivery.as_str(),
        topics: Topics {
            jobs: topics.jobs.clone(),
            workers: topics.workers.clone(),
            results: topics.results.clone(),
            dead_letters: topics.dead_letters(),
        },
        from: options.intake.from,
        cluster_id: view.cluster_id,
        brokers: view.brokers,
        marks: view.marks.into_iter().map(|marks| (marks.partition, (marks.low, marks.high))).collect(),
        missing: view.missing,
        last_error: view.last_error,
        complaints: view.alarms,
        as_of: view.as_of,
    }
}
