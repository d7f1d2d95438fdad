//! Keeps leases alive while workers say they run the job, and ends them when not.
//!
//! A lease is long against any election, and renewed when a third of it is
//! gone, so a change of leader restarts nothing. Whoever renewed a lease last may
//! have died before it told the worker, so a new leader tells every worker how
//! long it may go on. A lease ends in four ways: the
//! worker went offline (`verdicts`), the lease lapsed and the worker does not
//! claim the attempt, the worker is well and says by its heartbeats that it
//! does not run an attempt that the log says is running, or it claims an attempt
//! that it should have ended at its timeout: such a lease is not renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::sends::Sends;
use super::{Duty, Options, Reign};
use crate::clock;
use crate::consensus;
use crate::domain::command::Fail;
use crate::domain::job::Award;
use crate::domain::run::Run;
use crate::domain::{Command, Job, JobId, State, Timestamp, WorkerId};
use crate::mesh::{Heard, Roster};
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// Renewals told to one worker in one message.
const TOLD_MAX: usize = wire::ITEMS_MAX;

/// Heartbeats in a row that must not claim a running attempt before it counts as forgotten.
const DENIALS: u32 = 3;

/// How long after its start a running attempt may be missing from heartbeats.
const SETTLE_MS: u64 = 2_000;

/// How long a step waits for answers to renewals.
const ANSWERS_WAIT: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Leases {
    /// Running attempts that heartbeats did not claim: how often in a row, and the last heartbeat counted.
    denied: BTreeMap<Key, (u32, u64)>,
    /// Attempts whose workers do not know yet how long they may go on.
    pub(super) untold: BTreeSet<Key>,
    /// What they are being told.
    telling: Sends<Vec<Key>>,
    /// When this term's first look was.
    since: Option<Instant>,
}

pub(super) type Key = (JobId, u32);

/// When runs are judged, and by what.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    /// The log's clock.
    pub at: Timestamp,
    pub instant: Instant,
    pub lease: Duration,
}

/// What a worker that is heard of says it runs.
pub(super) struct Claim {
    at: Timestamp,
    seq: u64,
    running: BTreeSet<Key>,
}

/// What the look at one held run says must be done.
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
        let held = reign.context.client.read(held);
        let (instant, options) = (clock::instant(), &reign.context.options);
        let claims = claims(&reign.context.roster, instant, options.offline_after);
        let sight = Sight { at: reign.context.client.log_now(), instant, lease: options.lease };
        let commands = self.judge(&held, &claims, sight);
        metrics::leases("renewed", commands.iter().filter(|c| matches!(c, Command::Renew { .. })).count());
        let recorded = reign.record(Self::NAME, commands).await;
        // Also when nobody knows what became of the record: they are told what the log says.
        self.tell(reign).await;
        recorded.map(drop)
    }
}

fn key((job, attempt): &(Arc<Job>, u32)) -> Key {
    (job.id, *attempt)
}

/// One that has not is sent to its worker, with its lease.
fn has_started(job: &Job, attempt: u32) -> bool {
    job.run(attempt).is_some_and(|run| run.award.started_at.is_some())
}

pub(super) fn held(state: &State) -> Vec<(Arc<Job>, u32)> {
    state.held_runs().map(|(job, run)| (Arc::clone(job), run.attempt)).collect()
}

pub(super) fn claims(roster: &Roster, now: Instant, offline_after: Duration) -> BTreeMap<WorkerId, Claim> {
    let heard = roster.fresher_than(now, offline_after);
    let claim = |heard: Heard| Claim { at: heard.at, seq: heard.seq, running: heard.running.into_iter().collect() };
    heard.into_iter().map(|(worker, heard)| (worker, claim(heard))).collect()
}

impl Leases {
    /// What is to be said of the runs that are held.
    pub(super) fn judge(
        &mut self,
        held: &[(Arc<Job>, u32)],
        claims: &BTreeMap<WorkerId, Claim>,
        sight: Sight,
    ) -> Vec<Command> {
        let lease_ms = millis(sight.lease);
        let keys: BTreeSet<Key> = held.iter().map(key).collect();
        self.denied.retain(|key, _| keys.contains(key));
        self.untold.retain(|key| keys.contains(key));
        if self.since.is_none() {
            self.since = Some(sight.instant);
            self.untold.extend(held.iter().filter(|(job, attempt)| has_started(job, *attempt)).map(key));
        }
        let mut commands = Vec::new();
        for (job, attempt) in held {
            let Some(run) = job.run(*attempt) else { continue };
            let (id, attempt, worker) = (job.id, run.attempt, run.award.worker);
            match self.look(sight, job, run, claims.get(&worker)) {
                Need::Nothing => {}
                Need::Renew => {
                    commands.push(Command::Renew { job: id, attempt, lease_ms });
                    self.untold.insert((id, attempt));
                }
                Need::Expire => {
                    info!(job = %id, attempt, worker = %worker, "lease expired");
                    metrics::leases("expired", 1);
                    commands.push(Command::Expire { job: id, attempt });
                }
                Need::Forgotten => commands.push(forgotten(id, attempt, worker)),
            }
        }
        commands
    }

