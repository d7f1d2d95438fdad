//! How far a job is, as its worker says.
//!
//! Soft: every node hears it with the worker's heartbeats, and none keeps it. It
//! is shown only of the attempt that is in force.

use serde::Serialize;

use crate::api::{Api, text};
use crate::domain::run::Run;
use crate::domain::{Job, JobId};
use crate::mesh::{Progress, Roster};

/// What the worker of the attempt in force said last. Of several, the newest that says anything.
pub fn of(roster: &Roster, job: &Job) -> Option<Progress> {
    said(roster, job).map(|(_, progress)| progress)
}

fn said(roster: &Roster, job: &Job) -> Option<(u32, Progress)> {
    let runs: Vec<_> = job.runs_in_force().collect();
    let of = |run: &&Run| Some((run.attempt, roster.progress(run.award.worker, (job.id, run.attempt))?));
    runs.iter().rev().find_map(of)
}

/// An event of `GET /events?job=`; it has no number, and is not repeated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    job_id: String,
    attempt: u32,
    /// 0 to 1.
    progress: Option<f64>,
    message: String,
}

impl Told {
    pub fn now(api: &Api, id: JobId) -> Option<Self> {
        let look = |job: &Job| said(&api.context.roster, job);
        let (attempt, said) = api.client().read(|state| state.job(id).and_then(|job| look(job)))?;
        Some(Self {
            job_id: id.to_string(),
            attempt,
            progress: said.permille.map(text::fraction),
            message: said.message,
        })
    }
}
