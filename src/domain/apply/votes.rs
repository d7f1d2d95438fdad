//! What votes come to: a result, a failure, another round, or nothing yet.
//!
//! A vote is taken like any other report of a run, under its attempt. Who voted
//! with the majority is rated as if it had run the job alone; who voted for
//! another output is rated for a wrong result. Whose run was still going when the
//! job was decided is not rated, nor is anyone in a round without a majority,
//! since nobody can say who was right.

use std::sync::Arc;

use super::Step;
use super::jobs::{rounds, start};
use crate::domain::command::Reply;
use crate::domain::ids::{Digest, JobId};
use crate::domain::job::{Cause, Job, JobError, JobState};
use crate::domain::reputation::{Fact, is_late};
use crate::domain::run::{Run, Tally, Vote};
use crate::domain::schedule::retry_delay_ms;
use crate::domain::time::Timestamp;

impl Step<'_> {
    /// Takes what a run in force says as its vote, and decides if it can. `output`: the bytes it votes for.
    pub(super) fn vote(&mut self, id: JobId, attempt: u32, vote: Vote, output: &[u8]) -> Reply {
        let now = self.state.now;
        if let Vote::Output(outcome) = &vote
            && !outcome.kept
        {
            let key = (id, outcome.output_sha256);
            if !self.state.ballots.contains(&key) {
                self.state.ballots.insert(key, Arc::from(output));
            }
        }
        let reply = self.transition(id, Some(attempt), Cause::Voted, |job| {
            start(job, attempt, now);
            cast(job, attempt, vote, now);
            job.state = job.standing();
        })?;
        match self.job(id)?.tally() {
            Tally::Open => Ok(reply),
            Tally::Agreed(digest) => self.elect(id, digest),
            Tally::Fails(error) => {
                self.finish(id, Some(attempt), JobState::Failed, Cause::Failed, |job| job.error = Some(error.into()))
            }
            Tally::Hung => self.hung(id),
        }
    }

    /// Completes a job with the output that most of its runs brought.
    fn elect(&mut self, id: JobId, digest: Digest) -> Reply {
        let job = self.job(id)?;
        let votes: Vec<Run> = job.runs.iter().filter(|run| run.output().is_some()).cloned().collect();
        let agreed = |run: &&Run| run.output().is_some_and(|vote| vote.output_sha256 == digest);
        // One whose bytes are here is better than one whose bytes its worker keeps: nobody has counted those.
        let here = |run: &&Run| agreed(run) && run.output().is_some_and(|vote| !vote.kept);
        let first = votes.iter().find(here).or_else(|| most_agreed(votes.iter().filter(agreed)));
        let (attempt, outcome) = (first.map(|run| run.attempt), first.and_then(Run::output).cloned());
        let output = self.state.ballots.get(&(id, digest)).cloned();
        if let Some(output) = output {
            self.state.outputs.insert(id, output);
        }
        let reply = self.finish(id, attempt, JobState::Completed, Cause::Completed, |job| {
            job.error = None;
            job.outcome = outcome;
        })?;
        for run in &votes {
            self.judge_vote(id, run, agreed(&run));
        }
        Ok(reply)
    }

    fn judge_vote(&mut self, id: JobId, run: &Run, agrees: bool) {
        let worker = run.award.worker;
        let voted_at = run.ballot.as_ref().and_then(|ballot| ballot.voted_at).unwrap_or_default();
        self.change_worker(worker, |worker| {
            let counter = if agrees { &mut worker.completed } else { &mut worker.failed };
            *counter = counter.saturating_add(1);
        });
        let fact = match agrees {
            false => Fact::WrongResult,
            true if is_late(&run.award, voted_at) => Fact::Late,
            true => Fact::Completed,
        };
        self.rate(worker, id, fact);
    }

    /// Ends a round without a majority: the next follows, or the job fails.
    pub(super) fn hung(&mut self, id: JobId) -> Reply {
        let job = self.job(id)?;
        let round = u32::try_from(job.redundancy()).unwrap_or(u32::MAX);
        let failures = job.failures.saturating_add(round).min(job.failures_max());
        let delay = retry_delay_ms(&job.spec.retry, id, rounds(job, failures));
        let error = no_quorum(job);
        if failures >= job.failures_max() {
            return self.finish(id, None, JobState::Failed, Cause::NoQuorum, |job| {
                job.failures = failures;
                job.error = Some(error.into());
            });
        }
        let next = self.state.now.after_ms(delay);
        self.drop_ballots(id);
        self.transition(id, None, Cause::NoQuorum, |job| {
            job.failures = failures;
            job.error = Some(error.into());
            job.runs.clear();
            job.state = job.standing();
            job.next_attempt_at = next;
        })
    }

    /// Forgets the outputs that were voted for.
    pub(super) fn drop_ballots(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.get(&id).filter(|job| job.spec.redundancy > 1) else { return };
        for (digest, _) in job.undecided() {
            self.state.ballots.remove(&(id, digest));
        }
    }
}

fn cast(job: &mut Job, attempt: u32, vote: Vote, now: Timestamp) {
    let run = job.runs.iter_mut().find(|run| run.attempt == attempt);
    if let Some(ballot) = run.and_then(|run| run.ballot.as_mut()) {
        ballot.vote = Some(vote);
        ballot.voted_at = Some(now);
    }
}

fn no_quorum(job: &Job) -> JobError {
    let votes = job.runs.iter().filter(|run| run.vote().is_some()).count();
    let (wanted, asked) = (job.quorum(), job.redundancy());
    let why = match job.tally() {
        Tally::Open => "and nobody was found to go on",
        _ => "and they can not agree any more",
    };
    let detail = format!("{votes} of {asked} workers answered, {wanted} must agree, {why}");
    JobError { code: "no_quorum".to_owned(), detail }
}

/// The first of the runs that name the size which most of them name.
fn most_agreed<'a>(runs: impl Iterator<Item = &'a Run> + Clone) -> Option<&'a Run> {
    let size = |run: &Run| run.output().map(|vote| vote.output_size);
    let named = |wanted: &Run| runs.clone().filter(|run| size(run) == size(wanted)).count();
    let most = runs.clone().map(named).max()?;
    runs.clone().find(|run| named(run) == most)
}
