//! Delivers reports from the outbox.
//!
//! One request is under way at a time; what gathers meanwhile goes with the
//! next. A report leaves the outbox when a coordinator has accepted or finally
//! refused it. A request that is refused as a whole may hold one report nobody
//! takes: requests shrink to one report, and that one goes to the end of the
//! queue; they grow again step by step, so it cannot hold up the others.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::courier::{Backoff, Courier, NoAnswer};
use super::desk::Key;
use super::outbox::Outbox;
use super::registrar::Standing;
use crate::wire;
use crate::wire::proto::mesh::v1::worker_request::Body;
use crate::wire::proto::mesh::v1::{Finished, ItemReply, Report};

/// Reports and bytes in one request.
const BATCH_REPORTS: usize = 256;
const BATCH_BYTES: usize = 512 * 1024;

/// The refusal that is not final: register, then try again.
const UNKNOWN_WORKER: &str = "unknown_worker";

/// How long to wait for a registration before trying again anyway.
const REGISTER_LIMIT: Duration = Duration::from_secs(5);

pub(super) struct Reporter {
    pub courier: Courier,
    pub outbox: Outbox,
    pub standing: watch::Sender<Standing>,
}

impl Reporter {
    /// Delivers for ever.
    pub async fn run(self) {
        let mut backoff = Backoff::default();
        let mut size = Size(BATCH_REPORTS);
        loop {
            let batch = self.outbox.pick(size.0, BATCH_BYTES);
            if batch.is_empty() {
                self.outbox.changed().await;
                continue;
            }
            match self.deliver(&batch).await {
                Ok(settled) => {
                    size.grow();
                    if settled {
                        backoff.reset();
                    } else {
                        self.await_registration().await;
                        backoff.pause().await;
                    }
                }
                Err(error) => {
                    debug!(%error, reports = batch.len(), "reports not delivered, will be again");
                    if matches!(error, NoAnswer::Refused(..)) {
                        if batch.len() == 1 {
                            self.outbox.defer(&keys(&batch));
                        }
                        size.shrink(batch.len());
                    }
                    backoff.pause().await;
                }
            }
        }
    }

    /// True if every report of the batch was answered for good.
    async fn deliver(&self, batch: &[Report]) -> Result<bool, NoAnswer> {
        let body = Body::Finished(Finished { reports: batch.to_vec() });
        let items = self.courier.ask(body, batch.len()).await?;
        let answered: Vec<Key> = keys(batch)
            .into_iter()
            .zip(&items)
            .filter(|(key, item)| is_final(*key, item))
            .map(|(key, _)| key)
            .collect();
        self.outbox.answered(&answered).await;
        Ok(answered.len() == batch.len())
    }

    /// Registers again, and waits for it for a while.
    async fn await_registration(&self) {
        self.standing.send_replace(Standing::Unregistered);
        let mut standing = self.standing.subscribe();
        let registered = standing.wait_for(|standing| *standing == Standing::Registered);
        let _ = tokio::time::timeout(REGISTER_LIMIT, registered).await;
    }
}

/// How many reports the next request may hold. It grows no faster than it shrinks: what was
/// deferred is still there, and would be met again at once.
struct Size(usize);

impl Size {
    fn grow(&mut self) {
        self.0 = (self.0 * 2).min(BATCH_REPORTS);
    }

    /// A request with so many was refused.
    fn shrink(&mut self, reports: usize) {
        self.0 = (reports / 2).max(1);
    }
}

fn is_final((job, attempt): Key, item: &ItemReply) -> bool {
    if item.accepted {
        debug!(%job, attempt, "report accepted");
    } else if item.code == UNKNOWN_WORKER {
        warn!(%job, attempt, "report refused: we are not registered");
        return false;
    } else {
        info!(%job, attempt, code = item.code, "report refused");
    }
    true
}

fn keys(batch: &[Report]) -> Vec<Key> {
    batch.iter().filter_map(|report| wire::parse_attempt(report.attempt.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn one_report_that_nobody_takes_leaves_the_others_half_of_the_requests() {
        const POISON: u32 = u32::MAX;
        let mut queue = VecDeque::from([POISON]);
        let (mut size, mut refused, mut taken) = (Size(BATCH_REPORTS), 0, 0);
        for round in 0..1_000 {
            queue.extend(round * 10..round * 10 + 10);
            let batch: Vec<u32> = queue.iter().copied().take(size.0).collect();
            if !batch.contains(&POISON) {
                taken += queue.drain(..batch.len()).count();
                size.grow();
                continue;
            }
            refused += 1;
            if batch.len() == 1 {
                queue.rotate_left(1);
            }
            size.shrink(batch.len());
        }
        // Resetting the size after each success has 784 of them refused.
        assert!(refused < 550 && taken > 9_800, "{refused} requests refused, {taken} reports taken");
    }
}
