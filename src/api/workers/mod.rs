//! Workers: registering, draining, and how they are.

mod registration;

use serde::Serialize;
use utoipa::ToSchema;
use warp::http::Method;
use warp::reply::Response;

use self::registration::Registration;
use super::decode;
use super::page::{self, Page, after};
use super::params::{Kind, Param};
use super::problem::{Code, Problem};
use super::request::Request;
use super::route::Route;
use super::{Api, respond, text};
use crate::clock;
use crate::domain::reputation::{Change, Fact};
use crate::domain::worker::{Capabilities, Location, REPUTATION_START, Tee, Verdict, WorkerState};
use crate::domain::{Command, State, Worker, WorkerId};
use crate::mesh::Heard;

/// Bytes of a registration.
const BODY_MAX: usize = 256 << 10;

pub fn routes() -> Vec<Route> {
    let states = vec!["active", "all", "online", "busy", "draining", "unhealthy", "offline", "banned"];
    vec![
        Route::post("/workers", "Register a worker, or replace what it declared", register)
            .takes::<Registration>(true, BODY_MAX)
            .answers::<WorkerBody>(201, "Registered")
            .answers::<WorkerBody>(200, "Was registered; what it declares is replaced")
            .located()
            .write()
            .problems(&[Code::WorkersFull]),
        Route::get("/workers", "Workers, by default those that are not offline or banned", list)
            .params(page::params(32))
            .param(Param::new("state", Kind::Choice(states), "active (the default), all, or one state."))
            .param(Param::new("region", Kind::Text(64), "In this region."))
            .param(Param::new("job_type", Kind::Name, "That run this job type."))
            .fresh()
            .answers::<WorkerList>(200, "A page of workers, in the order of their keys"),
        Route::get("/workers/{id}", "One worker", get)
            .fresh()
            .answers::<WorkerBody>(200, "The worker")
            .problems(&[Code::UnknownWorker]),
        Route::new(Method::DELETE, "/workers/{id}", "Unregister a worker: its jobs are handed to others", unregister)
            .answers_raw(204, "Unregistered", vec![])
            .write()
            .problems(&[Code::UnknownWorker]),
        Route::post("/workers/{id}/drain", "No new jobs; running ones finish", drain)
            .answers::<WorkerBody>(200, "The worker drains")
            .write()
            .problems(&[Code::UnknownWorker]),
        Route::post("/workers/{id}/resume", "Take jobs again", resume)
            .answers::<WorkerBody>(200, "The worker takes jobs")
            .write()
            .problems(&[Code::UnknownWorker]),
        Route::get("/workers/{id}/health", "What a worker said last, and what is thought of it", health)
            .fresh()
            .answers::<WorkerHealth>(200, "Heartbeat, verdict and reputation")
            .problems(&[Code::UnknownWorker]),
    ]
}

#[derive(Serialize, ToSchema)]
#[schema(as = Worker)]
struct WorkerBody {
    /// Peer id.
    id: String,
    #[schema(pattern = "^(online|busy|draining|unhealthy|offline|banned)$")]
    state: &'static str,
    capabilities: CapabilitiesBody,
    location: LocationBody,
    #[schema(minimum = 0, maximum = 1000)]
    reputation: u32,
    /// 0 to 1, as of the last heartbeat; null if none was heard here.
    load: Option<f64>,
    jobs_running: usize,
    max_parallel_jobs: u32,
    #[schema(format = DateTime)]
    registered_at: String,
    /// As heard by this node; null if never.
    #[schema(format = DateTime)]
    last_heartbeat_at: Option<String>,
    version: String,
    /// The account on chain that it is paid to, as its own key says; null: it named none.
    payout_address: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Capabilities)]
struct CapabilitiesBody {
    cpu_cores: u32,
    ram_gb: f64,
    gpu_count: u32,
    gpu_model: String,
    gpu_memory_gb: f64,
    storage_gb: u64,
    network_bandwidth_mbps: u64,
    job_types: Vec<String>,
    frameworks: Vec<String>,
    accelerators: Vec<String>,
    /// Of references to inputs that it fetches.
    input_schemes: Vec<String>,
    max_parallel_jobs: u32,
    cuda_compute_capability: String,
    tee: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Location)]
struct LocationBody {
    region: String,
    country: String,
    latitude: Option<f64>,
    longitude: Option<f64>,
}

#[derive(Serialize, ToSchema)]
struct WorkerList {
    workers: Vec<WorkerBody>,
    next_cursor: Option<String>,
    applied_index: u64,
}

