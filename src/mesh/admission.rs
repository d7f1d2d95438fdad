//! Who may say how much.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::shared::Shared;
use super::{Role, Topic};
use crate::domain::PeerId;

/// Publishers whose rate we follow. Beyond this those that have been quiet are forgotten.
const SOURCES_MAX: usize = 40_000;

/// A token bucket: so many per second on average, so many at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub fn full(burst: f64, now: Instant) -> Self {
        Self { tokens: burst, at: now }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant, rate: f64, burst: f64) -> bool {
        self.refill(now, rate, burst);
        let ok = self.tokens >= 1.0;
        if ok {
            self.tokens -= 1.0;
        }
        ok
    }

    /// Takes a token in any case and says how long to wait for it.
    pub fn delay(&mut self, now: Instant, rate: f64, burst: f64) -> Duration {
        self.refill(now, rate, burst);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / rate) }
    }

    fn refill(&mut self, now: Instant, rate: f64, burst: f64) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(burst);
        self.at = now;
    }
}

/// Messages per second, and at once, that one publisher may have on a topic.
fn allowance(topic: Topic) -> (f64, f64) {
    match topic {
        Topic::Announcements => (200.0, 400.0),
        Topic::Bids => (100.0, 200.0),
        Topic::Heartbeats => (5.0, 20.0),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Pass,
    OverRate,
    /// The publisher has no right to the topic.
    Forbidden,
}

/// Decides which gossip is worth handing out.
#[derive(Default)]
pub(super) struct Gate {
    buckets: HashMap<(PeerId, Topic), Bucket>,
}

impl Gate {
    /// `source` published the message, `from` passed it to us.
    ///
    /// A worker need not know every coordinator: what one it trusts passes on,
    /// that one has accepted from a member.
    pub fn admit(
        &mut self,
        shared: &Shared,
        topic: Topic,
        source: PeerId,
        from: Option<PeerId>,
        now: Instant,
    ) -> Admission {
        let vouched = || shared.role == Role::Worker && from.is_some_and(|from| shared.is_coordinator(from));
        if topic == Topic::Announcements && !shared.is_coordinator(source) && !vouched() {
            return Admission::Forbidden;
        }
        let (rate, burst) = allowance(topic);
        if self.buckets.len() >= SOURCES_MAX && !self.buckets.contains_key(&(source, topic)) {
            // A bucket that has had time to fill says nothing.
            self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < Duration::from_secs(5));
            if self.buckets.len() >= SOURCES_MAX {
                return Admission::OverRate;
            }
        }
        let bucket = self.buckets.entry((source, topic)).or_insert_with(|| Bucket::full(burst, now));
        if bucket.take(now, rate, burst) { Admission::Pass } else { Admission::OverRate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let start = clock::instant();
        let mut bucket = Bucket::full(20.0, start);
        assert_eq!((0..100).filter(|_| bucket.take(start, 5.0, 20.0)).count(), 20);
        let later = start + Duration::from_secs(2);
        assert_eq!((0..100).filter(|_| bucket.take(later, 5.0, 20.0)).count(), 10);
        assert_eq!(bucket.delay(later, 5.0, 20.0), Duration::from_millis(200));
    }

    #[test]
    fn announcements_are_for_members_and_a_workers_own_coordinators() {
        let (leader, stranger, now) = (PeerId([1; 32]), PeerId([2; 32]), clock::instant());
        let coordinator = Shared::new(PeerId::default(), Role::Coordinator, 1, [leader].into());
        let worker = Shared::new(PeerId::default(), Role::Worker, 1, [].into());
        worker.add_persistent(leader);
        coordinator.add_persistent(stranger);
        let mut gate = Gate::default();
        for shared in [&coordinator, &worker] {
            let mut admit = |topic, source, from| gate.admit(shared, topic, source, Some(from), now);
            assert_eq!(admit(Topic::Announcements, leader, stranger), Admission::Pass);
            assert_eq!(admit(Topic::Announcements, stranger, stranger), Admission::Forbidden);
            assert_eq!(admit(Topic::Bids, stranger, stranger), Admission::Pass);
        }
        let vouched = gate.admit(&worker, Topic::Announcements, stranger, Some(leader), now);
        assert_eq!(vouched, Admission::Pass, "a coordinator it trusts passed it on");
        let vouched = gate.admit(&coordinator, Topic::Announcements, stranger, Some(leader), now);
        assert_eq!(vouched, Admission::Forbidden, "coordinators know the members themselves");
    }
}
