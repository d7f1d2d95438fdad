// What the Job Manager stores of a job and of a worker, and how it fits a slot.
//
// Every storage slot written costs its caller, so what changes together lies
// together: a job's phase is one slot, a worker's record is one slot. All zero
// is what nobody has written: a job that never was (created_at is 0).

use array::ArrayTrait;
use option::OptionTrait;
use poseidon::poseidon_hash_span;
use serde::Serde;
use starknet::{ContractAddress, StorePacking};
use traits::{Into, TryInto};
use ciro_contracts::interfaces::job_manager::{JobResult, JobSpec, JobState, JobType, Share};

const TWO_8: u128 = 0x100;
const TWO_32: u128 = 0x100000000;
const TWO_48: u128 = 0x1000000000000;
const TWO_64: u128 = 0x10000000000000000;
const TWO_80: u128 = 0x100000000000000000000;
const TWO_128: felt252 = 0x100000000000000000000000000000000;

// Where a job stands. Times are block times, 48 bits each: a chain whose clock
// counts milliseconds fits for another 6,900 years.
#[derive(Copy, Drop)]
struct Phase {
    state: JobState,
    job_type: JobType,
    created_at: u64,
    assigned_at: u64,
    completed_at: u64,
    deadline: u64, // 0: none
}

// What was agreed when the job came, never changed afterwards.
#[derive(Copy, Drop, starknet::Store)]
struct Terms {
    client: ContractAddress,
    payer: ContractAddress,
    payment: u256,
    fingerprint: felt252,
}

// What came of it. `shares` is the fingerprint of the payout, 0 until it is made.
#[derive(Copy, Drop, starknet::Store)]
struct Outcome {
    result_hash: felt252,
    result: felt252,
    shares: felt252,
    paid: u256,
}

#[derive(Copy, Drop)]
struct WorkerRecord {
    completed: u64,
    expired: u64,
    seconds: u64,
}

impl PhasePacking of StorePacking<Phase, felt252> {
    // high: deadline 64 | created 48; low: assigned 48 | completed 48 | 16 | type 8 | state 8
    fn pack(value: Phase) -> felt252 {
        let high = widen(value.deadline) * TWO_48 + time(value.created_at);
        let low = time(value.assigned_at) * TWO_80
            + time(value.completed_at) * TWO_32
            + job_type_index(value.job_type) * TWO_8
            + state_index(value.state);
        high.into() * TWO_128 + low.into()
    }

    fn unpack(value: felt252) -> Phase {
        let halves: u256 = value.into();
        Phase {
            state: state_at(halves.low % TWO_8),
            job_type: job_type_at((halves.low / TWO_8) % TWO_8),
            created_at: narrow(halves.high % TWO_48),
            assigned_at: narrow(halves.low / TWO_80),
            completed_at: narrow((halves.low / TWO_32) % TWO_48),
            deadline: narrow(halves.high / TWO_48),
        }
    }
}

impl WorkerRecordPacking of StorePacking<WorkerRecord, felt252> {
    // high: completed 64; low: expired 64 | seconds 64
    fn pack(value: WorkerRecord) -> felt252 {
        let low = widen(value.expired) * TWO_64 + widen(value.seconds);
        value.completed.into() * TWO_128 + low.into()
    }

    fn unpack(value: felt252) -> WorkerRecord {
        let halves: u256 = value.into();
        WorkerRecord {
            completed: narrow(halves.high),
            expired: narrow(halves.low / TWO_64),
            seconds: narrow(halves.low % TWO_64),
        }
    }
}

#[generate_trait]
impl PhaseImpl of PhaseTrait {
    fn known(self: @Phase) -> bool {
        *self.created_at != 0
    }

    // Queued or Processing.
    fn open(self: @Phase) -> bool {
        *self.state == JobState::Queued || *self.state == JobState::Processing
    }

    // Failed or Cancelled: its payment went back.
    fn refunded(self: @Phase) -> bool {
        *self.state == JobState::Failed || *self.state == JobState::Cancelled
    }
}

// --------------------------------------------------------------- fingerprints

// Two submissions are the same if this is the same.
fn submission_fingerprint(spec: @JobSpec, payment: u256, client: ContractAddress) -> felt252 {
    let mut felts = ArrayTrait::new();
    spec.serialize(ref felts);
    payment.serialize(ref felts);
    client.serialize(ref felts);
    poseidon_hash_span(felts.span())
}

fn result_fingerprint(result: @JobResult) -> felt252 {
    let mut felts = ArrayTrait::new();
    result.serialize(ref felts);
    poseidon_hash_span(felts.span())
}

fn shares_fingerprint(shares: @Array<Share>) -> felt252 {
    let mut felts = ArrayTrait::new();
    shares.serialize(ref felts);
    poseidon_hash_span(felts.span())
}

// ------------------------------------------------------------------- the bits

fn widen(value: u64) -> u128 {
    let felt: felt252 = value.into();
    felt.try_into().unwrap()
}

fn narrow(value: u128) -> u64 {
    let felt: felt252 = value.into();
    felt.try_into().unwrap()
}

fn time(value: u64) -> u128 {
    let wide = widen(value);
    assert(wide < TWO_48, 'TIME_RANGE');
    wide
}

fn state_index(state: JobState) -> u128 {
    match state {
        JobState::Queued => 0,
        JobState::Processing => 1,
        JobState::Completed => 2,
        JobState::Failed => 3,
        JobState::Cancelled => 4,
    }
}

fn state_at(index: u128) -> JobState {
    if index == 0 {
        JobState::Queued
    } else if index == 1 {
        JobState::Processing
    } else if index == 2 {
        JobState::Completed
    } else if index == 3 {
        JobState::Failed
    } else {
        JobState::Cancelled
    }
}

fn job_type_index(job_type: JobType) -> u128 {
    match job_type {
        JobType::AIInference => 0,
        JobType::AITraining => 1,
        JobType::ProofGeneration => 2,
        JobType::ProofVerification => 3,
    }
}

fn job_type_at(index: u128) -> JobType {
    if index == 0 {
        JobType::AIInference
    } else if index == 1 {
        JobType::AITraining
    } else if index == 2 {
        JobType::ProofGeneration
    } else {
        JobType::ProofVerification
    }
}
