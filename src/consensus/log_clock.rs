//! The log's clock: what records are stamped with, and what leaders judge lateness by.
//!
//! Wall clocks step back, and a new leader's may be behind the last one's. The
//! state's clock never runs backwards, so with the wall alone it would stand
//! still until the wall has caught up, and nothing would fall due meanwhile.
//! Here the clock goes on from the latest time known, at nine tenths of the
//! true speed, until the wall is ahead again.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::clock;
use crate::domain::Timestamp;

#[derive(Default)]
pub(super) struct LogClock {
    /// The last time that came from outside, and when it came. What was told
    /// since is counted from there, so that no fraction is lost between calls.
    anchor: Mutex<Option<(Timestamp, Instant)>>,
}

impl LogClock {
    /// Now: never before `applied`, the state's clock, nor before what was told last.
    pub fn now(&self, applied: Timestamp) -> Timestamp {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        advance(&mut anchor, applied.max(clock::now()), clock::instant())
    }
}

/// The clock's one step: told `outside` at the instant `at`.
pub(crate) fn advance(anchor: &mut Option<(Timestamp, Instant)>, outside: Timestamp, at: Instant) -> Timestamp {
    let going_on = anchor.map(|(time, since)| {
        let elapsed = at.saturating_duration_since(since).as_millis();
        time.after_ms(u64::try_from(elapsed * 9 / 10).unwrap_or(u64::MAX))
    });
    match going_on {
        Some(time) if time >= outside => time,
        _ => {
            *anchor = Some((outside, at));
            outside
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Timestamp, advance, clock};

    #[test]
    fn time_goes_on_while_the_wall_is_behind() {
        let begun = clock::instant();
        let mut anchor = None;
        let ahead = Timestamp(1_000_000);
        let mut last = advance(&mut anchor, ahead, begun);
        assert_eq!(last, ahead);
        // Asked far more often than once in a millisecond, by a wall an hour behind.
        for micros in (0..10_000_000).step_by(137) {
            let time = advance(&mut anchor, Timestamp(micros / 1_000), begun + Duration::from_micros(micros));
            assert!(time >= last, "{time:?} after {last:?}");
            last = time;
        }
        let gone = last.since(ahead);
        assert!((8_990..=9_000).contains(&gone), "{gone} ms of 10 s");
    }

    #[test]
    fn the_wall_leads_again_once_it_is_ahead() {
        let begun = clock::instant();
        let mut anchor = None;
        advance(&mut anchor, Timestamp(5_000), begun);
        let behind = begun + Duration::from_secs(1);
        assert_eq!(advance(&mut anchor, Timestamp(4_000), behind), Timestamp(5_900));
        assert_eq!(advance(&mut anchor, Timestamp(6_001), behind), Timestamp(6_001));
        assert_eq!(advance(&mut anchor, Timestamp(0), behind), Timestamp(6_001), "and is not forgotten");
    }
}
