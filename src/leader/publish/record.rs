//! From what happened to the record that says so.
//!
//! Every item becomes exactly one record, in the order of the journal. A record's
//! key is the job's or the worker's id, so what happens to one of them stays in
//! order. What the broker does not take as it is goes out [`Form::Lean`]: without
//! the bytes of the output, flagged, the digest kept. What it does not take even
//! so goes out as a [`Form::Stub`], which says why and what is missing: the
//! position in the stream is not skipped, unless the topic refuses the stub as
//! well: then that goes to the dead-letter topic ([`Form::Aside`]), so that one
//! record never stands in the way of all others.

use bytes::Bytes;
use prost::Message as _;

use super::batch::{Awarded, Ended, Fact, Item, Life};
use super::headers::{Event, why};
use super::letters;
use crate::domain::job::{Award, Cause, JobError, Outcome, Source};
use crate::domain::run::{Run, Vote};
use crate::domain::worker::WorkerState;
use crate::domain::{Job, JobId, JobState, Timestamp, Worker, WorkerId};
use crate::kafka::{Message, Options, Topics};
use crate::wire::proto::kafka::v1 as proto;

/// How much of a record is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Whole,
    /// Without what makes it large.
    Lean,
    /// Nothing but its identity, and why.
    Stub(Refused),
    /// The stub goes to the dead-letter topic: its own takes not even that.
    Aside(Refused),
    /// Kafka takes nothing of it anywhere.
    Left,
}

/// Why the broker did not take a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Stable, for machines.
    pub code: &'static str,
    pub message: String,
}

/// Where records go, and in whose name.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub topics: Topics,
    /// Name of the network, and with that of the cluster.
    pub cluster: String,
}

impl Outlet {
    pub fn new(options: &Options) -> Self {
        Self { topics: options.topics.clone(), cluster: options.cluster_name.clone() }
    }

