//! The only spawner.
//!
//! Every task belongs to a [`Tasks`]: one token that asks it to stop, one
//! tracker that knows when it has. A child group stops with its parent, and can
//! be stopped and joined alone; that is how leadership ends.
//!
//! A panic in any task aborts the process (the hook is set in `telemetry`), so
//! nobody waits for a result that will not come.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that stops when this one does, and can be joined by itself.
    pub fn child(&self) -> Self {
        Self { tracker: TaskTracker::new(), token: self.token.child_token() }
    }

    /// Completes when the group is asked to stop.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs `future` until it ends. It must watch [`Self::token`] itself to stop early.
    #[expect(clippy::disallowed_methods, reason = "this file is the one spawner")]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(future.instrument(tracing::debug_span!("task", name))))
    }

    /// Runs `future`, dropping it at its next await once the group is asked to stop.
    pub fn spawn_until_stopped<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.spawn(name, async move {
            token.run_until_cancelled(future).await;
        });
    }

    /// Runs blocking work on a thread of the runtime's pool.
    #[expect(clippy::disallowed_methods, reason = "this file is the one spawner")]
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        tokio::task::spawn_blocking(work)
    }

    /// A thread of its own, for work that blocks for the life of the process.
    #[expect(clippy::disallowed_methods, reason = "this file is the one spawner")]
    pub fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new().name(name.to_owned()).spawn(work)
    }

    /// Asks every task of the group to stop.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Waits until every task has ended; false if `limit` passed first.
    pub async fn join(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}
