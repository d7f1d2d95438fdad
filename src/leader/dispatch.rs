//! Brings assignments to the workers that won them.
//!
//! Level-triggered: whatever the log says is assigned and not yet started is
//! sent, and sent again, until the worker answers or the lease ends. Repeats
//! are harmless: a worker answers for an attempt it already has as it did
//! before. An accepted assignment has started; a declined one goes back to the
//! market.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tracing::{debug, info};

use super::Reign;
use crate::clock;
use crate::domain::run::Run;
use crate::domain::{Command, Job, JobId, WorkerId};
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::proto::job::v1 as job_proto;
use crate::wire::proto::mesh::v1 as proto;

/// Pause before an assignment that was not answered is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long one delivery may take. The next copy is sent only when this one has come to an end.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Assignments and bytes of input in one message to one worker (its lane takes 1 MiB).
const PARCEL_ITEMS: usize = 128;
const PARCEL_BYTES: usize = 600 * 1024;

/// Deliveries under way at once. Beyond it the next look sends the others.
const FLIGHTS_MAX: usize = 64;

const TICK: Duration = Duration::from_millis(100);

/// Shortest time between two looks at what is held.
const LOOK_EVERY: Duration = Duration::from_millis(2);

type Key = (JobId, u32);

/// What goes to one worker in one message.
struct Parcel {
    worker: WorkerId,
    items: Vec<Item>,
    bytes: usize,
}

struct Item {
    job: Arc<Job>,
    attempt: u32,
    payload: Option<Arc<[u8]>>,
    lease_ms: u64,
}

pub(super) async fn run(reign: Reign) {
    let mut applied = reign.context.client.applied();
    let mut flights: FuturesUnordered<BoxFuture<'static, Vec<Key>>> = FuturesUnordered::new();
    let mut sent = Sent::default();
    loop {
        let looked = clock::instant();
        for parcel in due(&reign, &mut sent, FLIGHTS_MAX.saturating_sub(flights.len())) {
            flights.push(Box::pin(deliver(reign.clone(), parcel)));
        }
        tokio::select! {
            Some(keys) = flights.next() => sent.landed(keys),
            Ok(()) = applied.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        tokio::time::sleep(LOOK_EVERY.saturating_sub(looked.elapsed())).await;
    }
}

/// Attempts that need not be sent now: under way, or sent a moment ago.
#[derive(Default)]
struct Sent(BTreeMap<Key, Option<Instant>>);

impl Sent {
    fn landed(&mut self, keys: Vec<Key>) {
        self.0.extend(keys.into_iter().map(|key| (key, Some(clock::instant()))));
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, landed| landed.is_none_or(|at| now.saturating_duration_since(at) < AGAIN_AFTER));
    }
}

/// Up to `most` parcels of assigned attempts that must be sent now. Notes them as under way.
fn due(reign: &Reign, sent: &mut Sent, most: usize) -> Vec<Parcel> {
    sent.forget(clock::instant());
    let now = reign.context.client.log_now();
    let mut parcels: Vec<Parcel> = Vec::new();
    reign.context.client.read(|state| {
        for (job, run) in state.held_runs().filter(|(_, run)| waits(run)) {
            let (award, attempt) = (&run.award, run.attempt);
            if award.lease_until <= now || sent.0.contains_key(&(job.id, attempt)) {
                continue;
            }
            let payload = state.payload(job.id).cloned();
            let item = Item { job: Arc::clone(job), attempt, payload, lease_ms: award.lease_until.since(now) };
            if !pack(&mut parcels, award.worker, item, most) {
                break;
            }
            sent.0.insert((job.id, attempt), None);
        }
    });
    parcels
}

/// Whether a run is assigned and its worker has not said yet that it took it.
fn waits(run: &Run) -> bool {
    run.award.started_at.is_none()
}

/// Puts `item` into the last parcel or a new one; held jobs come worker by worker. False if there are `most`.
fn pack(parcels: &mut Vec<Parcel>, worker: WorkerId, item: Item, most: usize) -> bool {
    let bytes = item.payload.as_ref().map_or(0, |payload| payload.len());
    let fits = |last: &&mut Parcel| {
        last.worker == worker && last.items.len() < PARCEL_ITEMS && last.bytes + bytes <= PARCEL_BYTES
    };
    if let Some(last) = parcels.last_mut().filter(fits) {
        last.items.push(item);
        last.bytes += bytes;
        return true;
    }
    if parcels.len() >= most {
        return false;
    }
    parcels.push(Parcel { worker, items: vec![item], bytes });
    true
}

fn assignment(item: &Item) -> proto::Assignment {
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
async fn deliver(reign: Reign, parcel: Parcel) -> Vec<Key> {
    let Parcel { worker, items, .. } = parcel;
    let attempts: Vec<Key> = items.iter().map(|item| (item.job.id, item.attempt)).collect();
    let assignments = items.iter().map(assignment).collect();
    let body = Some(proto::coordinator_request::Body::Assign(proto::Assign { assignments }));
    let bytes = wire::encode(&proto::CoordinatorRequest { body });
    match reign.ask(worker, bytes, ANSWER_LIMIT).await {
        Ok(answer) => take_answer(&reign, worker, &attempts, answer).await,
        Err(error) => {
            debug!(worker = %worker, assignments = attempts.len(), %error, "assignments not delivered");
            metrics::assignments("unreachable", attempts.len());
        }
    }
    attempts
}

async fn take_answer(reign: &Reign, worker: WorkerId, attempts: &[Key], answer: bytes::Bytes) {
    let Some(reply) = wire::decode::<proto::CoordinatorReply>(answer).filter(|r| r.items.len() == attempts.len())
    else {
        return reign.context.mesh.penalise(worker, "malformed_reply");
    };
    let commands = outcomes(reign, worker, attempts, &reply.items);
    if let Err(error) = reign.record("dispatch", commands).await {
        debug!(worker = %worker, %error, "answers not recorded, the assignments will be sent again");
    }
}

/// The commands that record a worker's answers. A job that moved on meanwhile needs none.
fn outcomes(reign: &Reign, worker: WorkerId, attempts: &[Key], items: &[proto::ItemReply]) -> Vec<Command> {
    let still_assigned: Vec<bool> = reign.context.client.read(|state| {
        let run = |(id, attempt): &Key| state.job(*id).and_then(|job| job.run(*attempt));
        attempts.iter().map(|key| run(key).is_some_and(waits)).collect()
    });
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
