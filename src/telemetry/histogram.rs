//! Durations counted in fixed buckets: what a scrape shows, and quantiles for
//! people. Lock-free; a scrape may see a count one behind its sum.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds; an unbounded bucket follows.
pub(super) const BOUNDS: [f64; 31] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25,
    0.275, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8, 1.0, 2.5, 5.0, 10.0, 30.0,
];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// Observations per bucket, not cumulative.
    pub buckets: [u64; BOUNDS.len() + 1],
    pub sum_secs: f64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let secs = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < secs);
        if let Some(counter) = self.buckets.get(bucket) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn read(&self) -> Reading {
        let mut reading =
            Reading { sum_secs: micros_to_secs(self.sum_us.load(Ordering::Relaxed)), ..Reading::default() };
        for (to, from) in reading.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        reading
    }
}

impl Reading {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The value below which `share` (0–1) of the observations lie, in seconds,
    /// interpolated within its bucket. `None` when nothing was observed.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = share * as_f64(count);
        let mut below = 0.0;
        let mut low = 0.0;
        for (bucket, high) in self.buckets.iter().zip(BOUNDS) {
            let here = as_f64(*bucket);
            if here > 0.0 && below + here >= rank {
                return Some(low + (high - low) * ((rank - below) / here).clamp(0.0, 1.0));
            }
            below += here;
            low = high;
        }
        Some(low)
    }
}

/// Exact up to 2^53, which no count here reaches.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

pub(super) fn micros_to_secs(micros: u64) -> f64 {
    as_f64(micros) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_fall_into_the_bucket_of_their_rank() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read().quantile(0.5), None);
        for _ in 0..90 {
            histogram.observe(Duration::from_micros(700));
        }
        for _ in 0..10 {
            histogram.observe(Duration::from_millis(80));
        }
        let reading = histogram.read();
        assert_eq!(reading.count(), 100);
        let (p50, p99) = (reading.quantile(0.5).unwrap(), reading.quantile(0.99).unwrap());
        assert!((0.0005..=0.001).contains(&p50), "{p50}");
        assert!((0.05..=0.1).contains(&p99), "{p99}");
        assert!((reading.sum_secs - 0.863).abs() < 1e-9, "{}", reading.sum_secs);
    }

    #[test]
    fn beyond_the_last_bound_is_still_counted() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_secs(3600));
        assert_eq!(histogram.read().count(), 1);
        assert_eq!(histogram.read().quantile(0.5), Some(30.0));
    }
}
