//! Brings assignments to the workers that won them.
//!
//! Level-triggered: whatever the log says is assigned and not yet started is
//! sent, and sent again, until the worker answers or the lease ends. Repeats
//! are harmless: a worker answers for an attempt it already has as it did
//! before. What may not arrive (repeats, and what goes to workers that have not
//! answered lately) takes at most half of the places, and a worker that could not
//! be reached is left alone for longer each time: silent workers are not in the
//! way of others. An accepted assignment has started; a declined one goes back to
//! the market.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tracing::{debug, info};

use super::Reign;
use crate::clock;
use crate::domain::run::Run;
use crate::domain::{Command, Job, JobId, State, Timestamp, WorkerId};
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::proto::job::v1 as job_proto;
use crate::wire::proto::mesh::v1 as proto;

/// Pause before an assignment that was not answered is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Pause before anything is sent to a worker that could not be reached, doubled each time up to the longest.
const SILENT_FIRST: Duration = Duration::from_millis(500);
const SILENT_MAX: Duration = Duration::from_secs(5);

/// How long one delivery may take. The next copy is sent only when this one has come to an end.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Assignments and bytes of input in one message to one worker (its lane takes 1 MiB).
const PARCEL_ITEMS: usize = 128;
const PARCEL_BYTES: usize = 600 * 1024;

/// Deliveries under way at once. Beyond it the next look sends the others.
const FLIGHTS_MAX: usize = 64;

/// Deliveries under way at once that may not arrive: they were sent before, or their workers have not answered lately.
const DOUBTFUL_MAX: usize = FLIGHTS_MAX / 2;

/// A worker that answered so long ago may be gone.
const ANSWERED_LATELY: Duration = Duration::from_secs(60);

/// Workers whose last answer is remembered. Beyond it those that answered first are doubtful.
const ANSWERED_MAX: usize = 20_000;

const TICK: Duration = Duration::from_millis(100);

/// Shortest time between two looks at what is held.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub(super) type Key = (JobId, u32);

/// What goes to one worker in one message.
pub(super) struct Parcel {
    pub worker: WorkerId,
    pub items: Vec<Item>,
    bytes: usize,
    /// It may not arrive.
    pub doubtful: bool,
}

/// A delivery that has come to an end.
pub(super) struct Landed {
    pub worker: WorkerId,
    pub keys: Vec<Key>,
    pub doubtful: bool,
    pub answered: bool,
}

pub(super) struct Item {
    pub job: Arc<Job>,
    pub attempt: u32,
    payload: Option<Arc<[u8]>>,
    lease_ms: u64,
}

