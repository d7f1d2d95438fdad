//! What a leader does about the membership: from wish to seat.
//!
//! It looks at the replicated books, takes one move through Raft, and looks
//! again. A leader that dies in between leaves books and a membership, from
//! which the next one goes on; also out of the middle of a joint change.
//!
//! It knows which members answer, too: it tells of voters that do not, and if it
//! may, has a learner vote in their place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use openraft::ChangeMembers;
use openraft::Instant as _;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::domain::NodeId;
use crate::domain::command::Command;
use crate::domain::member::{Act, Move};

use super::Leadership;
use super::client::Client;
use super::core::Core;
use super::handover::{self, Reason};
use super::members::ALIVE;
use super::types::Metrics;

/// How often the books are looked at.
const EVERY: Duration = Duration::from_millis(100);

/// For one move. One that takes longer goes on without us, and is looked at again.
const MOVE_LIMIT: Duration = Duration::from_secs(5);

/// Log entries that a learner may lack to be made a voter.
const CLOSE: u64 = 500;

/// Runs until Raft ends.
pub(super) async fn watch(client: Client) {
    let core = client.core.clone();
    let mut watched: Option<(u64, Reported)> = None;
    loop {
        sleep(EVERY).await;
        let Leadership::Leading { term } = *core.leadership.borrow() else {
            if watched.take().is_some() {
                core.heard_of.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            continue;
        };
        if watched.as_ref().is_none_or(|(known, _)| *known != term) {
            watched = Some((term, Reported::default()));
        }
        let seen = core.metrics();
        listen(&core, &seen);
        if let Some((_, reported)) = &mut watched {
            reported.report(&core);
        }
        step(&client, term, &seen).await;
    }
}

/// Notes who was heard, and when. Who was not heard in this term counts from its beginning.
fn listen(core: &Core, seen: &Metrics) {
    let now = clock::instant();
    let mut heard = core.heard_of.lock().unwrap_or_else(PoisonError::into_inner);
    let nodes = seen.membership_config.membership().nodes();
    let others: BTreeSet<NodeId> = nodes.map(|(id, _)| *id).filter(|id| *id != core.node).collect();
    heard.retain(|node, _| others.contains(node));
    for node in others {
        let acked = seen.heartbeat.as_ref().and_then(|acked| *acked.get(&node)?);
        let at: Option<Instant> = acked.and_then(|at| now.checked_sub(at.elapsed()));
        let known = heard.entry(node).or_insert(now);
        *known = at.map_or(*known, |at| at.max(*known));
    }
}

/// Voters whose death was said.
#[derive(Default)]
struct Reported(BTreeSet<NodeId>);

impl Reported {
    fn report(&mut self, core: &Core) {
        let voters = core.applied.read(|state| state.members().voters());
        let silence = |voter: &NodeId| core.silence(*voter).unwrap_or_default();
        let dead: BTreeSet<NodeId> = voters.into_iter().filter(|voter| silence(voter) >= core.dead_after()).collect();
        for voter in dead.difference(&self.0) {
            let silent_secs = silence(voter).as_secs();
            tracing::warn!(%voter, silent_secs, "a voter is dead: replace or remove it, before another one dies");
        }
        for voter in self.0.difference(&dead) {
            tracing::info!(%voter, "the voter is not dead any more");
        }
        self.0 = dead;
    }
}

async fn step(client: &Client, term: u64, seen: &Metrics) {
    let core = &client.core;
    let ready = |node: NodeId| is_ready(core, seen, node);
    if let Some(act) = missing(client).or_else(|| stand_in(client, ready)) {
        let written = client.submit_as_leader(term, vec![Command::Member(act.clone())], MOVE_LIMIT).await;
        tracing::debug!(?act, ?written, "membership noted");
        return;
    }
    let Some(next) = client.read(|state| state.members().next_move(core.node, ready)) else { return };
    let joint = seen.membership_config.membership().get_joint_config().len() > 1;
    if let Move::SetVoters(target) = &next
        && !joint
        && !can_commit(core, seen, target)
    {
        tracing::debug!(?target, "too few of these voters answer, not changed to them yet");
        return;
    }
    tracing::info!(?next, "changing the members");
    match timeout(MOVE_LIMIT, take(core, next)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error, "change the members"),
        Err(_) => tracing::warn!("changing the members takes long"),
    }
}

async fn take(core: &Core, next: Move) -> Result<(), String> {
    let raft = &core.raft;
    let done = match next {
        Move::Admit { node, address } => raft.add_learner(node, address, false).await,
        Move::SetVoters(voters) => raft.change_membership(voters, true).await,
        Move::Drop(node) => raft.change_membership(ChangeMembers::RemoveNodes([node].into()), true).await,
        Move::HandOver => {
            let moved = handover::hand_over(core, None, Reason::Asked, MOVE_LIMIT).await;
            return moved.map(drop).map_err(|error| error.to_string());
        }
    };
    done.map(drop).map_err(|error| error.to_string())
}

fn is_ready(core: &Core, seen: &Metrics, node: NodeId) -> bool {
    let matched = seen.replication.as_ref().and_then(|replication| *replication.get(&node)?);
    let last = seen.last_log_index.unwrap_or(0);
    let close = matched.is_some_and(|matched| last.saturating_sub(matched.index) <= CLOSE);
    close && core.has_answered(seen, node, ALIVE)
}

/// Whether enough of them have answered this leader a moment ago. Who has not answered yet may be dead.
fn can_commit(core: &Core, seen: &Metrics, voters: &BTreeSet<NodeId>) -> bool {
    voters.iter().filter(|voter| core.has_answered(seen, **voter, ALIVE)).count() * 2 > voters.len()
}

/// A member whose data directory is known here, and not in the books.
fn missing(client: &Client) -> Option<Act> {
    let core = &client.core;
    let unmet: Vec<NodeId> = client.read(|state| {
        state.members().seated().filter(|(_, known)| known.incarnation.is_none()).map(|(node, _)| node).collect()
    });
    let known = |node: &NodeId| {
        if *node == core.node { Some(core.store.incarnation()) } else { core.peers.known(*node) }
    };
    unmet.into_iter().find_map(|node| Some(Act::Met { node, incarnation: known(&node)? }))
}

fn stand_in(client: &Client, ready: impl Fn(NodeId) -> bool) -> Option<Act> {
    let core = &client.core;
    let after = core.options.autopilot?.max(core.dead_after());
    let silences: BTreeMap<NodeId, Instant> = core.heard_of.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let dead = |node: NodeId| silences.get(&node).is_some_and(|at| at.elapsed() >= after);
    let (dead, by) = client.read(|state| state.members().stand_in(dead, ready))?;
    tracing::warn!(%dead, %by, "a dead voter is replaced by a learner");
    Some(Act::Replace { dead, by })
}
