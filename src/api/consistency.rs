//! How fresh a read must be, and waiting until it is.

use super::Api;
use super::params::{Kind, Param};
use super::problem::{Code, Problem};
use super::request::Request;

/// The parameters of every read of replicated state.
pub fn params() -> [Param; 3] {
    [
        Param::new(
            "consistency",
            Kind::Choice(vec!["stale", "linearizable", "lease"]),
            "stale (the default): this node's own state. linearizable: with everything committed before the request, \
             which a quorum confirms. lease: the same on the leader's word, if api.lease_reads is on.",
        ),
        Param::new(
            "min_index",
            Kind::Integer { min: 0, max: u64::MAX >> 1 },
            "Wait until this node has applied this index: read your own writes.",
        ),
        Param::new(
            "max_staleness_ms",
            Kind::Integer { min: 0, max: u64::MAX >> 1 },
            "Refuse when this node has not heard from a leader for longer.",
        ),
    ]
}

/// Waits until this node's state is as fresh as the request demands.
///
/// # Errors
///
/// It does not become so within the read deadline.
pub async fn ensure(api: &Api, request: &Request) -> Result<(), Problem> {
    let limit = api.limits().read_deadline;
    match request.text("consistency") {
        Some("linearizable") => api.client().linearize(limit).await.map(drop)?,
        Some("lease") if !api.client().lease_reads() => return Err(lease_reads_off()),
        Some("lease") => api.client().linearize_by_lease(limit).await.map(drop)?,
        _ => {}
    }
    if let Some(index) = request.integer("min_index") {
        reach(api, index, "min_index").await?;
    }
    let Some(most) = request.integer("max_staleness_ms") else { return Ok(()) };
    match api.client().status().staleness_ms {
        Some(staleness) if staleness <= most => Ok(()),
        Some(staleness) => Err(too_stale(format!("the last word from a leader is {staleness} ms old, over {most} ms"))),
        None => Err(too_stale("no leader was heard since this node started".to_owned())),
    }
}

/// Waits until this node has applied `index`, or it is certain that nobody has it: what a client
/// was told of is committed, so an index beyond the read index is none that it was told.
/// `field` names where it was asked for.
pub async fn reach(api: &Api, index: u64, field: &'static str) -> Result<(), Problem> {
    let limit = api.limits().read_deadline;
    let client = api.client();
    tokio::select! {
        biased;
        reached = client.wait_applied(index, limit) => reached.map_err(|_| behind(api, index, field)),
        Ok(newest) = client.linearize(limit) => if index <= newest { Ok(()) } else { Err(ahead(index, newest, field)) },
    }
}

fn lease_reads_off() -> Problem {
    Problem::new(Code::LeaseReadsOff, "this node does not answer reads on the leader's lease").field("consistency")
}

fn behind(api: &Api, index: u64, field: &'static str) -> Problem {
    let (applied, limit) = (api.client().status().applied, api.limits().read_deadline);
    let detail = format!("this node has applied index {applied}, not {index}, after {} seconds", limit.as_secs());
    Problem::new(Code::NotCaughtUp, detail).field(field)
}

fn ahead(index: u64, newest: u64, field: &'static str) -> Problem {
    let detail = format!("index {index} does not exist: the newest that is committed is {newest}");
    Problem::new(Code::IndexAhead, detail).field(field)
}

fn too_stale(detail: String) -> Problem {
    Problem::new(Code::TooStale, detail).field("max_staleness_ms")
}
