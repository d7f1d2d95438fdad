//! Reads of one job, over all nodes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::ReadsArgs;
use super::cluster::{Cluster, Submitted, submission};
use super::load::{self, Answer, Plan};
use super::report::Report;
use crate::clock;
use crate::tasks::Tasks;

/// For the job to arrive on every node.
const ARRIVAL: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &ReadsArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let id: Arc<str> = make_job(cluster).await?.into();
    let plan = Plan {
        clients: args.clients as usize,
        warmup: Duration::from_millis(args.warmup_ms),
        duration: Duration::from_secs(args.duration_secs),
    };
    let (reader, job) = (cluster.clone(), Arc::clone(&id));
    let consistency = args.consistency.as_str();
    let outcome = load::closed_loop(plan, tasks, move |turn| {
        let (reader, job) = (reader.clone(), Arc::clone(&job));
        async move {
            match reader.read(reader.node(turn.client), &job, consistency).await {
                Ok(()) => Answer::Done(1),
                Err(why) => Answer::Failed(why),
            }
        }
    });
    let outcome = outcome.await?;
    cluster.cancel(&id).await;
    if outcome.requests == 0 {
        bail!("no read was answered: {}", outcome.first_failure.unwrap_or_default());
    }
    let parameters =
        json!({ "clients": args.clients, "duration_secs": args.duration_secs, "consistency": consistency });
    Ok(Report::new("reads", parameters).outcome("reads", "reads_per_sec", &outcome))
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
