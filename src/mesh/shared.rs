//! What every part of the mesh knows: who is a member, what we saw of each
//! peer, and counters.
//!
//! The event loop writes what it sees; everyone else reads. Locks are held for
//! a lookup or an update, never across an await, and nothing in here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;

use super::{Lane, LaneStats, PeerView, Role, Stats, Topic, TopicStats};
use crate::clock;
use crate::domain::{PeerId, Timestamp};
use crate::telemetry::metrics;

/// Peers we keep a record of. Beyond this those we are not connected to are forgotten.
const RECORDS_MAX: usize = 20_000;

/// Offences within [`OFFENCE_WINDOW`] that get a peer blocked.
const OFFENCES_MAX: u32 = 100;

const OFFENCE_WINDOW: Duration = Duration::from_secs(60);

/// Largest message on the workers' lane, in bytes.
pub(super) const WORKER_FRAME_MAX: usize = 1024 * 1024;

/// The same on the lane of those who want to be members.
const JOIN_FRAME_MAX: usize = 16 * 1024;

pub(super) struct Shared {
    pub me: PeerId,
    pub role: Role,
    max_frame: usize,
    members: RwLock<Arc<BTreeSet<PeerId>>>,
    persistent: RwLock<Arc<BTreeSet<PeerId>>>,
    peers: Mutex<BTreeMap<PeerId, Record>>,
    listening: Mutex<Vec<String>>,
    lanes: [LaneCounters; Lane::ALL.len()],
    topics: [TopicCounters; Topic::ALL.len()],
    pub dials_failed: AtomicU64,
}

/// What we saw of a peer.
#[derive(Default)]
pub(super) struct Record {
    pub addresses: Vec<Multiaddr>,
    pub links: Vec<Link>,
    pub agent: Option<String>,
    pub protocols: Vec<String>,
    pub rtt_us: Option<u64>,
    pub gossip_score: f64,
    /// It has asked or said something that we took.
    useful: bool,
    offences: u64,
    recent: u32,
    window: Option<Instant>,
}

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub id: ConnectionId,
    pub since: Timestamp,
    pub established: Instant,
    pub inbound: bool,
    pub transport: &'static str,
    pub remote: Multiaddr,
    /// Which process of the peer is at the other end; `None`: it has not said so yet, or says nothing of it.
    pub life: Option<u64>,
}

#[derive(Default)]
pub(super) struct LaneCounters {
    pub requests_in: AtomicU64,
    pub requests_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub errors: AtomicU64,
    pub refused: AtomicU64,
}

#[derive(Default)]
pub(super) struct TopicCounters {
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub rejected: AtomicU64,
    pub ignored: AtomicU64,
    pub dropped: AtomicU64,
    pub mesh_peers: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Shared {
    pub fn new(me: PeerId, role: Role, max_frame: usize, members: BTreeSet<PeerId>) -> Self {
        Self {
            me,
            role,
            max_frame,
            members: RwLock::new(Arc::new(members)),
            persistent: RwLock::default(),
            peers: Mutex::default(),
            listening: Mutex::default(),
            lanes: Default::default(),
            topics: Default::default(),
            dials_failed: AtomicU64::new(0),
        }
    }

    /// Largest body on a lane, in bytes.
    pub fn frame_max(&self, lane: Lane) -> usize {
        match lane {
            Lane::Worker => WORKER_FRAME_MAX.min(self.max_frame),
            Lane::Join => JOIN_FRAME_MAX.min(self.max_frame),
            _ => self.max_frame,
        }
    }

    pub fn members(&self) -> Arc<BTreeSet<PeerId>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_members(&self, members: BTreeSet<PeerId>) {
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(members);
    }

    pub fn is_member(&self, peer: PeerId) -> bool {
        self.members.read().unwrap_or_else(PoisonError::into_inner).contains(&peer)
    }

    pub fn is_persistent(&self, peer: PeerId) -> bool {
        self.persistent.read().unwrap_or_else(PoisonError::into_inner).contains(&peer)
    }

    pub fn add_persistent(&self, peer: PeerId) {
        let mut persistent = self.persistent.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut persistent).insert(peer);
    }

    /// Whether `peer` is one we were told to trust as a coordinator.
    pub fn is_coordinator(&self, peer: PeerId) -> bool {
        self.is_member(peer) || (self.role == Role::Worker && self.is_persistent(peer))
    }

