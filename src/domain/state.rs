//! The replicated state: everything that apply changes and everyone reads.
//!
//! Records (jobs, workers, bytes, journal) are what the state *is*; the indexes
//! in [`super::index`] follow from them and are never stored. Input and output
//! bytes lie beside the jobs, so that a transition touches a small record only:
//! an inline input stays until the job completes or is cancelled (a failed job
//! keeps it), an output as long as the job is remembered.
//!
//! Invariants
//!
//! * Cloning shares records, see [`super::cow`]; a clone never changes.
//! * Every bound in [`LIMITS`] is kept after every record: submissions and
//!   registrations are refused, finished jobs archived, journal entries forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::archive::Archive;
use super::callback::Callbacks;
use super::chain::Ledger;
use super::cow::Map;
use super::ids::{Digest, JobId, WorkerId};
use super::index::{Index, place};
use super::job::{Job, JobState};
use super::journal::{JOURNAL_MAX, Journal, KEEP};
use super::kafka::Kafka;
use super::level;
use super::member::Members;
use super::reputation::{self, is_banned};
use super::restore::Fence;
use super::retired::Retired;
use super::run::Run;
use super::shares::Shares;
use super::time::Timestamp;
use super::worker::{REPUTATION_START, Verdict, Worker, WorkerState};

/// Bounds of the state. The same on every node: they are part of `apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Dead letters and their bytes. Beyond it the oldest that are published make room, or else intake waits.
    pub letters: usize,
    pub letter_bytes: usize,
    /// Partitions of Kafka whose offset is kept. Beyond it others are not read.
    pub partitions: usize,
    /// Jobs that are not finished. Beyond it submissions are refused.
    pub backlog: usize,
    /// Bytes of inputs, texts and history of jobs that are not finished. Beyond it submissions are refused.
    pub backlog_bytes: usize,
    /// Different requirements among the open jobs of one client. Beyond it its submissions with others are refused.
    pub classes: usize,
    /// The same among the open jobs of all clients: the leader looks at each of them in every round.
    pub classes_in_all: usize,
    /// Finished jobs kept in memory. A segment's worth beyond it the oldest are archived that every sink has heard of;
    /// at twice that submissions are refused.
    pub finished: usize,
    /// Bytes of outputs (and inputs of failed jobs), texts and history kept. Beyond it as for their number.
    pub finished_bytes: usize,
    /// Bytes of votes that wait for others. Beyond it no further job with redundancy is begun.
    pub ballot_bytes: usize,
    /// Finished jobs whose award keeps its evidence. Beyond it the oldest lose it.
    pub evidence: usize,
    /// Jobs, and about how many bytes of their inputs and outputs, that are archived together.
    pub segment_jobs: usize,
    pub segment_bytes: usize,
    /// Idempotency keys kept of finished jobs that left memory. Beyond it the oldest go, and a retry is a new job.
    pub retired: usize,
    /// Registered workers. Beyond it the one that is offline longest makes room, or else registrations are refused.
    pub workers: usize,
    /// Journal entries kept for readers without a cursor.
    pub journal_keep: usize,
    /// Journal entries kept for sinks that lag. Beyond it submissions are refused.
    pub journal_max: usize,
    /// Notices of ended jobs that wait for their receivers, and their bytes. Beyond it the oldest are given up.
    pub callbacks: usize,
    pub callback_bytes: usize,
    /// The same for one receiver.
    pub callbacks_of_one: usize,
}

/// What every node applies with. Changing a number here is a change of format: all nodes must run the same.
pub const LIMITS: Limits = Limits {
    letters: 10_000,
    letter_bytes: 64 << 20,
    partitions: 4_096,
    backlog: 200_000,
    backlog_bytes: 256 << 20,
    classes: 1_024,
    classes_in_all: 8_192,
    finished: 100_000,
    finished_bytes: 128 << 20,
    ballot_bytes: 64 << 20,
    evidence: 2_000,
    segment_jobs: 1_024,
    segment_bytes: 4 << 20,
    retired: 2_000_000,
    workers: 20_000,
    journal_keep: KEEP,
    journal_max: JOURNAL_MAX,
    callbacks: 50_000,
    callback_bytes: 64 << 20,
    callbacks_of_one: 10_000,
};

