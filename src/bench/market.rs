//! What the market costs while it runs: how long an announced job waits for its
//! award, how much gossip that takes, and what the nodes need of memory.
//!
//! All figures are the nodes' own counters, read before and after. An award
//! counts from the job's first announcement, also if it took several rounds.
//! Gossip is counted as it arrives at the busiest coordinator, every copy, also
//! of heartbeats; what of it was new is shown beside it.

use std::time::Duration;

use anyhow::bail;

use super::MarketArgs;
use super::cluster::Cluster;
use super::load::per_sec;
use super::paced;
use super::report::Report;
use super::scrape::{self, COPIES, DISTINCT, Scrape, growth, observed, whole};
use crate::tasks::Tasks;

/// Between two looks at the nodes' memory.
const WATCH: Duration = Duration::from_secs(2);

const DRAIN_LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn run(args: &MarketArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    paced::workers_online(cluster, args.workers, Duration::from_secs(args.join_secs)).await?;
    paced::submit(cluster, &args.kind, args.jobs_per_sec, Duration::from_millis(args.warmup_ms)).await;
    paced::drained(cluster, DRAIN_LIMIT).await?;

    let before = scrape::all(cluster).await?;
    let watch = Watch::start(cluster.clone(), tasks);
    let paced = paced::submit(cluster, &args.kind, args.jobs_per_sec, Duration::from_secs(args.duration_secs)).await;
    let after = scrape::all(cluster).await?;
    paced::drained(cluster, DRAIN_LIMIT).await?;
    let memory = watch.stop().await?;

    let wait = observed("ciro_award_seconds", &before, &after);
    if wait.count == 0 {
        let why = paced.first_refusal.unwrap_or_else(|| "does a worker run this type?".to_owned());
        bail!("nothing was awarded: {why}");
    }
    let busiest = |name: &str| growth(name, &before, &after).into_iter().fold(0.0, f64::max);
    let per_award = |count: f64| count / wait.count as f64;
    let sum = |name: &str| whole(growth(name, &before, &after).into_iter().sum());
    let report = Report::new("market", paced::parameters(&args.kind, args.jobs_per_sec, args.duration_secs))
        .rate("awards_per_sec", per_sec(wait.count, paced.elapsed))
        .latency("announce_to_award", wait)
        .latency("round", observed("ciro_auction_seconds", &before, &after))
        .seconds("gossip_messages_per_award", per_award(busiest(COPIES)))
        .seconds("gossip_messages_per_award_without_copies", per_award(busiest(DISTINCT)))
        .count("bids", sum("ciro_auction_bids_total"))
        .count("awards", wait.count)
        .count("jobs", paced.ids.len() as u64)
        .count("workers", args.workers)
        .count("largest_node_mib", whole(memory))
        .count("batches_refused", paced.refused)
        .text("announce_to_award_is", "at most this: the upper end of the bucket it fell into");
    Ok(match paced.first_refusal {
        Some(why) => report.note(format!("the first batch refused: {why}")),
        None => report,
    })
}

/// Looks at the nodes' memory until it is stopped.
pub(super) struct Watch {
    tasks: Tasks,
    looking: tokio::task::JoinHandle<f64>,
}

impl Watch {
    pub(super) fn start(cluster: Cluster, tasks: &Tasks) -> Self {
        let tasks = tasks.child();
        let token = tasks.token().clone();
        let looking = tasks.spawn("bench memory", async move {
            let mut most = 0.0f64;
            while !token.is_cancelled() {
                // A node that does not answer now is looked at again.
                let scrapes = scrape::all(&cluster).await.unwrap_or_default();
                most = scrapes.iter().map(Scrape::resident_mib).fold(most, f64::max);
                token.run_until_cancelled(tokio::time::sleep(WATCH)).await;
            }
            most
        });
        Self { tasks, looking }
    }

    /// The most that any node had, in MiB.
    pub(super) async fn stop(self) -> anyhow::Result<f64> {
        self.tasks.cancel();
        Ok(self.looking.await?)
    }
}