    /// Whether `peer` may send requests on `lane`.
    pub fn serves(&self, peer: PeerId, lane: Lane) -> bool {
        // A worker knows by itself who its coordinators are.
        matches!(lane, Lane::Worker | Lane::Join)
            || (lane == Lane::Fetch && self.role == Role::Worker)
            || self.is_member(peer)
    }

    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.lock().get(&peer).is_some_and(|record| !record.links.is_empty())
    }

    pub fn peers_connected(&self) -> u32 {
        let connected = self.lock().values().filter(|record| !record.links.is_empty()).count();
        u32::try_from(connected).unwrap_or(u32::MAX)
    }

    pub fn rtt_us(&self, peer: PeerId) -> Option<u32> {
        let rtt = self.lock().get(&peer)?.rtt_us?;
        Some(u32::try_from(rtt).unwrap_or(u32::MAX))
    }

    /// Notes that a peer is here for something, if it is here.
    pub fn note_useful(&self, peer: PeerId) {
        if let Some(record) = self.lock().get_mut(&peer) {
            record.useful = true;
        }
    }

    /// Peers that dialled us longer than `age` ago and have done nothing with it. Members and persistent peers are welcome.
    pub fn idlers(&self, now: Instant, age: Duration) -> Vec<PeerId> {
        let old = |link: &Link| link.inbound && now.saturating_duration_since(link.established) >= age;
        let peers = self.lock();
        let idle = peers
            .iter()
            .filter(|(_, record)| !record.useful && !record.links.is_empty() && record.links.iter().all(old));
        let idle = idle.map(|(peer, _)| *peer);
        idle.filter(|peer| !self.is_member(*peer) && !self.is_persistent(*peer)).collect()
    }

    /// Changes the record of a peer, making one if there is room.
    pub fn update<R>(&self, peer: PeerId, change: impl FnOnce(&mut Record) -> R) -> Option<R> {
        let mut peers = self.lock();
        if !peers.contains_key(&peer) && peers.len() >= RECORDS_MAX {
            self.forget_one(&mut peers);
            if peers.len() >= RECORDS_MAX {
                return None;
            }
        }
        Some(change(peers.entry(peer).or_default()))
    }

    fn forget_one(&self, peers: &mut BTreeMap<PeerId, Record>) {
        let gone = peers.iter().find(|(peer, record)| record.links.is_empty() && !self.is_persistent(**peer));
        if let Some(peer) = gone.map(|(peer, _)| *peer) {
            peers.remove(&peer);
        }
    }

    /// Notes an offence. True if the peer has earned to be blocked; members and
    /// persistent peers never do, we only count.
    pub fn offend(&self, peer: PeerId, reason: &'static str) -> bool {
        metrics::mesh_offence(reason);
        let now = clock::instant();
        let recent = self.update(peer, |record| {
            record.offences += 1;
            if record.window.is_none_or(|start| now.saturating_duration_since(start) > OFFENCE_WINDOW) {
                record.window = Some(now);
                record.recent = 0;
            }
            record.recent = record.recent.saturating_add(1);
            record.recent
        });
        let over = recent.is_some_and(|recent| recent >= OFFENCES_MAX);
        over && !self.is_member(peer) && !self.is_persistent(peer)
    }

    /// Forgives recent offences, when a block begins or ends.
    pub fn forgive(&self, peer: PeerId) {
        self.update(peer, |record| record.window = None);
    }

    pub fn lane(&self, lane: Lane) -> &LaneCounters {
        &self.lanes[lane as usize]
    }

    pub fn topic(&self, topic: Topic) -> &TopicCounters {
        &self.topics[topic as usize]
    }

    pub fn set_listening(&self, addresses: Vec<String>) {
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    pub fn listening(&self) -> Vec<String> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn views(&self) -> Vec<PeerView> {
        let members = self.members();
        self.lock().iter().map(|(peer, record)| record.view(*peer, members.contains(peer))).collect()
    }

    pub fn stats(&self) -> Stats {
        let (known, connected) = {
            let peers = self.lock();
            (peers.len(), peers.values().filter(|record| !record.links.is_empty()).count())
        };
        Stats {
            peers_known: known as u64,
            peers_connected: connected as u64,
            dials_failed: read(&self.dials_failed),
            topics: Topic::ALL.iter().map(|topic| self.topic(*topic).view(topic.name())).collect(),
            lanes: Lane::ALL.iter().map(|lane| self.lane(*lane).view(lane.name())).collect(),
            listening: self.listening(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Record>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Notes which process is at the other end of a connection, and says whether there is one with another: that is
    /// dead. Who says nothing of itself has one life for ever.
    pub fn outlives(&mut self, connection: ConnectionId, life: Option<u64>) -> bool {
        let Some(life) = life else { return false };
        if let Some(link) = self.links.iter_mut().find(|link| link.id == connection) {
            link.life = Some(life);
        }
        self.links.iter().any(|link| link.life.is_some_and(|other| other != life))
    }

    fn view(&self, id: PeerId, member: bool) -> PeerView {
        let link = self.links.last();
        PeerView {
            id,
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            connected: link.is_some(),
            connected_since: self.links.first().map(|link| link.since),
            inbound: link.is_some_and(|link| link.inbound),
            transport: link.map_or("", |link| link.transport),
            agent: self.agent.clone(),
            protocols: self.protocols.clone(),
            rtt_us: self.rtt_us,
            gossip_score: self.gossip_score,
            member,
            offences: self.offences,
        }
    }
}

impl LaneCounters {
    fn view(&self, lane: &'static str) -> LaneStats {
        LaneStats {
            lane,
            requests_in: read(&self.requests_in),
            requests_out: read(&self.requests_out),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            errors: read(&self.errors),
            refused: read(&self.refused),
        }
    }
}

impl TopicCounters {
    fn view(&self, topic: &'static str) -> TopicStats {
        TopicStats {
            topic,
            messages_in: read(&self.messages_in),
            messages_out: read(&self.messages_out),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            rejected: read(&self.rejected),
            ignored: read(&self.ignored),
            dropped: read(&self.dropped),
            mesh_peers: read(&self.mesh_peers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(members: &[PeerId]) -> Shared {
        Shared::new(PeerId::default(), Role::Coordinator, 1 << 22, members.iter().copied().collect())
    }

    #[test]
    fn many_offences_in_a_minute_get_a_stranger_blocked_but_never_a_member() {
        let (stranger, member) = (PeerId([1; 32]), PeerId([2; 32]));
        let shared = shared(&[member]);
        let blocked = (0..OFFENCES_MAX).filter(|_| shared.offend(stranger, "test")).count();
        assert_eq!(blocked, 1, "at the threshold, not before");
        assert!((0..2 * OFFENCES_MAX).all(|_| !shared.offend(member, "test")));
        let views = shared.views();
        assert_eq!(views.iter().map(|view| view.offences).collect::<Vec<_>>(), vec![100, 200]);
    }

    #[test]
    fn records_are_bounded_and_a_connected_peer_keeps_its_own() {
        let shared = shared(&[]);
        let id = |n: usize| {
            let mut bytes = [0u8; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            PeerId(bytes)
        };
        shared.update(id(0), |record| record.links.push(link(clock::instant())));
        for n in 1..=2 * RECORDS_MAX {
            shared.update(id(n), |_| ());
        }
        assert_eq!(shared.stats().peers_known, RECORDS_MAX as u64);
        assert!(shared.is_connected(id(0)));
    }

    fn link(established: Instant) -> Link {
        let remote = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let id = ConnectionId::new_unchecked(1);
        Link { id, since: Timestamp(0), established, inbound: true, transport: "tcp", remote, life: None }
    }

    #[test]
    fn who_takes_a_place_and_does_nothing_with_it_is_found() {
        let (idle, member, kept, useful, fresh, dialled) =
            (PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32]), PeerId([4; 32]), PeerId([5; 32]), PeerId([6; 32]));
        let shared = shared(&[member]);
        let (start, age) = (clock::instant(), Duration::from_secs(30));
        for peer in [idle, member, kept, useful] {
            shared.update(peer, |record| record.links.push(link(start)));
        }
        shared.update(fresh, |record| record.links.push(link(start + Duration::from_secs(1))));
        shared.update(dialled, |record| record.links.push(Link { inbound: false, ..link(start) }));
        shared.add_persistent(kept);
        shared.note_useful(useful);
        let known = shared.stats().peers_known;
        shared.note_useful(PeerId([7; 32]));
        assert_eq!(shared.stats().peers_known, known, "whose gossip reached us through others has no place here");
        assert_eq!(shared.idlers(start, age), vec![]);
        assert_eq!(shared.idlers(start + age, age), vec![idle]);
    }
}
