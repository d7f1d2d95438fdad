//! What the end of a job leaves for who asked to be told, and what comes of that.
//!
//! A notice is made in the same step that ends the job, so there is no end
//! without one. It goes with the leader's report, or when too many wait.

use std::sync::Arc;

use super::{Step, cut_to};
use crate::domain::callback::{Brought, Callback, Called, DETAIL_MAX, Notice, OUTPUT_MAX, OVERFLOW};
use crate::domain::command::{Done, Reply};
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobError, JobState};
use crate::domain::journal::Event;

impl Step<'_> {
    /// Leaves a notice of a job that has just ended, if its client wants one.
    pub(super) fn leave_notice(&mut self, id: JobId) {
        let Some(notice) = self.notice(id).map(Arc::new) else { return };
        let (event, at) = (notice.event, notice.ended_at);
        let noted = self.change(id, |job| job.callback = Some(Box::new(Callback { event, at, called: None })));
        if noted.is_err() {
            return;
        }
        self.touched.notices.insert(event);
        self.state.callbacks.add(Arc::clone(&notice));
        self.displace(&notice);
    }

    fn notice(&self, id: JobId) -> Option<Notice> {
        let job = self.state.jobs.get(&id)?;
        let url = job.spec.callback_url.clone()?;
        let event = self.state.journal.last_seq();
        let entry = self.state.journal.newest()?;
        let Event::Job { worker, attempt, .. } = entry.event else { return None };
        let outcome = job.outcome.as_ref();
        Some(Notice {
            event,
            url,
            job: id,
            kind: job.spec.kind.clone(),
            tags: job.spec.tags.clone(),
            state: job.state,
            attempt: outcome.map_or(attempt, |outcome| outcome.attempt),
            worker: outcome.map(|outcome| outcome.worker).or(worker),
            submitted_at: job.submitted_at,
            ended_at: self.state.now,
            result: self.brought(job),
            error: error(job),
        })
    }

    fn brought(&self, job: &Job) -> Option<Brought> {
        let outcome = job.outcome.as_ref()?;
        let output = self.state.outputs.get(&job.id).filter(|output| output.len() <= OUTPUT_MAX);
        Some(Brought {
            output_sha256: outcome.output_sha256,
            output_size: outcome.output_size,
            output: output.map(|output| output.to_vec()),
            exit_code: outcome.exit_code,
            duration_ms: outcome.duration_ms,
        })
    }

    /// Gives up the oldest notices beyond the bounds, of the newest one's receiver and in all.
    fn displace(&mut self, newest: &Notice) {
        loop {
            let (limits, callbacks) = (&self.state.limits, &self.state.callbacks);
            let too_many =
                callbacks.len() > limits.callbacks || callbacks.bytes() > limits.callback_bytes && callbacks.len() > 1;
            let surplus = match callbacks.line_of(newest) {
                (oldest, count) if count > limits.callbacks_of_one => oldest,
                _ if too_many => callbacks.oldest(),
                _ => return,
            };
            let Some(event) = surplus else { return };
            self.settle_notice(event, Called::GivenUp { tries: 0, code: OVERFLOW.into() });
        }
    }

    /// What the leader says came of a notice.
    pub(super) fn called_back(&mut self, event: u64, called: &Called) -> Reply {
        if self.settle_notice(event, called.clone()) { Ok(Done::CalledBack { event }) } else { Ok(Done::Unchanged) }
    }

    /// Takes a notice out; `false` if it is not there any more.
    fn settle_notice(&mut self, event: u64, called: Called) -> bool {
        let Some(notice) = self.state.callbacks.remove(event) else { return false };
        self.touched.notices.insert(event);
        let at = self.state.now;
        let about = |job: &Arc<Job>| job.callback.as_ref().is_some_and(|callback| callback.event == event);
        if self.state.jobs.get(&notice.job).is_some_and(about) {
            // The job may be forgotten, or have ended again: then nobody asks how this went.
            let _ = self.change(notice.job, |job| {
                job.callback = Some(Box::new(Callback { event, at, called: Some(called) }));
            });
        }
        true
    }
}

fn error(job: &Job) -> Option<JobError> {
    let error = job.error.as_deref().filter(|_| job.state != JobState::Completed)?;
    Some(JobError { code: error.code.clone(), detail: cut_to(&error.detail, DETAIL_MAX) })
}
