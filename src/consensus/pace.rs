//! How fast bulk data goes between members: snapshots and segments must not crowd out entries.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// Bytes a second of one snapshot, or of the segments for one.
const RATE: f64 = (96 << 20) as f64;

/// Sent ahead of the rate after a pause.
const BURST: Duration = Duration::from_millis(50);

/// Slows down whoever says what has passed.
pub(super) struct Pace {
    /// When what has passed so far would have passed at the rate.
    due: Mutex<Instant>,
}

impl Pace {
    pub fn new() -> Self {
        Self { due: Mutex::new(clock::instant()) }
    }

    /// So many bytes have passed: waits until that many may have.
    pub async fn passed(&self, bytes: usize) {
        let wait = self.charge(bytes, clock::instant());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn charge(&self, bytes: usize, now: Instant) -> Duration {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = (*due).max(now) + Duration::from_secs_f64(bytes as f64 / RATE);
        due.saturating_duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_in_a_second_is_what_may() {
        let pace = Pace::new();
        let now = clock::instant();
        let waits: Duration = pace.charge(1 << 20, now);
        assert_eq!(waits, Duration::ZERO, "a little goes at once");
        let wait = pace.charge(192 << 20, now);
        assert!(wait > Duration::from_millis(1_900) && wait < Duration::from_millis(2_100), "{wait:?}");
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.charge(1 << 20, later), Duration::ZERO, "a pause is not made up for, and not punished");
    }
}
