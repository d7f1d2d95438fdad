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
///
/// A busy market has several announcements per tick, and a worker answers each
/// of them: both need room for the shortest tick and for what gathers in a pause.
fn allowance(topic: Topic) -> (f64, f64) {
    match topic {
        Topic::Announcements | Topic::Bids => (1_000.0, 2_000.0),
        Topic::Heartbeats => (5.0, 20.0),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Pass,
    /// Too many of them, and who is to blame.
    OverRate(PeerId),
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
    ///
    /// Coordinators pass on what others published, and the publisher pays for
    /// it. Anybody else who does pays himself: old messages are still signed, and
    /// sending them again must not use up their publisher's allowance.
    pub fn admit(
        &mut self,
        shared: &Shared,
        topic: Topic,
        source: PeerId,
        from: Option<PeerId>,
        now: Instant,
    ) -> Admission {
        let Some(from) = from else { return Admission::Forbidden };
        let trusted = shared.is_coordinator(from);
        let vouched = shared.role == Role::Worker && trusted;
        if topic == Topic::Announcements && !shared.is_coordinator(source) && !vouched {
            return Admission::Forbidden;
        }
        let payer = if trusted { source } else { from };
        let (rate, burst) = allowance(topic);
        if self.buckets.len() >= SOURCES_MAX && !self.buckets.contains_key(&(payer, topic)) {
            // A bucket that has had time to fill says nothing.
            self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < Duration::from_secs(5));
            if self.buckets.len() >= SOURCES_MAX {
                return Admission::OverRate(payer);
            }
        }
        let bucket = self.buckets.entry((payer, topic)).or_insert_with(|| Bucket::full(burst, now));
        if bucket.take(now, rate, burst) { Admission::Pass } else { Admission::OverRate(payer) }
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
    fn the_market_at_its_fastest_is_within_the_allowance() {
        let (leader, start) = (PeerId([1; 32]), clock::instant());
        let shared = Shared::new(PeerId::default(), Role::Coordinator, 1, [leader].into());
        for topic in [Topic::Announcements, Topic::Bids] {
            let mut gate = Gate::default();
            for n in 0..5_000u32 {
                let now = start + Duration::from_millis(n.into());
                assert_eq!(gate.admit(&shared, topic, leader, Some(leader), now), Admission::Pass, "{topic:?} {n}");
            }
        }
    }

    #[test]
    fn who_sends_the_messages_of_others_again_uses_up_only_his_own_allowance() {
        let (member, worker, mallory) = (PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32]));
        let (shared, now) = (Shared::new(PeerId::default(), Role::Coordinator, 1, [member].into()), clock::instant());
        let mut gate = Gate::default();
        let mut admit = |from| gate.admit(&shared, Topic::Heartbeats, worker, Some(from), now);
        assert_eq!((0..100).filter(|_| admit(mallory) == Admission::Pass).count(), 20);
        assert_eq!(admit(mallory), Admission::OverRate(mallory));
        assert_eq!(admit(worker), Admission::Pass);
        assert_eq!((0..100).filter(|_| admit(member) == Admission::Pass).count(), 19, "the worker pays");
        assert_eq!(admit(member), Admission::OverRate(worker));
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
