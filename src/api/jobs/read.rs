//! Reads of jobs.

use std::sync::Arc;
use std::time::Duration;

use warp::reply::Response;

use super::body::{JobBody, JobEvents, JobList, JobStatus, ResultBody, TransitionBody, worker_of};
use super::{cold, progress};
use crate::api::page::{Page, after};
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::{Api, respond, text};
use crate::clock;
use crate::consensus;
use crate::domain::job::Outcome;
use crate::domain::{Job, JobId, JobState, State, Timestamp, WorkerId};
use crate::submission::address;

/// How long `wait=terminal` holds without `timeout_secs`, in seconds.
const WAIT_USUAL: u64 = 30;

/// What a list is narrowed to.
pub(super) struct Filter {
    state: String,
    kind: Option<String>,
    worker: Option<Option<WorkerId>>,
    client: Option<String>,
    tag: Option<String>,
    since: Option<Timestamp>,
    /// Failed, and with time left at this time.
    dead: Option<Timestamp>,
}

impl Filter {
    fn of(request: &Request) -> Self {
        let owned = |name| request.text(name).map(str::to_owned);
        let dead = request.text("dead") == Some("true");
        Self {
            state: owned("state").unwrap_or_else(|| if dead { "failed" } else { "active" }.to_owned()),
            dead: dead.then(clock::now),
            kind: owned("type"),
            worker: request.worker_filter("worker"),
            client: owned("client").map(|client| address(&client).unwrap_or(client)),
            tag: owned("tag"),
            since: request.text("since").and_then(text::parse_time),
        }
    }

    pub(super) fn takes(&self, job: &Job) -> bool {
        let state = match self.state.as_str() {
            "all" => true,
            "active" => !job.state.is_final(),
            state => job.state.as_str() == state,
        };
        state
            && self.dead.is_none_or(|now| job.is_dead() && job.spec.deadline.is_none_or(|deadline| deadline > now))
            && self.kind.as_ref().is_none_or(|kind| *kind == job.spec.kind)
            && self.client.as_ref().is_none_or(|client| job.spec.client_address.as_deref() == Some(client))
            && self.tag.as_ref().is_none_or(|tag| job.spec.tags.contains(tag))
            && self.since.is_none_or(|since| job.submitted_at >= since)
            && self.worker.is_none_or(|worker| worker.is_some_and(|worker| runs_on(job, worker)))
    }

    /// Whether a job that ended in this state may be in the list.
    pub(super) fn takes_state(&self, state: JobState) -> bool {
        self.state == "all" || self.state == state.as_str()
    }

    /// Whether a job that has ended may be in the list.
    fn wants_finished(&self) -> bool {
        matches!(self.state.as_str(), "all" | "completed" | "failed" | "cancelled")
    }
}

/// Whether a worker runs the job, or ran it last.
fn runs_on(job: &Job, worker: WorkerId) -> bool {
    worker_of(job) == Some(worker) || job.spec.redundancy > 1 && job.involves(worker)
}

pub async fn list(api: Api, request: Request) -> Result<Response, Problem> {
    let (view, client) = (api.client().view(), api.client().clone());
    // A filter may pass over every job before it finds one.
    api.aside(move || respond::json(&page(&view, &client, &request)?)).await?
}

fn page(view: &State, client: &consensus::Client, request: &Request) -> Result<JobList, Problem> {
    let filter = Filter::of(request);
    let mut page = Page::of(request);
    let start = after(request).map(JobId);
    if filter.wants_finished() {
        cold::fill(&mut page, view, client, &filter, start)?;
    } else {
        fill(&mut page, view, &filter, view.active_jobs_after(start));
    }
    let (jobs, next_cursor) = page.finish();
    Ok(JobList { jobs, next_cursor, applied_index: view.applied() })
}

fn fill<'a>(page: &mut Page<JobBody, 16>, view: &State, filter: &Filter, jobs: impl Iterator<Item = &'a Arc<Job>>) {
    for job in jobs.filter(|job| filter.takes(job)) {
        if !page.push(job.id.0, || JobBody::of(view, job)) {
            return;
        }
    }
}

