//! Measures a running cluster from outside, as its clients see it.
//!
//! Closed loops: each of N clients sends its next request when the last one is
//! answered, so the figures are what N patient clients get, and no queue grows
//! in the bench. Whatever is not an acceptance is counted and shown, never
//! retried out of sight. Every report names its setup: nodes, versions, how
//! writes are made durable, hardware, and what this disk's own `fdatasync`
//! costs, because a figure without these says nothing.
//!
//! Deliberately absent: starting a cluster (`scripts/bench.sh` does), and
//! comparing runs.

mod args;
mod chain;
mod clearing;
mod cluster;
mod devnet;
mod e2e;
mod failover;
mod handover;
mod histogram;
mod hostile;
#[cfg(feature = "kafka")]
mod kafka;
mod load;
mod market;
mod members;
mod million;
mod nodes;
mod notice;
mod paced;
mod reader;
mod reads;
mod report;
mod restore;
mod rolling;
mod scrape;
mod setup;
mod submit;
mod writers;

use std::io::Write as _;
use std::path::PathBuf;

use clap::Subcommand;

#[cfg(feature = "kafka")]
pub use self::args::KafkaArgs;
pub use self::args::{
    ChainArgs, ClearingArgs, Consistency, DevnetArgs, EndToEndArgs, FailoverArgs, HandoverArgs, HostileArgs,
    MarketArgs, MembersArgs, MillionArgs, NoticeArgs, ReadsArgs, RestoreArgs, RollingArgs, SubmitArgs,
};
use self::cluster::Cluster;
use self::report::Report;
use self::setup::Setup;
use crate::tasks::Tasks;

/// Measure a running cluster: throughput, latency, fail-over.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// REST address of a node; give it once per node, clients spread over them
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_delimiter = ',')]
    pub node: Vec<String>,

    /// Print one JSON document instead of a table
    #[arg(long)]
    pub json: bool,

    /// Where to measure this disk's own fdatasync [default: the system's temporary directory]
    ///
    /// Give a directory on the disk that the nodes write to. 300 small appends, each made durable, in a file that is
    /// removed afterwards.
    #[arg(long, global = true, value_name = "DIR")]
    pub disk_dir: Option<PathBuf>,

    #[command(subcommand)]
    pub bench: Bench,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// Durable submits: acknowledged jobs per second
    Submit(SubmitArgs),
    /// From submit to signed result: finished jobs per second
    #[command(name = "e2e")]
    EndToEnd(EndToEndArgs),
    /// Reads of one job
    Reads(ReadsArgs),
    /// SIGKILL of the leader until the first write is accepted elsewhere
    Failover(FailoverArgs),
    /// Leadership handed over as planned: how long writes wait
    Handover(HandoverArgs),
    /// Every node restarted under load: what failed, and how long writes waited
    Rolling(RollingArgs),
    /// Three nodes become five and three again, under load: what failed, and how long writes waited
    Members(MembersArgs),
    /// From announcement to award, gossip and memory, at a given rate of jobs
    Market(MarketArgs),
    /// A million finished jobs: memory of each node, and how long a restart takes
    Million(MillionArgs),
    /// SIGKILL of workers until they are seen offline, and verdicts on those that live
    Notice(NoticeArgs),
    /// The same load without and with dishonest workers
    Hostile(HostileArgs),
    /// The joint clearing against the optimum, on random rounds; needs no cluster
    Clearing(ClearingArgs),
    /// A backup of many jobs becomes a cluster of three; needs no cluster
    Restore(RestoreArgs),
    /// Settling on chain: calls a second, added latency, and what it costs the cluster
    Chain(ChainArgs),
    /// Jobs taken in from Kafka, and results given to it
    #[cfg(feature = "kafka")]
    Kafka(KafkaArgs),
}

/// Runs one bench and prints its report on standard output.
///
/// Fails if the cluster cannot be reached, or if what was measured is no
/// measurement (no request accepted, jobs that never ended).
pub async fn run(args: Args) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let cluster = Cluster::new(&args.node)?;
    let asked = if matches!(args.bench, Bench::Clearing(_) | Bench::Restore(_)) { None } else { Some(&cluster) };
    let setup = Setup::of(asked, args.disk_dir.clone(), &tasks).await?;
    let report = measure(&args.bench, &cluster, &tasks).await;
    tasks.cancel();
    let text = render(&report?, &setup, args.json)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

async fn measure(bench: &Bench, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    match bench {
        Bench::Submit(args) => submit::run(args, cluster, tasks).await,
        Bench::EndToEnd(args) => e2e::run(args, cluster, tasks).await,
        Bench::Reads(args) => reads::run(args, cluster, tasks).await,
        Bench::Failover(args) => failover::run(args, cluster, tasks).await,
        Bench::Handover(args) => handover::run(args, cluster, tasks).await,
        Bench::Rolling(args) => rolling::run(args, cluster, tasks).await,
        Bench::Members(args) => members::run(args, cluster, tasks).await,
        Bench::Market(args) => market::run(args, cluster, tasks).await,
        Bench::Million(args) => million::run(args, cluster, tasks).await,
        Bench::Notice(args) => notice::run(args, cluster).await,
        Bench::Hostile(args) => hostile::run(args, cluster, tasks).await,
        Bench::Clearing(args) => clearing::run(args),
        Bench::Restore(args) => restore::run(args).await,
        Bench::Chain(args) => chain::run(args, cluster, tasks).await,
        #[cfg(feature = "kafka")]
        Bench::Kafka(args) => kafka::run(args, cluster, tasks).await,
    }
}

fn render(report: &Report, setup: &Setup, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(format!("{}\n", serde_json::to_string_pretty(&report.json(setup)?)?));
    }
    Ok(report.table(setup))
}
