//! Jobs as clients see them.

use serde::Serialize;
use utoipa::ToSchema;

use super::callback::CallbackBody;
use super::runs::RunBody;
use crate::api::market::WeightsBody;
use crate::api::problem;
use crate::api::settlement::SettlementBody;
use crate::api::text;
use crate::domain::job::{Cause, Job, Outcome, Requirements, Retry, Source, Transition};
use crate::domain::{State, WorkerId};
use crate::mesh::Progress;
use crate::submission::escalation::EscalationBody;

#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobBody {
    #[schema(format = "uuid")]
    id: String,
    r#type: String,
    #[schema(pattern = "^(pending|assigned|running|completed|failed|cancelled)$")]
    state: &'static str,
    #[schema(minimum = 1, maximum = 10)]
    priority: u8,
    /// The newest attempt; 0 before the first award.
    attempt: u32,
    max_attempts: u32,
    /// Runs that came to nothing. The job fails at `max_attempts` times `redundancy`; a round of votes without a
    /// majority counts as `redundancy`.
    failures: u32,
    /// With redundancy, here and in `assigned_at` and `started_at`: of the run whose result counts, else of the newest in
    /// force; `runs` has all.
    worker_id: Option<String>,
    /// What the award costs, in the smallest unit of the token. With redundancy the sum over the workers; of a
    /// completed job over those that brought its result, since nobody else is owed anything.
    price: Option<String>,
    max_price: Option<String>,
    /// How what is offered at most rises to `max_price` while the job waits.
    price_escalation: Option<EscalationBody>,
    #[schema(format = DateTime)]
    lease_until: Option<String>,
    #[schema(format = DateTime)]
    submitted_at: String,
    /// Since when it waits for its turn: since it was submitted, or last retried after it had failed.
    #[schema(format = DateTime)]
    queued_at: String,
    #[schema(format = DateTime)]
    assigned_at: Option<String>,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// When a pending job is on the market (again).
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    #[schema(format = DateTime)]
    deadline: Option<String>,
    timeout_secs: u32,
    /// Why the job, or its last attempt, did not end well.
    error: Option<ErrorBody>,
    input: InputBody,
    requirements: RequirementsBody,
    /// How offers are weighed.
    #[schema(pattern = "^(balanced|best_match|lowest_cost|fastest_response|highest_reputation)$")]
    policy: &'static str,
    /// In place of the policy's.
    weights: Option<WeightsBody>,
    retry: RetryBody,
    redundancy: u8,
    tags: Vec<String>,
    client_address: Option<String>,
    /// With redundancy: who runs the job or has run it in this round, and what each brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    runs: Option<Vec<RunBody>>,
    /// Log index at which the job was accepted.
    submitted_index: u64,
    #[schema(pattern = "^(api|kafka|chain)$")]
    source: &'static str,
    /// A pending job that nobody is asked to run before its registration on chain counts.
    awaits_chain: bool,
    settlement: SettlementBody,
    /// How whoever submitted it is told of its end; null without a `callback_url`.
    callback: Option<CallbackBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = JobError)]
pub struct ErrorBody {
    pub code: String,
    pub detail: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = JobInput)]
struct InputBody {
    sha256: String,
    /// Bytes.
    size: u64,
    /// Where it is, if it did not come with the submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    uri: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Requirements)]
struct RequirementsBody {
    min_cpu_cores: u32,
    min_ram_gb: f64,
    min_gpu_memory_gb: f64,
    required_frameworks: Vec<String>,
    preferred_regions: Vec<String>,
    max_network_latency_ms: u32,
    max_worker_load: f64,
    min_reputation: u32,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Retry)]
struct RetryBody {
    max_attempts: u32,
    initial_delay_ms: u64,
    multiplier: f64,
    max_delay_ms: u64,
}

/// When and by whom an attempt ran, as far as the job still says.
struct Run {
    worker: Option<WorkerId>,
    assigned_at: Option<String>,
    started_at: Option<String>,
}

impl Run {
    fn of(job: &Job) -> Self {
        if let Some(award) = job.leading_run().map(|run| &run.award) {
            return Self {
                worker: Some(award.worker),
                assigned_at: Some(text::time(award.assigned_at)),
                started_at: award.started_at.map(text::time),
            };
        }
        let when = |cause| {
            let mut lines = job.history.iter().rev();
            let line = lines.find(|line| line.cause == cause && line.attempt == job.attempt)?;
            Some(text::time(line.at))
        };
        if !job.state.is_final() {
            return Self { worker: None, assigned_at: None, started_at: None };
        }
        Self { worker: worker_of(job), assigned_at: when(Cause::Awarded), started_at: when(Cause::Started) }
    }
}

