//! Delivers reports from the outbox.
//!
//! One request is under way at a time; what gathers meanwhile goes with the
//! next. A report leaves the outbox when a coordinator has accepted or finally
//! refused it. A request that is refused as a whole may hold one report nobody
//! takes: requests shrink to one report, and that one goes to the end of the
//! queue, so it cannot hold up the others.

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
        let mut batch_max = BATCH_REPORTS;
        loop {
            let batch = self.outbox.pick(batch_max, BATCH_BYTES);
            if batch.is_empty() {
                self.outbox.changed().await;
                continue;
            }
            match self.deliver(&batch).await {
                Ok(settled) => {
                    batch_max = BATCH_REPORTS;
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
                        batch_max = (batch.len() / 2).max(1);
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
