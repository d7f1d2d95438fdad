//! The smallest change of one requirement that would let a worker in.

use serde::Serialize;
use utoipa::ToSchema;

use super::crowd::{Known, live, takes};
use crate::api::Context;
use crate::domain::Job;
use crate::domain::lost::{Change, single_changes};

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

pub fn find(workers: &[Known], context: &Context, job: &Job) -> Vec<ChangeBody> {
    let workers = workers.iter().filter(|(worker, state)| takes(*state) && !job.involves(worker.id));
    let live = |worker| Some(live(context, worker).0);
    let changes = single_changes(&job.spec, workers.map(|(worker, _)| (worker.as_ref(), live(worker.id))));
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
