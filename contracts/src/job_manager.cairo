// The Job Manager: jobs are registered, assigned, completed and paid on chain,
// once each, whoever sends the transactions and however often.
//
// A client's payment lies here in escrow from submission until the job is paid,
// cancelled or expired. Coordinators move jobs along; the admin appoints them.
//
// Invariants
//
// * `escrow` is the sum of the payments of all jobs that were neither paid out
//   nor refunded, exact to the unit, and the contract holds at least as much.
// * A payment leaves once: to workers, the fee recipient and, for what is left,
//   the payer; or, on cancellation and expiry, whole to the payer.
// * Who did a job, what of its payment is due and where that goes, coordinators
//   say and nobody else: a price below the payment was agreed off chain, so a
//   worker that could complete or distribute by itself would take all of it.
// * Every call of a coordinator may come again. With the same arguments it
//   changes nothing and says nothing; with others it reverts and says which.
// * State is written before any token is called.
// * Ids of coordinators' jobs are their own, 2^64 to 2^128 - 1; all others
//   count up from 1. Nobody else can take an id that a coordinator will use.
//
// Two leaders of a coordinator hold the same key, so no node can tell them
// apart. `assert_epoch` does: as the first call of every transaction it reverts
// all of it once a later leader has raised the epoch.
//
// `settle_job` takes a result from a worker that is not the last one assigned
// here if it is among those paid: after a fail-over an assignment may be sent
// that the log has overtaken, and the log, not the chain, decides who ran a job.
//
// A prove job is kept as a JobSpec: circuit as the output format, hash of the
// private inputs as the input, proof size as the only requirement, public
// inputs as the metadata, no deadline.
//
// Deliberately absent: bids, reputation rules, disputes, upgrades. A new
// version is a new contract.

#[starknet::contract]
mod JobManager {
    use array::{ArrayTrait, SpanTrait};
    use option::OptionTrait;
    use serde::Serde;
    use starknet::{ContractAddress, get_block_timestamp, get_caller_address, get_contract_address};
    use traits::{Into, TryInto};
    use ciro_contracts::interfaces::erc20::{IERC20Dispatcher, IERC20DispatcherTrait};
    use ciro_contracts::interfaces::job_manager::{
        ICoordination, IJobManager, JobDetails, JobId, JobResult, JobSpec, JobState, JobType,
        ModelId, ModelRequirements, ProveJobData, Settings, Share, VerificationMethod, WorkerId,
        WorkerStats
    };
    use ciro_contracts::records::{
        Outcome, Phase, PhasePacking, PhaseTrait, Terms, WorkerRecord, WorkerRecordPacking,
        result_fingerprint, shares_fingerprint, submission_fingerprint
    };

    const GENERATION: felt252 = 'ciro-2';
    const TAG: felt252 = 'ciro.job.v1';
    const FIRST_OWN_ID: u128 = 0x10000000000000000; // 2^64
    const SHARES_MAX: usize = 8;
    // Felts of a stored spec. Beyond this a submission is refused.
    const SPEC_MAX: usize = 256;
    const BPS: u256 = 10000;

    #[storage]
    struct Storage {
        admin: ContractAddress,
        token: ContractAddress,
        fee_recipient: ContractAddress,
        fee_bps: u16,
        min_payment: u256,
        paused: bool,
        escrow: u256,
        last_counted_id: u128,
        coordinators: LegacyMap<ContractAddress, bool>,
        epochs: LegacyMap<ContractAddress, u64>,
        charge_limits: LegacyMap<ContractAddress, u256>,
        worker_addresses: LegacyMap<felt252, ContractAddress>,
        worker_records: LegacyMap<felt252, WorkerRecord>,
        worker_earnings: LegacyMap<felt252, u256>,
        models: LegacyMap<felt252, felt252>,
        phases: LegacyMap<u128, Phase>,
        terms: LegacyMap<u128, Terms>,
        assigned: LegacyMap<u128, felt252>,
        outcomes: LegacyMap<u128, Outcome>,
        spec_lengths: LegacyMap<u128, u32>,
        specs: LegacyMap<(u128, u32), felt252>,
    }

