//! What the event loop does with the behaviours' events and with connections.

use std::time::Duration;

use libp2p::core::ConnectedPoint;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{identify, kad, mdns, ping};
use tracing::{debug, warn};

use super::admission::Admission;
use super::agent;
use super::behaviour::{BehaviourEvent, network_protocol};
use super::event_loop::{EventLoop, MEMBER_SCORE};
use super::gossip::{Gossip, Judged, Verdict};
use super::identity::{from_libp2p, to_libp2p};
use super::peers;
use super::shared::{Link, count};
use crate::clock;
use crate::domain::PeerId;

/// A connection this old cannot be the other half of a simultaneous dial.
const NOT_SIMULTANEOUS: Duration = Duration::from_secs(3);

/// A message that says how long a peer's process has run may have been under way for so long.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Addresses taken over from one peer's description of itself.
const LISTEN_ADDRESSES_MAX: usize = 8;

/// Protocol names shown per peer, and their longest total, in bytes.
const PROTOCOLS_MAX: usize = 32;
const TEXT_MAX: usize = 128;

impl EventLoop {
    pub(super) fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.on_gossip(propagation_source, message_id, message);
            }
            BehaviourEvent::Gossip(gossipsub::Event::SlowPeer { peer_id, .. }) => {
                debug!(peer = %peer_id, "peer takes gossip too slowly");
            }
            BehaviourEvent::Ping(event) => self.on_ping(&event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                self.on_identified(&peer_id, connection_id, info);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.on_discovered(found),
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            }) => self.on_found(found),
            _ => {}
        }
    }

    pub(super) fn on_connected(&mut self, peer: &libp2p::PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(peer) = from_libp2p(peer) else { return };
        let now = clock::instant();
        let transport = peers::transport(endpoint.get_remote_address()).unwrap_or("tcp");
        let remote = endpoint.get_remote_address().clone();
        let inbound = endpoint.is_listener();
        let link = Link { id, since: clock::now(), established: now, inbound, transport, remote, life: None };
        debug!(%peer, inbound = link.inbound, transport, "connected");
        // A peer dials only when it has no connection: what we still have of an earlier one is dead. The peer has
        // forgotten us with it, while gossip greets a peer on its first connection only. So both sides begin anew.
        let reborn = self.shared.update(peer, |record| {
            let old = |known: &Link| now.saturating_duration_since(known.established) > NOT_SIMULTANEOUS;
            let reborn = link.inbound && record.links.iter().any(old);
            record.links.push(link.clone());
            reborn
        });
        if reborn == Some(true) {
            debug!(%peer, "had a connection of an earlier life, disconnected");
            let _ = self.swarm.disconnect_peer_id(to_libp2p(peer));
            return;
        }
        self.book.connected(peer, now);
        if self.is_member(peer) {
            self.set_score(peer, MEMBER_SCORE);
        }
        self.open_waiting(peer);
    }

    pub(super) fn on_disconnected(&mut self, peer: &libp2p::PeerId, id: ConnectionId) {
        let Some(peer) = from_libp2p(peer) else { return };
        let gone = self.shared.update(peer, |record| {
            record.links.retain(|link| link.id != id);
            if record.links.is_empty() {
                record.rtt_us = None;
            }
            record.links.is_empty()
        });
        if gone == Some(true) {
            self.book.disconnected(peer, clock::instant(), rand::random());
        }
    }

    /// Closes connections to a peer that are older than its process: QUIC would take them for alive for seconds. A
    /// dial that is older has met nobody, and would only try again seconds later: it begins anew.
    pub(super) fn close_older(&mut self, peer: PeerId, uptime: Duration) {
        let (now, oldest) = (clock::instant(), uptime + UNDER_WAY);
        let dead = |link: &&Link| now.saturating_duration_since(link.established) > oldest;
        let dead = self.shared.update(peer, |record| record.links.iter().filter(dead).map(|link| link.id).collect());
        let dead: Vec<ConnectionId> = dead.unwrap_or_default();
        for connection in dead {
            debug!(%peer, "peer has a new life, connection closed");
            self.swarm.close_connection(connection);
        }
        if !self.shared.is_connected(peer) && self.book.dialling_for(peer, now).is_some_and(|since| since > uptime) {
            debug!(%peer, "peer has a new life, dial begins anew");
            let _ = self.swarm.disconnect_peer_id(to_libp2p(peer));
        }
    }

    fn on_ping(&mut self, event: &ping::Event) {
        let Some(peer) = from_libp2p(&event.peer) else { return };
        match &event.result {
            Ok(rtt) => {
                let rtt = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
                self.shared.update(peer, |record| record.rtt_us = Some(rtt));
            }
            Err(ping::Failure::Unsupported) => debug!(%peer, "peer does not answer pings"),
            // No answer, or no stream to ask on: the connection is dead, and new streams would be opened on it.
            Err(error) => {
                debug!(%peer, %error, "ping failed, connection closed");
                self.swarm.close_connection(event.connection);
            }
        }
    }

    fn on_identified(&mut self, remote: &libp2p::PeerId, id: ConnectionId, info: identify::Info) {
        let Some(peer) = from_libp2p(remote) else { return };
        if info.protocol_version != network_protocol(&self.network) {
            let protocol = clip(&info.protocol_version);
            if self.shared.is_persistent(peer) {
                warn!(%peer, %protocol, "peer is of another network, disconnected");
            } else {
                debug!(%peer, %protocol, "peer is of another network, disconnected");
            }
            let _ = self.swarm.disconnect_peer_id(*remote);
            return;
        }
        let (agent, life) = agent::parse(&info.agent_version);
        if self.shared.update(peer, |record| record.outlives(id, life)) == Some(true) {
            debug!(%peer, "peer has a new life, disconnected");
            let _ = self.swarm.disconnect_peer_id(*remote);
            return;
        }
        let protocols: Vec<_> =
            info.protocols.iter().take(PROTOCOLS_MAX).map(|protocol| clip(protocol.as_ref())).collect();
        let routes = protocols.iter().any(|protocol| protocol.ends_with("/kad/1"));
        let from = self.shared.update(peer, |record| {
            record.agent = Some(clip(agent));
            record.protocols = protocols;
            record.links.last().map(|link| link.remote.clone())
        });
        let Some(from) = from.flatten() else { return };
        for mut address in info.listen_addrs.into_iter().take(LISTEN_ADDRESSES_MAX) {
            if let Some(Protocol::P2p(_)) = address.iter().last() {
                address.pop();
            }
            if !peers::plausible(&address, &from) {
                continue;
            }
            if routes && let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                kad.add_address(remote, address.clone());
            }
            self.book.learn(peer, address);
        }
        self.show_addresses(peer);
    }

    fn on_discovered(&mut self, found: Vec<(libp2p::PeerId, libp2p::Multiaddr)>) {
        for (remote, mut address) in found.into_iter().take(64) {
            let Some(peer) = from_libp2p(&remote) else { continue };
            if let Some(Protocol::P2p(_)) = address.iter().last() {
                address.pop();
            }
            if peers::transport(&address).is_none() {
                continue;
            }
            self.book.learn(peer, address);
            self.show_addresses(peer);
            if !self.shared.is_connected(peer) && self.book.may_dial(peer, clock::instant()) {
                self.dial(peer);
            }
        }
    }

    pub(super) fn look_for_members(&mut self) {
        let lost: Vec<_> = self.book.lost_members().collect();
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        for peer in lost {
            kad.get_closest_peers(to_libp2p(peer));
        }
    }

    /// Peers near a member we look for: the member itself may be among them.
    fn on_found(&mut self, found: kad::GetClosestPeersOk) {
        for info in found.peers {
            let Some(peer) = from_libp2p(&info.peer_id).filter(|peer| self.is_member(*peer)) else { continue };
            for address in info.addrs.into_iter().take(LISTEN_ADDRESSES_MAX) {
                if peers::transport(&address).is_some() {
                    self.book.learn(peer, address);
                }
            }
            self.show_addresses(peer);
        }
    }

    fn on_gossip(&mut self, from: libp2p::PeerId, id: MessageId, message: gossipsub::Message) {
        let source = message.source.as_ref().and_then(from_libp2p);
        let (Some(topic), Some(source)) = (self.topic(&message.topic), source) else {
            if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
                gossip.report_message_validation_result(&id, &from, MessageAcceptance::Reject);
            }
            return;
        };
        let counters = self.shared.topic(topic);
        count(&counters.messages_in, 1);
        count(&counters.bytes_in, message.data.len());
        match self.gate(topic, source, &from) {
            Admission::Pass => {}
            Admission::Forbidden => {
                self.on_judged(Judged { id, from, topic, acceptance: MessageAcceptance::Reject });
                return;
            }
            Admission::OverRate(culprit) => {
                // A coordinator that passes on too much of somebody else's is not to blame.
                if from_libp2p(&from) == Some(culprit) {
                    self.offend(culprit, "gossip_rate");
                }
                self.on_judged(Judged { id, from, topic, acceptance: MessageAcceptance::Ignore });
                return;
            }
        }
        let ignored = Judged { id: id.clone(), from, topic, acceptance: MessageAcceptance::Ignore };
        let handed_out = self.hand_out(|judged| Gossip {
            topic,
            source,
            body: message.data.into(),
            verdict: Verdict::new(judged, id, from, topic),
        });
        if handed_out {
            self.shared.note_useful(source);
        } else {
            count(&self.shared.topic(topic).dropped, 1);
            self.on_judged(ignored);
        }
    }
}

/// The beginning of a text that a peer chose.
fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}
