//! How long the cluster refuses writes when its leader is killed.
//!
//! Every survivor is asked, without a pause, to accept one and the same write;
//! the time runs from just before the SIGKILL to the first acceptance, as a
//! client that knows all nodes would see it. Meanwhile jobs run that take longer
//! than the whole bench: a fail-over that restarts one of them is counted.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use futures::future::select_all;
use serde_json::{Value, json};

use super::FailoverArgs;
use super::cluster::{Cluster, Submitted, submission};
use super::devnet::Devnet;
use super::histogram::Histogram;
use super::report::Report;
use super::writers::Writers;
use crate::clock;
use crate::tasks::Tasks;

/// For a cluster without a leader to have one, and for a node to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two tries of the same node.
const TRY: Duration = Duration::from_millis(5);

/// Between two looks at something slow.
const LOOK: Duration = Duration::from_millis(100);

/// Seconds that a held job may take longer than it says.
const SLACK_SECS: u32 = 300;

pub(super) async fn run(args: &FailoverArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let devnet = Devnet::new(&args.devnet);
    let held = hold(args, cluster).await?;
    let mut bench = Rounds { cluster, devnet, run: rand::random(), took: Histogram::new() };
    let writers = (args.load > 0).then(|| Writers::start(cluster, args.load as usize, tasks));
    let result = bench.run(args.rounds).await;
    let noticed = match writers {
        Some(writers) => Some(writers.stop().await),
        None => None,
    };
    let restarted = restarted(&held, cluster).await;
    for id in &held {
        cluster.cancel(id).await;
    }
    result?;
    let restarted = restarted?;
    let report = Report::new("failover", parameters(args))
        .latency("first_write_accepted", bench.took.summary())
        .count("rounds", bench.took.count())
        .count("running_jobs", held.len() as u64)
        .count("running_jobs_restarted", restarted.len() as u64)
        .text("measured_from", "just before SIGKILL of the leader");
    let report = match &noticed {
        Some(load) => load.notes(report.count("writes_meanwhile", load.accepted).count("writes_failed", load.failed)),
        None => report,
    };
    Ok(match restarted.first() {
        Some(why) => report.note(format!("restarted, among others: {why}")),
        None => report,
    })
}

struct Rounds<'a> {
    cluster: &'a Cluster,
    devnet: Devnet,
    run: u64,
    took: Histogram,
}

impl Rounds<'_> {
    async fn run(&mut self, rounds: u32) -> anyhow::Result<()> {
        for round in 1..=rounds {
            self.round(round).await.with_context(|| format!("round {round}"))?;
        }
        Ok(())
    }

    async fn round(&mut self, round: u32) -> anyhow::Result<()> {
        let (leader, others) = self.devnet.settled(self.cluster, PATIENCE).await?;
        let others = self.cluster.with_nodes(others.into_iter().map(|member| member.api).collect());
        let key = format!("bench-failover-{:016x}-{round}", self.run);
        let began = clock::instant();
        leader.kill()?;
        let id = first_acceptance(&others, &key).await?;
        self.took.add(began.elapsed());
        others.cancel(&id).await;
        self.devnet.restart(&leader).await?;
        self.devnet.wait_ready(self.cluster, PATIENCE).await
    }
}

/// Asks all at once; the id of the job that the first of them accepted.
async fn first_acceptance(nodes: &Cluster, key: &str) -> anyhow::Result<String> {
    let asking = nodes.nodes().iter().map(|node| ask_until_accepted(nodes, node, key).boxed());
    match tokio::time::timeout(PATIENCE, select_all(asking)).await {
        Ok((id, ..)) => Ok(id),
        Err(_) => bail!("no write was accepted for {} s", PATIENCE.as_secs()),
    }
}

async fn ask_until_accepted(nodes: &Cluster, node: &str, key: &str) -> String {
    let job = submission("bench", b"fail-over");
    loop {
        if let Submitted::Accepted(mut jobs) = nodes.submit(node, key, &job).await {
            return jobs.pop().unwrap_or_default().id;
        }
        tokio::time::sleep(TRY).await;
    }
}

/// Jobs that run through all rounds; returns when they run.
async fn hold(args: &FailoverArgs, cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let run: u64 = rand::random();
    let mut job = submission(&args.hold_type, args.hold_secs.to_string().as_bytes());
    job["timeout_secs"] = json!(args.hold_secs + SLACK_SECS);
    let mut held = Vec::new();
    for number in 0..args.hold_jobs {
        match cluster.submit(cluster.node(0), &format!("bench-hold-{run:016x}-{number}"), &job).await {
            Submitted::Accepted(jobs) => held.extend(jobs.into_iter().map(|job| job.id)),
            Submitted::Full(why) | Submitted::Refused(why) => bail!("submit a job that runs meanwhile: {why}"),
        }
    }
    let deadline = clock::instant() + PATIENCE;
    for id in &held {
        while cluster.job(cluster.node(0), id).await?.state != "running" {
            if clock::instant() > deadline {
                bail!("job {id} does not run: is there a worker with room for type {:?}?", args.hold_type);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(held)
}

/// Those that no longer run as they were started, and how they are.
async fn restarted(held: &[String], cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut restarted = Vec::new();
    for id in held {
        let job = cluster.job(cluster.node(0), id).await?;
        if job.attempt != 1 || job.state != "running" {
            restarted.push(format!("job {id} is {} in attempt {}", job.state, job.attempt));
        }
    }
    Ok(restarted)
}

fn parameters(args: &FailoverArgs) -> Value {
    json!({ "rounds": args.rounds, "load_clients": args.load, "running_jobs": args.hold_jobs, "running_type": args.hold_type })
}
