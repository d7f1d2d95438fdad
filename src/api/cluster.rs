//! The cluster's membership and log, and handing leadership over.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::reply::Response;

use super::params::{PEER_ID, looks_like_peer_id};
use super::problem::{Code, Problem};
use super::request::Request;
use super::route::Route;
use super::status::{MemberBody, dead_voters, members};
use super::{Api, decode, respond, text};
use crate::consensus;
use crate::domain::NodeId;
use crate::submission::invalid;

const BODY_MAX: usize = 64 << 10;

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/cluster", "Members, and how far each has the log", get)
            .fresh()
            .answers::<ClusterBody>(200, "The cluster as this node knows it"),
        Route::post("/cluster/transfer-leadership", "Hand leadership to a named or the fittest member", transfer)
            .takes::<Transfer>(false, BODY_MAX)
            .answers::<Transferred>(200, "The member that leads now")
            .write(),
        Route::post("/cluster/feature-level", "Raise the feature level, when every member knows the next", raise)
            .answers::<Raised>(200, "The level that the cluster is at now")
            .write(),
    ]
}

#[derive(Serialize, ToSchema)]
#[schema(as = Cluster)]
struct ClusterBody {
    node_id: String,
    role: &'static str,
    term: u64,
    leader_id: Option<String>,
    members: Vec<MemberBody>,
    /// Ids of members that vote.
    voters: Vec<String>,
    /// Ids of members that only follow.
    learners: Vec<String>,
    /// Voters that were not heard for long; null on nodes that do not lead.
    dead_voters: Option<Vec<String>>,
    /// The change of the members that is under way.
    change_in_flight: Option<String>,
    /// The others say that this node is not a member any more.
    removed: bool,
    applied_index: u64,
    committed_index: u64,
    last_log_index: u64,
    /// Index of the newest snapshot; 0 if there is none.
    snapshot_index: u64,
    /// The log begins after this index.
    purged_index: u64,
    log_entries: u64,
    /// The feature level that the cluster is at: what its members write and say.
    feature_level: u32,
    storage: StorageBody,
    /// The leadership that this node gave away last, since it started.
    handed_over: Option<HandedOverBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = HandedOver)]
struct HandedOverBody {
    #[schema(format = DateTime)]
    at: String,
    to: String,
    #[schema(pattern = "^(asked|stopping|slow_disk|snapshot)$")]
    reason: &'static str,
    detail: String,
}

fn handed_over(handed: &consensus::HandedOver) -> HandedOverBody {
    HandedOverBody {
        at: text::time(handed.at),
        to: handed.to.to_string(),
        reason: handed.reason.as_str(),
        detail: handed.reason.detail().to_owned(),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Storage)]
struct StorageBody {
    used_bytes: u64,
    free_bytes: u64,
    /// Below this, writes are refused.
    min_free_bytes: u64,
    sync_p50_us: u64,
    sync_p99_us: u64,
}

/// Who shall lead.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Transfer {
    /// A member's id; without it the fittest.
    #[schema(schema_with = peer_or_null)]
    to: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Transferred {
    leader_id: String,
    term: u64,
}

#[derive(Serialize, ToSchema)]
struct Raised {
    feature_level: u32,
    /// False: it was the newest that the members' builds know.
    raised: bool,
}

fn peer_or_null() -> utoipa::openapi::schema::Object {
    use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null])).pattern(Some(PEER_ID)).build()
}

async fn get(api: Api, _request: Request) -> Result<Response, Problem> {
    let status = api.client().status();
    let storage = api.client().storage();
    let in_flight = api.client().read(|state| state.members().in_flight());
    let ids = |voter| -> Vec<String> {
        status.members.iter().filter(|member| member.voter == voter).map(|member| member.id.to_string()).collect()
    };
    respond::json(&ClusterBody {
        node_id: status.node.to_string(),
        role: status.role.as_str(),
        term: status.term,
        leader_id: status.leader.map(|leader| leader.to_string()),
        members: members(&status),
        voters: ids(true),
        learners: ids(false),
        dead_voters: (status.role == consensus::Role::Leader).then(|| dead_voters(&status)),
        change_in_flight: in_flight.map(|(node, what)| format!("{what} {node}")),
        removed: status.removed,
        applied_index: status.applied,
        committed_index: status.committed,
        last_log_index: status.last_log,
        snapshot_index: status.snapshot,
        purged_index: status.purged,
        log_entries: status.last_log.saturating_sub(status.purged),
        feature_level: status.level,
        storage: StorageBody {
            used_bytes: storage.used_bytes,
            free_bytes: storage.free_bytes,
            min_free_bytes: storage.min_free_bytes,
            sync_p50_us: storage.sync.p50_us,
            sync_p99_us: storage.sync.p99_us,
        },
        handed_over: api.client().handed_over().as_ref().map(handed_over),
    })
}

async fn transfer(api: Api, request: Request) -> Result<Response, Problem> {
    let wish: Transfer = if request.body.is_empty() { Transfer::default() } else { decode::json(&request.body)? };
    let to = wish.to.as_deref().map(|to| member(&api, to)).transpose()?;
    if api.client().status().members.iter().filter(|member| member.voter).count() < 2 {
        let problem = Problem::new(Code::Conflict, "no other member votes, so nobody can take the leadership");
        return Err(problem.hint("GET /cluster lists the members."));
    }
    let moved = api.client().transfer_leadership(to, api.limits().write_deadline).await;
    let leader = moved.map_err(|error| match error {
        consensus::Error::Timeout => {
            let problem = Problem::new(Code::OutcomeUnknown, "the move was not seen within the time allowed");
            problem.hint("It may still happen: GET /cluster says who leads.")
        }
        error => error.into(),
    })?;
    respond::json(&Transferred { leader_id: leader.to_string(), term: api.client().status().term })
}

fn member(api: &Api, text: &str) -> Result<NodeId, Problem> {
    if !looks_like_peer_id(text) {
        return Err(invalid("to", "to must be a peer id (12D3KooW…)".to_owned()).into());
    }
    let members = api.client().status().members;
    let voter = members.iter().find(|member| member.voter && text.parse() == Ok(member.id));
    if let Some(voter) = voter {
        return Ok(voter.id);
    }
    let problem = Problem::new(Code::Conflict, format!("{text} is not a voting member"));
    Err(problem.field("to").hint("GET /cluster lists the members."))
}

async fn raise(api: Api, _request: Request) -> Result<Response, Problem> {
    match api.client().raise_level(api.limits().write_deadline).await? {
        consensus::Raised::To(feature_level) => respond::json(&Raised { feature_level, raised: true }),
        consensus::Raised::Newest(feature_level) => respond::json(&Raised { feature_level, raised: false }),
        consensus::Raised::Behind { next, members } => {
            let told = members.into_iter().map(|(id, level)| match level {
                Some(level) => format!("{id} knows levels up to {level}"),
                None => format!("{id} was not reached"),
            });
            let told: Vec<String> = told.collect();
            let problem = Problem::new(
                Code::Conflict,
                format!("not every member knows feature level {next}: {}", told.join(", ")),
            );
            Err(problem.hint("Start the newer build on those members, or remove them, and try again."))
        }
    }
}
