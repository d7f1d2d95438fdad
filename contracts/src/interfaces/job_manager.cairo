// The Job Manager as others see it.
//
// `IJobManager` and the types it uses are the interface that is known already:
// names, types, order of arguments and serialisation are those of the class
// people use, so that one calldata fits both. `ICoordination` is ours.
//
// Serialisation: a u256 is two felts, the low 128 bits first; an array is its
// length, then its items; an enum is the index of its variant.

use array::ArrayTrait;
use starknet::ContractAddress;

// ------------------------------------------------------------ the known types

#[derive(Copy, Drop, Serde, PartialEq)]
enum JobType {
    AIInference,
    AITraining,
    ProofGeneration,
    ProofVerification,
}

#[derive(Copy, Drop, Serde, PartialEq)]
enum VerificationMethod {
    None,
    StatisticalSampling,
    ZeroKnowledgeProof,
    ConsensusValidation,
}

// Failed is what a job is after its deadline passed.
#[derive(Copy, Drop, Serde, PartialEq)]
enum JobState {
    Queued,
    Processing,
    Completed,
    Failed,
    Cancelled,
}

#[derive(Copy, Drop, Serde, PartialEq)]
struct JobId {
    value: u256
}

#[derive(Copy, Drop, Serde, PartialEq)]
struct ModelId {
    value: u256
}

#[derive(Copy, Drop, Serde, PartialEq)]
struct WorkerId {
    value: felt252
}

#[derive(Drop, Serde)]
struct JobSpec {
    job_type: JobType,
    model_id: ModelId,
    input_data_hash: felt252,
    expected_output_format: felt252,
    verification_method: VerificationMethod,
    max_reward: u256,
    sla_deadline: u64, // Unix seconds
    compute_requirements: Array<felt252>,
    metadata: Array<felt252>,
}

#[derive(Drop, Serde)]
struct ProveJobData {
    circuit_id: felt252,
    public_inputs: Array<felt252>,
    private_inputs_hash: felt252,
    expected_proof_size: u32,
}

#[derive(Drop, Serde)]
struct JobResult {
    job_id: JobId,
    worker_id: WorkerId,
    output_data_hash: felt252,
    computation_proof: Array<felt252>,
    gas_used: u256,
    execution_time: u64,
}

// Times are block times in Unix seconds, 0 for what has not happened. `worker`
// is the registered address of the assigned worker, 0 while it has none.
#[derive(Copy, Drop, Serde)]
struct JobDetails {
    job_id: JobId,
    job_type: JobType,
    client: ContractAddress,
    worker: ContractAddress,
    state: JobState,
    payment_amount: u256,
    created_at: u64,
    assigned_at: u64,
    completed_at: u64,
    result_hash: felt252,
}

// success_rate: completed jobs in a hundred of those completed or expired.
// average_completion_time: seconds from assignment to completion.
// reputation_score: completed jobs less expired ones, not below 0.
// total_earnings: what was paid out to it, fees taken off.
#[derive(Copy, Drop, Serde)]
struct WorkerStats {
    total_jobs_completed: u64,
    success_rate: u8,
    average_completion_time: u64,
    reputation_score: u256,
    total_earnings: u256,
}

#[derive(Drop, Serde)]
struct ModelRequirements {
    min_memory_gb: u32,
    min_compute_units: u32,
    required_gpu_type: felt252,
    framework_dependencies: Array<felt252>,
}

// -------------------------------------------------------------------- our own

// What a worker gets for its part in a job, before the fee.
#[derive(Copy, Drop, Serde)]
struct Share {
    worker: WorkerId,
    amount: u256,
}

// fee_bps: hundredths of a percent of what is paid out, to fee_recipient.
#[derive(Copy, Drop, Serde)]
struct Settings {
    token: ContractAddress,
    fee_recipient: ContractAddress,
    fee_bps: u16,
    min_payment: u256,
    paused: bool,
}

#[starknet::interface]
trait IJobManager<TContractState> {
    fn submit_ai_job(
        ref self: TContractState, job_spec: JobSpec, payment: u256, client: ContractAddress
    ) -> JobId;
    fn submit_prove_job(
        ref self: TContractState,
        prove_job_data: ProveJobData,
        payment: u256,
        client: ContractAddress
    ) -> JobId;
    fn assign_job_to_worker(ref self: TContractState, job_id: JobId, worker_id: WorkerId);
    fn submit_job_result(ref self: TContractState, job_id: JobId, result: JobResult);
    fn distribute_rewards(ref self: TContractState, job_id: JobId);
    fn register_model(
        ref self: TContractState,
        model_hash: felt252,
        requirements: ModelRequirements,
        pricing: u256
    ) -> ModelId;
    fn get_job_details(self: @TContractState, job_id: JobId) -> JobDetails;
    fn get_job_state(self: @TContractState, job_id: JobId) -> JobState;
    fn get_worker_stats(self: @TContractState, worker_id: WorkerId) -> WorkerStats;
    fn update_config(ref self: TContractState, config_key: felt252, config_value: felt252);
    fn pause(ref self: TContractState);
    fn unpause(ref self: TContractState);
    fn emergency_withdraw(ref self: TContractState, token: ContractAddress, amount: u256);
}

#[starknet::interface]
trait ICoordination<TContractState> {
    fn assert_epoch(ref self: TContractState, epoch: u64);
    fn register_worker(ref self: TContractState, worker_id: WorkerId, address: ContractAddress);
    fn settle_job(
        ref self: TContractState, job_id: JobId, result: JobResult, shares: Array<Share>
    );
    fn cancel_job(ref self: TContractState, job_id: JobId);
    fn expire_job(ref self: TContractState, job_id: JobId);
    fn set_charge_limit(ref self: TContractState, limit: u256);
    fn set_coordinator(ref self: TContractState, coordinator: ContractAddress, allowed: bool);
    fn set_admin(ref self: TContractState, admin: ContractAddress);
    fn get_epoch(self: @TContractState, coordinator: ContractAddress) -> u64;
    fn get_charge_limit(self: @TContractState, client: ContractAddress) -> u256;
    fn get_job_details_many(self: @TContractState, job_ids: Array<JobId>) -> Array<JobDetails>;
    fn get_job_spec(self: @TContractState, job_id: JobId) -> JobSpec;
    fn get_paid(self: @TContractState, job_id: JobId) -> u256;
    fn get_generation(self: @TContractState) -> felt252;
    fn get_settings(self: @TContractState) -> Settings;
    fn get_admin(self: @TContractState) -> ContractAddress;
    fn is_coordinator(self: @TContractState, address: ContractAddress) -> bool;
    fn get_worker_address(self: @TContractState, worker_id: WorkerId) -> ContractAddress;
    fn total_escrow(self: @TContractState) -> u256;
}
