//! What runs here: attempts, their leases, and what was finished lately.
//!
//! Told the time; does no I/O. Attempts are fenced by number: a newer one of the
//! same job stops the older, an older one is refused. Remembering what was
//! finished makes repeated assignments harmless.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::domain::JobId;

/// An attempt: which job, which try.
pub type Key = (JobId, u32);

/// Finished attempts remembered. Beyond this the oldest is forgotten, and a
/// repeated assignment of it would run again (its result would be refused).
const RECENT_MAX: usize = 16_384;

/// Why an attempt is made to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A coordinator said so.
    Cancelled,
    LeaseLost,
    /// A newer attempt of the same job is here.
    Replaced,
    /// The worker itself stops.
    Stopping,
}

/// The answer to an assignment.
#[derive(Debug)]
pub enum Taken {
    /// Run it; the receiver says when to stop it, and why.
    New(oneshot::Receiver<Cause>),
    /// Already running, or finished and reported.
    Known,
    Refused(&'static str),
}

#[derive(Debug)]
struct Entry {
    lease_until: Instant,
    /// Taken when the attempt is made to stop.
    stop: Option<oneshot::Sender<Cause>>,
    replaced: bool,
}

#[derive(Debug)]
pub struct Desk {
    room_max: u32,
    running: BTreeMap<Key, Entry>,
    finished: BTreeMap<JobId, u32>,
    finished_order: VecDeque<Key>,
}

impl Desk {
    pub fn new(room_max: u32) -> Self {
        Self { room_max, running: BTreeMap::new(), finished: BTreeMap::new(), finished_order: VecDeque::new() }
    }

    /// Takes an assignment, unless there is a reason not to.
    pub fn take(&mut self, key: Key, lease: Duration, now: Instant) -> Taken {
        if self.renew(key, lease, now).is_ok() {
            return Taken::Known;
        }
        let (job, attempt) = key;
        let newest = self.newest(job);
        if newest.is_some_and(|newest| attempt < newest) {
            return Taken::Refused("stale_attempt");
        }
        if lease.is_zero() {
            return Taken::Refused("lease_expired");
        }
        if self.room() == 0 && newest.is_none_or(|newest| !self.running.contains_key(&(job, newest))) {
            return Taken::Refused("no_room");
        }
        self.replace_older(job);
        let (stop, stopped) = oneshot::channel();
        let entry = Entry { lease_until: now + lease, stop: Some(stop), replaced: false };
        self.running.insert(key, entry);
        Taken::New(stopped)
    }

    /// Extends a lease; never shortens it.
    ///
    /// # Errors
    ///
    /// The code to answer with, if the attempt is neither running nor finished.
    pub fn renew(&mut self, key: Key, lease: Duration, now: Instant) -> Result<(), &'static str> {
        if let Some(entry) = self.running.get_mut(&key) {
            entry.lease_until = entry.lease_until.max(now + lease);
            return Ok(());
        }
        if self.finished.get(&key.0) == Some(&key.1) { Ok(()) } else { Err("unknown_attempt") }
    }

    /// Makes an attempt stop. It stays on the desk until it has.
    pub fn stop(&mut self, key: Key, cause: Cause) {
        if let Some(stop) = self.running.get_mut(&key).and_then(|entry| entry.stop.take()) {
            // An attempt that ends this moment no longer listens.
            let _ = stop.send(cause);
        }
    }

    pub fn stop_all(&mut self, cause: Cause) {
        for key in self.running() {
            self.stop(key, cause);
        }
    }

    /// Stops what has outlived its lease; returns it.
    pub fn expire(&mut self, now: Instant) -> Vec<Key> {
        let lapsed = |entry: &Entry| entry.stop.is_some() && entry.lease_until <= now;
        let keys: Vec<Key> = self.running.iter().filter(|(_, entry)| lapsed(entry)).map(|(key, _)| *key).collect();
        for key in &keys {
            self.stop(*key, Cause::LeaseLost);
        }
        keys
    }

    /// The attempt has ended and its report, if any, is in the outbox.
    pub fn finish(&mut self, key: Key) {
        self.running.remove(&key);
        self.remember(key);
    }

    /// Notes an attempt as finished, from this life or the last one.
    pub fn remember(&mut self, key: Key) {
        let (job, attempt) = key;
        let newest = self.finished.entry(job).or_insert(attempt);
        *newest = attempt.max(*newest);
        self.finished_order.push_back(key);
        if self.finished_order.len() <= RECENT_MAX {
            return;
        }
        if let Some((oldest, attempt)) = self.finished_order.pop_front()
            && self.finished.get(&oldest) == Some(&attempt)
        {
            self.finished.remove(&oldest);
        }
    }

    /// How many more jobs can run now.
    pub fn room(&self) -> u32 {
        self.room_max.saturating_sub(self.busy())
    }

