//! `GET /jobs/{id}/explain`: why a job is where it is.
//!
//! Answered from replicated state and the last heartbeats, so every node can say
//! it. Bids are soft and known to the leader only: another node says so, and
//! whom to ask.
//!
//! Work is bounded: workers are told of one by one up to [`WORKERS_MAX`], the
//! queue is walked up to [`QUEUE_MAX`] places. Beyond that the answer says what
//! it left out.

mod attempts;
mod bids;
mod chain;
mod change;

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use attempts::AttemptBody;
use bids::{PriceBody, RoundBody};
use change::ChangeBody;

use super::body::{ErrorBody, TransitionBody};
use super::runs::{RunBody, progress};
use crate::api::market::AwardBody;
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::{Api, Context, respond, text};
use crate::clock;
use crate::domain::matching::{Live, Misfit, fits, misfits};
use crate::domain::worker::WorkerState;
use crate::domain::{Job, JobState, State, Timestamp, Worker};

/// Workers told of. Beyond it the answer says how many were left out.
const WORKERS_MAX: usize = 1_000;
/// Open jobs counted for the place in the queue.
const QUEUE_MAX: usize = 5_000;

#[derive(Serialize, ToSchema)]
pub struct Explanation {
    #[schema(format = "uuid")]
    job_id: String,
    state: &'static str,
    attempt: u32,
    /// Stable: awaits_chain, no_workers, waiting_for_retry, no_worker_fits, no_worker_available, price_too_low, in_auction, assigned, running, completed, failed, cancelled.
    reason: &'static str,
    /// The reason, for people.
    detail: String,
    /// Open jobs that are served first; null unless the job is on the market.
    queue_position: Option<usize>,
    /// False: at least so many, only the first of the queue are counted.
    queue_position_exact: bool,
    /// Jobs on the market.
    queue_length: usize,
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    /// While a run is missing: each known worker, and what it lacks.
    workers: Vec<WorkerFit>,
    /// Workers beyond those told of.
    workers_omitted: usize,
    /// What the job offers, and what would be enough.
    price: Option<PriceBody>,
    /// What was bid when the job was on the market last, if it was not placed; the leader alone knows.
    last_round: Option<RoundBody>,
    /// Where bids are known: null if that is here, or nowhere.
    ask_node: Option<String>,
    /// While pending: requirements of which one alone keeps workers away, and what would let them in.
    changes: Vec<ChangeBody>,
    /// What became of each attempt, oldest first.
    attempts: Vec<AttemptBody>,
    /// While assigned or running, and after: the award in force last.
    award: Option<AwardBody>,
    /// With redundancy: the awards of all its runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    awards: Option<Vec<AwardBody>>,
    /// With redundancy: who runs the job or has run it in this round, and what each brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    runs: Option<Vec<RunBody>>,
    /// Why the job, or its last attempt, did not end well.
    error: Option<ErrorBody>,
    /// How the job came here.
    history: Vec<TransitionBody>,
    applied_index: u64,
}

#[derive(Serialize, ToSchema)]
struct WorkerFit {
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

pub async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.job()?;
    let view = api.client().view();
    let context = Arc::clone(&api.context);
    let explained = move || {
        let unknown = || Problem::new(Code::UnknownJob, format!("job {id} is not known to this node"));
        let job = view.job(id).ok_or_else(unknown)?;
        respond::json(&explain(&view, &context, job, clock::now()))
    };
    // Looks at every worker and at the whole queue.
    api.aside(explained).await?
}

/// `now` is this node's clock: the state's stands still while nothing is written.
fn explain(state: &State, context: &Context, job: &Job, now: Timestamp) -> Explanation {
    let now = now.max(state.now());
    let pending = job.state == JobState::Pending;
    let fits = Fits::of(state, context, job);
    let wanting = job.wants_run();
    let workers: Vec<_> =
        state.workers().filter(|_| wanting).take(WORKERS_MAX).map(|worker| fit(state, context, job, worker)).collect();
    let waits = pending && job.next_attempt_at > now;
    let heard = bids::heard(context, job).filter(|_| pending);
    let (reason, mut detail) = match &heard {
        _ if !pending => why(job),
        _ if job.awaits_chain => {
            let view = context.chain.as_ref().map(crate::chain::Handle::view);
            chain::why(state, view.as_ref(), job, now)
        }
        Some(round) if !waits => bids::too_low(job, round, now).unwrap_or_else(|| why_pending(job, &fits, waits)),
        _ => why_pending(job, &fits, waits),
    };
    detail.push_str(&progress(job));
    let place = (pending && !waits && !job.awaits_chain).then(|| queue_position(state, job, now));
    Explanation {
        job_id: job.id.to_string(),
        state: job.state.as_str(),
        attempt: job.attempt,
        reason,
        detail,
        queue_position: place.map(|(position, _)| position),
        queue_position_exact: place.is_some_and(|(_, exact)| exact),
        queue_length: state.open_count(),
        next_attempt_at: pending.then(|| text::time(job.next_attempt_at.max(job.submitted_at))),
        workers_omitted: if wanting { state.workers().count().saturating_sub(workers.len()) } else { 0 },
        workers,
        price: pending.then(|| PriceBody::of(job, heard.as_ref(), now)),
        last_round: heard.as_ref().map(|round| RoundBody::of(job, round)),
        ask_node: bids::ask(context).filter(|_| pending),
        changes: if pending && fits.fitting == 0 { change::find(state, context, job) } else { vec![] },
        attempts: attempts::of(job),
        award: job.leading_run().map(AwardBody::of),
        awards: (job.spec.redundancy > 1).then(|| job.runs.iter().map(AwardBody::of).collect()),
        runs: RunBody::all(job),
        error: job.error.as_deref().map(ErrorBody::of),
        history: job.history.iter().map(TransitionBody::of).collect(),
        applied_index: state.applied(),
    }
}

