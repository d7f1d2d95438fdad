//! Jobs at a given rate: what clients do that do not wait for each other.
//!
//! Batches leave on time as long as each is answered before the next is due; a
//! cluster that answers later gets fewer, and the report says how many.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;
use tokio::time::MissedTickBehavior;

use super::cluster::{Cluster, Submitted, submission};
use crate::clock;

/// Between two batches.
const BATCH_EVERY: Duration = Duration::from_millis(100);

/// Between two looks at something slow.
const LOOK: Duration = Duration::from_millis(100);

pub(super) struct Paced {
    pub ids: Vec<String>,
    pub elapsed: Duration,
    /// Batches that were refused, and why the first was.
    pub refused: u64,
    pub first_refusal: Option<String>,
}

/// Submits `per_sec` jobs of type `kind` each second, for `duration`.
pub(super) async fn submit(cluster: &Cluster, kind: &str, per_sec: u32, duration: Duration) -> Paced {
    let run: u64 = rand::random();
    let began = clock::instant();
    let mut paced = Paced { ids: Vec::new(), elapsed: Duration::ZERO, refused: 0, first_refusal: None };
    let mut tick = tokio::time::interval(BATCH_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut turn, mut owed) = (0usize, 0u32);
    while began.elapsed() < duration {
        tick.tick().await;
        owed += per_sec;
        let jobs = vec![submission(kind, b""); (owed / 10) as usize];
        owed %= 10;
        turn += 1;
        if jobs.is_empty() {
            continue;
        }
        match cluster.submit_batch(cluster.node(turn), &format!("bench-paced-{run:016x}-{turn}"), &jobs).await {
            Submitted::Accepted(jobs) => paced.ids.extend(jobs.into_iter().map(|job| job.id)),
            Submitted::Full(why) | Submitted::Refused(why) => {
                paced.refused += 1;
                paced.first_refusal.get_or_insert(why);
            }
        }
    }
    paced.elapsed = began.elapsed();
    paced
}

/// Waits until no job is open.
pub(super) async fn drained(cluster: &Cluster, limit: Duration) -> anyhow::Result<()> {
    let deadline = clock::instant() + limit;
    loop {
        let status = cluster.status(cluster.node(0)).await?;
        let open = status.open();
        if open == 0 {
            return Ok(());
        }
        if clock::instant() > deadline {
            bail!("{open} jobs were still open after {} s (now {:?})", limit.as_secs(), status.jobs);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until so many workers are online.
pub(super) async fn workers_online(cluster: &Cluster, wanted: u64, limit: Duration) -> anyhow::Result<()> {
    let deadline: Instant = clock::instant() + limit;
    loop {
        let online = cluster.status(cluster.node(0)).await?.workers_online();
        if online >= wanted {
            return Ok(());
        }
        if clock::instant() > deadline {
            bail!("{online} workers are online after {} s, {wanted} were expected", limit.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(super) fn parameters(kind: &str, per_sec: u32, secs: u64) -> Value {
    serde_json::json!({ "type": kind, "jobs_per_sec": per_sec, "duration_secs": secs })
}
