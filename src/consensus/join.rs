//! A node's own place in the cluster: getting in, noticing that it is out,
//! saying where it is.
//!
//! While the log does not say that this node is a member, and it was told to
//! join, it knocks at those it knows until it is in; a lost answer, a restart or
//! a change of leader means only that it knocks again. A member that hears no
//! leader for long asks the others, too: it may have been removed, or be an
//! identity that the cluster knows with another data directory.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use tokio::time::sleep;

use crate::clock;
use crate::domain::NodeId;
use crate::domain::command::Command;
use crate::domain::member::{Act, Denied};
use crate::mesh::Lane;

use super::Error;
use super::client::Client;
use super::core::{Core, is_loopback};
use super::frames::{self, Answer, Knock};
use super::identity::WAY_OUT;
use super::knock::is_inside;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);

/// Between two knocks of a node that wants to get in.
const KNOCK_EVERY: Duration = Duration::from_millis(300);

/// How long an answer is waited for.
const KNOCK_LIMIT: Duration = Duration::from_secs(3);

/// A member hears no leader for so long before it asks others, at least.
const SILENCE: Duration = Duration::from_secs(2);

/// Runs until Raft ends.
pub(super) async fn follow(client: Client) {
    let core = client.core.clone();
    let mut place = Place { client, turn: 0, lost: None, said: None, told: Vec::new() };
    loop {
        place.tell_the_mesh();
        let pause = place.look(&core).await;
        sleep(pause).await;
    }
}

struct Place {
    client: Client,
    /// Whom to ask next.
    turn: usize,
    /// Since when no leader is heard.
    lost: Option<Instant>,
    /// What was last said about getting in.
    said: Option<String>,
    /// Where the mesh was told that members are.
    told: Vec<(NodeId, String)>,
}

impl Place {
    /// Does what there is to do, and says when to look again.
    async fn look(&mut self, core: &Core) -> Duration {
        let inside = is_inside(core);
        // A leader that the own log does not know was admitted while this node was away: its log will say so.
        if inside && core.has_leader() && core.leader_is_logged() {
            self.lost = None;
            core.trusted.set_ahead(false);
            back_in(core);
            self.say_where(core).await;
            return EVERY;
        }
        if !inside && core.options.join.is_none() {
            // Nobody's member yet, or none any more, as the log says.
            if has_members(core) {
                put_out(core);
            }
            return EVERY;
        }
        let lost = *self.lost.get_or_insert_with(clock::instant);
        if inside && lost.elapsed() < SILENCE.max(core.options.election_max * 2) {
            return EVERY;
        }
        let Some(peer) = self.next(core) else { return EVERY };
        match knock(core, peer, !inside || core.removed.load(Ordering::Acquire)).await {
            Ok(answer) => self.hear(core, peer, answer, inside),
            Err(why) => tracing::debug!(%peer, why, "knocked in vain"),
        }
        if inside || core.removed.load(Ordering::Acquire) { EVERY } else { KNOCK_EVERY }
    }

    /// One after the other of those we know.
    fn next(&mut self, core: &Core) -> Option<NodeId> {
        let mut peers: BTreeSet<NodeId> = core.trusted.all();
        {
            let metrics = core.raft.metrics();
            let metrics = metrics.borrow_watched();
            peers.extend(metrics.membership_config.membership().nodes().map(|(id, _)| *id));
        }
        peers.extend(core.options.join.iter().flat_map(|join| join.peers.iter().copied()));
        peers.remove(&core.node);
        self.turn = self.turn.wrapping_add(1);
        let count = peers.len().max(1);
        peers.into_iter().nth(self.turn % count)
    }

    fn hear(&mut self, core: &Core, peer: NodeId, answer: Answer, inside: bool) {
        match answer {
            Answer::Welcome(members) => {
                self.say(peer, "admitted, catching up", inside);
                let mut trusted: BTreeSet<NodeId> = members.iter().map(|(node, _)| *node).collect();
                trusted.insert(peer);
                core.transport.learn(members);
                core.trusted.replace(trusted);
                core.trusted.set_ahead(inside);
            }
            // It keeps what it knew, and serves it.
            Answer::Gone if inside || was_member(core) => put_out(core),
            Answer::Gone => core.fail(Error::Setup(format!(
                "this node {} was removed from the cluster: a fresh invitation (`cluster invite`) admits it again",
                core.node
            ))),
            Answer::Stranger if inside || was_member(core) => put_out(core),
            Answer::Stranger => {
                self.say(peer, "no invitation: waiting for `cluster add` with this node's address", false)
            }
            Answer::Later(why) => tracing::debug!(%peer, why, "not admitted yet"),
            Answer::Denied(Denied::OtherStore(_)) => core.fail(Error::Amnesiac(format!(
                "the cluster knows this node's identity {} with another data directory. Only the very directory it had \
                 may be put back, never an older copy. Else: {WAY_OUT}",
                core.node
            ))),
            Answer::Denied(denied @ Denied::Full { .. }) => self.say(peer, &denied.to_string(), false),
            Answer::Denied(denied) if !inside && !was_member(core) => core.fail(Error::Setup(format!(
                "join the cluster: {denied}. `ciro-coordinator cluster invite` on a member makes another invitation"
            ))),
            Answer::Denied(denied) => tracing::warn!(%peer, %denied, "not known as a member"),
        }
    }

