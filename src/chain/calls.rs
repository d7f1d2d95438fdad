//! The calls of the contract, felt by felt.
//!
//! A u256 is two felts, the low 128 bits first; an array is its length, then its
//! items; an enum is the index of its variant.
//!
//! Everything here follows from what never changes of a job, so that every
//! leader makes the same call of it: the contract takes a repetition for one
//! only if it is the same to the felt.

use crate::domain::chain::{Call, Felt, U256};
use crate::domain::{Digest, Job, JobId, WorkerId};

use super::selectors::{self, Name};

/// First of the metadata of a job of ours: the id behind it is the contract's id, too.
pub const TAG: &[u8] = b"ciro.job.v1";

/// How long the contract keeps a job open behind its deadline, or without one behind the time of one attempt: what is
/// settled late is still paid, and nobody takes the payment back before.
const OPEN_SECS: u64 = 30 * 24 * 3_600;

/// Of a worker's part in a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub worker: WorkerId,
    /// Before the contract's fee, in the payment token's smallest unit.
    pub amount: u128,
}

/// What a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub worker: WorkerId,
    pub output: Digest,
    /// Of the run.
    pub seconds: u64,
}

/// How the contract calls a worker: the first 31 bytes of SHA-256 of its key.
pub fn worker_felt(worker: WorkerId) -> Felt {
    cut(Digest::of(&worker.0))
}

/// A digest without its last byte, which is what fits a felt.
pub fn cut(digest: Digest) -> Felt {
    digest.0.first_chunk::<31>().and_then(|bytes| Felt::short(bytes)).unwrap_or_default()
}

/// Index of `JobType` for a kind of ours.
pub fn job_type(kind: &str) -> u64 {
    match kind {
        "ai_training" => 1,
        "proof_generation" => 2,
        "proof_verification" => 3,
        // Also `ai_inference`. The kind itself is in the metadata.
        _ => 0,
    }
}

/// When the contract lets anybody take the payment back, in Unix seconds; never 0.
pub fn sla_deadline(job: &Job) -> u64 {
    match job.spec.deadline {
        Some(deadline) => deadline.0.div_ceil(1_000).saturating_add(OPEN_SECS),
        None => (job.submitted_at.0 / 1_000).saturating_add(OPEN_SECS).saturating_add(job.spec.timeout_secs.into()),
    }
}

/// Registers a job, with the payment in escrow. Again: the same job, and no second payment.
pub fn submit_ai_job(contract: Felt, job: &Job, payment: u128, client: Felt) -> Call {
    let redundant = job.spec.redundancy > 1;
    let mut data = Data::default();
    data.number(job_type(&job.spec.kind))
        .u256(U256::default()) // model_id
        .felt(cut(job.spec.input.sha256)) // input_data_hash
        .felt(Felt::ZERO) // expected_output_format
        .number(if redundant { 3 } else { 0 }) // ConsensusValidation, None
        .amount(payment) // max_reward
        .number(sla_deadline(job))
        .array(&[]) // compute_requirements
        .array(&metadata(job.id, &job.spec.kind))
        .amount(payment)
        .felt(client);
    data.call(contract, selectors::SUBMIT_AI_JOB)
}

/// The tag, our id, and the kind, 31 bytes a felt.
fn metadata(id: JobId, kind: &str) -> Vec<Felt> {
    let tag = Felt::short(TAG).unwrap_or_default();
    let kind = kind.as_bytes().chunks(31).filter_map(Felt::short);
    [tag, Felt::from(U256::of(id).low)].into_iter().chain(kind).collect()
}

pub fn assign_job_to_worker(contract: Felt, job: U256, worker: WorkerId) -> Call {
    let mut data = Data::default();
    data.u256(job).felt(worker_felt(worker));
    data.call(contract, selectors::ASSIGN_JOB_TO_WORKER)
}

/// The id goes twice: as the argument, and in the result.
pub fn submit_job_result(contract: Felt, job: U256, outcome: &Outcome) -> Call {
    let mut data = Data::default();
    data.u256(job).result(job, outcome);
    data.call(contract, selectors::SUBMIT_JOB_RESULT)
}

pub fn distribute_rewards(contract: Felt, job: U256) -> Call {
    let mut data = Data::default();
    data.u256(job);
    data.call(contract, selectors::DISTRIBUTE_REWARDS)
}

/// Result and payment in one; what the shares leave goes back to the payer.
pub fn settle_job(contract: Felt, job: U256, outcome: &Outcome, shares: &[Share]) -> Call {
    let mut data = Data::default();
    data.u256(job).result(job, outcome).length(shares.len());
    for share in shares {
        data.felt(worker_felt(share.worker)).amount(share.amount);
    }
    data.call(contract, selectors::SETTLE_JOB)
}

pub fn cancel_job(contract: Felt, job: U256) -> Call {
    let mut data = Data::default();
    data.u256(job);
    data.call(contract, selectors::CANCEL_JOB)
}

pub fn expire_job(contract: Felt, job: U256) -> Call {
    let mut data = Data::default();
    data.u256(job);
    data.call(contract, selectors::EXPIRE_JOB)
}

/// Where a worker is paid.
pub fn register_worker(contract: Felt, worker: WorkerId, payee: Felt) -> Call {
    let mut data = Data::default();
    data.felt(worker_felt(worker)).felt(payee);
    data.call(contract, selectors::REGISTER_WORKER)
}

/// Reverts the whole transaction once a later leader used a higher epoch.
pub fn assert_epoch(contract: Felt, epoch: u64) -> Call {
    let mut data = Data::default();
    data.number(epoch);
    data.call(contract, selectors::ASSERT_EPOCH)
}

/// Lets the contract take so much of a token.
pub fn approve(token: Felt, contract: Felt, amount: U256) -> Call {
    let mut data = Data::default();
    data.felt(contract).u256(amount);
    data.call(token, selectors::APPROVE)
}

/// The admin's: jobs and money rest, or move again.
pub fn pause(contract: Felt, paused: bool) -> Call {
    Data::default().call(contract, if paused { selectors::PAUSE } else { selectors::UNPAUSE })
}

/// Calldata under construction.
#[derive(Debug, Default)]
struct Data(Vec<Felt>);

impl Data {
    fn felt(&mut self, felt: Felt) -> &mut Self {
        self.0.push(felt);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.felt(number.into())
    }

    fn u256(&mut self, number: U256) -> &mut Self {
        self.felt(number.low.into()).felt(number.high.into())
    }

    fn amount(&mut self, amount: u128) -> &mut Self {
        self.u256(U256 { high: 0, low: amount })
    }

    fn length(&mut self, length: usize) -> &mut Self {
        self.number(u64::try_from(length).unwrap_or(u64::MAX))
    }

    fn array(&mut self, items: &[Felt]) -> &mut Self {
        self.length(items.len());
        self.0.extend_from_slice(items);
        self
    }

    /// `JobResult`.
    fn result(&mut self, job: U256, outcome: &Outcome) -> &mut Self {
        self.u256(job)
            .felt(worker_felt(outcome.worker))
            .felt(cut(outcome.output))
            .array(&[]) // computation_proof
            .amount(0) // gas_used
            .number(outcome.seconds)
    }

    fn call(self, to: Felt, selector: Name) -> Call {
        Call { to, selector: selector.felt(), calldata: self.0 }
    }
}

#[cfg(test)]
#[path = "calls/tests.rs"]
mod tests;
