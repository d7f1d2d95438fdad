//! Where peers are, and when to dial them.
//!
//! Persistent peers and members are dialled whenever there is no connection,
//! with exponential back-off and jitter. Others are dialled when a request asks
//! for them. This module decides; the event loop dials.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::Error;
use super::identity::{from_libp2p, to_libp2p};
use crate::domain::PeerId;

const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(5);

/// Members are needed for a majority, so we look for them more often.
const DELAY_MAX_MEMBER: Duration = Duration::from_secs(2);

/// A connection that lasted this long was a good one: the next failure starts the back-off anew.
const STABLE: Duration = Duration::from_secs(5);

/// A peer that just could not be reached is not dialled again for a request before this.
const REQUEST_PAUSE: Duration = Duration::from_millis(200);

/// Dials that failed before others are asked where a member is.
const LOST_AFTER: u32 = 4;

/// Addresses kept per peer. Beyond this the oldest learned one is forgotten.
const ADDRESSES_MAX: usize = 8;

/// Peers whose addresses we keep. Beyond this new ones are not noted.
const PEERS_MAX: usize = 10_000;

pub(super) struct Book {
    me: PeerId,
    entries: HashMap<PeerId, Entry>,
}

#[derive(Default)]
struct Entry {
    /// Configured addresses come first and are never forgotten.
    addresses: Vec<Multiaddr>,
    configured: usize,
    member: bool,
    dialling: Option<Instant>,
    connected_at: Option<Instant>,
    failures: u32,
    next: Option<Instant>,
    failed_at: Option<Instant>,
}

impl Entry {
    fn wanted(&self) -> bool {
        (self.configured > 0 || self.member) && !self.addresses.is_empty()
    }

    fn idle(&self) -> bool {
        self.connected_at.is_none() && self.dialling.is_none()
    }
}

impl Book {
    pub fn new(me: PeerId) -> Self {
        Self { me, entries: HashMap::new() }
    }

    /// Notes an address to dial and keep.
    pub fn keep(&mut self, peer: PeerId, address: Multiaddr) {
        let Some(entry) = self.entry(peer) else { return };
        match entry.addresses.iter().position(|known| *known == address) {
            Some(at) if at < entry.configured => return,
            Some(at) => drop(entry.addresses.remove(at)),
            None => {}
        }
        entry.addresses.insert(entry.configured, address);
        entry.configured += 1;
    }

    /// Notes where a peer says it is, newest last.
    pub fn learn(&mut self, peer: PeerId, address: Multiaddr) {
        let Some(entry) = self.entry(peer) else { return };
        if entry.addresses.contains(&address) {
            return;
        }
        if entry.addresses.len() >= ADDRESSES_MAX.max(entry.configured + 1) {
            entry.addresses.remove(entry.configured);
        }
        entry.addresses.push(address);
    }

