//! How fast messages come and go, by topic: from two looks at counters that
//! only grow.
//!
//! `node` takes a look whenever it takes a sample for the history; the last
//! [`LOOKS`] are kept. A rate is the difference between now and the oldest of
//! them, so it is of the last minute or so. Topics come from the configuration
//! and the replicated state, which bound their number.
//!
//! A counter that went down was reset: its rate is 0 until the looks have
//! forgotten what was before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::histogram::as_f64;

/// Looks kept: a minute at one every ten seconds.
const LOOKS: usize = 6;

/// Messages of a topic, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub read: u64,
    pub written: u64,
}

/// Messages per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub read: f64,
    pub written: f64,
}

/// Counters by topic.
pub type Topics = BTreeMap<String, Traffic>;

static LOOKED: Mutex<Looks> = Mutex::new(Looks(VecDeque::new()));

/// Oldest first.
#[derive(Debug, Default)]
struct Looks(VecDeque<(Instant, Topics)>);

/// Remembers the counters as they are.
pub(super) fn record(now: Instant, topics: &Topics) {
    lock().push(now, topics);
}

/// How fast each of `topics` grew; `None` until there was an earlier look.
pub fn rates(now: Instant, topics: &Topics) -> Option<BTreeMap<String, Rate>> {
    lock().rates(now, topics)
}

fn lock() -> MutexGuard<'static, Looks> {
    LOOKED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Looks {
    fn push(&mut self, now: Instant, topics: &Topics) {
        if self.0.len() >= LOOKS {
            self.0.pop_front();
        }
        self.0.push_back((now, topics.clone()));
    }

    fn rates(&self, now: Instant, topics: &Topics) -> Option<BTreeMap<String, Rate>> {
        let (then, before) = self.0.front()?;
        let secs = now.saturating_duration_since(*then).as_secs_f64();
        if secs <= 0.0 {
            return None;
        }
        let rate = |(topic, traffic): (&String, &Traffic)| {
            let before = before.get(topic).copied().unwrap_or_default();
            let grown = |now: u64, before: u64| as_f64(now.saturating_sub(before)) / secs;
            let rate = Rate { read: grown(traffic.read, before.read), written: grown(traffic.written, before.written) };
            (topic.clone(), rate)
        };
        Some(topics.iter().map(rate).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn topics(read: u64, written: u64) -> Topics {
        Topics::from([("t".to_owned(), Traffic { read, written })])
    }

    #[test]
    fn a_rate_is_the_difference_to_the_oldest_look() {
        let (mut looks, start) = (Looks::default(), clock::instant());
        let at = |secs: u64| start + Duration::from_secs(secs);
        assert_eq!(looks.rates(at(0), &topics(7, 7)), None, "nothing to compare with");
        looks.push(at(0), &topics(100, 0));
        assert_eq!(looks.rates(at(0), &topics(100, 0)), None);
        looks.push(at(10), &topics(150, 0));
        let rates = looks.rates(at(20), &topics(200, 40)).unwrap();
        assert_eq!(rates["t"], Rate { read: 5.0, written: 2.0 });
        for turn in 2..=7 {
            looks.push(at(turn * 10), &topics(1_000, 0));
        }
        assert_eq!(looks.0.len(), LOOKS);
        assert_eq!(looks.rates(at(80), &topics(1_000, 0)).unwrap()["t"], Rate::default(), "a minute of silence");
    }

    #[test]
    fn a_counter_that_was_reset_has_no_negative_rate_and_a_new_topic_counts_from_nothing() {
        let (mut looks, start) = (Looks::default(), clock::instant());
        looks.push(start, &topics(100, 100));
        let later = start + Duration::from_secs(10);
        assert_eq!(looks.rates(later, &topics(3, 100)).unwrap()["t"], Rate::default());
        let fresh = Topics::from([("u".to_owned(), Traffic { read: 30, written: 0 })]);
        assert_eq!(looks.rates(later, &fresh).unwrap()["u"], Rate { read: 3.0, written: 0.0 });
    }
}
