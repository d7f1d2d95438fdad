//! Says how many finished jobs stay in memory, and which are removed.
//!
//! What is configured is compared with the replicated state; where they differ a
//! command says so in the log, so that every node does the same at the same
//! place. Whole segments are removed, the oldest first, and only as long as
//! what is left is at least what is to be kept.

use std::time::Duration;

use tracing::info;

use super::{Duty, Options, Reign};
use crate::consensus;
use crate::domain::archive::Retain;
use crate::domain::{Command, Done, State, Timestamp};

/// Jobs that leave memory together: a part of those that stay, within bounds. Fewer would make many small files.
const BATCH_PART: u32 = 32;
const BATCH_MIN: u32 = 256;
const BATCH_MAX: u32 = 1_024;

/// What is kept of finished jobs. Zero: no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// In memory.
    pub hot: u32,
    pub max_age: Duration,
    pub count: u64,
    /// Of the archive on each node.
    pub bytes: u64,
}

impl Retention {
    /// Jobs in memory, and those that leave it together.
    fn hold(&self) -> (u32, u32) {
        let most = u32::try_from(self.count).unwrap_or(u32::MAX);
        let hot = if most > 0 { self.hot.min(most) } else { self.hot }.max(1);
        (hot, (hot / BATCH_PART).clamp(BATCH_MIN, BATCH_MAX))
    }

    /// What ended before this is removed.
    fn oldest(&self, now: Timestamp) -> Option<Timestamp> {
        let age = u64::try_from(self.max_age.as_millis()).unwrap_or(u64::MAX);
        (age > 0).then(|| Timestamp(now.0.saturating_sub(age)))
    }

    /// The newest segment that is to go.
    fn surplus(&self, state: &State, now: Timestamp) -> Option<u64> {
        let (archive, oldest) = (state.archive(), self.oldest(now));
        let mut jobs = archive.jobs().saturating_add(state.hot_jobs() as u64);
        let mut bytes = archive.bytes();
        let mut through = None;
        for segment in archive.segments() {
            let left = jobs.saturating_sub(segment.count());
            let old = oldest.is_some_and(|oldest| segment.last < oldest);
            let many = self.count > 0 && left >= self.count;
            let large = self.bytes > 0 && bytes > self.bytes;
            if !(old || many || large) {
                break;
            }
            through = Some(segment.number);
            (jobs, bytes) = (left, bytes.saturating_sub(segment.bytes));
        }
        through
    }

    /// What is to be said now.
    fn commands(&self, state: &State, now: Timestamp) -> Vec<Command> {
        let (hot, batch) = self.hold();
        let held = state.hold();
        let differs = held != (hot as usize, batch as usize);
        let hold = differs.then_some(Retain::Hold { hot, batch });
        let drop = self.surplus(state, now).map(|through| Retain::Drop { through });
        let old = self.oldest(now).filter(|oldest| state.expires(*oldest));
        let expire = old.map(|before| Retain::Expire { before });
        hold.into_iter().chain(drop).chain(expire).map(Command::Retain).collect()
    }
}

pub(super) struct Keeper;

impl Duty for Keeper {
    const NAME: &'static str = "retention";

    fn period(&self, _: &Options) -> Duration {
        Duration::from_secs(1)
    }

    async fn step(&mut self, reign: &Reign) -> Result<(), consensus::Error> {
        let (client, retention) = (&reign.context.client, &reign.context.options.retention);
        let now = client.log_now();
        let commands = client.read(|state| retention.commands(state, now));
        let replies = reign.record(Self::NAME, commands).await?;
        let removed = replies.iter().map(|reply| match reply {
            Ok(Done::Retained { removed }) => *removed,
            _ => 0,
        });
        let removed: u64 = removed.sum();
        if removed > 0 {
            let kept = client.read(|state| state.archive().jobs() + state.hot_jobs() as u64);
            info!(removed, kept, "finished jobs removed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_holds_no_more_than_is_kept_and_leaves_no_small_segments() {
        let of = |hot, count| Retention { hot, count, ..Retention::default() }.hold();
        assert_eq!(of(100_000, 1_000_000), (100_000, 1_024), "as a state without a word about it");
        assert_eq!(of(100_000, 0), (100_000, 1_024));
        assert_eq!(of(1_000, 640), (640, 256));
        assert_eq!(of(16, 1), (1, 256));
        assert_eq!(of(20_000, 0), (20_000, 625));
    }

    #[test]
    fn a_state_as_configured_asks_for_nothing() {
        let retention = Retention { hot: 100_000, ..Retention::default() };
        assert!(retention.commands(&State::default(), Timestamp(1)).is_empty());
        let fewer = Retention { hot: 64, ..Retention::default() };
        let wanted = [Command::Retain(Retain::Hold { hot: 64, batch: 256 })];
        assert_eq!(fewer.commands(&State::default(), Timestamp(1)), wanted);
    }
}
