//! Giving leadership to another member: asked to, before stopping, or because this node should not lead.
//!
//! While it is given, writes wait: the leader takes no more, everybody holds
//! what comes until it knows who leads, and sends it there. So the one who takes
//! over must have the log already; a member that is behind is waited for first,
//! and refused if it does not come closer, while the leader goes on to lead.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures::future::join_all;
use openraft::{Instant as _, ServerState};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::domain::{NodeId, Timestamp};
use crate::mesh::Lane;
use crate::telemetry::{metrics, request};

use super::Error;
use super::core::{Core, Route};
use super::deliver::jitter;
use super::frames::{AskCondition, Fault, HandOver};
use super::network::Failure;
use super::types;

/// A member that acknowledged within this is taken to be alive.
const RECENT: Duration = Duration::from_secs(1);

/// Entries that the next leader may lack when it is told. It gets them before it stands for election.
const LAG_MAX: u64 = 256;

/// How long a member that lacks more is waited for.
const CATCH_UP: Duration = Duration::from_secs(3);

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(10);

/// How long a member that lacks little is waited for. Writes go on meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks at whether anybody is left.
const GONE_LOOK: Duration = Duration::from_millis(200);

/// Why a leader gives leadership away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// By an operator.
    Asked,
    Stopping,
    /// Its disk is slow; how slow.
    SlowDisk(String),
    /// It can not write or serve a snapshot; why.
    Snapshot(String),
}

impl Reason {
    /// Stable, for machines.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Stopping => "stopping",
            Self::SlowDisk(_) => "slow_disk",
            Self::Snapshot(_) => "snapshot",
        }
    }

    pub fn detail(&self) -> &str {
        match self {
            Self::Asked => "an operator asked for it",
            Self::Stopping => "the node was told to stop",
            Self::SlowDisk(why) | Self::Snapshot(why) => why,
        }
    }
}

/// A leadership that this node gave away.
#[derive(Clone, Debug)]
pub struct HandedOver {
    pub at: Timestamp,
    pub to: NodeId,
    pub reason: Reason,
}

/// Moves leadership to `to`, or to the voter with the newest log, from wherever it is. Asked for again only if it
/// certainly was not heard: with nobody named, a second time would move it on from where the first moved it.
pub(super) async fn transfer(core: &Core, to: Option<NodeId>, limit: Duration) -> Result<NodeId, Error> {
    let deadline = clock::instant() + limit;
    loop {
        let (route, left) = core.route_by(deadline).await?;
        let leader = match route {
            Route::Here { .. } => match hand_over(core, to, Reason::Asked, left).await {
                // Somebody else led first.
                Err(Error::NoLeader) => continue,
                moved => return moved,
            },
            Route::There(leader) if to == Some(leader) => return Ok(leader),
            Route::There(leader) => leader,
            Route::Nowhere => continue,
        };
        let limit_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX) / 10 * 9;
        let frame = HandOver { to, limit_ms, request_id: request::current().map(|id| id.to_string()) };
        match core.link.send(leader, Lane::Forward, &frame, left).await {
            Ok(Ok(moved)) => return Ok(moved),
            Ok(Err(Fault::NoLeader)) | Err(Failure::NotSent(_)) => sleep(jitter().min(left)).await,
            Ok(Err(fault)) => return Err(fault.into()),
            Err(Failure::Timeout | Failure::Lost(_)) => return Err(Error::Timeout),
        }
    }
}

/// On the leader: moves leadership away from here. Returns who leads then.
pub(super) async fn hand_over(
    core: &Core,
    to: Option<NodeId>,
    reason: Reason,
    limit: Duration,
) -> Result<NodeId, Error> {
    let deadline = clock::instant() + limit;
    let metrics = core.metrics();
    if metrics.state != ServerState::Leader {
        return Err(Error::NoLeader);
    }
    let term = metrics.current_term;
    let to = choose(core.node, &metrics, to)?;
    if to == core.node {
        return Ok(to);
    }
    catch_up(core, to, term, deadline).await?;
    core.raft.trigger().transfer_leader(to).await.map_err(|_| Error::Stopping)?;
    let left = deadline.saturating_duration_since(clock::instant());
    let taken = |metrics: &types::Metrics| metrics.current_term > term && metrics.current_leader.is_some();
    let moved = core.raft.wait(Some(left)).metrics(taken, "leadership was taken over").await;
    let leader = moved.map_err(|_| Error::Timeout)?.current_leader;
    match leader {
        Some(leader) if leader != core.node => {
            note(core, leader, reason);
            Ok(leader)
        }
        // Nobody took it, and we were elected again.
        _ => Err(Error::Timeout),
    }
}

