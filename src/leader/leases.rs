//! Keeps leases alive while workers say they run the job, and ends them when not.
//!
//! A lease is long against any election, and renewed when a third of it is
//! gone, so a change of leader restarts nothing. It ends in three ways: the
//! worker went offline (`verdicts`), the lease lapsed and the worker does not
//! claim the attempt, or the worker is well and says by its heartbeats that it
//! does not run an attempt that the log says is running.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::{Duty, Options, Reign};
use crate::clock;
use crate::consensus;
use crate::domain::command::Fail;
use crate::domain::job::Award;
use crate::domain::{Command, Job, JobId, JobState, Timestamp, WorkerId};
use crate::mesh::Heard;
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// Renewals told to one worker in one message.
const TOLD_MAX: usize = wire::ITEMS_MAX;

/// Heartbeats in a row that must not claim a running attempt before it counts as forgotten.
const DENIALS: u32 = 3;

/// How long after its start a running attempt may be missing from heartbeats.
const SETTLE_MS: u64 = 2_000;

#[derive(Default)]
pub(super) struct Leases {
    /// Running attempts that heartbeats did not claim: how often in a row, and the last heartbeat counted.
    denied: BTreeMap<(JobId, u32), (u32, u64)>,
}

/// What the look at one held job says must be done.
enum Need {
    Nothing,
    Renew,
    Expire,
    Forgotten,
}

impl Duty for Leases {
    const NAME: &'static str = "leases";

    fn period(&self, options: &Options) -> Duration {
        (options.lease / 20).clamp(Duration::from_millis(100), Duration::from_millis(500))
    }

    async fn step(&mut self, reign: &Reign) -> Result<(), consensus::Error> {
        let now = clock::now();
        let lease_ms = millis(reign.context.options.lease);
        let held: Vec<Arc<Job>> = reign.context.client.read(|state| state.held_jobs().cloned().collect());
        let mut commands = Vec::new();
        let mut renewed: BTreeMap<WorkerId, Vec<proto::Renewal>> = BTreeMap::new();
        for job in &held {
            let Some(award) = &job.award else { continue };
            match self.look(reign, now, job, award) {
                Need::Nothing => {}
                Need::Renew => {
                    commands.push(Command::Renew { job: job.id, attempt: job.attempt, lease_ms });
                    renewed.entry(award.worker).or_default().push(renewal(job, lease_ms));
                }
                Need::Expire => {
                    info!(job = %job.id, attempt = job.attempt, worker = %award.worker, "lease expired");
                    metrics::leases("expired", 1);
                    commands.push(Command::Expire { job: job.id, attempt: job.attempt });
                }
                Need::Forgotten => commands.push(forgotten(job, award)),
            }
        }
        self.denied.retain(|key, _| held.iter().any(|job| (job.id, job.attempt) == *key));
        metrics::leases("renewed", renewed.values().map(Vec::len).sum());
        reign.record(Self::NAME, commands).await?;
        tell(reign, renewed).await;
        Ok(())
    }
}

impl Leases {
    fn look(&mut self, reign: &Reign, now: Timestamp, job: &Job, award: &Award) -> Need {
        let options = &reign.context.options;
        let heard = reign
            .context
            .roster
            .get(award.worker)
            .filter(|heard| clock::instant().saturating_duration_since(heard.instant) <= options.offline_after);
        let Some(heard) = heard else {
            return if award.lease_until <= now { Need::Expire } else { Need::Nothing };
        };
        if heard.running.contains(&(job.id, job.attempt)) {
            self.denied.remove(&(job.id, job.attempt));
            let left = award.lease_until.since(now);
            return if left < millis(options.lease) * 2 / 3 { Need::Renew } else { Need::Nothing };
        }
        if award.lease_until <= now {
            return Need::Expire;
        }
        if job.state == JobState::Running && self.denies(job, award, &heard) { Need::Forgotten } else { Need::Nothing }
    }

    /// Whether the worker has now said often enough that it does not run this.
    fn denies(&mut self, job: &Job, award: &Award, heard: &Heard) -> bool {
        let settled = award.started_at.is_some_and(|started| heard.at.since(started) > SETTLE_MS);
        if !settled {
            return false;
        }
        let (count, seq) = self.denied.entry((job.id, job.attempt)).or_insert((0, 0));
        if *seq != heard.seq {
            (*count, *seq) = (*count + 1, heard.seq);
        }
        *count >= DENIALS
    }
}

fn forgotten(job: &Job, award: &Award) -> Command {
    info!(job = %job.id, attempt = job.attempt, worker = %award.worker, "worker does not know the attempt it started");
    Command::Fail(Box::new(Fail {
        job: job.id,
        attempt: job.attempt,
        worker: award.worker,
        code: "worker_forgot".to_owned(),
        detail: "the worker's heartbeats no longer name this attempt; it was probably restarted".to_owned(),
        retryable: true,
    }))
}

fn renewal(job: &Job, lease_ms: u64) -> proto::Renewal {
    proto::Renewal {
        attempt: Some(wire::attempt_ref(job.id, job.attempt)),
        lease_ms: u32::try_from(lease_ms).unwrap_or(u32::MAX),
    }
}

/// Tells workers how long they may go on. Lost messages are made good by the next renewal.
async fn tell(reign: &Reign, renewed: BTreeMap<WorkerId, Vec<proto::Renewal>>) {
    let sends = renewed.into_iter().flat_map(|(worker, renewals)| {
        renewals
            .chunks(TOLD_MAX)
            .map(|part| {
                let body = proto::coordinator_request::Body::Renew(proto::Renew { renewals: part.to_vec() });
                let bytes = wire::encode(&proto::CoordinatorRequest { body: Some(body) });
                reign.ask(worker, bytes, Duration::from_secs(1))
            })
            .collect::<Vec<_>>()
    });
    futures::future::join_all(sends).await;
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