/// The worker that runs the job, or ran it last.
pub fn worker_of(job: &Job) -> Option<WorkerId> {
    if let Some(run) = job.leading_run() {
        return Some(run.award.worker);
    }
    // A pending job has no worker, even if an attempt failed before.
    if !job.state.is_final() {
        return None;
    }
    let worker = job.outcome.as_ref().map(|outcome| outcome.worker);
    worker.or_else(|| job.history.iter().rev().find_map(|line| line.worker))
}

impl JobBody {
    pub fn of(state: &State, job: &Job) -> Self {
        let run = Run::of(job);
        let pending = job.state == crate::domain::JobState::Pending;
        Self {
            id: job.id.to_string(),
            r#type: job.spec.kind.clone(),
            state: job.state.as_str(),
            priority: job.spec.priority,
            attempt: job.attempt,
            max_attempts: job.spec.retry.max_attempts,
            failures: job.failures,
            worker_id: run.worker.map(|worker| worker.to_string()),
            price: job.price().map(|price| price.to_string()),
            max_price: job.spec.max_price.map(|price| price.to_string()),
            price_escalation: job.spec.price_escalation.map(EscalationBody::of),
            lease_until: job.runs_in_force().map(|run| run.award.lease_until).min().map(text::time),
            runs: RunBody::all(job),
            submitted_at: text::time(job.submitted_at),
            queued_at: text::time(job.queued_at),
            assigned_at: run.assigned_at,
            started_at: run.started_at,
            finished_at: job.finished_at.map(text::time),
            next_attempt_at: pending.then(|| text::time(job.next_attempt_at.max(job.submitted_at))),
            deadline: job.spec.deadline.map(text::time),
            timeout_secs: job.spec.timeout_secs,
            error: job.error.as_deref().map(ErrorBody::of),
            input: InputBody {
                sha256: job.spec.input.sha256.to_string(),
                size: job.spec.input.size,
                uri: job.spec.input.uri.as_deref().map(str::to_owned),
            },
            requirements: RequirementsBody::of(&job.spec.requirements),
            policy: job.spec.policy.as_str(),
            weights: job.spec.weights.map(WeightsBody::of),
            retry: RetryBody::of(&job.spec.retry),
            redundancy: job.spec.redundancy,
            tags: job.spec.tags.clone(),
            client_address: job.spec.client_address.as_deref().map(str::to_owned),
            submitted_index: job.submitted_index,
            source: source(job.source),
            awaits_chain: pending && job.awaits_chain,
            settlement: SettlementBody::of(state, job),
            callback: CallbackBody::of(job),
        }
    }
}

impl ErrorBody {
    pub fn of(error: &crate::domain::job::JobError) -> Self {
        Self { code: error.code.clone(), detail: error.detail.clone() }
    }
}

impl RequirementsBody {
    fn of(needs: &Requirements) -> Self {
        Self {
            min_cpu_cores: needs.min_cpu_cores,
            min_ram_gb: text::gb(needs.min_ram_mb),
            min_gpu_memory_gb: text::gb(needs.min_gpu_memory_mb),
            required_frameworks: needs.required_frameworks.clone(),
            preferred_regions: needs.preferred_regions.clone(),
            max_network_latency_ms: needs.max_network_latency_ms,
            max_worker_load: text::fraction(needs.max_worker_load_permille),
            min_reputation: needs.min_reputation,
        }
    }
}

impl RetryBody {
    fn of(retry: &Retry) -> Self {
        Self {
            max_attempts: retry.max_attempts,
            initial_delay_ms: retry.initial_delay_ms,
            multiplier: text::fraction(retry.multiplier_permille),
            max_delay_ms: retry.max_delay_ms,
        }
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Api => "api",
        Source::Kafka => "kafka",
        Source::Chain => "chain",
    }
}

/// A page of jobs.
#[derive(Serialize, ToSchema)]
pub struct JobList {
    pub jobs: Vec<JobBody>,
    pub next_cursor: Option<String>,
    pub applied_index: u64,
}

