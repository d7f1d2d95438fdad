//! What other members ask of this node.
//!
//! Only members are served, and only after a hello. An error from here reaches
//! the asker as a refusal, which it takes for "nothing was done": so whatever
//! may have had an effect is answered, not refused.

use std::time::Duration;

use bytes::Bytes;
use openraft::raft::AppendEntriesResponse;

use crate::clock;
use crate::domain::NodeId;
use crate::mesh::Lane;
use crate::telemetry::request;

use super::archive::fetch;
use super::client::{Client, is_submit};
use super::codec::Blob;
use super::core::Core;
use super::door::{Load, Scope};
use super::frames::{
    Append, AskCondition, Ballot, ChangeMembers, Fault, Frame, HandOver, Hello, Knocked, LeaseIndex, PreBallot,
    ReadIndex, SegmentRead, SnapshotBegin, SnapshotChunk, SnapshotEnd, Submit, Submitted, Transfer, answer,
    read_request,
};
use super::handover::Reason;
use super::{Error, abdicate, handover, knock, members, read};

/// No request of another member is worked on for longer.
const LIMIT_MAX: Duration = Duration::from_secs(60);

pub(super) async fn serve(client: &Client, peer: NodeId, lane: Lane, body: Bytes) -> Result<Bytes, Error> {
    let core = &client.core;
    if lane == Lane::Join {
        return knock::serve(client, peer, &body).await;
    }
    if !core.is_member(peer) {
        // Who was given up learns it from the answer to its hello, and only that is answered.
        if let Some((&Hello::KIND, body)) = body.split_first().filter(|_| core.peers.is_dismissed(peer)) {
            return answer::<Hello>(&core.peers.answer(peer, &read_request(body)?).await?);
        }
        return Err(Error::Setup(format!("peer {peer} is not a member of this cluster")));
    }
    let (kind, body) = body.split_first().ok_or_else(|| Error::Setup("empty request".into()))?;
    if *kind == Hello::KIND && lane == Lane::Control {
        let hello = read_request(body)?;
        return answer::<Hello>(&core.peers.answer(peer, &hello).await?);
    }
    if !core.peers.is_greeted(peer) {
        return Err(Error::Setup("say hello first".into()));
    }
    match lane {
        Lane::Append | Lane::Control => protocol(core, *kind, body).await,
        Lane::Snapshot => snapshot(core, peer, *kind, body).await,
        Lane::Forward => forwarded(client, peer, *kind, body).await,
        Lane::Relay | Lane::Worker | Lane::Fetch | Lane::Join => Err(Error::Setup("not a lane of Raft".into())),
    }
}

async fn protocol(core: &Core, kind: u8, body: &[u8]) -> Result<Bytes, Error> {
    match kind {
        Append::KIND => {
            let request = read_request::<Append>(body)?.0;
            let (came, sign) = (clock::instant(), core.sign(&request));
            let response = core.raft.append_entries(request).await.map_err(stopped)?;
            if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                core.hear_leader(came, sign);
            }
            answer::<Append>(&response)
        }
        Ballot::KIND => {
            let request = read_request::<Ballot>(body)?.0;
            answer::<Ballot>(&core.raft.vote(request).await.map_err(stopped)?)
        }
        PreBallot::KIND => {
            let request = read_request::<PreBallot>(body)?.0;
            answer::<PreBallot>(&core.raft.pre_vote(request).await.map_err(stopped)?)
        }
        Transfer::KIND => {
            let request = read_request::<Transfer>(body)?.into_raft();
            core.hear_transfer();
            answer::<Transfer>(&core.raft.handle_transfer_leader(request).await.map_err(stopped)?)
        }
        _ => Err(unknown(kind)),
    }
}