fn note(core: &Core, to: NodeId, reason: Reason) {
    match reason {
        Reason::Asked | Reason::Stopping => {
            tracing::info!(%to, reason = reason.as_str(), "leadership handed over");
        }
        Reason::SlowDisk(_) | Reason::Snapshot(_) => {
            tracing::warn!(%to, reason = reason.as_str(), detail = reason.detail(), "leadership given away");
        }
    }
    metrics::leadership_given_away(reason.as_str());
    let handed = HandedOver { at: clock::now(), to, reason };
    *core.handed_over.lock().unwrap_or_else(PoisonError::into_inner) = Some(handed);
}

/// Waits until `to` answers and has almost all of the log: once told to hand over, a leader leads no more, so nobody
/// is told to take over who can not; all of it, if that does not take long: one with a slow disk refuses to
/// lead while the newest entries are not durable there.
async fn catch_up(core: &Core, to: NodeId, term: u64, deadline: Instant) -> Result<(), Error> {
    let begun = clock::instant();
    let deadline = deadline.min(begun + CATCH_UP);
    loop {
        let metrics = core.metrics();
        if metrics.state != ServerState::Leader || metrics.current_term != term {
            return Err(Error::NoLeader);
        }
        let (entries, alive) = (lag(&metrics, to), is_alive(&metrics, to));
        if alive && (entries == 0 || (entries <= LAG_MAX && begun.elapsed() >= PATIENCE)) {
            return Ok(());
        }
        if clock::instant() >= deadline {
            return Err(Error::Behind { node: to, entries });
        }
        sleep(LOOK).await;
    }
}

/// Entries that a member is not known to have.
pub(super) fn lag(metrics: &types::Metrics, member: NodeId) -> u64 {
    let matched = metrics.replication.as_ref().and_then(|replication| *replication.get(&member)?);
    metrics.last_log_index.unwrap_or(0).saturating_sub(matched.map_or(0, |id| id.index))
}

/// Whether a member has answered the leader a moment ago.
pub(super) fn is_alive(metrics: &types::Metrics, member: NodeId) -> bool {
    let acked = metrics.heartbeat.as_ref().and_then(|acked| *acked.get(&member)?);
    acked.is_some_and(|at| at.elapsed() < RECENT)
}

fn choose(node: NodeId, metrics: &types::Metrics, to: Option<NodeId>) -> Result<NodeId, Error> {
    let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().collect();
    if let Some(to) = to {
        let known = voters.contains(&to);
        return if known { Ok(to) } else { Err(Error::Setup(format!("{to} is not a voter of this cluster"))) };
    }
    // One that answers, and of those the one with the newest log.
    let fitness = |id: &NodeId| {
        let matched = metrics.replication.as_ref().and_then(|replication| *replication.get(id)?);
        (is_alive(metrics, *id), matched)
    };
    let others = voters.into_iter().filter(|id| *id != node);
    others.max_by_key(fitness).ok_or_else(|| Error::Setup("there is no other voter to lead".into()))
}

/// Waits until no other voter can be reached: all are told to stop at once, as a rule.
async fn all_gone(core: &Core) {
    loop {
        sleep(GONE_LOOK).await;
        let voters: Vec<NodeId> = core.metrics().membership_config.membership().voter_ids().collect();
        let others = voters.into_iter().filter(|id| *id != core.node);
        let asked = others.map(|id| core.link.send(id, Lane::Forward, &AskCondition {}, RECENT));
        if join_all(asked).await.iter().all(|answer| matches!(answer, Err(Failure::NotSent(_)))) {
            return;
        }
    }
}

/// Hands over before this node stops, if it leads and somebody else votes.
pub(super) async fn before_stop(core: &Core, limit: Duration) {
    let others = core.metrics().membership_config.membership().voter_ids().count() > 1;
    if !others || !core.raft.is_leader() {
        return;
    }
    let moved = tokio::select! {
        moved = hand_over(core, None, Reason::Stopping, limit) => moved,
        () = all_gone(core) => return tracing::info!("nobody is left to hand leadership to"),
    };
    if let Err(error) = moved {
        tracing::warn!(%error, "hand leadership over");
        return;
    }
    // Until the new leader is known to lead here, what was sent to us can not be sent on.
    let routed = async {
        while !matches!(core.route(), Route::There(_)) {
            core.route_changed(core.route()).await
        }
    };
    let _ = timeout(RECENT, routed).await;
}