#[derive(Serialize, ToSchema)]
pub struct JobStatus {
    #[schema(format = "uuid")]
    id: String,
    state: &'static str,
    attempt: u32,
    max_attempts: u32,
    worker_id: Option<String>,
    /// 0 to 1: 0 before the start, 1 at the end, between them what the attempt says; null if it says nothing.
    progress: Option<f64>,
    /// What the attempt that runs says it does.
    progress_message: Option<String>,
    #[schema(format = DateTime)]
    lease_until: Option<String>,
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    error: Option<ErrorBody>,
    applied_index: u64,
}

impl JobStatus {
    pub fn of(state: &State, job: &Job, said: Option<Progress>) -> Self {
        use crate::domain::JobState::{Assigned, Completed, Pending, Running};
        let body = JobBody::of(state, job);
        Self {
            id: body.id,
            state: body.state,
            attempt: body.attempt,
            max_attempts: body.max_attempts,
            worker_id: body.worker_id,
            progress: match job.state {
                Pending | Assigned => Some(0.0),
                Completed => Some(1.0),
                Running => said.as_ref().and_then(|said| said.permille).map(text::fraction),
                _ => None,
            },
            progress_message: said.map(|said| said.message).filter(|message| !message.is_empty()),
            lease_until: body.lease_until,
            next_attempt_at: body.next_attempt_at,
            error: body.error,
            applied_index: state.applied(),
        }
    }
}

/// What came of a completed job.
#[derive(Serialize, ToSchema)]
#[schema(as = JobResult)]
pub struct ResultBody {
    #[schema(format = "uuid")]
    job_id: String,
    attempt: u32,
    worker_id: String,
    /// The output's bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, content_encoding = "base64")]
    output: Option<String>,
    /// Instead of `output`, when the worker keeps the bytes: GET /jobs/{id}/output fetches them from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    output_ref: Option<OutputRef>,
    output_sha256: String,
    exit_code: i32,
    duration_ms: u64,
    /// ed25519, in base64.
    #[schema(content_encoding = "base64")]
    signature: String,
    /// ed25519, in base64.
    #[schema(content_encoding = "base64")]
    worker_public_key: String,
}

#[derive(Serialize, ToSchema)]
struct OutputRef {
    sha256: String,
    /// Bytes.
    size: u64,
}

impl ResultBody {
    pub fn of(state: &State, job: &Job, outcome: &Outcome) -> Self {
        let output = state.output(job.id).map(|output| text::base64(output));
        let reference = || OutputRef { sha256: outcome.output_sha256.to_string(), size: outcome.output_size };
        Self {
            job_id: job.id.to_string(),
            attempt: outcome.attempt,
            worker_id: outcome.worker.to_string(),
            output_ref: output.is_none().then(reference),
            output,
            output_sha256: outcome.output_sha256.to_string(),
            exit_code: outcome.exit_code,
            duration_ms: outcome.duration_ms,
            signature: text::base64(&outcome.signature),
            worker_public_key: text::base64(&outcome.worker.0),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct JobEvents {
    #[schema(format = "uuid")]
    pub job_id: String,
    pub events: Vec<TransitionBody>,
    pub applied_index: u64,
}

/// One change of a job's state.
#[derive(Serialize, ToSchema)]
#[schema(as = Transition)]
pub struct TransitionBody {
    index: u64,
    term: u64,
    #[schema(format = DateTime)]
    at: String,
    state: &'static str,
    attempt: u32,
    cause: Cause2,
    worker_id: Option<String>,
}

/// A cause, under the name it has in JSON everywhere.
#[derive(Serialize, ToSchema)]
#[schema(as = Cause, value_type = String)]
struct Cause2(Cause);

impl TransitionBody {
    pub fn of(line: &Transition) -> Self {
        Self {
            index: line.index,
            term: line.term,
            at: text::time(line.at),
            state: line.state.as_str(),
            attempt: line.attempt,
            cause: Cause2(line.cause),
            worker_id: line.worker.map(|worker| worker.to_string()),
        }
    }
}

/// Answers to the items of a batch, in order.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchAnswer)]
pub struct BatchBody {
    pub accepted: usize,
    pub refused: usize,
    pub results: Vec<ItemBody>,
    pub applied_index: u64,
}

/// The answer that a submission alone would have had.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchItem)]
pub struct ItemBody {
    pub index: usize,
    #[schema(minimum = 200, maximum = 599)]
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub job: Option<JobBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub problem: Option<problem::Body>,
}
