//! A state that things happen to, and short names for them.

use crate::chain::Generation;
use crate::domain::apply::Position;
use crate::domain::chain::{
    Act, Block, Bounds, Confirmation, Felt, Item, Landed, Policy, Site, Stage, Terms, Transaction,
};
use crate::domain::command::{Complete, Fail, Record, Submit};
use crate::domain::job::{JobSpec, Retry, Source};
use crate::domain::journal::Sink;
use crate::domain::worker::{Capabilities, Location};
use crate::domain::{Command, Digest, JobId, PeerId, Price, State, Timestamp, WorkerId, sample};
use crate::leader::settle::items::Place;
use crate::leader::settle::plan::{Plan, Room};

/// 2025-11-24T16:00:00Z, and a millisecond more for each record of the log.
pub const START: u64 = 1_764_000_000_000;

pub const ROOMY: Room = Room { calls: 150, felts: 4_500, gas: u64::MAX, escrow: u128::MAX };

pub fn place() -> Place {
    Place {
        contract: Felt::from(0xc0u64),
        account: Felt::from(0xaau64),
        generation: Generation::Full,
        purse: u128::MAX,
    }
}

pub fn site() -> Site {
    Site { chain_id: Felt::short(b"SN_TEST").unwrap(), contract: place().contract, account: place().account }
}

pub struct World {
    pub state: State,
    nonce: u64,
}

impl World {
    /// With books that a first leader began.
    pub fn new() -> Self {
        let mut world = Self { state: State::default(), nonce: 0 };
        world.act(Act::Claim { site: site(), least: 1 });
        world
    }

    pub fn after(commands: impl IntoIterator<Item = Command>) -> Self {
        let mut world = Self::new();
        commands.into_iter().for_each(|command| world.apply(command));
        world
    }

    /// One record of the log; the command must be accepted.
    pub fn apply(&mut self, command: Command) {
        let position = Position { index: self.state.applied() + 1, term: 1 };
        let record = Record { at: Timestamp(START + position.index), commands: vec![command] };
        self.state.apply(position, &record).remove(0).unwrap();
    }

    pub fn act(&mut self, act: Act) {
        self.apply(Command::Chain(act));
    }

    /// What follows the cursor, in one plan.
    pub fn plan(&self, room: Room) -> Plan {
        self.plan_at(&place(), room)
    }

    pub fn plan_at(&self, place: &Place, room: Room) -> Plan {
        let mut plan = Plan::after(self.state.journal().cursor(Sink::Chain).unwrap());
        while plan.extend(&self.state, place, room) {}
        plan
    }

    pub fn again(&self) -> Plan {
        self.again_at(&place(), ROOMY)
    }

    pub fn again_at(&self, place: &Place, room: Room) -> Plan {
        Plan::again(&self.state, place, room, &Default::default())
    }

    /// Puts a plan into the log as the next transaction. Its nonce.
    pub fn prepare(&mut self, plan: &Plan) -> u64 {
        let nonce = self.nonce;
        self.nonce += 1;
        let (epoch, items) = (self.state.chain().epoch(), plan.items.clone());
        let hash = Felt::from(1_000 + nonce);
        let transaction = Transaction { nonce, hash, epoch, lead: vec![], items, bounds: Bounds::default() };
        self.act(Act::Prepare { transaction: Box::new(transaction), through: plan.through });
        nonce
    }

    pub fn land(&mut self, nonce: u64, reverted: Option<&str>) {
        let block = Some(Block { number: nonce, hash: Felt::from(nonce) });
        let hash = Felt::from(1_000 + nonce);
        let reverted = reverted.map(Into::into);
        let landed = Landed { hash, block, confirmation: Confirmation::AcceptedL2, fee: 1, reverted, ids: vec![] };
        self.act(Act::Landed { nonce, landed: Box::new(landed) });
    }

    /// Plans all that follows, and has it land.
    pub fn settle(&mut self) {
        let plan = self.plan(ROOMY);
        assert!(plan.parked.is_empty() && !plan.items.is_empty());
        let nonce = self.prepare(&plan);
        self.land(nonce, None);
    }

