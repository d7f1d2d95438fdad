//! The peer-to-peer mesh: libp2p, and nothing else of ours but ids and bytes.
//!
//! Two ways to speak. [`Handle::request`] goes to one peer over a persistent,
//! multiplexed stream per lane and gets an answer; it is authenticated by peer
//! id. [`Handle::publish`] is gossip: signed, bounded, may be lost.
//!
//! Requests do not pass the swarm's event loop, so Raft never queues behind
//! gossip. Inbound requests and gossip come out of [`Inbox`]; whoever reads it
//! decides. Every queue in here is bounded; what happens at the bound is stated
//! where it is made.

pub mod roster;

pub use roster::{Heard, Roster};

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::domain::{NodeId, PeerId, Timestamp};
use crate::tasks::Tasks;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request was not sent: it certainly had no effect.
    #[error("peer {0} is not reachable")]
    Unreachable(PeerId),
    /// The request may or may not have had an effect.
    #[error("no answer from peer {0} in time")]
    Timeout(PeerId),
    /// The request may or may not have had an effect.
    #[error("connection to peer {0} was lost before it answered")]
    Lost(PeerId),
    /// The peer answered that it does not serve us on this lane.
    #[error("peer {peer} refused: {reason}")]
    Refused { peer: PeerId, reason: String },
    #[error("message of {size} bytes is over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("gossip queue is full")]
    Busy,
    #[error("{0}")]
    Setup(String),
}

/// Streams kept apart so that one kind of traffic does not wait for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Raft log replication. Members only.
    Append,
    /// Raft votes, heartbeats, leadership transfer, hello. Members only.
    Control,
    /// Raft snapshots. Members only.
    Snapshot,
    /// Commands and read-index queries on their way to the leader. Members only.
    Forward,
    /// Workers and coordinators, both directions.
    Worker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Announcements,
    Bids,
    Heartbeats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Subscribes to all topics.
    Coordinator,
    /// Subscribes to announcements only; publishes the others without subscribing.
    Worker,
}

/// An ed25519 key pair. `Debug` shows the public half only.
#[derive(Clone)]
pub struct Identity {
    _todo: (),
}

#[allow(unused_variables, clippy::unused_self)]
impl Identity {
    /// Reads the key file, or makes one (mode 0600) if there is none. Refuses a file others can read.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        todo!()
    }

    /// A key from 32 secret bytes, for tests and simulated workers.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        todo!()
    }

    pub fn id(&self) -> PeerId {
        todo!()
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        todo!()
    }
}

/// Whether `signature` is by `signer` over `message`.
#[allow(unused_variables)]
pub fn verify(signer: PeerId, message: &[u8], signature: &[u8]) -> bool {
    todo!()
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Peers of another network name are not talked to (it is part of protocol and topic names).
    pub network: String,
    pub role: Role,
    /// Multiaddrs, e.g. `/ip4/127.0.0.1/tcp/4001`, `/ip4/127.0.0.1/udp/4001/quic-v1`.
    pub listen: Vec<String>,
    /// Multiaddrs we tell others, when they differ from where we listen.
    pub external: Vec<String>,
    /// Multiaddrs with `/p2p/…`: dialled at start, and again with back-off whenever lost.
    pub persistent: Vec<String>,
    /// Coordinators that may use the member lanes.
    pub members: BTreeSet<NodeId>,
    pub gossip: bool,
    pub discovery: bool,
    /// Development only.
    pub mdns: bool,
    pub max_connections: u32,
    /// Largest message on member lanes; workers' lane has a limit of its own.
    pub max_frame: usize,
}

/// Talks to the mesh. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    _todo: (),
}

/// What comes in from the mesh. One reader.
pub struct Inbox {
    pub requests: mpsc::Receiver<Request>,
    pub gossip: mpsc::Receiver<Gossip>,
}

/// A request from an authenticated peer. Dropping `reply` answers with an error.
pub struct Request {
    pub peer: PeerId,
    pub lane: Lane,
    pub body: Bytes,
    pub reply: Reply,
}