    /// The room a leader counts on at least: for it, an attempt that was told to stop is gone.
    pub fn room_in_books(&self) -> u32 {
        let held = self.running.values().filter(|entry| entry.stop.is_some()).count();
        self.room_max.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX))
    }

    /// Jobs running in proportion to the most there may be.
    pub fn load_permille(&self) -> u32 {
        let load = u64::from(self.busy()) * 1_000 / u64::from(self.room_max.max(1));
        u32::try_from(load).unwrap_or(1_000).min(1_000)
    }

    pub fn running(&self) -> Vec<Key> {
        self.running.keys().copied().collect()
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Attempts that count against room: a replaced one only lingers.
    fn busy(&self) -> u32 {
        u32::try_from(self.running.values().filter(|entry| !entry.replaced).count()).unwrap_or(u32::MAX)
    }

    fn newest(&self, job: JobId) -> Option<u32> {
        let running = self.running.range((job, 0)..=(job, u32::MAX)).next_back().map(|((_, attempt), _)| *attempt);
        running.max(self.finished.get(&job).copied())
    }

    fn replace_older(&mut self, job: JobId) {
        let older: Vec<Key> = self.running.range((job, 0)..=(job, u32::MAX)).map(|(key, _)| *key).collect();
        for key in older {
            self.stop(key, Cause::Replaced);
            if let Some(entry) = self.running.get_mut(&key) {
                entry.replaced = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LEASE: Duration = Duration::from_secs(10);

    fn key(job: u8, attempt: u32) -> Key {
        (JobId([job; 16]), attempt)
    }

    fn take_new(desk: &mut Desk, key: Key, now: Instant) -> oneshot::Receiver<Cause> {
        match desk.take(key, LEASE, now) {
            Taken::New(stopped) => stopped,
            other => panic!("{key:?} was not taken: {other:?}"),
        }
    }

    #[test]
    fn takes_no_more_than_it_has_room_for() {
        let (mut desk, now) = (Desk::new(2), clock::instant());
        let _one = take_new(&mut desk, key(1, 1), now);
        assert_eq!((desk.room(), desk.load_permille()), (1, 500));
        let _two = take_new(&mut desk, key(2, 1), now);
        assert!(matches!(desk.take(key(3, 1), LEASE, now), Taken::Refused("no_room")));
        desk.finish(key(1, 1));
        assert!(matches!(desk.take(key(3, 1), LEASE, now), Taken::New(_)));
    }

    #[test]
    fn an_attempt_that_was_told_to_stop_takes_room_here_but_not_in_the_leaders_books() {
        let (mut desk, now) = (Desk::new(2), clock::instant());
        let _one = take_new(&mut desk, key(1, 1), now);
        let _two = take_new(&mut desk, key(2, 1), now);
        assert_eq!((desk.room(), desk.room_in_books()), (0, 0));
        desk.stop(key(1, 1), Cause::Cancelled);
        assert_eq!((desk.room(), desk.room_in_books()), (0, 1), "until it has");
        desk.finish(key(1, 1));
        assert_eq!((desk.room(), desk.room_in_books()), (1, 1));
    }

    #[test]
    fn the_same_assignment_twice_runs_once_also_after_it_finished() {
        let (mut desk, now) = (Desk::new(1), clock::instant());
        let _running = take_new(&mut desk, key(1, 1), now);
        assert!(matches!(desk.take(key(1, 1), LEASE, now), Taken::Known));
        desk.finish(key(1, 1));
        assert!(matches!(desk.take(key(1, 1), LEASE, now), Taken::Known));
        assert!(desk.is_idle());
    }

    #[test]
    fn a_newer_attempt_stops_the_older_even_when_there_is_no_room() {
        let (mut desk, now) = (Desk::new(1), clock::instant());
        let mut older = take_new(&mut desk, key(1, 1), now);
        let _newer = take_new(&mut desk, key(1, 2), now);
        assert_eq!(older.try_recv(), Ok(Cause::Replaced));
        assert_eq!(desk.room(), 0);
        assert!(matches!(desk.take(key(1, 1), LEASE, now), Taken::Known), "still on the desk, not run again");
        desk.finish(key(1, 1));
        assert!(matches!(desk.take(key(1, 1), LEASE, now), Taken::Known), "gone, and still not run again");
        desk.finish(key(1, 2));
        assert!(matches!(desk.take(key(1, 1), LEASE, now), Taken::Refused("stale_attempt")));
    }

    #[test]
    fn a_lapsed_lease_stops_the_attempt_and_a_renewed_one_does_not() {
        let (mut desk, now) = (Desk::new(2), clock::instant());
        let mut lapsed = take_new(&mut desk, key(1, 1), now);
        let mut renewed = take_new(&mut desk, key(2, 1), now);
        let later = now + LEASE;
        assert_eq!(desk.renew(key(2, 1), LEASE, now + Duration::from_secs(5)), Ok(()));
        assert_eq!(desk.expire(later), vec![key(1, 1)]);
        assert_eq!(lapsed.try_recv(), Ok(Cause::LeaseLost));
        assert!(renewed.try_recv().is_err());
        assert!(desk.expire(later).is_empty(), "once is enough");
        assert_eq!(desk.renew(key(9, 1), LEASE, later), Err("unknown_attempt"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut desk = Desk::new(1);
        for n in 0..RECENT_MAX as u128 + 10 {
            desk.remember((JobId(n.to_be_bytes()), 1));
        }
        assert_eq!(desk.finished.len(), RECENT_MAX);
        assert_eq!(desk.finished_order.len(), RECENT_MAX);
    }
}
