//! Clients that write without a pause, by all nodes, while a story breaks something.
//!
//! A try that got no acceptance is repeated at the next node under the same key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ciro::clock;
use ciro::tasks::Tasks;
use serde_json::json;

use crate::client::Client;
use crate::{secs, until};

/// A job that nobody accepts for so long has failed.
const PATIENCE: Duration = secs(15);

/// Between two jobs of one client, and two tries of one job.
const PAUSE: Duration = Duration::from_millis(10);

pub struct Load {
    tasks: Tasks,
    notes: Arc<Mutex<Notes>>,
}

#[derive(Default)]
struct Notes {
    accepted: Vec<Instant>,
    failed: Vec<String>,
    repeated: u64,
}

impl Load {
    pub fn start(client: &Client, clients: usize) -> Self {
        let (tasks, notes) = (Tasks::new(), Arc::new(Mutex::new(Notes::default())));
        for number in 0..clients {
            tasks.spawn("load", write(client.clone(), number, Arc::clone(&notes), tasks.clone()));
        }
        Self { tasks, notes }
    }

    /// Waits until writes are accepted, which were begun after this call or a little before.
    pub async fn flows(&self) {
        let begun = clock::instant();
        until(secs(30), "writes are accepted", async || {
            let since = lock(&self.notes).accepted.iter().rev().take_while(|at| **at > begun).count();
            (since >= 20).then_some(())
        })
        .await;
    }

    /// The longest time since `begun` in which nothing was accepted.
    pub fn gap_since(&self, begun: Instant) -> Duration {
        let notes = lock(&self.notes);
        let since = notes.accepted.iter().copied().filter(|at| *at >= begun).chain([clock::instant()]);
        let pairs = since.scan(begun, |last, at| Some(at.saturating_duration_since(std::mem::replace(last, at))));
        pairs.max().unwrap_or_default()
    }

    /// Ends it. How many jobs were accepted.
    ///
    /// # Panics
    ///
    /// If one was not, though it was tried again and again.
    pub async fn stop(self) -> usize {
        self.tasks.cancel();
        assert!(self.tasks.join(PATIENCE + secs(10)).await, "a client does not end");
        let notes = lock(&self.notes);
        println!("{} jobs accepted, {} tries repeated", notes.accepted.len(), notes.repeated);
        assert_eq!(notes.failed, Vec::<String>::new(), "requests failed for good");
        notes.accepted.len()
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until it is told to stop, and then to the end of what it has begun.
async fn write(client: Client, number: usize, notes: Arc<Mutex<Notes>>, tasks: Tasks) {
    let body = json!({"type": "noop", "payload": "aGk="});
    for job in 0u64.. {
        if tasks.token().is_cancelled() {
            return;
        }
        let (key, begun) = (format!("load-{number}-{job}"), clock::instant());
        for turn in number.. {
            let answer = client.post_within(turn % client.nodes(), "/jobs", &key, &body, secs(3)).await;
            if answer.as_ref().is_some_and(|answer| matches!(answer.status, 200 | 201)) {
                lock(&notes).accepted.push(clock::instant());
                break;
            }
            if begun.elapsed() > PATIENCE {
                lock(&notes).failed.push(format!("{key}: {answer:?}"));
                break;
            }
            lock(&notes).repeated += 1;
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
