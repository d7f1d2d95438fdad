//! An account's hand that is not the nodes': declares, deploys, and calls contracts for a story.
//!
//! It shares no code with `ciro::chain`: what it puts on chain, and reads there,
//! is what the nodes are held against.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use starknet::accounts::{Account as _, ConnectedAccount as _, ExecutionEncoding, SingleOwnerAccount};
use starknet::contract::{ContractFactory, UdcSelector};
use starknet::core::types::contract::SierraClass;
use starknet::core::types::{Call, ExecutionResult, Felt, TransactionStatus};
use starknet::core::utils::get_selector_from_name;
use starknet::providers::jsonrpc::HttpTransport;
use starknet::providers::{JsonRpcClient, Provider as _};
use starknet::signers::{LocalWallet, SigningKey};
use tokio::sync::Mutex;

use crate::chain_node::{Account, Devnet, felt, hex};
use crate::secs;

type Signer = SingleOwnerAccount<JsonRpcClient<HttpTransport>, LocalWallet>;

pub struct Hand {
    pub address: Felt,
    account: Signer,
}

/// Stories share a node: who declares a class twice is refused.
static DECLARING: Mutex<()> = Mutex::const_new(());

impl Hand {
    pub async fn of(devnet: &Devnet, account: &Account) -> Self {
        let http = reqwest::Client::builder().timeout(secs(30)).no_proxy().build().unwrap();
        let url = reqwest::Url::parse(&devnet.url).unwrap();
        let provider = JsonRpcClient::new(HttpTransport::new_with_client(url, http));
        let chain = provider.chain_id().await.unwrap();
        let wallet = LocalWallet::from(SigningKey::from_secret_scalar(account.key));
        let account = SingleOwnerAccount::new(provider, wallet, account.address, chain, ExecutionEncoding::New);
        Self { address: account.address(), account }
    }

    /// Makes the class of `contracts/artifacts/NAME.sierra.json` known, and returns its hash.
    pub async fn declare(&self, name: &str) -> Felt {
        let _alone = DECLARING.lock().await;
        let classes: Value = serde_json::from_slice(&artifact("classes.json")).unwrap();
        let class = felt(&classes[name]["class_hash"]);
        if self.account.provider().get_class(self.account.block_id(), class).await.is_ok() {
            return class;
        }
        let sierra: SierraClass = serde_json::from_slice(&artifact(&format!("{name}.sierra.json"))).unwrap();
        let compiled = felt(&classes[name]["compiled_class_hash"]);
        let declared = self.account.declare_v3(Arc::new(sierra.flatten().unwrap()), compiled).tip(0).send().await;
        let declared = declared.unwrap_or_else(|error| panic!("declare {name}: {error}"));
        self.landed(declared.transaction_hash, name).await;
        assert_eq!(declared.class_hash, class, "the class hash of {name} is not what contracts/artifacts say");
        class
    }

    /// Returns the address.
    pub async fn deploy(&self, class: Felt, arguments: Vec<Felt>) -> Felt {
        let factory = ContractFactory::new_with_udc(class, &self.account, UdcSelector::Legacy);
        let salt = Felt::from(rand::random::<u64>());
        let deployment = factory.deploy_v3(arguments, salt, false).tip(0);
        let address = deployment.deployed_address();
        let sent = deployment.send().await.unwrap_or_else(|error| panic!("deploy {class:#x}: {error}"));
        self.landed(sent.transaction_hash, "a deployment").await;
        address
    }

    /// One transaction. It must succeed.
    pub async fn invoke(&self, calls: Vec<Call>) -> Felt {
        let hash = self.try_invoke(calls).await.unwrap_or_else(|error| panic!("invoke: {error}"));
        self.landed(hash, "an invocation").await;
        hash
    }

    /// One transaction: its hash, or why the node did not take it.
    pub async fn try_invoke(&self, calls: Vec<Call>) -> Result<Felt, String> {
        let sent = self.account.execute_v3(calls).tip(0).send().await;
        sent.map(|sent| sent.transaction_hash).map_err(|error| format!("{error:?}"))
    }

    async fn landed(&self, hash: Felt, what: &str) {
        crate::until(secs(30), &format!("{what} lands as {hash:#x}"), async || {
            let status = self.account.provider().get_transaction_status(hash).await.ok()?;
            let (TransactionStatus::PreConfirmed(result)
            | TransactionStatus::AcceptedOnL2(result)
            | TransactionStatus::AcceptedOnL1(result)) = status
            else {
                return None;
            };
            if let ExecutionResult::Reverted { reason } = result {
                panic!("{what} was reverted: {reason}");
            }
            Some(())
        })
        .await;
    }
}

pub fn call(to: Felt, function: &str, calldata: Vec<Felt>) -> Call {
    Call { to, selector: get_selector_from_name(function).unwrap(), calldata }
}

/// What a view answers.
pub async fn view(devnet: &Devnet, contract: Felt, function: &str, arguments: &[Felt]) -> Vec<Felt> {
    try_view(devnet, contract, function, arguments).await.unwrap_or_else(|error| panic!("{function}: {error}"))
}

pub async fn try_view(
    devnet: &Devnet,
    contract: Felt,
    function: &str,
    arguments: &[Felt],
) -> Result<Vec<Felt>, String> {
    let calldata: Vec<String> = arguments.iter().copied().map(hex).collect();
    let selector = hex(get_selector_from_name(function).unwrap());
    let request = json!({"contract_address": hex(contract), "entry_point_selector": selector, "calldata": calldata});
    let answer = devnet.try_rpc("starknet_call", json!({"request": request, "block_id": "latest"})).await?;
    Ok(answer.as_array().expect("felts").iter().map(felt).collect())
}

/// Low half first.
pub fn u256(number: u128) -> [Felt; 2] {
    [Felt::from(number), Felt::ZERO]
}

fn artifact(file: &str) -> Vec<u8> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts/artifacts").join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
