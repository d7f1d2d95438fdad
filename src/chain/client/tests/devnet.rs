//! A devnet of a test's own, and what it is asked beside the protocol.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::chain::deploy::{Deployed, Plan, deploy};
use crate::chain::{Generation, Handle, Hidden, Options, Rpc, Signer, Timing, calls};
use crate::clock;
use crate::domain::chain::{Bounds, Call, Confirmation, Felt, Item, Landed, Stage, Transaction, U256};
use crate::domain::{JobId, PeerId, WorkerId};
use crate::tasks::Tasks;

/// Everything here is done within.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Devnet {
    child: Child,
    pub url: String,
    pub accounts: Vec<(Felt, String)>,
    pub tasks: Tasks,
}

impl Devnet {
    /// Starts one with further arguments.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let binary = std::env::var("CIRO_TEST_DEVNET").expect("CIRO_TEST_DEVNET names starknet-devnet's binary");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(binary)
            .args(["--seed", "0", "--accounts", "3", "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let mut devnet = Self { child, url, accounts: vec![], tasks: Tasks::new() };
        let deadline = clock::instant() + PATIENCE;
        let found = loop {
            match devnet.try_ask("devnet_getPredeployedAccounts", json!({})).await {
                Ok(found) => break found,
                Err(error) => assert!(clock::instant() < deadline, "devnet does not come up: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let accounts = found.as_array().unwrap().iter();
        devnet.accounts = accounts
            .map(|account| {
                let text = |key: &str| account[key].as_str().unwrap().to_owned();
                (text("address").parse().unwrap(), text("private_key"))
            })
            .collect();
        devnet
    }

    async fn try_ask(&self, method: &str, params: Value) -> Result<Value, String> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let sent = reqwest::Client::new().post(&self.url).json(&body).send().await;
        let answer: Value = sent.map_err(|e| e.to_string())?.json().await.map_err(|e| e.to_string())?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(answer.to_string()),
        }
    }

    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        self.try_ask(method, params).await.unwrap()
    }

    pub(crate) fn options(&self, account: usize) -> Options {
        let (address, key) = &self.accounts[account];
        Options {
            rpc: vec![Rpc { url: Hidden::new(self.url.clone()), shown: self.url.clone() }],
            chain_id: None,
            contract: Felt::ZERO,
            account: *address,
            signer: Signer::Plain(Hidden::new(key.clone())),
            generation: Generation::Auto,
            policy: None,
            confirmation: Confirmation::AcceptedL2,
            default_max_price: None,
            max_escrow: None,
            charge_clients: false,
            batch_calls: 150,
            batch_wait: Duration::ZERO,
            max_fee: None,
            max_spend_per_hour: None,
            tip: 0,
            replace_after: Duration::from_secs(60),
            watch_blocks: 10,
            follow_from: None,
            timing: Timing { probe: Duration::from_millis(100), request: Duration::from_secs(20) },
        }
    }

    /// A handle that nobody probes for, and that knows its chain.
    pub(crate) async fn handle(&self, options: Options) -> Handle {
        let handle = Handle::for_one_use(options, &self.tasks).unwrap();
        handle.head().await.unwrap();
        handle
    }

    /// Our contract and token, put there by the first account.
    pub(crate) async fn deploy(&self) -> Site {
        let first = self.handle(self.options(0)).await;
        let mut steps = vec![];
        let deployed = deploy(&first, &plan(), &mut |step| steps.push(step.clone())).await.unwrap();
        assert!(steps.iter().all(|step| step.transaction.is_some()), "{steps:?}");
        let options = Options { contract: deployed.contract, ..self.options(0) };
        Site { handle: self.handle(options.clone()).await, options, deployed }
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.tasks.cancel();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn plan() -> Plan {
    Plan {
        token: None,
        fee_recipient: Some(Felt::from(0xfeeu64)),
        fee_bps: 100,
        min_payment: 1,
        allowance: U256 { high: 0, low: 1_000_000_000 },
        salt: Felt::from(1u64),
        account: None,
    }
}

/// The contract, and its first coordinator.
pub(crate) struct Site {
    pub handle: Handle,
    pub options: Options,
    pub deployed: Deployed,
}

impl Site {
    /// Sends calls, and waits until they are done.
    pub(crate) async fn settle(&self, epoch: u64, items: Vec<Item>) -> (Transaction, Landed) {
        let lead = vec![calls::assert_epoch(self.deployed.contract, epoch)];
        let nonce = self.handle.nonce().await.unwrap();
        let estimate = self.handle.estimate(nonce, &lead, &items).await.unwrap();
        let transaction = self.handle.transaction(nonce, epoch, lead, items, estimate.bounds).unwrap();
        self.handle.send(&transaction).await.unwrap();
        (transaction.clone(), landed(&self.handle, &transaction).await)
    }

    /// Like an item that was planned: its calls are sent without an estimate.
    pub(crate) async fn bounds(&self) -> Bounds {
        let lead = [calls::assert_epoch(self.deployed.contract, 0)];
        let nonce = self.handle.nonce().await.unwrap();
        self.handle.estimate(nonce, &lead, &[]).await.unwrap().bounds
    }
}

/// What becomes of a transaction.
pub(crate) async fn landed(handle: &Handle, transaction: &Transaction) -> Landed {
    let deadline = clock::instant() + PATIENCE;
    loop {
        if let Some(landed) = handle.status(transaction).await.unwrap() {
            return landed;
        }
        assert!(clock::instant() < deadline, "{} does not land", transaction.hash);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn id(number: u128) -> JobId {
    JobId((1u128 << 100 | number).to_be_bytes())
}

pub(crate) fn worker(number: u8) -> WorkerId {
    PeerId([number; 32])
}

pub(crate) fn item(seq: u64, job: JobId, stage: Stage, calls: Vec<Call>) -> Item {
    Item { seq, job, stage, calls, payees: vec![] }
}
