//! The only reader of time.
//!
//! Wall time is for people and for the log; it may jump. Durations are measured
//! with [`instant`], which does not. The domain is told the time, see
//! [`crate::domain::time`].

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::domain::Timestamp;

/// Wall-clock time, now. 0 if the clock is before 1970.
#[expect(clippy::disallowed_methods, reason = "this file is the one reader of time")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Monotonic time, now.
#[expect(clippy::disallowed_methods, reason = "this file is the one reader of time")]
pub fn instant() -> Instant {
    Instant::now()
}

/// An id nobody else has. It begins with the time, so later ones sort behind.
#[expect(clippy::disallowed_methods, reason = "this file is the one reader of time")]
pub fn uuid() -> Uuid {
    Uuid::now_v7()
}
