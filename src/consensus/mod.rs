//! Raft, and the one door into the log.
//!
//! Only this module names openraft. Others see [`Client`]: submit commands,
//! read the applied state, know who leads. Commands that arrive together become
//! one log record with one time stamp; a follower forwards to the leader, at
//! most one hop. A reply means: durable on a majority, applied here.
//!
//! The parts: [`boot`] opens and forms; [`log_store`], [`state_machine`],
//! [`snapshot`] and [`archive`] keep; [`network`], [`transfer`], [`serve`] and [`frames`] talk;
//! [`identity`] knows who is who; [`client`], [`door`], [`deliver`] and [`read`]
//! are the way in; [`leadership`] watches, [`handover`] gives leadership away and
//! [`abdicate`] says when it should be; [`members`], [`steward`], [`knock`] and
//! [`join`] change who is a member; [`level`] moves builds forward; [`archive`]
//! keeps what left the state; [`attention`] notices that this process slept;
//! [`offline`] changes a store that no node runs on; [`log_clock`] tells the time.
//! What is deliberately absent: any knowledge of what commands mean.

mod abdicate;
mod archive;
mod attention;
mod boot;
mod client;
mod codec;
mod core;
mod deliver;
mod door;
mod frames;
mod freshness;
mod handover;
mod identity;
mod join;
mod knock;
mod leadership;
mod level;
mod log_clock;
mod log_store;
mod members;
mod network;
mod offline;
mod pace;
mod read;
mod serve;
mod snapshot;
mod state_machine;
mod steward;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;
mod types;

pub use archive::{ArchiveView, SegmentFile, Unreadable};
pub use client::Client;
pub use handover::{HandedOver, Reason};
pub use level::Raised;
#[cfg(test)]
pub(crate) use log_clock::advance;
pub use members::{Change, Changed, Invited};
pub use offline::{Findings, Segments, Survivor, found, survey};

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::NodeId;
use crate::domain::command::Reply;
use crate::domain::member::Secret;
use crate::mesh;
use crate::storage;
use crate::tasks::Tasks;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was done; safe to try again.
    #[error("no leader is known")]
    NoLeader,
    /// Nothing was done; safe to try again later.
    #[error("too many commands are in flight")]
    Overloaded,
    /// The commands may or may not take effect.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    #[error("not reached within the time allowed")]
    Timeout,
    #[error("a command of {size} bytes is over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    /// Leadership was not handed over.
    #[error("{node} does not answer, or is too far behind: {entries} log entries")]
    Behind { node: NodeId, entries: u64 },
    #[error("this node is shutting down")]
    Stopping,
    /// This identity was seen with another store: see the message for the way out.
    #[error("{0}")]
    Amnesiac(String),
    #[error("{0}")]
    Setup(String),
    /// [`storage::Error::Full`]: there is no room for new jobs; nothing was done. Else the node can not go on.
    #[error("storage")]
    Storage(#[from] storage::Error),
}

impl Error {
    /// Whether a disk has no room for new jobs, here or on the leader.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Storage(storage::Error::Full(_)))
    }

    /// For tests of layers that do not know the storage.
    #[cfg(test)]
    pub fn full() -> Self {
        Self::Storage(storage::Error::Full("/test".into()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
        }
    }
}

/// Who this node is and how fresh, at one moment: the first lines of [`Status`].
#[derive(Clone, Copy, Debug)]
pub struct Headline {
    pub node: NodeId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub staleness_ms: Option<u64>,
}

/// This node's place in the cluster, at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    pub node: NodeId,
    /// A leader that no quorum has answered for so long that another one may lead is a candidate.
    pub role: Role,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub applied: u64,
    pub committed: u64,
    pub last_log: u64,
    pub snapshot: u64,
    pub purged: u64,
    /// Milliseconds since a leader was heard whose commits are applied here (0 on a leader with a quorum behind it;
    /// `None`: never).
    pub staleness_ms: Option<u64>,
    pub members: Vec<Member>,
    /// The feature level that the cluster is at, as applied here.
    pub level: u32,
    /// The others say that this node is not a member any more.
    pub removed: bool,
    /// Everything committed when a leader was first heard, or before this term, is applied, and a leader is known.
    pub ready: bool,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub id: NodeId,
    /// Multiaddr with `/p2p/…`.
    pub address: String,
    pub voter: bool,
    /// On the leader: the newest log index known to be on that member.
    pub matched: Option<u64>,
    /// The newest feature level that its build knows, as it said last; `None`: not heard by this node.
    pub newest_level: Option<u32>,
    /// On the leader: how long it was not heard.
    pub silence: Option<Duration>,
    /// On the leader: it was not heard for so long that it counts as dead.
    pub dead: bool,
}

/// Whether a store never belonged to a member of any cluster. Blocking.
///
/// # Errors
///
/// It can not be read.
pub fn is_new(store: &storage::Store) -> Result<bool, Error> {
    log_store::is_new(store).map_err(boot::unopened)
}