    // ----------------------------------------------------------------- events

    #[event]
    #[derive(Drop, starknet::Event)]
    enum Event {
        JobSubmitted: JobSubmitted,
        JobAssigned: JobAssigned,
        JobCompleted: JobCompleted,
        PaymentReleased: PaymentReleased,
        JobCancelled: JobCancelled,
        JobExpired: JobExpired,
        ModelRegistered: ModelRegistered,
        WorkerRegistered: WorkerRegistered,
        EpochRaised: EpochRaised,
        CoordinatorSet: CoordinatorSet,
        AdminSet: AdminSet,
        ConfigSet: ConfigSet,
        PauseSet: PauseSet,
    }

    #[derive(Drop, starknet::Event)]
    struct JobSubmitted {
        #[key]
        job_id: u256,
        #[key]
        client: ContractAddress,
        payment: u256,
    }

    // `worker` is the worker's id here and in JobCompleted.
    #[derive(Drop, starknet::Event)]
    struct JobAssigned {
        #[key]
        job_id: u256,
        #[key]
        worker: felt252,
    }

    #[derive(Drop, starknet::Event)]
    struct JobCompleted {
        #[key]
        job_id: u256,
        #[key]
        worker: felt252,
    }

    // To a worker's address, the fee taken off.
    #[derive(Drop, starknet::Event)]
    struct PaymentReleased {
        #[key]
        job_id: u256,
        #[key]
        worker: ContractAddress,
        amount: u256,
    }

    #[derive(Drop, starknet::Event)]
    struct JobCancelled {
        #[key]
        job_id: u256,
        #[key]
        payer: ContractAddress,
        refund: u256,
    }

    #[derive(Drop, starknet::Event)]
    struct JobExpired {
        #[key]
        job_id: u256,
        #[key]
        payer: ContractAddress,
        refund: u256,
    }

    #[derive(Drop, starknet::Event)]
    struct ModelRegistered {
        #[key]
        model_id: u256,
        #[key]
        owner: ContractAddress,
    }

    #[derive(Drop, starknet::Event)]
    struct WorkerRegistered {
        #[key]
        worker: felt252,
        #[key]
        address: ContractAddress,
    }

    #[derive(Drop, starknet::Event)]
    struct EpochRaised {
        #[key]
        coordinator: ContractAddress,
        epoch: u64,
    }

    #[derive(Drop, starknet::Event)]
    struct CoordinatorSet {
        #[key]
        coordinator: ContractAddress,
        allowed: bool,
    }

    #[derive(Drop, starknet::Event)]
    struct AdminSet {
        #[key]
        admin: ContractAddress,
    }

    #[derive(Drop, starknet::Event)]
    struct ConfigSet {
        #[key]
        config_key: felt252,
        config_value: felt252,
    }

    #[derive(Drop, starknet::Event)]
    struct PauseSet {
        paused: bool,
    }

    #[constructor]
    fn constructor(
        ref self: ContractState,
        admin: ContractAddress,
        token: ContractAddress,
        fee_recipient: ContractAddress,
        fee_bps: u16,
        min_payment: u256
    ) {
        assert_address(admin);
        assert_address(token);
        self.admin.write(admin);
        self.coordinators.write(admin, true);
        self.token.write(token);
        self.fee_recipient.write(fee_recipient);
        self.fee_bps.write(fee_bps);
        self.min_payment.write(min_payment);
        assert_fee(@self);
    }

    // ---------------------------------------------------- the known interface

    #[external(v0)]
    impl JobManagerImpl of IJobManager<ContractState> {
        fn submit_ai_job(
            ref self: ContractState, job_spec: JobSpec, payment: u256, client: ContractAddress
        ) -> JobId {
            assert_running(@self);
            let caller = get_caller_address();
            let fingerprint = submission_fingerprint(@job_spec, payment, client);
            let own_id = own_id(@self, caller, job_spec.metadata.span());
            match own_id {
                Option::Some(id) => {
                    if self.phases.read(id).known() {
                        assert(self.terms.read(id).fingerprint == fingerprint, 'SPEC_MISMATCH');
                        return job_id_of(id);
                    }
                },
                Option::None => {},
            };
            assert(payment >= self.min_payment.read(), 'PAYMENT_TOO_LOW');
            assert(job_spec.sla_deadline > get_block_timestamp(), 'DEADLINE_PAST');
            assert(job_spec.max_reward != 0, 'NO_REWARD');
            submit(ref self, own_id, caller, job_spec, payment, client, fingerprint)
        }