    fn look(&mut self, sight: Sight, job: &Job, run: &Run, claim: Option<&Claim>) -> Need {
        let Sight { at: now, lease, .. } = sight;
        let (key, award) = ((job.id, run.attempt), &run.award);
        let lapsed = award.lease_until <= now;
        let Some(claim) = claim else { return if lapsed { Need::Expire } else { Need::Nothing } };
        if claim.running.contains(&key) {
            self.denied.remove(&key);
            if self.overran(job, award, sight) {
                return if lapsed { Need::Expire } else { Need::Nothing };
            }
            let left = award.lease_until.since(now);
            return if left < millis(lease) * 2 / 3 { Need::Renew } else { Need::Nothing };
        }
        if lapsed {
            return Need::Expire;
        }
        if self.denies(key, award, claim) { Need::Forgotten } else { Need::Nothing }
    }

    /// Whether the worker should have ended the attempt by itself a whole lease ago. A new leader waits
    /// for as long: the cluster may have been away, and results be on their way.
    fn overran(&mut self, job: &Job, award: &Award, sight: Sight) -> bool {
        let Sight { at: now, instant, lease } = sight;
        let since = *self.since.get_or_insert(instant);
        let began = award.started_at.unwrap_or(award.assigned_at);
        let longest = Duration::from_secs(job.spec.timeout_secs.into()) + lease;
        now.since(began) > millis(longest) && instant.saturating_duration_since(since) > lease
    }

    /// Whether the worker has now said often enough that it does not run this.
    fn denies(&mut self, key: Key, award: &Award, claim: &Claim) -> bool {
        let settled = award.started_at.is_some_and(|started| claim.at.since(started) > SETTLE_MS);
        if !settled {
            return false;
        }
        let (count, seq) = self.denied.entry(key).or_insert((0, 0));
        if *seq != claim.seq {
            (*count, *seq) = (*count + 1, claim.seq);
        }
        *count >= DENIALS
    }

    /// Tells workers how long they may go on. Who could not be told is told in the next step.
    async fn tell(&mut self, reign: &Reign) {
        self.take_answers(Duration::ZERO).await;
        let now = reign.context.client.log_now();
        let mut renewals = reign.context.client.read(|state| self.renewals(state, now));
        renewals.retain(|worker, _| !self.telling.is_busy(*worker));
        for (worker, renewals) in renewals {
            let (keys, renewals): (Vec<Key>, Vec<_>) = renewals.into_iter().unzip();
            // Renewed again while this is under way, it is told again.
            for key in &keys {
                self.untold.remove(key);
            }
            let body = proto::coordinator_request::Body::Renew(proto::Renew { renewals });
            let bytes = wire::encode(&proto::CoordinatorRequest { body: Some(body) });
            let reign = reign.clone();
            let request = async move { reign.ask(worker, bytes, Duration::from_secs(1)).await.is_ok() };
            self.telling.send(worker, keys, request);
        }
        self.take_answers(ANSWERS_WAIT).await;
    }

    /// What each worker is to be told.
    pub(super) fn renewals(&self, state: &State, now: Timestamp) -> BTreeMap<WorkerId, Vec<(Key, proto::Renewal)>> {
        let mut renewals: BTreeMap<WorkerId, Vec<(Key, proto::Renewal)>> = BTreeMap::new();
        for key in &self.untold {
            let Some(run) = state.job(key.0).and_then(|job| job.run(key.1)) else { continue };
            let award = &run.award;
            let told = renewals.entry(award.worker).or_default();
            if told.len() < TOLD_MAX {
                told.push((*key, renewal(*key, award.lease_until.since(now))));
            }
        }
        renewals
    }

    async fn take_answers(&mut self, limit: Duration) {
        let ended = self.telling.settle(limit).await;
        self.untold.extend(ended.into_iter().filter(|end| !end.answered).flat_map(|end| end.note));
    }
}

fn forgotten(job: JobId, attempt: u32, worker: WorkerId) -> Command {
    info!(job = %job, attempt, worker = %worker, "worker does not know the attempt it started");
    Command::Fail(Box::new(Fail {
        job,
        attempt,
        worker,
        code: "worker_forgot".to_owned(),
        detail: "the worker's heartbeats no longer name this attempt; it was probably restarted".to_owned(),
        retryable: true,
    }))
}

fn renewal((job, attempt): Key, lease_ms: u64) -> proto::Renewal {
    let lease_ms = u32::try_from(lease_ms).unwrap_or(u32::MAX);
    proto::Renewal { attempt: Some(wire::attempt_ref(job, attempt)), lease_ms }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
