//! Starting the mesh, and talking to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
#[cfg(feature = "metrics")]
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::behaviour;
use super::event_loop::{Command, EventLoop, Inputs, Outgoing, TICK_LIGHT};
use super::gossip::{BODY_MAX, Gossip, Topics};
use super::identity::to_libp2p;
use super::inbound::{Acceptor, INBOX_QUEUE, Request, queues};
use super::outbound::Lanes;
use super::peers::{parse, parse_persistent};
use super::shared::Shared;
use super::{Audience, Error, Footprint, Identity, Lane, Options, PeerView, Stats, Topic};
use crate::domain::{NodeId, PeerId};
use crate::tasks::Tasks;
#[cfg(feature = "metrics")]
use crate::telemetry::metrics;

/// Commands to the event loop. Beyond this whoever opens a stream waits.
const COMMANDS: usize = 1_024;

/// Messages to be published. Beyond this [`Error::Busy`].
const PUBLISHES: usize = 1_024;

/// Gossip that waits for the reader of the inbox. Beyond this it is ignored and counted.
const GOSSIP_QUEUE: usize = 4_096;

/// Verdicts on their way back. Beyond this a message is not passed on.
const VERDICTS: usize = 8_192;

/// Streams that peers opened and that wait for the acceptor. Beyond this they are dropped.
const ACCEPTED: usize = 1_024;

/// Binding takes no time; resolving what port 0 became is one event.
const BIND_TIMEOUT: Duration = Duration::from_secs(5);

/// Talks to the mesh. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    lanes: Lanes,
    commands: mpsc::Sender<Command>,
    publishes: mpsc::Sender<Outgoing>,
    gossip: bool,
    tasks: Tasks,
}

/// What comes in from the mesh. One reader.
pub struct Inbox {
    pub requests: mpsc::Receiver<Request>,
    pub gossip: mpsc::Receiver<Gossip>,
}

/// Binds the sockets and starts the mesh's tasks under `tasks`.
///
/// # Errors
///
/// A listen address that cannot be bound, naming it; an unusable multiaddr.
pub async fn start(identity: Identity, options: Options, tasks: &Tasks) -> Result<(Handle, Inbox), Error> {
    let plan = Plan::check(&options)?;
    let parts = Parts::build(
        &identity,
        &options,
        Footprint::Own,
        #[cfg(feature = "metrics")]
        None,
    )?;
    parts.start(options, plan, tasks).await
}

/// As [`start`], for one of many in this process: coordinators must be named by IP address, and a lost one is
/// noticed later.
///
/// # Errors
///
/// As [`start`].
pub async fn start_light(identity: Identity, options: Options, tasks: &Tasks) -> Result<(Handle, Inbox), Error> {
    let plan = Plan::check(&options)?;
    let parts = Parts::build(
        &identity,
        &options,
        Footprint::Light,
        #[cfg(feature = "metrics")]
        None,
    )?;
    parts.start(options, plan, tasks).await
}

/// As [`start`], with libp2p's own metrics in the process's registry. Once per
/// process: a second mesh would register the same names again.
///
/// # Errors
///
/// As [`start`].
#[cfg(feature = "metrics")]
pub async fn start_with_metrics(identity: Identity, options: Options, tasks: &Tasks) -> Result<(Handle, Inbox), Error> {
    let plan = Plan::check(&options)?;
    let parts = metrics::with_registry(|registry| Parts::build(&identity, &options, Footprint::Own, Some(registry)))?;
    parts.start(options, plan, tasks).await
}

/// The addresses of the options, understood.
struct Plan {
    listen: Vec<Multiaddr>,
    external: Vec<Multiaddr>,
    persistent: Vec<(Multiaddr, PeerId)>,
}

impl Plan {
    fn check(options: &Options) -> Result<Self, Error> {
        let name = &options.network;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(Error::Setup(format!(
                "network name {name:?}: expected 1 to 64 letters, digits, '-', '_' or '.'"
            )));
        }
        let plain = |text: &String| parse(text).map(|(address, _)| address);
        Ok(Self {
            listen: options.listen.iter().map(plain).collect::<Result<_, _>>()?,
            external: options.external.iter().map(plain).collect::<Result<_, _>>()?,
            persistent: options.persistent.iter().map(|text| parse_persistent(text)).collect::<Result<_, _>>()?,
        })
    }
}

/// Everything made before anything runs.
struct Parts {
    shared: Arc<Shared>,
    event_loop: EventLoop,
    commands: mpsc::Sender<Command>,
    publishes: mpsc::Sender<Outgoing>,
    inputs: Inputs,
    accepted: mpsc::Receiver<super::streams::Inbound>,
    gossip: mpsc::Receiver<Gossip>,
}

