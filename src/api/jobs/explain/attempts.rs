//! What became of each attempt, read off the job's history.

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::jobs::body::ErrorBody;
use crate::api::text;
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
    /// deadline_passed or cancelled.
    outcome: &'static str,
    /// Of the last one that did not end well; earlier ones are not kept.
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
    }
    let faulty = |attempt: &&mut AttemptBody| !matches!(attempt.outcome, "completed" | "assigned" | "running");
    if let Some(last) = attempts.iter_mut().rev().find(faulty) {
        last.error = job.error.as_deref().map(ErrorBody::of);
    }
    attempts
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
        // What comes after the end of an attempt, such as a cancellation, is not about it.
        if self.ended_at.is_none() {
            self.outcome = outcome;
            self.ended_at = Some(at);
        }
    }
}
