//! What the parts of this module share: the Raft node and everything around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use openraft::{Instant as _, ServerState};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::clock;
use crate::domain::{NodeId, State, Timestamp};
use crate::storage::Store;
use crate::tasks::Tasks;

use super::abdicate::Snapshots;
use super::archive::Archive;
use super::attention::Attention;
use super::freshness::Freshness;
use super::handover::HandedOver;
use super::identity::Peers;
use super::log_clock::LogClock;
use super::log_store::LogStore;
use super::network::{Link, Transport};
use super::state_machine::Applied;
use super::transfer::Receiver;
use super::types::{Metrics, Node, TypeConfig};
use super::{Error, Headline, Leadership, Member, Options, Role, Status};

/// How long a look at the disk's free space holds.
const DISK_LOOK: Duration = Duration::from_secs(1);

/// Between two looks at every file of the store.
const USED_LOOK: Duration = Duration::from_secs(10);

/// A hand-over takes less.
const HAND_OVER: Duration = Duration::from_secs(1);

pub(super) struct Core {
    pub node: NodeId,
    pub raft: Node,
    pub applied: Applied,
    pub archive: Archive,
    pub store: Store,
    pub log: LogStore,
    pub link: Link,
    pub transport: Arc<dyn Transport>,
    pub peers: Arc<Peers>,
    pub receiver: Receiver,
    pub options: Options,
    /// Whom this node takes for members while the log does not say that it is one itself.
    pub trusted: Trusted,
    /// On the leader: when each other member was last heard.
    pub heard_of: Mutex<BTreeMap<NodeId, Instant>>,
    /// Where the books say that members are, a moment ago.
    pub moved: Mutex<BTreeMap<NodeId, String>>,
    /// The others say that this node was removed.
    pub removed: AtomicBool,
    /// Strangers that are answered at once; others are told to come again.
    pub knocks: Semaphore,
    pub leadership: watch::Sender<Leadership>,
    pub failure: Arc<watch::Sender<Option<Error>>>,
    pub recovered: AtomicBool,
    pub tasks: Tasks,
    /// When a leader was last heard.
    pub heard: Mutex<Option<Instant>>,
    pub fresh: Mutex<Freshness>,
    pub log_clock: LogClock,
    pub attention: Attention,
    pub snapshots: Arc<Snapshots>,
    /// When the leader last said that it hands over.
    pub transfer: Mutex<Option<Instant>>,
    pub handed_over: Mutex<Option<HandedOver>>,
    pub disk: Mutex<Option<(Instant, u64)>>,
    /// Bytes that the store uses, as they were found last.
    pub used: AtomicU64,
}

/// Silence after which a voter is reported as dead, at least.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// Who may speak to a node whose own log does not say who is a member: told by its configuration, then by those it
/// knocked at.
#[derive(Default)]
pub(super) struct Trusted {
    nodes: Mutex<BTreeSet<NodeId>>,
    /// The log is behind: a member told who the others are now, and maybe one of those leads.
    ahead: AtomicBool,
    /// Counts the changes.
    version: AtomicU64,
}

