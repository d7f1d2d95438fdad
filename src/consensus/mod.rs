//! Raft, and the one door into the log.
//!
//! Only this module names openraft. Others see [`Client`]: submit commands,
//! read the applied state, know who leads. Commands that arrive together become
//! one log record with one time stamp; a follower forwards to the leader, at
//! most one hop. A reply means: durable on a majority, applied here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::domain::command::Reply;
use crate::domain::{Command, NodeId, State};
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
    #[error("this node is shutting down")]
    Stopping,
    /// This identity was seen with another store: see the message for the way out.
    #[error("{0}")]
    Amnesiac(String),
    #[error("{0}")]
    Setup(String),
    #[error("storage")]
    Storage(#[from] storage::Error),
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

/// This node's place in the cluster, at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    pub node: NodeId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub applied: u64,
    pub committed: u64,
    pub last_log: u64,
    pub snapshot: u64,
    pub purged: u64,
    /// Milliseconds since a leader was last heard (0 on a leader with a quorum behind it; `None`: never).
    pub staleness_ms: Option<u64>,
    pub members: Vec<Member>,
    /// Everything committed before this node's start, or this term, is applied and a leader is known.
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
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// Log entries between snapshots.
    pub snapshot_every: u64,
    /// Log bytes between snapshots.
    pub snapshot_every_bytes: u64,
    /// Log entries kept behind a snapshot, for followers that are a little late.
    pub keep_entries: u64,
    /// Commands waiting or in flight at the door. Beyond it: [`Error::Overloaded`].
    pub inflight: usize,
    /// Bytes free below which client writes are refused.
    pub min_free_bytes: u64,
}

/// The disk, as health and metrics show it.
#[derive(Clone, Copy, Debug, Default)]
pub struct StorageView {
    pub used_bytes: u64,
    pub free_bytes: u64,
    /// Below this, client writes are refused.
    pub min_free_bytes: u64,
    pub sync: storage::SyncStats,
}

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    _todo: (),
}

/// The running Raft node: owned by `node`, stopped by it.
pub struct Raft {
    _todo: (),
}

/// Opens the log, recovers the state, starts Raft under `tasks`.
///
/// # Errors
///
/// Damaged storage; an initial member list without this node; an identity that
/// the members know with another store ([`Error::Amnesiac`]).
#[allow(unused_variables, clippy::unused_async)]
pub async fn start(store: storage::Store, mesh: mesh::Handle, options: Options, tasks: &Tasks) -> Result<Raft, Error> {
    todo!()
}

#[allow(unused_variables, clippy::unused_self, clippy::unused_async)]
impl Raft {
    pub fn client(&self) -> Client {
        todo!()
    }

    /// Answers one inbound request of the lanes append, control, snapshot and forward.
    pub async fn serve(&self, peer: NodeId, lane: mesh::Lane, body: Bytes) -> Result<Bytes, Error> {
        todo!()
    }

    /// Completes when Raft can not go on (disk failed, amnesiac): the process must stop.
    pub async fn failed(&self) -> Error {
        todo!()
    }

    /// Hands leadership over if this node leads, then stops. At most `limit`.
    pub async fn stop(&self, limit: Duration) {
        todo!()
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

#[allow(unused_variables, clippy::unused_self, clippy::unused_async, clippy::missing_errors_doc)]
impl Client {
    /// Commits one command: on the leader directly, elsewhere by one hop. Applied here when it returns.
    pub async fn submit(&self, command: Command, limit: Duration) -> Result<(u64, Reply), Error> {
        todo!()
    }

    /// Commits many, in order, in as few records as their size allows (not atomically).
    pub async fn submit_many(&self, commands: Vec<Command>, limit: Duration) -> Result<Committed, Error> {
        todo!()
    }

    /// Like [`Self::submit_many`], but refuses to forward, and only in `term`: for leader duties.
    pub async fn submit_as_leader(
        &self,
        term: u64,
        commands: Vec<Command>,
        limit: Duration,
    ) -> Result<Committed, Error> {
        todo!()
    }

    /// Looks at this node's applied state. Keep it short: `apply` waits meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        todo!()
    }

    /// A frozen view, for what takes longer.
    pub fn view(&self) -> Arc<State> {
        todo!()
    }

    /// Waits until this node's state has everything committed before the call, wherever it is called. Returns that index.
    pub async fn linearize(&self, limit: Duration) -> Result<u64, Error> {
        todo!()
    }

    /// Waits until this node has applied `index`.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), Error> {
        todo!()
    }

    /// The applied index, for waiting on changes.
    pub fn applied(&self) -> watch::Receiver<u64> {
        todo!()
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        todo!()
    }

    pub fn status(&self) -> Status {
        todo!()
    }

    /// What the disk under this node is doing.
    pub fn storage(&self) -> StorageView {
        todo!()
    }

    /// Moves leadership to `to`, or to the most caught-up member.
    pub async fn transfer_leadership(&self, to: Option<NodeId>, limit: Duration) -> Result<NodeId, Error> {
        todo!()
    }
}