        fn submit_prove_job(
            ref self: ContractState,
            prove_job_data: ProveJobData,
            payment: u256,
            client: ContractAddress
        ) -> JobId {
            assert_running(@self);
            assert(payment >= self.min_payment.read(), 'PAYMENT_TOO_LOW');
            let spec = spec_of_proof(prove_job_data, payment);
            let fingerprint = submission_fingerprint(@spec, payment, client);
            let caller = get_caller_address();
            submit(ref self, Option::None, caller, spec, payment, client, fingerprint)
        }

        fn assign_job_to_worker(ref self: ContractState, job_id: JobId, worker_id: WorkerId) {
            assert_coordinator(@self);
            assert_running(@self);
            assert(worker_id.value != 0, 'BAD_WORKER');
            let (id, mut phase) = known_job(@self, job_id);
            assert(phase.open(), 'JOB_ENDED');
            if self.assigned.read(id) == worker_id.value {
                return;
            }
            phase.state = JobState::Processing;
            phase.assigned_at = get_block_timestamp();
            self.phases.write(id, phase);
            self.assigned.write(id, worker_id.value);
            self.emit(JobAssigned { job_id: job_id.value, worker: worker_id.value });
        }

        fn submit_job_result(ref self: ContractState, job_id: JobId, result: JobResult) {
            assert_coordinator(@self);
            assert_running(@self);
            assert(result.job_id == job_id, 'JOB_ID_MISMATCH');
            let (id, phase) = known_job(@self, job_id);
            complete(ref self, id, phase, @result, ArrayTrait::new().span());
        }

        fn distribute_rewards(ref self: ContractState, job_id: JobId) {
            assert_coordinator(@self);
            assert_running(@self);
            let (id, phase) = known_job(@self, job_id);
            assert(!phase.refunded(), 'JOB_ENDED');
            assert(phase.state == JobState::Completed, 'NOT_COMPLETED');
            if self.outcomes.read(id).shares != 0 {
                return;
            }
            let worker = WorkerId { value: self.assigned.read(id) };
            let mut shares = ArrayTrait::new();
            shares.append(Share { worker, amount: self.terms.read(id).payment });
            pay(ref self, id, shares);
        }

        fn register_model(
            ref self: ContractState,
            model_hash: felt252,
            requirements: ModelRequirements,
            pricing: u256
        ) -> ModelId {
            assert_admin(@self);
            let mut felts = ArrayTrait::new();
            requirements.serialize(ref felts);
            pricing.serialize(ref felts);
            let fingerprint = poseidon::poseidon_hash_span(felts.span());
            let before = self.models.read(model_hash);
            assert(before == 0 || before == fingerprint, 'MODEL_MISMATCH');
            let model_id = ModelId { value: model_hash.into() };
            if before == 0 {
                self.models.write(model_hash, fingerprint);
                let owner = get_caller_address();
                self.emit(ModelRegistered { model_id: model_id.value, owner });
            }
            model_id
        }

        fn get_job_details(self: @ContractState, job_id: JobId) -> JobDetails {
            let (id, phase) = known_job(self, job_id);
            details_of(self, id, phase)
        }

        fn get_job_state(self: @ContractState, job_id: JobId) -> JobState {
            let (_id, phase) = known_job(self, job_id);
            phase.state
        }

        fn get_worker_stats(self: @ContractState, worker_id: WorkerId) -> WorkerStats {
            stats_of(
                self.worker_records.read(worker_id.value),
                self.worker_earnings.read(worker_id.value)
            )
        }

