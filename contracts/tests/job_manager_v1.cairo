// A reduced Job Manager with the defect of the class people know, for tests.
//
// The same interface as far as it was known, and the same failure: submission
// checks its arguments, counts an id up and says so in an event, but never
// writes the job. So every other call about a job reverts, for every job, and
// no money moves. A node that is pointed at it can register jobs and no more.
//
// Deliberately absent: everything it would take to work.

#[starknet::contract]
mod JobManagerV1 {
    use array::ArrayTrait;
    use starknet::{ContractAddress, get_block_timestamp, get_caller_address};

    const MIN_PAYMENT: u256 = 1000000000000000000;

    #[derive(Copy, Drop, Serde)]
    enum JobType {
        AIInference,
        AITraining,
        ProofGeneration,
        ProofVerification,
    }

    #[derive(Copy, Drop, Serde)]
    enum VerificationMethod {
        None,
        StatisticalSampling,
        ZeroKnowledgeProof,
        ConsensusValidation,
    }

    #[derive(Copy, Drop, Serde)]
    enum JobState {
        Queued,
        Processing,
        Completed,
        Failed,
        Cancelled,
    }

    #[derive(Copy, Drop, Serde)]
    struct JobId {
        value: u256
    }

    #[derive(Copy, Drop, Serde)]
    struct ModelId {
        value: u256
    }

    #[derive(Copy, Drop, Serde)]
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
        sla_deadline: u64,
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

    #[storage]
    struct Storage {
        admin: ContractAddress,
        last_id: u256,
        paused: bool,
        // Read by every call about a job, written by none.
        created_at: LegacyMap<u256, u64>,
    }

    #[event]
    #[derive(Drop, starknet::Event)]
    enum Event {
        JobSubmitted: JobSubmitted,
    }

    #[derive(Drop, starknet::Event)]
    struct JobSubmitted {
        #[key]
        job_id: u256,
        #[key]
        client: ContractAddress,
        payment: u256,
    }

    #[constructor]
    fn constructor(
        ref self: ContractState,
        admin: ContractAddress,
        payment_token: ContractAddress,
        treasury: ContractAddress,
        cdc_pool_contract: ContractAddress
    ) {
        self.admin.write(admin);
    }

    #[external(v0)]
    fn submit_ai_job(
        ref self: ContractState, job_spec: JobSpec, payment: u256, client: ContractAddress
    ) -> JobId {
        assert(payment >= MIN_PAYMENT, 'Payment too low');
        assert(job_spec.sla_deadline > get_block_timestamp(), 'Deadline in the past');
        assert(job_spec.max_reward > 0, 'No reward');
        count_job(ref self, payment, client)
    }

    #[external(v0)]
    fn submit_prove_job(
        ref self: ContractState,
        prove_job_data: ProveJobData,
        payment: u256,
        client: ContractAddress
    ) -> JobId {
        assert(payment >= MIN_PAYMENT, 'Payment too low');
        count_job(ref self, payment, client)
    }

    #[external(v0)]
    fn assign_job_to_worker(ref self: ContractState, job_id: JobId, worker_id: WorkerId) {
        assert_known(@self, job_id);
    }

    #[external(v0)]
    fn submit_job_result(ref self: ContractState, job_id: JobId, result: JobResult) {
        assert_known(@self, job_id);
    }

    #[external(v0)]
    fn distribute_rewards(ref self: ContractState, job_id: JobId) {
        assert_known(@self, job_id);
    }

    #[external(v0)]
    fn get_job_details(self: @ContractState, job_id: JobId) -> JobDetails {
        assert_known(self, job_id);
        let nobody = starknet::contract_address_const::<0>();
        JobDetails {
            job_id,
            job_type: JobType::AIInference,
            client: nobody,
            worker: nobody,
            state: JobState::Queued,
            payment_amount: 0,
            created_at: 0,
            assigned_at: 0,
            completed_at: 0,
            result_hash: 0,
        }
    }

    #[external(v0)]
    fn get_job_state(self: @ContractState, job_id: JobId) -> JobState {
        assert_known(self, job_id);
        JobState::Queued
    }

    #[external(v0)]
    fn pause(ref self: ContractState) {
        assert(get_caller_address() == self.admin.read(), 'Not admin');
        self.paused.write(true);
    }

    #[external(v0)]
    fn unpause(ref self: ContractState) {
        assert(get_caller_address() == self.admin.read(), 'Not admin');
        self.paused.write(false);
    }

    fn count_job(ref self: ContractState, payment: u256, client: ContractAddress) -> JobId {
        assert(!self.paused.read(), 'Paused');
        let job_id = self.last_id.read() + 1;
        self.last_id.write(job_id);
        self.emit(JobSubmitted { job_id, client, payment });
        JobId { value: job_id }
    }

    fn assert_known(self: @ContractState, job_id: JobId) {
        assert(self.created_at.read(job_id.value) != 0, 'Job not found');
    }
}
