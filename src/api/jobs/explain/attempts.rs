//! What became of each attempt, read off the job's history.

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::jobs::body::ErrorBody;
use crate::api::text;
use crate::domain::Timestamp;
use crate::domain::job::{Cause, Job, JobState, Transition};

#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptBody {
    attempt: u32,
    worker_id: Option<String>,
    #[schema(format = DateTime)]
    awarded_at: Option<String>,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// assigned or running while it lasts; else how it ended: completed, failed, declined, lease_expired, worker_lost,
    /// deadline_passed or cancelled; with redundancy voted, too, unless the vote was the one that counts.
    #[schema(
        pattern = "^(assigned|running|completed|voted|failed|declined|lease_expired|worker_lost|deadline_passed|cancelled)$"
    )]
    outcome: &'static str,
    /// Of the one that failed last, if nothing else went wrong since; earlier ones are not kept.
    error: Option<ErrorBody>,
}

/// Attempts that the history still has, oldest first.
pub fn of(job: &Job) -> Vec<AttemptBody> {
    let mut attempts: Vec<AttemptBody> = Vec::new();
    for line in job.history.iter().filter(|line| line.attempt > 0 && line.cause != Cause::Reopened) {
        // Runs of one job side by side are told of in turns.
        match attempts.iter_mut().find(|attempt| attempt.attempt == line.attempt) {
            Some(attempt) => attempt.take(line),
            None => attempts.push(AttemptBody::of(line)),
        }
        // The end of a job or of a round of votes ends the runs that were still going; no line tells of each.
        if line.state.is_final() || line.cause == Cause::NoQuorum {
            attempts.iter_mut().for_each(|attempt| attempt.end("cancelled", line.at));
        }
    }
    if let Some(line) = job.history.iter().rev().find(|line| sets_error(line.cause)) {
        let at = Some(text::time(line.at));
        let ended = |attempt: &&mut AttemptBody| attempt.attempt == line.attempt && attempt.ended_at == at;
        if let Some(attempt) = attempts.iter_mut().find(ended).filter(|_| line.cause != Cause::NoQuorum) {
            attempt.error = job.error.as_deref().map(ErrorBody::of);
        }
    }
    attempts
}

/// Whether the job's error is of such a line, if it is of none that came later.
fn sets_error(cause: Cause) -> bool {
    match cause {
        Cause::Failed
        | Cause::Retry
        | Cause::LeaseExpired
        | Cause::WorkerLost
        | Cause::DeadlinePassed
        | Cause::Cancelled
        | Cause::NoQuorum => true,
        Cause::Submitted
        | Cause::Awarded
        | Cause::Started
        | Cause::Completed
        | Cause::Declined
        | Cause::Reopened
        | Cause::Voted => false,
    }
}

impl AttemptBody {
    fn of(line: &Transition) -> Self {
        let mut body = Self {
            attempt: line.attempt,
            worker_id: None,
            awarded_at: None,
            started_at: None,
            ended_at: None,
            outcome: JobState::Assigned.as_str(),
            error: None,
        };
        body.take(line);
        body
    }

    fn take(&mut self, line: &Transition) {
        let at = text::time(line.at);
        if let Some(worker) = line.worker {
            self.worker_id = Some(worker.to_string());
        }
        let outcome = match line.cause {
            Cause::Awarded => return self.awarded_at = Some(at),
            Cause::Started => {
                self.outcome = JobState::Running.as_str();
                return self.started_at = Some(at);
            }
            Cause::Completed => "completed",
            Cause::Failed | Cause::Retry => "failed",
            Cause::Declined => "declined",
            Cause::LeaseExpired => "lease_expired",
            Cause::WorkerLost => "worker_lost",
            Cause::DeadlinePassed => "deadline_passed",
            Cause::Cancelled => "cancelled",
            Cause::Voted => "voted",
            Cause::Submitted | Cause::Reopened | Cause::NoQuorum => return,
        };
        // A vote was the end of the run; what it came to is known later.
        if self.outcome == "voted" && matches!(line.cause, Cause::Completed | Cause::Failed) {
            self.outcome = outcome;
        }
        self.end(outcome, line.at);
    }