        fn update_config(ref self: ContractState, config_key: felt252, config_value: felt252) {
            assert_admin(@self);
            if config_key == 'fee_bps' {
                self.fee_bps.write(config_value.try_into().expect('BAD_CONFIG'));
            } else if config_key == 'fee_recipient' {
                self.fee_recipient.write(config_value.try_into().expect('BAD_CONFIG'));
            } else {
                assert(config_key == 'min_payment', 'BAD_CONFIG');
                self.min_payment.write(config_value.into());
            }
            assert_fee(@self);
            self.emit(ConfigSet { config_key, config_value });
        }

        fn pause(ref self: ContractState) {
            set_paused(ref self, true);
        }

        fn unpause(ref self: ContractState) {
            set_paused(ref self, false);
        }

        fn emergency_withdraw(ref self: ContractState, token: ContractAddress, amount: u256) {
            assert_admin(@self);
            assert(self.paused.read(), 'NOT_PAUSED');
            let balance = IERC20Dispatcher {
                contract_address: token
            }.balance_of(get_contract_address());
            assert(amount <= balance, 'BALANCE_TOO_LOW');
            if token == self.token.read() {
                assert(balance - amount >= self.escrow.read(), 'ESCROW_LOCKED');
            }
            send(token, self.admin.read(), amount);
        }
    }

    // ---------------------------------------------------------------- our own

    #[external(v0)]
    impl CoordinationImpl of ICoordination<ContractState> {
        fn assert_epoch(ref self: ContractState, epoch: u64) {
            assert_coordinator(@self);
            let coordinator = get_caller_address();
            let stored = self.epochs.read(coordinator);
            assert(epoch >= stored, 'STALE_EPOCH');
            if epoch > stored {
                self.epochs.write(coordinator, epoch);
                self.emit(EpochRaised { coordinator, epoch });
            }
        }

        fn register_worker(
            ref self: ContractState, worker_id: WorkerId, address: ContractAddress
        ) {
            assert_coordinator(@self);
            assert(worker_id.value != 0, 'BAD_WORKER');
            assert_address(address);
            if self.worker_addresses.read(worker_id.value) != address {
                self.worker_addresses.write(worker_id.value, address);
                self.emit(WorkerRegistered { worker: worker_id.value, address });
            }
        }

        fn settle_job(
            ref self: ContractState, job_id: JobId, result: JobResult, shares: Array<Share>
        ) {
            assert_coordinator(@self);
            assert_running(@self);
            assert(result.job_id == job_id, 'JOB_ID_MISMATCH');
            assert(shares.len() <= SHARES_MAX, 'TOO_MANY_SHARES');
            let (id, phase) = known_job(@self, job_id);
            complete(ref self, id, phase, @result, shares.span());
            pay(ref self, id, shares);
        }

        fn cancel_job(ref self: ContractState, job_id: JobId) {
            let (id, phase) = known_job(@self, job_id);
            let terms = self.terms.read(id);
            let caller = get_caller_address();
            let theirs = caller == terms.client || caller == terms.payer;
            let may_always = self.coordinators.read(caller);
            assert(theirs || may_always, 'NOT_COORDINATOR');
            if phase.state == JobState::Cancelled {
                return;
            }
            assert(phase.open(), 'JOB_ENDED');
            if !theirs || phase.state != JobState::Queued {
                assert(may_always, 'NOT_QUEUED');
                assert_running(@self);
            }
            end(ref self, id, phase, JobState::Cancelled);
            self
                .emit(
                    JobCancelled {
                        job_id: job_id.value, payer: terms.payer, refund: terms.payment
                    }
                );
            send(self.token.read(), terms.payer, terms.payment);
        }

        fn expire_job(ref self: ContractState, job_id: JobId) {
            let (id, phase) = known_job(@self, job_id);
            if phase.state == JobState::Failed {
                return;
            }
            assert(phase.open(), 'JOB_ENDED');
            let past = phase.deadline != 0 && get_block_timestamp() > phase.deadline;
            assert(past, 'NOT_EXPIRED');
            if phase.state == JobState::Processing {
                count_expired(ref self, self.assigned.read(id));
            }
            let terms = self.terms.read(id);
            end(ref self, id, phase, JobState::Failed);
            self
                .emit(
                    JobExpired {
                        job_id: job_id.value, payer: terms.payer, refund: terms.payment
                    }
                );
            send(self.token.read(), terms.payer, terms.payment);
        }

