//! Judges who lives, from heartbeats that every coordinator hears.
//!
//! Only a change of verdict enters the log. A change of leader changes no
//! verdict: the coordinator that a worker spoke to may have died with it, so
//! silence counts from when this leader began at the earliest, and a worker that
//! it never heard (this process is young, and workers still find their way back
//! to it) gets a longer time. Time in which this process did not run is not held
//! against anyone ([`Roster::attend`]).
//!
//! [`Roster::attend`]: crate::mesh::Roster::attend

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::info;

use super::{Duty, Options, Reign};
use crate::clock;
use crate::consensus;
use crate::domain::worker::Verdict;
use crate::domain::{Command, WorkerId};

/// How much longer than usual a worker may be silent that this process never heard.
const NEVER_HEARD: u32 = 3;

#[derive(Default)]
pub(super) struct Verdicts {
    /// Workers this process never heard, and since when it listens for them.
    unheard: BTreeMap<WorkerId, Instant>,
    /// When this term's first look was.
    since: Option<Instant>,
}

impl Duty for Verdicts {
    const NAME: &'static str = "verdicts";

    fn period(&self, _: &Options) -> Duration {
        Duration::from_millis(200)
    }

    async fn step(&mut self, reign: &Reign) -> Result<(), consensus::Error> {
        let now = clock::instant();
        reign.context.roster.attend(now);
        let verdicts: Vec<(WorkerId, Verdict)> =
            reign.context.client.read(|state| state.workers().map(|worker| (worker.id, worker.verdict)).collect());
        let ids: BTreeSet<WorkerId> = verdicts.iter().map(|(worker, _)| *worker).collect();
        self.unheard.retain(|worker, _| ids.contains(worker));
        let commands = verdicts.into_iter().filter_map(|(worker, old)| self.judge(reign, now, worker, old)).collect();
        reign.record(Self::NAME, commands).await.map(drop)
    }
}

impl Verdicts {
    /// The command that changes the verdict on `worker`, if it must change.
    fn judge(&mut self, reign: &Reign, now: Instant, worker: WorkerId, old: Verdict) -> Option<Command> {
        let limit = reign.context.options.offline_after;
        let heard = reign.context.roster.silence(worker, now);
        let led_for = now.saturating_duration_since(*self.since.get_or_insert(now));
        let listened = |unheard: &mut BTreeMap<WorkerId, Instant>| {
            now.saturating_duration_since(*unheard.entry(worker).or_insert(now))
        };
        let is_gone = match heard {
            Some(silence) => is_gone(silence, led_for, limit),
            None => listened(&mut self.unheard) > limit * NEVER_HEARD,
        };
        if old != Verdict::Offline && is_gone {
            info!(worker = %worker, silent_ms = heard.map(|silence| silence.as_millis()), "worker is offline");
            return Some(Command::SetVerdict { worker, verdict: Verdict::Offline });
        }
        if old == Verdict::Offline && heard.is_some_and(|silence| silence < limit / 2) {
            info!(worker = %worker, "worker is back online");
            return Some(Command::SetVerdict { worker, verdict: Verdict::Online });
        }
        None
    }
}

/// Whether a worker that was silent for so long is gone, for a leader that has led for so long. Until then its
/// heartbeats may have gone to the one before, and it may be about to notice.
fn is_gone(silence: Duration, led_for: Duration, limit: Duration) -> bool {
    silence.min(led_for) > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_gives_workers_as_long_as_an_old_one_before_they_are_gone() {
        let limit = Duration::from_secs(4);
        let gone = |silence, led_for| is_gone(Duration::from_secs(silence), Duration::from_secs(led_for), limit);
        assert!(gone(5, 60) && gone(60, 5));
        assert!(!gone(4, 60), "a worker may be as slow as that");
        assert!(!gone(60, 4), "it spoke to those before");
    }
}