    pub fn message(&self, item: &Item, form: &Form) -> Message {
        if let Form::Aside(refused) = form {
            return self.aside(item, refused);
        }
        match &item.fact {
            Fact::Ended(ended) => self.result(item, ended, form),
            Fact::Awarded(awarded) => self.assigned(item, awarded),
            Fact::Worker { worker, life, known } => {
                let details = known.as_deref().map(of_worker).unwrap_or_default();
                let (kind, r#type) = named(*life);
                self.worker(item, *worker, None, kind, proto::WorkerEvent { r#type: r#type.into(), ..details })
            }
            Fact::Letter(dead) => letters::buried(dead, self, form),
            Fact::Replay(dead) => letters::replayed(dead, self, form),
        }
    }

    fn aside(&self, item: &Item, refused: &Refused) -> Message {
        let stub = self.message(item, &Form::Stub(refused.clone()));
        letters::aside(stub, self, refused)
    }

    fn result(&self, item: &Item, ended: &Ended, form: &Form) -> Message {
        let details = ended.details.as_deref().filter(|_| !matches!(form, Form::Stub(_)));
        let inline = ended.output.as_deref().filter(|_| *form == Form::Whole);
        let known = details.map_or_else(missing, |job| of_job(job, inline));
        let value = proto::JobResult {
            seq: item.seq,
            job_id: ended.job.to_string(),
            state: state(ended.state).into(),
            attempt: ended.attempt,
            finished_at_ms: item.at.0,
            cause: cause(ended.cause).to_owned(),
            worker_id: ended.worker.map(|worker| worker.to_string()).unwrap_or_default(),
            ..known
        };
        let kind = format!("job.{}", ended.state.as_str());
        let about = (&*value.job_id, Some(ended.job));
        let mut message = self.event(item, &self.topics.results, &kind, about, value.encode_to_vec());
        if let Form::Stub(refused) = form {
            message.headers.extend(why(refused));
        }
        message
    }

    fn assigned(&self, item: &Item, awarded: &Awarded) -> Message {
        let price = awarded.run.as_ref().map(|run| run.award.price.to_string());
        let event = proto::WorkerEvent {
            r#type: proto::WorkerEventType::Assigned.into(),
            job_id: awarded.job.to_string(),
            attempt: awarded.attempt,
            price: price.unwrap_or_default(),
            ..Default::default()
        };
        self.worker(item, awarded.worker, Some(awarded.job), "assigned", event)
    }

    fn worker(
        &self,
        item: &Item,
        worker: WorkerId,
        job: Option<JobId>,
        kind: &str,
        event: proto::WorkerEvent,
    ) -> Message {
        let value = proto::WorkerEvent { seq: item.seq, at_ms: item.at.0, worker_id: worker.to_string(), ..event };
        let kind = format!("worker.{kind}");
        self.event(item, &self.topics.workers, &kind, (&value.worker_id, job), value.encode_to_vec())
    }

    /// `subject`: in words, and the job if it is about one.
    fn event(
        &self,
        item: &Item,
        topic: &str,
        kind: &str,
        (subject, job): (&str, Option<JobId>),
        value: Vec<u8>,
    ) -> Message {
        let event = Event { cluster: &self.cluster, seq: item.seq, kind, at: item.at, subject, job };
        Message {
            topic: topic.to_owned(),
            partition: None,
            key: Some(subject.as_bytes().to_vec()),
            value: Some(value),
            headers: event.headers(),
        }
    }
}

/// A result of which only the journal entry is known.
fn missing() -> proto::JobResult {
    proto::JobResult { details_missing: true, ..Default::default() }
}

/// `inline`: the bytes of the output that are to be carried.
fn of_job(job: &Job, inline: Option<&[u8]>) -> proto::JobResult {
    let accepted = job.outcome.as_ref().filter(|_| job.state == JobState::Completed);
    let leading = job.leading_run();
    proto::JobResult {
        r#type: job.spec.kind.clone(),
        tags: job.spec.tags.clone(),
        source: source(job.source).to_owned(),
        client_address: job.spec.client_address.as_deref().unwrap_or_default().to_owned(),
        failures: job.failures,
        outcome: accepted.map(|outcome| of_outcome(job, outcome, inline)),
        error: job.error.as_deref().map(of_error),
        redundancy: u32::from(job.spec.redundancy),
        runs: job.runs.iter().map(|run| of_run(job, run)).collect(),
        receipt: accepted.map(|outcome| of_receipt(outcome, leading)),
        submitted_at_ms: job.submitted_at.0,
        ..Default::default()
    }
}

fn of_outcome(job: &Job, outcome: &Outcome, inline: Option<&[u8]>) -> proto::Outcome {
    proto::Outcome {
        worker_id: outcome.worker.to_string(),
        price: job.price().unwrap_or_default().to_string(),
        output_sha256: outcome.output_sha256.to_string(),
        output_size: outcome.output_size,
        output: inline.map(Bytes::copy_from_slice),
        kept: outcome.kept,
        exit_code: outcome.exit_code,
        duration_ms: outcome.duration_ms,
        output_omitted: inline.is_none() && !outcome.kept,
    }
}

fn of_run(job: &Job, run: &Run) -> proto::Run {
    let accepted = job.outcome.as_ref();
    let sole = accepted.filter(|outcome| outcome.attempt == run.attempt);
    let brought = run.output().or(sole);
    let agrees = |outcome: &Outcome| accepted.is_some_and(|accepted| accepted.output_sha256 == outcome.output_sha256);
    let (vote, error) = match (brought, run.vote()) {
        (Some(outcome), _) if agrees(outcome) => (proto::Vote::Agreed, None),
        (Some(_), _) => (proto::Vote::Disagreed, None),
        (None, Some(Vote::Failure(error))) => (proto::Vote::Failed, Some(of_error(error))),
        (None, _) => (proto::Vote::None, None),
    };
    proto::Run {
        attempt: run.attempt,
        worker_id: run.award.worker.to_string(),
        price: run.award.price.to_string(),
        assigned_at_ms: run.award.assigned_at.0,
        started_at_ms: or_never(run.award.started_at),
        vote: vote.into(),
        output_sha256: brought.map(|outcome| outcome.output_sha256.to_string()).unwrap_or_default(),
        signature: brought.map(|outcome| Bytes::copy_from_slice(&outcome.signature)).unwrap_or_default(),
        error,
    }
}

fn of_error(error: &JobError) -> proto::Error {
    proto::Error { code: error.code.clone(), detail: error.detail.clone() }
}

fn of_receipt(outcome: &Outcome, run: Option<&Run>) -> proto::Receipt {
    proto::Receipt {
        attempt: outcome.attempt,
        worker_id: outcome.worker.to_string(),
        worker_public_key: Bytes::copy_from_slice(&outcome.worker.0),
        signature: Bytes::copy_from_slice(&outcome.signature),
        output_sha256: outcome.output_sha256.to_string(),
        award: run.map(|run| of_award(&run.award)),
    }
}

fn of_award(award: &Award) -> proto::Award {
    let evidence = award.evidence.as_ref().and_then(|sealed| sealed.open(award.worker, award.price));
    proto::Award {
        price: award.price.to_string(),
        assigned_at_ms: award.assigned_at.0,
        started_at_ms: or_never(award.started_at),
        lease_until_ms: award.lease_until.0,
        bids: evidence.map_or(0, |evidence| evidence.bids),
    }
}

/// A worker as it is while the record is written.
fn of_worker(worker: &Worker) -> proto::WorkerEvent {
    proto::WorkerEvent {
        reputation: worker.reputation,
        banned_until_ms: or_never(worker.banned_until),
        version: worker.version.clone(),
        region: worker.location.region.clone(),
        job_types: worker.capabilities.job_types.clone(),
        ..Default::default()
    }
}

fn named(life: Life) -> (&'static str, proto::WorkerEventType) {
    match life {
        Life::Registered => ("registered", proto::WorkerEventType::Registered),
        Life::Is(WorkerState::Online | WorkerState::Busy) => ("online", proto::WorkerEventType::Online),
        Life::Is(WorkerState::Unhealthy) => ("unhealthy", proto::WorkerEventType::Unhealthy),
        Life::Is(WorkerState::Offline) => ("offline", proto::WorkerEventType::Offline),
        Life::Is(WorkerState::Draining) => ("draining", proto::WorkerEventType::Draining),
        Life::Is(WorkerState::Banned) => ("banned", proto::WorkerEventType::Banned),
        Life::Departed => ("departed", proto::WorkerEventType::Departed),
    }
}

fn or_never(at: Option<Timestamp>) -> u64 {
    at.map_or(0, |at| at.0)
}

fn state(state: JobState) -> proto::JobState {
    match state {
        JobState::Completed => proto::JobState::Completed,
        JobState::Failed => proto::JobState::Failed,
        JobState::Cancelled => proto::JobState::Cancelled,
        JobState::Pending | JobState::Assigned | JobState::Running => proto::JobState::Unspecified,
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Api => "api",
        Source::Kafka => "kafka",
        Source::Chain => "chain",
    }
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Submitted => "submitted",
        Cause::Awarded => "awarded",
        Cause::Started => "started",
        Cause::Completed => "completed",
        Cause::Failed => "failed",
        Cause::Retry => "retry",
        Cause::Declined => "declined",
        Cause::LeaseExpired => "lease_expired",
        Cause::WorkerLost => "worker_lost",
        Cause::DeadlinePassed => "deadline_passed",
        Cause::Cancelled => "cancelled",
        Cause::Reopened => "reopened",
        Cause::Voted => "voted",
        Cause::NoQuorum => "no_quorum",
    }
}
