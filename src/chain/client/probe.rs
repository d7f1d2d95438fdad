//! Looking at the chain every few seconds, on every node.
//!
//! It is the one place that says whether the chain is up, which contract is
//! there and what the account has. Nothing waits for it, and it decides nothing.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use starknet::core::types::{BlockId, StarknetError};
use starknet::providers::{Provider as _, ProviderError};
use tracing::{info, warn};

use super::codes;
use super::felts::{ours, theirs};
use crate::chain::{Account, Contract, Error, GasPrices, Generation, Handle, State, View};
use crate::clock;
use crate::domain::chain::{Block, Felt};

/// Contract and account are looked at no more often than this, and not while no block came, unless
const DETAILS_EVERY: Duration = Duration::from_secs(2);

/// this has passed.
const DETAILS_WITHIN: Duration = Duration::from_secs(15);

/// Functions of our contract that coordinators use.
const ALL: &[&str] = &[
    "submit_ai_job",
    "submit_prove_job",
    "assign_job_to_worker",
    "submit_job_result",
    "distribute_rewards",
    "register_worker",
    "settle_job",
    "cancel_job",
    "expire_job",
    "assert_epoch",
    "get_job_details",
    "get_job_state",
];

/// What of them works in the class people know.
const SUBMISSION: &[&str] = &["submit_ai_job", "submit_prove_job"];

struct Probe {
    handle: Handle,
    /// When contract and account were looked at, and at which block.
    looked: Option<(Instant, Block)>,
    /// What was found out of a class; looked for again when the class is another.
    known: Option<(Felt, Generation)>,
    key_fits: Option<bool>,
}

/// What one look saw of contract and account.
struct Details {
    contract: Contract,
    account: Account,
}

pub(super) async fn run(handle: Handle) {
    let pause = handle.options().timing.probe;
    let mut probe = Probe { handle, looked: None, known: None, key_fits: None };
    loop {
        let seen = probe.look().await;
        probe.tell(seen);
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
    }
}

impl Probe {
    async fn look(&mut self) -> Result<View, Error> {
        let head = self.handle.head().await?;
        let before = self.handle.view();
        let mut view = View {
            chain_id: self.handle.chain_id(),
            rpc_url: self.handle.0.client.transport.shown(),
            block: Some(head),
            as_of: Some(clock::now()),
            ..before
        };
        if view.gas_prices.is_none() || before.block != Some(head) {
            view.gas_prices = self.handle.gas_prices(head).await?.or(view.gas_prices);
        }
        if self.is_due(head) {
            let found = self.details().await;
            self.looked = Some((clock::instant(), head));
            let trouble = match found {
                Ok(details) => {
                    let trouble = trouble(&details, self.handle.options().generation);
                    view.contract = Some(details.contract);
                    view.account = Some(details.account);
                    trouble
                }
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => Some(error.to_string()),
            };
            view.state = if trouble.is_none() { State::Connected } else { State::Paused };
            view.last_error = trouble;
        }
        Ok(view)
    }

    fn is_due(&self, head: Block) -> bool {
        if self.handle.view().state != State::Connected {
            return true;
        }
        self.looked.is_none_or(|(at, block)| {
            let since = at.elapsed();
            since >= DETAILS_WITHIN || block != head && since >= DETAILS_EVERY
        })
    }

    async fn details(&mut self) -> Result<Details, Error> {
        let contract = self.contract().await?;
        if self.key_fits != Some(true) {
            self.key_fits = self.key_fits().await?;
        }
        let account = self.handle.account(contract.token, self.key_fits).await?;
        Ok(Details { contract, account })
    }

    /// `None`: no key, or no account to ask.
    async fn key_fits(&self) -> Result<Option<bool>, Error> {
        match self.handle.key_fits().await {
            // No account yet: its nonce says so.
            Err(Error::Unfit(_)) => Ok(None),
            answer => answer,
        }
    }

