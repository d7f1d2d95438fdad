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
//! Deliberately absent: isolation of commands beyond a process group, a clean
//! environment, a directory and resource limits. Foreign code is for [`wasm`], or
//! for a container in front of the command.

mod agent;
pub mod appraiser;
pub mod args;
mod attempt;
pub mod bidder;
pub mod config;
mod coordinators;
mod courier;
mod desk;
pub mod executor;
mod files;
pub mod freight;
mod gpu;
mod heartbeat;
pub mod inputs;
mod keeper;
pub mod limited;
mod machine;
pub mod modules;
mod orders;
pub mod outbox;
mod outbox_log;
pub mod pricing;
mod registrar;
mod reporter;
pub mod settings;
pub mod shelf;
pub mod simulate;
mod start;
#[cfg(test)]
mod tests;
pub mod wasm;

#[cfg(test)]
pub(crate) use desk::{Cause, Desk, Taken};
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
    #[error("start HTTP client")]
    Http(#[from] reqwest::Error),
    #[error("open outbox")]
    Outbox(#[from] outbox::Error),
}
