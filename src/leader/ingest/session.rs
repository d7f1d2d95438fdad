//! Reading, from one survey of the topic until something makes it begin anew.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::{debug, info};

use super::begin::{Begin, begin, out_of_range};
use super::judge::{Entry, Rules};
use super::lanes::{Heard, Lanes, Sent};
use super::trouble::Trouble;
use super::{Bounds, Duty};
use crate::chain;
use crate::clock;
use crate::consensus::{self, Committed};
use crate::domain::command::Reply;
use crate::domain::kafka::{Ingest, Partition};
use crate::domain::{Command, State, Timestamp};
use crate::kafka::{Alarm, Error, Marks, Reader, Record, Survey};
use crate::leader::COMMIT_LIMIT;
use crate::telemetry::metrics;

/// How long one look at Kafka waits for records.
const WAIT: Duration = Duration::from_millis(200);

/// Between two looks at the log: for seeks, for how many jobs are under way.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Between two looks for new partitions.
const SURVEY: Duration = Duration::from_secs(10);

/// Before a partition is given up that has less than was read.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Between two notes of our offsets for dashboards.
const NOTE: Duration = Duration::from_secs(5);

/// How long nothing is sent after the log took nothing, and after Kafka was down.
const REST: Duration = Duration::from_millis(200);

/// Batches of more than this are judged on a thread of their own.
const ASIDE_BYTES: usize = 64 << 10;
const ASIDE_RECORDS: usize = 64;

pub(super) struct Session<'a> {
    duty: &'a Duty,
    reader: &'a mut Reader,
    alarm: &'a Alarm,
    cluster: String,
    lanes: Lanes,
    bounds: Bounds,
    commit: Option<Commit>,
    /// Too many jobs are under way: nothing is read or sent.
    pressed: bool,
    /// What else is wrong, for people.
    trouble: Option<String>,
    /// What is read does not match the lanes any more.
    reassign: bool,
    clocks: Clocks,
}

/// When what is done next.
struct Clocks {
    look: Instant,
    survey: Instant,
    note: Instant,
    send: Instant,
}

/// What is on its way into the log.
struct Commit {
    sent: Vec<Sent>,
    begun: Instant,
    answer: JoinHandle<Option<Result<Committed, consensus::Error>>>,
}

