//! What our swarm is made of, and how it is set.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, Swarm};
use libp2p::{StreamProtocol, SwarmBuilder, identify, kad, mdns, noise, tcp, yamux};
#[cfg(feature = "metrics")]
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::agent;
use super::gossip::{self, Topics};
use super::pings;
use super::shared::Shared;
use super::streams::{self, Inbound, Protocols};
use super::{Error, Footprint, Identity, Lane, Options, Role};

/// Connections to one peer. Two sides that dial each other at once make two.
const CONNECTIONS_PER_PEER: u32 = 4;

/// Connections that are being made, each way.
const PENDING_MAX: u32 = 256;

/// A connection stays until a side closes it or it breaks.
const IDLE: Duration = Duration::from_secs(30 * 24 * 3600);

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A QUIC dial to a port where nobody listens fails no sooner.
const QUIC_HANDSHAKE: Duration = Duration::from_secs(2);

/// The same for workers. They dial nothing but coordinators, and when all of them are lost they come back all at
/// once: a handshake that is given up too soon is made again, and with it the work of both sides.
const QUIC_HANDSHAKE_WORKER: Duration = Duration::from_secs(5);

/// A QUIC connection without a sign of life for so long is dead. A process that is paused for 5 s, or starved of
/// its processor, keeps its connections.
const QUIC_IDLE_MS: u32 = 6_000;

/// Pause after which a quiet QUIC connection is shown to live. A worker's heartbeats do the same.
const QUIC_KEEP_ALIVE: Duration = Duration::from_millis(2_500);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub limits: connection_limits::Behaviour,
    pub blocked: allow_block_list::Behaviour<BlockedPeers>,
    pub streams: streams::Behaviour,
    pub identify: identify::Behaviour,
    pub ping: pings::Behaviour,
    pub kad: Toggle<kad::Behaviour<MemoryStore>>,
    pub mdns: Toggle<mdns::tokio::Behaviour>,
    pub gossip: Toggle<gossip::Behaviour>,
}

/// The protocol version of `identify`: peers of another network show another.
pub(super) fn network_protocol(network: &str) -> String {
    format!("/ciro/{network}/1")
}

/// Builds the behaviours.
pub(super) fn behaviour(
    identity: &Identity,
    options: &Options,
    topics: &Topics,
    footprint: Footprint,
    shared: Arc<Shared>,
    accepted: mpsc::Sender<Inbound>,
    #[cfg(feature = "metrics")] registry: Option<&mut Registry>,
) -> Result<Behaviour, Error> {
    let network = &options.network;
    let (names, served) = lanes(network, options.role)?;
    let me = identity.keypair().public().to_peer_id();
    let identify = identify::Config::new(network_protocol(network), identity.keypair().public())
        .with_agent_version(agent::of_life(rand::random()))
        .with_cache_size(0)
        .with_hide_listen_addrs(!options.external.is_empty())
        .with_push_listen_addr_updates(true);
    let mdns = options.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me)).transpose();
    let mdns = mdns.map_err(|error| Error::Setup(format!("start mdns: {error}")))?;
    let gossip = options
        .gossip
        .then(|| gossip::behaviour(identity.keypair(), identity.id(), options, topics, footprint))
        .transpose()?;
    #[cfg(feature = "metrics")]
    let gossip = match registry {
        Some(registry) => gossip.map(|gossip| measured(gossip, registry)),
        None => gossip,
    };
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits(options.max_connections)),
        blocked: allow_block_list::Behaviour::default(),
        streams: streams::Behaviour::new(names, served, accepted),
        identify: identify::Behaviour::new(identify),
        ping: pings::Behaviour::new(shared),
        kad: options.discovery.then(|| kademlia(me, options)).transpose()?.into(),
        mdns: mdns.into(),
        gossip: gossip.into(),
    })
}

#[cfg(feature = "metrics")]
fn measured(gossip: gossip::Behaviour, registry: &mut Registry) -> gossip::Behaviour {
    gossip.with_metrics(registry.sub_registry_with_prefix("libp2p_gossip"), libp2p::gossipsub::MetricsConfig::default())
}

fn limits(total: u32) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX))
        .with_max_established(Some(total))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
}

/// The name of each lane, and those that a node of this role serves.
fn lanes(network: &str, role: Role) -> Result<(HashMap<Lane, StreamProtocol>, Protocols), Error> {
    let mut names = HashMap::new();
    for lane in Lane::ALL {
        names.insert(lane, protocol(format!("/ciro/{network}/{}/1", lane.name()))?);
    }
    let served =
        names.iter().filter(|(lane, _)| role == Role::Coordinator || matches!(lane, Lane::Worker | Lane::Fetch));
    let served: Vec<_> = served.map(|(lane, name)| (name.clone(), *lane)).collect();
    Ok((names, Arc::from(served)))
}

fn protocol(name: String) -> Result<StreamProtocol, Error> {
    StreamProtocol::try_from_owned(name).map_err(|error| Error::Setup(format!("name a protocol: {error}")))
}

/// Coordinators keep the routing table; workers only ask. Nobody stores records.
fn kademlia(me: libp2p::PeerId, options: &Options) -> Result<kad::Behaviour<MemoryStore>, Error> {
    let mut config = kad::Config::new(protocol(format!("/ciro/{}/kad/1", options.network))?);
    config.set_record_filtering(kad::StoreInserts::FilterBoth);
    config.set_provider_publication_interval(None);
    let mut kad = kad::Behaviour::with_config(me, MemoryStore::new(me), config);
    kad.set_mode(Some(match options.role {
        Role::Coordinator => kad::Mode::Server,
        Role::Worker => kad::Mode::Client,
    }));
    Ok(kad)
}

/// Transports and behaviours together. With a registry, traffic is counted in it.
pub(super) fn swarm(
    identity: &Identity,
    behaviour: Behaviour,
    role: Role,
    footprint: Footprint,
    #[cfg(feature = "metrics")] registry: Option<&mut Registry>,
) -> Result<Swarm<Behaviour>, Error> {
    let setup = |what: &str, error: &dyn std::fmt::Display| Error::Setup(format!("{what}: {error}"));
    let builder = SwarmBuilder::with_existing_identity(identity.keypair().clone())
        .with_tokio()
        .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(|error| setup("set noise up", &error))?
        .with_quic_config(|mut config| {
            config.handshake_timeout = if role == Role::Worker { QUIC_HANDSHAKE_WORKER } else { QUIC_HANDSHAKE };
            config.keep_alive_interval = QUIC_KEEP_ALIVE;
            config.max_idle_timeout = QUIC_IDLE_MS;
            config
        });
    let idle = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(IDLE);
    if footprint == Footprint::Light {
        let built = builder.with_behaviour(|_| behaviour).map_err(never)?;
        return Ok(built.with_swarm_config(idle).with_connection_timeout(DIAL_TIMEOUT).build());
    }
    let builder = builder.with_dns().map_err(|error| setup("read the system's DNS settings", &error))?;
    #[cfg(feature = "metrics")]
    if let Some(registry) = registry {
        let built = builder.with_bandwidth_metrics(registry);
        let built = built.with_behaviour(|_| behaviour).map_err(never)?;
        return Ok(built.with_swarm_config(idle).with_connection_timeout(DIAL_TIMEOUT).build());
    }
    let built = builder.with_behaviour(|_| behaviour).map_err(never)?;
    Ok(built.with_swarm_config(idle).with_connection_timeout(DIAL_TIMEOUT).build())
}

fn never(error: Infallible) -> Error {
    match error {}
}
