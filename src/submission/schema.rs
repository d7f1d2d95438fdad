//! A submission in protobuf: `ciro.kafka.v1.Job`.
//!
//! Fields this node does not know are passed over, as protobuf has it: what
//! changes the meaning of others comes with another version of the package.

use super::decode::Int;
use super::escalation::EscalationDto;
use super::settlement::from_fields;
use super::{Checked, Door, FieldError, InputDto, RequirementsDto, RetryDto, Submission, WeightsDto};
use crate::wire::proto::kafka::v1 as proto;

/// Checks a job by the rules for submissions.
pub(super) fn check(job: proto::Job, door: Door) -> Result<Checked, FieldError> {
    let (submission, payload) = submission(job);
    submission.check_with(payload.map(Ok), door)
}

fn submission(job: proto::Job) -> (Submission, Option<Vec<u8>>) {
    let submission = Submission {
        r#type: job.r#type,
        payload: None,
        input: job.input.map(input),
        priority: int(job.priority),
        max_price: job.max_price,
        price_escalation: job.price_escalation.map(escalation),
        deadline: job.deadline,
        timeout_secs: int(job.timeout_secs),
        requirements: job.requirements.map(requirements),
        policy: job.policy,
        weights: job.weights.map(weights),
        retry: job.retry.map(retry),
        redundancy: int(job.redundancy),
        tags: Some(job.tags),
        client_address: job.client_address,
        callback_url: job.callback_url,
        settlement: from_fields(job.settlement, job.settlement_confirmation),
    };
    (submission, job.payload.map(Vec::from))
}

fn input(input: proto::Input) -> InputDto {
    InputDto { uri: input.uri, sha256: input.sha256, size: int(input.size) }
}

fn escalation(escalation: proto::PriceEscalation) -> EscalationDto {
    EscalationDto { start: escalation.start, step: escalation.step, every_secs: int(escalation.every_secs) }
}

fn requirements(requirements: proto::Requirements) -> RequirementsDto {
    RequirementsDto {
        min_cpu_cores: int(requirements.min_cpu_cores),
        min_ram_gb: requirements.min_ram_gb,
        min_gpu_memory_gb: requirements.min_gpu_memory_gb,
        required_frameworks: Some(requirements.required_frameworks),
        preferred_regions: Some(requirements.preferred_regions),
        max_network_latency_ms: int(requirements.max_network_latency_ms),
        max_worker_load: requirements.max_worker_load,
        min_reputation: int(requirements.min_reputation),
    }
}

fn weights(weights: proto::Weights) -> WeightsDto {
    WeightsDto {
        price: int(weights.price),
        time: int(weights.time),
        reputation: int(weights.reputation),
        load: int(weights.load),
        distance: int(weights.distance),
    }
}

fn retry(retry: proto::Retry) -> RetryDto {
    RetryDto {
        max_attempts: int(retry.max_attempts),
        initial_delay_ms: int(retry.initial_delay_ms),
        multiplier: retry.multiplier,
        max_delay_ms: int(retry.max_delay_ms),
    }
}

fn int<T: Into<i128>>(value: Option<T>) -> Option<Int> {
    value.map(|value| Int(value.into()))
}
