//! Tells clients that their jobs have ended.
//!
//! The end of a job that names a URL leaves a notice in the replicated state, in
//! the same step ([`crate::domain::callback`]). This duty posts what waits there
//! and reports what came of it. A notice goes when its receiver took it (2xx), or
//! when it was given up: it is too old and was tried in vain, its receiver is gone
//! or on an address that is not posted to, or too many waited.
//!
//! Delivery is at least once: a leader that dies between a receiver's answer and
//! its own report leaves the notice to its successor, which posts it again under
//! the same event id. No order is promised.
//!
//! A receiver that is slow, down or hostile costs others nothing: see [`plan`] for
//! how tries are shared out. Nothing here waits for a receiver but its own tries.

mod body;
mod plan;
mod post;
#[cfg(test)]
mod tests;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tracing::{debug, info, warn};

use super::{PAUSE, Reign};
use crate::clock;
use crate::domain::callback::{Called, Notice};
use crate::domain::{Command, Timestamp};
use crate::telemetry::metrics;

pub use crate::egress::{Authority, AuthorityError, read_authorities};
pub use body::Key;
use plan::{Answer, Plan};
pub use post::{Callbacks, Settings};

/// How often it is looked for notices that are too old, or gone.
const SWEEP: Duration = Duration::from_secs(1);

/// Notices that are looked at without giving way to others.
const SLICE: usize = 256;

/// Outcomes that wait for their report. Beyond it nothing is tried.
const REPORTS_MAX: usize = 1_024;

/// Notices that may be gone from the state before it is looked which.
const GONE_MAX: usize = 64;

/// A try that has ended.
struct Landed {
    notice: Arc<Notice>,
    answer: Answer,
    why: String,
}

type Flights = FuturesUnordered<BoxFuture<'static, Landed>>;

struct Caller {
    reign: Reign,
    callbacks: Callbacks,
    plan: Plan,
    /// What is to be reported next.
    outcomes: Vec<(u64, Called)>,
    /// A report under way, and how many are in it.
    report: Option<BoxFuture<'static, ()>>,
    reported: usize,
    swept: Option<Instant>,
    /// Notices that gave way to others since then.
    displaced: usize,
}

/// Runs as long as the term lasts; may be dropped at any await.
pub(super) async fn run(reign: Reign) {
    let Some(callbacks) = reign.context.callbacks.clone() else { return };
    let (plan, outcomes) = (Plan::default(), Vec::new());
    Caller { reign, callbacks, plan, outcomes, report: None, reported: 0, swept: None, displaced: 0 }.run().await;
}

impl Caller {
    async fn run(&mut self) {
        let mut applied = self.reign.context.client.applied();
        let mut flights = Flights::new();
        loop {
            applied.borrow_and_update();
            self.take_in().await;
            self.sweep();
            self.launch(&flights);
            self.report();
            let wakes_in = self.wakes_in();
            tokio::select! {
                Some(landed) = flights.next(), if !flights.is_empty() => self.landed(&landed),
                () = ended(&mut self.report) => self.reported = 0,
                () = tokio::time::sleep(wakes_in) => {}
                changed = applied.changed() => if changed.is_err() { return pending().await },
            }
        }
    }

