//! Linearizable reads: ask the leader how far the log is committed, wait for it here.
//!
//! The leader answers after a quorum confirmed that it still leads, or, where
//! that is switched on, under its lease: a quorum acknowledged it so recently
//! that nobody else can have been elected. An index that was asked for is used
//! once; a retry asks again, since what was committed in between must be seen.
//!
//! A lease rests on clocks. A quorum that acknowledged a message sent at `t`
//! elects nobody before `t` + the lease, by its own clocks; the leader trusts in
//! that for two thirds of the time, by its own. So a lease lies only if a clock
//! runs half as fast again as the leader's, or a machine that holds the leader
//! is suspended whole, with its clock. A process that is merely stopped is no
//! danger: the clock goes on, and the lease is looked at when it wakes. A voter
//! that restarts has forgotten what it acknowledged, so where leases are
//! switched on it stays silent for one lease first, see [`super::boot`].

use std::time::{Duration, Instant};

use openraft::{LinearizerOption, ReadPolicy};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::mesh::Lane;
use crate::telemetry::request;

use super::Error;
use super::core::{Core, Route};
use super::deliver::jitter;
use super::frames::{LeaseIndex, ReadIndex};

/// A question to a leader that hangs is asked again after this.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// Waits until this node has applied all that was committed before the call.
pub(super) async fn linearize(core: &Core, limit: Duration) -> Result<u64, Error> {
    let deadline = clock::instant() + limit;
    let index = committed(core, deadline).await?;
    core.wait_applied(index, deadline.saturating_duration_since(clock::instant())).await.map(|()| index)
}

/// The same by the leader's lease if it holds one, else by a quorum.
pub(super) async fn linearize_by_lease(core: &Core, limit: Duration) -> Result<u64, Error> {
    let deadline = clock::instant() + limit;
    let leased = match core.route() {
        Route::Here { .. } => lease_index(core).await.ok(),
        Route::There(leader) => {
            let ask = core.link.send(leader, Lane::Forward, &LeaseIndex {}, limit.min(ASK_LIMIT));
            ask.await.ok().and_then(Result::ok)
        }
        Route::Nowhere => None,
    };
    let index = match leased {
        Some(index) => index,
        None => committed(core, deadline).await?,
    };
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

/// On the leader: the same under its lease. Refused at once if it holds none, hands over, or leases are off.
pub(super) async fn lease_index(core: &Core) -> Result<u64, Error> {
    if !core.options.lease_reads {
        return Err(Error::NoLeader);
    }
    let trusted = core.options.lease() * 2 / 3;
    let option = LinearizerOption::new(Some(trusted), false).with_wait_timeout(Duration::ZERO);
    // Raft answers at once, unless it waits for a disk that hangs.
    let linearizer = timeout(ASK_LIMIT, core.raft.get_read_linearizer(option)).await.map_err(|_| Error::NoLeader)?;
    linearizer.map(|linearizer| linearizer.read_log_id().index()).map_err(|_| Error::NoLeader)
}
