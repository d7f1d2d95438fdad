//! What settling on chain costs, and how fast it is.
//!
//! Rate: the Starknet node sleeps while jobs run to their end, so that the
//! journal holds every stage of each; then it wakes. Timed is from the first
//! transaction that lands to the moment when nothing is left to settle, by what
//! the cluster itself has replicated.
//!
//! Latency: single jobs, in turn not settled and registered before they are
//! distributed, each from submission to end as the cluster stamped it.
//!
//! Throughput: the same load, in turn not settled, settled later while the node
//! sleeps, and settled later. The Starknet node works on this machine too, which
//! the last of these pays for; the one before is what settling costs the cluster.
//!
//! The node is paused, not killed, and goes on whatever becomes of the bench.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::cluster::{Cluster, Submitted, submission};
use super::devnet::{Devnet, Paused};
use super::e2e;
use super::histogram::{Histogram, Summary};
use super::load::per_sec;
use super::report::Report;
use super::{ChainArgs, EndToEndArgs};
use crate::clock;
use crate::tasks::Tasks;

/// Between two looks at the counts.
const LOOK: Duration = Duration::from_millis(20);

/// Until the nodes are ready, and a single job has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Transactions whose jobs are counted.
const PAGE: usize = 1_000;

const OFF: &str = "none";
const LATER: &str = "settle_later";
const BEFORE: &str = "register_before_distribution";

/// What a bench needs of `GET /blockchain/status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    state: String,
    rpc_url: Option<String>,
    chain_id: Option<String>,
    last_error: Option<String>,
    pending_transactions: u64,
    again: u64,
    parked: u64,
    unsettled: u64,
}

impl Status {
    fn left(&self) -> u64 {
        self.unsettled + self.again + self.pending_transactions
    }
}

/// What a bench needs of `GET /blockchain/metrics`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Counts {
    transactions_confirmed: u64,
    transactions_reverted: u64,
    calls: u64,
}

struct Settled {
    took: Duration,
    calls: u64,
    transactions: u64,
    jobs_per_transaction: f64,
}

pub(super) async fn run(args: &ChainArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let devnet = Devnet::new(&args.devnet);
    devnet.wait_ready(cluster, PATIENCE).await?;
    let status = status(cluster).await?;
    if status.state != "connected" {
        bail!("the node is not connected to a chain but {}: {}", status.state, status.last_error.unwrap_or_default());
    }
    all_settled(cluster, args.limit()).await?;
    let settled = rate(args, cluster, &devnet, tasks).await?;
    let (off, before) = latencies(args, cluster).await?;
    let speeds = throughput(args, cluster, &devnet, tasks).await?;
    let percent = |secs: f64| speeds.off / secs.max(f64::EPSILON) * 100.0;
    let jobs = u64::from(args.jobs) * u64::from(args.rounds);
    let speed = |secs: f64| per_sec(jobs, Duration::from_secs_f64(secs));
    Ok(Report::new("chain", parameters(args, &status))
        .rate("calls_per_sec", per_sec(settled.calls, settled.took))
        .seconds("jobs_per_transaction", settled.jobs_per_transaction)
        .seconds("calls_per_transaction", settled.calls as f64 / settled.transactions.max(1) as f64)
        .count("transactions", settled.transactions)
        .latency("submit_to_finish_registered_before", before)
        .latency("submit_to_finish_chain_off", off)
        .seconds("registration_adds_p50_ms", (before.p50_us as f64 - off.p50_us as f64) / 1000.0)
        .rate("e2e_chain_off_jobs_per_sec", speed(speeds.off))
        .rate("e2e_settle_later_jobs_per_sec", speed(speeds.later))
        .rate("e2e_settle_later_chain_asleep_jobs_per_sec", speed(speeds.asleep))
        .seconds("settle_later_percent_of_chain_off", percent(speeds.later))
        .seconds("settle_later_chain_asleep_percent_of_chain_off", percent(speeds.asleep))
        .note("the Starknet node runs on this machine as well, and takes from what the cluster has"))
}

fn parameters(args: &ChainArgs, status: &Status) -> Value {
    json!({
        "jobs": args.jobs,
        "rounds": args.rounds,
        "latency_jobs": args.latency_jobs,
        "rpc_url": status.rpc_url,
        "chain_id": status.chain_id,
    })
}

// ---------------------------------------------------------------------- rate

async fn rate(args: &ChainArgs, cluster: &Cluster, devnet: &Devnet, tasks: &Tasks) -> anyhow::Result<Settled> {
    let before = counts(cluster).await?;
    let asleep: Paused = devnet.pause_chain().await?;
    load(args, LATER, cluster, tasks).await?;
    drop(asleep);
    let took = settling(cluster, before.calls, args.limit()).await?;
    let after = counts(cluster).await?;
    if after.transactions_reverted > before.transactions_reverted {
        bail!("{} transactions were reverted", after.transactions_reverted - before.transactions_reverted);
    }
    let transactions = after.transactions_confirmed - before.transactions_confirmed;
    let jobs_per_transaction = jobs_per_transaction(cluster, transactions).await?;
    Ok(Settled { took, calls: after.calls - before.calls, transactions, jobs_per_transaction })
}