impl Parts {
    fn build(
        identity: &Identity,
        options: &Options,
        footprint: Footprint,
        #[cfg(feature = "metrics")] mut registry: Option<&mut Registry>,
    ) -> Result<Self, Error> {
        let topics = Topics::new(&options.network);
        let shared = Arc::new(Shared::new(identity.id(), options.role, options.max_frame, options.members.clone()));
        let (commands, commands_in) = mpsc::channel(COMMANDS);
        let (publishes, publishes_in) = mpsc::channel(PUBLISHES);
        let (verdicts, judged) = mpsc::channel(VERDICTS);
        let (gossip_out, gossip) = mpsc::channel(GOSSIP_QUEUE);
        let (accepting, accepted) = mpsc::channel(ACCEPTED);
        let behaviour = behaviour::behaviour(
            identity,
            options,
            &topics,
            footprint,
            shared.clone(),
            accepting,
            #[cfg(feature = "metrics")]
            registry.as_deref_mut(),
        )?;
        let swarm = behaviour::swarm(
            identity,
            behaviour,
            options.role,
            footprint,
            #[cfg(feature = "metrics")]
            registry.as_deref_mut(),
        )?;
        let mut event_loop = EventLoop::new(swarm, shared.clone(), options, topics, gossip_out, verdicts);
        if footprint == Footprint::Light {
            event_loop.tick = TICK_LIGHT;
        }
        #[cfg(feature = "metrics")]
        if let Some(registry) = registry {
            event_loop.recorder = Some(libp2p::metrics::Metrics::new(registry));
        }
        let inputs = Inputs { commands: commands_in, publishes: publishes_in, judged };
        Ok(Self { shared, event_loop, commands, publishes, inputs, accepted, gossip })
    }

    async fn start(mut self, options: Options, plan: Plan, tasks: &Tasks) -> Result<(Handle, Inbox), Error> {
        for address in plan.external {
            self.event_loop.swarm.add_external_address(address);
        }
        for (address, peer) in plan.persistent {
            self.event_loop.add_persistent(peer, address);
        }
        bind(&mut self.event_loop, &plan.listen).await?;
        let (inbox, requests) = mpsc::channel(INBOX_QUEUE);
        let acceptor = Acceptor {
            shared: self.shared.clone(),
            commands: self.commands.clone(),
            tasks: tasks.clone(),
            queues: queues(tasks, inbox),
            open: HashMap::new(),
        };
        tasks.spawn_until_stopped("mesh-accept", acceptor.run(self.accepted));
        tasks.spawn("mesh", self.event_loop.run(self.inputs, tasks.token().clone()));
        let handle = Handle {
            lanes: Lanes::new(self.shared.clone(), self.commands.clone(), tasks.clone()),
            shared: self.shared,
            commands: self.commands,
            publishes: self.publishes,
            gossip: options.gossip,
            tasks: tasks.clone(),
        };
        Ok((handle, Inbox { requests, gossip: self.gossip }))
    }
}

/// Listens on every address and waits until each is bound.
async fn bind(event_loop: &mut EventLoop, addresses: &[Multiaddr]) -> Result<(), Error> {
    let mut unbound: HashMap<ListenerId, &Multiaddr> = HashMap::new();
    for address in addresses {
        probe(address)?;
        let id = event_loop.swarm.listen_on(address.clone()).map_err(|error| cannot_listen(address, &root(&error)))?;
        unbound.insert(id, address);
    }
    while let Some(waiting) = unbound.values().next().copied() {
        let event = timeout(BIND_TIMEOUT, event_loop.swarm.select_next_some());
        let event = event.await.map_err(|_| cannot_listen(waiting, &"not bound in time"))?;
        match &event {
            SwarmEvent::NewListenAddr { listener_id, .. } => drop(unbound.remove(listener_id)),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(address) = unbound.get(listener_id) {
                    return Err(cannot_listen(address, &format!("{reason:?}")));
                }
            }
            _ => {}
        }
        event_loop.on_event(event);
    }
    Ok(())
}

/// libp2p shares TCP ports, so a second node on a taken port would start and
/// get some of the first one's connections. Binding without sharing tells.
fn probe(address: &Multiaddr) -> Result<(), Error> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => std::net::IpAddr::from(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => {
            TcpListener::bind((ip, port)).map(drop).map_err(|error| cannot_listen(address, &error))
        }
        _ => Ok(()),
    }
}

fn cannot_listen(address: &Multiaddr, error: &dyn std::fmt::Display) -> Error {
    Error::Setup(format!("listen on {address}: {error}"))
}