impl Trusted {
    pub fn new(nodes: BTreeSet<NodeId>) -> Self {
        Self { nodes: Mutex::new(nodes), ahead: false.into(), version: AtomicU64::new(0) }
    }

    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    pub fn all(&self) -> BTreeSet<NodeId> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, nodes: BTreeSet<NodeId>) {
        let mut known = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != nodes {
            *known = nodes;
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether members of this cluster said who is one, and the log may not know it yet.
    pub fn set_ahead(&self, ahead: bool) {
        if self.ahead.swap(ahead, Ordering::AcqRel) != ahead {
            self.version.fetch_add(1, Ordering::Release);
        }
    }
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
            if left.is_zero() || self.removed.load(Ordering::Acquire) {
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
        let metrics = self.raft.metrics();
        let silence = self.silence_by(&metrics.borrow_watched());
        self.route() != Route::Nowhere && silence.is_some_and(|age| age <= self.options.election_max)
    }

    /// Age of the newest sign of a leader that this node's state has caught up with: 0 on a leader with a quorum
    /// behind it.
    fn staleness_by(&self, metrics: &Metrics) -> Option<Duration> {
        let silence = self.silence_by(metrics)?;
        // A leader that has applied something of its own term has all that was acknowledged before.
        let whole = metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term);
        if metrics.state == ServerState::Leader && whole {
            return Some(silence);
        }
        let applied = *self.applied.index().borrow();
        let since = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).since(applied)?;
        Some(silence.max(since.elapsed()))
    }

    /// Age of the newest sign of a leader, whether or not this node has what it has.
    fn silence_by(&self, metrics: &Metrics) -> Option<Duration> {
        if metrics.state == ServerState::Leader {
            let age = self.quorum_age(metrics)?;
            return Some(if age < self.options.election_min { Duration::ZERO } else { age });
        }
        let heard = (*self.heard.lock().unwrap_or_else(PoisonError::into_inner))?.elapsed();
        // What reached a process that slept may have been on its way all that time.
        Some(self.attention.doubt(clock::instant()).map_or(heard, |doubt| heard.max(doubt)))
    }

    /// Whether this node holds itself for the leader, and no longer knows that it is: no quorum has answered it
    /// for so long that another one may have been elected.
    fn may_be_deposed(&self, metrics: &Metrics) -> bool {
        metrics.state == ServerState::Leader
            && self.quorum_age(metrics).is_some_and(|age| age > self.options.election_max)
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

    /// When a quorum last acknowledged this node as the leader, if it is one.
    pub fn last_quorum(&self) -> Option<Instant> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let age = (metrics.state == ServerState::Leader).then(|| self.quorum_age(&metrics))??;
        clock::instant().checked_sub(age)
    }

    /// What a request of the leader says is committed, if that counts: a leader knows so only of its own term, and
    /// what is behind this node was on its way while newer news came.
    pub fn sign(&self, request: &AppendEntriesRequest<TypeConfig>) -> Option<u64> {
        let applied = *self.applied.index().borrow();
        let term = request.vote.leader_id.term;
        request.leader_commit.as_ref().filter(|id| id.leader_id.term == term && id.index >= applied).map(|id| id.index)
    }

    /// A request of the leader came at `came` and was taken; `sign`: what it said is committed.
    pub fn hear_leader(&self, came: Instant, sign: Option<u64>) {
        // First of all: what comes after a silence is not to pass for new even for a moment.
        self.attention.hear(came);
        self.hear_leader_at(clock::instant());
        if let Some(index) = sign {
            let applied = *self.applied.index().borrow();
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).hear(index, applied, came);
        }
    }

    pub fn hear_leader_at(&self, at: Instant) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = (*heard).max(Some(at));
    }

    pub fn hear_transfer(&self) {
        *self.transfer.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::instant());
    }

    /// Whether leadership moves, or has just moved, because the leader wanted it to.
    pub fn is_handed_over(&self) -> bool {
        let heard = *self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|at| at.elapsed() < HAND_OVER)
    }

    pub fn is_member(&self, peer: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let logged = metrics.membership_config.membership().get_node(&peer).is_some();
        logged || (self.heeds_trusted(&metrics) && self.trusted.contains(peer))
    }

    /// Whether this node's log can not be what says who is a member.
    pub fn heeds_trusted(&self, metrics: &Metrics) -> bool {
        let out = metrics.membership_config.membership().get_node(&self.node).is_none();
        out || self.removed.load(Ordering::Acquire) || self.trusted.ahead.load(Ordering::Acquire)
    }

    /// Whether the leader that is heard is a member by this node's own log.
    pub fn leader_is_logged(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        metrics.current_leader.is_some_and(|leader| membership.get_node(&leader).is_some())
    }

    /// Whether `member` answered this leader, in this term, within `limit`.
    pub fn has_answered(&self, metrics: &Metrics, member: NodeId, limit: Duration) -> bool {
        let acked = metrics.heartbeat.as_ref().and_then(|acked| *acked.get(&member)?);
        member == self.node || acked.is_some_and(|at| at.elapsed() < limit)
    }

    /// How long a member was not heard, on the leader.
    pub fn silence(&self, peer: NodeId) -> Option<Duration> {
        self.heard_of.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).map(Instant::elapsed)
    }

    /// Where others reach this node, the best address first.
    pub fn own_addresses(&self) -> Vec<String> {
        if !self.options.external.is_empty() {
            return self.options.external.clone();
        }
        let mut own = self.transport.addresses();
        own.sort_by_key(|address| is_loopback(address));
        own
    }

    /// Silence after which a voter is reported as dead.
    pub fn dead_after(&self) -> Duration {
        DEAD_AFTER.max(self.options.election_max * 3)
    }

    /// The other members, `first` before the others: whom to ask for what is missing here.
    pub fn sources(&self, first: Option<NodeId>) -> Vec<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership().nodes().map(|(id, _)| *id);
        let others = members.filter(|id| Some(*id) != first);
        first.into_iter().chain(others).filter(|id| *id != self.node).collect()
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

    /// Bytes that may be written beside what clients write.
    pub fn room(&self) -> Result<u64, Error> {
        Ok(self.free_bytes()?.saturating_sub(self.options.min_free_bytes))
    }

    /// Keeps [`Self::used`] up to date. Files may be many: nobody who asks waits for a look at them.
    pub async fn measure(self: Arc<Self>) {
        loop {
            let store = self.store.clone();
            if let Ok(used) = self.tasks.spawn_blocking(move || store.used_bytes()).await {
                self.used.store(used, Ordering::Relaxed);
            }
            tokio::time::sleep(USED_LOOK).await;
        }
    }

    /// The newest feature level that a member's build knows, as far as it is known here.
    pub fn newest_level_of(&self, member: NodeId) -> Option<u32> {
        if member == self.node { Some(self.options.newest_level) } else { self.peers.level_of(member) }
    }

    /// Says why this node can not go on.
    pub fn fail(&self, error: Error) {
        fail(&self.failure, error);
    }

    /// What every answer of the API says. Copies nothing that grows with the cluster.
    pub fn headline(&self) -> Headline {
        let metrics = self.raft.metrics();
        self.headline_by(&metrics.borrow_watched())
    }

    fn headline_by(&self, metrics: &Metrics) -> Headline {
        let deposed = self.may_be_deposed(metrics);
        Headline {
            node: self.node,
            role: if deposed { Role::Candidate } else { role(metrics.state) },
            term: metrics.current_term,
            leader: metrics.current_leader.filter(|_| !deposed),
            staleness_ms: self.staleness_by(metrics).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    pub fn status(&self) -> Status {
        let metrics = self.metrics();
        let Headline { node, role, term, leader, staleness_ms } = self.headline_by(&metrics);
        let leading = metrics.state == ServerState::Leader;
        let caught_up = !leading || *self.leadership.borrow() != Leadership::Following;
        Status {
            node,
            role,
            term,
            leader,
            applied: *self.applied.index().borrow(),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            last_log: metrics.last_log_index.unwrap_or(0),
            snapshot: metrics.snapshot.map_or(0, |id| id.index),
            purged: metrics.purged.map_or(0, |id| id.index),
            staleness_ms,
            level: self.applied.read(State::level),
            members: members(self, &metrics),
            removed: self.removed.load(Ordering::Acquire),
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

fn members(core: &Core, metrics: &Metrics) -> Vec<Member> {
    let node = core.node;
    let leads = metrics.state == ServerState::Leader;
    // Not from the state: whoever asks may hold its lock.
    let moved = core.moved.lock().unwrap_or_else(PoisonError::into_inner);
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let matched = |id: &NodeId| {
        let replication = metrics.replication.as_ref()?;
        if *id == node { metrics.last_log_index } else { (*replication.get(id)?).map(|log_id| log_id.index) }
    };
    let silence = |id: &NodeId| if leads { core.silence(*id) } else { None };
    let member = |(id, address): (&NodeId, &String)| Member {
        id: *id,
        address: moved.get(id).unwrap_or(address).clone(),
        voter: voters.contains(id),
        matched: matched(id),
        newest_level: core.newest_level_of(*id),
        silence: silence(id),
        dead: silence(id).is_some_and(|silence| silence >= core.dead_after()),
    };
    membership.nodes().map(member).collect()
}

/// Nobody else can dial it.
pub(super) fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}
