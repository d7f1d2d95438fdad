//! Raw streams for the lanes: a libp2p behaviour that opens one on demand and
//! hands over those that peers open.
//!
//! It differs from `libp2p-stream` in what matters here: a stream goes over the
//! newest connection to the peer (an old one may be dead without our knowing),
//! inbound streams wait in a queue instead of in one slot, a peer that is not
//! connected is an answer instead of a hidden dial, and nothing outlives its
//! connection. There is no I/O on streams in here.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::Lane;
use super::identity::{from_libp2p, to_libp2p};
use crate::domain::PeerId;

/// Negotiating a stream takes one round trip; longer than this the connection is of no use.
const NEGOTIATION: Duration = Duration::from_secs(3);

/// A stream that a peer opened.
pub(super) struct Inbound {
    pub peer: PeerId,
    pub lane: Lane,
    pub stream: Stream,
}

/// Asks for a stream to a peer.
#[derive(Debug)]
pub(super) struct Open {
    pub peer: PeerId,
    pub lane: Lane,
    pub reply: Opened,
}

pub(super) type Opened = oneshot::Sender<Result<Stream, OpenError>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    NotConnected,
    /// The peer does not serve this lane.
    Unsupported,
    Broken,
}

/// The protocol name of each lane we serve.
pub(super) type Protocols = Arc<[(StreamProtocol, Lane)]>;

pub(super) struct Behaviour {
    names: HashMap<Lane, StreamProtocol>,
    served: Protocols,
    accepted: mpsc::Sender<Inbound>,
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    events: VecDeque<ToSwarm<Infallible, Ask>>,
}

/// A request to one connection's handler.
#[derive(Debug)]
pub(super) struct Ask {
    protocol: StreamProtocol,
    reply: Opened,
}

impl Behaviour {
    pub fn new(names: HashMap<Lane, StreamProtocol>, served: Protocols, accepted: mpsc::Sender<Inbound>) -> Self {
        Self { names, served, accepted, connections: HashMap::new(), events: VecDeque::new() }
    }

    /// Opens a stream on the newest connection to the peer. The reply channel
    /// closes without an answer if that connection ends first.
    pub fn open(&mut self, open: Open) {
        let newest = self.connections.get(&open.peer).and_then(|connections| connections.last());
        let (Some(connection), Some(protocol)) = (newest, self.names.get(&open.lane)) else {
            let _ = open.reply.send(Err(OpenError::NotConnected));
            return;
        };
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id: to_libp2p(open.peer),
            handler: NotifyHandler::One(*connection),
            event: Ask { protocol: protocol.clone(), reply: open.reply },
        });
    }

    fn handler(&self, peer: &libp2p::PeerId) -> Result<Handler, ConnectionDenied> {
        let peer = from_libp2p(peer).ok_or_else(|| ConnectionDenied::new(NotEd25519))?;
        Ok(Handler { peer, served: self.served.clone(), accepted: self.accepted.clone(), asked: VecDeque::new() })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("peer id is not an ed25519 key")]
struct NotEd25519;

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: libp2p::PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(&peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: libp2p::PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(&peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                if let Some(peer) = from_libp2p(&peer_id) {
                    self.connections.entry(peer).or_default().push(connection_id);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                let Some(peer) = from_libp2p(&peer_id) else { return };
                let Some(connections) = self.connections.get_mut(&peer) else { return };
                connections.retain(|id| *id != connection_id);
                if connections.is_empty() {
                    self.connections.remove(&peer);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: libp2p::PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's part.
pub(super) struct Handler {
    peer: PeerId,
    served: Protocols,
    accepted: mpsc::Sender<Inbound>,
    asked: VecDeque<Ask>,
}

impl Handler {
    fn accept(&self, stream: Stream, protocol: &StreamProtocol) {
        let Some((_, lane)) = self.served.iter().find(|(name, _)| name == protocol) else { return };
        if self.accepted.try_send(Inbound { peer: self.peer, lane: *lane, stream }).is_err() {
            debug!(peer = %self.peer, lane = lane.name(), "inbound stream dropped: too many wait");
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Ask;
    type ToBehaviour = Infallible;
    type InboundProtocol = Negotiate;
    type OutboundProtocol = Negotiate;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opened;

    fn listen_protocol(&self) -> SubstreamProtocol<Negotiate> {
        let names = self.served.iter().map(|(name, _)| name.clone()).collect();
        SubstreamProtocol::new(Negotiate { names }, ()).with_timeout(NEGOTIATION)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Negotiate, Opened, Infallible>> {
        while let Some(Ask { protocol, reply }) = self.asked.pop_front() {
            if reply.is_closed() {
                continue;
            }
            let protocol = SubstreamProtocol::new(Negotiate { names: vec![protocol] }, reply).with_timeout(NEGOTIATION);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, ask: Ask) {
        self.asked.push_back(ask);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Negotiate, Negotiate, (), Opened>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => {
                self.accept(stream, &protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: reply,
            }) => {
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: reply }) => {
                let _ = reply.send(Err(match error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    _ => OpenError::Broken,
                }));
            }
            _ => {}
        }
    }
}

/// Agrees on a protocol name and hands the stream over as it is.
pub(super) struct Negotiate {
    names: Vec<StreamProtocol>,
}

impl UpgradeInfo for Negotiate {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.names.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Negotiate {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Negotiate {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}
