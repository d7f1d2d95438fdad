//! What may be asked of the state, and what it answers.
//!
//! A [`Record`] is one log entry: commands that arrived together, with the one
//! time the leader stamped on them. Each command gets one [`Reply`]. A refusal
//! is data: it is replicated and answered like a success, and changes nothing.

use serde::{Deserialize, Serialize};

use super::archive::Retain;
use super::auction::Sealed;
use super::bytes;
use super::callback::Called;
use super::chain::Act;
use super::ids::{Digest, JobId, Price, WorkerId};
use super::job::{JobSpec, JobState, Source};
use super::journal::Sink;
use super::kafka::{Ingest, Ingested, Partition};
use super::member;
use super::time::Timestamp;
use super::worker::{Capabilities, Location, Verdict};

/// One log entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub at: Timestamp,
    pub commands: Vec<Command>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Submit(Box<Submit>),
    Cancel {
        job: JobId,
        reason: String,
    },
    /// Registers a worker, or replaces what it declared. Registering again says "I am here": the verdict becomes online.
    RegisterWorker {
        worker: WorkerId,
        capabilities: Box<Capabilities>,
        location: Location,
        version: String,
    },
    /// Removes a worker; its attempts go back to the market.
    UnregisterWorker {
        worker: WorkerId,
    },
    Drain {
        worker: WorkerId,
    },
    Resume {
        worker: WorkerId,
    },
    /// `Offline` sends the worker's attempts back to the market at once.
    SetVerdict {
        worker: WorkerId,
        verdict: Verdict,
    },
    /// Starts attempt `attempt`, which must be the job's next.
    Assign {
        job: JobId,
        attempt: u32,
        worker: WorkerId,
        price: Price,
        lease_ms: u64,
        evidence: Option<Sealed>,
    },
    Started {
        job: JobId,
        attempt: u32,
        worker: WorkerId,
    },
    Renew {
        job: JobId,
        attempt: u32,
        lease_ms: u64,
    },
    /// The lease ran out: the log's clock must agree.
    Expire {
        job: JobId,
        attempt: u32,
    },
    /// The worker had no room after all: back to the market, not counted as a failure.
    Decline {
        job: JobId,
        attempt: u32,
        worker: WorkerId,
    },
    Complete(Box<Complete>),
    Fail(Box<Fail>),
    /// The job's deadline passed, or nobody was found for long to go on with its votes: the log's clock must agree.
    PassDeadline {
        job: JobId,
    },
    /// A sink has everything through this journal sequence number. Never goes back.
    Delivered {
        sink: Sink,
        through: u64,
    },
    /// Gives a failed job a fresh budget of attempts.
    Retry {
        job: JobId,
    },
    /// Records of Kafka, and the offset after them.
    Ingest(Box<Ingest>),
    /// An operator moves intake to another offset, in either direction.
    SeekIntake {
        partition: Partition,
        next: u64,
    },
    /// An operator accepts another Kafka cluster: every offset is forgotten.
    ResetIntake {
        cluster: String,
    },
    /// Sends a letter back to its topic; see [`super::kafka::Dead::replay`].
    ReplayLetter {
        letter: u64,
    },
    DropLetter {
        letter: u64,
    },
    /// A sink is switched off for good: what it lacks is no longer kept for it.
    ForgetSink {
        sink: Sink,
    },
    /// The books of the chain.
    Chain(Act),
    /// What came of telling a job's client of its end; see [`super::callback`].
    CalledBack {
        event: u64,
        called: Called,
    },
    /// What becomes of finished jobs.
    Retain(Retain),
    /// Who belongs to the cluster.
    Member(member::Act),
    /// Raises the cluster's feature level by one; see [`super::level`].
    RaiseLevel {
        to: u32,
    },
    /// Keep last: other builds do not have it.
    #[cfg(any(test, debug_assertions))]
    Trial {
        add: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submit {
    pub id: JobId,
    pub spec: JobSpec,
    /// The input's bytes, if inline. Digest and size in `spec.input` are of these.
    #[serde(with = "bytes::optional")]
    pub payload: Option<Vec<u8>>,
    pub fingerprint: Digest,
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    #[serde(with = "bytes::whole")]
    pub output: Vec<u8>,
    /// Bytes of an output that the worker keeps; then `output` is empty. 0: `output` is all of it.
    pub kept_size: u64,
    pub output_sha256: Digest,
    pub exit_code: i32,
    pub duration_ms: u64,
    #[serde(with = "bytes::whole")]
    pub signature: Vec<u8>,
}

impl Complete {
    /// Bytes of the output, wherever they are.
    pub fn output_size(&self) -> u64 {
        self.kept_size.max(u64::try_from(self.output.len()).unwrap_or(u64::MAX))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fail {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    pub code: String,
    pub detail: String,
    pub retryable: bool,
}

/// What one command came to.
pub type Reply = Result<Done, Refusal>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// `created` is false when the same submission was accepted before.
    Submitted {
        job: JobId,
        created: bool,
    },
    /// The job's state after the command.
    Job {
        job: JobId,
        state: JobState,
    },
    Worker {
        worker: WorkerId,
    },
    /// Already so; nothing changed.
    Unchanged,
    Delivered {
        through: u64,
    },
    Ingested(Ingested),
    /// The letter is on its way back to its topic, or dropped.
    Letter {
        letter: u64,
    },
    /// The epoch that a leader's transactions carry.
    Epoch(u64),
    /// It is in the books of the chain.
    Booked,
    /// The notice does not wait any more.
    CalledBack {
        event: u64,
    },
    /// The cluster's feature level.
    Level(u32),
    /// It is in the books of the membership.
    Member,
    /// So many jobs were removed for good.
    Retained {
        removed: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("job {0} is not known")]
    UnknownJob(JobId),
    #[error("worker {0} is not known")]
    UnknownWorker(WorkerId),
    #[error("job {job} exists with a different body")]
    Conflict { job: JobId },
    /// The same submission was accepted before; the job ended, and is no longer kept.
    #[error("job {job} was accepted before, ended, and is no longer kept")]
    Forgotten { job: JobId },
    #[error("job {job} is already {}", state.as_str())]
    Finished { job: JobId, state: JobState },
    #[error("attempt {sent} is stale, job {job} is at attempt {current}")]
    StaleAttempt { job: JobId, sent: u32, current: u32 },
    #[error("job {job} is not assigned to worker {worker}")]
    WrongWorker { job: JobId, worker: WorkerId },
    #[error("job {job} is not open for an award")]
    NotOpen { job: JobId },
    #[error("worker {worker} does not take jobs: {why}")]
    NotAvailable { worker: WorkerId, why: String },
    #[error("the lease of job {job} still holds")]
    LeaseHolds { job: JobId },
    #[error("the deadline of job {job} has not passed")]
    DeadlineAhead { job: JobId },
    /// One of the bounds on waiting jobs, their bytes, or the undelivered journal is reached.
    #[error("the backlog is full: its limit is {limit}")]
    BacklogFull { limit: u64 },
    #[error("too many workers: {limit} are registered")]
    WorkersFull { limit: u64 },
    #[error("invalid command: {0}")]
    Invalid(String),
    #[error("the deadline of job {job} has passed")]
    Overdue { job: JobId },
    #[error("dead letter {0} is not in the queue")]
    UnknownLetter(u64),
    #[error("the offsets are of Kafka cluster {known:?}, not of {found:?}")]
    OtherKafka { known: String, found: String },
    /// Dead letters that Kafka has not taken yet fill the queue.
    #[error("the dead-letter queue is full: its limit is {limit}")]
    LettersFull { limit: u64 },
    #[error("the books are of {known}, not of {found}")]
    OtherChain { known: String, found: String },
    #[error("epoch {sent} is stale, the chain's books are at {current}")]
    StaleEpoch { sent: u64, current: u64 },
    /// The books went on since the sender looked at them.
    #[error("transaction not planned: {0}")]
    NotPlanned(String),
    #[error("the escrow of job {job} went back on chain: submit it again as a new job")]
    Refunded { job: JobId },
    #[error("{0}")]
    Member(member::Denied),
}

impl Refusal {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownJob(_) => "unknown_job",
            Self::UnknownWorker(_) => "unknown_worker",
            Self::Conflict { .. } => "idempotency_conflict",
            Self::Forgotten { .. } => "job_forgotten",
            Self::Finished { .. } => "already_finished",
            Self::StaleAttempt { .. } => "stale_attempt",
            Self::WrongWorker { .. } => "wrong_worker",
            Self::NotOpen { .. } => "not_open",
            Self::NotAvailable { .. } => "worker_not_available",
            Self::LeaseHolds { .. } => "lease_holds",
            Self::DeadlineAhead { .. } => "deadline_ahead",
            Self::BacklogFull { .. } => "backlog_full",
            Self::WorkersFull { .. } => "workers_full",
            Self::Invalid(_) => "invalid_command",
            Self::Overdue { .. } => "deadline_passed",
            Self::UnknownLetter(_) => "unknown_dead_letter",
            Self::OtherKafka { .. } => "other_kafka_cluster",
            Self::LettersFull { .. } => "dead_letters_full",
            Self::OtherChain { .. } => "other_chain",
            Self::StaleEpoch { .. } => "stale_epoch",
            Self::NotPlanned(_) => "not_planned",
            Self::Refunded { .. } => "escrow_refunded",
            Self::Member(denied) => denied.code(),
        }
    }
}
