//! The one way the state changes.
//!
//! A record is applied command by command; each sees what the ones before it
//! did. A refused command changes nothing. After the last one, what is beyond
//! the bounds is archived or forgotten, and the rolling hash takes in every record that was
//! touched, so that two nodes that differ anywhere differ there from then on.
//!
//! Invariants
//!
//! * Deterministic: all that is read is the state and the record.
//! * The clock never runs backwards, whatever a record says.
//! * Every change of a job goes through [`Step::change`], which keeps the
//!   indexes, and every change of its state or holder through
//!   [`Step::transition`], which keeps history and journal.

mod callbacks;
mod chain;
mod jobs;
mod kafka;
mod level;
mod members;
pub(super) mod retain;
mod retry;
mod votes;
mod workers;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::check;
use super::command::{Command, Done, Record, Refusal, Reply};
use super::ids::{Digest, JobId, WorkerId};
use super::index::{Facets, place};
use super::job::{Cause, HISTORY_MAX, Job, JobError, JobState, Transition};
use super::journal::Event;
use super::kafka::Partition;
use super::state::{State, name_of};
use super::time::Timestamp;

/// Bytes kept of an error's detail and of a reason. The rest is cut at a character.
const DETAIL_MAX: usize = 4 << 10;

/// Where in the log a record stands.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

impl State {
    /// Applies one log entry; one reply per command, in order.
    ///
    /// The caller applies each entry once, in the order of the log.
    pub fn apply(&mut self, position: Position, record: &Record) -> Vec<Reply> {
        self.now = self.now.max(record.at);
        let jobs = &self.jobs;
        self.index.promote(self.now, &mut self.shares, |id| jobs.get(&id));
        let mut step = Step { state: self, position, touched: Touched::default() };
        step.draw_back();
        let replies: Vec<Reply> = record.commands.iter().map(|command| step.command(command)).collect();
        step.strip_evidence();
        step.archive();
        let touched = step.touched;
        self.journal.trim(self.limits.journal_keep, self.limits.journal_max);
        self.advance(position, record.at, &touched, &replies);
        if self.history == 0 {
            self.history = name_of(&self.hash);
        }
        replies
    }

    /// Records that an entry without commands (a leader's blank, a membership) was applied.
    pub fn skip(&mut self, position: Position) {
        self.advance(position, Timestamp::default(), &Touched::default(), &[]);
    }

    /// Moves to `position` and takes what was touched into the hash.
    fn advance(&mut self, position: Position, at: Timestamp, touched: &Touched, replies: &[Reply]) {
        self.applied = position.index;
        self.applied_term = position.term;
        let mut hash = Sha256::new();
        hash.update(self.hash.0);
        for number in [position.index, position.term, at.0, self.now.0, self.journal.last_seq(), self.shares.now()] {
            hash.update(number.to_be_bytes());
        }
        let mut buffer = Vec::with_capacity(1 << 10);
        for id in &touched.jobs {
            absorb(&mut hash, &mut buffer, &(id, self.jobs.get(id)));
        }
        for id in &touched.workers {
            absorb(&mut hash, &mut buffer, &(id, self.workers.get(id)));
        }
        for partition in &touched.partitions {
            absorb(&mut hash, &mut buffer, &(partition, self.kafka.intake.get(partition), self.kafka.cluster()));
        }
        for id in &touched.letters {
            absorb(&mut hash, &mut buffer, &(id, self.kafka.letter(*id)));
        }
        for event in &touched.notices {
            absorb(&mut hash, &mut buffer, &(event, self.callbacks.notice(*event)));
        }
        for id in &touched.settlements {
            absorb(&mut hash, &mut buffer, &(id, self.chain.settlement(*id)));
        }
        if touched.chain {
            self.absorb_chain(&mut hash, &mut buffer);
        }
        absorb(&mut hash, &mut buffer, &self.level);
        #[cfg(any(test, debug_assertions))]
        if self.level >= super::level::TRIAL {
            absorb(&mut hash, &mut buffer, &self.trial);
        }
        if touched.members {
            absorb(&mut hash, &mut buffer, &self.members);
        }
        if touched.archive {
            absorb(&mut hash, &mut buffer, &self.archive.summary());
        }
        for cursor in self.journal.cursors() {
            absorb(&mut hash, &mut buffer, &cursor);
        }
        absorb(&mut hash, &mut buffer, &replies);
        self.hash = Digest(hash.finalize().into());
    }

