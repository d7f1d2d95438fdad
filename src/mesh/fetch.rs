//! Fetching what a worker keeps, part by part.
//!
//! An output that is too large for the log stays with the worker that made it.
//! A coordinator asks for one part at a time on a lane of its own, directly or
//! through a member that is connected to the worker, so nothing else waits
//! behind an output however large, and neither side holds more than one part
//! for each question.
//!
//! What comes back is what the worker says the part is. Only the whole has a
//! signed digest, so whoever fetches all of it must compare, and whoever fetches
//! less has the worker's word.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{Error, Handle, Lane};
use crate::domain::{Digest, WorkerId};
use crate::wire;
use crate::wire::proto::mesh::v1::{FetchRange, FetchReply};

/// Largest part, in bytes.
pub const PART_MAX: u32 = 256 * 1024;

/// How long one way to the worker may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// How often and how fast a worker that is busy with others is asked again.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Why a part could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missed {
    /// Neither we nor a member we can ask is connected to the worker, or it does not answer.
    #[error("worker {0} is not reachable")]
    Unreachable(WorkerId),
    #[error("worker {0} has too much to do")]
    Busy(WorkerId),
    /// It was evicted, or never there.
    #[error("worker {0} does not keep it any more")]
    Gone(WorkerId),
    /// The bytes that the worker has are not those it stored.
    #[error("what worker {0} keeps is damaged")]
    Damaged(WorkerId),
    /// The answer makes no sense.
    #[error("worker {0} answered with something else")]
    Nonsense(WorkerId),
}

/// Asks `worker` for `length` bytes at `offset` of the output with `digest`.
///
/// # Errors
///
/// See [`Missed`]; in each case nothing is held.
pub async fn part(mesh: &Handle, worker: WorkerId, digest: &Digest, offset: u64, length: u32) -> Result<Bytes, Missed> {
    let question = FetchRange { sha256: Bytes::copy_from_slice(&digest.0), offset, length };
    let answer = ask_patiently(mesh, worker, wire::encode(&question)).await?;
    let reply: FetchReply = wire::decode(answer).ok_or(Missed::Nonsense(worker))?;
    match reply.code.as_str() {
        "" if reply.data.len() == length as usize => Ok(reply.data),
        "gone" => Err(Missed::Gone(worker)),
        "damaged" => Err(Missed::Damaged(worker)),
        "failed" => Err(Missed::Busy(worker)),
        _ => Err(Missed::Nonsense(worker)),
    }
}

async fn ask_patiently(mesh: &Handle, worker: WorkerId, question: Bytes) -> Result<Bytes, Missed> {
    for _ in 0..BUSY_TRIES {
        match ask(mesh, worker, &question).await {
            Err(Error::Refused { reason, .. }) if reason == super::BUSY => tokio::time::sleep(BUSY_PAUSE).await,
            answer => return answer.map_err(|_| Missed::Unreachable(worker)),
        }
    }
    Err(Missed::Busy(worker))
}

/// Directly if we are connected, else through each member that may be.
async fn ask(mesh: &Handle, worker: WorkerId, question: &Bytes) -> Result<Bytes, Error> {
    let mut last = Error::Unreachable(worker);
    if mesh.is_connected(worker) {
        match mesh.request(worker, Lane::Fetch, question.clone(), ANSWER_LIMIT).await {
            Err(error @ (Error::Unreachable(_) | Error::Timeout(_) | Error::Lost(_))) => last = error,
            answered => return answered,
        }
    }
    let mut errand = BytesMut::with_capacity(worker.0.len() + question.len());
    errand.extend_from_slice(&worker.0);
    errand.extend_from_slice(question);
    let errand = errand.freeze();
    for member in mesh.members().iter().filter(|member| **member != mesh.id() && mesh.is_connected(**member)) {
        match mesh.request(*member, Lane::Fetch, errand.clone(), ANSWER_LIMIT + ANSWER_LIMIT / 2).await {
            Ok(answer) => return Ok(answer),
            // The worker is busy, whoever asks.
            Err(error @ Error::Refused { .. }) if is_busy(&error) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn is_busy(error: &Error) -> bool {
    matches!(error, Error::Refused { reason, .. } if reason == super::BUSY)
}

/// Hands a member's question on to a worker that is connected here.
///
/// # Errors
///
/// The reason to refuse it with: [`super::BUSY`] if the worker said so.
pub async fn relay(mesh: &Handle, mut errand: Bytes) -> Result<Bytes, String> {
    let worker = crate::domain::PeerId(*errand.first_chunk().ok_or("no worker is named")?);
    let question = errand.split_off(worker.0.len());
    if !mesh.is_connected(worker) {
        return Err(format!("worker {worker} is not connected here either"));
    }
    mesh.request(worker, Lane::Fetch, question, ANSWER_LIMIT).await.map_err(|error| match error {
        Error::Refused { reason, .. } => reason,
        error => error.to_string(),
    })
}
