//! What commands do to jobs: submission, award, attempt, end.
//!
//! Who speaks about an attempt names it. [`Step::holding`] is the fence: it lets
//! through only what is said about the attempt that is in force.

use std::sync::Arc;

use super::{Step, cut, give_up};
use crate::domain::auction::{Sealed, verify};
use crate::domain::chain::{Policy, Terms};
use crate::domain::command::{Complete, Done, Fail, Refusal, Reply, Submit};
use crate::domain::ids::{Digest, JobId, Price, WorkerId};
use crate::domain::index::{Facets, texts};
use crate::domain::job::{Award, Cause, Job, JobError, JobSpec, JobState, Outcome, Source, Transition};
use crate::domain::journal::Event;
use crate::domain::matching::misfits;
use crate::domain::reputation::{Fact, is_banned, is_late};
use crate::domain::run::{Ballot, Run, Vote};
use crate::domain::schedule::retry_delay_ms;
use crate::domain::score::weights;
use crate::domain::time::Timestamp;
use crate::domain::worker::{Verdict, Worker};

/// After a decline the job waits this long, so that a full worker is not asked in a tight loop.
const DECLINE_DELAY_MS: u64 = 200;

impl Step<'_> {
    pub(super) fn submit(&mut self, submit: &Submit) -> Reply {
        let id = submit.id;
        if let Some(job) = self.state.jobs.get(&id) {
            let same = job.fingerprint == submit.fingerprint;
            return if same {
                Ok(Done::Submitted { job: id, created: false })
            } else {
                Err(Refusal::Conflict { job: id })
            };
        }
        match self.state.retired.get(id) {
            Some((known, _)) if known != submit.fingerprint => return Err(Refusal::Conflict { job: id }),
            Some((_, segment)) if self.state.archive.keeps(segment) => {
                return Ok(Done::Submitted { job: id, created: false });
            }
            Some(_) => return Err(Refusal::Forgotten { job: id }),
            None => {}
        }
        let bytes = submit.payload.as_ref().map_or(0, Vec::len) + texts(&submit.spec);
        self.room_for(&submit.spec, bytes)?;
        let job = self.new_job(submit);
        self.state.index.change(None, Some(&Facets::of(&job, self.state.now)), &mut self.state.shares);
        self.state.jobs.insert(id, Arc::new(job));
        if let Some(payload) = &submit.payload {
            self.state.payloads.insert(id, Arc::from(payload.as_slice()));
        }
        self.state.submitted_total = self.state.submitted_total.saturating_add(1);
        self.touched.jobs.insert(id);
        let event = Event::Job { job: id, state: JobState::Pending, attempt: 0, cause: Cause::Submitted, worker: None };
        self.state.journal.append(self.state.now, self.position.index, self.position.term, event);
        Ok(Done::Submitted { job: id, created: true })
    }

    /// Whether one more job may wait, of this many bytes.
    pub(super) fn room_for(&self, spec: &JobSpec, bytes: usize) -> Result<(), Refusal> {
        let (limits, index) = (&self.state.limits, &self.state.index);
        let bounds = [
            (index.active.len() + 1, limits.backlog),
            (index.backlog_bytes.saturating_add(bytes), limits.backlog_bytes),
            (self.state.journal.len() + 1, limits.journal_max),
            (self.state.classes_with(spec), limits.classes),
            // Only where a sink lags: see `State::batch`.
            (index.finished.len(), limits.finished.saturating_mul(2)),
            (index.finished_bytes, limits.finished_bytes.saturating_mul(2)),
            (self.state.classes_in_all_with(spec), limits.classes_in_all),
        ];
        match bounds.iter().find(|(wanted, limit)| wanted > limit) {
            Some((_, limit)) => Err(Refusal::BacklogFull { limit: u64::try_from(*limit).unwrap_or(u64::MAX) }),
            None => Ok(()),
        }
    }

    fn new_job(&self, submit: &Submit) -> Job {
        let now = self.state.now;
        let submitted = Transition {
            index: self.position.index,
            term: self.position.term,
            at: now,
            state: JobState::Pending,
            attempt: 0,
            cause: Cause::Submitted,
            worker: None,
        };
        Job {
            id: submit.id,
            spec: submit.spec.clone(),
            fingerprint: submit.fingerprint,
            source: submit.source,
            state: JobState::Pending,
            attempt: 0,
            failures: 0,
            runs: Vec::new(),
            outcome: None,
            error: None,
            submitted_at: now,
            queued_at: now,
            submitted_index: self.position.index,
            finished_at: None,
            awaits_chain: awaits_chain(submit),
            next_attempt_at: now,
            callback: None,
            history: vec![submitted],
        }
    }

    pub(super) fn cancel(&mut self, id: JobId, reason: &str) -> Reply {
        match self.job(id)?.state {
            JobState::Cancelled => Ok(Done::Unchanged),
            state if state.is_final() => Err(Refusal::Finished { job: id, state }),
            _ => {
                let error = JobError { code: "cancelled".to_owned(), detail: cut(reason) };
                self.finish(id, None, JobState::Cancelled, Cause::Cancelled, |job| job.error = Some(error.into()))
            }
        }
    }

    pub(super) fn assign(
        &mut self,
        id: JobId,
        attempt: u32,
        worker: WorkerId,
        price: Price,
        lease_ms: u64,
        evidence: Option<&Sealed>,
    ) -> Reply {
        let job = self.job(id)?;
        let now = self.state.now;
        if job.state.is_final() {
            return Err(Refusal::Finished { job: id, state: job.state });
        }
        let overdue = job.spec.deadline.is_some_and(|deadline| deadline <= now);
        if !job.wants_run() || job.next_attempt_at > now || overdue || !self.state.takes_votes(job) {
            return Err(Refusal::NotOpen { job: id });
        }
        let next = next_attempt(job);
        if attempt != next {
            return Err(Refusal::StaleAttempt { job: id, sent: attempt, current: next });
        }
        if let Some(most) = job.ceiling(now).filter(|most| price > *most) {
            return Err(Refusal::Invalid(format!("price {price} is above the job's ceiling {most}")));
        }
        evidence.map_or(Ok(()), |sealed| judge(job, now, worker, price, sealed)).map_err(Refusal::Invalid)?;
        let known = self.state.workers.get(&worker).ok_or(Refusal::UnknownWorker(worker))?;
        self.available(known, job).map_err(|why| Refusal::NotAvailable { worker, why })?;
        let compared = job.spec.redundancy > 1;
        let (region, country) = (known.location.region.clone(), known.location.country.clone());
        let ballot = compared.then(|| Box::new(Ballot { region, country, vote: None, voted_at: None }));
        let evidence = evidence.cloned();
        let lease_until = now.after_ms(lease_ms);
        let award = Award { worker, price, assigned_at: now, started_at: None, lease_until, evidence };
        self.transition(id, Some(attempt), Cause::Awarded, |job| {
            job.attempt = attempt;
            // Most jobs never have a second.
            job.runs.reserve_exact(1);
            job.runs.push(Run { attempt, award, ballot });
            job.state = job.standing();
        })
    }

    /// Why a worker may not take a job. Its load is not in the log, so that requirement is the leader's to judge.
    fn available(&self, worker: &Worker, job: &Job) -> Result<(), String> {
        let max = worker.capabilities.max_parallel_jobs;
        match worker.verdict {
            Verdict::Online => {}
            Verdict::Unhealthy => return Err("it is unhealthy".to_owned()),
            Verdict::Offline => return Err("it is offline".to_owned()),
        }
        if worker.draining {
            return Err("it is draining".to_owned());
        }
        if is_banned(worker, self.state.now) {
            return Err("it is banned".to_owned());
        }
        if job.involves(worker.id) {
            return Err("it has a run of the job already".to_owned());
        }
        if self.state.room(worker) == 0 {
            return Err(format!("it holds its most of {max} jobs"));
        }
        match misfits(&job.spec, worker, None).into_iter().next() {
            Some(misfit) => {
                Err(format!("{}: wanted {}, offered {}", misfit.requirement, misfit.wanted, misfit.offered))
            }
            None => Ok(()),
        }
    }

    pub(super) fn started(&mut self, id: JobId, attempt: u32, worker: WorkerId) -> Reply {
        let (_, run) = self.holding(id, attempt, Some(worker))?;
        if run.award.started_at.is_some() {
            return Ok(Done::Unchanged);
        }
        let now = self.state.now;
        self.transition(id, Some(attempt), Cause::Started, |job| {
            start(job, attempt, now);
            job.state = job.standing();
        })
    }

    /// A lease is never shortened: a renewal that was long in the log must not undo a later one.
    pub(super) fn renew(&mut self, id: JobId, attempt: u32, lease_ms: u64) -> Reply {
        self.holding(id, attempt, None)?;
        let until = self.state.now.after_ms(lease_ms);
        self.change(id, |job| {
            if let Some(award) = award_of(job, attempt) {
                award.lease_until = award.lease_until.max(until);
            }
        })
    }

    pub(super) fn expire(&mut self, id: JobId, attempt: u32) -> Reply {
        let award = &self.holding(id, attempt, None)?.1.award;
        let (worker, until) = (award.worker, award.lease_until);
        if until > self.state.now {
            return Err(Refusal::LeaseHolds { job: id });
        }
        let error = JobError {
            code: "lease_expired".to_owned(),
            detail: format!("worker {worker} was not heard of until {}", until.0),
        };
        self.count_lost(worker, id);
        self.attempt_failed(id, attempt, Cause::LeaseExpired, error, Some(0))
    }

    pub(super) fn decline(&mut self, id: JobId, attempt: u32, worker: WorkerId) -> Reply {
        self.holding(id, attempt, Some(worker))?;
        self.rate(worker, id, Fact::Declined);
        let next = self.state.now.after_ms(DECLINE_DELAY_MS);
        self.transition(id, Some(attempt), Cause::Declined, |job| give_up(job, attempt, next))
    }

    pub(super) fn complete(&mut self, complete: &Complete) -> Reply {
        let id = complete.job;
        if accepted(self.job(id)?).any(|accepted| repeats(accepted, complete)) {
            return Ok(Done::Unchanged);
        }
        let (job, run) = self.holding(id, complete.attempt, Some(complete.worker))?;
        let (compared, late) = (job.spec.redundancy > 1, is_late(&run.award, self.state.now));
        let outcome = Outcome {
            attempt: complete.attempt,
            worker: complete.worker,
            output_sha256: complete.output_sha256,
            output_size: complete.output_size(),
            kept: complete.kept_size > 0,
            exit_code: complete.exit_code,
            duration_ms: complete.duration_ms,
            signature: complete.signature.as_slice().into(),
        };
        let kept = outcome.kept;
        // What the worker keeps is checked by who fetches it.
        if !kept && Digest::of(&complete.output) != complete.output_sha256 {
            return Err(Refusal::Invalid("output_sha256 is not of the output".to_owned()));
        }
        if compared {
            return self.vote(id, complete.attempt, Vote::Output(outcome), &complete.output);
        }
        let now = self.state.now;
        if !kept {
            self.state.outputs.insert(id, Arc::from(complete.output.as_slice()));
        }
        let reply = self.finish(id, Some(complete.attempt), JobState::Completed, Cause::Completed, |job| {
            start(job, complete.attempt, now);
            job.error = None;
            job.outcome = Some(outcome);
        })?;
        self.change_worker(complete.worker, |worker| worker.completed = worker.completed.saturating_add(1));
        self.rate(complete.worker, id, if late { Fact::Late } else { Fact::Completed });
        Ok(reply)
    }

    pub(super) fn fail(&mut self, fail: &Fail) -> Reply {
        let (job, _) = self.holding(fail.job, fail.attempt, Some(fail.worker))?;
        let compared = job.spec.redundancy > 1;
        let failures = job.failures.saturating_add(1);
        let delay = retry_delay_ms(&job.spec.retry, fail.job, rounds(job, failures));
        let more = fail.retryable && failures < job.failures_max();
        let cause = if more { Cause::Retry } else { Cause::Failed };
        let error = JobError { code: fail.code.clone(), detail: cut(&fail.detail) };
        self.change_worker(fail.worker, |worker| worker.failed = worker.failed.saturating_add(1));
        if let Some(fact) = Fact::of_failure(&fail.code) {
            self.rate(fail.worker, fail.job, fact);
        }
        // One worker's word does not end a job that several run.
        if compared && !fail.retryable {
            return self.vote(fail.job, fail.attempt, Vote::Failure(error), &[]);
        }
        self.attempt_failed(fail.job, fail.attempt, cause, error, more.then_some(delay))
    }

    pub(super) fn pass_deadline(&mut self, id: JobId) -> Reply {
        let job = self.job(id)?;
        if job.state.is_final() {
            return Err(Refusal::Finished { job: id, state: job.state });
        }
        if job.spec.deadline.is_none_or(|deadline| deadline > self.state.now) {
            let stalled = job.vote_stalls_at().is_some_and(|at| at <= self.state.now);
            return if stalled { self.hung(id) } else { Err(Refusal::DeadlineAhead { job: id }) };
        }
        let error = JobError {
            code: "deadline_exceeded".to_owned(),
            detail: format!("the deadline passed while the job was {}", job.state.as_str()),
        };
        self.finish(id, None, JobState::Failed, Cause::DeadlinePassed, |job| job.error = Some(error.into()))
    }

    pub(super) fn job(&self, id: JobId) -> Result<&Job, Refusal> {
        self.state.jobs.get(&id).map(Arc::as_ref).ok_or(Refusal::UnknownJob(id))
    }

    /// The job and its run `attempt`, if that is in force and `worker`, when named, holds it.
    fn holding(&self, id: JobId, attempt: u32, worker: Option<WorkerId>) -> Result<(&Job, &Run), Refusal> {
        let job = self.job(id)?;
        if job.state.is_final() {
            return Err(Refusal::Finished { job: id, state: job.state });
        }
        // A pending job is on its way to the next attempt.
        let current = if job.state == JobState::Pending { next_attempt(job) } else { job.attempt };
        let run = job.run(attempt).ok_or(Refusal::StaleAttempt { job: id, sent: attempt, current })?;
        match worker {
            Some(worker) if worker != run.award.worker => Err(Refusal::WrongWorker { job: id, worker }),
            _ => Ok((job, run)),
        }
    }
}

