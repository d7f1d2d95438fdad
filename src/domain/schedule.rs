//! When a job runs again: back-off with jitter, decided from the log alone.
//!
//! The jitter keeps jobs that failed together from coming back together. It is
//! a hash of the job and the failure, so every node computes the same delay.

use sha2::{Digest as _, Sha256};

use super::ids::JobId;
use super::job::Retry;

/// Doublings (or whatever the multiplier says) looked at; the cap is reached long before.
const STEPS_MAX: u32 = 1_000;

/// How far the jitter reaches to either side, in thousandths.
const JITTER_PERMILLE: u128 = 100;

/// Milliseconds until the attempt after failure number `failures` (1 = first), jittered ±10 % by job and failure.
///
/// Never above `retry.max_delay_ms`, jitter included.
pub fn retry_delay_ms(retry: &Retry, job: JobId, failures: u32) -> u64 {
    let base = u128::from(backed_off_ms(retry, failures));
    let permille = 1_000 - JITTER_PERMILLE + u128::from(jitter(job, failures)) % (2 * JITTER_PERMILLE + 1);
    let jittered = base * permille / 1_000;
    u64::try_from(jittered).unwrap_or(u64::MAX).min(retry.max_delay_ms)
}

/// The delay before jitter.
fn backed_off_ms(retry: &Retry, failures: u32) -> u64 {
    let cap = u128::from(retry.max_delay_ms);
    let mut delay = u128::from(retry.initial_delay_ms).min(cap);
    for _ in 1..failures.min(STEPS_MAX) {
        let next = (delay * u128::from(retry.multiplier_permille) / 1_000).min(cap);
        if next == delay {
            break;
        }
        delay = next;
    }
    u64::try_from(delay).unwrap_or(retry.max_delay_ms)
}

fn jitter(job: JobId, failures: u32) -> u64 {
    let digest: [u8; 32] = Sha256::new().chain_update(job.0).chain_update(failures.to_be_bytes()).finalize().into();
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::{JobId, Retry, backed_off_ms, retry_delay_ms};

    #[test]
    fn doubles_until_the_cap() {
        let retry = Retry::default();
        let bases: Vec<u64> = (1..=8).map(|failures| backed_off_ms(&retry, failures)).collect();
        assert_eq!(bases, [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]);
    }

    #[test]
    fn jitter_stays_within_a_tenth_and_differs_between_jobs() {
        let retry = Retry::default();
        let delays: Vec<u64> = (0..100u8).map(|n| retry_delay_ms(&retry, JobId([n; 16]), 1)).collect();
        assert!(delays.iter().all(|delay| (4_500..=5_500).contains(delay)), "{delays:?}");
        let distinct: std::collections::BTreeSet<_> = delays.iter().collect();
        assert!(distinct.len() > 50, "{delays:?}");
        assert_eq!(delays[7], retry_delay_ms(&retry, JobId([7; 16]), 1));
    }

    #[test]
    fn absurd_numbers_saturate() {
        let retry = Retry {
            max_attempts: 1,
            initial_delay_ms: u64::MAX,
            multiplier_permille: u32::MAX,
            max_delay_ms: u64::MAX,
        };
        assert!(retry_delay_ms(&retry, JobId([1; 16]), u32::MAX) >= u64::MAX / 10 * 9);
        let shrinking = Retry { multiplier_permille: 0, ..Retry::default() };
        assert_eq!(retry_delay_ms(&shrinking, JobId([1; 16]), 2), 0);
        let capped = Retry { initial_delay_ms: 10_000, max_delay_ms: 1_000, ..Retry::default() };
        assert!((0..100u8).all(|n| retry_delay_ms(&capped, JobId([n; 16]), 3) <= 1_000));
    }
}
