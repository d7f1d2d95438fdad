//! Another chance for a job that failed.
//!
//! The job is pending again with a fresh budget of attempts. Attempt numbers go
//! on, so that all that is said about earlier attempts stays stale; the history
//! goes on as well, so that workers which let the job down are still known.
//! Asking twice is asking once: a job that is under way stays as it is.
//!
//! A job whose deadline has passed has no chance and is refused. The others
//! that failed ([`Job::is_dead`]) are what `dead=true` lists.

use super::Step;
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::JobId;
use crate::domain::index::{keeps_payload, texts};
use crate::domain::job::{Cause, Job, JobState};

impl Job {
    /// Failed for good, and not for lack of time: its attempts are used up, or the failure was not one to retry.
    pub fn is_dead(&self) -> bool {
        self.state == JobState::Failed && self.history.last().is_none_or(|line| line.cause != Cause::DeadlinePassed)
    }
}

impl Step<'_> {
    pub(super) fn retry(&mut self, id: JobId) -> Reply {
        let now = self.state.now;
        let job = self.job(id)?;
        match job.state {
            JobState::Failed => {}
            JobState::Pending | JobState::Assigned | JobState::Running => return Ok(Done::Unchanged),
            state => return Err(Refusal::Finished { job: id, state }),
        }
        if self.is_refunded(id) {
            return Err(Refusal::Refunded { job: id });
        }
        if job.spec.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refusal::Overdue { job: id });
        }
        let Some(awaits_chain) = self.awaits_registration(job) else {
            return Err(Refusal::NotPlanned(format!(
                "the registration of job {id} was dropped: submit it again as a new job"
            )));
        };
        let payload = if keeps_payload(job) { usize::try_from(job.spec.input.size).unwrap_or(usize::MAX) } else { 0 };
        let spec = job.spec.clone();
        self.room_for(&spec, payload.saturating_add(texts(&spec)))?;
        let reply = self.transition(id, None, Cause::Reopened, |job| {
            job.state = JobState::Pending;
            job.failures = 0;
            job.runs = Vec::new();
            job.finished_at = None;
            job.queued_at = now;
            job.next_attempt_at = now;
            job.awaits_chain = awaits_chain;
        })?;
        self.state.reopened_total = self.state.reopened_total.saturating_add(1);
        Ok(reply)
    }
}
