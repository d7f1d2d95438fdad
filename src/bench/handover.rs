//! How long writes wait when leadership is handed over as planned.
//!
//! Clients write all the time, by all nodes. In each round the leader is told
//! to hand over; the gap is the longest time around it in which no client got an
//! acceptance. The same is measured of a moment before it, which says what of the
//! gap is the disk's and the load's own.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::HandoverArgs;
use super::cluster::Cluster;
use super::histogram::Histogram;
use super::report::Report;
use super::writers::Writers;
use crate::clock;
use crate::tasks::Tasks;

/// Watched after a hand-over was answered, and before the next one.
const AFTER: Duration = Duration::from_millis(400);

pub(super) async fn run(args: &HandoverArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let writers = Writers::start(cluster, args.clients as usize, tasks);
    let rounds = rounds(args.rounds, cluster, &writers).await;
    let noticed = writers.stop().await;
    let (gaps, moves, usual) = rounds?;
    let parameters = json!({ "rounds": args.rounds, "clients": args.clients });
    let report = Report::new("handover", parameters)
        .latency("write_gap", gaps.summary())
        .latency("usual_gap", usual.summary())
        .latency("hand_over", moves.summary())
        .count("rounds", gaps.count())
        .latency("write", noticed.latency)
        .count("writes", noticed.accepted)
        .count("tries_repeated", noticed.repeated)
        .count("writes_failed", noticed.failed);
    Ok(noticed.notes(report))
}

/// The gaps, how long a hand-over took to be answered, and gaps without one.
async fn rounds(
    rounds: u32,
    cluster: &Cluster,
    writers: &Writers,
) -> anyhow::Result<(Histogram, Histogram, Histogram)> {
    let (mut gaps, mut moves, mut usual) = (Histogram::new(), Histogram::new(), Histogram::new());
    for round in 1..=rounds {
        writers.flowing().await?;
        let begun = clock::instant();
        tokio::time::sleep(AFTER).await;
        usual.add(writers.gap_since(begun));

        let before = leader(cluster).await?;
        let begun = clock::instant();
        let after = cluster.hand_over(cluster.node(round as usize)).await.with_context(|| format!("round {round}"))?;
        moves.add(begun.elapsed());
        tokio::time::sleep(AFTER).await;
        gaps.add(writers.gap_since(begun));
        if before == after {
            bail!("round {round}: {before} leads as before");
        }
    }
    Ok((gaps, moves, usual))
}

async fn leader(cluster: &Cluster) -> anyhow::Result<String> {
    let deadline = clock::instant() + Duration::from_secs(10);
    loop {
        let status: serde_json::Value = cluster.get(cluster.node(0), "/cluster").await?;
        match status["leader_id"].as_str() {
            Some(leader) => return Ok(leader.to_owned()),
            None if clock::instant() > deadline => bail!("nobody leads"),
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
