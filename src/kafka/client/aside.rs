//! Blocking calls, away from the threads that carry Raft.
//!
//! Whoever waits for one waits no longer than its deadline, and not at all once
//! the node stops. The call itself may still run then, on a thread that nobody
//! waits for; it looks at its [`Patience`] between steps and ends soon.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::kafka::Error;
use crate::tasks::Tasks;

/// Longest step between two looks at whether anybody still waits.
pub(super) const SLICE: Duration = Duration::from_millis(100);

/// What a call is given to notice that it took as long as it was told to.
const GRACE: Duration = Duration::from_millis(500);

/// How long blocking work may take, and whether anybody still waits for it.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    until: Instant,
    limit: Duration,
    given_up: CancellationToken,
}

impl Patience {
    pub(super) fn new(limit: Duration, given_up: CancellationToken) -> Self {
        Self { until: clock::instant() + limit, limit, given_up }
    }

    /// Time left, more than none.
    pub(super) fn left(&self) -> Result<Duration, Error> {
        if self.given_up.is_cancelled() {
            return Err(Error::Stopping);
        }
        match self.until.checked_duration_since(clock::instant()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(late(self.limit)),
        }
    }

    /// Time left, but no more than `most`.
    pub(super) fn step(&self, most: Duration) -> Result<Duration, Error> {
        Ok(self.left()?.min(most))
    }
}

/// Runs blocking work on a thread of its own and waits for it, within limits.
pub(super) async fn aside<T: Send + 'static>(
    tasks: &Tasks,
    limit: Duration,
    work: impl FnOnce(&Patience) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let given_up = tasks.token().child_token();
    let patience = Patience::new(limit, given_up.clone());
    let _when_nobody_waits = given_up.clone().drop_guard();
    let working = tasks.spawn_blocking(move || work(&patience));
    tokio::select! {
        done = working => done.map_err(|_| Error::Stopping)?,
        () = given_up.cancelled() => Err(Error::Stopping),
        () = tokio::time::sleep(limit + GRACE) => Err(late(limit)),
    }
}

pub(super) fn late(limit: Duration) -> Error {
    Error::Down(format!("no answer within {} ms", limit.as_millis()))
}
