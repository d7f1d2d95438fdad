//! Judges who lives, from heartbeats that every coordinator hears.
//!
//! Only a change of verdict enters the log. A new leader judges by what it
//! heard as a follower, so a change of leader changes no verdict; a worker it
//! never heard (this process is young, and workers still find their way back to
//! it) gets a longer time from the start of the term. Time in which
//! this process did not run is not held against anyone ([`Roster::attend`]).
//!
//! [`Roster::attend`]: crate::mesh::Roster::attend

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Duty, Options, Reign};
use crate::clock;
use crate::consensus;
use crate::domain::worker::Verdict;
use crate::domain::{Command, WorkerId};

/// How much longer than usual a worker may be silent that this process never heard.
const NEVER_HEARD: u32 = 3;

pub(super) struct Verdicts;

impl Duty for Verdicts {
    const NAME: &'static str = "verdicts";

    fn period(&self, _: &Options) -> Duration {
        Duration::from_millis(200)
    }

    async fn step(&mut self, reign: &Reign) -> Result<(), consensus::Error> {
        let now = clock::instant();
        if let Some(away) = reign.context.roster.attend(now) {
            warn!(away_ms = away.as_millis(), "this process was not running for a while; workers are not blamed");
        }
        let verdicts: Vec<(WorkerId, Verdict)> =
            reign.context.client.read(|state| state.workers().map(|worker| (worker.id, worker.verdict)).collect());
        let commands = verdicts.into_iter().filter_map(|(worker, old)| judge(reign, now, worker, old)).collect();
        reign.record(Self::NAME, commands).await.map(drop)
    }
}

/// The command that changes the verdict on `worker`, if it must change.
fn judge(reign: &Reign, now: Instant, worker: WorkerId, old: Verdict) -> Option<Command> {
    let limit = reign.context.options.offline_after;
    let heard = reign.context.roster.silence(worker, now);
    let (silence, patience) = match heard {
        Some(silence) => (silence, limit),
        None => (now.saturating_duration_since(reign.since), limit * NEVER_HEARD),
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
