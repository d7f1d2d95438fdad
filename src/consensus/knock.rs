//! Who knocks, and what it is told.
//!
//! The one thing that is said to strangers. A knock names a data directory and
//! may show an invitation; who knocks is known by its key. Any member takes it,
//! and the leader answers from the replicated books, so the answer is the same
//! when the first one was lost. What is wrong is refused without a log entry, and
//! held against the sender.

use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;

use crate::domain::NodeId;
use crate::domain::command::{Command, Refusal};
use crate::domain::member::{ADDRESS_MAX, Act, Denied, Known, Secret};
use crate::mesh::Lane;

use super::client::Client;
use super::core::{Core, Route};
use super::frames::{self, Answer, Frame, Knock, Knocked};
use super::{Error, Leadership, read};

/// Knocks worked on at once. Beyond it who knocks is told to come again.
pub(super) const KNOCKS_MAX: usize = 32;

/// No knock is worked on for longer.
const LIMIT_MAX: Duration = Duration::from_secs(10);

/// Answers a knock, here or with the leader's help.
pub(super) async fn serve(client: &Client, peer: NodeId, body: &[u8]) -> Result<Bytes, Error> {
    let core = &client.core;
    let (kind, body) = body.split_first().ok_or_else(|| Error::Setup("empty request".into()))?;
    if *kind != Knock::KIND {
        core.transport.penalise(peer, "malformed_knock");
        return Err(Error::Setup(format!("unknown request kind {kind} on this lane")));
    }
    let knock: Knock = frames::read_request(body).inspect_err(|_| core.transport.penalise(peer, "malformed_knock"))?;
    if !is_inside(core) {
        return Err(Error::Setup("this node is not a member itself".into()));
    }
    let Ok(_held) = core.knocks.try_acquire() else {
        return frames::answer::<Knock>(&Answer::Later("too many knock at once".into()));
    };
    let answer = ask(client, peer, knock).await;
    if let Answer::Denied(denied @ (Denied::UnknownInvitation | Denied::Expired | Denied::Used)) = &answer {
        tracing::warn!(%peer, %denied, "a node asked to join in vain");
        core.transport.penalise(peer, "wrong_invitation");
    }
    frames::answer::<Knock>(&answer)
}

/// Whether Raft's membership has this node.
pub(super) fn is_inside(core: &Core) -> bool {
    let metrics = core.raft.metrics();
    metrics.borrow_watched().membership_config.membership().get_node(&core.node).is_some()
}

async fn ask(client: &Client, peer: NodeId, knock: Knock) -> Answer {
    let limit = Duration::from_millis(knock.limit_ms).min(LIMIT_MAX);
    match client.core.route() {
        Route::Here { .. } => judge(client, peer, &knock).await,
        Route::There(leader) => {
            let frame = Knocked { peer, knock };
            let sent = client.core.link.send(leader, Lane::Forward, &frame, limit).await;
            sent.unwrap_or_else(|failure| Answer::Later(format!("the leader did not answer: {failure:?}")))
        }
        Route::Nowhere => Answer::Later("no leader is known".into()),
    }
}

/// On the leader. A refusal ends who knocks, so it is given by one that certainly leads.
pub(super) async fn judge(client: &Client, peer: NodeId, knock: &Knock) -> Answer {
    let answer = weigh(client, peer, knock).await;
    if matches!(answer, Answer::Welcome(_) | Answer::Later(_)) {
        return answer;
    }
    let limit = Duration::from_millis(knock.limit_ms).min(LIMIT_MAX);
    match read::read_index(&client.core, limit).await {
        Ok(_) => answer,
        Err(error) => Answer::Later(format!("not certain to lead: {error}")),
    }
}

async fn weigh(client: &Client, peer: NodeId, knock: &Knock) -> Answer {
    let core = &client.core;
    let Leadership::Leading { term } = *core.leadership.borrow() else {
        return Answer::Later("the leader has just changed".into());
    };
    if knock.address.len() > ADDRESS_MAX {
        return Answer::Denied(Denied::UnknownInvitation);
    }
    let known = client.read(|state| state.members().known(peer).cloned());
    let incarnation = known.as_ref().and_then(|known| known.incarnation).or_else(|| core.peers.known(peer));
    if incarnation.is_some_and(|incarnation| incarnation != knock.incarnation) {
        return Answer::Denied(Denied::OtherStore(peer));
    }
    let Some(act) = wanted_act(peer, knock, known.as_ref()) else {
        return match known {
            Some(known) if known.is_wanted() => welcome(client),
            Some(_) => Answer::Gone,
            None => Answer::Stranger,
        };
    };
    match client.read(|state| state.members().would(&act, state.now())) {
        Ok(true) => {}
        Ok(false) => return welcome(client),
        Err(denied) => return deny(denied, known.as_ref()),
    }
    let limit = Duration::from_millis(knock.limit_ms).min(LIMIT_MAX);
    let committed = client.submit_as_leader(term, vec![Command::Member(act)], limit).await;
    match committed.map(|committed| committed.replies.into_iter().next()) {
        Ok(Some(Ok(_))) => {
            tracing::info!(%peer, address = knock.address, "a node is admitted");
            welcome(client)
        }
        Ok(Some(Err(Refusal::Member(denied)))) => deny(denied, known.as_ref()),
        other => Answer::Later(format!("not written: {other:?}")),
    }
}

/// What has to be written before the answer.
fn wanted_act(node: NodeId, knock: &Knock, known: Option<&Known>) -> Option<Act> {
    let incarnation = knock.incarnation;
    match known.filter(|known| known.is_wanted()) {
        Some(known) if known.incarnation.is_some() => None,
        Some(_) => Some(Act::Met { node, incarnation }),
        None => {
            let id = Secret(knock.secret?).id();
            Some(Act::Redeem { id, node, incarnation, address: knock.address.clone() })
        }
    }
}

fn deny(denied: Denied, known: Option<&Known>) -> Answer {
    match denied {
        Denied::InFlight { .. } => Answer::Later(denied.to_string()),
        // It was a member, and shows what it came with then: it needs a new one.
        Denied::Used | Denied::Expired | Denied::UnknownInvitation if known.is_some() => Answer::Gone,
        denied => Answer::Denied(denied),
    }
}

fn welcome(client: &Client) -> Answer {
    let seated = |state: &crate::domain::State| {
        state.members().seated().map(|(node, known)| (node, known.address.to_string())).collect()
    };
    Answer::Welcome(client.read(seated))
}
