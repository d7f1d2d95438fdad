//! Raising the feature level, one step at a time.

use super::Step;
use crate::domain::command::{Done, Refusal, Reply};

impl Step<'_> {
    /// Whoever proposes it has looked that every member knows the level.
    pub(super) fn raise_level(&mut self, to: u32) -> Reply {
        let level = self.state.level;
        if to <= level {
            return Ok(Done::Level(level));
        }
        if to != level.saturating_add(1) {
            return Err(Refusal::Invalid(format!("the cluster is at feature level {level}, so {to} is not the next")));
        }
        self.state.level = to;
        Ok(Done::Level(to))
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn trial(&mut self, add: u64) -> Reply {
        use crate::domain::level::TRIAL;
        if self.state.level < TRIAL {
            return Err(Refusal::Invalid(format!("a command of feature level {TRIAL}")));
        }
        self.state.trial.commands += 1;
        self.state.trial.sum = self.state.trial.sum.wrapping_add(add);
        Ok(Done::Unchanged)
    }
}