/// Cloning is cheap enough for a frozen view: records are shared.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) limits: Limits,
    pub(super) level: u32,
    #[cfg(any(test, debug_assertions))]
    pub(super) trial: level::Trial,
    pub(super) now: Timestamp,
    /// When reputations were last drawn toward the start.
    pub(super) drawn_at: Timestamp,
    pub(super) applied: u64,
    pub(super) applied_term: u64,
    pub(super) hash: Digest,
    /// Names this cluster's past; 0 before its first record.
    pub(super) history: u64,
    pub(super) submitted_total: u64,
    /// Times that a failed job was given another chance.
    pub(super) reopened_total: u64,
    /// Jobs that ever ended, also those forgotten since; by place in [`JobState::ALL`].
    pub(super) ended_total: [u64; 6],
    pub(super) jobs: Map<JobId, Arc<Job>>,
    pub(super) payloads: Map<JobId, Arc<[u8]>>,
    pub(super) outputs: Map<JobId, Arc<[u8]>>,
    /// Outputs that were voted for, each once, of jobs that are not decided.
    pub(super) ballots: Map<(JobId, Digest), Arc<[u8]>>,
    pub(super) retired: Retired,
    pub(super) workers: Map<WorkerId, Arc<Worker>>,
    pub(super) journal: Journal,
    pub(super) kafka: Kafka,
    pub(super) chain: Ledger,
    pub(super) callbacks: Callbacks,
    pub(super) members: Members,
    pub(super) archive: Archive,
    /// Of the last restore from a backup.
    pub(super) fence: Fence,
    pub(super) shares: Shares,
    pub(super) index: Index,
}

impl Default for State {
    fn default() -> Self {
        Self::within(LIMITS)
    }
}

impl State {
    /// An empty state with its own bounds; only tests want others than [`LIMITS`].
    pub(super) fn within(limits: Limits) -> Self {
        Self {
            limits,
            level: level::FIRST,
            #[cfg(any(test, debug_assertions))]
            trial: level::Trial::default(),
            now: Timestamp::default(),
            drawn_at: Timestamp::default(),
            applied: 0,
            applied_term: 0,
            hash: Digest::default(),
            history: 0,
            submitted_total: 0,
            reopened_total: 0,
            ended_total: [0; 6],
            jobs: Map::default(),
            payloads: Map::default(),
            outputs: Map::default(),
            ballots: Map::default(),
            retired: Retired::default(),
            workers: Map::default(),
            journal: Journal::default(),
            kafka: Kafka::default(),
            chain: Ledger::default(),
            callbacks: Callbacks::default(),
            members: Members::default(),
            archive: Archive::default(),
            fence: Fence::default(),
            shares: Shares::default(),
            index: Index::default(),
        }
    }

    /// The feature level that the cluster is at; see [`level`].
    pub fn level(&self) -> u32 {
        self.level
    }

    #[cfg(any(test, debug_assertions))]
    pub fn trial(&self) -> level::Trial {
        self.trial
    }

    /// The log's clock: never runs backwards.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Index of the last applied log entry.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Term of the last applied log entry.
    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// Rolling hash of everything applied; equal on nodes at the same index.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// Names the past that this state has: equal on all nodes of a cluster, and never that of another one. It
    /// is chosen by the first record, whose time and place no other cluster shares, and changes only with
    /// [`Self::begin_history`]. 0 before that record.
    pub fn history(&self) -> u64 {
        self.history
    }

    /// Goes on under a new name. For whoever makes a new cluster of an old one's state: from here on the two
    /// differ, so what the old cluster told its clients of later indexes is not of this one. The same `salt` on
    /// all nodes, and another one each time.
    pub fn begin_history(&mut self, salt: u64) {
        let mut bytes = self.history.to_be_bytes().to_vec();
        bytes.extend_from_slice(&salt.to_be_bytes());
        bytes.extend_from_slice(&self.hash.0);
        self.history = name_of(&Digest::of(&bytes));
    }

    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// Whether a job is in memory, or left it but its idempotency key is kept: the same key is not a new job.
    pub fn remembers(&self, id: JobId) -> bool {
        self.jobs.contains(&id) || self.retired.get(id).is_some()
    }