    async fn contract(&mut self) -> Result<Contract, Error> {
        let handle = &self.handle;
        let class_hash = handle.class_hash().await?;
        let found = match self.known {
            Some((class, generation)) if class == class_hash => generation,
            _ => handle.find_generation().await?,
        };
        self.known = Some((class_hash, found));
        let generation = match handle.options().generation {
            Generation::SubmissionOnly => Generation::SubmissionOnly,
            Generation::Auto | Generation::Full => found,
        };
        let mut contract = Contract {
            address: handle.options().contract,
            class_hash,
            generation,
            capabilities: if generation == Generation::Full { ALL } else { SUBMISSION },
            paused: None,
            token: None,
            fee_recipient: None,
            fee_bps: None,
            min_payment: None,
            escrow: None,
            epoch: None,
            coordinator: None,
        };
        if found == Generation::Full {
            let settings = handle.settings().await?;
            contract.paused = Some(settings.paused);
            contract.token = Some(settings.token);
            contract.fee_recipient = Some(settings.fee_recipient);
            contract.fee_bps = Some(settings.fee_bps);
            contract.min_payment = Some(settings.min_payment);
            contract.escrow = Some(handle.escrow().await?);
            contract.epoch = Some(handle.epoch().await?);
            contract.coordinator = Some(handle.is_coordinator().await?);
        }
        Ok(contract)
    }

    /// Publishes what was seen. Only a change is logged.
    fn tell(&mut self, seen: Result<View, Error>) {
        let before = self.handle.view();
        let after = match seen {
            Ok(view) => view,
            Err(Error::Stopping) => return,
            Err(error) => {
                // What is there when it comes back may be another chain's state.
                self.looked = None;
                View { state: State::Down, last_error: Some(error.to_string()), ..before.clone() }
            }
        };
        if (before.state, &before.last_error) != (after.state, &after.last_error) {
            let error = after.last_error.as_deref();
            match after.state {
                State::Connected => {
                    let generation = after.generation().map(Generation::as_str);
                    info!(
                        rpc = after.rpc_url,
                        block = after.block.map(|block| block.number),
                        generation,
                        "chain connected"
                    );
                }
                State::Paused => warn!(error, "settling on chain is paused"),
                _ if before.state == State::Down => {}
                _ => warn!(error, "chain is down"),
            }
        }
        *self.handle.0.view.write().unwrap_or_else(PoisonError::into_inner) = after;
    }
}

/// Why nothing can be settled although the chain answers.
fn trouble(details: &Details, wanted: Generation) -> Option<String> {
    let Details { contract, account } = details;
    if wanted == Generation::Full && contract.generation != Generation::Full {
        return Some(format!(
            "the contract at {} can only take submissions, and full was configured",
            contract.address
        ));
    }
    if contract.paused == Some(true) {
        return Some("the contract is paused".to_owned());
    }
    if account.nonce.is_none() {
        return Some(format!("account {} is not deployed", account.address));
    }
    if account.key_fits == Some(false) {
        return Some(format!("account {} does not take signatures of this node's key", account.address));
    }
    if contract.coordinator == Some(false) {
        return Some(format!("account {} is no coordinator of the contract", account.address));
    }
    None
}

impl Handle {
    /// # Errors
    ///
    /// [`Error::Unfit`]: there is no contract.
    async fn class_hash(&self) -> Result<Felt, Error> {
        let contract = self.options().contract;
        let asked = self.provider().get_class_hash_at(super::NOW, theirs(contract)).await;
        let missing = || Error::Unfit(format!("there is no contract at {contract}"));
        asked.map(ours).map_err(|error| super::read::unless_missing(error, missing))
    }

    pub(super) async fn account(&self, token: Option<Felt>, key_fits: Option<bool>) -> Result<Account, Error> {
        let address = self.options().account;
        let nonce = match self.nonce().await {
            Ok(nonce) => Some(nonce),
            Err(Error::Unfit(_)) => None,
            Err(error) => return Err(error),
        };
        let balance = self.balance(super::keys::fee_token(), address).await?;
        let payment = match token {
            Some(token) => Some(self.payment_token(token).await?),
            None => None,
        };
        Ok(Account { address, nonce, balance, payment, key_fits })
    }

    async fn gas_prices(&self, head: Block) -> Result<Option<GasPrices>, Error> {
        use starknet::core::types::MaybePreConfirmedBlockWithTxHashes as Found;
        match self.provider().get_block_with_tx_hashes(BlockId::Number(head.number)).await {
            Ok(Found::Block(block)) => Ok(Some(GasPrices {
                l1: ours(block.l1_gas_price.price_in_fri).to_u128().unwrap_or(u128::MAX),
                l2: ours(block.l2_gas_price.price_in_fri).to_u128().unwrap_or(u128::MAX),
                l1_data: ours(block.l1_data_gas_price.price_in_fri).to_u128().unwrap_or(u128::MAX),
            })),
            // Gone meanwhile.
            Ok(Found::PreConfirmedBlock(_)) | Err(ProviderError::StarknetError(StarknetError::BlockNotFound)) => {
                Ok(None)
            }
            Err(error) => Err(codes::asking(error)),
        }
    }
}
