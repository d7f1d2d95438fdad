//! `GET /status`: this node at one moment.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::Api;
use super::problem::Problem;
use super::request::Request;
use super::respond;
use super::route::Route;
use crate::clock;
use crate::consensus;
use crate::domain::worker::WorkerState;
use crate::domain::{JobState, State};

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/status", "This node: its role, what it has applied, and counts", get)
            .fresh()
            .answers::<StatusBody>(200, "The node's status"),
    ]
}

#[derive(Serialize, ToSchema)]
#[schema(as = Status)]
struct StatusBody {
    node_id: String,
    version: String,
    environment: String,
    #[schema(pattern = "^(leader|follower|candidate|learner)$")]
    role: &'static str,
    term: u64,
    leader_id: Option<String>,
    applied_index: u64,
    committed_index: u64,
    /// Rolling hash of the state at `applied_index`: equal on all nodes at the same index.
    state_hash: String,
    members: Vec<MemberBody>,
    /// Jobs by state: those that are kept, in memory and in the archive.
    jobs: BTreeMap<&'static str, u64>,
    finished_jobs: FinishedBody,
    /// Workers by state.
    workers: BTreeMap<&'static str, u64>,
    /// Jobs ever accepted, also those removed since.
    jobs_submitted_total: u64,
    /// Number of the newest event.
    journal_seq: u64,
    /// Milliseconds since a leader was heard; null if never.
    staleness_ms: Option<u64>,
    ready: bool,
    #[schema(format = DateTime)]
    started_at: String,
    uptime_secs: u64,
}

/// Where finished jobs are.
#[derive(Serialize, ToSchema)]
#[schema(as = FinishedJobs)]
struct FinishedBody {
    in_memory: u64,
    archived: u64,
    /// By retention, ever.
    removed_total: u64,
    segments: u64,
    /// Of the segments.
    bytes: u64,
    /// Segments that are missing or damaged on this node.
    segments_missing: u64,
}

impl FinishedBody {
    fn of(state: &State, view: consensus::ArchiveView) -> Self {
        let archive = state.archive();
        Self {
            in_memory: state.hot_jobs() as u64,
            archived: archive.jobs(),
            removed_total: archive.removed_total(),
            segments: archive.segment_count() as u64,
            bytes: archive.bytes(),
            segments_missing: view.missing,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub struct MemberBody {
    pub id: String,
    /// Multiaddr with the peer id.
    pub address: String,
    pub voter: bool,
    /// Newest log index known to be on the member; null on nodes that do not lead.
    pub matched_index: Option<u64>,
    /// Log entries that the member lacks; null on nodes that do not lead.
    pub lag: Option<u64>,
    /// The newest feature level that the member's build knows; null if this node has not spoken with it.
    pub newest_level: Option<u32>,
    /// Milliseconds since the leader last heard the member; null on nodes that do not lead.
    pub silent_ms: Option<u64>,
    /// Silent for so long that it counts as dead; null on nodes that do not lead.
    pub dead: Option<bool>,
}

/// Voters that the leader has not heard for long.
pub fn dead_voters(status: &consensus::Status) -> Vec<String> {
    status.members.iter().filter(|member| member.voter && member.dead).map(|member| member.id.to_string()).collect()
}

pub fn members(status: &consensus::Status) -> Vec<MemberBody> {
    let leads = status.role == consensus::Role::Leader;
    let one = |member: &consensus::Member| {
        let own = (leads && member.id == status.node).then_some(status.last_log);
        let matched = member.matched.filter(|_| leads).or(own);
        MemberBody {
            id: member.id.to_string(),
            address: member.address.clone(),
            voter: member.voter,
            matched_index: matched,
            lag: matched.map(|matched| status.last_log.saturating_sub(matched)),
            newest_level: member.newest_level,
            silent_ms: member.silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
            dead: leads.then_some(member.dead),
        }
    };
    status.members.iter().map(one).collect()
}

/// Jobs by state, every state present.
pub fn job_counts(state: &State) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<_, _> = JobState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    counts.extend(state.job_counts().into_iter().map(|(state, count)| (state.as_str(), count)));
    counts
}

/// Workers by state, every state present.
pub fn worker_counts(state: &State) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<_, _> = WorkerState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    for worker in state.workers() {
        *counts.entry(state.worker_state(worker).as_str()).or_default() += 1;
    }
    counts
}

async fn get(api: Api, _request: Request) -> Result<Response, Problem> {
    let (status, archive) = (api.client().status(), api.client().archive());
    let info = &api.context.info;
    let body = api.client().read(|state| StatusBody {
        node_id: status.node.to_string(),
        version: info.version.clone(),
        environment: info.environment.clone(),
        role: status.role.as_str(),
        term: status.term,
        leader_id: status.leader.map(|leader| leader.to_string()),
        applied_index: state.applied(),
        committed_index: status.committed.max(state.applied()),
        state_hash: state.hash().to_string(),
        members: members(&status),
        jobs: job_counts(state),
        finished_jobs: FinishedBody::of(state, archive),
        workers: worker_counts(state),
        jobs_submitted_total: state.submitted_total(),
        journal_seq: state.journal().last_seq(),
        staleness_ms: status.staleness_ms,
        ready: status.ready,
        started_at: super::text::time(info.started),
        uptime_secs: clock::now().since(info.started) / 1_000,
    });
    respond::json(&body)
}
