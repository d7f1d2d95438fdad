//! Linearizable reads: ask the leader how far the log is committed, wait for it here.
//!
//! The leader answers only after a quorum confirmed that it still leads. An
//! index that was asked for is used once; a retry asks again, since what was
//! committed in between must be seen.

use std::time::{Duration, Instant};

use openraft::ReadPolicy;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::mesh::Lane;
use crate::telemetry::request;

use super::Error;
use super::core::{Core, Route};
use super::deliver::jitter;
use super::frames::ReadIndex;

/// A question to a leader that hangs is asked again after this.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// Waits until this node has applied all that was committed before the call.
pub(super) async fn linearize(core: &Core, limit: Duration) -> Result<u64, Error> {
    let deadline = clock::instant() + limit;
    let index = committed(core, deadline).await?;
    core.wait_applied(index, deadline.saturating_duration_since(clock::instant())).await.map(|()| index)
}

/// An index that covers all that was committed before the call, as a leader says that a quorum confirmed.
pub(super) async fn committed(core: &Core, deadline: Instant) -> Result<u64, Error> {
    loop {
        let (route, left) = core.route_by(deadline).await?;
        let asked = match route {
            Route::Here { .. } => read_index(core, left).await.ok(),
            Route::Nowhere => None,
            Route::There(leader) => {
                let limit = left.min(ASK_LIMIT);
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                let frame = ReadIndex { limit_ms, request_id: request::current().map(|id| id.to_string()) };
                core.link.send(leader, Lane::Forward, &frame, limit).await.ok().and_then(Result::ok)
            }
        };
        if let Some(index) = asked {
            return Ok(index);
        }
        sleep(jitter().min(left)).await;
    }
}

/// On the leader: an index that covers all that is committed, confirmed by a quorum.
pub(super) async fn read_index(core: &Core, limit: Duration) -> Result<u64, Error> {
    match timeout(limit, core.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await {
        Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
        Ok(Err(_)) => Err(Error::NoLeader),
        Err(_) => Err(Error::Timeout),
    }
}
