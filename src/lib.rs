//! `ciro-coordinator`: a peer-to-peer first coordinator node for a decentralized
//! compute network.
//!
//! The code map and the invariants are in `docs/architecture.md`. In one line:
//! everything that changes the system enters the Raft log by one door
//! ([`consensus::Client`]); everything the system does to the outside world is a
//! leader duty ([`leader`]) that looks at replicated state ([`domain::State`]),
//! acts, and reports the outcome through that same door.

pub mod api;
pub mod backup;
pub mod bench;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consensus;
pub mod domain;
pub mod egress;
pub mod intake;
pub mod kafka;
pub mod leader;
pub mod mesh;
pub mod node;
#[cfg(test)]
#[cfg(feature = "chain")]
#[cfg(feature = "kafka")]
mod sim;
pub mod storage;
pub mod submission;
pub mod tasks;
pub mod telemetry;
pub mod wire;
pub mod worker;