        fn set_charge_limit(ref self: ContractState, limit: u256) {
            self.charge_limits.write(get_caller_address(), limit);
        }

        fn set_coordinator(
            ref self: ContractState, coordinator: ContractAddress, allowed: bool
        ) {
            assert_admin(@self);
            assert_address(coordinator);
            self.coordinators.write(coordinator, allowed);
            self.emit(CoordinatorSet { coordinator, allowed });
        }

        fn set_admin(ref self: ContractState, admin: ContractAddress) {
            assert_admin(@self);
            assert_address(admin);
            self.admin.write(admin);
            self.emit(AdminSet { admin });
        }

        fn get_epoch(self: @ContractState, coordinator: ContractAddress) -> u64 {
            self.epochs.read(coordinator)
        }

        fn get_charge_limit(self: @ContractState, client: ContractAddress) -> u256 {
            self.charge_limits.read(client)
        }

        fn get_job_details_many(
            self: @ContractState, job_ids: Array<JobId>
        ) -> Array<JobDetails> {
            let mut ids = job_ids.span();
            let mut found = ArrayTrait::new();
            loop {
                match ids.pop_front() {
                    Option::Some(job_id) => found.append(details_or_nothing(self, *job_id)),
                    Option::None => {
                        break ();
                    },
                };
            };
            found
        }

        fn get_job_spec(self: @ContractState, job_id: JobId) -> JobSpec {
            let (id, _phase) = known_job(self, job_id);
            let length = self.spec_lengths.read(id);
            assert(length != 0, 'NO_SPEC');
            let mut felts = ArrayTrait::new();
            let mut at = 0;
            loop {
                if at == length {
                    break ();
                }
                felts.append(self.specs.read((id, at)));
                at += 1;
            };
            let mut felts = felts.span();
            Serde::deserialize(ref felts).unwrap()
        }

        fn get_paid(self: @ContractState, job_id: JobId) -> u256 {
            let (id, _phase) = known_job(self, job_id);
            self.outcomes.read(id).paid
        }

        fn get_generation(self: @ContractState) -> felt252 {
            GENERATION
        }

        fn get_settings(self: @ContractState) -> Settings {
            Settings {
                token: self.token.read(),
                fee_recipient: self.fee_recipient.read(),
                fee_bps: self.fee_bps.read(),
                min_payment: self.min_payment.read(),
                paused: self.paused.read(),
            }
        }

        fn get_admin(self: @ContractState) -> ContractAddress {
            self.admin.read()
        }

        fn is_coordinator(self: @ContractState, address: ContractAddress) -> bool {
            self.coordinators.read(address)
        }

        fn get_worker_address(self: @ContractState, worker_id: WorkerId) -> ContractAddress {
            self.worker_addresses.read(worker_id.value)
        }

        fn total_escrow(self: @ContractState) -> u256 {
            self.escrow.read()
        }
    }

    // ----------------------------------------------------------- who may what

    fn assert_admin(self: @ContractState) {
        assert(get_caller_address() == self.admin.read(), 'NOT_ADMIN');
    }

    fn assert_coordinator(self: @ContractState) {
        assert(self.coordinators.read(get_caller_address()), 'NOT_COORDINATOR');
    }

    fn assert_running(self: @ContractState) {
        assert(!self.paused.read(), 'PAUSED');
    }

    fn set_paused(ref self: ContractState, paused: bool) {
        assert_admin(@self);
        if self.paused.read() != paused {
            self.paused.write(paused);
            self.emit(PauseSet { paused });
        }
    }

    fn assert_fee(self: @ContractState) {
        let bps = self.fee_bps.read();
        assert(bps <= 10000, 'BAD_CONFIG');
        assert(bps == 0 || !is_zero(self.fee_recipient.read()), 'BAD_CONFIG');
    }

