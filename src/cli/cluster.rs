//! `cluster …`, `network …`, `status`, `health`: the nodes themselves.

use serde_json::{Value, json};

use super::client::{Call, Client};
use super::failure::{Failure, Kind};
use super::job::pages;
use super::{Remote, output};

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
        Command::Status => members(&client, remote).await,
        Command::TransferLeadership { to } => {
            let body = to.map_or_else(|| json!({}), |to| json!({ "to": to }));
            let answer = client.call(&Call::post("/cluster/transfer-leadership").body(body)).await?;
            show(&answer.body, remote)
        }
    }
}

async fn members(client: &Client, remote: &Remote) -> Result<(), Failure> {
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
