//! What a coordinator orders: run this, stop that, you have longer.
//!
//! Orders are level-triggered: a coordinator repeats them until it has an
//! answer, so each may come twice and must mean the same the second time.

use std::time::Duration;

use tracing::{debug, info};

use super::agent::Agent;
use super::desk::{Cause, Key, Taken};
use super::executor::{Reference, Work};
use super::registrar::Standing;
use crate::clock;
use crate::wire;
use crate::wire::proto::mesh::v1::coordinator_request::Body;
use crate::wire::proto::mesh::v1::{Assignment, CoordinatorRequest, ItemReply, Renewal, Stop};

/// The reason of a [`Stop`] that tells us to register.
const UNKNOWN_WORKER: &str = "unknown_worker";

/// Longest reference to an input.
const URI_MAX: usize = 4 * 1024;

/// Obeys, and answers each item. `None` if the order makes no sense.
pub(super) fn obey(agent: &mut Agent, order: CoordinatorRequest) -> Option<Vec<ItemReply>> {
    let items: Vec<Result<(), &'static str>> = match order.body? {
        Body::Assign(assign) => {
            bounded(assign.assignments.len())?;
            assign.assignments.into_iter().map(|assignment| take(agent, assignment)).collect()
        }
        Body::Stop(stop) => {
            bounded(stop.attempts.len())?;
            obey_stop(agent, &stop)
        }
        Body::Renew(renew) => {
            bounded(renew.renewals.len())?;
            renew.renewals.iter().map(|renewal| extend(agent, renewal)).collect()
        }
    };
    agent.changed();
    Some(items.into_iter().map(item).collect())
}

fn bounded(items: usize) -> Option<()> {
    (items <= wire::RUNNING_MAX).then_some(())
}

fn item(result: Result<(), &'static str>) -> ItemReply {
    match result {
        Ok(()) => ItemReply { accepted: true, code: String::new() },
        Err(code) => wire::refused(code),
    }
}

/// Takes an assignment and starts it, unless it is known or there is a reason not to.
fn take(agent: &mut Agent, assignment: Assignment) -> Result<(), &'static str> {
    let request_id: String = assignment.request_id.chars().take(64).collect();
    let lease = Duration::from_millis(assignment.lease_ms.into());
    let work = parse(assignment).ok_or("malformed")?;
    let key @ (job, attempt) = work.key;
    let now = clock::instant();
    if agent.parts.desk.renew(key, lease, now).is_ok() {
        return Ok(());
    }
    if agent.stopping {
        return Err("stopping");
    }
    if !agent.parts.workshop.executor.knows(&work.kind) {
        return Err("unknown_type");
    }
    if agent.takes_none() {
        return Err("no_room");
    }
    match agent.parts.desk.take(key, lease, now) {
        Taken::Known => {}
        Taken::Refused(code) => {
            info!(%job, attempt, code, "assignment refused");
            return Err(code);
        }
        Taken::New(stop) => {
            info!(%job, attempt, kind = work.kind, request_id, "assigned");
            let workshop = agent.parts.workshop.clone();
            agent.parts.tasks.spawn("attempt", async move { workshop.run(work, stop).await });
        }
    }
    Ok(())
}

fn parse(assignment: Assignment) -> Option<Work> {
    let key: Key = wire::parse_attempt(assignment.attempt.as_ref())?;
    let input = assignment.input.unwrap_or_default();
    if input.uri.len() > URI_MAX || input.uri.contains('\0') || assignment.timeout_secs == 0 {
        return None;
    }
    let claimed = if input.sha256.is_empty() { None } else { Some(wire::digest(&input.sha256)?) };
    Some(Work {
        key,
        kind: assignment.r#type,
        input: input.inline,
        input_uri: (!input.uri.is_empty()).then_some(Reference { uri: input.uri, size: input.size, file: None }),
        input_sha256: claimed,
        timeout: Duration::from_secs(assignment.timeout_secs.into()),
    })
}

/// Stopping what does not run is done already.
fn obey_stop(agent: &mut Agent, stop: &Stop) -> Vec<Result<(), &'static str>> {
    if stop.reason == UNKNOWN_WORKER {
        agent.parts.standing.send_replace(Standing::Unregistered);
    }
    let mut stop_one = |attempt| {
        let key = wire::parse_attempt(Some(attempt)).ok_or("malformed")?;
        debug!(job = %key.0, attempt = key.1, reason = stop.reason, "told to stop");
        agent.parts.desk.stop(key, Cause::Cancelled);
        Ok(())
    };
    stop.attempts.iter().map(&mut stop_one).collect()
}

fn extend(agent: &mut Agent, renewal: &Renewal) -> Result<(), &'static str> {
    let key = wire::parse_attempt(renewal.attempt.as_ref()).ok_or("malformed")?;
    agent.parts.desk.renew(key, Duration::from_millis(renewal.lease_ms.into()), clock::instant())
}