/// How many workers there are for a job. One that has a run of it gets no other.
#[derive(Default)]
struct Fits {
    known: usize,
    fitting: usize,
    /// They fit and take jobs.
    eligible: usize,
}

impl Fits {
    fn of(state: &State, context: &Context, job: &Job) -> Self {
        let mut counts = Self::default();
        if job.state != JobState::Pending {
            return counts;
        }
        for worker in state.workers() {
            counts.known += 1;
            if !job.involves(worker.id) && fits(&job.spec, worker, Some(live(context, worker))) {
                counts.fitting += 1;
                counts.eligible += usize::from(takes(state, worker));
            }
        }
        counts
    }
}

fn live(context: &Context, worker: &Worker) -> Live {
    let load_permille = context.roster.get(worker.id).map_or(0, |heard| heard.load_permille);
    Live { load_permille, rtt_us: context.mesh.rtt_us(worker.id) }
}

fn takes(state: &State, worker: &Worker) -> bool {
    matches!(state.worker_state(worker), WorkerState::Online | WorkerState::Busy)
}

fn fit(state: &State, context: &Context, job: &Job, worker: &Worker) -> WorkerFit {
    let heard = context.roster.get(worker.id);
    let mut lacks = misfits(&job.spec, worker, Some(live(context, worker)));
    lacks.extend(job.involves(worker.id).then(has_run));
    WorkerFit {
        worker_id: worker.id.to_string(),
        state: state.worker_state(worker).as_str(),
        eligible: takes(state, worker) && lacks.is_empty(),
        room: heard.map(|heard| heard.room),
        misfits: lacks
            .into_iter()
            .map(|lack| MisfitBody { requirement: lack.requirement, wanted: lack.wanted, offered: lack.offered })
            .collect(),
    }
}

/// What a worker lacks that has a run of the job already.
fn has_run() -> Misfit {
    let (wanted, offered) = ("a worker without a run of this job".to_owned(), "it has one".to_owned());
    Misfit { requirement: "redundancy", wanted, offered }
}

fn why_pending(job: &Job, workers: &Fits, waits: bool) -> (&'static str, String) {
    if waits {
        let detail = format!(
            "attempt {} did not succeed; the job is announced again at {}",
            job.attempt,
            text::time(job.next_attempt_at)
        );
        return ("waiting_for_retry", detail);
    }
    let Fits { known, fitting, eligible } = *workers;
    if known == 0 {
        return ("no_workers", "no worker is registered".to_owned());
    }
    if fitting == 0 && !job.runs.is_empty() {
        let detail = format!("none of {known} workers meets the job's requirements and is without a run of it");
        return ("no_worker_fits", detail);
    }
    if fitting == 0 {
        return ("no_worker_fits", format!("none of {known} workers meets the job's requirements"));
    }
    if eligible == 0 {
        return ("no_worker_available", format!("{fitting} of {known} workers fit, but none of them takes jobs now"));
    }
    let asked = job.redundancy();
    if job.runs.is_empty() && eligible < asked {
        let detail = format!("{asked} workers are to run the job side by side, {eligible} of {known} may");
        return ("no_worker_available", detail);
    }
    ("in_auction", format!("{eligible} of {known} workers may bid; the job waits for the best bid, or for room"))
}

fn why(job: &Job) -> (&'static str, String) {
    let attempt = job.leading_run().map_or(job.attempt, |run| run.attempt);
    let by = job.leading_run().map_or_else(String::new, |run| format!(" by worker {}", run.award.worker));
    let error = job.error.as_ref().map_or_else(String::new, |error| format!(": {} ({})", error.detail, error.code));
    let detail = match job.state {
        JobState::Pending => "the job waits".to_owned(),
        JobState::Assigned => format!("attempt {attempt} is awarded and not yet started{by}"),
        JobState::Running => format!("attempt {attempt} is run{by}"),
        JobState::Completed => format!("attempt {attempt} brought the result"),
        JobState::Failed => format!("the job failed after {} attempts{error}", job.attempt),
        JobState::Cancelled => format!("the job was cancelled{error}"),
    };
    (job.state.as_str(), detail)
}

/// Jobs served before it, and whether that is all of them.
fn queue_position(state: &State, job: &Job, now: Timestamp) -> (usize, bool) {
    let place = state.open_jobs(now).take(QUEUE_MAX).position(|open| open.id == job.id);
    place.map_or((QUEUE_MAX, false), |place| (place, true))
}
