//! Getting one batch of jobs into the log: here, or by one hop to the leader.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use openraft::impls::ProgressResponder;
use openraft::impls::leader_id_std::LeaderId;
use openraft::vote::RaftLeaderId;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::domain::State;
use crate::mesh::Lane;
use crate::storage;
use crate::telemetry::metrics;

use super::codec::{Blob, Encoded, Proposal, record};
use super::core::{Core, Route};
use super::door::Job;
use super::frames::{Submit, Submitted};
use super::network::Failure;
use super::types::{WriteError, Written};
use super::{Committed, Error};

/// How long a forwarded batch is waited for once its leader has been replaced. One that died answers never; one that
/// handed over does as soon as its successor has committed what it had begun.
const GRACE: Duration = Duration::from_millis(15);
const GRACE_HANDED_OVER: Duration = Duration::from_millis(300);

/// What became of one attempt.
enum Attempt {
    Done(Submitted),
    /// Certainly nothing; worth another try while there is time.
    Retry,
    /// Certainly nothing; no use in trying again.
    Refused(Error),
    /// Certainly nothing, for want of room for the new jobs among them.
    Full(Error),
    Unknown(String),
}

/// Brings every job of `batch` to its outcome, or to the end of its time.
pub(super) async fn deliver(core: &Core, batch: Vec<Job>) {
    let mut waiting = batch;
    loop {
        let route = core.route();
        let mut sent = Vec::new();
        for job in std::mem::take(&mut waiting) {
            if !job.scope.allows(route) {
                job.answer(Err(Error::NoLeader));
            } else if route == Route::Nowhere || job.claim() {
                sent.push(job);
            }
        }
        let Some(deadline) = sent.iter().map(|job| job.deadline).max() else { return };
        let left = deadline.saturating_duration_since(clock::instant());
        if left.is_zero() {
            return answer_all(sent, &Error::NoLeader);
        }
        let attempt = match route {
            Route::Here { term } => propose(core, term, &sent, left).await,
            Route::There(_) => forward(core, route, &sent, left).await,
            Route::Nowhere => {
                let _ = timeout(left, core.route_changed(route)).await;
                waiting = sent;
                continue;
            }
        };
        match attempt {
            Attempt::Done(submitted) => return answer(sent, submitted),
            Attempt::Refused(error) => return answer_all(sent, &error),
            Attempt::Full(error) => {
                // Results and cancellations must not fail for what they travelled with.
                let (submits, rest): (Vec<_>, _) = sent.into_iter().partition(|job| job.submits);
                if submits.is_empty() {
                    return answer_all(rest, &error);
                }
                answer_all(submits, &error);
                rest.iter().for_each(Job::release);
                waiting = rest;
            }
            Attempt::Unknown(why) => return answer_all(sent, &Error::Unknown(why)),
            Attempt::Retry => {
                sent.iter().for_each(Job::release);
                // While leadership moves, not a moment longer than that takes.
                let _ = timeout(jitter().min(left), core.route_changed(route)).await;
                waiting = sent;
            }
        }
    }
}

/// Proposes the batch as one record, only in `term`.
async fn propose(core: &Core, term: u64, jobs: &[Job], left: Duration) -> Attempt {
    let data = match record(core.applied.read(State::level), core.log_now(), jobs.iter().map(|job| &job.commands)) {
        Ok(bytes) => Proposal(Blob(bytes)),
        Err(error) => return Attempt::Refused(Error::Setup(format!("encode a record: {error}"))),
    };
    let begun = clock::instant();
    let leader = LeaderId::new(term, core.node).to_committed();
    let (responder, answer) = ProgressResponder::complete_only();
    if core.raft.write(data).with_leader(leader).responder(responder).await.is_err() {
        return Attempt::Refused(Error::Stopping);
    }
    match timeout(left, answer).await {
        Ok(Ok(written)) => settle(written, begun),
        Ok(Err(_)) => Attempt::Unknown("the node is stopping".into()),
        Err(_) => Attempt::Unknown(format!("no quorum within {} ms", left.as_millis())),
    }
}

