//! Says on disk that this node is up, for programs that started it.
//!
//! `<data_dir>/node.json` has the addresses that were really bound (ports may
//! have been 0). It appears when the node is ready to serve, and goes when it
//! stops; after a `kill -9` it stays, so readers check the pid.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tracing::{info, warn};

use crate::consensus::Client;
use crate::domain::NodeId;

const FILE: &str = "node.json";

/// Pause between looks at readiness.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Serialize)]
pub(super) struct Card {
    node_id: NodeId,
    api: String,
    p2p: Vec<String>,
    pid: u32,
}

impl Card {
    pub(super) fn new(node_id: NodeId, api: SocketAddr, p2p: Vec<String>) -> Self {
        Self { node_id, api: format!("http://{api}"), p2p, pid: std::process::id() }
    }
}

/// Waits until the node is ready, then writes the card. Removes an old one first.
pub(super) async fn announce(card: Card, dir: PathBuf, client: Client) {
    withdraw(&dir);
    while !client.status().ready {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    info!(node = %card.node_id, api = card.api, p2p = ?card.p2p, "ready");
    if let Err(error) = write(&card, &dir) {
        warn!(%error, "write node.json");
    }
}

fn write(card: &Card, dir: &Path) -> std::io::Result<()> {
    let new = dir.join("node.json.new");
    std::fs::write(&new, serde_json::to_vec_pretty(card)?)?;
    std::fs::rename(new, dir.join(FILE))
}

pub(super) fn withdraw(dir: &Path) {
    std::fs::remove_file(dir.join(FILE)).ok();
}