/// The innermost cause: libp2p's own layers say nothing.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl Handle {
    pub fn id(&self) -> PeerId {
        self.shared.me
    }

    /// Sends `body` and waits for the answer, at most `timeout`. Opens the
    /// stream if need be; if the peer is not connected, dials it once.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] and [`Error::TooLarge`] if nothing was sent,
    /// [`Error::Refused`] if the peer did nothing, [`Error::Timeout`] and
    /// [`Error::Lost`] if we cannot know.
    pub async fn request(&self, peer: PeerId, lane: Lane, body: Bytes, timeout: Duration) -> Result<Bytes, Error> {
        self.lanes.request(peer, lane, body, timeout).await
    }

    /// Signs and publishes. [`Error::Busy`] when the queue is full: the caller drops it or tries later.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::TooLarge`] over 64 KiB, [`Error::Setup`] if gossip is switched off.
    pub fn publish(&self, topic: Topic, body: Bytes) -> Result<(), Error> {
        self.publish_to(topic, Audience::Everyone, body)
    }

    /// As [`Self::publish`], for some only. A group that nobody is in is not waited for.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`].
    pub fn publish_to(&self, topic: Topic, audience: Audience, body: Bytes) -> Result<(), Error> {
        if !self.gossip {
            return Err(Error::Setup("gossip is switched off".to_owned()));
        }
        if body.len() > BODY_MAX {
            return Err(Error::TooLarge { size: body.len(), limit: BODY_MAX });
        }
        self.publishes.try_send(Outgoing { topic, audience, body }).map_err(|_| Error::Busy)
    }

    /// Replaces who may use the member lanes.
    pub fn set_members(&self, members: BTreeSet<NodeId>) {
        self.shared.set_members(members);
        self.tell(Command::Members);
    }

    /// Who may use the member lanes.
    pub fn members(&self) -> Arc<BTreeSet<NodeId>> {
        self.shared.members()
    }

    /// Adds addresses to dial and keep (a worker learns more coordinators than it was told).
    /// Ones we cannot use are left out; so are those beyond [`super::KEEP_MAX`].
    pub fn keep(&self, addresses: Vec<String>) {
        let mut wanted = HashSet::new();
        for text in addresses.iter().take(super::KEEP_MAX) {
            match parse_persistent(text) {
                Ok((address, peer)) => drop(wanted.insert((peer, address))),
                Err(error) => debug!(%error, "address not kept"),
            }
        }
        if !wanted.is_empty() {
            self.tell(Command::Keep(wanted.into_iter().collect()));
        }
    }

    /// Notes where peers are said to be: hints, of which the newest few are kept. Ones we cannot use are left out.
    pub fn learn(&self, addresses: &[(PeerId, String)]) {
        let mut hints = Vec::new();
        for (peer, text) in addresses.iter().take(super::KEEP_MAX).filter(|(peer, _)| *peer != self.shared.me) {
            match parse_persistent(text) {
                Ok((address, named)) if named == *peer => hints.push((*peer, address)),
                Ok(_) => debug!(%peer, address = text, "address of another peer not learned"),
                Err(error) => debug!(%error, "address not learned"),
            }
        }
        if !hints.is_empty() {
            self.tell(Command::Learn(hints));
        }
    }

    /// Notes that a peer sent something it must not have; enough of it closes the connection for a while.
    pub fn penalise(&self, peer: PeerId, reason: &'static str) {
        if self.shared.offend(peer, reason) {
            // If the loop is too busy to hear it, the next offence says it again.
            let _ = self.commands.try_send(Command::Block(peer));
        }
    }

    /// Notes that a peer's process has run for `uptime` only: what connects us to an earlier one is closed.
    pub fn reborn(&self, peer: PeerId, uptime: Duration) {
        // If the loop is too busy to hear it, the connection ends when it has been silent for long enough.
        let _ = self.commands.try_send(Command::Reborn(peer, uptime));
    }

    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.shared.is_connected(peer)
    }

    /// The last round trip to a peer that is connected.
    pub fn rtt_us(&self, peer: PeerId) -> Option<u32> {
        self.shared.rtt_us(peer)
    }

    pub fn peers(&self) -> Vec<PeerView> {
        self.shared.views()
    }

    pub fn peers_connected(&self) -> u32 {
        self.shared.peers_connected()
    }

    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Actual listen addresses with `/p2p/…`, after port 0 was resolved.
    pub fn addresses(&self) -> Vec<String> {
        self.shared.listening()
    }

    /// Sends a command that must arrive, waiting in the background if the queue is full.
    fn tell(&self, command: Command) {
        match self.commands.try_send(command) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(command)) => {
                let commands = self.commands.clone();
                self.tasks.spawn_until_stopped("mesh-command", async move {
                    let _ = commands.send(command).await;
                });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => warn!(peer = %to_libp2p(self.shared.me), "mesh has stopped"),
        }
    }
}
