//! Reads of one job, over all nodes, or at the leader and at a follower.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::ReadsArgs;
use super::cluster::{Cluster, Submitted, submission};
use super::load::{self, Answer, Outcome, Plan};
use super::reader::Reader;
use super::report::Report;
use crate::clock;
use crate::tasks::Tasks;

/// For the job to arrive on every node.
const ARRIVAL: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &ReadsArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let id = make_job(cluster).await?;
    let report =
        if args.compare { compare(args, cluster, &id, tasks).await } else { all(args, cluster, &id, tasks).await };
    cluster.cancel(&id).await;
    report
}

/// Over all nodes.
async fn all(args: &ReadsArgs, cluster: &Cluster, id: &str, tasks: &Tasks) -> anyhow::Result<Report> {
    let outcome = read(args, Duration::from_secs(args.duration_secs), cluster, id, tasks).await?;
    Ok(Report::new("reads", parameters(args)).outcome("reads", "reads_per_sec", &outcome))
}

/// At the leader, and at one follower, by as many clients.
async fn compare(args: &ReadsArgs, cluster: &Cluster, id: &str, tasks: &Tasks) -> anyhow::Result<Report> {
    let half = (Duration::from_secs(args.duration_secs) / 2).max(Duration::from_secs(1));
    let (leader, follower) = sides(cluster).await?;
    let at_leader = read(args, half, &cluster.with_nodes(vec![leader]), id, tasks).await?;
    let at_follower = read(args, half, &cluster.with_nodes(vec![follower]), id, tasks).await?;
    let times = |follower: u64, leader: u64| follower as f64 / leader.max(1) as f64;
    let report = Report::new("reads", parameters(args))
        .latency("leader", at_leader.latency)
        .latency("follower", at_follower.latency)
        .rate("leader_reads_per_sec", at_leader.things_per_sec())
        .rate("follower_reads_per_sec", at_follower.things_per_sec())
        .rate("p50_times", times(at_follower.latency.p50_us, at_leader.latency.p50_us))
        .rate("p99_times", times(at_follower.latency.p99_us, at_leader.latency.p99_us))
        .count("failures", at_leader.failures + at_follower.failures);
    Ok(match at_leader.first_failure.or(at_follower.first_failure) {
        Some(why) => report.note(format!("the first failure: {why}")),
        None => report,
    })
}

/// The address of the leader, and of a node that does not lead.
async fn sides(cluster: &Cluster) -> anyhow::Result<(String, String)> {
    let (mut leader, mut follower) = (None, None);
    for node in cluster.nodes() {
        let status = cluster.status(node).await?;
        let side = if status.role == "leader" { &mut leader } else { &mut follower };
        side.get_or_insert_with(|| node.clone());
    }
    leader.zip(follower).context("name a leader and a follower by --node to compare them")
}

async fn read(
    args: &ReadsArgs,
    duration: Duration,
    cluster: &Cluster,
    id: &str,
    tasks: &Tasks,
) -> anyhow::Result<Outcome> {
    let plan = Plan { clients: args.clients as usize, warmup: Duration::from_millis(args.warmup_ms), duration };
    let path: Arc<str> = format!("/jobs/{id}?consistency={}", args.consistency.as_str()).into();
    let readers = (0..plan.clients).map(|client| Reader::new(cluster.node(client), tasks).map(Mutex::new));
    let readers: Arc<[Mutex<Reader>]> = readers.collect::<anyhow::Result<_>>()?;
    let outcome = load::closed_loop(plan, tasks, move |turn| {
        let (readers, path) = (Arc::clone(&readers), Arc::clone(&path));
        async move {
            match readers[turn.client].lock().await.read(&path).await {
                Ok(()) => Answer::Done(1),
                Err(why) => Answer::Failed(why),
            }
        }
    });
    let outcome = outcome.await?;
    if outcome.requests == 0 {
        bail!("no read was answered: {}", outcome.first_failure.unwrap_or_default());
    }
    Ok(outcome)
}

fn parameters(args: &ReadsArgs) -> Value {
    json!({
        "clients": args.clients, "duration_secs": args.duration_secs, "consistency": args.consistency.as_str(),
        "compare": args.compare,
    })
}

/// One job to read, present on all nodes.
async fn make_job(cluster: &Cluster) -> anyhow::Result<String> {
    let key = format!("bench-read-{:016x}", rand::random::<u64>());
    let job = match cluster.submit(cluster.node(0), &key, &submission("bench", b"read me")).await {
        Submitted::Accepted(mut jobs) => jobs.pop().unwrap_or_default(),
        Submitted::Full(why) | Submitted::Refused(why) => bail!("submit a job to read: {why}"),
    };
    let deadline = clock::instant() + ARRIVAL;
    for node in cluster.nodes() {
        while let Err(why) = cluster.read(node, &job.id, "stale").await {
            if clock::instant() > deadline {
                bail!("{node} does not know the job that was submitted: {why}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(job.id)
}
