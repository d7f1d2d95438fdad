//! A log of one node, and a chain of its own: the duty's whole world.

use std::time::Duration;

use serde_json::json;

use super::fixture::{address, life, register};
use crate::chain::devnet::Devnet;
use crate::chain::{Details, Handle, Options as ChainOptions, calls};
use crate::clock;
use crate::consensus::Raft;
use crate::domain::chain::{Act, Bounds, Call, Felt, Item, Ledger, Transaction, U256};
use crate::domain::journal::Sink;
use crate::domain::{Command, JobId, State};
use crate::leader::settle::run;
use crate::leader::{Reign, lone};

/// Anything these tests wait for takes less, on a machine shared with compilers too.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A leader without duties, and a chain with our contract.
pub struct Bench {
    pub reign: Reign,
    pub chain: Handle,
    pub devnet: Devnet,
    pub token: Felt,
    _raft: Raft,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(&[], |_| {}).await
    }

    /// With further arguments of the node, and settings.
    pub async fn with(arguments: &[&str], set: impl FnOnce(&mut ChainOptions)) -> Self {
        let devnet = Devnet::start(arguments).await;
        let mut site = devnet.deploy().await;
        set(&mut site.options);
        let chain = Handle::start(site.options, &devnet.tasks).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (mut reign, raft) = lone::start(dir.path(), &devnet.tasks).await;
        reign.context.chain = Some(chain.clone());
        let token = site.deployed.token;
        Self { reign, chain, devnet, token, _raft: raft, _dir: dir }
    }

    /// A leader that was deposed and does not know: nothing it says is committed.
    pub fn deposed(&self) -> Reign {
        Reign { number: self.reign.number + 1, context: self.reign.context.clone() }
    }

    pub async fn submit(&self, commands: Vec<Command>) {
        let client = &self.reign.context.client;
        for reply in client.submit_many(commands, LIMIT).await.unwrap().replies {
            reply.unwrap();
        }
    }

    pub async fn act(&self, act: Act) {
        self.submit(vec![Command::Chain(act)]).await;
    }

    /// Worker 1, and jobs that it has run.
    pub async fn lives(&self, jobs: std::ops::Range<u64>) {
        let begin = register(1, Some(address(1)));
        self.submit(std::iter::once(begin).chain(jobs.flat_map(|n| life(n, 1))).collect()).await;
    }

    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.reign.context.client.read(look)
    }

    pub fn books<R>(&self, look: impl FnOnce(&Ledger) -> R) -> R {
        self.read(|state| look(state.chain()))
    }

    /// Nothing is left to do.
    pub fn is_settled(&self) -> bool {
        self.read(|state| {
            let chain = state.chain();
            let planned = state.journal().cursor(Sink::Chain) == Some(state.journal().last_seq());
            planned && chain.waiting().next().is_none() && chain.again_len() == 0
        })
    }

    /// Runs the duty until `done`, then ends it where it is.
    pub async fn run_until(&self, what: &str, done: impl AsyncFnMut() -> bool) {
        self.run_as(&self.reign, what, done).await;
    }

    pub async fn run_as(&self, reign: &Reign, what: &str, done: impl AsyncFnMut() -> bool) {
        let late = tokio::time::sleep(LIMIT - Duration::from_secs(1));
        tokio::select! {
            () = run(reign.clone()) => panic!("the duty ended"),
            () = crate::leader::follow::run(reign.clone()) => panic!("the duty ended"),
            () = late => panic!("waited too long for {what}: {:?}, {}", self.chain.view(), self.shown()),
            () = until(what, done) => {}
        }
    }

    pub async fn run_until_settled(&self) {
        self.run_until("settlement", async || self.is_settled()).await;
    }

    fn shown(&self) -> String {
        self.books(|chain| {
            let lane: Vec<_> = chain.lane().map(|(nonce, slot)| (nonce, slot.landed.clone())).collect();
            let again: Vec<_> = chain.again().map(|again| (again.item.seq, again.reason.clone())).collect();
            let parked: Vec<_> =
                chain.parked_after(None).map(|parked| (parked.item.seq, parked.code.clone())).collect();
            format!("lane {lane:?}, again {again:?}, parked {parked:?}, {:?}", chain.totals())
        })
    }

    // ------------------------------------------------------------ beside the duty

    /// Calls, as the account sends them by hand.
    pub async fn send(&self, epoch: Option<u64>, calls: Vec<Call>) -> Transaction {
        let nonce = self.chain.nonce().await.unwrap();
        let lead: Vec<Call> = epoch
            .map(|epoch| calls::assert_epoch(self.chain.options().contract, epoch))
            .into_iter()
            .chain(calls)
            .collect();
        let bounds = self.chain.estimate(nonce, &[], &[]).await.unwrap().bounds;
        let roomy = Bounds { l2_gas: bounds.l2_gas * 50, l1_data_gas: bounds.l1_data_gas * 50 + 10_000, ..bounds };
        let transaction = self.chain.transaction(nonce, epoch.unwrap_or(0), lead, vec![], roomy).unwrap();
        self.chain.send(&transaction).await.unwrap();
        transaction
    }

    /// Commits a transaction of these items, as a leader does before it sends it.
    pub async fn prepare(&self, items: Vec<Item>, through: u64) -> Transaction {
        self.prepare_with(items, through, |_| {}).await
    }

    pub async fn prepare_with(&self, items: Vec<Item>, through: u64, bound: impl FnOnce(&mut Bounds)) -> Transaction {
        let (nonce, epoch) = (self.chain.nonce().await.unwrap(), self.books(Ledger::epoch));
        let lead = vec![calls::assert_epoch(self.chain.options().contract, epoch)];
        let mut bounds = self.chain.estimate(nonce, &lead, &items).await.unwrap().bounds;
        bound(&mut bounds);
        let transaction = self.chain.transaction(nonce, epoch, lead, items, bounds).unwrap();
        self.act(Act::Prepare { transaction: Box::new(transaction.clone()), through }).await;
        transaction
    }

    pub async fn devnet(&self, method: &str, params: serde_json::Value) -> serde_json::Value {
        self.devnet.ask(method, params).await
    }

    pub async fn mint(&self, to: Felt, amount: u128) {
        let amount = u64::try_from(amount).unwrap();
        self.devnet("devnet_mint", json!({"address": to.to_string(), "amount": amount, "unit": "FRI"})).await;
    }

    pub async fn details(&self, jobs: &[JobId]) -> Vec<Details> {
        let ids: Vec<U256> = jobs.iter().map(|job| U256::of(*job)).collect();
        self.chain.details(&ids).await.unwrap()
    }

    /// Of the payment token.
    pub async fn balance(&self, of: Felt) -> u128 {
        self.chain.balance(self.token, of).await.unwrap().low
    }

    /// Events of our jobs by name: each is to happen once for each job.
    pub async fn count(&self, name: &str) -> usize {
        let head = self.chain.head().await.unwrap();
        let events = self.chain.events(0, head.number).await.unwrap();
        events.iter().filter(|event| event.what.name() == name).count()
    }

    pub fn alarms(&self) -> String {
        self.chain.view().alarms.join("; ")
    }
}

pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = clock::instant();
    while !done().await {
        assert!(begun.elapsed() < LIMIT, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Somebody else on the same chain, with some of the payment token.
pub struct Client<'a> {
    pub bench: &'a Bench,
    pub address: Felt,
    handle: Handle,
}

impl Bench {
    pub async fn client(&self) -> Client<'_> {
        let options = ChainOptions { contract: self.chain.options().contract, ..self.devnet.options(1) };
        let (address, handle) = (options.account, self.devnet.handle(options).await);
        let transfer: Felt = TRANSFER.parse().unwrap();
        let calldata = vec![address, Felt::from(10_000u64), Felt::ZERO];
        self.send(None, vec![Call { to: self.token, selector: transfer, calldata }]).await;
        let client = Client { bench: self, address, handle };
        let contract = self.chain.options().contract;
        client.send(vec![calls::approve(self.token, contract, U256 { high: 0, low: 10_000 })]).await;
        client
    }
}

/// Selector of `transfer`.
pub const TRANSFER: &str = "0x83afd3f4caedc6eebf44246fe54e38c95e3179a5ec9ea81740eca5b482d12e";

/// Selector of `submit_ai_job` comes from a call of ours; the rest of the calldata is a client's own.
impl Client<'_> {
    pub async fn send(&self, calls: Vec<Call>) {
        let nonce = self.handle.nonce().await.unwrap();
        let bounds = self.handle.estimate(nonce, &calls, &[]).await.unwrap().bounds;
        let transaction = self.handle.transaction(nonce, 0, calls, vec![], bounds).unwrap();
        self.handle.send(&transaction).await.unwrap();
        let landed = crate::chain::devnet::landed(&self.handle, &transaction).await;
        assert_eq!(landed.reverted, None);
    }

    /// Pays 500 for a job with this input. Its id, as a job's scope has it.
    pub async fn submit(&self, uri: &[u8]) -> U256 {
        let contract = self.bench.chain.options().contract;
        let model = calls::submit_ai_job(contract, &crate::chain::sample_job(JobId::default()), 1, self.address);
        let short = |text: &[u8]| Felt::short(text).unwrap();
        let deadline = clock::now().0 / 1_000 + 3_600;
        let payment = [Felt::from(500u64), Felt::ZERO];
        let mut metadata = vec![short(b"ciro.ref.v1"), short(b"sha256"), Felt::from(1u64), Felt::from(2u64)];
        metadata.push(Felt::from(uri.len().div_ceil(31) as u64));
        metadata.extend(uri.chunks(31).map(short));
        let mut calldata = vec![Felt::ZERO; 6];
        calldata.extend(payment);
        calldata.extend([Felt::from(deadline), Felt::ZERO, Felt::from(metadata.len() as u64)]);
        calldata.extend(metadata);
        calldata.extend(payment);
        calldata.push(self.address);
        self.send(vec![Call { calldata, ..model }]).await;
        let head = self.handle.head().await.unwrap().number;
        let events = self.handle.events(head, head).await.unwrap();
        let submitted = events.iter().find_map(|event| event.what.job());
        submitted.unwrap()
    }
}
