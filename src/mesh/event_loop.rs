//! The one task that owns the swarm.
//!
//! Nothing in here waits or computes: it moves events to where they are handled
//! and commands to the behaviours. Requests do not come through here, only the
//! opening of their streams does.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use libp2p::Multiaddr;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, Swarm, SwarmEvent};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::admission::Gate;
use super::behaviour::{Behaviour, BehaviourEvent};
use super::gossip::{Gossip, Judged, Topics};
use super::identity::{from_libp2p, to_libp2p};
use super::on_gossip::Unsent;
use super::peers::Book;
use super::shared::{Shared, count};
use super::streams::{Open, OpenError};
use super::{Audience, Options, Role, Topic};
use crate::clock;
use crate::domain::PeerId;

/// How often redials, retries and snapshots are looked at.
const TICK: Duration = Duration::from_millis(50);
pub(super) const TICK_LIGHT: Duration = Duration::from_millis(250);

/// How often scores are copied and lost members looked for.
const SLOW_TICK: Duration = Duration::from_secs(1);

const LOOK_FOR_MEMBERS: Duration = Duration::from_secs(30);

/// A peer that offended too often is not talked to for so long.
const BLOCK: Duration = Duration::from_secs(60);

/// Peers blocked at once. Beyond this the one blocked first is let in again.
const BLOCKED_MAX: usize = 10_000;

/// A peer that dialled us and did nothing with it for so long makes room when there is none.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Time for farewells when we stop.
const FAREWELL: Duration = Duration::from_millis(300);

/// Gossip's opinion of a member, times ten, before it has done anything.
pub(super) const MEMBER_SCORE: f64 = 10.0;

#[derive(Debug)]
pub(super) enum Command {
    Open(Open),
    Keep(Vec<(PeerId, Multiaddr)>),
    /// Where peers are said to be.
    Learn(Vec<(PeerId, Multiaddr)>),
    /// [`Shared::members`] has changed.
    Members,
    Block(PeerId),
    /// The peer's process has run for so long only.
    Reborn(PeerId, Duration),
}

/// A message to be published.
pub(super) struct Outgoing {
    pub topic: Topic,
    pub audience: Audience,
    pub body: Bytes,
}

/// The queues the loop reads.
pub(super) struct Inputs {
    pub commands: mpsc::Receiver<Command>,
    pub publishes: mpsc::Receiver<Outgoing>,
    pub judged: mpsc::Receiver<Judged>,
}

pub(super) struct EventLoop {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) shared: Arc<Shared>,
    pub(super) book: Book,
    pub(super) network: String,
    max_connections: u32,
    pub(super) topics: Topics,
    pub(super) gate: Gate,
    pub(super) gossip: mpsc::Sender<Gossip>,
    pub(super) verdicts: mpsc::Sender<Judged>,
    waiting: HashMap<PeerId, Vec<Open>>,
    pub(super) unsent: VecDeque<Unsent>,
    blocked: VecDeque<(PeerId, Instant)>,
    kept: usize,
    members: BTreeSet<PeerId>,
    slow_at: Instant,
    looked_at: Instant,
    pub(super) tick: Duration,
    #[cfg(feature = "metrics")]
    pub(super) recorder: Option<libp2p::metrics::Metrics>,
}

impl EventLoop {
    pub fn new(
        swarm: Swarm<Behaviour>,
        shared: Arc<Shared>,
        options: &Options,
        topics: Topics,
        gossip: mpsc::Sender<Gossip>,
        verdicts: mpsc::Sender<Judged>,
    ) -> Self {
        let (me, now) = (shared.me, clock::instant());
        Self {
            swarm,
            shared,
            book: Book::new(me),
            network: options.network.clone(),
            max_connections: options.max_connections,
            topics,
            gate: Gate::default(),
            gossip,
            verdicts,
            waiting: HashMap::new(),
            unsent: VecDeque::new(),
            blocked: VecDeque::new(),
            kept: 0,
            members: BTreeSet::new(),
            slow_at: now,
            looked_at: now,
            tick: TICK,
            #[cfg(feature = "metrics")]
            recorder: None,
        }
    }