pub async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.job()?;
    if request.text("wait").is_some() {
        let secs = request.integer("timeout_secs").unwrap_or(WAIT_USUAL);
        wait_terminal(&api, id, Duration::from_secs(secs)).await?;
    }
    let body = look(&api, id, JobBody::of).await?;
    respond::json(&body)
}

/// Returns when the job has ended, the time is up, or the job is not known; fails when the node stops.
async fn wait_terminal(api: &Api, id: JobId, limit: Duration) -> Result<(), Problem> {
    let crowded = || Problem::new(Code::Overloaded, "too many requests wait for jobs to end");
    let _permit = Arc::clone(&api.waits).try_acquire_owned().map_err(|_| crowded())?;
    let mut applied = api.client().applied();
    let ended = async {
        loop {
            applied.borrow_and_update();
            let waiting = api.client().read(|state| state.job(id).is_some_and(|job| !job.state.is_final()));
            if !waiting || applied.changed().await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(limit, ended) => ended.unwrap_or(Ok(())),
        () = api.tasks.token().cancelled() => Err(Problem::new(Code::Stopping, "this node takes no more requests")),
    }
}

pub async fn status(api: Api, request: Request) -> Result<Response, Problem> {
    let body =
        look(&api, request.job()?, |state, job| JobStatus::of(state, job, progress::of(&api.context.roster, job)))
            .await?;
    respond::json(&body)
}

pub async fn result(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.job()?;
    let body = look(&api, id, |state, job| finished(job).map(|outcome| ResultBody::of(state, job, outcome))).await??;
    respond::json(&body)
}

/// How a job came out.
///
/// # Errors
///
/// It has no result, or none yet.
pub fn finished(job: &Job) -> Result<&Outcome, Problem> {
    let (id, state) = (job.id, job.state.as_str());
    match &job.outcome {
        Some(outcome) if job.state.is_final() => Ok(outcome),
        _ if job.state.is_final() => {
            let reason =
                job.error.as_ref().map_or(String::new(), |error| format!(": {} ({})", error.detail, error.code));
            Err(Problem::new(Code::NoResult, format!("job {id} is {state}{reason}")))
        }
        _ => Err(Problem::new(Code::NotFinished, format!("job {id} is {state}"))),
    }
}

pub async fn events(api: Api, request: Request) -> Result<Response, Problem> {
    let body = look(&api, request.job()?, |state, job| JobEvents {
        job_id: job.id.to_string(),
        events: job.history.iter().map(TransitionBody::of).collect(),
        applied_index: state.applied(),
    })
    .await?;
    respond::json(&body)
}

/// Looks at a job in this node's state, or in its archive.
pub async fn look<R>(api: &Api, id: JobId, look: impl FnOnce(&State, &Job) -> R) -> Result<R, Problem> {
    let mut look = Some(look);
    let mut once = |state: &State| state.job(id).and_then(|job| look.take().map(|look| look(state, job)));
    if let Some(found) = api.client().read(&mut once) {
        return Ok(found);
    }
    let recalled = api.client().recall(id).await?;
    recalled.as_ref().and_then(once).ok_or_else(|| unknown(id))
}

/// The state in which a job is to be looked at: `view`, or what the archive says. Blocking.
pub fn with_job(view: &Arc<State>, client: &consensus::Client, id: JobId) -> Result<Arc<State>, Problem> {
    if view.job(id).is_some() {
        return Ok(Arc::clone(view));
    }
    client.recall_blocking(id)?.map(Arc::new).ok_or_else(|| unknown(id))
}

pub fn unknown(id: JobId) -> Problem {
    Problem::new(Code::UnknownJob, format!("job {id} is not known to this node"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_found_under_every_spelling_of_its_address() {
        for spelling in ["0xabc", "0x0AbC", "0xABC"] {
            let filter = Filter::of(&Request::with_query(vec![("client", spelling.to_owned())]));
            assert_eq!(filter.client.as_deref(), Some("0xabc"), "{spelling}");
        }
    }
}