    fn assert_address(address: ContractAddress) {
        assert(!is_zero(address), 'BAD_ADDRESS');
    }

    fn is_zero(address: ContractAddress) -> bool {
        address.into() == 0
    }

    // -------------------------------------------------------------- submission

    // The id a coordinator chose for its job, if it did. A tag in a job of
    // anybody else means nothing.
    fn own_id(
        self: @ContractState, caller: ContractAddress, metadata: Span<felt252>
    ) -> Option<u128> {
        if metadata.len() == 0 || *metadata.at(0) != TAG || !self.coordinators.read(caller) {
            return Option::None;
        }
        assert(metadata.len() >= 2, 'BAD_JOB_ID');
        let id: u128 = (*metadata.at(1)).try_into().expect('BAD_JOB_ID');
        assert(id >= FIRST_OWN_ID, 'BAD_JOB_ID');
        Option::Some(id)
    }

    fn next_id(ref self: ContractState) -> u128 {
        let id = self.last_counted_id.read() + 1;
        assert(id < FIRST_OWN_ID, 'IDS_EXHAUSTED');
        self.last_counted_id.write(id);
        id
    }

    fn submit(
        ref self: ContractState,
        own_id: Option<u128>,
        caller: ContractAddress,
        spec: JobSpec,
        payment: u256,
        client: ContractAddress,
        fingerprint: felt252
    ) -> JobId {
        let id = match own_id {
            Option::Some(id) => id,
            Option::None => next_id(ref self),
        };
        if !self.coordinators.read(caller) {
            assert(client == caller, 'NOT_CLIENT');
            keep_spec(ref self, id, @spec);
        }
        let payer = charge(ref self, caller, client, payment);
        self.phases.write(id, first_phase(@spec));
        self.terms.write(id, Terms { client, payer, payment, fingerprint });
        self.escrow.write(self.escrow.read() + payment);
        let job_id = job_id_of(id);
        self.emit(JobSubmitted { job_id: job_id.value, client, payment });
        collect(self.token.read(), payer, payment);
        job_id
    }

    // Who pays: the client as far as it allowed that, else who submits.
    fn charge(
        ref self: ContractState, caller: ContractAddress, client: ContractAddress, payment: u256
    ) -> ContractAddress {
        if !self.coordinators.read(caller) {
            return caller;
        }
        let limit = self.charge_limits.read(client);
        if payment > limit {
            return caller;
        }
        self.charge_limits.write(client, limit - payment);
        client
    }

    fn first_phase(spec: @JobSpec) -> Phase {
        Phase {
            state: JobState::Queued,
            job_type: *spec.job_type,
            created_at: get_block_timestamp(),
            assigned_at: 0,
            completed_at: 0,
            deadline: *spec.sla_deadline,
        }
    }

    fn keep_spec(ref self: ContractState, id: u128, spec: @JobSpec) {
        let mut felts = ArrayTrait::new();
        spec.serialize(ref felts);
        assert(felts.len() <= SPEC_MAX, 'SPEC_TOO_LONG');
        self.spec_lengths.write(id, felts.len());
        let mut felts = felts.span();
        let mut at = 0;
        loop {
            match felts.pop_front() {
                Option::Some(felt) => self.specs.write((id, at), *felt),
                Option::None => {
                    break ();
                },
            };
            at += 1;
        };
    }

    fn spec_of_proof(data: ProveJobData, payment: u256) -> JobSpec {
        let mut compute_requirements = ArrayTrait::new();
        compute_requirements.append(data.expected_proof_size.into());
        JobSpec {
            job_type: JobType::ProofGeneration,
            model_id: ModelId { value: 0 },
            input_data_hash: data.private_inputs_hash,
            expected_output_format: data.circuit_id,
            verification_method: VerificationMethod::ZeroKnowledgeProof,
            max_reward: payment,
            sla_deadline: 0,
            compute_requirements,
            metadata: data.public_inputs,
        }
    }

    // ----------------------------------------------------- completion, payment