    pub fn set_members<'a>(&mut self, members: impl Iterator<Item = &'a PeerId>) {
        for entry in self.entries.values_mut() {
            entry.member = false;
        }
        for member in members {
            if let Some(entry) = self.entry(*member) {
                entry.member = true;
            }
        }
    }

    pub fn addresses(&self, peer: PeerId) -> &[Multiaddr] {
        self.entries.get(&peer).map_or(&[], |entry| &entry.addresses)
    }

    /// Peers to dial now.
    pub fn due(&self, now: Instant) -> Vec<PeerId> {
        let due = |entry: &Entry| entry.wanted() && entry.idle() && entry.next.is_none_or(|next| next <= now);
        self.entries.iter().filter(|(_, entry)| due(entry)).map(|(peer, _)| *peer).collect()
    }

    /// Members that are nowhere we know of: others may know where they moved.
    pub fn lost_members(&self) -> impl Iterator<Item = PeerId> + '_ {
        let nowhere = |entry: &Entry| entry.addresses.is_empty() || entry.failures >= LOST_AFTER;
        let lost = move |entry: &Entry| entry.member && entry.connected_at.is_none() && nowhere(entry);
        self.entries.iter().filter(move |(_, entry)| lost(entry)).map(|(peer, _)| *peer)
    }

    /// Whether a request may have the peer dialled now.
    pub fn may_dial(&self, peer: PeerId, now: Instant) -> bool {
        self.entries.get(&peer).is_some_and(|entry| {
            !entry.addresses.is_empty()
                && entry.failed_at.is_none_or(|at| now.saturating_duration_since(at) > REQUEST_PAUSE)
                // We are at it already, and the last attempt failed.
                && !(entry.wanted() && entry.failures > 0)
        })
    }

    pub fn is_dialling(&self, peer: PeerId) -> bool {
        self.entries.get(&peer).is_some_and(|entry| entry.dialling.is_some())
    }

    /// How long a dial has been under way.
    pub fn dialling_for(&self, peer: PeerId, now: Instant) -> Option<Duration> {
        let since = self.entries.get(&peer)?.dialling?;
        Some(now.saturating_duration_since(since))
    }

    pub fn failures(&self, peer: PeerId) -> u32 {
        self.entries.get(&peer).map_or(0, |entry| entry.failures)
    }

    pub fn dialling(&mut self, peer: PeerId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.dialling.get_or_insert(now);
        }
    }

    pub fn connected(&mut self, peer: PeerId, now: Instant) {
        if let Some(entry) = self.entry(peer) {
            entry.dialling = None;
            entry.failed_at = None;
            entry.connected_at.get_or_insert(now);
        }
    }

    /// The last connection to the peer ended. `jitter` is in 0..1.
    pub fn disconnected(&mut self, peer: PeerId, now: Instant, jitter: f64) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        let since = entry.connected_at.take();
        if since.is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            entry.failures = 0;
        }
        entry.next = Some(now + delay(entry, jitter));
    }

    /// An attempt to dial failed. `jitter` is in 0..1.
    pub fn failed(&mut self, peer: PeerId, now: Instant, jitter: f64) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        entry.dialling = None;
        entry.failures = entry.failures.saturating_add(1);
        entry.failed_at = Some(now);
        entry.next = Some(now + delay(entry, jitter));
    }

    fn entry(&mut self, peer: PeerId) -> Option<&mut Entry> {
        if peer == self.me {
            return None;
        }
        if self.entries.len() >= PEERS_MAX && !self.entries.contains_key(&peer) {
            let gone = self.entries.iter().find(|(_, entry)| entry.idle() && !entry.member && entry.configured == 0);
            let gone = gone.map(|(peer, _)| *peer)?;
            self.entries.remove(&gone);
        }
        Some(self.entries.entry(peer).or_default())
    }
}

/// Half to all of the back-off.
fn delay(entry: &Entry, jitter: f64) -> Duration {
    let max = if entry.member { DELAY_MAX_MEMBER } else { DELAY_MAX };
    let full = DELAY_MIN.saturating_mul(1 << entry.failures.min(10)).min(max);
    full.mul_f64(0.5 + 0.5 * jitter)
}

/// Reads a multiaddr of ours: TCP or QUIC, with or without `/p2p/…`.
///
/// # Errors
///
/// [`Error::Setup`] naming the address and what is wrong with it.
pub(super) fn parse(text: &str) -> Result<(Multiaddr, Option<PeerId>), Error> {
    let bad = |why: &str| Error::Setup(format!("address {text}: {why}"));
    let mut address: Multiaddr =
        text.parse().map_err(|_| bad("not a multiaddr, expected e.g. /ip4/127.0.0.1/tcp/4001"))?;
    let mut peer = None;
    if let Some(Protocol::P2p(id)) = address.iter().last() {
        peer = Some(from_libp2p(&id).ok_or_else(|| bad("the peer id is not of an ed25519 key"))?);
        address.pop();
    }
    if transport(&address).is_none() {
        return Err(bad("expected /ip4|ip6|dns…/tcp/PORT or /udp/PORT/quic-v1"));
    }
    Ok((address, peer))
}

/// Reads an address to dial, which must name the peer.
pub(super) fn parse_persistent(text: &str) -> Result<(Multiaddr, PeerId), Error> {
    match parse(text)? {
        (address, Some(peer)) => Ok((address, peer)),
        (_, None) => Err(Error::Setup(format!("address {text}: expected /p2p/PEER_ID at the end"))),
    }
}

