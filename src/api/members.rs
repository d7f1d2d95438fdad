//! Who is a member: admit, promote, demote, remove; and invitations.
//!
//! A change is answered when it is so, or with 202 while the leader is at it:
//! asking again for the same is safe, and says how it stands.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::params::{Kind, PEER_ID, Param, looks_like_peer_id};
use super::problem::{Code, Problem};
use super::request::Request;
use super::route::Route;
use super::{Api, decode, respond, text};
use crate::consensus::{Change, Changed};
use crate::domain::member::{ADDRESS_MAX, Denied, Invitation};
use crate::domain::{Digest, NodeId, Timestamp};
use crate::submission::invalid;

const BODY_MAX: usize = 4 << 10;

/// How long an invitation holds by default, and at most, in seconds.
const TTL_SECS: u64 = 3_600;
const TTL_MAX_SECS: u64 = 30 * 86_400;

const CHANGES: &[Code] = &[
    Code::UnknownMember,
    Code::ChangeInFlight,
    Code::LastVoter,
    Code::QuorumLost,
    Code::NeedsForce,
    Code::MemberUnreachable,
    Code::MembersFull,
];

pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/cluster/members", "Admit a node, or make a member a voter or a learner", change)
            .takes::<MemberChange>(true, BODY_MAX)
            .answers::<MemberChanged>(200, "It is so")
            .answers::<MemberChanged>(202, "The leader is at it")
            .write()
            .problems(CHANGES),
        Route::delete("/cluster/members/{node_id}", "Remove a member, also the leader", remove)
            .param(Param::new("force", Kind::Choice(vec!["true", "false"]), "Though it is unwise"))
            .answers::<MemberChanged>(200, "It is so")
            .answers::<MemberChanged>(202, "The leader is at it")
            .write()
            .problems(CHANGES)
            .problems(&[Code::InvalidId]),
        Route::post("/cluster/invitations", "An invitation, with which one node may join", invite)
            .takes::<Invite>(false, BODY_MAX)
            .answers::<Invited>(201, "The token is shown this once")
            .write()
            .problems(&[Code::InvitationsFull]),
        Route::get("/cluster/invitations", "Invitations, without their tokens", invitations)
            .fresh()
            .answers::<Invitations>(200, "Newest first; those that were used or expired until others need the room"),
        Route::new(Method::DELETE, "/cluster/invitations/{id}", "Take an invitation back", revoke)
            .answers_raw(204, "It admits nobody any more", vec![])
            .write()
            .problems(&[Code::UnknownInvitation, Code::InvitationUsed]),
    ]
}

/// What a node shall be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MemberChange {
    /// A member's id.
    #[schema(schema_with = peer_or_null)]
    node_id: Option<String>,
    /// Instead of `node_id`: a node that was started to join without an invitation, as a multiaddr with `/p2p/`.
    #[schema(max_length = 256)]
    address: Option<String>,
    /// Whether it shall vote; otherwise it only follows.
    #[serde(default = "yes")]
    #[schema(default = true)]
    voter: bool,
    /// Though it is unwise.
    #[serde(default)]
    #[schema(default = false)]
    force: bool,
}

fn yes() -> bool {
    true
}

#[derive(Serialize, ToSchema)]
struct MemberChanged {
    node_id: String,
    /// done or in_progress.
    #[schema(pattern = "^(done|in_progress)$")]
    state: &'static str,
    /// What it means for the cluster.
    warnings: Vec<String>,
}

/// What an invitation admits to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Invite {
    /// The node only follows, and does not vote.
    #[schema(default = false)]
    learner: bool,
    /// How long it holds.
    #[schema(default = 3600, minimum = 1, maximum = 2_592_000)]
    ttl_secs: u64,
}

impl Default for Invite {
    fn default() -> Self {
        Self { learner: false, ttl_secs: TTL_SECS }
    }
}

#[derive(Serialize, ToSchema)]
struct Invited {
    id: String,
    /// For `start --invitation`. A secret: whoever shows it first is admitted.
    token: String,
    voter: bool,
    #[schema(format = DateTime)]
    expires_at: String,
    warnings: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct Invitations {
    invitations: Vec<InvitationBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Invitation)]
struct InvitationBody {
    id: String,
    #[schema(pattern = "^(open|used|expired)$")]
    state: &'static str,
    voter: bool,
    #[schema(format = DateTime)]
    issued_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
    /// The node that it admitted.
    used_by: Option<String>,
}

fn peer_or_null() -> utoipa::openapi::schema::Object {
    use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null])).pattern(Some(PEER_ID)).build()
}

async fn change(api: Api, request: Request) -> Result<Response, Problem> {
    let wish: MemberChange = decode::json(&request.body)?;
    let voter = wish.voter;
    let change = match (wish.node_id, wish.address) {
        (Some(id), None) => Change::SetVoter { node: named(&id, "node_id")?, voter },
        (None, Some(address)) => admission(&api, address, voter)?,
        (None, None) => return Err(invalid("node_id", "node_id or address says which node".to_owned()).into()),
        (Some(_), Some(_)) => {
            return Err(invalid("address", "node_id and address exclude each other".to_owned()).into());
        }
    };
    carry_out(&api, change, wish.force).await
}