    // Processing (or, with shares, Queued) to Completed. Changes nothing if
    // this very result is there already.
    fn complete(
        ref self: ContractState, id: u128, phase: Phase, result: @JobResult, shares: Span<Share>
    ) {
        assert(!phase.refunded(), 'JOB_ENDED');
        let mut outcome = self.outcomes.read(id);
        let fingerprint = result_fingerprint(result);
        if phase.state == JobState::Completed {
            assert(outcome.result == fingerprint, 'RESULT_MISMATCH');
            return;
        }
        let worker = *result.worker_id.value;
        let theirs = worker == self.assigned.read(id) || has_share(shares, worker);
        assert(worker != 0 && theirs, 'WRONG_WORKER');
        outcome.result_hash = *result.output_data_hash;
        outcome.result = fingerprint;
        self.outcomes.write(id, outcome);
        self.assigned.write(id, worker);
        finish(ref self, id, phase, worker);
    }

    fn finish(ref self: ContractState, id: u128, mut phase: Phase, worker: felt252) {
        let now = get_block_timestamp();
        let since = if phase.assigned_at == 0 {
            phase.created_at
        } else {
            phase.assigned_at
        };
        phase.state = JobState::Completed;
        phase.completed_at = now;
        self.phases.write(id, phase);
        let mut record = self.worker_records.read(worker);
        record.completed += 1;
        record.seconds += now - since;
        self.worker_records.write(worker, record);
        self.emit(JobCompleted { job_id: job_id_of(id).value, worker });
    }

    fn has_share(mut shares: Span<Share>, worker: felt252) -> bool {
        loop {
            match shares.pop_front() {
                Option::Some(share) => {
                    if *share.worker.value == worker {
                        break true;
                    }
                },
                Option::None => {
                    break false;
                },
            };
        }
    }

    // Once: shares to workers less the fee, the fee, the rest to the payer.
    fn pay(ref self: ContractState, id: u128, shares: Array<Share>) {
        let terms = self.terms.read(id);
        let mut outcome = self.outcomes.read(id);
        let fingerprint = shares_fingerprint(@shares);
        if outcome.shares != 0 {
            assert(outcome.shares == fingerprint, 'SHARES_MISMATCH');
            return;
        }
        outcome.shares = fingerprint;
        outcome.paid = sum_of(shares.span(), terms.payment);
        self.outcomes.write(id, outcome);
        self.escrow.write(self.escrow.read() - terms.payment);
        let (mut payouts, fees) = credit(ref self, id, shares.span());
        payouts.append((self.fee_recipient.read(), fees));
        payouts.append((terms.payer, terms.payment - outcome.paid));
        send_all(self.token.read(), payouts.span());
    }

    fn sum_of(mut shares: Span<Share>, payment: u256) -> u256 {
        let mut left = payment;
        loop {
            match shares.pop_front() {
                Option::Some(share) => {
                    assert(*share.amount <= left, 'SHARES_TOO_HIGH');
                    left -= *share.amount;
                },
                Option::None => {
                    break ();
                },
            };
        };
        payment - left
    }

    // Books every share and returns what is to be sent to whom, and the fees.
    fn credit(
        ref self: ContractState, id: u128, mut shares: Span<Share>
    ) -> (Array<(ContractAddress, u256)>, u256) {
        let bps = self.fee_bps.read();
        let mut payouts = ArrayTrait::new();
        let mut fees = 0;
        loop {
            match shares.pop_front() {
                Option::Some(share) => {
                    let fee = fee_of(*share.amount, bps);
                    fees += fee;
                    credit_one(ref self, id, *share.worker.value, *share.amount - fee, ref payouts);
                },
                Option::None => {
                    break ();
                },
            };
        };
        (payouts, fees)
    }

    fn credit_one(
        ref self: ContractState,
        id: u128,
        worker: felt252,
        amount: u256,
        ref payouts: Array<(ContractAddress, u256)>
    ) {
        if amount == 0 {
            return;
        }
        let address = self.worker_addresses.read(worker);
        assert(!is_zero(address), 'WORKER_UNKNOWN');
        self.worker_earnings.write(worker, self.worker_earnings.read(worker) + amount);
        self.emit(PaymentReleased { job_id: job_id_of(id).value, worker: address, amount });
        payouts.append((address, amount));
    }

