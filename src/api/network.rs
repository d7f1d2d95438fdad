//! The mesh as this node sees it.

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::page::{self, Page, after};
use super::problem::Problem;
use super::request::Request;
use super::route::Route;
use super::{Api, respond, text};
use crate::domain::PeerId;
use crate::mesh::{LaneStats, PeerView, TopicStats};

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/network/stats", "Messages and bytes by topic and lane", stats)
            .answers::<StatsBody>(200, "The counts since this node started"),
        Route::get("/network/peers", "The peers this node knows", peers)
            .params(page::params(32))
            .answers::<PeerList>(200, "A page of peers, in the order of their keys"),
        Route::get("/network/health", "Whether this node is well connected", health)
            .answers::<NetworkHealth>(200, "The verdict and what it follows from"),
    ]
}

#[derive(Serialize, ToSchema)]
#[schema(as = NetworkStats)]
struct StatsBody {
    node_id: String,
    /// Multiaddrs.
    listening: Vec<String>,
    peers_known: u64,
    peers_connected: u64,
    dials_failed: u64,
    topics: Vec<TopicBody>,
    lanes: Vec<LaneBody>,
}

/// Gossip of one topic.
#[derive(Serialize, ToSchema)]
#[schema(as = TopicStats)]
struct TopicBody {
    topic: &'static str,
    messages_in: u64,
    messages_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    rejected: u64,
    ignored: u64,
    dropped: u64,
    mesh_peers: u64,
}

/// Requests of one lane.
#[derive(Serialize, ToSchema)]
#[schema(as = LaneStats)]
struct LaneBody {
    lane: &'static str,
    requests_in: u64,
    requests_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    errors: u64,
    refused: u64,
}

impl TopicBody {
    fn of(topic: TopicStats) -> Self {
        Self {
            topic: topic.topic,
            messages_in: topic.messages_in,
            messages_out: topic.messages_out,
            bytes_in: topic.bytes_in,
            bytes_out: topic.bytes_out,
            rejected: topic.rejected,
            ignored: topic.ignored,
            dropped: topic.dropped,
            mesh_peers: topic.mesh_peers,
        }
    }
}

impl LaneBody {
    fn of(lane: LaneStats) -> Self {
        Self {
            lane: lane.lane,
            requests_in: lane.requests_in,
            requests_out: lane.requests_out,
            bytes_in: lane.bytes_in,
            bytes_out: lane.bytes_out,
            errors: lane.errors,
            refused: lane.refused,
        }
    }
}

async fn stats(api: Api, _request: Request) -> Result<Response, Problem> {
    let stats = api.context.mesh.stats();
    respond::json(&StatsBody {
        node_id: api.context.mesh.id().to_string(),
        listening: api.context.mesh.addresses(),
        peers_known: stats.peers_known,
        peers_connected: stats.peers_connected,
        dials_failed: stats.dials_failed,
        topics: stats.topics.into_iter().map(TopicBody::of).collect(),
        lanes: stats.lanes.into_iter().map(LaneBody::of).collect(),
    })
}

#[derive(Serialize, ToSchema)]
struct PeerList {
    peers: Vec<PeerBody>,
    next_cursor: Option<String>,
    applied_index: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Peer)]
struct PeerBody {
    id: String,
    /// coordinator, worker, or unknown.
    roles: Vec<&'static str>,
    addresses: Vec<String>,
    connected: bool,
    #[schema(format = DateTime)]
    connected_since: Option<String>,
    /// Whether the peer opened the connection.
    inbound: bool,
    /// tcp or quic.
    transport: &'static str,
    agent: Option<String>,
    protocols: Vec<String>,
    /// Round trip.
    rtt_us: Option<u64>,
    gossip_score: f64,
    /// Invalid messages, refused requests and rate violations.
    offences: u64,
}

impl PeerBody {
    fn of(peer: PeerView, worker: bool) -> Self {
        let mut roles = vec![];
        if peer.member {
            roles.push("coordinator");
        }
        if worker {
            roles.push("worker");
        }
        if roles.is_empty() {
            roles.push("unknown");
        }
        Self {
            id: peer.id.to_string(),
            roles,
            addresses: peer.addresses,
            connected: peer.connected,
            connected_since: peer.connected_since.map(text::time),
            inbound: peer.inbound,
            transport: peer.transport,
            agent: peer.agent,
            protocols: peer.protocols,
            rtt_us: peer.rtt_us,
            gossip_score: if peer.gossip_score.is_finite() { peer.gossip_score } else { 0.0 },
            offences: peer.offences,
        }
    }
}

async fn peers(api: Api, request: Request) -> Result<Response, Problem> {
    let start = after::<32>(&request).map(PeerId);
    let mut peers = api.context.mesh.peers();
    peers.retain(|peer| start.is_none_or(|start| peer.id > start));
    peers.sort_by_key(|peer| peer.id);
    let mut page = Page::of(&request);
    for peer in peers {
        let worker = api.client().read(|state| state.worker(peer.id).is_some());
        if !page.push(peer.id.0, || PeerBody::of(peer, worker)) {
            break;
        }
    }
    let (peers, next_cursor) = page.finish();
    respond::json(&PeerList { peers, next_cursor, applied_index: api.client().status().applied })
}

#[derive(Serialize, ToSchema)]
struct NetworkHealth {
    #[schema(pattern = "^(healthy|degraded)$")]
    status: &'static str,
    peers_connected: u64,
    /// Other members of the cluster.
    members: usize,
    members_connected: usize,
    /// Members that this node does not reach now.
    members_missing: Vec<String>,
    workers_connected: usize,
}

async fn health(api: Api, _request: Request) -> Result<Response, Problem> {
    let status = api.client().status();
    let mesh = &api.context.mesh;
    let others: Vec<_> = status.members.iter().filter(|member| member.id != status.node).collect();
    let missing: Vec<_> = others.iter().filter(|member| !mesh.is_connected(member.id)).collect();
    let workers: Vec<_> = api.client().read(|state| state.workers().map(|worker| worker.id).collect());
    respond::json(&NetworkHealth {
        status: if missing.is_empty() { "healthy" } else { "degraded" },
        peers_connected: mesh.stats().peers_connected,
        members: others.len(),
        members_connected: others.len() - missing.len(),
        members_missing: missing.iter().map(|member| member.id.to_string()).collect(),
        workers_connected: workers.into_iter().filter(|worker| mesh.is_connected(*worker)).count(),
    })
}
