//! What a million finished jobs cost: memory of each node, and the time of a restart.
//!
//! The jobs are done like any others, by whoever runs their type. Then each node
//! in turn is killed and started again; a restart ends when the node is ready
//! and answers for a job that left memory.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::cluster::{Cluster, submission};
use super::devnet::Devnet;
use super::report::Report;
use super::scrape::{self, Scrape, whole};
use super::{EndToEndArgs, MillionArgs, e2e, load};
use crate::clock;
use crate::tasks::Tasks;

/// For a node to come back.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two looks at a node that starts.
const LOOK: Duration = Duration::from_millis(50);

/// Longest time that a record waited for a checkpoint.
const PAUSE: &str = "ciro_checkpoint_pause_max_seconds";

const ARCHIVED: &str = "ciro_finished_jobs{place=\"archive\"}";

pub(super) async fn run(args: &MillionArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let load = EndToEndArgs {
        clients: args.clients,
        jobs: args.jobs,
        batch: args.batch,
        kind: args.kind.clone(),
        timeout_secs: args.timeout_secs,
    };
    let done = e2e::timed(&load, &submission(&args.kind, b""), cluster, tasks).await?;
    let filled = scrape::all(cluster).await?;
    let oldest = done.ids.first().context("no job was submitted")?;
    let restarts = restart_all(args, cluster, oldest).await?;
    let again = scrape::all(cluster).await?;
    let most = |scrapes: &[Scrape], of: fn(&Scrape) -> f64| scrapes.iter().map(of).fold(0.0, f64::max);
    let kept = cluster.status(cluster.node(0)).await?;
    Ok(Report::new("million", json!({ "jobs": args.jobs, "type": args.kind, "jobs_per_request": args.batch }))
        .rate("jobs_per_sec", load::per_sec(u64::from(args.jobs), done.elapsed))
        .count("largest_node_mib", whole(most(&filled, Scrape::resident_mib)))
        .count("largest_node_after_restart_mib", whole(most(&again, Scrape::resident_mib)))
        .seconds("slowest_restart_secs", restarts.iter().map(Duration::as_secs_f64).fold(0.0, f64::max))
        .seconds("longest_pause_by_a_checkpoint_secs", most(&filled, |scrape| scrape.sum(PAUSE)))
        .count("finished_jobs_kept", kept.finished())
        .count("archived", whole(most(&again, |scrape| scrape.sum(ARCHIVED))))
        .count("archive_mib", whole(most(&again, |scrape| scrape.sum("ciro_archive_bytes")) / f64::from(1 << 20)))
        .seconds("filled_in_secs", done.elapsed.as_secs_f64()))
}

async fn restart_all(args: &MillionArgs, cluster: &Cluster, oldest: &str) -> anyhow::Result<Vec<Duration>> {
    let devnet = Devnet::new(&args.devnet);
    let mut took = Vec::new();
    devnet.wait_ready(cluster, PATIENCE).await?;
    for member in devnet.members().await? {
        member.kill()?;
        let began = clock::instant();
        devnet.restart(&member).await?;
        let path = format!("/jobs/{oldest}");
        while !cluster.is_ready(&member.api).await
            || cluster.get::<serde_json::Value>(&member.api, &path).await.is_err()
        {
            if began.elapsed() > PATIENCE {
                bail!("node {} is not ready after {} s", member.index, PATIENCE.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        took.push(began.elapsed());
        devnet.wait_ready(cluster, PATIENCE).await?;
    }
    Ok(took)
}
