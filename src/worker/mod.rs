//! The worker agent: bids for jobs, runs them, hands in signed results.
//!
//! One task (`agent`) owns what runs here; it reads the mesh, keeps leases and
//! sends heartbeats. Each attempt is a task of its own. A finished attempt goes
//! into the [`outbox`], which is durable, and from there to any coordinator
//! until one has answered for it.
//!
//! Invariants
//!
//! * An attempt runs at most once in one life of the worker, and a result that
//!   was produced is reported until a coordinator accepts or finally refuses it,
//!   across restarts on either side.
//! * Nothing runs past its lease, its timeout, or an order to stop.
//! * A worker opens no port. It dials coordinators, and takes orders only from
//!   those it was told of or that a vetted announcement named.
//!
//! Deliberately absent: isolation beyond a process group, a clean environment
//! and a directory. Operators who run foreign code put a container or `prlimit`
//! in front of the command.

mod agent;
pub mod args;
mod attempt;
pub mod bidder;
pub mod config;
mod coordinators;
mod courier;
mod desk;
pub mod executor;
mod files;
mod heartbeat;
mod machine;
mod orders;
pub mod outbox;
mod outbox_log;
mod registrar;
mod reporter;
pub mod settings;
pub mod simulate;
mod start;
#[cfg(test)]
mod tests;

pub use settings::Settings;
pub use start::{kill_commands, run};

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {action}", path.display())]
    File { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error("another worker runs on {}", path.display())]
    InUse { path: PathBuf },
    #[error("start mesh")]
    Mesh(#[from] crate::mesh::Error),
    #[error("open outbox")]
    Outbox(#[from] outbox::Error),
}
