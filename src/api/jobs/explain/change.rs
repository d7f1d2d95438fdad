//! The smallest change of one requirement that would let a worker in.

use serde::Serialize;
use utoipa::ToSchema;

use super::{live, takes};
use crate::api::Context;
use crate::domain::lost::{Change, single_changes};
use crate::domain::{Job, State};

/// "If `requirement` were `would_do`, `workers` would fit."
#[derive(Serialize, ToSchema)]
#[schema(as = RequirementChange)]
pub struct ChangeBody {
    requirement: &'static str,
    wanted: String,
    /// In the unit of the field.
    would_do: String,
    /// Workers that take jobs and would fit then.
    workers: usize,
    /// The same for people.
    detail: String,
}

pub fn find(state: &State, context: &Context, job: &Job) -> Vec<ChangeBody> {
    let workers = state.workers().filter(|worker| takes(state, worker) && !job.involves(worker.id));
    let changes = single_changes(&job.spec, workers.map(|worker| (worker.as_ref(), Some(live(context, worker)))));
    changes.into_iter().map(ChangeBody::of).collect()
}

impl ChangeBody {
    fn of(change: Change) -> Self {
        let Change { requirement, wanted, would_do, workers } = change;
        let fit = if workers == 1 { "worker would fit" } else { "workers would fit" };
        let detail = format!("if {requirement} were {would_do}, {workers} {fit}");
        Self { requirement, wanted, would_do, workers, detail }
    }
}
