//! Golden calldata: every function, felt by felt, as the contract's interface has them.

use super::*;
use crate::chain::sample;
use crate::domain::PeerId;
use crate::domain::job::JobState;
use crate::domain::time::Timestamp;

const CONTRACT: u64 = 0xc0;

fn worker() -> WorkerId {
    PeerId([7; 32])
}

/// SHA-256 of 32 bytes of 7, without its last byte.
const WORKER: &str = "0x4bb06f8e4e3a7715d201d573d0aa423762e55dabd61a2c02278fa56cc6d294";

fn id() -> JobId {
    "018f0000-0000-7000-8000-0000000000ff".parse().unwrap()
}

const ID: &str = "0x18f00000000700080000000000000ff";

fn job() -> Job {
    sample::job(id())
}

fn felts(call: &Call) -> Vec<String> {
    call.calldata.iter().map(Felt::to_string).collect()
}

fn outcome() -> Outcome {
    Outcome { worker: worker(), output: Digest([0xcd; 32]), seconds: 17 }
}

/// A digest of one byte, 32 times, without its last.
fn cut_of(byte: &str) -> String {
    format!("0x{}", byte.repeat(31))
}

/// Beyond 128 bits, so that the halves can not be taken for one another.
const LARGE: U256 = U256 { high: 0x55, low: u128::MAX };

#[test]
fn a_submission_has_every_field_of_the_specification() {
    let call = submit_ai_job(Felt::from(CONTRACT), &job(), u128::MAX, Felt::from(0xc1u64));
    assert_eq!(call.to, Felt::from(CONTRACT));
    assert_eq!(call.selector.to_string(), "0x2cbd772095875373d28ce0c61f837f3113e1606e2b1641e21f3fe1048f9296c");
    let max = "0xffffffffffffffffffffffffffffffff";
    let expected = [
        "0x0",         // job_type: AIInference
        "0x0",         // model_id, low
        "0x0",         // model_id, high
        &cut_of("ab"), // input_data_hash
        "0x0",         // expected_output_format
        "0x0",         // verification_method: None
        max,           // max_reward, low
        "0x0",         // max_reward, high
        "0xf4ade401",  // sla_deadline, rounded up, and 30 days
        "0x0",         // compute_requirements
        "0x3",         // metadata
        "0x6369726f2e6a6f622e7631",
        ID,
        "0x61695f696e666572656e6365", // 'ai_inference'
        max,                          // payment, low
        "0x0",                        // payment, high
        "0xc1",                       // client
    ];
    assert_eq!(felts(&call), expected);
}

#[test]
fn kinds_are_among_the_four_the_contract_knows() {
    let cases = [
        ("ai_inference", 0),
        ("ai_training", 1),
        ("proof_generation", 2),
        ("proof_verification", 3),
        ("sha256", 0),
        ("wasm", 0),
    ];
    for (kind, index) in cases {
        assert_eq!(job_type(kind), index, "{kind}");
        let mut job = job();
        job.spec.kind = kind.to_owned();
        let call = submit_ai_job(Felt::ZERO, &job, 1, Felt::ZERO);
        assert_eq!(call.calldata[0], Felt::from(index), "{kind}");
        assert_eq!(call.calldata[13].text(), kind.as_bytes(), "{kind}");
    }
}

#[test]
fn a_long_kind_is_several_felts_and_redundancy_is_consensus() {
    let mut job = job();
    job.spec.kind = "k".repeat(40);
    job.spec.redundancy = 3;
    let call = submit_ai_job(Felt::ZERO, &job, 1, Felt::ZERO);
    assert_eq!(call.calldata[5], Felt::from(3u64), "ConsensusValidation");
    assert_eq!(call.calldata[10], Felt::from(4u64));
    assert_eq!((call.calldata[13].text().len(), call.calldata[14].text().len()), (31, 9));
}

#[test]
fn a_deadline_is_never_zero_and_30_days_behind_the_job_s() {
    let mut job = job();
    for (deadline, expected) in [(1, 2_592_001), (1_000, 2_592_001), (1_001, 2_592_002), (0, 2_592_000)] {
        job.spec.deadline = Some(Timestamp(deadline));
        assert_eq!(sla_deadline(&job), expected, "{deadline} ms");
    }
    job.spec.deadline = None;
    job.submitted_at = Timestamp(5_999);
    assert_eq!(sla_deadline(&job), 5 + 30 * 86_400 + 60);
}