/// `tcp` or `quic`, if it is an address we can use.
pub(super) fn transport(address: &Multiaddr) -> Option<&'static str> {
    let mut parts = address.iter();
    match parts.next()? {
        Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => {}
        _ => return None,
    }
    match (parts.next()?, parts.next()) {
        (Protocol::Tcp(_), None | Some(Protocol::P2p(_))) => Some("tcp"),
        (Protocol::Udp(_), Some(Protocol::QuicV1)) => Some("quic"),
        _ => None,
    }
}

/// An address as we tell it to people.
pub(super) fn with_peer(address: &Multiaddr, peer: PeerId) -> String {
    format!("{address}/p2p/{}", to_libp2p(peer))
}

/// Whether an address that `from` claims for itself makes sense to us: a
/// remote peer's loopback address is our own.
pub(super) fn plausible(address: &Multiaddr, from: &Multiaddr) -> bool {
    let loopback = |address: &Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback() || ip.is_unspecified(),
        _ => false,
    };
    transport(address).is_some() && (!loopback(address) || loopback(from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_lost_peer_is_dialled_again_with_growing_pauses_up_to_the_cap() {
        let (peer, mut now) = (PeerId([1; 32]), clock::instant());
        for (member, cap) in [(false, DELAY_MAX), (true, DELAY_MAX_MEMBER)] {
            let mut book = Book::new(PeerId::default());
            book.keep(peer, address(1));
            book.set_members([peer].iter().filter(|_| member));
            let mut last = Duration::ZERO;
            for _ in 0..12 {
                assert_eq!(book.due(now), vec![peer]);
                book.dialling(peer, now);
                assert!(book.due(now).is_empty());
                book.failed(peer, now, 1.0);
                let pause = book.entries[&peer].next.unwrap() - now;
                assert!(pause >= last && pause <= cap, "{pause:?}");
                last = pause;
                now += pause;
            }
            assert_eq!(last, cap);
            book.connected(peer, now);
            assert!(book.due(now + DELAY_MAX).is_empty());
            now += STABLE;
            book.disconnected(peer, now, 1.0);
            assert_eq!(book.due(now + DELAY_MIN), vec![peer], "a stable connection resets the back-off");
        }
    }

    #[test]
    fn learned_addresses_are_bounded_and_configured_ones_stay() {
        let (peer, mut book) = (PeerId([1; 32]), Book::new(PeerId::default()));
        for port in 1..100 {
            book.learn(peer, address(port));
        }
        book.keep(peer, address(1_000));
        for port in 100..200 {
            book.learn(peer, address(port));
        }
        let known = book.addresses(peer);
        assert!(known.len() <= ADDRESSES_MAX + 1, "{}", known.len());
        assert_eq!(known.first(), Some(&address(1_000)));
        assert_eq!(known.last(), Some(&address(199)));
    }

    #[test]
    fn a_member_that_answers_at_no_known_address_is_looked_for_until_it_is_back() {
        let (member, other, now) = (PeerId([1; 32]), PeerId([2; 32]), clock::instant());
        let mut book = Book::new(PeerId::default());
        book.keep(member, address(1));
        book.keep(other, address(2));
        book.set_members([member].iter());
        for failures in 0..LOST_AFTER {
            assert_eq!(book.lost_members().count(), 0, "after {failures} failures");
            book.failed(member, now, 1.0);
            book.failed(other, now, 1.0);
        }
        assert_eq!(book.lost_members().collect::<Vec<_>>(), vec![member]);
        book.connected(member, now);
        assert_eq!(book.lost_members().count(), 0);
    }

    #[test]
    fn we_do_not_dial_ourselves() {
        let mut book = Book::new(PeerId([1; 32]));
        book.keep(PeerId([1; 32]), address(1));
        assert!(book.due(clock::instant()).is_empty());
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(parse("/ip4/127.0.0.1/tcp/1").unwrap().0, address(1));
        assert!(parse("/ip4/127.0.0.1/udp/1").is_err());
        assert!(parse("127.0.0.1:4001").unwrap_err().to_string().contains("127.0.0.1:4001"));
        assert!(parse_persistent("/ip4/127.0.0.1/tcp/1").is_err());
        let quic: Multiaddr = "/dns4/node/udp/4001/quic-v1".parse().unwrap();
        assert_eq!(transport(&quic), Some("quic"));
        assert!(!plausible(&address(1), &"/ip4/10.0.0.1/tcp/9".parse().unwrap()));
        assert!(plausible(&address(1), &address(2)));
    }
}