pub(super) async fn run(reign: Reign) {
    let mut applied = reign.context.client.applied();
    let mut flights: FuturesUnordered<BoxFuture<'static, Landed>> = FuturesUnordered::new();
    let mut sent = Sent::default();
    loop {
        let looked = clock::instant();
        for parcel in due(&reign, &mut sent, FLIGHTS_MAX.saturating_sub(flights.len())) {
            flights.push(Box::pin(deliver(reign.clone(), parcel)));
        }
        tokio::select! {
            Some(landed) = flights.next() => sent.landed(landed, clock::instant()),
            Ok(()) = applied.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        tokio::time::sleep(LOOK_EVERY.saturating_sub(looked.elapsed())).await;
    }
}

/// What was sent already, and to whom nothing is sent for now.
#[derive(Default)]
pub(super) struct Sent {
    /// Attempts under way (`None`), or when they last came back; kept while they wait for their worker.
    attempts: BTreeMap<Key, Option<Instant>>,
    /// Workers that could not be reached: until when they are left alone, and for how long.
    silent: BTreeMap<WorkerId, (Instant, Duration)>,
    /// Workers that answered, and when last.
    answered: BTreeMap<WorkerId, Instant>,
    /// Doubtful deliveries under way.
    doubtful: usize,
}

impl Sent {
    /// Notes parcels as under way.
    pub(super) fn take_off(&mut self, parcels: &[Parcel]) {
        for parcel in parcels {
            self.doubtful += usize::from(parcel.doubtful);
            self.attempts.extend(parcel.items.iter().map(|item| ((item.job.id, item.attempt), None)));
        }
    }

    pub(super) fn landed(&mut self, landed: Landed, now: Instant) {
        let Landed { worker, keys, doubtful, answered } = landed;
        self.attempts.extend(keys.into_iter().map(|key| (key, Some(now))));
        self.doubtful -= usize::from(doubtful);
        if answered {
            self.silent.remove(&worker);
            if self.answered.len() < ANSWERED_MAX || self.answered.contains_key(&worker) {
                self.answered.insert(worker, now);
            }
            return;
        }
        self.answered.remove(&worker);
        let longer = |(_, pause): &(Instant, Duration)| (*pause * 2).min(SILENT_MAX);
        let pause = self.silent.get(&worker).map_or(SILENT_FIRST, longer);
        self.silent.insert(worker, (now + pause, pause));
    }

    /// Whether an attempt that is due now may not arrive. `None`: it is not due.
    fn doubts(&self, key: Key, worker: WorkerId, now: Instant) -> Option<bool> {
        if self.silent.get(&worker).is_some_and(|(until, _)| *until > now) {
            return None;
        }
        let lately = |at: &Instant| now.saturating_duration_since(*at) < ANSWERED_LATELY;
        match self.attempts.get(&key) {
            None => Some(!self.answered.get(&worker).is_some_and(lately)),
            Some(landed) => landed.filter(|at| now.saturating_duration_since(*at) >= AGAIN_AFTER).map(|_| true),
        }
    }

    /// Forgets attempts that no longer wait, and workers that were left alone long ago.
    fn forget(&mut self, waiting: &BTreeSet<Key>, now: Instant) {
        self.attempts.retain(|key, landed| landed.is_none() || waiting.contains(key));
        self.silent.retain(|_, (until, _)| *until + 2 * SILENT_MAX > now);
        if self.answered.len() >= ANSWERED_MAX {
            self.answered.retain(|_, at| now.saturating_duration_since(*at) < ANSWERED_LATELY);
        }
    }
}

/// Up to `most` parcels of assigned attempts that must be sent now. Notes them as under way.
fn due(reign: &Reign, sent: &mut Sent, most: usize) -> Vec<Parcel> {
    if most == 0 {
        return Vec::new();
    }
    let client = &reign.context.client;
    let (at, now) = (client.log_now(), clock::instant());
    let parcels = client.read(|state| choose(state, sent, at, now, most));
    sent.take_off(&parcels);
    parcels
}

pub(super) fn choose(state: &State, sent: &mut Sent, at: Timestamp, now: Instant, most: usize) -> Vec<Parcel> {
    let (mut parcels, mut doubtful) = (Vec::new(), Vec::new());
    let mut waiting = BTreeSet::new();
    let doubtful_max = DOUBTFUL_MAX.saturating_sub(sent.doubtful).min(most);
    for (job, run) in state.undelivered_runs().filter(|(_, run)| run.award.lease_until > at) {
        let (award, key) = (&run.award, (job.id, run.attempt));
        waiting.insert(key);
        let Some(doubts) = sent.doubts(key, award.worker, now) else { continue };
        let (parcels, most) = if doubts { (&mut doubtful, doubtful_max) } else { (&mut parcels, most) };
        let payload = state.payload(job.id).cloned();
        let item = Item { job: Arc::clone(job), attempt: key.1, payload, lease_ms: award.lease_until.since(at) };
        pack(parcels, award.worker, item, most, doubts);
    }
    sent.forget(&waiting, now);
    doubtful.truncate(most - parcels.len());
    parcels.extend(doubtful);
    parcels
}

/// Whether a run is assigned and its worker has not said yet that it took it.
fn waits(run: &Run) -> bool {
    run.award.started_at.is_none()
}

/// Puts `item` into the last parcel or a new one; held jobs come worker by worker. Leaves it out if there are `most`.
fn pack(parcels: &mut Vec<Parcel>, worker: WorkerId, item: Item, most: usize, doubtful: bool) {
    let bytes = item.payload.as_ref().map_or(0, |payload| payload.len());
    let fits = |last: &&mut Parcel| {
        last.worker == worker && last.items.len() < PARCEL_ITEMS && last.bytes + bytes <= PARCEL_BYTES
    };
    if let Some(last) = parcels.last_mut().filter(fits) {
        last.items.push(item);
        last.bytes += bytes;
        return;
    }
    if parcels.len() < most {
        parcels.push(Parcel { worker, items: vec![item], bytes, doubtful });
    }
}

pub(super) fn assignment(item: &Item) -> proto::Assignment {
    let Item { job, attempt, payload, lease_ms } = item;
    let input = &job.spec.input;
    proto::Assignment {
        attempt: Some(wire::attempt_ref(job.id, *attempt)),
        r#type: job.spec.kind.clone(),
        input: Some(job_proto::Input {
            sha256: bytes::Bytes::copy_from_slice(&input.sha256.0),
            size: input.size,
            uri: input.uri.as_deref().unwrap_or_default().to_owned(),
            inline: payload.as_ref().map(|bytes| bytes::Bytes::copy_from_slice(bytes)).unwrap_or_default(),
        }),
        timeout_secs: job.spec.timeout_secs,
        lease_ms: u32::try_from(*lease_ms).unwrap_or(u32::MAX),
        request_id: job.id.to_string(),
    }
}

/// Sends one parcel and records what the worker answered. Returns what was in it.
async fn deliver(reign: Reign, parcel: Parcel) -> Landed {
    let Parcel { worker, items, doubtful, .. } = parcel;
    let attempts: Vec<Key> = items.iter().map(|item| (item.job.id, item.attempt)).collect();
    let assignments = items.iter().map(assignment).collect();
    let body = Some(proto::coordinator_request::Body::Assign(proto::Assign { assignments }));
    let bytes = wire::encode(&proto::CoordinatorRequest { body });
    let answer = reign.ask(worker, bytes, ANSWER_LIMIT).await;
    let answered = answer.is_ok();
    match answer {
        Ok(answer) => take_answer(&reign, worker, &attempts, answer).await,
        Err(error) => {
            debug!(worker = %worker, assignments = attempts.len(), %error, "assignments not delivered");
            metrics::assignments("unreachable", attempts.len());
        }
    }
    Landed { worker, keys: attempts, doubtful, answered }
}

async fn take_answer(reign: &Reign, worker: WorkerId, attempts: &[Key], answer: bytes::Bytes) {
    let Some(reply) = wire::decode::<proto::CoordinatorReply>(answer).filter(|r| r.items.len() == attempts.len())
    else {
        return reign.context.mesh.penalise(worker, "malformed_reply");
    };
    let commands = reign.context.client.read(|state| outcomes(state, worker, attempts, &reply.items));
    if let Err(error) = reign.record("dispatch", commands).await {
        debug!(worker = %worker, %error, "answers not recorded, the assignments will be sent again");
    }
}

/// The commands that record a worker's answers. A job that moved on meanwhile needs none.
pub(super) fn outcomes(state: &State, worker: WorkerId, attempts: &[Key], items: &[proto::ItemReply]) -> Vec<Command> {
    let run = |(id, attempt): &Key| state.job(*id).and_then(|job| job.run(*attempt));
    let still_assigned: Vec<bool> = attempts.iter().map(|key| run(key).is_some_and(waits)).collect();
    let accepted = items.iter().filter(|item| item.accepted).count();
    metrics::assignments("accepted", accepted);
    metrics::assignments("declined", items.len() - accepted);
    let answers = attempts.iter().zip(items).zip(still_assigned).filter(|(_, waits)| *waits);
    answers
        .map(|((&(job, attempt), item), _)| {
            if item.accepted {
                return Command::Started { job, attempt, worker };
            }
            info!(job = %job, attempt, worker = %worker, code = item.code, "assignment declined");
            Command::Decline { job, attempt, worker }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PeerId;

    const WORKER: WorkerId = PeerId([1; 32]);
    const OTHER: WorkerId = PeerId([2; 32]);
    const KEY: Key = (JobId([1; 16]), 1);

    fn landed(answered: bool) -> Landed {
        Landed { worker: WORKER, keys: vec![KEY], doubtful: false, answered }
    }

    #[test]
    fn a_worker_that_is_not_reached_is_left_alone_for_longer_each_time() {
        let (mut sent, mut now) = (Sent::default(), clock::instant());
        let new = (JobId([2; 16]), 1);
        for millis in [500, 1_000, 2_000, 4_000, 5_000, 5_000] {
            sent.attempts.insert(KEY, None);
            sent.landed(landed(false), now);
            let until = now + Duration::from_millis(millis);
            assert_eq!(sent.doubts(new, WORKER, until - Duration::from_millis(1)), None);
            assert!(sent.doubts(new, OTHER, now).is_some(), "others are not");
            assert_eq!(sent.doubts(KEY, WORKER, until), Some(true));
            assert_eq!(sent.doubts(new, WORKER, until), Some(true), "it may be silent still");
            now = until;
        }
        sent.landed(landed(true), now);
        assert_eq!(sent.doubts(new, WORKER, now), Some(false), "it answered");
        assert_eq!(sent.doubts(KEY, WORKER, now), None, "a moment ago");
        assert_eq!(sent.doubts(new, WORKER, now + ANSWERED_LATELY), Some(true), "long ago");
        assert_eq!(sent.doubts(new, OTHER, now), Some(true), "nothing was ever sent to it");
    }

    #[test]
    fn what_is_under_way_is_not_sent_and_what_no_longer_waits_is_forgotten() {
        let (mut sent, now) = (Sent::default(), clock::instant());
        sent.attempts.insert(KEY, None);
        sent.forget(&BTreeSet::new(), now);
        assert_eq!(sent.doubts(KEY, WORKER, now + AGAIN_AFTER), None, "under way");
        sent.landed(landed(true), now);
        sent.forget(&BTreeSet::from([KEY]), now);
        assert_eq!(sent.doubts(KEY, WORKER, now + AGAIN_AFTER), Some(true));
        sent.forget(&BTreeSet::new(), now);
        assert!(sent.attempts.is_empty());
    }
}