    /// What is in motion on chain is little; the jobs' records are taken in one by one.
    fn absorb_chain(&self, hash: &mut Sha256, buffer: &mut Vec<u8>) {
        absorb(hash, buffer, &self.chain.books);
        for (nonce, slot) in self.chain.lane() {
            let hashes: Vec<_> = slot.tries.iter().map(|known| known.hash).collect();
            absorb(hash, buffer, &(nonce, hashes, &slot.landed));
        }
        for again in self.chain.again() {
            absorb(hash, buffer, &(again.item.seq, again.tries));
        }
        absorb(hash, buffer, &self.chain.parked_len());
    }
}

/// Hashes a value's encoding. The options and lists in it carry their own lengths, so no two sequences look alike.
fn absorb(hash: &mut Sha256, buffer: &mut Vec<u8>, value: &impl Serialize) {
    buffer.clear();
    if bincode::serde::encode_into_std_write(value, buffer, bincode::config::standard()).is_err() {
        // Writing to memory does not fail, and our types have no failing encoder.
        buffer.push(u8::MAX);
    }
    hash.update(&*buffer);
}

/// One record on its way into the state.
struct Step<'a> {
    state: &'a mut State,
    position: Position,
    touched: Touched,
}

/// What a record changed or removed.
#[derive(Default)]
struct Touched {
    jobs: BTreeSet<JobId>,
    workers: BTreeSet<WorkerId>,
    partitions: BTreeSet<Partition>,
    letters: BTreeSet<u64>,
    settlements: BTreeSet<JobId>,
    notices: BTreeSet<u64>,
    /// The books of the chain.
    chain: bool,
    /// The books of the membership.
    members: bool,
    /// What left memory, or was removed.
    archive: bool,
}