pub struct Reply {
    _todo: (),
}

#[allow(unused_variables, clippy::unused_self)]
impl Reply {
    pub fn send(self, body: Bytes) {
        todo!()
    }

    /// The caller gets [`Error::Refused`].
    pub fn refuse(self, reason: impl Into<String>) {
        todo!()
    }
}

/// A gossip message with a valid signature by `source`. It is forwarded to
/// others only after `accept`; dropping it without a verdict ignores it.
pub struct Gossip {
    pub topic: Topic,
    pub source: PeerId,
    pub body: Bytes,
    pub verdict: Verdict,
}

pub struct Verdict {
    _todo: (),
}

#[allow(clippy::unused_self)]
impl Verdict {
    /// Valid: pass it on.
    pub fn accept(self) {
        todo!()
    }

    /// Stale, repeated or over its rate: do not pass it on.
    pub fn ignore(self) {
        todo!()
    }

    /// Malformed or forged: do not pass it on, and lower the sender's score.
    pub fn reject(self) {
        todo!()
    }
}

/// A peer as this node sees it.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub id: PeerId,
    pub addresses: Vec<String>,
    pub connected: bool,
    pub connected_since: Option<Timestamp>,
    pub inbound: bool,
    /// `tcp` or `quic`.
    pub transport: &'static str,
    pub agent: Option<String>,
    pub protocols: Vec<String>,
    pub rtt_us: Option<u64>,
    pub gossip_score: f64,
    pub member: bool,
    /// Invalid messages, refused requests and rate violations since we know it.
    pub offences: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub peers_known: u64,
    pub peers_connected: u64,
    pub dials_failed: u64,
    pub topics: Vec<TopicStats>,
    pub lanes: Vec<LaneStats>,
    pub listening: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct TopicStats {
    pub topic: &'static str,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub rejected: u64,
    pub ignored: u64,
    pub dropped: u64,
    pub mesh_peers: u64,
}

#[derive(Clone, Debug)]
pub struct LaneStats {
    pub lane: &'static str,
    pub requests_in: u64,
    pub requests_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub errors: u64,
    pub refused: u64,
}

/// Binds the sockets and starts the mesh's tasks under `tasks`.
///
/// # Errors
///
/// A listen address that cannot be bound, naming it; an unusable multiaddr.
#[allow(unused_variables, clippy::unused_async)]
pub async fn start(identity: Identity, options: Options, tasks: &Tasks) -> Result<(Handle, Inbox), Error> {
    todo!()
}

#[allow(unused_variables, clippy::unused_self)]
impl Handle {
    pub fn id(&self) -> PeerId {
        todo!()
    }

    /// Sends `body` and waits for the answer, at most `timeout`. Opens the
    /// stream if need be; if the peer is not connected, dials it once.
    pub async fn request(&self, peer: PeerId, lane: Lane, body: Bytes, timeout: Duration) -> Result<Bytes, Error> {
        todo!()
    }

    /// Signs and publishes. [`Error::Busy`] when the queue is full: the caller drops it or tries later.
    pub fn publish(&self, topic: Topic, body: Bytes) -> Result<(), Error> {
        todo!()
    }

    /// Replaces who may use the member lanes.
    pub fn set_members(&self, members: BTreeSet<NodeId>) {
        todo!()
    }

    /// Adds addresses to dial and keep (a worker learns more coordinators than it was told).
    pub fn keep(&self, addresses: Vec<String>) {
        todo!()
    }

    /// Notes that a peer sent something it must not have; enough of it closes the connection for a while.
    pub fn penalise(&self, peer: PeerId, reason: &'static str) {
        todo!()
    }

    pub fn is_connected(&self, peer: PeerId) -> bool {
        todo!()
    }

    pub fn peers(&self) -> Vec<PeerView> {
        todo!()
    }

    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Actual listen addresses with `/p2p/…`, after port 0 was resolved.
    pub fn addresses(&self) -> Vec<String> {
        todo!()
    }
}
