//! Tells workers that this node's process is a new one.
//!
//! A process that is killed says no farewell, and over QUIC nothing tells a
//! worker that its connection is dead until it has been silent for seconds. Until
//! then the worker speaks to nobody. Whoever kills one node after the other as
//! soon as the last one is back, as an upgrade does, would find workers that all
//! nodes have lost, and a leader that takes them for gone. So a node that starts
//! greets: the others pass it on to the workers, which close connections that are
//! older than this process and dial again.
//!
//! It is gossip, and may be lost. It is said a few times, since at first nobody
//! may be connected to hear it, and a worker may have lost the others, too.

use std::time::Duration;

use tracing::debug;

use crate::clock;
use crate::mesh::{Handle, Topic};
use crate::tasks::Tasks;
use crate::wire;
use crate::wire::proto::mesh::v1::Announcement;

/// Pauses between greetings, in milliseconds.
const PAUSES_MS: [u64; 6] = [100, 200, 400, 800, 1_500, 3_000];

/// Greets for as long as a connection of an earlier life could pass for alive. Called before anybody can connect.
pub(super) fn start(mesh: &Handle, tasks: &Tasks) {
    let (mesh, born) = (mesh.clone(), clock::instant());
    tasks.spawn_until_stopped("greeting", async move {
        for pause in PAUSES_MS {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let uptime_ms = u32::try_from(born.elapsed().as_millis()).unwrap_or(u32::MAX).max(1);
            let greeting = Announcement { uptime_ms, ..Announcement::default() };
            if let Err(error) = mesh.publish(Topic::Announcements, wire::encode(&greeting)) {
                debug!(%error, "greeting not sent");
            }
        }
    });
}
