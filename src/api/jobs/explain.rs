//! `GET /jobs/{id}/explain`: why a job is where it is.
//!
//! Answered from replicated state and the last heartbeats, so every node can say
//! it. Bids are soft and known to the leader only: another node says so, and
//! whom to ask.
//!
//! Work is bounded: workers are told of one by one up to
//! [`WORKERS_MAX`](crowd::WORKERS_MAX), the queue is walked up to
//! [`EXACT`](crate::domain::place::EXACT) places and counted behind them. Beyond
//! that the answer says what it left out. Under the state's lock only a
//! [`Glance`] is taken, so no copy of the state is made for an answer.

mod attempts;
mod bids;
mod chain;
mod change;
mod crowd;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use attempts::AttemptBody;
use bids::{PriceBody, RoundBody};
use change::ChangeBody;
use crowd::{Crowd, Known, WorkerFit, live};

use super::body::{ErrorBody, TransitionBody};
use super::read::unknown;
use super::runs::{RunBody, progress};
use crate::api::market::AwardBody;
use crate::api::problem::Problem;
use crate::api::request::Request;
use crate::api::{Api, Context, respond, text};
use crate::clock;
use crate::domain::place::Place;
use crate::domain::{Job, JobId, JobState, State, Timestamp};

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
    /// False: at least so many. Behind the first of the queue only those of the same client are counted.
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

pub async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.job()?;
    let context = Arc::clone(&api.context);
    let explained = move || {
        let chain = context.chain.as_ref().map(crate::chain::Handle::view);
        let now = clock::now();
        let look = |state: &State| Glance::of(state, chain.as_ref(), id, now);
        let here = context.client.read(look);
        let glance = match here {
            Some(glance) => Some(glance),
            // It may have left memory.
            None => context.client.recall_blocking(id)?.as_ref().and_then(look),
        };
        respond::json(&explain(&glance.ok_or_else(|| unknown(id))?, &context))
    };
    // Looks at every worker.
    api.aside(explained).await?
}

/// What an answer takes from the state.
struct Glance {
    job: Arc<Job>,
    /// Those the answer is about: none if it is about no workers.
    workers: Vec<Known>,
    /// Of a job that is on the market.
    place: Option<Place>,
    open: usize,
    /// Why a registration on chain is waited for.
    chain: Option<(&'static str, String)>,
    applied: u64,
    now: Timestamp,
}

impl Glance {
    /// `now` is this node's clock: the state's stands still while nothing is written.
    fn of(state: &State, chain: Option<&crate::chain::View>, id: JobId, now: Timestamp) -> Option<Self> {
        let job = Arc::clone(state.job(id)?);
        let now = now.max(state.now());
        let pending = job.state == JobState::Pending;
        let known = |worker: &Arc<_>| (Arc::clone(worker), state.worker_state(worker));
        let on_market = pending && job.next_attempt_at <= now && !job.awaits_chain;
        Some(Self {
            workers: if pending || job.wants_run() { state.workers().map(known).collect() } else { vec![] },
            place: on_market.then(|| state.place(&job, now)),
            open: state.open_count(),
            chain: (pending && job.awaits_chain).then(|| chain::why(state, chain, &job, now)),
            applied: state.applied(),
            job,
            now,
        })
    }
}

fn explain(glance: &Glance, context: &Context) -> Explanation {
    let Glance { job, now, place, .. } = glance;
    let (pending, wanting) = (job.state == JobState::Pending, job.wants_run());
    let crowd = Crowd::of(job, &glance.workers, |worker| live(context, worker));
    let waits = pending && job.next_attempt_at > *now;
    let heard = bids::heard(context, job).filter(|_| pending);
    let (reason, mut detail) = match (&heard, &glance.chain) {
        _ if !pending => why(job),
        (_, Some(chain)) => chain.clone(),
        (Some(round), None) if !waits => {
            bids::too_low(job, round, *now).unwrap_or_else(|| why_pending(job, &crowd, waits))
        }
        _ => why_pending(job, &crowd, waits),
    };
    detail.push_str(&progress(job));
    let changes = if pending && crowd.fitting == 0 { change::find(&glance.workers, context, job) } else { vec![] };
    let told = if wanting { crowd.told } else { vec![] };
    Explanation {
        job_id: job.id.to_string(),
        state: job.state.as_str(),
        attempt: job.attempt,
        reason,
        detail,
        queue_position: place.map(|place| place.ahead),
        queue_position_exact: place.is_some_and(|place| place.exact),
        queue_length: glance.open,
        next_attempt_at: pending.then(|| text::time(job.next_attempt_at.max(job.submitted_at))),
        workers_omitted: if wanting { glance.workers.len().saturating_sub(told.len()) } else { 0 },
        workers: told,
        price: pending.then(|| PriceBody::of(job, heard.as_ref(), *now)),
        last_round: heard.as_ref().map(|round| RoundBody::of(job, round)),
        ask_node: bids::ask(context).filter(|_| pending),
        changes,
        attempts: attempts::of(job),
        award: job.leading_run().map(AwardBody::of),
        awards: (job.spec.redundancy > 1).then(|| job.runs.iter().map(AwardBody::of).collect()),
        runs: RunBody::all(job),
        error: job.error.as_deref().map(ErrorBody::of),
        history: job.history.iter().map(TransitionBody::of).collect(),
        applied_index: glance.applied,
    }
}

fn why_pending(job: &Job, workers: &Crowd, waits: bool) -> (&'static str, String) {
    if waits {
        let detail = format!(
            "attempt {} did not succeed; the job is announced again at {}",
            job.attempt,
            text::time(job.next_attempt_at)
        );
        return ("waiting_for_retry", detail);
    }
    let Crowd { known, fitting, eligible, .. } = *workers;
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
