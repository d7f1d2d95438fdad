//! The workers as one job sees them, each matched once.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::Context;
use crate::domain::matching::{Live, Misfit, fits, misfits};
use crate::domain::worker::WorkerState;
use crate::domain::{Job, Worker, WorkerId};

/// Workers told of. Beyond it the answer says how many were left out.
pub const WORKERS_MAX: usize = 1_000;

#[derive(Serialize, ToSchema)]
pub struct WorkerFit {
    worker_id: String,
    #[schema(pattern = "^(online|busy|draining|unhealthy|offline|banned)$")]
    state: &'static str,
    /// Whether the worker may bid: it takes jobs, and lacks nothing.
    eligible: bool,
    /// Free places, as of its last heartbeat; null if it was not heard here.
    room: Option<u32>,
    misfits: Vec<MisfitBody>,
}

/// A requirement that the worker does not meet.
#[derive(Serialize, ToSchema)]
#[schema(as = Misfit)]
struct MisfitBody {
    requirement: &'static str,
    wanted: String,
    offered: String,
}

/// A worker, and what users see of it.
pub type Known = (Arc<Worker>, WorkerState);

/// How many workers there are for a job, and what each of the first lacks. One that has a run of it gets no other.
#[derive(Default)]
pub struct Crowd {
    pub known: usize,
    pub fitting: usize,
    /// They fit and take jobs.
    pub eligible: usize,
    pub told: Vec<WorkerFit>,
}

impl Crowd {
    /// `now`: how a worker does, as far as this node heard and measured.
    pub fn of(job: &Job, workers: &[Known], now: impl Fn(WorkerId) -> (Live, Option<u32>)) -> Self {
        let mut crowd = Self { told: Vec::with_capacity(workers.len().min(WORKERS_MAX)), ..Self::default() };
        for (worker, state) in workers {
            let (live, room) = now(worker.id);
            let involved = job.involves(worker.id);
            let fit = if crowd.known < WORKERS_MAX {
                let mut lacks = misfits(&job.spec, worker, Some(live));
                lacks.extend(involved.then(has_run));
                let fit = lacks.is_empty();
                crowd.told.push(WorkerFit::of(worker, *state, room, lacks));
                fit
            } else {
                !involved && fits(&job.spec, worker, Some(live))
            };
            crowd.known += 1;
            crowd.fitting += usize::from(fit);
            crowd.eligible += usize::from(fit && takes(*state));
        }
        crowd
    }
}

impl WorkerFit {
    fn of(worker: &Worker, state: WorkerState, room: Option<u32>, lacks: Vec<Misfit>) -> Self {
        let body =
            |lack: Misfit| MisfitBody { requirement: lack.requirement, wanted: lack.wanted, offered: lack.offered };
        Self {
            worker_id: worker.id.to_string(),
            state: state.as_str(),
            eligible: takes(state) && lacks.is_empty(),
            room,
            misfits: lacks.into_iter().map(body).collect(),
        }
    }
}

/// How a worker does, and its free places.
pub fn live(context: &Context, worker: WorkerId) -> (Live, Option<u32>) {
    let heard = context.roster.load_and_room(worker);
    let load_permille = heard.map_or(0, |(load, _)| load);
    (Live { load_permille, rtt_us: context.mesh.rtt_us(worker) }, heard.map(|(_, room)| room))
}

pub fn takes(state: WorkerState) -> bool {
    matches!(state, WorkerState::Online | WorkerState::Busy)
}

/// What a worker lacks that has a run of the job already.
fn has_run() -> Misfit {
    let (wanted, offered) = ("a worker without a run of this job".to_owned(), "it has one".to_owned());
    Misfit { requirement: "redundancy", wanted, offered }
}