    pub async fn run(mut self, mut inputs: Inputs, token: CancellationToken) {
        self.on_members();
        let mut tick = interval(self.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(command) = inputs.commands.recv() => self.on_command(command),
                Some(message) = inputs.publishes.recv() => self.publish(message, 0),
                Some(judged) = inputs.judged.recv() => self.on_judged(judged),
                _ = tick.tick() => self.on_tick(clock::instant()),
            }
        }
        self.close().await;
    }

    /// Tells the peers, so that they need not find out.
    async fn close(mut self) {
        let connected: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let farewell = async {
            while self.swarm.network_info().num_peers() > 0 {
                let event = self.swarm.select_next_some().await;
                self.on_event(event);
            }
        };
        let _ = timeout(FAREWELL, farewell).await;
    }

    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        #[cfg(feature = "metrics")]
        self.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(&peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_disconnected(&peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => self.on_dial_error(&peer, &error),
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address),
            SwarmEvent::ExpiredListenAddr { .. } => self.show_listening(),
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "listener failed"),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => warn!(?addresses, ?reason, "listener closed"),
            _ => {}
        }
    }

    #[cfg(feature = "metrics")]
    fn record(&self, event: &SwarmEvent<BehaviourEvent>) {
        use libp2p::metrics::Recorder as _;
        let Some(recorder) = &self.recorder else { return };
        recorder.record(event);
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => recorder.record(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => recorder.record(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => recorder.record(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => recorder.record(event),
            _ => {}
        }
    }

    fn on_listening(&mut self, address: &Multiaddr) {
        info!(%address, "listening");
        self.show_listening();
    }

    pub(super) fn show_listening(&self) {
        let me = self.shared.me;
        let addresses = self.swarm.listeners().map(|address| super::peers::with_peer(address, me));
        self.shared.set_listening(addresses.collect());
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Open(open) => self.on_open(open),
            Command::Keep(addresses) => self.on_keep(addresses),
            Command::Learn(addresses) => {
                for (peer, address) in addresses {
                    self.book.learn(peer, address);
                    self.show_addresses(peer);
                }
            }
            Command::Members => self.on_members(),
            Command::Block(peer) => self.block(peer),
            Command::Reborn(peer, uptime) => self.close_older(peer, uptime),
        }
    }

    /// Opens a stream, after a dial if need be.
    fn on_open(&mut self, open: Open) {
        let peer = open.peer;
        if self.shared.is_connected(peer) {
            self.swarm.behaviour_mut().streams.open(open);
            return;
        }
        let under_way = self.book.is_dialling(peer) && self.book.failures(peer) == 0;
        if under_way || (self.book.may_dial(peer, clock::instant()) && self.dial(peer)) {
            let waiting = self.waiting.entry(peer).or_default();
            waiting.retain(|open| !open.reply.is_closed());
            waiting.push(open);
        } else {
            let _ = open.reply.send(Err(OpenError::NotConnected));
        }
    }

    /// Starts a dial; false if there can be none.
    pub(super) fn dial(&mut self, peer: PeerId) -> bool {
        let addresses = self.book.addresses(peer).to_vec();
        let options =
            DialOpts::peer_id(to_libp2p(peer)).addresses(addresses).condition(PeerCondition::DisconnectedAndNotDialing);
        let options = match self.shared.role {
            // A port of its own: with the listener's, two that dial each other at once can meet in one broken connection.
            Role::Coordinator => options.allocate_new_port(),
            // Nobody dials a worker. One socket for all of its connections: each takes megabytes for what it may receive.
            Role::Worker => options,
        };
        match self.swarm.dial(options.build()) {
            // Somebody else's dial, whose end we shall hear of as well.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {
                self.book.dialling(peer, clock::instant());
                true
            }
            Err(error) => {
                debug!(%peer, %error, "dial refused");
                self.book.failed(peer, clock::instant(), rand::random());
                false
            }
        }
    }

    fn on_dial_error(&mut self, peer: &libp2p::PeerId, error: &DialError) {
        let Some(peer) = from_libp2p(peer) else { return };
        if matches!(error, DialError::DialPeerConditionFalse(_)) || self.shared.is_connected(peer) {
            return;
        }
        count(&self.shared.dials_failed, 1);
        self.book.failed(peer, clock::instant(), rand::random());
        if let DialError::WrongPeerId { obtained, address } = error {
            warn!(expected = %peer, %obtained, %address, "another peer answers at this address");
        } else {
            debug!(%peer, %error, "dial failed");
        }
        self.fail_waiting(peer);
    }

    fn fail_waiting(&mut self, peer: PeerId) {
        for open in self.waiting.remove(&peer).unwrap_or_default() {
            let _ = open.reply.send(Err(OpenError::NotConnected));
        }
    }

    pub(super) fn open_waiting(&mut self, peer: PeerId) {
        for open in self.waiting.remove(&peer).unwrap_or_default() {
            self.swarm.behaviour_mut().streams.open(open);
        }
    }

    fn on_keep(&mut self, addresses: Vec<(PeerId, Multiaddr)>) {
        for (peer, address) in addresses {
            if peer == self.shared.me || self.book.addresses(peer).contains(&address) && self.shared.is_persistent(peer)
            {
                continue;
            }
            if self.kept >= super::KEEP_MAX {
                debug!(%peer, %address, "address not kept: too many");
                continue;
            }
            self.kept += 1;
            self.add_persistent(peer, address);
        }
    }

    pub(super) fn add_persistent(&mut self, peer: PeerId, address: Multiaddr) {
        if peer == self.shared.me {
            return;
        }
        self.book.keep(peer, address);
        self.shared.add_persistent(peer);
        self.swarm.behaviour_mut().limits.bypass_peer_id(&to_libp2p(peer));
        self.show_addresses(peer);
    }

    pub(super) fn show_addresses(&self, peer: PeerId) {
        let addresses = self.book.addresses(peer).to_vec();
        self.shared.update(peer, |record| record.addresses = addresses);
    }

    /// Members are not counted against the limits, not blocked, and well spoken of.
    fn on_members(&mut self) {
        let members = self.shared.members();
        self.book.set_members(members.iter());
        let former = std::mem::replace(&mut self.members, (*members).clone());
        for peer in former.difference(&members) {
            if !self.shared.is_persistent(*peer) {
                self.swarm.behaviour_mut().limits.remove_peer_id(&to_libp2p(*peer));
            }
            self.set_score(*peer, 0.0);
        }
        for peer in members.iter() {
            self.swarm.behaviour_mut().limits.bypass_peer_id(&to_libp2p(*peer));
            self.set_score(*peer, MEMBER_SCORE);
            self.unblock(*peer);
        }
    }

    pub(super) fn is_member(&self, peer: PeerId) -> bool {
        self.members.contains(&peer)
    }

    pub(super) fn set_score(&mut self, peer: PeerId, score: f64) {
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            gossip.set_application_score(&to_libp2p(peer), score);
        }
    }

    pub(super) fn block(&mut self, peer: PeerId) {
        if self.shared.is_member(peer) || self.blocked.iter().any(|(blocked, _)| *blocked == peer) {
            return;
        }
        if self.blocked.len() >= BLOCKED_MAX
            && let Some((first, _)) = self.blocked.front().copied()
        {
            self.unblock(first);
        }
        warn!(%peer, seconds = BLOCK.as_secs(), "peer blocked for its offences");
        self.swarm.behaviour_mut().blocked.block_peer(to_libp2p(peer));
        self.shared.forgive(peer);
        self.blocked.push_back((peer, clock::instant() + BLOCK));
    }

    fn unblock(&mut self, peer: PeerId) {
        if self.swarm.behaviour_mut().blocked.unblock_peer(to_libp2p(peer)) {
            info!(%peer, "peer let in again");
            self.blocked.retain(|(blocked, _)| *blocked != peer);
            self.shared.forgive(peer);
        }
    }

    pub(super) fn offend(&mut self, peer: PeerId, reason: &'static str) {
        if self.shared.offend(peer, reason) {
            self.block(peer);
        }
    }

    fn on_tick(&mut self, now: Instant) {
        for peer in self.book.due(now) {
            self.dial(peer);
        }
        while let Some((peer, _)) = self.blocked.front().filter(|(_, until)| *until <= now).copied() {
            self.unblock(peer);
        }
        self.publish_unsent(now);
        if now.saturating_duration_since(self.slow_at) >= SLOW_TICK {
            self.slow_at = now;
            self.copy_scores();
            self.make_room(now);
            self.waiting.retain(|_, waiting| waiting.iter().any(|open| !open.reply.is_closed()));
        }
        if now.saturating_duration_since(self.looked_at) >= LOOK_FOR_MEMBERS {
            self.looked_at = now;
            self.look_for_members();
        }
    }

    /// When there are as many connections as there may be, those nobody uses end.
    fn make_room(&mut self, now: Instant) {
        if self.swarm.network_info().connection_counters().num_established() < self.max_connections {
            return;
        }
        for peer in self.shared.idlers(now, IDLE_MAX) {
            debug!(%peer, "does nothing with its connection, disconnected");
            let _ = self.swarm.disconnect_peer_id(to_libp2p(peer));
        }
    }
}
