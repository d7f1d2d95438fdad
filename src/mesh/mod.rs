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

mod admission;
mod agent;
mod behaviour;
mod event_loop;
pub mod fetch;
mod frame;
mod gossip;
mod handle;
mod identity;
mod inbound;
pub mod lost_bids;
mod on_behaviour;
mod on_gossip;
mod outbound;
mod peers;
mod pings;
mod progress;
pub mod roster;
mod shared;
mod streams;
#[cfg(test)]
mod tests;

pub use gossip::{Gossip, Verdict};
#[cfg(feature = "metrics")]
pub use handle::start_with_metrics;
pub use handle::{Handle, Inbox, start, start_light};
pub use identity::{Identity, verify};
pub use inbound::{BUSY, Reply, Request};
pub use lost_bids::LostBids;
pub use progress::Progress;
pub use roster::{Heard, Roster};

use std::collections::BTreeSet;

use crate::domain::{NodeId, PeerId, Timestamp};

/// Addresses that [`Handle::keep`] adds in all.
pub const KEEP_MAX: usize = 64;

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
    /// Requests to a worker that the asker is not connected to: its id (32 bytes), then the request. Members only.
    Relay,
    /// Workers and coordinators, both directions.
    Worker,
    /// Parts of outputs that workers keep: coordinators ask workers, and members each other on a worker's behalf.
    Fetch,
    /// Nodes that want to be members, or doubt that they are, ask coordinators. Few and short: anybody may.
    Join,
}

impl Lane {
    pub const ALL: [Self; 8] = [
        Self::Append,
        Self::Control,
        Self::Snapshot,
        Self::Forward,
        Self::Relay,
        Self::Worker,
        Self::Fetch,
        Self::Join,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Control => "control",
            Self::Snapshot => "snapshot",
            Self::Forward => "forward",
            Self::Relay => "relay",
            Self::Worker => "worker",
            Self::Fetch => "fetch",
            Self::Join => "join",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Announcements,
    Bids,
    Heartbeats,
}

impl Topic {
    pub const ALL: [Self; 3] = [Self::Announcements, Self::Bids, Self::Heartbeats];

    pub fn name(self) -> &'static str {
        match self {
            Self::Announcements => "announcements",
            Self::Bids => "bids",
            Self::Heartbeats => "heartbeats",
        }
    }
}

/// Who of those that listen to a topic hears a message: each part of a topic has a name of its own on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody, with the help of those in between.
    Everyone,
    /// Workers of a group ([`crate::wire::group`]), if the publisher is connected to them.
    Group(u8),
    /// This coordinator, if the publisher is connected to it; else everybody.
    One(PeerId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Subscribes to all topics, and to what is for itself.
    Coordinator,
    /// Subscribes to announcements only, for all and for its group; publishes the others without subscribing.
    Worker,
}

/// How much of the machine a mesh may take for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Footprint {
    /// It has the process for itself.
    Own,
    /// It is one of a thousand in the process: it looks less often, remembers less, and resolves no names.
    Light,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Peers of another network name are not talked to (it is part of protocol and topic names).
    pub network: String,
    pub role: Role,
    /// Multiaddrs, e.g. `/ip4/127.0.0.1/tcp/4001`, `/ip4/127.0.0.1/udp/4001/quic-v1`.
    pub listen: Vec<String>,
    /// Multiaddrs we tell others instead of where we listen.
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
