//! Runs of one job side by side, and how their results are compared.
//!
//! A job with redundancy k is awarded to k different workers, each run under an
//! attempt number of its own. A run that brings a result has voted and waits for
//! the others. The job is decided as soon as more than half of k votes agree, on
//! an output's digest or on "this job can not be run"; the runs still going are
//! cancelled then. As soon as no majority can come any more, or nobody was found
//! for long to go on, the round is over: all runs end, and if there are failures
//! to spare the next round begins.
//!
//! A job without redundancy has one run and no votes: its one result decides.
//!
//! Invariants
//!
//! * No worker has two runs of one job in a round, so none has two votes.
//! * A vote never changes.
//! * Runs in force and votes together are never more than k.
//!
//! Absent: what follows for workers, which is `apply`'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{Digest, Price, WorkerId};
use super::job::{Award, Job, JobError, JobState, Outcome};
use super::score::Nearness;
use super::time::Timestamp;
use super::worker::Location;

/// Votes wait this long, in milliseconds, for somebody to go on with a round. They take room from all other jobs that
/// are compared.
pub const STALLED_MS: u64 = 300_000;

/// One award, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub attempt: u32,
    pub award: Award,
    /// Only with redundancy.
    pub ballot: Option<Box<Ballot>>,
}

/// What a run has besides when it is one of several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// Where the worker said it was when it got the run.
    pub region: String,
    pub country: String,
    pub vote: Option<Vote>,
    pub voted_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vote {
    Output(Outcome),
    /// The run failed in a way that another run would not mend.
    Failure(JobError),
}

/// Where the votes of a job stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A majority may still come.
    Open,
    /// Most runs brought this output.
    Agreed(Digest),
    /// Most runs say that the job can not be run.
    Fails(JobError),
    /// No majority can come any more.
    Hung,
}

impl Run {
    pub fn vote(&self) -> Option<&Vote> {
        self.ballot.as_ref()?.vote.as_ref()
    }

    /// The output it voted for.
    pub fn output(&self) -> Option<&Outcome> {
        match self.vote()? {
            Vote::Output(outcome) => Some(outcome),
            Vote::Failure(_) => None,
        }
    }
}

impl Job {
    /// Workers that are to run the job.
    pub fn redundancy(&self) -> usize {
        usize::from(self.spec.redundancy.max(1))
    }

    /// Equal votes that decide.
    pub fn quorum(&self) -> usize {
        self.redundancy() / 2 + 1
    }

    /// Runs that may come to nothing before the job fails: each that fails is one, and each round without a
    /// majority is as many as the job has runs.
    pub fn failures_max(&self) -> u32 {
        self.spec.retry.max_attempts.saturating_mul(u32::from(self.spec.redundancy.max(1)))
    }

    /// Runs whose workers are at it.
    pub fn runs_in_force(&self) -> impl Iterator<Item = &Run> {
        let going = !self.state.is_final();
        self.runs.iter().filter(move |run| going && run.vote().is_none())
    }

    /// The run in force with this attempt number.
    pub fn run(&self, attempt: u32) -> Option<&Run> {
        self.runs_in_force().find(|run| run.attempt == attempt)
    }

    /// The run in force on this worker.
    pub fn run_of(&self, worker: WorkerId) -> Option<&Run> {
        self.runs_in_force().find(|run| run.award.worker == worker)
    }

    /// Whether another run is to be awarded, now or when its time comes.
    pub fn wants_run(&self) -> bool {
        !self.awaits_chain && !self.state.is_final() && self.runs.len() < self.redundancy()
    }

    /// Whether a worker has a run or a vote of the job already.
    pub fn involves(&self, worker: WorkerId) -> bool {
        self.runs.iter().any(|run| run.award.worker == worker)
    }

    /// When its round is over if nobody takes another run of it: votes are there, and no run is in force.
    pub(super) fn vote_stalls_at(&self) -> Option<Timestamp> {
        if self.spec.redundancy <= 1 || self.state.is_final() || self.runs_in_force().next().is_some() {
            return None;
        }
        let voted = self.runs.iter().filter_map(|run| run.ballot.as_ref()?.voted_at).max()?;
        Some(voted.max(self.next_attempt_at).after_ms(STALLED_MS))
    }

