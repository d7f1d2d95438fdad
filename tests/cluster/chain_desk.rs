//! Where a story meets the chain: a contract and accounts of its own, behind a proxy, and the jobs it has settled there.

use std::collections::BTreeMap;

use ciro::tasks::Tasks;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use starknet::core::types::Felt;
use starknet::core::utils::cairo_short_string_to_felt;

use crate::chain_hand::{Hand, call, u256, view};
use crate::chain_node::{Account, Devnet, hex, u128_of};
use crate::chain_proxy::Proxy;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::{secs, until};

/// What a worker of the stories asks for a job, in the token's smallest unit. An odd number, so that fees are rounded.
pub const PRICE: u128 = 1_000_003;
/// What jobs may cost: so much lies in escrow for each.
pub const PRICE_MAX: u128 = 2_500_001;
/// The contract takes no job for less.
pub const PAYMENT_MIN: u128 = 2_000_000;
/// Of what is paid out, in hundredths of a percent.
pub const FEE_BPS: u128 = 250;
/// What the coordinator has of the token when a story begins.
pub const FUNDS: u128 = 1_000_000_000_000;

pub struct Desk<'a> {
    pub devnet: &'a Devnet,
    pub proxy: Proxy,
    /// The contract's admin, who is no coordinator.
    pub admin: Hand,
    /// Whose key the nodes have.
    pub coordinator: Account,
    pub contract: Felt,
    pub token: Felt,
    pub fee_recipient: Felt,
    /// The coordinator's nonce when the story began.
    pub first_nonce: u64,
    /// The block from which on the contract has events.
    pub first_block: u64,
}

impl<'a> Desk<'a> {
    /// Deploys a token and a Job Manager, and funds a coordinator.
    pub async fn open(devnet: &'a Devnet, tasks: &Tasks) -> Self {
        Self::open_class(devnet, "job_manager", tasks).await
    }

    /// The same with the class that people know, which takes submissions and no more.
    pub async fn open_known(devnet: &'a Devnet, tasks: &Tasks) -> Self {
        Self::open_class(devnet, "job_manager_v1", tasks).await
    }

    async fn open_class(devnet: &'a Devnet, class: &str, tasks: &Tasks) -> Self {
        let first_block = devnet.head().await;
        let coordinator = devnet.account();
        let admin = Hand::of(devnet, &devnet.account()).await;
        let fee_recipient = payout(99);
        let token = deploy_token(&admin).await;
        let contract = match class {
            "job_manager" => {
                let class = admin.declare(class).await;
                let mut arguments = vec![admin.address, token, fee_recipient, Felt::from(FEE_BPS)];
                arguments.extend(u256(PAYMENT_MIN));
                let contract = admin.deploy(class, arguments).await;
                let allow = call(contract, "set_coordinator", vec![coordinator.address, Felt::ONE]);
                admin.invoke(vec![allow, give(token, coordinator.address, FUNDS)]).await;
                let approve = [vec![contract], u256(u128::MAX).to_vec()].concat();
                Hand::of(devnet, &coordinator).await.invoke(vec![call(token, "approve", approve)]).await;
                contract
            }
            _ => {
                let class = admin.declare(class).await;
                admin.deploy(class, vec![admin.address, token, fee_recipient, fee_recipient]).await
            }
        };
        Self {
            devnet,
            proxy: Proxy::start(&devnet.url, rand::random(), tasks).await,
            admin,
            first_nonce: devnet.nonce(coordinator.address).await,
            coordinator,
            contract,
            token,
            fee_recipient,
            first_block,
        }
    }

    /// For the nodes.
    pub fn settings(&self) -> Vec<(String, String)> {
        let pairs = [
            ("ENABLED", "true".to_owned()),
            ("RPC_URL", self.proxy.url.clone()),
            ("CHAIN_ID", "SN_SEPOLIA".to_owned()),
            ("JOB_MANAGER_ADDRESS", hex(self.contract)),
            ("ACCOUNT_ADDRESS", hex(self.coordinator.address)),
            ("INSECURE_DEV_KEY", hex(self.coordinator.key)),
            ("SETTLEMENT", "settle_later".to_owned()),
            ("CONFIRMATION", "accepted_l2".to_owned()),
            ("BATCH_WAIT_MS", "200".to_owned()),
            ("REQUEST_TIMEOUT_MS", "3000".to_owned()),
            ("FOLLOW_FROM_BLOCK", self.first_block.to_string()),
        ];
        pairs.map(|(name, value)| (format!("CIRO__BLOCKCHAIN__{name}"), value)).to_vec()
    }

    /// Three nodes that settle here, and two workers that are paid.
    pub async fn cluster(&self) -> Cluster {
        self.cluster_with(&[]).await
    }

