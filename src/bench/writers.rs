//! Clients that write all the time while something is done to the cluster, and what they noticed of it.
//!
//! Each client submits one job after the other, a few milliseconds apart. A try that got no acceptance is
//! repeated at the next node under the same key, as a careful client would do
//! it; what counts as failed is a job that nobody accepted for all that time.
//! The gap is the longest time in which nobody got an acceptance. How long each
//! job took until its acceptance, its repeats included, is kept beside it: some
//! clients may hang while others go on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::cluster::{Cluster, Submitted, submission};
use super::histogram::{Histogram, Summary};
use super::report::Report;
use crate::clock;
use crate::tasks::Tasks;

/// A job that is not accepted for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// For one try: a node that hangs is left for the next.
const TRY: Duration = Duration::from_secs(3);

/// After a try that failed.
const PAUSE: Duration = Duration::from_millis(5);

/// Before the next job of the same client: nobody runs these jobs, and the backlog is bounded.
const PACE: Duration = Duration::from_millis(4);

/// Acceptances remembered. Beyond it the load ends.
const ACCEPTED_MAX: usize = 4_000_000;

pub(super) struct Writers {
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    cluster: Cluster,
    run: u64,
    notes: Mutex<Notes>,
}

struct Notes {
    accepted: Vec<Instant>,
    latency: Histogram,
    tries: u64,
    failed: u64,
    first_failure: Option<String>,
    first_refusal: Option<String>,
}

/// What all clients together noticed.
pub(super) struct Noticed {
    pub accepted: u64,
    /// From a job's first try to its acceptance.
    pub latency: Summary,
    /// Tries that were repeated.
    pub repeated: u64,
    pub first_refusal: Option<String>,
    pub failed: u64,
    pub first_failure: Option<String>,
}

impl Noticed {
    /// Says in a report what failed first.
    pub(super) fn notes(&self, report: Report) -> Report {
        let report = match &self.first_failure {
            Some(why) => report.note(format!("the first of {} writes that failed: {why}", self.failed)),
            None => report,
        };
        match &self.first_refusal {
            Some(why) => report.note(format!("the first of {} tries that were repeated: {why}", self.repeated)),
            None => report,
        }
    }
}

impl Writers {
    /// Starts `clients`, spread over the nodes.
    pub(super) fn start(cluster: &Cluster, clients: usize, tasks: &Tasks) -> Self {
        let shared =
            Arc::new(Shared { cluster: cluster.clone(), run: rand::random(), notes: Mutex::new(Notes::new()) });
        let tasks = tasks.child();
        for client in 0..clients {
            tasks.spawn("bench writer", write(Arc::clone(&shared), client, tasks.clone()));
        }
        Self { shared, tasks }
    }

    /// Waits until writes are accepted.
    pub(super) async fn flowing(&self) -> anyhow::Result<()> {
        let begun = clock::instant();
        while self.shared.notes().accepted.iter().rev().take_while(|at| **at >= begun).count() < 10 {
            if begun.elapsed() > PATIENCE {
                bail!("no writes are accepted: {}", self.shared.notes().first_refusal.clone().unwrap_or_default());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The longest time without an acceptance that began after `begin`, or was under way then, up to now.
    pub(super) fn gap_since(&self, begin: Instant) -> Duration {
        gap(&self.shared.notes().accepted, begin, clock::instant())
    }

    /// Lets every client end the job it is at.
    pub(super) async fn stop(self) -> Noticed {
        self.tasks.cancel();
        self.tasks.join(PATIENCE + TRY).await;
        let notes = self.shared.notes();
        let accepted = notes.accepted.len() as u64;
        Noticed {
            accepted,
            latency: notes.latency.summary(),
            repeated: notes.tries.saturating_sub(accepted + notes.failed),
            first_refusal: notes.first_refusal.clone(),
            failed: notes.failed,
            first_failure: notes.first_failure.clone(),
        }
    }
}

impl Notes {
    fn new() -> Self {
        let (accepted, latency) = (Vec::new(), Histogram::new());
        Self { accepted, latency, tries: 0, failed: 0, first_failure: None, first_refusal: None }
    }
}

impl Shared {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write(shared: Arc<Shared>, client: usize, tasks: Tasks) {
    let job = submission("bench", b"written meanwhile");
    for number in 0u64.. {
        let key = format!("bench-write-{:016x}-{client}-{number}", shared.run);
        let begun = clock::instant();
        for turn in client.. {
            let node = shared.cluster.node(turn);
            let answer = tokio::time::timeout(TRY, shared.cluster.submit(node, &key, &job)).await;
            let refused = match answer {
                Ok(Submitted::Accepted(_)) => None,
                Ok(Submitted::Full(why) | Submitted::Refused(why)) => Some(why),
                Err(_) => Some(format!("{node} did not answer within {} s", TRY.as_secs())),
            };
            if !shared.note(refused, begun.elapsed()) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if shared.notes().accepted.len() >= ACCEPTED_MAX || tasks.token().is_cancelled() {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

impl Shared {
    /// Whether to try again.
    fn note(&self, refused: Option<String>, spent: Duration) -> bool {
        let mut notes = self.notes();
        notes.tries += 1;
        let Some(why) = refused else {
            notes.accepted.push(clock::instant());
            notes.latency.add(spent);
            return false;
        };
        let lost = spent >= PATIENCE;
        if lost {
            notes.failed += 1;
            notes.first_failure.get_or_insert(why);
        } else {
            notes.first_refusal.get_or_insert(why);
        }
        !lost
    }
}

/// `accepted` in order.
fn gap(accepted: &[Instant], begin: Instant, end: Instant) -> Duration {
    let first = accepted.partition_point(|at| *at < begin).saturating_sub(1);
    let mut last = accepted.get(first).copied().unwrap_or(begin).min(begin);
    let mut longest = Duration::ZERO;
    for at in accepted.iter().skip(first).copied().chain([end]) {
        longest = longest.max(at.saturating_duration_since(last));
        last = last.max(at);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_time_that_nobody_was_accepted() {
        let start = clock::instant();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let accepted: Vec<Instant> = [0, 10, 500, 510, 600, 620].map(at).into();
        let gap = |begin, end| super::gap(&accepted, at(begin), at(end)).as_millis();
        assert_eq!(gap(0, 630), 490);
        assert_eq!(gap(505, 630), 90, "what was over before does not count");
        assert_eq!(gap(300, 630), 490, "what was under way does");
        assert_eq!(gap(605, 900), 280, "nor is it over yet");
        assert_eq!(super::gap(&[], at(0), at(70)).as_millis(), 70);
    }
}