    pub fn park(&mut self, plan: &Plan) {
        self.act(Act::Park { parked: plan.parked.clone(), through: plan.through });
    }
}

/// `seq stage job`, calls.
pub fn shown(items: &[Item]) -> Vec<String> {
    let named = |item: &Item| {
        let job = (1..100).find(|n| job(*n) == item.job).unwrap();
        format!("{} {} j{job} {}", item.seq, item.stage.as_str(), item.calls.len())
    };
    items.iter().map(named).collect()
}

pub fn stages(plan: &Plan) -> Vec<Stage> {
    plan.items.iter().map(|item| item.stage).collect()
}

pub fn job(n: u64) -> JobId {
    JobId::from_key("test", &n.to_string())
}

pub fn worker(n: u8) -> WorkerId {
    PeerId([n; 32])
}

/// Where worker `n` is paid.
pub fn address(n: u8) -> Felt {
    Felt::from(0xadd_0000 + u64::from(n))
}

pub fn terms(policy: Policy) -> Option<Terms> {
    Some(Terms { policy, confirmation: Confirmation::AcceptedL2 })
}

pub fn spec(settlement: Option<Terms>) -> JobSpec {
    JobSpec {
        max_price: Some(Price(100)),
        retry: Retry { max_attempts: 1, ..Retry::default() }.into(),
        settlement,
        ..sample::spec()
    }
}

pub fn submit_as(n: u64, spec: JobSpec, source: Source) -> Command {
    let fingerprint = Digest::of(&n.to_be_bytes());
    Command::Submit(Box::new(Submit { id: job(n), spec, payload: Some(b"in".to_vec()), fingerprint, source }))
}

/// One that takes so much into escrow, under this policy.
pub fn submit_for(n: u64, price: u128, policy: Policy) -> Command {
    submit_as(n, JobSpec { max_price: Some(Price(price)), ..spec(terms(policy)) }, Source::Api)
}

/// A job that is settled later.
pub fn submit(n: u64) -> Command {
    submit_as(n, spec(terms(Policy::SettleLater)), Source::Api)
}

/// One that is not settled at all.
pub fn unsettled(n: u64) -> Command {
    submit_as(n, spec(None), Source::Api)
}

/// A worker that has said where it is paid, if it has.
pub fn register(n: u8, payout_address: Option<Felt>) -> Command {
    let capabilities = Capabilities {
        cpu_cores: 4,
        max_parallel_jobs: 100,
        job_types: vec!["sha256".to_owned()],
        input_schemes: vec!["https".to_owned()],
        payout_address,
        ..Capabilities::default()
    };
    let (location, version) = (Location::default(), "1.0.0".to_owned());
    Command::RegisterWorker { worker: worker(n), capabilities: Box::new(capabilities), location, version }
}

pub fn assign(n: u64, attempt: u32, to: u8) -> Command {
    let (job, worker) = (job(n), worker(to));
    Command::Assign { job, attempt, worker, price: Price(70), lease_ms: 60_000, evidence: None }
}

pub fn complete(n: u64, attempt: u32, by: u8) -> Command {
    Command::Complete(Box::new(Complete {
        job: job(n),
        attempt,
        worker: worker(by),
        output: b"out".to_vec(),
        kept_size: 0,
        output_sha256: Digest::of(b"out"),
        exit_code: 0,
        duration_ms: 12,
        signature: vec![7; 64],
    }))
}

pub fn fail(n: u64, attempt: u32, by: u8) -> Command {
    let (code, detail) = ("broken".to_owned(), "it did not work".to_owned());
    Command::Fail(Box::new(Fail { job: job(n), attempt, worker: worker(by), code, detail, retryable: false }))
}

pub fn cancel(n: u64) -> Command {
    Command::Cancel { job: job(n), reason: String::new() }
}

/// All of a job's life, by a worker.
pub fn life(n: u64, by: u8) -> [Command; 3] {
    [submit(n), assign(n, 1, by), complete(n, 1, by)]
}