    /// The same with other values of keys of the section `blockchain`.
    pub async fn cluster_with(&self, others: &[(&str, &str)]) -> Cluster {
        let mut settings = self.settings();
        for (name, value) in others {
            let name = format!("CIRO__BLOCKCHAIN__{name}");
            settings.retain(|(known, _)| *known != name);
            settings.push((name, (*value).to_owned()));
        }
        let network = format!("ciro-chain-{:016x}", rand::random::<u64>());
        let mut cluster = Cluster::start_as(3, 0, &network, settings).await;
        cluster.add_paid_idler(PRICE, &hex(payout(1)));
        cluster.add_paid_idler(PRICE, &hex(payout(2)));
        cluster.workers_online(2).await;
        cluster
    }

    /// What somebody has of the token.
    pub async fn balance(&self, whose: Felt) -> u128 {
        amount(&view(self.devnet, self.token, "balance_of", &[whose]).await)
    }

    pub async fn escrow(&self) -> u128 {
        amount(&view(self.devnet, self.contract, "total_escrow", &[]).await)
    }

    pub async fn epoch(&self) -> u128 {
        u128_of(view(self.devnet, self.contract, "get_epoch", &[self.coordinator.address]).await[0])
    }

    pub async fn nonce(&self) -> u64 {
        self.devnet.nonce(self.coordinator.address).await
    }

    /// Waits until a node says this of its connection.
    pub async fn state(&self, client: &Client, node: usize, state: &str) -> Value {
        let mut last = Value::Null;
        until(secs(40), &format!("node {node} says that the chain is {state}"), async || {
            let status = client.get(node, "/blockchain/status").await?.body;
            if status["state"] != last["state"] {
                println!("node {node}: {} {}", status["state"], status["last_error"]);
                last = status.clone();
            }
            (status["state"] == state).then_some(status)
        })
        .await
    }
}

async fn deploy_token(admin: &Hand) -> Felt {
    let class = admin.declare("token").await;
    let text = |text: &str| cairo_short_string_to_felt(text).unwrap();
    let mut arguments = vec![text("Story"), text("STORY"), Felt::from(18_u8)];
    arguments.extend(u256(u128::MAX));
    arguments.push(admin.address);
    admin.deploy(class, arguments).await
}

pub fn give(token: Felt, whom: Felt, what: u128) -> starknet::core::types::Call {
    call(token, "transfer", [vec![whom], u256(what).to_vec()].concat())
}

/// Where worker number `number` is paid. Nobody has the key; a balance needs none.
pub fn payout(number: u64) -> Felt {
    Felt::from_hex("0x7061796f75740000").unwrap() + Felt::from(number)
}

/// The u256 that a view answered, which is below 2^128 here.
pub fn amount(felts: &[Felt]) -> u128 {
    assert_eq!(felts[1], Felt::ZERO, "an amount of 2^128 or more: {felts:?}");
    u128_of(felts[0])
}

// ---------------------------------------------------------------------- jobs

/// Jobs a story was promised, id by name.
#[derive(Default)]
pub struct Jobs {
    pub ids: BTreeMap<String, String>,
}

/// Submissions under way at the same time.
const TOGETHER: usize = 16;

impl Jobs {
    /// Has `count` more jobs accepted by whichever node takes them. `more` replaces members of the submission.
    pub async fn submit(&mut self, client: &Client, count: usize, more: &Value) -> Vec<String> {
        let first = self.ids.len();
        let names = (first..first + count).map(|number| format!("job-{number:05}"));
        let accepted: Vec<(String, String)> =
            stream::iter(names.map(|name| accept(client, name, more))).buffered(TOGETHER).collect().await;
        let ids = accepted.iter().map(|(_, id)| id.clone()).collect();
        self.ids.extend(accepted);
        ids
    }

    /// Waits until they have ended; it does not matter to whom the chain has said so.
    pub async fn ended(&self, client: &Client) {
        for (turn, id) in self.ids.values().enumerate() {
            client.ended(turn % client.nodes(), id, secs(90)).await;
        }
    }
}

fn submission(name: &str, more: &Value) -> Value {
    let mut body = json!({"type": "noop", "payload": "", "tags": [name], "max_price": PRICE_MAX.to_string()});
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body
}

/// Tries node after node under one key until the job is accepted.
async fn accept(client: &Client, name: String, more: &Value) -> (String, String) {
    let body = submission(&name, more);
    let start = ciro::clock::instant();
    for turn in 0.. {
        // A node that sleeps takes the request, and says nothing.
        if let Some(answer) = client.post_within(turn % client.nodes(), "/jobs", &name, &body, secs(2)).await {
            match answer.status {
                200 | 201 => return (name, answer.body["id"].as_str().expect("a job has an id").to_owned()),
                429 | 503 => {}
                _ => panic!("{name} refused: {answer:?}"),
            }
        }
        assert!(start.elapsed() < secs(30), "{name} is not accepted anywhere");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    unreachable!("the loop has no end")
}