impl<'a> Session<'a> {
    /// Looks what there is, and assigns it.
    pub async fn begin(duty: &'a Duty, reader: &'a mut Reader, alarm: &'a Alarm) -> Result<Self, Trouble> {
        let now = clock::instant();
        let mut session = Self {
            duty,
            reader,
            alarm,
            cluster: String::new(),
            lanes: Lanes::default(),
            bounds: duty.bounds(),
            commit: None,
            pressed: false,
            trouble: None,
            reassign: true,
            clocks: Clocks { look: now, survey: now + SURVEY, note: now + NOTE, send: now },
        };
        session.survey().await?;
        Ok(session)
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn partitions(&self) -> usize {
        self.lanes.partitions().count()
    }

    /// Reads and commits, until something makes it begin anew.
    pub async fn go_on(&mut self) -> Result<Infallible, Trouble> {
        loop {
            self.look().await?;
            self.steer().await?;
            self.send();
            let (most, bytes) = (self.bounds.each, self.bounds.bytes);
            tokio::select! {
                biased;
                answer = answer(&mut self.commit) => self.hear(answer)?,
                read = self.reader.read(most, bytes, WAIT) => self.take(read).await?,
            }
        }
    }

    /// Adds partitions that are not read yet, from where the log or else the configuration says.
    async fn survey(&mut self) -> Result<(), Trouble> {
        let options = self.duty.handle.options();
        let mut survey = self.reader.survey(&options.topics.jobs).await?;
        if self.is_behind(&survey) {
            tokio::time::sleep(SECOND_LOOK).await;
            survey = self.reader.survey(&options.topics.jobs).await?;
        }
        let (known, offsets) = self.duty.client.read(|state| {
            let kafka = state.kafka();
            let offsets = kafka.intake().map(|(partition, intake)| (partition.clone(), intake.next));
            (kafka.cluster().map(str::to_owned), offsets.collect::<BTreeMap<Partition, u64>>())
        });
        if let Some(known) = known.filter(|known| *known != survey.cluster_id) {
            return Err(Trouble::OtherCluster { known, found: survey.cluster_id });
        }
        self.cluster = survey.cluster_id;
        let begun = offsets.keys().any(|partition| *partition.topic == *options.topics.jobs);
        let mut pins = Vec::new();
        for marks in survey.partitions {
            if self.lanes.knows(&marks.partition) {
                continue;
            }
            let next = offsets.get(&marks.partition).copied();
            let partition = marks.partition.clone();
            match begin(next, &marks, options.intake.from, begun) {
                Begin::At(at) => {
                    if next.is_none() {
                        pins.push((partition.clone(), at));
                    }
                    self.lanes.add(partition, at, None);
                }
                Begin::OutOfRange { next, low, high } => {
                    let why = out_of_range(&partition, next, low, high);
                    self.lanes.add(partition, next, Some(why));
                }
            }
            self.reassign = true;
        }
        self.pin(pins).await
    }

    /// Whether a broker seems to have less than was read: one that just took over may for a moment.
    fn is_behind(&self, survey: &Survey) -> bool {
        let beyond = |state: &State, marks: &Marks| state.kafka().next_offset(&marks.partition) > Some(marks.high);
        let new = || survey.partitions.iter().filter(|marks| !self.lanes.knows(&marks.partition));
        self.duty.client.read(|state| new().any(|marks| beyond(state, marks)))
    }

    /// Tells the log where partitions begin, so that every leader to come agrees, also on what is the latest.
    async fn pin(&mut self, pins: Vec<(Partition, u64)>) -> Result<(), Trouble> {
        if pins.is_empty() {
            return Ok(());
        }
        let commands = pins.iter().map(|(partition, at)| {
            let (cluster, partition) = (self.cluster.clone(), partition.clone());
            Command::Ingest(Box::new(Ingest { cluster, partition, from: *at, items: vec![], next: *at }))
        });
        let committed = self.duty.client.submit_as_leader(self.duty.term, commands.collect(), COMMIT_LIMIT).await;
        #[cfg(test)]
        self.duty.answers.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let committed = committed.map_err(|error| {
            debug!(%error, "the log did not take where partitions begin");
            Trouble::Unanswered
        })?;
        for ((partition, _), reply) in pins.into_iter().zip(committed.replies) {
            match reply {
                Ok(_) => info!(partition = partition.number, "partition is read"),
                Err(refusal) => self.lanes.stick(&partition, refusal.to_string()),
            }
        }
        Ok(())
    }

    /// Compares with the log: an operator may have moved intake, and jobs may have piled up or been done.
    async fn look(&mut self) -> Result<(), Trouble> {
        let now = clock::instant();
        if now >= self.clocks.survey {
            self.clocks.survey = now + SURVEY;
            if self.has_new_partitions() {
                self.survey().await?;
            }
        }
        if now < self.clocks.look {
            return Ok(());
        }
        self.clocks.look = now + LOOK;
        let free = self.commit.is_none();
        let lanes = &self.lanes;
        let (cluster, active, offsets) = self.duty.client.read(|state| {
            let kafka = state.kafka();
            let offset = |partition: &Partition| (partition.clone(), kafka.next_offset(partition));
            let offsets: Vec<_> = if free { lanes.partitions().map(offset).collect() } else { vec![] };
            (kafka.cluster().map(str::to_owned), active(state), offsets)
        });
        if let Some(known) = cluster.filter(|known| *known != self.cluster) {
            return Err(Trouble::OtherCluster { known, found: self.cluster.clone() });
        }
        for (partition, next) in offsets {
            if self.lanes.compare(&partition, next) {
                info!(topic = &*partition.topic, partition = partition.number, next, "intake was moved");
                self.reassign = true;
            }
        }
        self.press(active);
        self.note().await;
        Ok(())
    }

    fn has_new_partitions(&self) -> bool {
        let jobs = &self.duty.handle.options().topics.jobs;
        let view = self.duty.handle.view();
        view.marks.iter().any(|marks| *marks.partition.topic == **jobs && !self.lanes.knows(&marks.partition))
    }

    /// Reading pauses when too many jobs are under way, and goes on at the half of it. Returns how many more may come.
    fn press(&mut self, active: usize) -> usize {
        let most = self.duty.handle.options().intake.max_in_flight_jobs;
        let pressed = if self.pressed { active > most / 2 } else { active >= most };
        if pressed != self.pressed {
            info!(active, most, paused = pressed, "jobs under way");
            if pressed {
                metrics::intake_paused("in_flight");
            }
        }
        self.pressed = pressed;
        if pressed { 0 } else { most.saturating_sub(active) }
    }

    /// Tells people what is wrong, and dashboards how far intake is.
    async fn note(&mut self) {
        let alarms: Vec<String> = self.trouble.iter().cloned().chain(self.lanes.alarms()).collect();
        self.alarm.note((!alarms.is_empty()).then(|| alarms.join("; ")));
        let now = clock::instant();
        if now < self.clocks.note {
            return;
        }
        self.clocks.note = now + NOTE;
        if let Err(error) = self.reader.note_offsets(&self.lanes.offsets()).await {
            debug!(%error, "offsets were not noted");
        }
    }

    /// Makes what is read agree with what is wanted.
    async fn steer(&mut self) -> Result<(), Trouble> {
        if self.reassign {
            let at = self.lanes.assignment();
            self.reader.assign(&at).await?;
            self.reassign = false;
        }
        let (pause, resume) = self.lanes.pauses(self.pressed, clock::instant());
        if !pause.is_empty() {
            self.reader.pause(&pause).await?;
        }
        if !resume.is_empty() {
            self.reader.resume(&resume).await?;
        }
        Ok(())
    }

    /// Sends the log what is next, if nothing is under way.
    fn send(&mut self) {
        let now = clock::instant();
        if self.commit.is_some() || self.pressed || now < self.clocks.send {
            return;
        }
        let duty = self.duty;
        let client = &duty.client;
        let room = self.press(client.read(active));
        let bounds = Bounds { records: self.bounds.records.min(room), ..self.bounds };
        let known = |job| client.read(|state: &State| state.remembers(job));
        let least = duty.chain.as_ref().and_then(chain::Handle::min_payment);
        let rules = Rules { door: duty.door, now: client.log_now(), least, known: &known };
        let cut = self.lanes.cut(&self.cluster, bounds, &rules, now);
        if cut.is_empty() {
            return;
        }
        let (sent, commands): (Vec<Sent>, Vec<Command>) = cut.into_iter().unzip();
        let (client, term, token) = (client.clone(), duty.term, duty.tasks.token().clone());
        let answer = duty.tasks.spawn("intake commit", async move {
            token.run_until_cancelled(client.submit_as_leader(term, commands, COMMIT_LIMIT)).await
        });
        self.commit = Some(Commit { sent, begun: now, answer });
    }

    /// Takes the log's answer.
    fn hear(&mut self, answer: Option<Result<Committed, consensus::Error>>) -> Result<(), Trouble> {
        let Some(Commit { sent, begun, .. }) = self.commit.take() else { return Ok(()) };
        #[cfg(test)]
        self.duty.answers.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let replies = match answer {
            Some(Ok(committed)) if committed.replies.len() == sent.len() => committed.replies,
            Some(Err(error)) => return self.not_taken(&error),
            _ => return Err(Trouble::Unanswered),
        };
        metrics::intake_batch(begun.elapsed());
        self.trouble = None;
        let now = self.duty.client.log_now();
        for (sent, reply) in sent.iter().zip(&replies) {
            self.hear_one(sent, reply, now)?;
        }
        for (outcome, count) in self.lanes.take_tally() {
            metrics::intake(outcome, count);
        }
        Ok(())
    }

    fn hear_one(&mut self, sent: &Sent, reply: &Reply, now: Timestamp) -> Result<(), Trouble> {
        match self.lanes.hear(sent, reply, now, clock::instant()) {
            Heard::Fine => {}
            Heard::Held(why) => metrics::intake_paused(why),
            Heard::Buried(code) => debug!(partition = sent.partition.number, code, "a record became a dead letter"),
            Heard::Moved => self.reassign = true,
            Heard::Anew => return Err(Trouble::Unanswered),
        }
        Ok(())
    }

    /// The log certainly took nothing, or nobody knows.
    fn not_taken(&mut self, error: &consensus::Error) -> Result<(), Trouble> {
        debug!(%error, "a batch was not committed");
        let full = error.is_full();
        if !full && !matches!(error, consensus::Error::Overloaded) {
            return Err(Trouble::Unanswered);
        }
        if full {
            self.trouble = Some("the disk has no room for new jobs".to_owned());
            metrics::intake_paused("storage_full");
        }
        self.clocks.send = clock::instant() + REST.mul_f64(0.5 + rand::random::<f64>());
        Ok(())
    }

    /// Takes what Kafka had.
    async fn take(&mut self, read: Result<Vec<Record>, Error>) -> Result<(), Trouble> {
        match read {
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                metrics::intake_read(records.len());
                let entries = self.judged(records).await?;
                self.lanes.push(entries);
            }
            Err(Error::OutOfRange { partition, next, low, high }) => {
                self.lanes.stick(&partition, out_of_range(&partition, next, low, high));
                self.reassign = true;
            }
            // It reconnects by itself, with its own back-off; what is under way in the log goes on.
            Err(Error::Down(why)) => {
                debug!(why, "kafka is down");
                tokio::time::sleep(REST.mul_f64(0.5 + rand::random::<f64>())).await;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Judges records, away from the runtime's threads if they are many.
    async fn judged(&self, records: Vec<Record>) -> Result<Vec<Entry>, Trouble> {
        let (door, now) = (self.duty.door, self.duty.client.log_now());
        let judge = move |records: Vec<Record>| -> Vec<Entry> {
            records.into_iter().map(|record| Entry::of(record, door, now)).collect()
        };
        let bytes: usize = records.iter().map(Record::size).sum();
        if bytes < ASIDE_BYTES && records.len() < ASIDE_RECORDS {
            return Ok(judge(records));
        }
        self.duty.tasks.spawn_blocking(move || judge(records)).await.map_err(|_| Error::Stopping.into())
    }
}

/// Waits for what is under way; for ever if nothing is.
async fn answer(commit: &mut Option<Commit>) -> Option<Result<Committed, consensus::Error>> {
    match commit {
        Some(commit) => (&mut commit.answer).await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Jobs that have not ended.
fn active(state: &State) -> usize {
    let counts = state.job_counts();
    let active: u64 = counts.into_iter().filter(|(state, _)| !state.is_final()).map(|(_, count)| count).sum();
    usize::try_from(active).unwrap_or(usize::MAX)
}
