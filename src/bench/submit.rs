//! Durable submits. Each is answered when a majority has it on disk.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};

use super::SubmitArgs;
use super::cluster::{Cluster, Submitted, submission};
use super::load::{self, Answer, Plan, Turn};
use super::report::Report;
use crate::tasks::Tasks;

/// A type that no worker runs, so that only the submit is measured.
const KIND: &str = "bench";

pub(super) async fn run(args: &SubmitArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let cluster = if args.follower { followers(cluster).await? } else { cluster.clone() };
    let plan = Plan {
        clients: args.clients as usize,
        warmup: Duration::from_millis(args.warmup_ms),
        duration: Duration::from_secs(args.duration_secs),
    };
    let submitter = Arc::new(Submitter::new(args, cluster.clone()));
    let outcome = load::closed_loop(plan, tasks, move |turn| {
        let submitter = Arc::clone(&submitter);
        async move { submitter.submit(turn).await }
    });
    let outcome = outcome.await?;
    if outcome.requests == 0 {
        bail!("no submit was accepted: {}", outcome.stopped.or(outcome.first_failure).unwrap_or_default());
    }
    let pending = cluster.status(cluster.node(0)).await?.pending();
    let report = Report::new("submit", parameters(args)).outcome("jobs", "jobs_per_sec", &outcome);
    Ok(report
        .count("left_pending", pending)
        .note(format!("{pending} jobs are pending now; those of type \"{KIND}\" stay so, because no worker runs it")))
}

struct Submitter {
    cluster: Cluster,
    /// Tells the keys of this run from those of others.
    run: u64,
    jobs: Vec<Value>,
    batched: bool,
}

impl Submitter {
    fn new(args: &SubmitArgs, cluster: Cluster) -> Self {
        let job = submission(KIND, &vec![b'x'; args.payload_bytes as usize]);
        let jobs = vec![job; args.batch.unwrap_or(1) as usize];
        Self { cluster, run: rand::random(), jobs, batched: args.batch.is_some() }
    }

    async fn submit(&self, turn: Turn) -> Answer {
        let node = self.cluster.node(turn.client);
        let key = format!("bench-{:016x}-{}-{}", self.run, turn.client, turn.number);
        let answer = if self.batched {
            self.cluster.submit_batch(node, &key, &self.jobs).await
        } else {
            self.cluster.submit(node, &key, &self.jobs[0]).await
        };
        match answer {
            Submitted::Accepted(jobs) => Answer::Done(jobs.len() as u64),
            Submitted::Refused(why) => Answer::Failed(why),
            Submitted::Full(why) => Answer::Stop(format!(
                "the cluster takes no more jobs until others end ({why}); jobs of type \"{KIND}\" never do, \
                 so cancel them or start a fresh cluster"
            )),
        }
    }
}

fn parameters(args: &SubmitArgs) -> Value {
    json!({
        "clients": args.clients,
        "duration_secs": args.duration_secs,
        "jobs_per_request": args.batch.unwrap_or(1),
        "through": if args.follower { "followers" } else { "all nodes given" },
        "payload_bytes": args.payload_bytes,
    })
}

async fn followers(cluster: &Cluster) -> anyhow::Result<Cluster> {
    let mut nodes = Vec::new();
    for node in cluster.nodes() {
        if cluster.status(node).await?.role == "follower" {
            nodes.push(node.clone());
        }
    }
    if nodes.is_empty() {
        bail!("none of the nodes given follows: name the others with --node");
    }
    Ok(cluster.with_nodes(nodes))
}