/// From the last look at which nothing had landed to the first at which nothing was left.
async fn settling(cluster: &Cluster, calls: u64, limit: Duration) -> anyhow::Result<Duration> {
    let start = clock::instant();
    let mut began = start;
    loop {
        let asked = clock::instant();
        if counts(cluster).await?.calls <= calls {
            began = asked;
        } else if status(cluster).await?.left() == 0 {
            return Ok(began.elapsed());
        }
        if start.elapsed() > limit {
            bail!("not settled after {} s: {:?}", limit.as_secs(), status(cluster).await?);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// On average, of the newest `transactions`.
async fn jobs_per_transaction(cluster: &Cluster, transactions: u64) -> anyhow::Result<f64> {
    #[derive(Deserialize)]
    struct Page {
        transactions: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        job_ids: Vec<String>,
    }
    let count = usize::try_from(transactions).unwrap_or(PAGE).clamp(1, PAGE);
    let page: Page = cluster.get(cluster.node(0), &format!("/blockchain/transactions?limit={count}")).await?;
    let jobs: usize = page.transactions.iter().map(|transaction| transaction.job_ids.len()).sum();
    Ok(jobs as f64 / page.transactions.len().max(1) as f64)
}

// ------------------------------------------------------------------- latency

/// Of jobs that are not settled, and of those that wait for their registration.
async fn latencies(args: &ChainArgs, cluster: &Cluster) -> anyhow::Result<(Summary, Summary)> {
    let (mut off, mut before) = (Histogram::new(), Histogram::new());
    let run: u64 = rand::random();
    for number in 0..args.latency_jobs {
        off.add(one(cluster, &format!("bench-chain-{run:016x}-{number}-off"), OFF, args).await?);
        before.add(one(cluster, &format!("bench-chain-{run:016x}-{number}-before"), BEFORE, args).await?);
    }
    Ok((off.summary(), before.summary()))
}

async fn one(cluster: &Cluster, key: &str, settlement: &str, args: &ChainArgs) -> anyhow::Result<Duration> {
    let job = match cluster.submit(cluster.node(0), key, &settled(&args.kind, settlement)).await {
        Submitted::Accepted(mut jobs) if jobs.len() == 1 => jobs.remove(0),
        other => bail!("submit a job: {other:?}"),
    };
    let start = clock::instant();
    loop {
        let job = cluster.job(cluster.node(0), &job.id).await?;
        match job.state.as_str() {
            "completed" => return e2e::took(&job).context("the job has no times"),
            "failed" | "cancelled" => bail!("job {} ended as {}", job.id, job.state),
            _ if start.elapsed() > PATIENCE => bail!("job {} has not ended", job.id),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

// ---------------------------------------------------------------- throughput

/// Seconds that all rounds took.
#[derive(Default)]
struct Speeds {
    off: f64,
    later: f64,
    asleep: f64,
}

async fn throughput(args: &ChainArgs, cluster: &Cluster, devnet: &Devnet, tasks: &Tasks) -> anyhow::Result<Speeds> {
    let mut speeds = Speeds::default();
    for _ in 0..args.rounds {
        speeds.off += load(args, OFF, cluster, tasks).await?.as_secs_f64();
        speeds.later += load(args, LATER, cluster, tasks).await?.as_secs_f64();
        all_settled(cluster, args.limit()).await?;
        let asleep = devnet.pause_chain().await?;
        speeds.asleep += load(args, LATER, cluster, tasks).await?.as_secs_f64();
        drop(asleep);
        all_settled(cluster, args.limit()).await?;
    }
    Ok(speeds)
}

/// How long jobs of this kind of settlement take from the first submission to the last end.
async fn load(args: &ChainArgs, settlement: &str, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Duration> {
    let load = EndToEndArgs {
        clients: 4,
        jobs: args.jobs,
        batch: 500,
        kind: args.kind.clone(),
        timeout_secs: args.timeout_secs,
    };
    Ok(e2e::timed(&load, &settled(&args.kind, settlement), cluster, tasks).await?.elapsed)
}

fn settled(kind: &str, settlement: &str) -> Value {
    let mut job = submission(kind, b"");
    job["settlement"] = json!(settlement);
    job
}

async fn all_settled(cluster: &Cluster, limit: Duration) -> anyhow::Result<()> {
    let start = clock::instant();
    loop {
        let status = status(cluster).await?;
        if status.parked > 0 {
            bail!("{} stages of jobs are parked: see `ciro-coordinator blockchain dlq list`", status.parked);
        }
        if status.left() == 0 {
            return Ok(());
        }
        if start.elapsed() > limit {
            bail!("not settled after {} s: {status:?}", limit.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn status(cluster: &Cluster) -> anyhow::Result<Status> {
    cluster.get(cluster.node(0), "/blockchain/status").await
}

async fn counts(cluster: &Cluster) -> anyhow::Result<Counts> {
    cluster.get(cluster.node(0), "/blockchain/metrics").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_says_how_it_is_settled() {
        let job = settled("noop", BEFORE);
        assert_eq!((&job["type"], &job["settlement"]), (&json!("noop"), &json!(BEFORE)));
    }

    #[test]
    fn what_is_planned_again_is_left_too() {
        let status: Status = serde_json::from_value(
            json!({"state": "connected", "unsettled": 2, "again": 3, "pending_transactions": 4}),
        )
        .unwrap();
        assert_eq!((status.left(), status.parked), (9, 0));
    }
}
