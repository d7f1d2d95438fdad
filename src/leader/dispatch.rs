//! Brings assignments to the workers that won them.
//!
//! Level-triggered: whatever the log says is assigned and not yet started is
//! sent, and sent again, until the worker answers or the lease ends. Repeats
//! are harmless: a worker answers for an attempt it already has as it did
//! before. An accepted assignment has started; a declined one goes back to the
//! market.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tracing::{debug, info};

use super::Reign;
use crate::clock;
use crate::domain::{Command, Job, JobId, JobState, State, Timestamp, WorkerId};
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::proto::job::v1 as job_proto;
use crate::wire::proto::mesh::v1 as proto;

/// Pause before an unanswered assignment is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long one delivery may take. Longer than [`AGAIN_AFTER`] is fine: repeats are harmless.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Assignments and bytes of input in one message to one worker (its lane takes 1 MiB).
const PARCEL_ITEMS: usize = 128;
const PARCEL_BYTES: usize = 600 * 1024;

/// Deliveries under way at once. Beyond it the next look sends the others.
const FLIGHTS_MAX: usize = 256;

const TICK: Duration = Duration::from_millis(100);

/// What goes to one worker in one message.
struct Parcel {
    worker: WorkerId,
    attempts: Vec<(JobId, u32)>,
    assignments: Vec<proto::Assignment>,
    bytes: usize,
}

pub(super) async fn run(reign: Reign) {
    let mut applied = reign.context.client.applied();
    let mut flights: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut sent = BTreeMap::new();
    loop {
        if flights.len() < FLIGHTS_MAX {
            for parcel in due(&reign, &mut sent) {
                flights.push(Box::pin(deliver(reign.clone(), parcel)));
            }
        }
        tokio::select! {
            Some(()) = flights.next() => {}
            Ok(()) = applied.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// Assigned attempts that were not sent a moment ago, by worker. Notes them as sent.
fn due(reign: &Reign, sent: &mut BTreeMap<(JobId, u32), Instant>) -> Vec<Parcel> {
    let now = clock::instant();
    sent.retain(|_, at| now.saturating_duration_since(*at) < AGAIN_AFTER);
    let wall = clock::now();
    let mut parcels: BTreeMap<WorkerId, Vec<Parcel>> = BTreeMap::new();
    reign.context.client.read(|state| {
        for job in state.held_jobs().filter(|job| job.state == JobState::Assigned) {
            let Some(award) = &job.award else { continue };
            let key = (job.id, job.attempt);
            if sent.contains_key(&key) || award.lease_until <= wall {
                continue;
            }
            sent.insert(key, now);
            let assignment = assignment(state, job, award.lease_until, wall);
            add(parcels.entry(award.worker).or_default(), award.worker, key, assignment);
        }
    });
    parcels.into_values().flatten().collect()
}

fn add(parcels: &mut Vec<Parcel>, worker: WorkerId, key: (JobId, u32), assignment: proto::Assignment) {
    let bytes = assignment.input.as_ref().map_or(0, |input| input.inline.len());
    let fits =
        parcels.last().is_some_and(|last| last.assignments.len() < PARCEL_ITEMS && last.bytes + bytes <= PARCEL_BYTES);
    if !fits {
        parcels.push(Parcel { worker, attempts: vec![], assignments: vec![], bytes: 0 });
    }
    if let Some(last) = parcels.last_mut() {
        last.attempts.push(key);
        last.assignments.push(assignment);
        last.bytes += bytes;
    }
}

fn assignment(state: &State, job: &Job, lease_until: Timestamp, now: Timestamp) -> proto::Assignment {
    let input = &job.spec.input;
    let inline = state.payload(job.id).map(|bytes| bytes::Bytes::copy_from_slice(bytes)).unwrap_or_default();
    proto::Assignment {
        attempt: Some(wire::attempt_ref(job.id, job.attempt)),
        r#type: job.spec.kind.clone(),
        input: Some(job_proto::Input {
            sha256: bytes::Bytes::copy_from_slice(&input.sha256.0),
            size: input.size,
            uri: input.uri.clone().unwrap_or_default(),
            inline,
        }),
        timeout_secs: job.spec.timeout_secs,
        lease_ms: u32::try_from(lease_until.since(now)).unwrap_or(u32::MAX),
        request_id: job.id.to_string(),
    }
}

/// Sends one parcel and records what the worker answered.
async fn deliver(reign: Reign, parcel: Parcel) {
    let Parcel { worker, attempts, assignments, .. } = parcel;
    let body = Some(proto::coordinator_request::Body::Assign(proto::Assign { assignments }));
    let bytes = wire::encode(&proto::CoordinatorRequest { body });
    let answer = match reign.ask(worker, bytes, ANSWER_LIMIT).await {
        Ok(answer) => answer,
        Err(error) => {
            debug!(worker = %worker, assignments = attempts.len(), %error, "assignments not delivered");
            return metrics::assignments("unreachable", attempts.len());
        }
    };
    let Some(reply) = wire::decode::<proto::CoordinatorReply>(answer).filter(|r| r.items.len() == attempts.len())
    else {
        return reign.context.mesh.penalise(worker, "malformed_reply");
    };
    let commands = outcomes(&reign, worker, &attempts, &reply.items);
    if let Err(error) = reign.record("dispatch", commands).await {
        debug!(worker = %worker, %error, "answers not recorded, the assignments will be sent again");
    }
}

/// The commands that record a worker's answers. A job that moved on meanwhile needs none.
fn outcomes(reign: &Reign, worker: WorkerId, attempts: &[(JobId, u32)], items: &[proto::ItemReply]) -> Vec<Command> {
    let still_assigned: Vec<bool> = reign.context.client.read(|state| {
        let waits = |(id, attempt): &(JobId, u32)| {
            state.job(*id).is_some_and(|job| job.state == JobState::Assigned && job.attempt == *attempt)
        };
        attempts.iter().map(waits).collect()
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