    /// What comes after the end of an attempt, such as a cancellation, is not about it.
    fn end(&mut self, outcome: &'static str, at: Timestamp) {
        if self.ended_at.is_none() {
            self.outcome = outcome;
            self.ended_at = Some(text::time(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::decode;
    use crate::domain::job::{JobError, Source};
    use crate::domain::{Digest, JobId};
    use crate::submission::Submission;

    /// A job with this history: at each second a line.
    fn job(state: JobState, lines: &[(Cause, u32, JobState)]) -> Job {
        let submission: Submission = decode::json(br#"{"type":"sha256","payload":""}"#).unwrap();
        let line = |(second, &(cause, attempt, state)): (usize, &(Cause, u32, JobState))| {
            let at = Timestamp::default().after_ms(second as u64 * 1_000);
            Transition { index: 1, term: 1, at, state, attempt, cause, worker: None }
        };
        Job {
            id: JobId([1; 16]),
            spec: submission.check(16).unwrap().spec,
            fingerprint: Digest::default(),
            source: Source::Api,
            state,
            attempt: lines.iter().map(|line| line.1).max().unwrap_or_default(),
            failures: 0,
            runs: vec![],
            outcome: None,
            error: Some(Box::new(JobError { code: "x".to_owned(), detail: String::new() })),
            submitted_at: Timestamp::default(),
            queued_at: Timestamp::default(),
            submitted_index: 1,
            finished_at: None,
            awaits_chain: false,
            next_attempt_at: Timestamp::default(),
            callback: None,
            history: lines.iter().enumerate().map(line).collect(),
        }
    }

    fn told(job: &Job) -> Vec<(&'static str, Option<String>, bool)> {
        let second = |time: String| time["1970-01-01T00:00:".len()..][..2].to_owned();
        of(job).into_iter().map(|a| (a.outcome, a.ended_at.map(second), a.error.is_some())).collect()
    }

    fn is(outcome: &'static str, ended: &str, error: bool) -> (&'static str, Option<String>, bool) {
        (outcome, Some(ended.to_owned()), error)
    }

    #[test]
    fn the_vote_that_counts_and_the_runs_that_were_cut_short() {
        use Cause::{Awarded, Cancelled, Completed, Failed, Started, Voted};
        use JobState::Running;
        let begun = [(Awarded, 1, Running), (Awarded, 2, Running), (Awarded, 3, Running), (Started, 3, Running)];
        let votes = [(Voted, 2, Running), (Voted, 1, Running)];
        let ended = |cause, attempt, state| {
            let last = [(cause, attempt, state)];
            told(&job(state, &[&begun[..], &votes[..], &last[..]].concat()))
        };
        let completed = ended(Completed, 2, JobState::Completed);
        assert_eq!(completed, [is("voted", "05", false), is("completed", "04", false), is("cancelled", "06", false)]);
        let failed = ended(Failed, 1, JobState::Failed);
        assert_eq!(failed[1..], [is("voted", "04", false), is("cancelled", "06", false)]);
        assert_eq!(failed[0].0, "failed");
        let cancelled = ended(Cancelled, 3, JobState::Cancelled);
        assert_eq!(cancelled, [is("voted", "05", false), is("voted", "04", false), is("cancelled", "06", true)]);
    }

    #[test]
    fn a_round_without_majority_ends_its_runs_and_its_error_is_nobodys() {
        use JobState::{Assigned, Pending};
        let lines = [
            (Cause::Awarded, 1, Assigned),
            (Cause::Awarded, 2, Assigned),
            (Cause::Voted, 1, Assigned),
            (Cause::NoQuorum, 2, Pending),
            (Cause::Awarded, 3, Assigned),
        ];
        let ends = [is("voted", "02", false), is("cancelled", "03", false), ("assigned", None, false)];
        assert_eq!(told(&job(Assigned, &lines)), ends);
    }

    #[test]
    fn an_error_is_of_the_attempt_that_it_ended() {
        use JobState::{Assigned, Cancelled, Pending};
        let retried = [(Cause::Awarded, 1, Assigned), (Cause::Retry, 1, Pending), (Cause::Awarded, 2, Assigned)];
        assert_eq!(told(&job(Assigned, &retried)), [is("failed", "01", true), ("assigned", None, false)]);
        let cancelled = [&retried[..2], &[(Cause::Cancelled, 1, Cancelled)][..]].concat();
        assert_eq!(told(&job(Cancelled, &cancelled)), [is("failed", "01", false)], "that error is of the cancellation");
    }
}
