//! The replicated state: everything that apply changes and everyone reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::{Digest, JobId, WorkerId};
use super::job::{Job, JobState};
use super::journal::Journal;
use super::time::Timestamp;
use super::worker::{Worker, WorkerState};

/// Bounds of the state. The same on every node: they are part of `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that are not finished. Beyond it submissions are refused.
    pub backlog: usize,
    /// Finished jobs kept. Beyond it the oldest are forgotten.
    pub finished: usize,
    /// Bytes of outputs (and inputs of failed jobs) kept. Beyond it the oldest finished jobs are forgotten.
    pub finished_bytes: usize,
    pub workers: usize,
}

/// Cloning is cheap enough for a frozen view: records are shared.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) _todo: (),
}

impl Default for State {
    fn default() -> Self {
        todo!()
    }
}

#[allow(unused_variables)]
impl State {
    /// The log's clock: never runs backwards.
    pub fn now(&self) -> Timestamp {
        todo!()
    }

    /// Index of the last applied log entry.
    pub fn applied(&self) -> u64 {
        todo!()
    }

    /// Rolling hash of everything applied; equal on nodes at the same index.
    pub fn hash(&self) -> Digest {
        todo!()
    }

    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        todo!()
    }

    /// Jobs after `cursor` in id order (UUIDv7: by age).
    pub fn jobs_after(&self, cursor: Option<JobId>) -> impl Iterator<Item = &Arc<Job>> {
        std::iter::empty()
    }

    /// Jobs that are not finished, after `cursor` in id order.
    pub fn active_jobs_after(&self, cursor: Option<JobId>) -> impl Iterator<Item = &Arc<Job>> {
        std::iter::empty()
    }

    /// Pending jobs whose time has come, first to be served first: priority, deadline, arrival.
    pub fn open_jobs(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Job>> {
        std::iter::empty()
    }

    /// Jobs that are assigned or running.
    pub fn held_jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        std::iter::empty()
    }

    /// Attempts a worker holds.
    pub fn jobs_of(&self, worker: WorkerId) -> Option<&BTreeSet<JobId>> {
        todo!()
    }

    /// Unfinished jobs whose deadline is at or before `now`.
    pub fn overdue(&self, now: Timestamp) -> impl Iterator<Item = JobId> {
        std::iter::empty()
    }

    /// Earliest time after `now` at which a pending job becomes open.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        todo!()
    }

    pub fn payload(&self, id: JobId) -> Option<&Arc<[u8]>> {
        todo!()
    }

    pub fn output(&self, id: JobId) -> Option<&Arc<[u8]>> {
        todo!()
    }

    pub fn worker(&self, id: WorkerId) -> Option<&Arc<Worker>> {
        todo!()
    }

    pub fn workers(&self) -> impl Iterator<Item = &Arc<Worker>> {
        std::iter::empty()
    }

    /// What users see: the verdict, and what follows from draining and held attempts.
    pub fn worker_state(&self, worker: &Worker) -> WorkerState {
        todo!()
    }

    pub fn journal(&self) -> &Journal {
        todo!()
    }

    /// Jobs by state, every state present.
    pub fn job_counts(&self) -> BTreeMap<JobState, u64> {
        todo!()
    }

    /// Jobs ever accepted, also those forgotten since.
    pub fn submitted_total(&self) -> u64 {
        todo!()
    }
}