    // Rounded down; no product here exceeds a u256.
    fn fee_of(amount: u256, bps: u16) -> u256 {
        let felt: felt252 = bps.into();
        let bps: u256 = felt.into();
        (amount / BPS) * bps + (amount % BPS) * bps / BPS
    }

    // Ends an open job without a result. The caller then sends the refund.
    fn end(ref self: ContractState, id: u128, mut phase: Phase, state: JobState) {
        phase.state = state;
        self.phases.write(id, phase);
        self.escrow.write(self.escrow.read() - self.terms.read(id).payment);
    }

    fn count_expired(ref self: ContractState, worker: felt252) {
        let mut record = self.worker_records.read(worker);
        record.expired += 1;
        self.worker_records.write(worker, record);
    }

    // --------------------------------------------------------------- the token

    fn collect(token: ContractAddress, payer: ContractAddress, amount: u256) {
        if amount == 0 {
            return;
        }
        let token = IERC20Dispatcher { contract_address: token };
        let taken = token.transfer_from(payer, get_contract_address(), amount);
        assert(taken, 'TOKEN_REFUSED');
    }

    fn send(token: ContractAddress, recipient: ContractAddress, amount: u256) {
        if amount == 0 {
            return;
        }
        let sent = IERC20Dispatcher { contract_address: token }.transfer(recipient, amount);
        assert(sent, 'TOKEN_REFUSED');
    }

    fn send_all(token: ContractAddress, mut payouts: Span<(ContractAddress, u256)>) {
        loop {
            match payouts.pop_front() {
                Option::Some(payout) => {
                    let (recipient, amount) = *payout;
                    send(token, recipient, amount);
                },
                Option::None => {
                    break ();
                },
            };
        };
    }

    // ----------------------------------------------------------------- reading

    fn job_id_of(id: u128) -> JobId {
        JobId { value: u256 { low: id, high: 0 } }
    }

    fn known_job(self: @ContractState, job_id: JobId) -> (u128, Phase) {
        assert(job_id.value.high == 0, 'NO_SUCH_JOB');
        let phase = self.phases.read(job_id.value.low);
        assert(phase.known(), 'NO_SUCH_JOB');
        (job_id.value.low, phase)
    }

    fn details_of(self: @ContractState, id: u128, phase: Phase) -> JobDetails {
        let terms = self.terms.read(id);
        JobDetails {
            job_id: job_id_of(id),
            job_type: phase.job_type,
            client: terms.client,
            worker: self.worker_addresses.read(self.assigned.read(id)),
            state: phase.state,
            payment_amount: terms.payment,
            created_at: phase.created_at,
            assigned_at: phase.assigned_at,
            completed_at: phase.completed_at,
            result_hash: self.outcomes.read(id).result_hash,
        }
    }

    // An id nobody used: Queued, created_at 0.
    fn details_or_nothing(self: @ContractState, job_id: JobId) -> JobDetails {
        let id = job_id.value.low;
        let mut details = if job_id.value.high == 0 {
            details_of(self, id, self.phases.read(id))
        } else {
            details_of(self, 0, self.phases.read(0))
        };
        details.job_id = job_id;
        details
    }

    fn stats_of(record: WorkerRecord, total_earnings: u256) -> WorkerStats {
        let ended = record.completed + record.expired;
        let mut stats = WorkerStats {
            total_jobs_completed: record.completed,
            success_rate: 0,
            average_completion_time: 0,
            reputation_score: 0,
            total_earnings,
        };
        if ended != 0 {
            let rate: felt252 = (record.completed * 100 / ended).into();
            stats.success_rate = rate.try_into().unwrap();
        }
        if record.completed != 0 {
            stats.average_completion_time = record.seconds / record.completed;
        }
        if record.completed > record.expired {
            let score: felt252 = (record.completed - record.expired).into();
            stats.reputation_score = score.into();
        }
        stats
    }
}