    /// Once, until there is something else to say.
    fn say(&mut self, peer: NodeId, what: &str, inside: bool) {
        if !inside && self.said.as_deref() != Some(what) {
            tracing::info!(%peer, "{what}");
            self.said = Some(what.to_owned());
        }
    }

    /// Has the books corrected when they say that this node is where it is not.
    async fn say_where(&self, core: &Core) {
        let own = core.own_addresses();
        let address = core.applied.read(|state| {
            let known = state.members().known(core.node)?;
            (known.is_wanted() && !is_there(&known.address, &own)).then(|| own.first().cloned())?
        });
        let Some(address) = address else { return };
        let act = Act::Moved { node: core.node, address: address.clone() };
        match self.client.submit(Command::Member(act), KNOCK_LIMIT).await {
            Ok((_, Ok(_))) => tracing::info!(address, "this node has moved, and said so"),
            Ok((_, Err(refusal))) => tracing::warn!(%refusal, address, "say where this node is"),
            Err(error) => tracing::debug!(%error, "say where this node is"),
        }
    }

    /// Members are dialled where the books say that they are.
    fn tell_the_mesh(&mut self) {
        let core = &self.client.core;
        let now: Vec<(NodeId, String)> = core
            .applied
            .read(|state| state.members().seated().map(|(node, known)| (node, known.address.to_string())).collect());
        if now != self.told {
            *core.moved.lock().unwrap_or_else(PoisonError::into_inner) = now.iter().cloned().collect();
            core.transport.learn(now.clone());
            self.told = now;
        }
    }
}

async fn knock(core: &Core, peer: NodeId, with_secret: bool) -> Result<Answer, String> {
    let secret = core.options.join.as_ref().and_then(|join| join.secret).filter(|_| with_secret);
    let limit_ms = u64::try_from(KNOCK_LIMIT.as_millis()).unwrap_or(u64::MAX) / 10 * 8;
    let frame = Knock {
        incarnation: core.store.incarnation(),
        address: core.own_addresses().into_iter().next().unwrap_or_default(),
        secret: secret.map(|secret| secret.0),
        limit_ms,
    };
    let body = frames::request(&frame).map_err(|error| error.to_string())?;
    let sent = core.transport.request(peer, Lane::Join, body, KNOCK_LIMIT).await.map_err(|error| error.to_string())?;
    frames::read_answer::<Knock>(&sent).map_err(|error| error.to_string())
}

/// Whether Raft's membership names anybody.
fn has_members(core: &Core) -> bool {
    let metrics = core.raft.metrics();
    metrics.borrow_watched().membership_config.membership().nodes().next().is_some()
}

/// Whether the books of this node have itself.
fn was_member(core: &Core) -> bool {
    core.applied.read(|state| state.members().known(core.node).is_some())
}

/// The others say that this node is no member: it stops standing for election.
fn put_out(core: &Core) {
    if !core.removed.swap(true, Ordering::AcqRel) {
        tracing::warn!(
            node = %core.node,
            "this node was removed from the cluster; it serves what it knew last, and may be stopped"
        );
        core.raft.runtime_config().elect(false);
    }
}

fn back_in(core: &Core) {
    if core.removed.swap(false, Ordering::AcqRel) {
        tracing::info!("this node is a member again");
        core.raft.runtime_config().elect(true);
    }
}

/// Whether `address` is one of `own`, or a name for one: what stands for the host may be a name.
fn is_there(address: &str, own: &[String]) -> bool {
    let parts = |address: &str| -> Option<(bool, String)> {
        let mut parts = address.trim_start_matches('/').splitn(3, '/');
        let kind = parts.next()?;
        parts.next()?;
        Some((kind.starts_with("dns"), parts.next()?.to_owned()))
    };
    let named = parts(address).filter(|(named, _)| *named).map(|(_, rest)| rest);
    let same = |own: &String| own == address || (named.is_some() && parts(own).map(|(_, rest)| rest) == named);
    // Better what was true once than what nobody can dial.
    let worse = own.iter().all(|own| is_loopback(own)) && !is_loopback(address);
    worse || own.iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::is_there;

    #[test]
    fn a_host_name_for_the_same_port_is_where_the_node_is() {
        let own = ["/ip4/10.0.0.1/udp/4001/quic-v1/p2p/P".to_owned(), "/ip4/10.0.0.1/tcp/4001/p2p/P".to_owned()];
        assert!(is_there("/ip4/10.0.0.1/tcp/4001/p2p/P", &own));
        assert!(is_there("/dns4/node-1/tcp/4001/p2p/P", &own), "a name is better than what it stands for");
        assert!(!is_there("/dns4/node-1/tcp/4002/p2p/P", &own));
        assert!(!is_there("/ip4/10.0.0.2/tcp/4001/p2p/P", &own));
        assert!(is_there("anything", &[]), "nobody said where it is");
    }
}