#[test]
fn what_changes_of_a_job_changes_nothing_of_its_registration() {
    let (before, mut after) = (job(), job());
    after.state = JobState::Completed;
    after.attempt = 3;
    after.finished_at = Some(Timestamp(9));
    let call = |job: &Job| submit_ai_job(Felt::ZERO, job, 1, Felt::ZERO);
    assert_eq!(call(&before), call(&after));
}

#[test]
fn a_u256_is_split_at_128_bits_low_half_first() {
    let call = assign_job_to_worker(Felt::from(CONTRACT), LARGE, worker());
    assert_eq!(call.selector.to_string(), "0xe4d579583a2c267d382323fdc497e3acee5911168ca23db131aed36e6507bd");
    assert_eq!(felts(&call), ["0xffffffffffffffffffffffffffffffff", "0x55", WORKER]);
    for call in [distribute_rewards, cancel_job, expire_job] {
        assert_eq!(felts(&call(Felt::ZERO, LARGE)), ["0xffffffffffffffffffffffffffffffff", "0x55"]);
    }
}

#[test]
fn a_result_has_the_job_s_id_outside_and_inside() {
    let call = submit_job_result(Felt::ZERO, U256::of(id()), &outcome());
    assert_eq!(call.selector.to_string(), "0x2dc67b1273ebb9ce0cd823e504250f528b7c8de3d7da9a401e8a2488248fb7f");
    let expected = [
        ID,
        "0x0", // outside
        ID,
        "0x0", // inside
        WORKER,
        &cut_of("cd"), // output_data_hash
        "0x0",         // computation_proof
        "0x0",
        "0x0",  // gas_used
        "0x11", // execution_time
    ];
    assert_eq!(felts(&call), expected);
}

#[test]
fn a_settlement_is_the_result_and_the_shares() {
    let shares = [Share { worker: worker(), amount: 5 }, Share { worker: worker(), amount: u128::MAX }];
    let call = settle_job(Felt::ZERO, U256::of(id()), &outcome(), &shares);
    assert_eq!(call.selector.to_string(), "0x2a78a7f0ff8715325f54a6790c8b3e455ed69cc0bf20e3c9604633909ac83e2");
    let result = felts(&submit_job_result(Felt::ZERO, U256::of(id()), &outcome()));
    assert_eq!(felts(&call)[..10], result);
    let max = "0xffffffffffffffffffffffffffffffff";
    assert_eq!(felts(&call)[10..], ["0x2", WORKER, "0x5", "0x0", WORKER, max, "0x0"]);
}

#[test]
fn the_small_calls() {
    let contract = Felt::from(CONTRACT);
    let call = assert_epoch(contract, 7);
    assert_eq!(call.selector.to_string(), "0x29728dab43cbece6f1fb22024b59bcbfda9377d08219caf760bba124bbe7c4c");
    assert_eq!(felts(&call), ["0x7"]);
    let call = register_worker(contract, worker(), Felt::from(9u64));
    assert_eq!(call.selector.to_string(), "0x270f2ba4710f211cb3c427ce5e315be4ef616e0b8bb2be6dae68f40aaf56c5f");
    assert_eq!(felts(&call), [WORKER, "0x9"]);
    let call = approve(Felt::from(1u64), contract, LARGE);
    assert_eq!(
        (call.to, felts(&call)),
        (Felt::from(1u64), vec!["0xc0".into(), "0xffffffffffffffffffffffffffffffff".into(), "0x55".into()])
    );
    assert_eq!(pause(contract, true).selector, selectors::PAUSE.felt());
    assert!(pause(contract, false).calldata.is_empty());
}

#[test]
fn a_worker_is_known_by_its_key_only() {
    assert_eq!(worker_felt(worker()).to_string(), WORKER);
    assert_ne!(worker_felt(worker()), worker_felt(PeerId([8; 32])));
    // Also the greatest digest fits a felt.
    assert_eq!(cut(Digest([0xff; 32])).to_string(), cut_of("ff"));
}
