//! Watches every node while a story runs.
//!
//! Holds, at every moment: a node's applied index never goes back while it
//! lives, and two nodes at the same applied index have the same state. What is
//! broken is kept and told at the end, so that the story fails with both facts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ciro::tasks::Tasks;
use serde_json::Value;

use crate::client::Client;

const EVERY: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    /// Which life a node is in: counted up at every start.
    lives: Arc<Vec<AtomicU64>>,
}

#[derive(Default)]
struct Seen {
    /// The highest applied index, by node and life.
    applied: BTreeMap<(usize, u64), u64>,
    /// The first hash seen at an index, and who showed it.
    hashes: BTreeMap<u64, (String, usize)>,
    broken: Vec<String>,
    samples: u64,
}

impl Observer {
    pub fn start(client: &Client, tasks: &Tasks) -> Self {
        let lives = Arc::new((0..client.nodes()).map(|_| AtomicU64::new(0)).collect());
        let observer = Self { seen: Arc::default(), lives };
        for node in 0..client.nodes() {
            let (observer, client) = (observer.clone(), client.clone());
            tasks.spawn_until_stopped("observe", async move {
                loop {
                    observer.look(&client, node).await;
                    tokio::time::sleep(EVERY).await;
                }
            });
        }
        observer
    }

    /// Node `node` starts anew.
    pub fn reborn(&self, node: usize) {
        self.lives[node].fetch_add(1, Ordering::SeqCst);
    }

    /// The number of the life that node `node` is in.
    pub fn life(&self, node: usize) -> u64 {
        self.lives[node].load(Ordering::SeqCst)
    }

    async fn look(&self, client: &Client, node: usize) {
        let life = self.lives[node].load(Ordering::SeqCst);
        let Some(answer) = client.get_within(node, "/status", Duration::from_secs(2)).await else { return };
        if self.lives[node].load(Ordering::SeqCst) == life && answer.status == 200 {
            self.lock().note(node, life, &answer.body);
        }
    }

    /// The most any node ever showed as applied.
    pub fn highest(&self) -> u64 {
        self.lock().applied.values().copied().max().unwrap_or(0)
    }

    /// What was broken, and that we looked at all.
    pub fn verdict(&self) -> (Vec<String>, u64) {
        let seen = self.lock();
        (seen.broken.clone(), seen.samples)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn note(&mut self, node: usize, life: u64, status: &Value) {
        let Some(applied) = status["applied_index"].as_u64() else {
            self.broken.push(format!("node {node} shows no applied_index: {status}"));
            return;
        };
        self.samples += 1;
        let highest = self.applied.entry((node, life)).or_insert(applied);
        if applied < *highest {
            self.broken.push(format!("node {node} went back from applied {highest} to {applied}"));
        }
        *highest = applied.max(*highest);
        // The log begins at index 0, which is also what a node shows that has applied nothing yet.
        if applied == 0 {
            return;
        }
        let hash = status["state_hash"].as_str().unwrap_or("none").to_owned();
        let (first, by) = self.hashes.entry(applied).or_insert_with(|| (hash.clone(), node));
        if *first != hash {
            self.broken.push(format!("at applied {applied} node {by} has state {first}, node {node} {hash}"));
        }
    }
}
