//! How old the state of a node is that does not lead.
//!
//! To have heard the leader is not to have what it has: a node that catches up,
//! or whose answers do not get through, hears a heartbeat every moment and is
//! seconds behind. So a sign of the leader counts from when it came, but only
//! once this node has applied what the leader then said is committed. What a new
//! leader says counts once it has committed something itself: before that it may
//! not know yet what the one before it acknowledged.

use std::time::Instant;

#[derive(Default)]
pub(super) struct Freshness {
    /// When the newest sign came whose index is applied here.
    reached: Option<Instant>,
    /// A later sign, and the index that is not applied yet.
    ahead: Option<(u64, Instant)>,
}

impl Freshness {
    /// A leader said at `at` that `committed` is, and this node has applied `applied`.
    pub fn hear(&mut self, committed: u64, applied: u64, at: Instant) {
        self.settle(applied);
        if committed <= applied {
            (self.reached, self.ahead) = (Some(at), None);
        } else if self.ahead.is_none() {
            // The earliest is kept: under a steady stream of writes the latest is never reached.
            self.ahead = Some((committed, at));
        }
    }

    /// The time of which the state is known to have everything.
    pub fn since(&mut self, applied: u64) -> Option<Instant> {
        self.settle(applied);
        self.reached
    }

    fn settle(&mut self, applied: u64) {
        if let Some((_, at)) = self.ahead.take_if(|(committed, _)| *committed <= applied) {
            self.reached = Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Freshness;
    use crate::clock;

    #[test]
    fn a_sign_counts_once_what_it_says_is_applied() {
        let start = clock::instant();
        let at = |ms| start + Duration::from_millis(ms);
        let mut fresh = Freshness::default();
        assert_eq!(fresh.since(5), None, "nobody was heard");
        fresh.hear(5, 5, at(0));
        assert_eq!(fresh.since(5), Some(at(0)));
        fresh.hear(9, 5, at(100));
        fresh.hear(9, 6, at(200));
        assert_eq!(fresh.since(8), Some(at(0)), "it hears the leader and is behind");
        assert_eq!(fresh.since(9), Some(at(100)));
        fresh.hear(9, 9, at(300));
        assert_eq!(fresh.since(9), Some(at(300)));
    }

    #[test]
    fn a_node_just_behind_a_steady_stream_is_just_a_little_stale() {
        let start = clock::instant();
        let mut fresh = Freshness::default();
        for turn in 0..100 {
            fresh.hear(turn + 1, turn, start + Duration::from_millis(turn * 10));
            let since = fresh.since(turn + 1).unwrap();
            assert_eq!(since, start + Duration::from_millis(turn * 10));
        }
    }
}
