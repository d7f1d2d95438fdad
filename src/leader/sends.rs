//! Requests to workers that nobody waits for.
//!
//! At most one is under way to each worker, and a duty waits for all of them
//! only for a moment: a worker that is silent, or far away, delays itself and
//! nobody else. What is not done then is looked at in the next step.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;

use crate::domain::WorkerId;

/// What was sent ended: with `answered`, or not.
pub(super) struct Ended<T> {
    pub note: T,
    pub answered: bool,
}

/// Requests under way, each with a note of what it is about.
pub(super) struct Sends<T> {
    under_way: FuturesUnordered<BoxFuture<'static, (WorkerId, Ended<T>)>>,
    busy: BTreeSet<WorkerId>,
}

impl<T> Default for Sends<T> {
    fn default() -> Self {
        Self { under_way: FuturesUnordered::new(), busy: BTreeSet::new() }
    }
}

impl<T: Send + 'static> Sends<T> {
    /// Whether something is under way to `worker`: nothing else is sent to it.
    pub(super) fn is_busy(&self, worker: WorkerId) -> bool {
        self.busy.contains(&worker)
    }

    pub(super) fn len(&self) -> usize {
        self.busy.len()
    }

    /// Sends by `request`, which says whether it was answered. To a worker that is busy nothing is sent.
    pub(super) fn send(&mut self, worker: WorkerId, note: T, request: impl Future<Output = bool> + Send + 'static) {
        if self.busy.insert(worker) {
            self.under_way.push(request.map(move |answered| (worker, Ended { note, answered })).boxed());
        }
    }

    /// What ends within `limit`. The others stay under way.
    pub(super) async fn settle(&mut self, limit: Duration) -> Vec<Ended<T>> {
        let mut ended = Vec::new();
        let busy = &mut self.busy;
        let under_way = &mut self.under_way;
        let all = async {
            while let Some((worker, end)) = under_way.next().await {
                busy.remove(&worker);
                ended.push(end);
            }
        };
        // What has ended is in `ended` then, also if others have not.
        let _ = tokio::time::timeout(limit, all).await;
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PeerId;

    const SILENT: WorkerId = PeerId([1; 32]);
    const WELL: WorkerId = PeerId([2; 32]);

    #[tokio::test]
    async fn a_silent_worker_delays_itself_and_nobody_else() {
        let mut sends = Sends::default();
        sends.send(SILENT, "first", std::future::pending());
        sends.send(WELL, "second", std::future::ready(true));
        let ended = sends.settle(Duration::from_millis(100)).await;
        assert_eq!(ended.iter().map(|end| (end.note, end.answered)).collect::<Vec<_>>(), [("second", true)]);
        assert_eq!((sends.is_busy(SILENT), sends.is_busy(WELL)), (true, false));
        sends.send(SILENT, "third", std::future::ready(true));
        assert!(sends.settle(Duration::from_millis(100)).await.is_empty(), "one at a time");
    }
}
