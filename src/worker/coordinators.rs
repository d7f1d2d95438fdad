//! Which coordinators there are, and which one to ask next.
//!
//! Configured ones stay; the others are what the last announcement named, so
//! the list follows the cluster and cannot grow without bound. It is remembered
//! across restarts. A worker takes orders only from peers in here. It opens no
//! port, so whatever it hears came through a coordinator it dialled, which
//! passes on announcements of members only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{files, settings};
use crate::domain::PeerId;
use crate::tasks::Tasks;

/// Addresses taken from one announcement, and their longest.
const ADDRESSES_MAX: usize = 64;
const ADDRESS_LENGTH_MAX: usize = 256;

/// A coordinator that did not answer is asked last for so long.
const AVOID_FOR: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Coordinators {
    inner: Arc<Mutex<Inner>>,
    /// Something was learned that is not on disk.
    changed: Arc<Notify>,
    path: PathBuf,
}

#[derive(Default)]
struct Inner {
    configured: BTreeSet<PeerId>,
    learned: BTreeMap<PeerId, BTreeSet<String>>,
    leader: Option<PeerId>,
    /// The list that was learned last: with every announcement it comes again, and is read only if it differs.
    heard: Vec<String>,
    avoid: BTreeMap<PeerId, Instant>,
    turn: usize,
}

impl Coordinators {
    /// Those configured and those remembered in `path`.
    pub fn new(configured: &[(PeerId, String)], path: PathBuf) -> Self {
        let learned = remembered(&path);
        let configured = configured.iter().map(|(peer, _)| *peer).collect();
        let inner = Arc::new(Mutex::new(Inner { configured, learned, ..Inner::default() }));
        Self { inner, changed: Arc::default(), path }
    }

    /// Addresses to dial beside the configured ones.
    pub fn learned_addresses(&self) -> Vec<String> {
        self.lock().learned.values().flatten().cloned().collect()
    }

    /// Takes over what the leader announced. Returns addresses that are new.
    pub fn learn(&self, leader: PeerId, addresses: &[String]) -> Vec<String> {
        if self.lock().repeats(leader, addresses) {
            return vec![];
        }
        let mut named: BTreeMap<PeerId, BTreeSet<String>> = BTreeMap::from([(leader, BTreeSet::new())]);
        for address in addresses.iter().take(ADDRESSES_MAX).filter(|address| address.len() <= ADDRESS_LENGTH_MAX) {
            if let Some(peer) = settings::parse_peer(address) {
                named.entry(peer).or_default().insert(address.clone());
            }
        }
        let mut inner = self.lock();
        inner.leader = Some(leader);
        inner.heard = addresses.iter().take(ADDRESSES_MAX + 1).cloned().collect();
        if inner.learned == named || (addresses.is_empty() && inner.knows(leader)) {
            return vec![];
        }
        let new = |(peer, addresses): (&PeerId, &BTreeSet<String>)| -> Vec<String> {
            let old = inner.learned.get(peer);
            addresses.iter().filter(|address| !old.is_some_and(|old| old.contains(*address))).cloned().collect()
        };
        let new = named.iter().flat_map(new).collect();
        inner.learned = named;
        drop(inner);
        self.changed.notify_one();
        new
    }

    /// Remembers what is learned, for ever. The disk may take its time.
    pub async fn keep(self, tasks: Tasks) {
        loop {
            self.changed.notified().await;
            let known = self.clone();
            // It only fails if it panics, and then the process ends.
            let _ = tasks.spawn_blocking(move || known.remember()).await;
        }
    }

    pub fn knows(&self, peer: PeerId) -> bool {
        self.lock().knows(peer)
    }

    /// The one to ask: the leader if it answers, else the others in turn.
    pub fn choose(&self, now: Instant, is_connected: impl Fn(PeerId) -> bool) -> Option<PeerId> {
        let mut inner = self.lock();
        inner.avoid.retain(|_, until| *until > now);
        let connected: Vec<PeerId> = inner.all().into_iter().filter(|peer| is_connected(*peer)).collect();
        let good: Vec<PeerId> = connected.iter().copied().filter(|peer| !inner.avoid.contains_key(peer)).collect();
        if let Some(leader) = inner.leader.filter(|leader| good.contains(leader)) {
            return Some(leader);
        }
        let candidates = if good.is_empty() { connected } else { good };
        candidates.get(inner.turn % candidates.len().max(1)).copied()
    }