/// How a node that is not a member becomes one.
#[derive(Clone, Debug, Default)]
pub struct Joining {
    /// Whom to ask. The mesh knows where they are.
    pub peers: Vec<NodeId>,
    pub secret: Option<Secret>,
}

/// The leadership of this node, as the watch in `node` sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    Following,
    /// Elected in this term, and everything committed before it is applied: duties may start.
    Leading {
        term: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Voters of a new cluster: `/…/p2p/<id>` multiaddrs, this node among them. Ignored once the store has a membership.
    pub initial_members: Vec<String>,
    /// Asks to be admitted to a cluster that runs. Ignored once this node is a member.
    pub join: Option<Joining>,
    /// Where others reach this node, if that is not where it listens: multiaddrs with `/p2p/…`.
    pub external: Vec<String>,
    /// A dead voter is replaced by a learner after this.
    pub autopilot: Option<Duration>,
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// Log entries between snapshots.
    pub snapshot_every: u64,
    /// Log bytes between snapshots.
    pub snapshot_every_bytes: u64,
    /// Log entries kept behind a snapshot, for followers that are a little late; none while they take too much disk.
    pub keep_entries: u64,
    /// Commands waiting or in flight at the door. Beyond it: [`Error::Overloaded`].
    pub inflight: usize,
    /// Bytes free below which client writes are refused.
    pub min_free_bytes: u64,
    /// The newest feature level that this node takes part in: [`crate::domain::level::NEWEST`], but in tests.
    pub newest_level: u32,
    /// Whether reads may rest on the leader's lease, hence on clocks; see [`read`].
    pub lease_reads: bool,
    /// A leader whose syncs take longer (p99), for so long, gives leadership away. 0: it does not.
    pub slow_disk: Duration,
    pub slow_disk_for: Duration,
}

impl Options {
    /// For so long a voter that heard the leader elects nobody else.
    fn lease(&self) -> Duration {
        (self.election_max / 2).max(self.heartbeat.max(Duration::from_millis(1)) + Duration::from_millis(2))
    }
}

/// The disk, as health and metrics show it.
#[derive(Clone, Copy, Debug, Default)]
pub struct StorageView {
    /// Some seconds old at most.
    pub used_bytes: u64,
    pub free_bytes: u64,
    /// Below this, client writes are refused.
    pub min_free_bytes: u64,
    pub sync: storage::SyncStats,
}

/// The running Raft node: owned by `node`, stopped by it.
pub struct Raft {
    client: Client,
    tasks: Tasks,
}

/// Opens the log, recovers the state, starts Raft under `tasks`.
///
/// # Errors
///
/// Damaged storage; an initial member list without this node. That the members
/// know this identity with another store is found out later, see [`Raft::failed`].
pub async fn start(store: storage::Store, mesh: mesh::Handle, options: Options, tasks: &Tasks) -> Result<Raft, Error> {
    start_over(store, Arc::new(mesh), options, tasks).await
}

/// [`start`] over a store of its own in `dir`, for tests of layers that do not know the storage.
#[cfg(test)]
pub async fn start_in(
    dir: &std::path::Path,
    mesh: mesh::Handle,
    options: Options,
    tasks: &Tasks,
) -> Result<Raft, Error> {
    let store = storage::OpenOptions::new().ballast_bytes(0).open(dir, mesh.id())?;
    start(store, mesh, options, tasks).await
}

async fn start_over(
    store: storage::Store,
    transport: Arc<dyn network::Transport>,
    options: Options,
    tasks: &Tasks,
) -> Result<Raft, Error> {
    let tasks = tasks.child();
    let core = boot::open(store, transport, options, &tasks).await?;
    let door = door::Door::open(core.clone(), &tasks);
    let client = Client { core, door };
    tasks.spawn_until_stopped("join", join::follow(client.clone()));
    tasks.spawn_until_stopped("steward", steward::watch(client.clone()));
    Ok(Raft { client, tasks })
}

impl Raft {
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Answers one inbound request of the lanes append, control, snapshot, forward and join.
    ///
    /// # Errors
    ///
    /// The asker is not served, and nothing was done: tell it so (`mesh::Reply::refuse`).
    pub async fn serve(&self, peer: NodeId, lane: mesh::Lane, body: Bytes) -> Result<Bytes, Error> {
        serve::serve(&self.client, peer, lane, body).await
    }

    /// Completes when Raft can not go on (disk failed, amnesiac): the process must stop.
    pub async fn failed(&self) -> Error {
        let mut failure = self.client.core.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(Error::Stopping),
            Err(_) => Error::Stopping,
        }
    }

    /// Hands leadership over if this node leads, and goes on as a follower. At most `limit`.
    pub async fn hand_over(&self, limit: Duration) {
        handover::before_stop(&self.client.core, limit).await;
    }

    /// Hands leadership over if this node leads, then stops. At most `limit`.
    pub async fn stop(&self, limit: Duration) {
        boot::stop(&self.client.core, &self.tasks, limit).await;
    }
}

/// What a batch of commands came to.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Index of the log entry with the last of them.
    pub index: u64,
    pub term: u64,
    pub replies: Vec<Reply>,
}
