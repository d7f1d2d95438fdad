//! Judges who lives, from heartbeats that every coordinator hears.
//!
//! Only a change of verdict enters the log. A new leader judges by what it
//! heard as a follower, so a change of leader changes no verdict; a worker it
//! never heard (this process is young, and workers still find their way back to
//! it) gets a longer time, from when this leader first looked for it. Time in
//! which this process did not run is not held against anyone ([`Roster::attend`]).
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
        let (silence, patience) = match heard {
            Some(silence) => (silence, limit),
            None => {
                let since = *self.unheard.entry(worker).or_insert(now);
                (now.saturating_duration_since(since), limit * NEVER_HEARD)
            }
        };
        if old != Verdict::Offline && silence > patience {
            info!(worker = %worker, silent_ms = silence.as_millis(), "worker is offline");
            return Some(Command::SetVerdict { worker, verdict: Verdict::Offline });
        }
        if old == Verdict::Offline && heard.is_some_and(|silence| silence < limit / 2) {
            info!(worker = %worker, "worker is back online");
            return Some(Command::SetVerdict { worker, verdict: Verdict::Online });
        }
        None
    }
}
