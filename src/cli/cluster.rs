//! `cluster …`, `network …`, `status`, `health`: the nodes themselves.

use serde_json::{Value, json};

use super::client::{Call, Client};
use super::failure::{Failure, Kind};
use super::job::pages;
use super::{Remote, backup, members, output, restore};

const PEERS: &[(&str, &str)] = &[
    ("id", "id"),
    ("connected", "connected"),
    ("roles", "roles"),
    ("transport", "transport"),
    ("rtt_us", "rtt_us"),
    ("score", "gossip_score"),
    ("agent", "agent"),
    ("addresses", "addresses"),
];

const LEVELS: &[(&str, &str)] = &[("member", "id"), ("newest level", "newest_level")];

const NODES: &[(&str, &str)] = &[
    ("url", "url"),
    ("node", "node_id"),
    ("role", "role"),
    ("term", "term"),
    ("applied", "applied_index"),
    ("state hash", "state_hash"),
    ("error", "error"),
];

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Members with their logs; with several --node, each one's own view
    Status,
    /// The feature level that the cluster is at, and what each member's build knows
    FeatureLevel {
        /// Raise it by one. There is no way back to a build that does not know the new one
        #[arg(long)]
        raise: bool,
    },
    #[command(flatten)]
    Members(members::Command),
    /// Write a backup of the whole state to a file
    Backup(backup::TakeArgs),
    /// Check a backup and say what is in it, without any node; exit code 7 if it is damaged
    Inspect(backup::InspectArgs),
    /// Begin a new cluster with a backup: on each of its nodes, while none of them runs
    Restore(Box<restore::RestoreArgs>),
    /// After the loss of a majority: make a node that is stopped the only voter
    Recover(restore::RecoverArgs),
    /// Hand leadership over, to a named member or the most caught-up one
    TransferLeadership {
        /// Peer id of the member
        #[arg(long, value_name = "ID")]
        to: Option<String>,
    },
}

#[derive(Debug, clap::Subcommand)]
pub enum NetworkCommand {
    /// Peers that the node knows
    Peers {
        /// Most peers to show
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
}

pub async fn run(command: Command, remote: &Remote) -> Result<(), Failure> {
    let client = remote.client()?;
    match command {
        Command::Status => views(&client, remote).await,
        Command::FeatureLevel { raise: true } => {
            show(&client.call(&Call::post("/cluster/feature-level")).await?.body, remote)
        }
        Command::FeatureLevel { raise: false } => levels(&client, remote).await,
        Command::Members(command) => members::run(command, &client, remote).await,
        Command::Backup(args) => backup::take(&args, remote).await,
        Command::Inspect(args) => backup::inspect(&args, remote),
        Command::Restore(args) => restore::restore(*args, remote).await,
        Command::Recover(args) => restore::recover(args, remote).await,
        Command::TransferLeadership { to } => {
            let body = to.map_or_else(|| json!({}), |to| json!({ "to": to }));
            let answer = client.call(&Call::post("/cluster/transfer-leadership").body(body)).await?;
            show(&answer.body, remote)
        }
    }
}

async fn levels(client: &Client, remote: &Remote) -> Result<(), Failure> {
    let cluster = client.call(&Call::get("/cluster")).await?.body;
    if remote.json {
        return output::json(&json!({ "feature_level": cluster["feature_level"], "members": cluster["members"] }));
    }
    output::line(&format!("feature level {}", cluster["feature_level"]))?;
    output::list(cluster["members"].as_array().map_or(&[][..], Vec::as_slice), LEVELS)
}

async fn views(client: &Client, remote: &Remote) -> Result<(), Failure> {
    let mut cluster = client.call(&Call::get("/cluster")).await?.body;
    let count = client.nodes().count();
    if count > 1 {
        let views = futures::future::join_all((0..count).map(|node| view(client, node))).await;
        match &mut cluster {
            Value::Object(fields) if remote.json => {
                fields.insert("views".to_owned(), Value::Array(views));
            }
            _ => {
                output::list(&views, NODES)?;
                output::line("")?;
            }
        }
    }
    show(&cluster, remote)
}

/// What one node says of itself.
async fn view(client: &Client, node: usize) -> Value {
    let url = client.nodes().nth(node).unwrap_or_default();
    match client.ask(node, &Call::get("/status")).await {
        Ok(answer) => {
            let status = |key: &str| answer.body[key].clone();
            json!({
                "url": url, "node_id": status("node_id"), "role": status("role"), "term": status("term"),
                "applied_index": status("applied_index"), "state_hash": status("state_hash"),
            })
        }
        Err(failure) => json!({ "url": url, "error": failure.message }),
    }
}

pub async fn network(command: NetworkCommand, remote: &Remote) -> Result<(), Failure> {
    let client = remote.client()?;
    let NetworkCommand::Peers { limit } = command;
    let peers = pages(&client, &Call::get("/network/peers"), "peers", limit).await?;
    if remote.json { output::json(&json!({ "peers": peers })) } else { output::list(&peers, PEERS) }
}

pub async fn status(remote: &Remote) -> Result<(), Failure> {
    show(&remote.client()?.call(&Call::get("/status")).await?.body, remote)
}

/// Asks the first node that is there; unhealthy is an answer, and a failure.
pub async fn health(remote: &Remote) -> Result<(), Failure> {
    let answer = remote.client()?.call(&Call::get("/health").any_status()).await?;
    show(&answer.body, remote)?;
    match (answer.status, answer.body["status"].as_str()) {
        (200, Some("healthy" | "degraded")) => Ok(()),
        (_, status) => {
            Err(Failure::new(Kind::Failed, format!("{} is {}", answer.node, status.unwrap_or("not a healthy node"))))
        }
    }
}

fn show(answer: &Value, remote: &Remote) -> Result<(), Failure> {
    if remote.json { output::json(answer) } else { output::thing(answer) }
}