    /// `peer` did not answer: ask others first for a while.
    pub fn avoid(&self, peer: PeerId, now: Instant) {
        let mut inner = self.lock();
        inner.avoid.insert(peer, now + AVOID_FOR);
        inner.turn = inner.turn.wrapping_add(1);
    }

    /// Whether `peer` has not just failed to answer.
    pub fn answers(&self, peer: PeerId, now: Instant) -> bool {
        self.lock().avoid.get(&peer).is_none_or(|until| *until <= now)
    }

    pub fn all(&self, are: impl Fn(PeerId) -> bool) -> BTreeSet<PeerId> {
        let mut all = self.lock().all();
        all.retain(|peer| are(*peer));
        all
    }

    pub fn any(&self, is: impl Fn(PeerId) -> bool) -> bool {
        let all = self.lock().all();
        all.into_iter().any(is)
    }

    fn remember(&self) {
        let addresses = self.learned_addresses();
        let written = serde_json::to_vec(&addresses).map_err(Into::into);
        if let Err(error) = written.and_then(|bytes| files::replace(&self.path, &bytes)) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remember coordinators");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn all(&self) -> BTreeSet<PeerId> {
        self.configured.iter().chain(self.learned.keys()).copied().collect()
    }

    /// Whether the same leader said the same before. An empty list may still name the leader.
    fn repeats(&self, leader: PeerId, addresses: &[String]) -> bool {
        !addresses.is_empty() && self.leader == Some(leader) && self.heard == addresses
    }

    fn knows(&self, peer: PeerId) -> bool {
        self.configured.contains(&peer) || self.learned.contains_key(&peer)
    }
}

/// What an earlier life learned; nothing if the file is not there or not ours.
fn remembered(path: &Path) -> BTreeMap<PeerId, BTreeSet<String>> {
    let addresses: Vec<String> =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut learned: BTreeMap<PeerId, BTreeSet<String>> = BTreeMap::new();
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        if let Some(peer) = settings::parse_peer(&address) {
            learned.entry(peer).or_default().insert(address);
        }
    }
    learned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn address(n: u8) -> String {
        format!("/ip4/127.0.0.1/tcp/{n}/p2p/{}", peer(n))
    }

    #[tokio::test]
    async fn the_list_follows_announcements_and_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coordinators.json");
        let known = Coordinators::new(&[(peer(1), address(1))], path.clone());
        let tasks = Tasks::new();
        tasks.spawn_until_stopped("keeper", known.clone().keep(tasks.clone()));
        assert!(!known.knows(peer(2)));
        assert_eq!(known.learn(peer(2), &[address(1), address(2), address(3)]), [address(1), address(2), address(3)]);
        assert_eq!(known.learn(peer(2), &[address(2), address(4), "junk".to_owned()]), [address(4)]);

        while remembered(&path) != known.lock().learned.clone().into_iter().filter(|(_, a)| !a.is_empty()).collect() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let known = Coordinators::new(&[(peer(1), address(1))], path);
        let all: Vec<bool> = (1..=5).map(|n| known.knows(peer(n))).collect();
        assert_eq!(all, [true, true, false, true, false], "configured stay, others are as last announced");
    }

    #[test]
    fn the_leader_is_asked_first_and_who_does_not_answer_last() {
        let directory = tempfile::tempdir().unwrap();
        let configured: Vec<_> = (1..=3).map(|n| (peer(n), address(n))).collect();
        let known = Coordinators::new(&configured, directory.path().join("coordinators.json"));
        let now = clock::instant();
        known.learn(peer(3), &[]);
        assert_eq!(known.choose(now, |_| true), Some(peer(3)));
        known.avoid(peer(3), now);
        assert!(!known.answers(peer(3), now) && known.answers(peer(3), now + AVOID_FOR));
        let second = known.choose(now, |_| true).unwrap();
        assert_ne!(second, peer(3));
        known.avoid(second, now);
        let third = known.choose(now, |_| true).unwrap();
        assert!(third != peer(3) && third != second);
        known.avoid(third, now);
        assert!(known.choose(now, |_| true).is_some(), "when all are bad, one is still asked");
        assert_eq!(known.choose(now + AVOID_FOR, |_| true), Some(peer(3)), "forgiven");
        assert_eq!(known.choose(now, |_| false), None);
    }
}