impl WorkerBody {
    fn of(state: &State, worker: &Worker, heard: Option<Heard>) -> Self {
        Self {
            id: worker.id.to_string(),
            state: state.worker_state(worker).as_str(),
            capabilities: CapabilitiesBody::of(&worker.capabilities),
            location: LocationBody::of(&worker.location),
            reputation: worker.reputation,
            load: heard.as_ref().map(|heard| text::fraction(heard.load_permille)),
            jobs_running: state.jobs_of(worker.id).map_or(0, std::collections::BTreeSet::len),
            max_parallel_jobs: worker.capabilities.max_parallel_jobs,
            registered_at: text::time(worker.registered_at),
            last_heartbeat_at: heard.map(|heard| text::time(heard.at)),
            version: worker.version.clone(),
            payout_address: worker.capabilities.payout_address.map(|address| address.to_string()),
        }
    }
}

impl CapabilitiesBody {
    fn of(has: &Capabilities) -> Self {
        Self {
            cpu_cores: has.cpu_cores,
            ram_gb: text::gb(has.ram_mb),
            gpu_count: has.gpu_count,
            gpu_model: has.gpu_model.clone(),
            gpu_memory_gb: text::gb(has.gpu_memory_mb),
            storage_gb: has.storage_gb,
            network_bandwidth_mbps: has.network_bandwidth_mbps,
            job_types: has.job_types.clone(),
            frameworks: has.frameworks.clone(),
            accelerators: has.accelerators.clone(),
            input_schemes: has.input_schemes.clone(),
            max_parallel_jobs: has.max_parallel_jobs,
            cuda_compute_capability: has.cuda_compute_capability.clone(),
            tee: match has.tee {
                Tee::None => "none",
                Tee::Cpu => "cpu",
                Tee::Full => "full",
            },
        }
    }
}

impl LocationBody {
    fn of(location: &Location) -> Self {
        let degrees = |micro: i32| f64::from(micro) / 1_000_000.0;
        Self {
            region: location.region.clone(),
            country: location.country.clone(),
            latitude: location.latitude_e6.map(degrees),
            longitude: location.longitude_e6.map(degrees),
        }
    }
}

async fn register(api: Api, request: Request) -> Result<Response, Problem> {
    let registration: Registration = decode::json(&request.body)?;
    let (worker, command) = registration.check()?;
    let known = api.client().read(|state| state.worker(worker).is_some());
    let (_, reply) = api.client().submit(command, api.limits().write_deadline).await?;
    reply?;
    respond::placed(!known, &format!("/workers/{worker}"), &body_of(&api, worker)?)
}

async fn list(api: Api, request: Request) -> Result<Response, Problem> {
    let wanted = request.text("state").unwrap_or("active").to_owned();
    let (region, job_type) = (request.text("region"), request.text("job_type"));
    let view = api.client().view();
    let start = after::<32>(&request).map(crate::domain::PeerId);
    let takes = |worker: &Worker| {
        let state = view.worker_state(worker);
        let in_state = match wanted.as_str() {
            "all" => true,
            "active" => !matches!(state, WorkerState::Offline | WorkerState::Banned),
            wanted => state.as_str() == wanted,
        };
        in_state
            && region.is_none_or(|region| region == worker.location.region)
            && job_type.is_none_or(|kind| worker.capabilities.job_types.iter().any(|known| known == kind))
    };
    let mut workers: Vec<_> = view.workers().filter(|worker| start.is_none_or(|start| worker.id > start)).collect();
    workers.sort_by_key(|worker| worker.id);
    let mut page = Page::of(&request);
    for worker in workers.into_iter().filter(|worker| takes(worker)) {
        if !page.push(worker.id.0, || WorkerBody::of(&view, worker, api.context.roster.get(worker.id))) {
            break;
        }
    }
    let (workers, next_cursor) = page.finish();
    respond::json(&WorkerList { workers, next_cursor, applied_index: view.applied() })
}

async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    respond::json(&body_of(&api, request.worker()?)?)
}

async fn unregister(api: Api, request: Request) -> Result<Response, Problem> {
    let worker = request.worker()?;
    write(&api, Command::UnregisterWorker { worker }).await?;
    Ok(respond::empty())
}

async fn drain(api: Api, request: Request) -> Result<Response, Problem> {
    let worker = request.worker()?;
    write(&api, Command::Drain { worker }).await?;
    respond::json(&body_of(&api, worker)?)
}

async fn resume(api: Api, request: Request) -> Result<Response, Problem> {
    let worker = request.worker()?;
    write(&api, Command::Resume { worker }).await?;
    respond::json(&body_of(&api, worker)?)
}

async fn write(api: &Api, command: Command) -> Result<(), Problem> {
    let (_, reply) = api.client().submit(command, api.limits().write_deadline).await?;
    reply?;
    Ok(())
}

fn body_of(api: &Api, id: WorkerId) -> Result<WorkerBody, Problem> {
    let heard = api.context.roster.get(id);
    api.client()
        .read(|state| state.worker(id).map(|worker| WorkerBody::of(state, worker, heard)))
        .ok_or_else(|| unknown(id))
}