    /// Jobs after `cursor` in id order (UUIDv7: by age).
    pub fn jobs_after(&self, cursor: Option<JobId>) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.after(cursor).map(|(_, job)| job)
    }

    /// Jobs that are not finished, after `cursor` in id order.
    pub fn active_jobs_after(&self, cursor: Option<JobId>) -> impl Iterator<Item = &Arc<Job>> {
        self.index.active.keys_after(cursor).filter_map(|id| self.jobs.get(id))
    }

    /// Runs in force, worker by worker.
    pub fn held_runs(&self) -> impl Iterator<Item = (&Arc<Job>, &Run)> {
        let held = self.index.held.iter().flat_map(|(worker, held)| held.iter().map(move |job| (*worker, job)));
        held.filter_map(|(worker, id)| {
            let job = self.jobs.get(id)?;
            Some((job, job.run_of(worker)?))
        })
    }

    /// Those whose workers have not said yet that they took them, worker by worker.
    pub fn undelivered_runs(&self) -> impl Iterator<Item = (&Arc<Job>, &Run)> {
        self.index.undelivered.keys().filter_map(|(worker, id)| {
            let job = self.jobs.get(id)?;
            Some((job, job.run_of(*worker)?))
        })
    }

    /// Whether another run of a job may be awarded without a bound on what waits for decision being passed:
    /// a job that was begun may go on.
    pub(super) fn takes_votes(&self, job: &Job) -> bool {
        job.spec.redundancy <= 1 || !job.runs.is_empty() || self.index.ballot_bytes < self.limits.ballot_bytes
    }

    /// Attempts a worker holds; `None` if it holds none.
    pub fn jobs_of(&self, worker: WorkerId) -> Option<&BTreeSet<JobId>> {
        self.index.held.get(&worker).map(Arc::as_ref)
    }

    /// Unfinished jobs whose deadline is at or before `now`.
    pub fn overdue(&self, now: Timestamp) -> impl Iterator<Item = JobId> {
        self.index.deadlines.keys().take_while(move |(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }

    /// Jobs whose round has had votes for so long, and nobody at it, that it is over at `now`.
    pub fn stalled(&self, now: Timestamp) -> impl Iterator<Item = JobId> {
        self.index.stalled.keys().take_while(move |(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// The inline input, as long as the job may still need it.
    pub fn payload(&self, id: JobId) -> Option<&Arc<[u8]>> {
        self.payloads.get(&id)
    }

    pub fn output(&self, id: JobId) -> Option<&Arc<[u8]>> {
        self.outputs.get(&id)
    }

    pub fn worker(&self, id: WorkerId) -> Option<&Arc<Worker>> {
        self.workers.get(&id)
    }

    /// Registered workers in id order.
    pub fn workers(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.workers.iter().map(|(_, worker)| worker)
    }

    /// What users see: the verdict, and what follows from draining and held attempts. Busy is a worker without room.
    pub fn worker_state(&self, worker: &Worker) -> WorkerState {
        match standing(worker) {
            _ if is_banned(worker, self.now) => WorkerState::Banned,
            WorkerState::Online if self.room(worker) == 0 => WorkerState::Busy,
            other => other,
        }
    }

    /// Attempts the worker may take on beside those it holds.
    pub fn room(&self, worker: &Worker) -> u32 {
        let held = self.jobs_of(worker.id).map_or(0, BTreeSet::len);
        worker.capabilities.max_parallel_jobs.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX))
    }

    /// Whether a record at `now` would change something by its time alone: a reputation, or whether someone is banned.
    pub fn time_would_tell(&self, now: Timestamp) -> bool {
        let hours = reputation::hours(self.drawn_at, now) > 0;
        let drawn = |worker: &Worker| hours && worker.reputation != REPUTATION_START;
        self.workers().any(|worker| drawn(worker) || is_banned(worker, self.now) != is_banned(worker, now))
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What of Kafka is replicated.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// What of the chain is replicated.
    pub fn chain(&self) -> &Ledger {
        &self.chain
    }

    /// Notices of ended jobs that wait for their receivers.
    pub fn callbacks(&self) -> &Callbacks {
        &self.callbacks
    }

    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Jobs by state, every state present, in memory and archived. Removed jobs are not counted.
    pub fn job_counts(&self) -> BTreeMap<JobState, u64> {
        let count = |state| self.index.counts[place(state)] + self.archive.jobs_in(state);
        JobState::ALL.into_iter().map(|state| (state, count(state))).collect()
    }

    /// Jobs ever accepted, also those forgotten since.
    pub fn submitted_total(&self) -> u64 {
        self.submitted_total
    }

    /// Jobs that ever ended in `state`, also those forgotten since; 0 for a state that is not final.
    pub fn ended_total(&self, state: JobState) -> u64 {
        self.ended_total[place(state)]
    }
}

/// What a history is called that begins with this hash; never 0.
pub(super) fn name_of(hash: &Digest) -> u64 {
    hash.0.first_chunk().map_or(1, |bytes| u64::from_be_bytes(*bytes)).max(1)
}

/// A worker's state without regard to what it holds.
pub(super) fn standing(worker: &Worker) -> WorkerState {
    match (worker.verdict, worker.draining) {
        (Verdict::Offline, _) => WorkerState::Offline,
        (Verdict::Unhealthy, _) => WorkerState::Unhealthy,
        (Verdict::Online, true) => WorkerState::Draining,
        (Verdict::Online, false) => WorkerState::Online,
    }
}