    /// Takes note of what was left since the last look.
    async fn take_in(&mut self) {
        loop {
            let seen = self.plan.seen();
            let look = |notice: &Arc<Notice>| (notice.event, notice.receiver().to_owned(), notice.ended_at);
            let client = &self.reign.context.client;
            let left: Vec<(u64, String, Timestamp)> =
                client.read(|state| state.callbacks().after(seen).take(SLICE).map(look).collect());
            let now = clock::instant();
            for (event, receiver, ended_at) in &left {
                self.plan.add(*event, receiver, *ended_at, now);
            }
            if left.len() < SLICE {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Gives up what is too old, and forgets what is gone.
    fn sweep(&mut self) {
        let room = self.unreported() < REPORTS_MAX;
        if self.swept.is_some_and(|swept| swept.elapsed() < SWEEP) || !room {
            return;
        }
        self.swept = Some(clock::instant());
        let client = &self.reign.context.client;
        let max_age = u64::try_from(self.callbacks.settings.max_age.as_millis()).unwrap_or(u64::MAX);
        let oldest = Timestamp(client.log_now().0.saturating_sub(max_age));
        let expired = self.plan.expired(oldest);
        if let Some((event, Called::GivenUp { code, .. })) = expired.first() {
            warn!(event, code = &**code, notices = expired.len(), "callbacks given up: too old");
            metrics::callbacks("given_up", expired.len());
        }
        self.outcomes.extend(expired);
        let waiting = client.read(|state| state.callbacks().len());
        if self.plan.len() > waiting + GONE_MAX {
            let view = client.view();
            self.displaced += self.plan.retain(|event| view.callbacks().notice(event).is_some());
        }
        if self.displaced > 0 {
            warn!(notices = self.displaced, waiting, "callbacks given up: too many wait");
            metrics::callbacks("displaced", std::mem::take(&mut self.displaced));
        }
    }

    /// Begins the tries that are due, as far as there are slots.
    fn launch(&mut self, flights: &Flights) {
        while self.unreported() < REPORTS_MAX {
            let Some(event) = self.plan.next(clock::instant()) else { return };
            let Some(notice) = self.reign.context.client.read(|state| state.callbacks().notice(event).cloned()) else {
                // It gave way to others.
                self.plan.forget(event);
                self.displaced += 1;
                continue;
            };
            let callbacks = self.callbacks.clone();
            flights.push(Box::pin(async move {
                let (answer, why) = callbacks.post(&notice).await;
                Landed { notice, answer, why }
            }));
        }
    }

    fn landed(&mut self, landed: &Landed) {
        let Landed { notice, answer, why } = landed;
        let before = self.plan.silences(notice.receiver());
        let called = self.plan.landed(notice.event, answer, clock::instant(), rand::random());
        let (job, event, receiver) = (notice.job, notice.event, notice.receiver());
        match (answer, &called) {
            (Answer::Taken, _) => {
                debug!(%job, event, receiver, "callback delivered");
                let took = self.reign.context.client.log_now().since(notice.ended_at);
                metrics::callback_took(Duration::from_millis(took));
                metrics::callbacks("delivered", 1);
            }
            (_, Some(_)) => {
                warn!(%job, event, receiver, why, "callback given up");
                metrics::callbacks("given_up", 1);
            }
            (Answer::Silent { .. }, None) if before == 0 => {
                warn!(%job, event, receiver, why, "receiver of callbacks does not answer, will be tried again");
                metrics::callbacks("retried", 1);
            }
            _ => {
                debug!(%job, event, receiver, why, "callback not taken, will be tried again");
                metrics::callbacks("retried", 1);
            }
        }
        if before > 0 && matches!(answer, Answer::Taken | Answer::Refused { .. }) {
            info!(receiver, "receiver of callbacks answers again");
        }
        self.outcomes.extend(called.map(|called| (event, called)));
    }

    /// Begins to commit what came of notices, unless that is under way.
    fn report(&mut self) {
        if self.report.is_some() || self.outcomes.is_empty() {
            return;
        }
        self.reported = self.outcomes.len();
        let told = self.outcomes.drain(..);
        let commands: Vec<Command> = told.map(|(event, called)| Command::CalledBack { event, called }).collect();
        let reign = self.reign.clone();
        self.report = Some(Box::pin(async move {
            // What is repeated because it was not heard changes nothing.
            while let Err(error) = reign.record("callbacks", commands.clone()).await {
                debug!(%error, "outcomes of callbacks not recorded, will be tried again");
                tokio::time::sleep(PAUSE).await;
            }
        }));
    }

    fn unreported(&self) -> usize {
        self.outcomes.len() + self.reported
    }

    fn wakes_in(&self) -> Duration {
        let next = self.plan.wakes_at().map_or(SWEEP, |at| at.saturating_duration_since(clock::instant()));
        // What is due and can not begin waits for something else to end.
        if next.is_zero() { PAUSE } else { next.min(SWEEP) }
    }
}

/// Completes when what is under way has ended. May be dropped and asked again.
async fn ended(report: &mut Option<BoxFuture<'static, ()>>) {
    match report {
        Some(under_way) => under_way.await,
        None => pending().await,
    }
    *report = None;
}