fn named(text: &str, field: &'static str) -> Result<NodeId, Problem> {
    if !looks_like_peer_id(text) {
        return Err(invalid(field, format!("{field} must be a peer id (12D3KooW…)")).into());
    }
    let unknown = || Problem::new(Code::UnknownMember, format!("{text} is not a member")).field(field);
    text.parse().map_err(|_| unknown())
}

/// Who is a member already is not admitted again.
fn admission(api: &Api, address: String, voter: bool) -> Result<Change, Problem> {
    let wanted = || invalid("address", "address must be a multiaddr that ends in /p2p/ and a peer id".to_owned());
    if address.len() > ADDRESS_MAX || !address.starts_with('/') {
        return Err(wanted().into());
    }
    let node = address.rsplit_once("/p2p/").and_then(|(_, id)| id.parse().ok()).ok_or_else(wanted)?;
    let member = api.client().read(|state| state.members().known(node).is_some_and(|known| known.is_wanted()));
    Ok(if member { Change::SetVoter { node, voter } } else { Change::Add { node, address, voter } })
}

async fn remove(api: Api, request: Request) -> Result<Response, Problem> {
    let node = request.node()?;
    carry_out(&api, Change::Remove { node }, request.text("force") == Some("true")).await
}

async fn carry_out(api: &Api, change: Change, force: bool) -> Result<Response, Problem> {
    let node = change.node();
    let decided = api.client().change_members(change, force, api.limits().write_deadline).await?;
    let Changed { settled, warnings } = decided.map_err(|denied| explain(&denied))?;
    let (status, state) = if settled { (StatusCode::OK, "done") } else { (StatusCode::ACCEPTED, "in_progress") };
    respond::with_status(status, &MemberChanged { node_id: node.to_string(), state, warnings })
}

/// What stands in the way, and what helps.
fn explain(denied: &Denied) -> Problem {
    let problem = Problem::from(denied.clone());
    match denied {
        Denied::NotAMember(_) => problem
            .hint("GET /cluster lists the members. A new node joins with an invitation, or is added by its address."),
        Denied::InFlight { node, .. } => problem
            .hint(format!("One change at a time: wait until it is done (GET /cluster), or end it by removing {node}.")),
        Denied::QuorumLost { .. } => problem
            .hint("Nothing would be committed any more, so force does not help. Remove voters that are dead first."),
        _ => problem,
    }
}

async fn invite(api: Api, request: Request) -> Result<Response, Problem> {
    let wish: Invite = if request.body.is_empty() { Invite::default() } else { decode::json(&request.body)? };
    if !(1..=TTL_MAX_SECS).contains(&wish.ttl_secs) {
        let detail = format!("ttl_secs must be from 1 to {TTL_MAX_SECS}, not {}", wish.ttl_secs);
        return Err(invalid("ttl_secs", detail).into());
    }
    let (ttl, limit) = (Duration::from_secs(wish.ttl_secs), api.limits().write_deadline);
    let invited = api.client().invite(!wish.learner, ttl, limit).await?.map_err(|denied| explain(&denied))?;
    let body = Invited {
        id: invited.id.to_string(),
        token: invited.token.to_string(),
        voter: invited.voter,
        expires_at: text::time(invited.expires_at),
        warnings: invited.warnings,
    };
    respond::with_status(StatusCode::CREATED, &body)
}

async fn invitations(api: Api, _request: Request) -> Result<Response, Problem> {
    let mut all: Vec<(Digest, Invitation, Timestamp)> = api.client().read(|state| {
        state.members().invitations().map(|(id, invitation)| (*id, invitation.clone(), state.now())).collect()
    });
    all.sort_by_key(|(id, invitation, _)| (std::cmp::Reverse(invitation.issued_at), *id));
    let one = |(id, invitation, now): (Digest, Invitation, Timestamp)| InvitationBody {
        id: id.to_string(),
        state: match invitation.used {
            Some(_) => "used",
            None if invitation.is_open(now) => "open",
            None => "expired",
        },
        voter: invitation.voter,
        issued_at: text::time(invitation.issued_at),
        expires_at: text::time(invitation.expires_at),
        used_by: invitation.used.map(|(node, _)| node.to_string()),
    };
    respond::json(&Invitations { invitations: all.into_iter().map(one).collect() })
}

async fn revoke(api: Api, request: Request) -> Result<Response, Problem> {
    let id: Result<Digest, _> = request.path("id").parse();
    let unknown = |_| Problem::new(Code::UnknownInvitation, "no invitation has this id").field("id");
    let done = api.client().revoke(id.map_err(unknown)?, api.limits().write_deadline).await?;
    done.map_err(|denied| explain(&denied))?;
    Ok(respond::empty())
}
