//! The closed loop: N clients, each with one request in flight.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::{Histogram, Summary};
use crate::clock;
use crate::tasks::Tasks;

/// After a request that failed, so that a dead node is not hammered.
const PAUSE: Duration = Duration::from_millis(20);

/// Who asks, and for the how-manieth time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub client: usize,
    pub number: u64,
}

/// How one request ended.
pub(super) enum Answer {
    /// It did this many things: one job, or a batch of them.
    Done(u64),
    /// It was refused or lost; what was said.
    Failed(String),
    /// It makes no sense to go on, for any client.
    Stop(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub clients: usize,
    pub warmup: Duration,
    pub duration: Duration,
}

/// What was measured, the warm-up left out.
#[derive(Debug)]
pub(super) struct Outcome {
    pub requests: u64,
    pub things: u64,
    pub failures: u64,
    pub first_failure: Option<String>,
    pub stopped: Option<String>,
    pub elapsed: Duration,
    pub latency: Summary,
}

impl Outcome {
    pub(super) fn things_per_sec(&self) -> f64 {
        per_sec(self.things, self.elapsed)
    }
}

/// 0 for no time at all.
pub(super) fn per_sec(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

struct Shared<F> {
    ask: F,
    begin: Instant,
    end: Instant,
    stop: AtomicBool,
    totals: Mutex<Totals>,
}

struct Totals {
    latency: Histogram,
    things: u64,
    failures: u64,
    first_failure: Option<String>,
    stopped: Option<(String, Instant)>,
}

/// Lets `ask` be called by all clients until the time is up or one says stop.
pub(super) async fn closed_loop<F, Fut>(plan: Plan, tasks: &Tasks, ask: F) -> anyhow::Result<Outcome>
where
    F: Fn(Turn) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let begin = clock::instant() + plan.warmup;
    let totals = Totals { latency: Histogram::new(), things: 0, failures: 0, first_failure: None, stopped: None };
    let shared = Arc::new(Shared {
        ask,
        begin,
        end: begin + plan.duration,
        stop: AtomicBool::new(false),
        totals: Mutex::new(totals),
    });
    let clients: Vec<_> =
        (0..plan.clients).map(|client| tasks.spawn("bench client", client_loop(Arc::clone(&shared), client))).collect();
    for client in clients {
        client.await?;
    }
    Ok(shared.outcome())
}

async fn client_loop<F, Fut>(shared: Arc<Shared<F>>, client: usize)
where
    F: Fn(Turn) -> Fut + Send + Sync,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let mut number = 0;
    loop {
        let began = clock::instant();
        if began >= shared.end || shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let answer = (shared.ask)(Turn { client, number }).await;
        number += 1;
        let failed = matches!(answer, Answer::Failed(_));
        shared.count(began, answer);
        if failed {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl<F> Shared<F> {
    /// How long it took counts of every request that began within the time measured, whenever it ended: the slowest
    /// are those that outlast it. What was done counts if it was done within that time.
    fn count(&self, began: Instant, answer: Answer) {
        let now = clock::instant();
        let measured = began >= self.begin;
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Answer::Done(things) => {
                if measured {
                    totals.latency.add(now - began);
                }
                if (self.begin..=self.end).contains(&now) {
                    totals.things += things;
                }
            }
            Answer::Failed(what) => {
                totals.failures += u64::from(measured);
                totals.first_failure.get_or_insert(what);
            }
            Answer::Stop(why) => {
                totals.stopped.get_or_insert((why, now));
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = totals.stopped.as_ref().map_or(self.end, |(_, at)| (*at).min(self.end));
        Outcome {
            requests: totals.latency.count(),
            things: totals.things,
            failures: totals.failures,
            first_failure: totals.first_failure.clone(),
            stopped: totals.stopped.as_ref().map(|(why, _)| why.clone()),
            elapsed: ended.saturating_duration_since(self.begin),
            latency: totals.latency.summary(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(clients: usize) -> Plan {
        Plan { clients, warmup: Duration::ZERO, duration: Duration::from_millis(200) }
    }

    #[tokio::test]
    async fn every_client_has_one_request_in_flight() {
        let tasks = Tasks::new();
        let flying = Arc::new(Mutex::new([false; 8]));
        let outcome = closed_loop(plan(8), &tasks, move |turn| {
            let flying = Arc::clone(&flying);
            async move {
                assert!(!std::mem::replace(&mut flying.lock().unwrap()[turn.client], true), "two in flight");
                tokio::time::sleep(Duration::from_millis(5)).await;
                flying.lock().unwrap()[turn.client] = false;
                Answer::Done(3)
            }
        });
        let outcome = outcome.await.unwrap();
        assert!(outcome.requests >= 8 && outcome.requests <= 8 * 40, "{} requests", outcome.requests);
        assert!(outcome.things <= outcome.requests * 3 && outcome.things + 8 * 3 >= outcome.requests * 3);
        assert!(outcome.latency.p50_us >= 5_000);
        assert_eq!(outcome.elapsed, Duration::from_millis(200));
        assert!((outcome.things_per_sec() - outcome.things as f64 * 5.0).abs() < 1e-6);
    }

    #[tokio::test]
    async fn one_stop_ends_all_and_shortens_the_time() {
        let tasks = Tasks::new();
        let plan = Plan { duration: Duration::from_secs(600), ..plan(4) };
        let outcome = closed_loop(plan, &tasks, |turn| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            match turn.number {
                0..5 => Answer::Done(1),
                5 => Answer::Failed(format!("no, client {}", turn.client)),
                _ => Answer::Stop("enough".to_owned()),
            }
        });
        let outcome = outcome.await.unwrap();
        assert_eq!(outcome.stopped.as_deref(), Some("enough"));
        assert!(outcome.elapsed < Duration::from_secs(60));
        assert!(outcome.failures >= 1 && outcome.failures <= 4);
        assert!(outcome.first_failure.unwrap().starts_with("no, client"));
        assert!(outcome.things <= 20);
    }

    #[test]
    fn no_time_is_no_rate() {
        assert!(per_sec(5, Duration::ZERO).abs() < f64::EPSILON);
    }
}
