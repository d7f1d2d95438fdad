//! When a job runs again: back-off with jitter, decided from the log alone.

use super::ids::JobId;
use super::job::Retry;

/// Milliseconds until the attempt after failure number `failures` (1 = first), jittered ±10 % by job and failure.
pub fn retry_delay_ms(_retry: &Retry, _job: JobId, _failures: u32) -> u64 {
    todo!()
}
