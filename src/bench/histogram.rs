//! Durations counted by size: bounded memory for any number of them.
//!
//! Buckets grow with the value, 128 to each power of two, so a percentile is at
//! most 0.8 % above the true one. The largest value is kept exactly.

use std::time::Duration;

use serde::Serialize;

/// Buckets to a power of two, as a power of two.
const PRECISION: u32 = 7;
const PER_OCTAVE: usize = 1 << PRECISION;
const BUCKETS: usize = PER_OCTAVE * (64 - PRECISION as usize + 1);

/// Microseconds.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

/// What a report says about a set of durations, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, max: 0 }
    }

    pub(super) fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The smallest value that `percent` of all values do not exceed, by
    /// nearest rank. 0 if there are none.
    pub(super) fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(bucket).min(self.max);
            }
        }
        0
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            count: self.count,
            p50_us: self.percentile(50),
            p90_us: self.percentile(90),
            p99_us: self.percentile(99),
            max_us: self.max,
        }
    }
}

impl FromIterator<Duration> for Histogram {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        let mut histogram = Self::new();
        durations.into_iter().for_each(|took| histogram.add(took));
        histogram
    }
}

fn bucket(micros: u64) -> usize {
    let bits = u64::BITS - micros.leading_zeros();
    let shift = bits.saturating_sub(PRECISION + 1);
    let within = (micros >> shift) as usize;
    (shift as usize) * PER_OCTAVE + within
}

/// The largest value that falls into `bucket`.
fn upper(bucket: usize) -> u64 {
    let shift = (bucket / PER_OCTAVE).saturating_sub(1);
    let within = (bucket - shift * PER_OCTAVE) as u64;
    let next = u128::from(within + 1) << shift;
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(values: impl IntoIterator<Item = u64>) -> Histogram {
        values.into_iter().map(Duration::from_micros).collect()
    }

    #[test]
    fn nothing_measured_is_all_zero() {
        assert_eq!(Histogram::new().summary(), Summary::default());
    }

    #[test]
    fn small_values_are_exact() {
        let summary = micros(1..=100).summary();
        assert_eq!(summary, Summary { count: 100, p50_us: 50, p90_us: 90, p99_us: 99, max_us: 100 });
        assert_eq!(micros([7]).summary(), Summary { count: 1, p50_us: 7, p90_us: 7, p99_us: 7, max_us: 7 });
    }

    #[test]
    fn one_slow_request_in_a_hundred_is_the_maximum_and_not_the_p99() {
        let summary = micros(std::iter::repeat_n(100, 99).chain([5_000_000])).summary();
        assert_eq!((summary.p50_us, summary.p99_us, summary.max_us), (100, 100, 5_000_000));
    }

    #[test]
    fn every_value_falls_into_a_bucket_that_ends_close_above_it() {
        let mut values: Vec<u64> = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).collect();
        values.extend([3, 127, 128, 129, 255, 256, 1000, 123_456, 9_876_543, u64::MAX]);
        for value in values {
            let upper = upper(bucket(value));
            assert!(bucket(value) < BUCKETS, "{value}");
            assert!(upper >= value, "{value} is above its bucket, which ends at {upper}");
            assert!((upper - value) as f64 <= value as f64 * 0.008, "{value} in a bucket up to {upper}");
        }
    }

    #[test]
    fn percentiles_agree_with_a_sorted_list() {
        let mut values: Vec<u64> = (0..10_000u64).map(|i| i.wrapping_mul(2_654_435_761) % 3_000_000).collect();
        let histogram = micros(values.iter().copied());
        values.sort_unstable();
        for percent in [1, 50, 90, 99, 100] {
            let exact = values[values.len() * percent as usize / 100 - 1] as f64;
            let ours = histogram.percentile(percent) as f64;
            assert!(ours >= exact && ours <= exact * 1.01 + 1.0, "p{percent}: {ours} instead of {exact}");
        }
    }
}