    /// The run that speaks for the job: the one whose result it is, else the newest in force, else, once the job
    /// has ended, its last.
    pub fn leading_run(&self) -> Option<&Run> {
        let accepted = self.outcome.as_ref().map(|outcome| outcome.attempt);
        let ended = self.runs.last().filter(|_| self.state.is_final());
        let newest = || self.runs_in_force().last().or(ended);
        self.runs.iter().find(|run| Some(run.attempt) == accepted).or_else(newest)
    }

    /// What is owed to a run's worker: the price of its bid if its result is the job's, else nothing.
    /// `None` as long as that is open.
    pub fn owed(&self, run: &Run) -> Option<Price> {
        let counts = match (&self.outcome, run.output()) {
            _ if !self.state.is_final() => return None,
            (None, _) => false,
            (Some(accepted), Some(vote)) => vote.output_sha256 == accepted.output_sha256,
            (Some(accepted), None) => run.attempt == accepted.attempt,
        };
        Some(if counts { run.award.price } else { Price(0) })
    }

    /// What the job costs: what is owed once it is completed, before that what its runs would be owed.
    pub fn price(&self) -> Option<Price> {
        let completed = self.state == JobState::Completed;
        let part = |run: &Run| if completed { self.owed(run).unwrap_or_default() } else { run.award.price };
        let sum = || self.runs.iter().map(|run| part(run).0).fold(0, u128::saturating_add);
        (!self.runs.is_empty()).then(|| Price(sum()))
    }

    /// How near a worker there is to those that run the job or have voted.
    pub fn nearness(&self, there: &Location) -> Nearness {
        let same = |ours: &str, theirs: &str| !ours.is_empty() && ours == theirs;
        let near = |ballot: &Ballot| {
            if same(&ballot.region, &there.region) {
                Nearness::Region
            } else if same(&ballot.country, &there.country) {
                Nearness::Country
            } else {
                Nearness::Apart
            }
        };
        self.runs.iter().filter_map(|run| run.ballot.as_deref()).map(near).max().unwrap_or_default()
    }

    /// Where the job is, by its runs. Not for one that has ended.
    pub(super) fn standing(&self) -> JobState {
        if self.runs_in_force().next().is_none() {
            return JobState::Pending;
        }
        let started = self.runs_in_force().any(|run| run.award.started_at.is_some());
        if started { JobState::Running } else { JobState::Assigned }
    }

    /// Each output that was voted for and came with a vote, once, and its size in bytes.
    pub(super) fn undecided(&self) -> impl Iterator<Item = (Digest, usize)> {
        let inline = || self.runs.iter().filter_map(Run::output).filter(|outcome| !outcome.kept);
        inline().enumerate().filter_map(move |(place, outcome)| {
            let digest = outcome.output_sha256;
            let first = inline().take(place).all(|other| other.output_sha256 != digest);
            first.then(|| (digest, usize::try_from(outcome.output_size).unwrap_or(usize::MAX)))
        })
    }

    pub(super) fn tally(&self) -> Tally {
        let mut outputs: BTreeMap<Digest, usize> = BTreeMap::new();
        let (mut failures, mut failed) = (0, None);
        for vote in self.runs.iter().filter_map(Run::vote) {
            match vote {
                Vote::Output(outcome) => *outputs.entry(outcome.output_sha256).or_default() += 1,
                Vote::Failure(error) => {
                    failures += 1;
                    failed.get_or_insert(error);
                }
            }
        }
        let cast = outputs.values().sum::<usize>() + failures;
        let most = outputs.iter().max_by_key(|(_, votes)| **votes);
        let lead = most.map_or(0, |(_, votes)| *votes).max(failures);
        match (most, failed) {
            (Some((digest, votes)), _) if *votes >= self.quorum() => Tally::Agreed(*digest),
            (_, Some(error)) if failures >= self.quorum() => Tally::Fails(error.clone()),
            _ if lead + self.redundancy().saturating_sub(cast) >= self.quorum() => Tally::Open,
            _ => Tally::Hung,
        }
    }
}