fn unknown(id: WorkerId) -> Problem {
    Problem::new(Code::UnknownWorker, format!("worker {id} is not known to this node"))
}

#[derive(Serialize, ToSchema)]
struct WorkerHealth {
    worker_id: String,
    state: &'static str,
    /// What the log says of its life.
    #[schema(pattern = "^(online|unhealthy|offline)$")]
    verdict: &'static str,
    #[schema(format = DateTime)]
    verdict_at: String,
    /// What it said last, as heard by this node; null if nothing.
    heartbeat: Option<HeartbeatBody>,
    reputation: ReputationBody,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Heartbeat)]
struct HeartbeatBody {
    #[schema(format = DateTime)]
    at: String,
    /// Since it was heard, not counting time this node itself was away.
    silence_ms: u64,
    /// 0 to 1, like all usage.
    cpu_usage: f64,
    memory_usage: f64,
    /// Null if the worker does not measure it.
    gpu_usage: Option<f64>,
    disk_usage: f64,
    load: f64,
    uptime_secs: u64,
    /// Free places.
    room: u32,
    jobs_running: usize,
    /// Whether it drains itself before it exits.
    stopping: bool,
    version: String,
}

/// How a reputation came about: from `start`, by what its jobs came to, drawn back towards it by time.
#[derive(Serialize, ToSchema)]
#[schema(as = Reputation)]
struct ReputationBody {
    #[schema(minimum = 0, maximum = 1000)]
    score: u32,
    start: u32,
    completed: u64,
    failed: u64,
    /// Attempts whose lease ran out, or that ended with the worker's life.
    lost: u64,
    /// Wins nothing until then.
    #[schema(format = DateTime)]
    banned_until: Option<String>,
    /// The last changes, oldest first.
    changes: Vec<ChangeBody>,
    /// What each fact does to a reputation; the same on every node.
    rules: Vec<RuleBody>,
}

/// A fact, and by how much it changes a reputation.
#[derive(Serialize, ToSchema)]
#[schema(as = ReputationRule)]
struct RuleBody {
    fact: &'static str,
    delta: i32,
    about: &'static str,
}

impl RuleBody {
    fn all() -> Vec<Self> {
        let rule = |fact: Fact| Self { fact: fact.as_str(), delta: fact.delta(), about: fact.about() };
        Fact::ALL.into_iter().map(rule).collect()
    }
}

/// One fact that changed a reputation.
#[derive(Serialize, ToSchema)]
#[schema(as = ReputationChange)]
struct ChangeBody {
    #[schema(format = DateTime)]
    at: String,
    #[schema(format = "uuid")]
    job_id: String,
    #[schema(pattern = "^(completed|failed_by_worker|timed_out|lost|declined|late|wrong_result)$")]
    fact: &'static str,
    delta: i32,
    /// The score after it.
    score: u32,
}

impl ChangeBody {
    fn of(change: &Change) -> Self {
        let Change { at, job, fact, value } = *change;
        let (at, job_id) = (text::time(at), job.to_string());
        Self { at, job_id, fact: fact.as_str(), delta: fact.delta(), score: value }
    }
}

async fn health(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.worker()?;
    let heard = api.context.roster.get(id);
    let silence = api.context.roster.silence(id, clock::instant());
    let silence_ms = silence.map_or(0, |silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX));
    let body = api.client().read(|state| {
        let worker = state.worker(id)?;
        Some(WorkerHealth {
            worker_id: id.to_string(),
            state: state.worker_state(worker).as_str(),
            verdict: verdict(worker.verdict),
            verdict_at: text::time(worker.verdict_at),
            heartbeat: heard.map(|heard| HeartbeatBody::of(heard, silence_ms)),
            reputation: ReputationBody {
                score: worker.reputation,
                start: REPUTATION_START,
                completed: worker.completed,
                failed: worker.failed,
                lost: worker.lost,
                banned_until: worker.banned_until.map(text::time),
                changes: worker.changes.iter().map(ChangeBody::of).collect(),
                rules: RuleBody::all(),
            },
        })
    });
    respond::json(&body.ok_or_else(|| unknown(id))?)
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Online => "online",
        Verdict::Unhealthy => "unhealthy",
        Verdict::Offline => "offline",
    }
}

impl HeartbeatBody {
    fn of(heard: Heard, silence_ms: u64) -> Self {
        Self {
            at: text::time(heard.at),
            silence_ms,
            cpu_usage: text::fraction(heard.cpu_permille),
            memory_usage: text::fraction(heard.memory_permille),
            gpu_usage: heard.gpu_permille.map(text::fraction),
            disk_usage: text::fraction(heard.disk_permille),
            load: text::fraction(heard.load_permille),
            uptime_secs: heard.at.since(heard.started) / 1_000,
            room: heard.room,
            jobs_running: heard.running.len(),
            stopping: heard.stopping,
            version: heard.version,
        }
    }
}
