//! Choosing who runs what.
//!
//! Invariants
//!
//! * The same bids in any order give the same awards.
//! * A worker wins only on terms it offered, and never more than it has room for.

use super::ids::{JobId, Price, WorkerId};
use super::job::JobSpec;
use super::worker::Worker;

/// One worker's offer for one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bid {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    pub price: Price,
    pub load_permille: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Win {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    pub price: Price,
}

/// A requirement that a worker does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub requirement: &'static str,
    pub wanted: String,
    pub offered: String,
}

/// What `worker` lacks for `spec`; empty means it fits. `load_permille` is from its last heartbeat.
pub fn misfits(_spec: &JobSpec, _worker: &Worker, _load_permille: u32) -> Vec<Misfit> {
    todo!()
}