fn settle(written: Written, begun: Instant) -> Attempt {
    match written {
        Ok(response) => {
            metrics::commit_took(begun.elapsed());
            let (index, term) = (response.log_id.index, response.log_id.leader_id.term);
            Attempt::Done(Submitted { index, term, replies: response.data })
        }
        Err(WriteError::ForwardToLeader(_)) => Attempt::Retry,
        Err(error @ WriteError::LogEntryDiscarded(_)) => Attempt::Unknown(error.to_string()),
        Err(error) => Attempt::Refused(Error::Setup(error.to_string())),
    }
}

/// Sends the batch to the leader, and waits until its outcome is applied here.
async fn forward(core: &Core, route: Route, jobs: &[Job], left: Duration) -> Attempt {
    let Route::There(leader) = route else { return Attempt::Retry };
    let begun = clock::instant();
    // The leader answers before we stop listening.
    let limit_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX) / 10 * 9;
    let frame = Submit { commands: join(jobs), limit_ms, request_ids: request_ids(jobs) };
    let replaced = async {
        core.route_changed(route).await;
        sleep(if core.is_handed_over() { GRACE_HANDED_OVER } else { GRACE }).await;
    };
    let sent = tokio::select! {
        sent = core.link.send(leader, Lane::Forward, &frame, left) => sent,
        () = replaced => return Attempt::Unknown(format!("the leader {leader} was replaced before it answered")),
    };
    let submitted = match sent {
        Ok(Ok(submitted)) => submitted,
        Ok(Err(fault)) => return refused(fault.into()),
        Err(Failure::NotSent(why)) => {
            tracing::debug!(%leader, why, "not forwarded");
            return Attempt::Retry;
        }
        Err(Failure::Timeout) => return Attempt::Unknown(format!("no answer from the leader {leader} in time")),
        Err(Failure::Lost(why)) => return Attempt::Unknown(why),
    };
    match core.wait_applied(submitted.index, left.saturating_sub(begun.elapsed())).await {
        Ok(()) => Attempt::Done(submitted),
        Err(_) => Attempt::Unknown(format!("committed at {}, but not applied here in time", submitted.index)),
    }
}

fn refused(error: Error) -> Attempt {
    match error {
        Error::NoLeader => Attempt::Retry,
        Error::Unknown(why) => Attempt::Unknown(why),
        Error::Storage(storage::Error::Full(_)) => Attempt::Full(error),
        other => Attempt::Refused(other),
    }
}

/// Each once.
fn request_ids(jobs: &[Job]) -> Vec<String> {
    let ids: BTreeSet<&str> = jobs.iter().filter_map(|job| job.request.as_deref()).collect();
    ids.into_iter().map(str::to_owned).collect()
}

fn join(jobs: &[Job]) -> Encoded {
    let count = jobs.iter().map(|job| job.commands.count).sum();
    if let [job] = jobs {
        return job.commands.clone();
    }
    let mut bytes = BytesMut::with_capacity(jobs.iter().map(|job| job.commands.bytes.0.len()).sum());
    for job in jobs {
        bytes.extend_from_slice(&job.commands.bytes.0);
    }
    Encoded { count, bytes: Blob(bytes.freeze()) }
}

/// Gives each job its own replies, in order.
fn answer(jobs: Vec<Job>, submitted: Submitted) {
    let Submitted { index, term, replies } = submitted;
    let mut replies = replies.into_iter();
    for job in jobs {
        let count = job.commands.count as usize;
        let own: Vec<_> = replies.by_ref().take(count).collect();
        let complete = own.len() == count;
        let committed = Committed { index, term, replies: own };
        let missing = || Error::Unknown(format!("committed at {index}, but replies are missing"));
        job.answer(if complete { Ok(committed) } else { Err(missing()) });
    }
}

fn answer_all(jobs: Vec<Job>, error: &Error) {
    for job in jobs {
        job.answer(Err(error.clone()));
    }
}

/// Spreads retries, so that members do not meet again and again.
pub(super) fn jitter() -> Duration {
    Duration::from_millis(rand::random_range(5..25))
}
