//! What clients notice when every node is restarted, one after the other.
//!
//! Clients write all the time. Each node is told to stop (SIGTERM), started
//! again when its process has ended, and the next one follows when it is ready;
//! the leader is last, as an operator would do it, or first, which is harder.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::RollingArgs;
use super::cluster::Cluster;
use super::devnet::{Devnet, Member};
use super::histogram::Histogram;
use super::report::Report;
use super::writers::Writers;
use crate::clock;
use crate::tasks::Tasks;

/// For a node to stop, and to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Watched after a node is back.
const AFTER: Duration = Duration::from_millis(500);

pub(super) async fn run(args: &RollingArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let devnet = Devnet::new(&args.devnet);
    let writers = Writers::start(cluster, args.clients as usize, tasks);
    let turns = turns(args, cluster, &devnet, &writers).await;
    let noticed = writers.stop().await;
    let (gaps, restarts) = turns?;
    let parameters = json!({ "turns": args.turns, "clients": args.clients });
    let report = Report::new("rolling", parameters)
        .count("writes_failed", noticed.failed)
        .latency("write_gap", gaps.summary())
        .latency("restart", restarts.summary())
        .count("nodes_restarted", restarts.count())
        .latency("write", noticed.latency)
        .count("writes", noticed.accepted)
        .count("tries_repeated", noticed.repeated);
    Ok(noticed.notes(report))
}

/// The longest gap around each restart, and how long it took.
async fn turns(
    args: &RollingArgs,
    cluster: &Cluster,
    devnet: &Devnet,
    writers: &Writers,
) -> anyhow::Result<(Histogram, Histogram)> {
    let (mut gaps, mut restarts) = (Histogram::new(), Histogram::new());
    for turn in 0..args.turns {
        let (leader, others) = devnet.settled(cluster, PATIENCE).await?;
        let mut order = others;
        if turn % 2 == 0 {
            order.push(leader)
        } else {
            order.insert(0, leader)
        }
        for member in order {
            writers.flowing().await?;
            let begun = clock::instant();
            restart(&member, cluster, devnet).await.with_context(|| format!("restart node {}", member.index))?;
            restarts.add(begun.elapsed());
            tokio::time::sleep(AFTER).await;
            gaps.add(writers.gap_since(begun));
        }
    }
    Ok((gaps, restarts))
}

async fn restart(member: &Member, cluster: &Cluster, devnet: &Devnet) -> anyhow::Result<()> {
    member.terminate()?;
    let deadline = clock::instant() + PATIENCE;
    while member.runs() {
        if clock::instant() > deadline {
            bail!("it did not stop within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    devnet.restart(member).await?;
    devnet.wait_ready(cluster, PATIENCE).await
}
