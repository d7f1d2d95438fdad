//! Tells workers to stop what the log does not want them to run.
//!
//! A heartbeat names what the worker believes it runs. An attempt that the log
//! does not hold for that worker (cancelled, lost, awarded elsewhere, finished)
//! is told to stop, again with every heartbeat until it is gone. A worker that
//! the log does not know is told to register.
//!
//! A stop destroys work and carries no term, so it is ordered only by a leader
//! that a majority still follows, and from a state newer than the heartbeat. One
//! that was deposed and does not know it yet would stop what its successor awarded.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::debug;

use super::sends::Sends;
use super::{Duty, Options, Reign};
use crate::clock;
use crate::consensus;
use crate::domain::{State, WorkerId};
use crate::mesh::Heard;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// Repeating ourselves sooner than this is noise.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long a step waits for answers. Who is slower is asked again when it has answered or not.
const ANSWERS_WAIT: Duration = Duration::from_millis(100);

/// How long the majority may take to confirm that we lead.
const CONFIRM_LIMIT: Duration = Duration::from_secs(1);

/// The reason that makes a worker register.
const UNKNOWN_WORKER: &str = "unknown_worker";

#[derive(Default)]
pub(super) struct Reconcile {
    told: BTreeMap<WorkerId, std::time::Instant>,
    sends: Sends<()>,
}

impl Duty for Reconcile {
    const NAME: &'static str = "reconcile";

    fn period(&self, _: &Options) -> Duration {
        Duration::from_millis(200)
    }

    async fn step(&mut self, reign: &Reign) -> Result<(), consensus::Error> {
        self.sends.settle(Duration::ZERO).await;
        let now = clock::instant();
        let fresh = reign.context.roster.fresher_than(now, reign.context.options.offline_after);
        self.told.retain(|_, at| now.saturating_duration_since(*at) < AGAIN_AFTER);
        if self.stops(reign, &fresh).is_empty() {
            return Ok(());
        }
        reign.context.client.linearize(CONFIRM_LIMIT).await?;
        for (worker, stop) in self.stops(reign, &fresh) {
            debug!(worker = %worker, attempts = stop.attempts.len(), reason = stop.reason, "stop");
            self.told.insert(worker, now);
            let body = Some(proto::coordinator_request::Body::Stop(stop));
            let bytes = wire::encode(&proto::CoordinatorRequest { body });
            let reign = reign.clone();
            let request = async move { reign.ask(worker, bytes, Duration::from_secs(1)).await.is_ok() };
            self.sends.send(worker, (), request);
        }
        self.sends.settle(ANSWERS_WAIT).await;
        Ok(())
    }
}

impl Reconcile {
    fn stops(&self, reign: &Reign, fresh: &[(WorkerId, Heard)]) -> Vec<(WorkerId, proto::Stop)> {
        reign.context.client.read(|state| {
            let unwanted = fresh.iter().filter_map(|(worker, heard)| Some((*worker, unwanted(state, *worker, heard)?)));
            let due = |worker| !self.told.contains_key(&worker) && !self.sends.is_busy(worker);
            unwanted.filter(|(worker, _)| due(*worker)).collect()
        })
    }
}

/// What `worker` must stop, or that it must register.
pub(super) fn unwanted(state: &State, worker: WorkerId, heard: &Heard) -> Option<proto::Stop> {
    if state.worker(worker).is_none() {
        return (!heard.stopping).then(|| proto::Stop { attempts: vec![], reason: UNKNOWN_WORKER.to_owned() });
    }
    let held = |(job, attempt): (crate::domain::JobId, u32)| {
        state.job(job).and_then(|job| job.run(attempt)).is_some_and(|run| run.award.worker == worker)
    };
    let attempts: Vec<_> = heard
        .running
        .iter()
        .filter(|attempt| !held(**attempt))
        .map(|(job, attempt)| wire::attempt_ref(*job, *attempt))
        .collect();
    (!attempts.is_empty()).then(|| proto::Stop { attempts, reason: "not_held".to_owned() })
}
