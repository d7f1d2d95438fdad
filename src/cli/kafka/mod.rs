//! `kafka …`: Kafka as the nodes see it, by REST; and records sent and read here, by Kafka itself.

mod args;
#[cfg(feature = "kafka")]
mod broker;
#[cfg(feature = "kafka")]
mod produce;
#[cfg(feature = "kafka")]
mod records;
#[cfg(feature = "kafka")]
mod tail;

use serde_json::{Value, json};

use super::client::{Call, Client, segment};
use super::failure::Failure;
use super::job::{fresh, pages};
use super::{Remote, each, output};

const LETTERS: &[(&str, &str)] = &[
    ("id", "id"),
    ("topic", "topic"),
    ("partition", "partition"),
    ("offset", "offset"),
    ("code", "code"),
    ("message", "message"),
    ("failed", "failed_at"),
    ("attempts", "attempts"),
    ("replaying", "replaying"),
    ("bytes", "value_size"),
];

const TOPICS: &[(&str, &str)] = &[
    ("topic", "topic"),
    ("in", "messages_in"),
    ("out", "messages_out"),
    ("lag", "lag"),
    ("in/s", "in_per_second"),
    ("out/s", "out_per_second"),
];

const INTAKE: &[(&str, &str)] = &[
    ("topic", "topic"),
    ("partition", "partition"),
    ("next", "next_offset"),
    ("high", "high_watermark"),
    ("lag", "lag"),
    ("jobs", "jobs"),
    ("repeats", "repeats"),
    ("dead letters", "dead_letters"),
];

const NODES: &[(&str, &str)] =
    &[("url", "url"), ("state", "state"), ("cluster", "cluster_id"), ("brokers", "brokers"), ("error", "last_error")];

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// A node's connection, and how far intake and delivery are; with several --node, each one's connection
    Status,
    /// Messages, lag and rates by topic
    Stats,
    /// The dead letters: records that could not be taken in
    #[command(subcommand)]
    Dlq(Letters),
    /// Move intake to another offset of a partition, in either direction
    Seek { topic: String, partition: u32, offset: u64 },
    /// Accept another Kafka cluster: the offsets of the old one are forgotten
    Reset {
        /// Id of the cluster that the nodes are connected to, as `kafka status` shows it
        cluster_id: String,
    },
    /// Give delivery up: the journal no longer keeps events for Kafka; refused while Kafka is enabled
    Forget,
    /// Send records, by Kafka itself: jobs, or whatever the files hold
    Produce(Box<args::Produce>),
    /// Show the records of a topic, from Kafka itself
    Tail(args::Tail),
}

#[derive(Debug, clap::Subcommand)]
pub enum Letters {
    /// The letters in the queue, oldest first
    List {
        /// Most letters to show
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// A letter with its key, value and headers
    Show { id: String },
    /// Send letters back to the topic they came from
    Replay {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Drop letters from the queue; what was published stays on the dead-letter topic
    Drop {
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

pub async fn run(command: Command, remote: &Remote) -> Result<(), Failure> {
    match command {
        Command::Status => status(&remote.client()?, remote).await,
        Command::Stats => stats(&remote.client()?, remote).await,
        Command::Dlq(letters) => dlq(letters, &remote.client()?, remote).await,
        Command::Seek { topic, partition, offset } => {
            let body = json!({ "topic": topic, "partition": partition, "offset": offset });
            change(Call::post("/kafka/intake/seek").body(body), remote).await
        }
        Command::Reset { cluster_id } => {
            let call = Call::post("/kafka/intake/reset").body(json!({ "cluster_id": cluster_id }));
            change(call.idempotent(), remote).await
        }
        Command::Forget => change(Call::delete("/kafka/cursor"), remote).await,
        #[cfg(feature = "kafka")]
        Command::Produce(args) => produce::run(*args, remote).await,
        #[cfg(feature = "kafka")]
        Command::Tail(args) => tail::run(args, remote).await,
        #[cfg(not(feature = "kafka"))]
        Command::Produce(_) | Command::Tail(_) => Err(absent()),
    }
}

async fn change(call: Call, remote: &Remote) -> Result<(), Failure> {
    show(&remote.client()?.call(&call).await?.body, remote)
}

fn show(answer: &Value, remote: &Remote) -> Result<(), Failure> {
    if remote.json { output::json(answer) } else { output::thing(answer) }
}

async fn status(client: &Client, remote: &Remote) -> Result<(), Failure> {
    let mut status = client.call(&Call::get("/kafka/status")).await?.body;
    let count = client.nodes().count();
    if count > 1 {
        let views = futures::future::join_all((0..count).map(|node| view(client, node))).await;
        match &mut status {
            Value::Object(fields) if remote.json => {
                fields.insert("views".to_owned(), Value::Array(views));
            }
            _ => {
                output::list(&views, NODES)?;
                output::line("")?;
            }
        }
    }
    if remote.json {
        return output::json(&status);
    }
    let intake = status.as_object_mut().and_then(|fields| fields.remove("intake"));
    output::thing(&status)?;
    match intake.as_ref().and_then(Value::as_array) {
        Some(partitions) if !partitions.is_empty() => {
            output::line("\nintake:")?;
            output::list(partitions, INTAKE)
        }
        _ => Ok(()),
    }
}

/// What one node says of its own connection.
async fn view(client: &Client, node: usize) -> Value {
    let url = client.nodes().nth(node).unwrap_or_default();
    match client.ask(node, &Call::get("/kafka/status")).await {
        Ok(answer) => {
            let part = |key: &str| answer.body[key].clone();
            json!({
                "url": url, "state": part("state"), "cluster_id": part("cluster_id"), "brokers": part("brokers"),
                "last_error": part("last_error"),
            })
        }
        Err(failure) => json!({ "url": url, "state": "unknown", "last_error": failure.message }),
    }
}

async fn stats(client: &Client, remote: &Remote) -> Result<(), Failure> {
    let stats = client.call(&Call::get("/kafka/stats")).await?.body;
    if remote.json {
        return output::json(&stats);
    }
    let topics: Vec<Value> =
        stats["topics"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(rounded).collect();
    output::list(&topics, TOPICS)
}

/// Rates with one digit behind the point: more is noise to a person.
fn rounded(topic: &Value) -> Value {
    let mut topic = topic.clone();
    for rate in ["in_per_second", "out_per_second"] {
        if let Some(value) = topic[rate].as_f64() {
            topic[rate] = json!(format!("{value:.1}"));
        }
    }
    topic
}

async fn dlq(command: Letters, client: &Client, remote: &Remote) -> Result<(), Failure> {
    let path = |id: &str, verb: &str| format!("/kafka/dead-letter-queue/{}{verb}", segment(id));
    match command {
        Letters::List { limit } => {
            let entries = pages(client, &fresh("/kafka/dead-letter-queue"), "entries", limit).await?;
            if remote.json { output::json(&json!({ "entries": entries })) } else { output::list(&entries, LETTERS) }
        }
        Letters::Show { id } => show(&client.call(&fresh(&path(&id, ""))).await?.body, remote),
        Letters::Replay { ids } => {
            let call = |id: &str| Call::post(path(id, "/replay")).idempotent();
            each(&ids, call, "replaying", client, remote).await
        }
        Letters::Drop { ids } => each(&ids, |id| Call::delete(path(id, "")), "dropped", client, remote).await,
    }
}

/// What speaks Kafka is not in every build.
#[cfg(not(feature = "kafka"))]
fn absent() -> Failure {
    Failure::usage("this build speaks no Kafka").hint("build with the feature kafka, which is on by default")
}
