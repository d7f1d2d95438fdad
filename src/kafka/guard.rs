//! Calls into the client crate that panic on what others sent.
//!
//! It takes header names and hosts for UTF-8 and panics when they are not. Such
//! a panic is caught here; the hook that ends the process lets it pass.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// True on a thread while it reads what others sent through the client crate. A
/// panic there is caught, so a panic hook that ends the process must let it pass.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Runs `work`; `None` if it panicked. It must leave nothing half done behind.
#[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "without a client only its test calls it"))]
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    GUARDED.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    done.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_caught_and_known_as_such() {
        assert!(!is_guarded());
        assert_eq!(guarded(is_guarded), Some(true));
        assert_eq!(guarded(|| [0_u8; 0].first().copied().unwrap()), None);
        assert!(!is_guarded());
    }
}
