//! What goes through Kafka: jobs in, and how they ended out.
//!
//! Intake: the nodes sleep while all jobs are produced, so that no client
//! produces while they are measured; then they wake. Delivery: the broker sleeps
//! while these jobs are cancelled by REST, so the journal holds one result for
//! each; then it wakes. Both are timed by what the cluster itself counts and has
//! replicated, from the first change seen to the last.
//!
//! The jobs are of type "bench", which no worker runs. Processes are paused, not
//! killed, and go on whatever becomes of the bench.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::KafkaArgs;
use super::cluster::Cluster;
use super::devnet::{Devnet, Paused};
use super::load::per_sec;
use super::report::Report;
use crate::clock;
use crate::domain::kafka::Header;
use crate::kafka::{Delivery, Handle, Intake, Message, Mode, Options, Security, Start, Timing, Topics, Writer};
use crate::tasks::Tasks;
use crate::wire::proto::kafka::v1::Job;

/// A type that no worker runs.
const KIND: &str = "bench";

/// Between two looks at the counts.
const LOOK: Duration = Duration::from_millis(10);

/// Records handed to the producer at once.
const PORTION: usize = 5_000;

/// Clients that cancel at the same time.
const CANCELLERS: usize = 64;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a bench needs of `GET /kafka/status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    state: String,
    bootstrap_servers: Vec<String>,
    delivery: Option<String>,
    brokers: Vec<String>,
    topics: Option<TopicNames>,
    intake: Vec<Partition>,
    undelivered: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct TopicNames {
    jobs: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Partition {
    jobs: u64,
}

pub(super) async fn run(args: &KafkaArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let devnet = Devnet::new(&args.devnet);
    devnet.wait_ready(cluster, PATIENCE).await?;
    let status = kafka_status(cluster).await?;
    if status.state != "connected" {
        bail!("the node is not connected to Kafka but {}", status.state);
    }
    let jobs = u64::from(args.jobs);
    let (intake_secs, produced) = intake(args, &status, cluster, &devnet, tasks).await?;
    let delivery_secs = delivery(args, cluster, &devnet, tasks).await?;
    Ok(Report::new("kafka", parameters(args, &status))
        .rate("intake_jobs_per_sec", per_sec(jobs, intake_secs))
        .rate("delivery_records_per_sec", per_sec(jobs, delivery_secs))
        .rate("produced_per_sec_while_nodes_slept", produced)
        .count("jobs", jobs)
        .count("brokers", status.brokers.len() as u64)
        .seconds("intake_secs", intake_secs.as_secs_f64())
        .seconds("delivery_secs", delivery_secs.as_secs_f64()))
}

fn parameters(args: &KafkaArgs, status: &Status) -> Value {
    json!({
        "jobs": args.jobs,
        "payload_bytes": args.payload_bytes,
        "partitions": status.intake.len(),
        "delivery": status.delivery,
        "bootstrap_servers": status.bootstrap_servers,
    })
}

/// How long the nodes took to take all in, and the rate at which it was produced before.
async fn intake(
    args: &KafkaArgs,
    status: &Status,
    cluster: &Cluster,
    devnet: &Devnet,
    tasks: &Tasks,
) -> anyhow::Result<(Duration, f64)> {
    let topic = status.topics.clone().unwrap_or_default().jobs;
    let handle = Handle::start(options(status, &topic), tasks)?;
    let writer = handle.writer()?;
    let before = taken(cluster).await?;
    let asleep = devnet.pause_nodes().await?;
    let began = clock::instant();
    produce(args, &topic, &writer).await?;
    let rate = per_sec(u64::from(args.jobs), began.elapsed());
    drop(asleep);
    let goal = before + u64::from(args.jobs);
    Ok((between(before, goal, args.limit(), async || taken(cluster).await).await.context("intake")?, rate))
}

/// How long the leader took to publish all results.
async fn delivery(args: &KafkaArgs, cluster: &Cluster, devnet: &Devnet, tasks: &Tasks) -> anyhow::Result<Duration> {
    devnet.wait_ready(cluster, PATIENCE).await?;
    wait_until_delivered(cluster, args.limit()).await?;
    let ids = pending(cluster).await?;
    if ids.len() < args.jobs as usize {
        bail!("{} of {} jobs are pending: does a worker run type {KIND:?}?", ids.len(), args.jobs);
    }
    let before = published(cluster).await?;
    let goal = before + ids.len() as u64;
    let asleep: Paused = devnet.pause_broker().await?;
    cancel_all(ids, cluster, tasks).await?;
    drop(asleep);
    between(before, goal, args.limit(), async || published(cluster).await).await.context("delivery")
}

/// From the last look at which nothing had happened to the first at which all had.
async fn between(
    before: u64,
    goal: u64,
    limit: Duration,
    mut count: impl AsyncFnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Duration> {
    let start = clock::instant();
    let mut began = start;
    loop {
        let asked = clock::instant();
        // A node that just woke may not answer yet.
        let now = count().await.unwrap_or(before);
        if now <= before {
            began = asked;
        }
        if now >= goal {
            return Ok(began.elapsed());
        }
        if start.elapsed() > limit {
            bail!("{} of {} after {} s", now - before, goal - before, limit.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn produce(args: &KafkaArgs, topic: &str, writer: &Writer) -> anyhow::Result<()> {
    let run: u64 = rand::random();
    let job = Job {
        r#type: KIND.to_owned(),
        payload: Some(vec![b'x'; args.payload_bytes as usize].into()),
        ..Job::default()
    };
    let value = job.encode_to_vec();
    let message = |number: u32| Message {
        topic: topic.to_owned(),
        partition: None,
        key: Some(format!("bench-{run:016x}-{number}").into_bytes()),
        value: Some(value.clone()),
        headers: vec![Header { name: "content-type".into(), value: Some(b"application/protobuf".to_vec()) }],
    };
    let numbers: Vec<u32> = (0..args.jobs).collect();
    for portion in numbers.chunks(PORTION) {
        writer.send(portion.iter().copied().map(message).collect()).await.context("produce jobs")?;
    }
    Ok(())
}

async fn cancel_all(ids: Vec<String>, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<()> {
    let (ids, next) = (Arc::new(ids), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CANCELLERS)
        .map(|_| {
            let (ids, next, cluster) = (Arc::clone(&ids), Arc::clone(&next), cluster.clone());
            tasks.spawn("bench client", async move {
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    cluster.cancel(id).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await?;
    }
    Ok(())
}

/// Ids of all jobs that wait for a worker which never comes.
async fn pending(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        jobs: Vec<Listed>,
        next_cursor: Option<String>,
    }
    #[derive(Deserialize)]
    struct Listed {
        id: String,
    }
    let mut ids = vec![];
    let mut cursor = String::new();
    loop {
        let page: Page = cluster.get(cluster.node(0), &format!("/jobs?state=pending&limit=1000{cursor}")).await?;
        ids.extend(page.jobs.into_iter().map(|job| job.id));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(ids),
        }
    }
}

async fn wait_until_delivered(cluster: &Cluster, limit: Duration) -> anyhow::Result<()> {
    let start = clock::instant();
    while kafka_status(cluster).await?.undelivered > 0 {
        if start.elapsed() > limit {
            bail!("earlier events were not delivered after {} s", limit.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn kafka_status(cluster: &Cluster) -> anyhow::Result<Status> {
    cluster.get(cluster.node(0), "/kafka/status").await.context("does this node know Kafka?")
}

/// Records that made a job, ever.
async fn taken(cluster: &Cluster) -> anyhow::Result<u64> {
    Ok(kafka_status(cluster).await?.intake.iter().map(|partition| partition.jobs).sum())
}

/// Results that Kafka has, ever.
async fn published(cluster: &Cluster) -> anyhow::Result<u64> {
    let stats: Value = cluster.get(cluster.node(0), "/kafka/stats").await?;
    stats["published"]["results"].as_u64().context("GET /kafka/stats tells no published.results")
}

fn options(status: &Status, jobs: &str) -> Options {
    let topics = Topics { jobs: jobs.to_owned(), workers: String::new(), results: String::new() };
    Options {
        bootstrap_servers: status.bootstrap_servers.clone(),
        mode: Mode::External,
        delivery: Delivery::AtLeastOnce,
        topics,
        cluster_name: "ciro-bench".to_owned(),
        client_id: "ciro-bench".to_owned(),
        create_topics: false,
        intake: Intake { from: Start::Earliest, max_in_flight_jobs: 1, batch_records: 1, batch_bytes: 1 },
        security: Security::plaintext(),
        timing: Timing::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_clock_runs_from_the_last_look_at_nothing_to_the_first_at_all() {
        let looks = [10, 10, 10, 60, 110];
        let mut turn = 0;
        let took = between(10, 110, Duration::from_secs(10), async || {
            let count = looks[turn];
            turn += 1;
            Ok(count)
        });
        let took = took.await.unwrap();
        assert!(took >= LOOK * 2, "{took:?}");
        assert_eq!(turn, looks.len());
    }

    #[tokio::test]
    async fn what_never_ends_is_given_up_with_a_count() {
        let error = between(5, 20, Duration::from_millis(30), async || Ok(12)).await.unwrap_err();
        assert_eq!(error.to_string(), "7 of 15 after 0 s");
    }
}
