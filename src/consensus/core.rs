//! What the parts of this module share: the Raft node and everything around it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ServerState};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock;
use crate::domain::{NodeId, Timestamp};
use crate::storage::Store;
use crate::tasks::Tasks;

use super::identity::Peers;
use super::log_clock::LogClock;
use super::log_store::LogStore;
use super::network::{Link, Transport};
use super::state_machine::Applied;
use super::transfer::Receiver;
use super::types::{Metrics, Node};
use super::{Error, Leadership, Member, Options, Role, Status};

/// How long a look at the disk's free space holds.
const DISK_LOOK: Duration = Duration::from_secs(1);

pub(super) struct Core {
    pub node: NodeId,
    pub raft: Node,
    pub applied: Applied,
    pub store: Store,
    pub log: LogStore,
    pub link: Link,
    pub transport: Arc<dyn Transport>,
    pub peers: Arc<Peers>,
    pub receiver: Receiver,
    pub options: Options,
    /// Ids of `options.initial_members`: who is a member before the log says so.
    pub initial: BTreeSet<NodeId>,
    pub leadership: watch::Sender<Leadership>,
    pub failure: Arc<watch::Sender<Option<Error>>>,
    pub recovered: AtomicBool,
    pub tasks: Tasks,
    /// When a leader was last heard.
    pub heard: Mutex<Option<Instant>>,
    pub log_clock: LogClock,
    pub disk: Mutex<Option<(Instant, u64)>>,
}

/// Where a proposal or a question has to go, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Here { term: u64 },
    There(NodeId),
    Nowhere,
}

impl Core {
    pub fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    pub fn route(&self) -> Route {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match metrics.current_leader {
            Some(leader) if leader != self.node => Route::There(leader),
            Some(_) if metrics.state == ServerState::Leader => Route::Here { term: metrics.current_term },
            _ => Route::Nowhere,
        }
    }

    /// Where to turn, and how much time is left: waits for a leader until `deadline`.
    pub async fn route_by(&self, deadline: Instant) -> Result<(Route, Duration), Error> {
        loop {
            let left = deadline.saturating_duration_since(clock::instant());
            if left.is_zero() {
                return Err(if self.has_leader() { Error::Timeout } else { Error::NoLeader });
            }
            match self.route() {
                Route::Nowhere => {
                    let _ = timeout(left, self.route_changed(Route::Nowhere)).await;
                }
                route => return Ok((route, left)),
            }
        }
    }

    /// Waits until the route is not `old`.
    pub async fn route_changed(&self, old: Route) {
        let mut metrics = self.raft.metrics();
        while self.route() == old {
            if metrics.changed().await.is_err() {
                // Raft has ended. The caller's deadline, or the node's end, comes first.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether a leader, here or elsewhere, was alive a moment ago.
    pub fn has_leader(&self) -> bool {
        self.route() != Route::Nowhere && self.staleness().is_some_and(|age| age <= self.options.election_max)
    }

    /// Age of the newest sign of a leader: 0 on a leader with a quorum behind it.
    pub fn staleness(&self) -> Option<Duration> {
        let metrics = self.metrics();
        if metrics.state == ServerState::Leader {
            return self
                .quorum_age(&metrics)
                .map(|age| if age < self.options.election_min { Duration::ZERO } else { age });
        }
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    /// On a leader: time since a quorum last acknowledged it.
    pub fn quorum_age(&self, metrics: &Metrics) -> Option<Duration> {
        let mut voters = metrics.membership_config.membership().voter_ids();
        if voters.next() == Some(self.node) && voters.next().is_none() {
            return Some(Duration::ZERO);
        }
        let acked = metrics.last_quorum_acked?.into_inner();
        Some(acked.elapsed())
    }

    pub fn hear_leader(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::instant());
    }

    pub fn is_member(&self, peer: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        if membership.nodes().next().is_none() {
            self.initial.contains(&peer)
        } else {
            membership.get_node(&peer).is_some()
        }
    }

    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), Error> {
        let mut applied = self.applied.index();
        let reached = timeout(limit, applied.wait_for(|applied| *applied >= index)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// The time for the next record: never before the last one, and never at a standstill.
    pub fn log_now(&self) -> Timestamp {
        self.log_clock.now(self.applied.now())
    }

    /// Bytes free on disk, at most [`DISK_LOOK`] old.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        let mut looked = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        match *looked {
            Some((at, free)) if at.elapsed() < DISK_LOOK => Ok(free),
            _ => {
                let free = self.store.free_bytes()?;
                *looked = Some((clock::instant(), free));
                Ok(free)
            }
        }
    }

    /// Says why this node can not go on.
    pub fn fail(&self, error: Error) {
        fail(&self.failure, error);
    }

    pub fn status(&self) -> Status {
        let metrics = self.metrics();
        let leader = metrics.current_leader;
        let leading = metrics.state == ServerState::Leader;
        let caught_up = !leading || *self.leadership.borrow() != Leadership::Following;
        Status {
            node: self.node,
            role: role(metrics.state),
            term: metrics.current_term,
            leader,
            applied: *self.applied.index().borrow(),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            last_log: metrics.last_log_index.unwrap_or(0),
            snapshot: metrics.snapshot.map_or(0, |id| id.index),
            purged: metrics.purged.map_or(0, |id| id.index),
            staleness_ms: self.staleness().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            members: members(self.node, &metrics),
            ready: self.recovered.load(Ordering::Acquire) && caught_up && self.has_leader(),
        }
    }
}

/// The first reason stands.
pub(super) fn fail(failure: &watch::Sender<Option<Error>>, error: Error) {
    failure.send_if_modified(|failure| {
        let first = failure.is_none();
        failure.get_or_insert(error);
        first
    });
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Follower | ServerState::Shutdown => Role::Follower,
    }
}

fn members(node: NodeId, metrics: &Metrics) -> Vec<Member> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let matched = |id: &NodeId| {
        let replication = metrics.replication.as_ref()?;
        if *id == node { metrics.last_log_index } else { (*replication.get(id)?).map(|log_id| log_id.index) }
    };
    let member = |(id, address): (&NodeId, &String)| Member {
        id: *id,
        address: address.clone(),
        voter: voters.contains(id),
        matched: matched(id),
    };
    membership.nodes().map(member).collect()
}
