//! What the system is, without any way to touch the world.
//!
//! Everything here is pure: the same commands in the same order give the same
//! state, byte for byte, on every node. No clock, no randomness, no I/O, no
//! hash maps, no knowledge of being leader. What the domain needs to know, it
//! is told in the [`command::Record`].

pub mod apply;
pub mod archive;
pub mod auction;
pub mod bid_proof;
mod bytes;
pub mod callback;
pub mod ceiling;
pub mod chain;
mod check;
pub mod clearing;
pub mod command;
mod cow;
pub mod ids;
mod index;
pub mod job;
pub mod journal;
pub mod kafka;
pub mod level;
pub mod lost;
pub mod matching;
pub mod member;
pub mod place;
pub mod queue;
pub mod rare;
pub mod reputation;
pub mod restore;
mod retired;
pub mod run;
#[cfg(test)]
pub(crate) mod sample;
pub mod schedule;
pub mod score;
mod shares;
pub mod snapshot;
pub mod state;
pub mod time;
pub mod worker;

pub use command::{Command, Done, Record, Refusal};
pub use ids::{Digest, JobId, NodeId, PeerId, Price, WorkerId};
pub use job::{Job, JobSpec, JobState};
pub use state::State;
pub use time::Timestamp;
pub use worker::Worker;

#[cfg(test)]
pub(crate) mod tests;
