//! How soon a dead worker is noticed, and whether a living one is ever called dead.
//!
//! Workers that are processes of their own get a SIGKILL, some of them in the
//! same moment as the leader. The time runs from just before the signal until a
//! surviving node shows the worker as offline. Every verdict of the whole run is
//! then read from the journal: one on a worker that was not killed is false.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::NoticeArgs;
use super::cluster::Cluster;
use super::devnet::{Devnet, Member, WorkerProcess};
use super::histogram::Histogram;
use super::paced;
use super::report::Report;
use super::scrape::{self, whole};
use crate::clock;

/// For a verdict, for a leader, and for a node to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a worker.
const LOOK: Duration = Duration::from_millis(20);

/// What has happened must be in the journal of the node that is asked.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) async fn run(args: &NoticeArgs, cluster: &Cluster) -> anyhow::Result<Report> {
    paced::workers_online(cluster, args.workers, PATIENCE).await?;
    let devnet = Devnet::new(&args.devnet);
    let victims = victims(&devnet, args.kills as usize).await?;
    let since = journal_seq(cluster).await?;
    let mut bench = Bench { cluster, devnet, took: Histogram::new(), took_with_leader: Histogram::new() };
    let groups: Vec<&[WorkerProcess]> = victims.chunks(args.together as usize).collect();
    let with_leader = (args.with_leader as usize).div_ceil(args.together as usize).min(groups.len());
    for (turn, group) in groups.iter().enumerate() {
        // Spread evenly among the others.
        let takes_leader = (turn + 1) * with_leader / groups.len() > turn * with_leader / groups.len();
        bench.round(group, takes_leader).await.with_context(|| format!("round {}", turn + 1))?;
    }
    tokio::time::sleep(SETTLE).await;
    let killed: BTreeSet<&str> = victims.iter().filter_map(|victim| victim.worker_id.as_deref()).collect();
    let accused = accused(cluster, since).await?;
    let falsely: Vec<&Accused> = accused.iter().filter(|one| !killed.contains(one.worker_id.as_str())).collect();
    let report = Report::new("notice", parameters(args))
        .latency("sigkill_to_offline", bench.took.summary())
        .latency("sigkill_to_offline_with_the_leader", bench.took_with_leader.summary())
        .count("kills", bench.took.count() + bench.took_with_leader.count())
        .count("kills_with_the_leader", bench.took_with_leader.count())
        .count("workers", args.workers)
        .count("verdicts", accused.len() as u64)
        .count("false_verdicts", falsely.len() as u64);
    Ok(match falsely.first() {
        Some(one) => report.note(format!("called {} although alive, among others: {}", one.state, one.worker_id)),
        None => report,
    })
}

struct Bench<'a> {
    cluster: &'a Cluster,
    devnet: Devnet,
    took: Histogram,
    took_with_leader: Histogram,
}

impl Bench<'_> {
    async fn round(&mut self, group: &[WorkerProcess], takes_leader: bool) -> anyhow::Result<()> {
        let (leader, others) = self.devnet.settled(self.cluster, PATIENCE).await?;
        let mut watching = if takes_leader { vec![] } else { vec![leader.api.clone()] };
        watching.extend(others.into_iter().map(|member| member.api));
        let survivors = self.cluster.with_nodes(watching);
        let mut waiting: Vec<(&str, Instant)> = Vec::new();
        if takes_leader {
            leader.kill()?;
        }
        for victim in group {
            let id = victim.worker_id.as_deref().context("a worker without id")?;
            waiting.push((id, clock::instant()));
            victim.kill()?;
        }
        let took = if takes_leader { &mut self.took_with_leader } else { &mut self.took };
        noticed(&survivors, waiting, took).await?;
        if takes_leader { self.come_back(&leader).await } else { Ok(()) }
    }

    async fn come_back(&self, leader: &Member) -> anyhow::Result<()> {
        self.devnet.restart(leader).await?;
        self.devnet.settled(self.cluster, PATIENCE).await.map(drop)
    }
}

async fn noticed(survivors: &Cluster, mut waiting: Vec<(&str, Instant)>, took: &mut Histogram) -> anyhow::Result<()> {
    let deadline = clock::instant() + PATIENCE;
    let mut turn = 0;
    while !waiting.is_empty() {
        let mut left = Vec::new();
        for (id, killed) in waiting {
            turn += 1;
            match survivors.worker_state(survivors.node(turn), id).await {
                Ok(state) if state == "offline" => took.add(killed.elapsed()),
                // No answer is no verdict: the next survivor is asked.
                _ => left.push((id, killed)),
            }
        }
        waiting = left;
        if clock::instant() > deadline {
            bail!("{} dead workers were not noticed within {} s", waiting.len(), PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn victims(devnet: &Devnet, wanted: usize) -> anyhow::Result<Vec<WorkerProcess>> {
    let mut workers = devnet.workers().await?;
    workers.retain(|worker| worker.pid.is_some() && worker.worker_id.is_some());
    if workers.len() < wanted {
        bail!("{} workers are processes of their own, {wanted} are to be killed", workers.len());
    }
    workers.truncate(wanted);
    Ok(workers)
}

#[derive(Debug, Deserialize)]
struct Accused {
    worker_id: String,
    state: String,
}

/// Verdicts that a worker does not live or is not well, after `since`.
async fn accused(cluster: &Cluster, since: u64) -> anyhow::Result<Vec<Accused>> {
    let through = journal_seq(cluster).await?;
    let events = cluster.events(cluster.node(0), since, through, PATIENCE).await?;
    let verdicts = events.into_iter().filter_map(|event| serde_json::from_value::<Accused>(event).ok());
    Ok(verdicts.filter(|one| one.state == "offline" || one.state == "unhealthy").collect())
}

async fn journal_seq(cluster: &Cluster) -> anyhow::Result<u64> {
    let scrapes = scrape::all(cluster).await?;
    Ok(scrapes.first().map_or(0, |scrape| whole(scrape.sum("ciro_journal_seq"))))
}

fn parameters(args: &NoticeArgs) -> Value {
    json!({ "kills": args.kills, "with_the_leader": args.with_leader, "at_once": args.together })
}