fn judge(job: &Job, now: Timestamp, worker: WorkerId, price: Price, sealed: &Sealed) -> Result<(), String> {
    let evidence = sealed.open(worker, price).ok_or("the evidence of the award can not be read")?;
    verify(job.ceiling(now), &weights(&job.spec), worker, price, &evidence)
}

fn next_attempt(job: &Job) -> u32 {
    job.attempt.saturating_add(1)
}

fn award_of(job: &mut Job, attempt: u32) -> Option<&mut Award> {
    job.runs.iter_mut().find(|run| run.attempt == attempt).map(|run| &mut run.award)
}

pub(super) fn start(job: &mut Job, attempt: u32, now: Timestamp) {
    if let Some(award) = award_of(job, attempt) {
        award.started_at.get_or_insert(now);
    }
}

/// Rounds that so many failures amount to, begun ones included.
pub(super) fn rounds(job: &Job, failures: u32) -> u32 {
    failures.div_ceil(u32::from(job.spec.redundancy.max(1)))
}

/// Results of the job that were taken.
fn accepted(job: &Job) -> impl Iterator<Item = &Outcome> {
    job.outcome.iter().chain(job.runs.iter().filter_map(Run::output))
}

/// Whether a result is the one that was accepted, sent again.
fn repeats(accepted: &Outcome, complete: &Complete) -> bool {
    accepted.attempt == complete.attempt
        && accepted.worker == complete.worker
        && accepted.output_sha256 == complete.output_sha256
}

/// Whether it must not run before its registration on chain. A job that came from there is registered.
fn awaits_chain(submit: &Submit) -> bool {
    let first = |terms: Terms| terms.policy == Policy::RegisterBeforeDistribution;
    submit.source != Source::Chain && submit.spec.settlement.is_some_and(first)
}
