//! What dishonest workers cost the honest jobs.
//!
//! The same load runs twice: with honest workers only, then while others lie to
//! the cluster. Those are processes that this bench starts, by the commands it is
//! given, and ends. Each job's time is the cluster's own, from submission to end.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::HostileArgs;
use super::cluster::Cluster;
use super::e2e::{Sample, look_at};
use super::market::Watch;
use super::paced;
use super::report::Report;
use super::scrape::{self, Scrape, growth, whole};
use crate::tasks::Tasks;

const DRAIN_LIMIT: Duration = Duration::from_secs(300);

/// For liars to end when asked to.
const END_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &HostileArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    paced::workers_online(cluster, args.honest, Duration::from_secs(args.join_secs)).await?;
    let uptimes = uptimes(&scrape::all(cluster).await?);
    let peace = load(args, cluster, tasks).await.context("with honest workers only")?;

    let mut liars = Vec::new();
    for command in &args.start {
        liars.push(start(command)?);
    }
    tokio::time::sleep(Duration::from_secs(args.settle_secs)).await;
    let before = scrape::all(cluster).await?;
    let result = load(args, cluster, tasks).await.context("with dishonest workers");
    let after = scrape::all(cluster).await?;
    for liar in &mut liars {
        end(liar).await;
    }
    let war = result?;
    let restarts = uptimes.iter().zip(self::uptimes(&after)).filter(|(before, after)| after < *before).count();
    let (calm, hostile) = (peace.sample.latency.summary(), war.sample.latency.summary());
    let lost = |load: &Load| load.sample.jobs - load.sample.completed;
    let sum = |name: &str| whole(growth(name, &before, &after).into_iter().sum());
    let report = Report::new("hostile", paced::parameters(&args.kind, args.jobs_per_sec, args.duration_secs))
        .seconds("p99_times", hostile.p99_us as f64 / calm.p99_us.max(1) as f64)
        .latency("honest_jobs", calm)
        .latency("honest_jobs_among_liars", hostile)
        .count("jobs_sampled", war.sample.jobs)
        .count("jobs_not_completed", lost(&peace) + lost(&war))
        .count("batches_refused", peace.refused)
        .count("batches_refused_among_liars", war.refused)
        .count("jobs_attempted_again", war.sample.repeated)
        .count("offences_noted", sum("ciro_mesh_offences_total"))
        .count("nodes_restarted", restarts as u64)
        .count("largest_node_mib", whole(war.memory_mib))
        .count("memory_growth_mib", whole((war.memory_mib - peace.memory_mib).max(0.0)))
        .count("commands_started", args.start.len() as u64);
    Ok(match war.first_refusal.or(peace.first_refusal) {
        Some(why) => report.note(format!("the first batch refused: {why}")),
        None => report,
    })
}

/// One run of the load.
struct Load {
    sample: Sample,
    /// The most that any node had.
    memory_mib: f64,
    refused: u64,
    first_refusal: Option<String>,
}

async fn load(args: &HostileArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Load> {
    let watch = Watch::start(cluster.clone(), tasks);
    let paced = paced::submit(cluster, &args.kind, args.jobs_per_sec, Duration::from_secs(args.duration_secs)).await;
    let drained = paced::drained(cluster, DRAIN_LIMIT).await;
    let memory_mib = watch.stop().await?;
    drained?;
    let paced::Paced { ids, refused, first_refusal, .. } = paced;
    if ids.is_empty() {
        bail!("nothing was accepted: {}", first_refusal.unwrap_or_default());
    }
    Ok(Load { sample: look_at(&ids, cluster).await?, memory_mib, refused, first_refusal })
}

fn uptimes(scrapes: &[Scrape]) -> Vec<f64> {
    scrapes.iter().map(|scrape| scrape.sum("ciro_uptime_seconds")).collect()
}

fn start(command: &str) -> anyhow::Result<Child> {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {command}")]).stdin(Stdio::null()).kill_on_drop(true);
    shell.spawn().with_context(|| format!("run {command:?}"))
}

/// Asks it to end, then makes it.
async fn end(liar: &mut Child) {
    let pid = liar.id().and_then(|pid| i32::try_from(pid).ok());
    // It may have ended by itself.
    let _ = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
    if tokio::time::timeout(END_LIMIT, liar.wait()).await.is_err() {
        let _ = liar.kill().await;
    }
}