async fn snapshot(core: &Core, peer: NodeId, kind: u8, body: &[u8]) -> Result<Bytes, Error> {
    match kind {
        SnapshotBegin::KIND => {
            answer::<SnapshotBegin>(&core.receiver.begin(peer, read_request(body)?, core.room()?).await?)
        }
        SnapshotChunk::KIND => {
            core.receiver.chunk(peer, read_request(body)?).await?;
            answer::<SnapshotChunk>(&())
        }
        SnapshotEnd::KIND => answer::<SnapshotEnd>(&core.receiver.end(core, peer, read_request(body)?).await?),
        SegmentRead::KIND => {
            let ask: SegmentRead = read_request(body)?;
            let archive = core.archive.clone();
            let read = move || archive.part(ask.number, &ask.sha256, ask.offset, fetch::PART);
            let part = core.tasks.spawn_blocking(read).await.map_err(stopped)?;
            answer::<SegmentRead>(&part.map(|bytes| Blob(bytes.into())))
        }
        _ => Err(unknown(kind)),
    }
}

async fn forwarded(client: &Client, peer: NodeId, kind: u8, body: &[u8]) -> Result<Bytes, Error> {
    match kind {
        Submit::KIND => {
            let request: Submit = read_request(body)?;
            note(peer, &request.request_ids, "commands forwarded to us");
            answer::<Submit>(&submit(client, request).await)
        }
        ReadIndex::KIND => {
            let ReadIndex { limit_ms, request_id } = read_request(body)?;
            note(peer, request_id.as_slice(), "asked how far the log is committed");
            answer::<ReadIndex>(&read::read_index(&client.core, limit(limit_ms)).await.map_err(Fault::from))
        }
        HandOver::KIND => {
            let HandOver { to, limit_ms, request_id } = read_request(body)?;
            note(peer, request_id.as_slice(), "asked to hand leadership over");
            let moved = handover::hand_over(&client.core, to, Reason::Asked, limit(limit_ms)).await;
            answer::<HandOver>(&moved.map_err(Fault::from))
        }
        LeaseIndex::KIND => {
            read_request::<LeaseIndex>(body)?;
            answer::<LeaseIndex>(&read::lease_index(&client.core).await.map_err(Fault::from))
        }
        AskCondition::KIND => {
            read_request::<AskCondition>(body)?;
            answer::<AskCondition>(&abdicate::condition(&client.core))
        }
        ChangeMembers::KIND => {
            let ChangeMembers { change, force, limit_ms, request_id } = read_request(body)?;
            note(peer, request_id.as_slice(), "asked to change the members");
            let decided = members::decide(client, &change, force, limit(limit_ms)).await;
            answer::<ChangeMembers>(&decided.map_err(Fault::from))
        }
        Knocked::KIND => {
            let Knocked { peer, knock } = read_request(body)?;
            answer::<Knocked>(&knock::judge(client, peer, &knock).await)
        }
        _ => Err(unknown(kind)),
    }
}

/// A client's request is found in the log of every node it touched.
fn note(peer: NodeId, request_ids: &[String], what: &str) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        for id in request_ids {
            tracing::debug!(request_id = request::clip(id), from = %peer, "{what}");
        }
    }
}

async fn submit(client: &Client, request: Submit) -> Result<Submitted, Fault> {
    if !client.door.admits(Scope::Here) {
        return Err(Fault::NoLeader);
    }
    let commands = request.commands.decode().map_err(|error| Fault::Invalid(error.to_string()))?;
    let submits = commands.iter().any(is_submit);
    drop(commands);
    client.check_room(submits)?;
    let load = Load { commands: request.commands, submits };
    let committed = client.door.submit(load, Scope::Here, limit(request.limit_ms), false).await?;
    Ok(Submitted { index: committed.index, term: committed.term, replies: committed.replies })
}

fn limit(ms: u64) -> Duration {
    Duration::from_millis(ms).min(LIMIT_MAX)
}

fn stopped(error: impl std::fmt::Display) -> Error {
    Error::Setup(error.to_string())
}

fn unknown(kind: u8) -> Error {
    Error::Setup(format!("unknown request kind {kind} on this lane"))
}