impl Step<'_> {
    fn command(&mut self, command: &Command) -> Reply {
        check::command(command).map_err(Refusal::Invalid)?;
        match command {
            Command::Submit(submit) => self.submit(submit),
            Command::Cancel { job, reason } => self.cancel(*job, reason),
            Command::Retry { job } => self.retry(*job),
            Command::RegisterWorker { worker, capabilities, location, version } => {
                self.register(*worker, capabilities, location, version)
            }
            Command::UnregisterWorker { worker } => self.unregister(*worker),
            Command::Drain { worker } => self.set_draining(*worker, true),
            Command::Resume { worker } => self.set_draining(*worker, false),
            Command::SetVerdict { worker, verdict } => self.set_verdict(*worker, *verdict),
            Command::Assign { job, attempt, worker, price, lease_ms, evidence } => {
                self.assign(*job, *attempt, *worker, *price, *lease_ms, evidence.as_ref())
            }
            Command::Started { job, attempt, worker } => self.started(*job, *attempt, *worker),
            Command::Renew { job, attempt, lease_ms } => self.renew(*job, *attempt, *lease_ms),
            Command::Expire { job, attempt } => self.expire(*job, *attempt),
            Command::Decline { job, attempt, worker } => self.decline(*job, *attempt, *worker),
            Command::Complete(complete) => self.complete(complete),
            Command::Fail(fail) => self.fail(fail),
            Command::PassDeadline { job } => self.pass_deadline(*job),
            Command::Delivered { sink, through } => self.delivered(*sink, *through),
            Command::ForgetSink { sink } => self.forget_sink(*sink),
            Command::Ingest(ingest) => self.ingest(ingest),
            Command::SeekIntake { partition, next } => self.seek_intake(partition, *next),
            Command::ResetIntake { cluster } => self.reset_intake(cluster),
            Command::ReplayLetter { letter } => self.replay_letter(*letter),
            Command::DropLetter { letter } => self.drop_letter(*letter),
            Command::Chain(act) => self.chain(act),
            Command::CalledBack { event, called } => self.called_back(*event, called),
            Command::Retain(retain) => self.retain(retain),
            Command::Member(act) => self.member(act),
            Command::RaiseLevel { to } => self.raise_level(*to),
            #[cfg(any(test, debug_assertions))]
            Command::Trial { add } => self.trial(*add),
        }
    }

    /// Changes a job and keeps the indexes. Returns the job's state.
    fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) -> Reply {
        let now = self.state.now;
        let job = self.state.jobs.get_mut(&id).ok_or(Refusal::UnknownJob(id))?;
        let was = Facets::of(job, now);
        let job = Arc::make_mut(job);
        change(job);
        self.state.fence.lift(job);
        let state = job.state;
        self.state.index.change(Some(&was), Some(&Facets::of(job, now)), &mut self.state.shares);
        self.touched.jobs.insert(id);
        Ok(Done::Job { job: id, state })
    }

    /// Changes a job, and writes into its history and the journal what happened to it, or to one of its runs.
    fn transition(&mut self, id: JobId, run: Option<u32>, cause: Cause, change: impl FnOnce(&mut Job)) -> Reply {
        let (Position { index, term }, at) = (self.position, self.state.now);
        let mut event = None;
        let reply = self.change(id, |job| {
            let holder = concerned(job, run);
            change(job);
            let worker = concerned(job, run).or(holder);
            let (state, attempt) = (job.state, run.unwrap_or(job.attempt));
            remember(job, Transition { index, term, at, state, attempt, cause, worker });
            event = Some(Event::Job { job: id, state, attempt, cause, worker });
        })?;
        if let Some(event) = event {
            self.state.journal.append(at, index, term, event);
        }
        Ok(reply)
    }

    /// Ends a job for good. Its input goes, unless someone may want to see what it failed on.
    fn finish(
        &mut self,
        id: JobId,
        run: Option<u32>,
        state: JobState,
        cause: Cause,
        change: impl FnOnce(&mut Job),
    ) -> Reply {
        let now = self.state.now;
        self.drop_ballots(id);
        let reply = self.transition(id, run, cause, |job| {
            job.state = state;
            job.finished_at = Some(now);
            change(job);
        })?;
        if state != JobState::Failed {
            self.state.payloads.remove(&id);
        }
        let ended = &mut self.state.ended_total[place(state)];
        *ended = ended.saturating_add(1);
        self.leave_notice(id);
        Ok(reply)
    }

    /// Ends a run that failed: another follows after `delay_ms`, or the job fails.
    fn attempt_failed(
        &mut self,
        id: JobId,
        attempt: u32,
        cause: Cause,
        error: JobError,
        delay_ms: Option<u64>,
    ) -> Reply {
        let job = self.state.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        let failures = job.failures.saturating_add(1);
        let retried = delay_ms.filter(|_| failures < job.failures_max());
        let next = self.state.now.after_ms(retried.unwrap_or(0));
        let change = |job: &mut Job| {
            job.failures = failures;
            job.error = Some(error.into());
        };
        if retried.is_none() {
            return self.finish(id, Some(attempt), JobState::Failed, cause, |job| {
                change(job);
                // What failed was not cancelled. The one run of a job without redundancy says who failed it.
                job.runs.retain(|run| run.attempt != attempt || run.ballot.is_none());
            });
        }
        self.transition(id, Some(attempt), cause, |job| {
            change(job);
            give_up(job, attempt, next);
        })
    }

    /// Forgets the evidence of the oldest finished jobs beyond the bound.
    fn strip_evidence(&mut self) {
        while self.state.index.evidenced.len() > self.state.limits.evidence {
            let Some((&(_, id), ())) = self.state.index.evidenced.first() else { break };
            let stripped = self.change(id, |job| job.runs.iter_mut().for_each(|run| run.award.evidence = None));
            if stripped.is_err() {
                break;
            }
        }
    }
}

/// The worker that a change of a job is about.
fn concerned(job: &Job, run: Option<u32>) -> Option<WorkerId> {
    let concerns = |attempt: u32| match run {
        Some(run) => attempt == run,
        None => job.spec.redundancy <= 1,
    };
    job.runs.iter().find(|run| concerns(run.attempt)).map(|run| run.award.worker)
}

/// Takes a run out of force; the next may begin at `next`.
fn give_up(job: &mut Job, attempt: u32, next: Timestamp) {
    job.runs.retain(|run| run.attempt != attempt);
    job.state = job.standing();
    job.next_attempt_at = job.next_attempt_at.max(next);
}

/// Adds a line to a job's history. The first line stays; beyond the bound the oldest after it goes.
fn remember(job: &mut Job, line: Transition) {
    if job.history.len() >= HISTORY_MAX {
        job.history.remove(1);
    }
    job.history.push(line);
    if job.state.is_final() {
        job.history.shrink_to_fit();
    }
}

fn cut(text: &str) -> String {
    cut_to(text, DETAIL_MAX)
}

fn cut_to(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}
