//! Pings: often between members, seldom to and from workers.
//!
//! A member that no longer answers must be noticed within seconds, since a
//! majority depends on it. Workers are a thousand times as many, and say by
//! their heartbeats that they live; of their pings only the round-trip time is
//! wanted. Who is a member is asked when a connection is made: one that becomes
//! a member later is pinged as seldom as before until it connects again.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, ping};

use super::Role;
use super::identity::from_libp2p;
use super::shared::Shared;

const MEMBERS_EVERY: Duration = Duration::from_secs(1);
const OTHERS_EVERY: Duration = Duration::from_secs(10);

/// Workers ping as well, so that over TCP they notice a coordinator that is gone.
const BY_WORKERS_EVERY: Duration = Duration::from_secs(15);

/// A peer that does not answer for so long is taken for dead.
const TIMEOUT: Duration = Duration::from_secs(4);

pub(super) struct Behaviour {
    shared: Arc<Shared>,
    /// Also collects the events of both.
    members: ping::Behaviour,
    others: ping::Behaviour,
}

impl Behaviour {
    pub fn new(shared: Arc<Shared>) -> Self {
        let every = |interval| ping::Behaviour::new(ping::Config::new().with_interval(interval).with_timeout(TIMEOUT));
        let others = if shared.role == Role::Worker { BY_WORKERS_EVERY } else { OTHERS_EVERY };
        Self { shared, members: every(MEMBERS_EVERY), others: every(others) }
    }

    fn of(&mut self, peer: &PeerId) -> &mut ping::Behaviour {
        let member = from_libp2p(peer).is_some_and(|peer| self.shared.is_member(peer));
        if member { &mut self.members } else { &mut self.others }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<ping::Behaviour>;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.of(&peer).handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.of(&peer).handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.members.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.members.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.members.poll(context)
    }
}
