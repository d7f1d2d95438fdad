//! Is the node well, does it turn, may traffic be sent to it?
//!
//! Each component says how it is; the whole is as well as its worst part.
//! What is disabled does not count.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Api;
use super::blockchain;
use super::kafka::Picture;
use super::problem::{Code, Problem};
use super::request::Request;
use super::respond;
use super::route::Route;
use super::status::{dead_voters, worker_counts};
use crate::chain;
use crate::consensus;

/// Staleness beyond which the node is not merely between two leaders.
const STALE: Duration = Duration::from_secs(10);

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/health", "How the node and each of its components is", health)
            .answers::<HealthBody>(200, "Healthy or degraded: the node serves")
            .answers::<HealthBody>(503, "Unhealthy: ask another node"),
        Route::get("/health/live", "Whether the process turns", live).answers::<Probe>(200, "It does"),
        Route::get("/health/ready", "Whether traffic may be sent to this node", ready)
            .answers::<Probe>(200, "It is caught up and knows a leader")
            .problems(&[Code::NotReady]),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Disabled,
    Healthy,
    Degraded,
    Unhealthy,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct HealthBody {
    /// As the worst component: healthy, degraded or unhealthy.
    status: Condition,
    node_id: String,
    version: String,
    /// raft, storage, mesh, workers, backup, kafka, blockchain, database.
    components: BTreeMap<&'static str, Component>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = HealthComponent)]
struct Component {
    status: Condition,
    detail: String,
}

#[derive(Serialize, ToSchema)]
struct Probe {
    status: &'static str,
}

impl Component {
    fn new(status: Condition, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

async fn health(api: Api, _request: Request) -> Result<Response, Problem> {
    let status = api.client().status();
    let components = BTreeMap::from([
        ("raft", raft(&status)),
        ("storage", storage(api.client().storage())),
        ("mesh", mesh(&api, &status)),
        ("workers", workers(&api)),
        ("backup", backup(&api)),
        ("kafka", kafka(&Picture::of(&api.context))),
        ("blockchain", blockchain(&blockchain::Picture::of(&api.context))),
        ("database", Component::new(Condition::Disabled, "not configured")),
    ]);
    let worst = components.values().map(|component| component.status).max();
    let worst = worst.unwrap_or(Condition::Healthy).max(Condition::Healthy);
    let code = if worst == Condition::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = HealthBody {
        status: worst,
        node_id: status.node.to_string(),
        version: api.context.info.version.clone(),
        components,
    };
    respond::with_status(code, &body)
}

fn raft(status: &consensus::Status) -> Component {
    if status.removed {
        return Component::new(
            Condition::Unhealthy,
            "this node was removed from the cluster: stop it, or let it join again with an invitation",
        );
    }
    let dead = dead_voters(status);
    if let Some(first) = dead.first() {
        let detail = format!("{} dead voters, {first} among them: replace or remove them", dead.len());
        return Component::new(Condition::Degraded, detail);
    }
    let silent = status.staleness_ms.is_none_or(|staleness| u128::from(staleness) > STALE.as_millis());
    match (status.leader, status.ready) {
        (Some(_), true) if !silent => {
            Component::new(Condition::Healthy, format!("{} in term {}", status.role.as_str(), status.term))
        }
        (Some(leader), _) if !silent => Component::new(Condition::Degraded, format!("catching up with {leader}")),
        _ if silent => Component::new(Condition::Unhealthy, "no leader is heard"),
        _ => Component::new(Condition::Degraded, "an election is under way"),
    }
}

fn storage(view: consensus::StorageView) -> Component {
    let detail = format!("{} MiB used, {} MiB free", view.used_bytes >> 20, view.free_bytes >> 20);
    let condition = if view.free_bytes < view.min_free_bytes {
        Condition::Unhealthy
    } else if view.free_bytes < view.min_free_bytes.saturating_mul(2) {
        Condition::Degraded
    } else {
        Condition::Healthy
    };
    Component::new(condition, detail)
}

fn mesh(api: &Api, status: &consensus::Status) -> Component {
    let others: Vec<_> = status.members.iter().filter(|member| member.id != status.node).collect();
    let reached = others.iter().filter(|member| api.context.mesh.is_connected(member.id)).count();
    let condition = if reached == others.len() { Condition::Healthy } else { Condition::Degraded };
    Component::new(condition, format!("{reached} of {} other members are connected", others.len()))
}

fn workers(api: &Api) -> Component {
    let counts = api.client().read(worker_counts);
    let able = ["online", "busy"].iter().filter_map(|state| counts.get(state)).sum::<u64>();
    let condition = if able > 0 { Condition::Healthy } else { Condition::Degraded };
    Component::new(condition, format!("{able} of {} workers are online", counts.values().sum::<u64>()))
}

/// A backup that fails never makes a node unhealthy: it serves.
fn backup(api: &Api) -> Component {
    let view = api.context.backup.view();
    let last = view.last.map_or_else(
        || "none taken yet".to_owned(),
        |done| format!("the last was taken {} at index {}", super::text::time(done.at), done.index),
    );
    match view.error {
        Some(error) => Component::new(Condition::Degraded, format!("{error}; {last}")),
        None if view.scheduled => Component::new(Condition::Healthy, last),
        None => Component::new(Condition::Disabled, "backup.directory is not configured"),
    }
}

/// Kafka never makes a node unhealthy: all but intake and delivery goes on without it.
fn kafka(picture: &Picture) -> Component {
    let alarms: Vec<String> = picture.alarms().into_iter().map(|alarm| alarm.detail).collect();
    if !alarms.is_empty() {
        return Component::new(Condition::Degraded, alarms.join("; "));
    }
    let Some(own) = &picture.own else { return Component::new(Condition::Disabled, "not configured") };
    if own.state != "connected" {
        let servers = own.bootstrap_servers.join(", ");
        return Component::new(Condition::Degraded, format!("{} to {servers}", own.state));
    }
    let lag = picture.lag().map_or_else(|| "an unknown number of".to_owned(), |lag| lag.to_string());
    let detail = format!(
        "connected to {} brokers; {lag} records not read, {} events not delivered, {} dead letters",
        own.brokers.len(),
        picture.undelivered,
        picture.letters
    );
    Component::new(Condition::Healthy, detail)
}

/// The chain never makes a node unhealthy: jobs go on without it, but for those that are to be registered first.
fn blockchain(picture: &blockchain::Picture) -> Component {
    let alarms: Vec<String> = picture.alarms().into_iter().map(|alarm| alarm.detail).collect();
    if !alarms.is_empty() {
        return Component::new(Condition::Degraded, alarms.join("; "));
    }
    let Some(own) = &picture.own else {
        let why = if cfg!(feature = "chain") { "not configured" } else { "not in this build" };
        return Component::new(Condition::Disabled, why);
    };
    let Some(block) = own.view.block.filter(|_| picture.state() == "connected") else {
        return Component::new(Condition::Degraded, format!("{} to the chain", picture.state()));
    };
    let known = own.view.generation() == Some(chain::Generation::SubmissionOnly);
    let only = if known { "; the contract takes submissions only" } else { "" };
    let detail =
        format!("block {}; {} transactions and {} events wait{only}", block.number, picture.waiting, picture.unsettled);
    Component::new(Condition::Healthy, detail)
}

async fn live(_api: Api, _request: Request) -> Result<Response, Problem> {
    respond::json(&Probe { status: "live" })
}

async fn ready(api: Api, _request: Request) -> Result<Response, Problem> {
    if api.client().status().ready {
        return respond::json(&Probe { status: "ready" });
    }
    Err(Problem::new(Code::NotReady, "this node has not caught up, or knows no leader"))
}
