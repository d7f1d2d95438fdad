//! A job: what a client asked for, where it is, and how it came there.
//!
//! `pending → assigned → running → completed | failed | cancelled`, and back to
//! `pending` when a lease expires, a worker declines, or a retry is due. The
//! attempt number grows with every award and fences all that is said about it.
//! Several runs may be in force side by side, see [`super::run`].
//!
//! Input and output bytes are not here: [`crate::domain::State`] keeps them
//! apart, so that a transition touches a small record only.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::auction::Sealed;
use super::bytes;
use super::callback::Callback;
use super::ceiling::Escalation;
use super::chain::Terms;
use super::ids::{Digest, JobId, Price, WorkerId};
use super::rare::{Rare, Usual};
use super::run::Run;
use super::score::{Policy, Weights};
use super::time::Timestamp;

/// Most workers that may run one job side by side.
pub const REDUNDANCY_MAX: u8 = 5;

/// Transitions kept per job. Beyond this the oldest after the first are dropped.
pub const HISTORY_MAX: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Pending,
    Assigned,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Assigned, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a client asked for; never changes after submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The job type, a lower-case identifier such as `sha256` or `ai_inference`.
    pub kind: String,
    pub input: Input,
    /// 1 (last) to 10 (first).
    pub priority: u8,
    /// The most the client will pay; `None` is any price.
    pub max_price: Option<Price>,
    /// Offers less at first, and more the longer the job waits.
    pub price_escalation: Option<Escalation>,
    pub deadline: Option<Timestamp>,
    /// Longest run of one attempt.
    pub timeout_secs: u32,
    pub requirements: Rare<Requirements>,
    /// How offers are weighed.
    pub policy: Policy,
    /// In place of the policy's.
    pub weights: Option<Weights>,
    pub retry: Rare<Retry>,
    /// Workers that run the job independently, 1 to [`REDUNDANCY_MAX`]; most of them must agree.
    pub redundancy: u8,
    pub tags: Vec<String>,
    /// The client's account on chain, `0x…`.
    pub client_address: Option<Box<str>>,
    pub callback_url: Option<Box<str>>,
    /// How it is settled on chain; `None`: it is not.
    pub settlement: Option<Terms>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub sha256: Digest,
    pub size: u64,
    /// `None`: the bytes came with the submission.
    pub uri: Option<Box<str>>,
}

impl Usual for Requirements {
    fn usual() -> &'static Self {
        static USUAL: LazyLock<Requirements> = LazyLock::new(Requirements::default);
        &USUAL
    }
}

impl Input {
    /// How the input is fetched, such as `https`; `None`: it came with the submission.
    pub fn scheme(&self) -> Option<&str> {
        self.uri.as_deref().map(|uri| uri.split_once(':').map_or(uri, |(scheme, _)| scheme))
    }
}

/// What a worker must have. Zero and empty mean "do not care".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    pub min_cpu_cores: u32,
    pub min_ram_mb: u64,
    pub min_gpu_memory_mb: u64,
    pub required_frameworks: Vec<String>,
    pub preferred_regions: Vec<String>,
    pub max_network_latency_ms: u32,
    pub max_worker_load_permille: u32,
    pub min_reputation: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub max_attempts: u32,
    pub initial_delay_ms: u64,
    /// In thousandths: 2000 doubles the delay each time.
    pub multiplier_permille: u32,
    pub max_delay_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 3, initial_delay_ms: 5_000, multiplier_permille: 2_000, max_delay_ms: 300_000 }
    }
}

impl Usual for Retry {
    fn usual() -> &'static Self {
        static USUAL: LazyLock<Retry> = LazyLock::new(Retry::default);
        &USUAL
    }
}

/// Which door a job came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Api,
    Kafka,
    Chain,
}

/// Who runs a job, for how much, until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Award {
    pub worker: WorkerId,
    pub price: Price,
    pub assigned_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub lease_until: Timestamp,
    /// Why this worker got it.
    pub evidence: Option<Sealed>,
}

impl Outcome {
    /// Bytes of the output that the state keeps; `None`: the worker keeps them.
    pub fn inline_size(&self) -> Option<u64> {
        (!self.kept).then_some(self.output_size)
    }
}

/// How the last attempt that reported came out well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub attempt: u32,
    pub worker: WorkerId,
    pub output_sha256: Digest,
    pub output_size: u64,
    /// The bytes are not in the state: `worker` keeps them.
    pub kept: bool,
    pub exit_code: i32,
    pub duration_ms: u64,
    /// ed25519 by the worker over `wire::signed_result`.
    #[serde(with = "bytes::boxed")]
    pub signature: Box<[u8]>,
}

/// Why a job, or its last attempt, did not end well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable and `snake_case`.
    pub code: String,
    pub detail: String,
}

/// One line of a job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub index: u64,
    pub term: u64,
    pub at: Timestamp,
    pub state: JobState,
    pub attempt: u32,
    pub cause: Cause,
    pub worker: Option<WorkerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Submitted,
    Awarded,
    Started,
    Completed,
    /// The attempt failed and no retry is left, or none was wanted.
    Failed,
    /// The attempt failed and another will follow.
    Retry,
    /// The worker refused the assignment.
    Declined,
    LeaseExpired,
    /// The worker went offline or was unregistered.
    WorkerLost,
    DeadlinePassed,
    Cancelled,
    /// It had failed, and was given another chance.
    Reopened,
    /// A run brought a result, which is compared with those of the others.
    Voted,
    /// The results differ too much for any of them to win.
    NoQuorum,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub spec: JobSpec,
    /// Digest of the whole submission: the same key with another body is a conflict.
    pub fingerprint: Digest,
    pub source: Source,
    pub state: JobState,
    /// The current or last attempt; 0 before the first award.
    pub attempt: u32,
    /// Runs that came to nothing; see [`Self::failures_max`].
    pub failures: u32,
    /// Those in force, those that wait for the others, and, once the job has ended, its last. In the order of
    /// their awards; at most `spec.redundancy`.
    pub runs: Vec<Run>,
    pub outcome: Option<Outcome>,
    pub error: Option<Box<JobError>>,
    pub submitted_at: Timestamp,
    /// Since when it waits for its turn: when it was submitted, or last given another chance after it had failed.
    pub queued_at: Timestamp,
    pub submitted_index: u64,
    pub finished_at: Option<Timestamp>,
    /// Nobody is asked to run it before its registration on chain is confirmed.
    pub awaits_chain: bool,
    /// While pending: not announced before this.
    pub next_attempt_at: Timestamp,
    /// How its client is told of its end; `None` before it, or if the client does not want to be told.
    pub callback: Option<Box<Callback>>,
    pub history: Vec<Transition>,
}
