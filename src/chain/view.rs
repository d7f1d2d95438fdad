//! What one node saw of the chain. Its own view: another node may see another.

use super::options::Generation;
use crate::domain::Timestamp;
use crate::domain::chain::{Block, Felt, U256};

/// The connection, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not looked yet.
    Connecting,
    Connected,
    /// The chain answers, and nothing can be settled all the same: [`View::last_error`] says why.
    Paused,
    /// It did not answer when looked for last, or is another chain.
    Down,
    Disabled,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Paused => "paused",
            Self::Down => "down",
            Self::Disabled => "disabled",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    pub address: Felt,
    pub class_hash: Felt,
    pub generation: Generation,
    /// Functions that work, by name.
    pub capabilities: &'static [&'static str],
    /// Of these only our own contract tells: `None` elsewhere.
    pub paused: Option<bool>,
    pub token: Option<Felt>,
    pub fee_recipient: Option<Felt>,
    /// Of what is paid out, in hundredths of a percent.
    pub fee_bps: Option<u16>,
    pub min_payment: Option<U256>,
    /// In escrow for all jobs.
    pub escrow: Option<U256>,
    /// Of our account there.
    pub epoch: Option<u64>,
    /// Whether our account is a coordinator there.
    pub coordinator: Option<bool>,
}

/// What the account has of the token that jobs are paid in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub balance: U256,
    /// What the contract may take of it.
    pub allowance: U256,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub address: Felt,
    /// The one that is used next; `None`: it is not deployed.
    pub nonce: Option<u64>,
    /// Of the fee token (STRK).
    pub balance: U256,
    pub payment: Option<Token>,
    /// Whether the account takes signatures of our key; `None`: there is no key.
    pub key_fits: Option<bool>,
}

/// Of the newest block, in the fee token's smallest unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GasPrices {
    pub l1: u128,
    pub l2: u128,
    pub l1_data: u128,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub state: State,
    /// The endpoint that answered last, without credentials. Kept while the chain is down, like all that was seen of it.
    pub rpc_url: Option<String>,
    pub chain_id: Option<Felt>,
    /// The newest that is closed.
    pub block: Option<Block>,
    pub contract: Option<Contract>,
    pub account: Option<Account>,
    pub gas_prices: Option<GasPrices>,
    /// Why it is down or paused.
    pub last_error: Option<String>,
    /// What this node's duties complain of; only a leader has any.
    pub alarms: Vec<String>,
    /// When all this was seen.
    pub as_of: Option<Timestamp>,
}

impl View {
    pub(super) fn new(state: State) -> Self {
        Self {
            state,
            rpc_url: None,
            chain_id: None,
            block: None,
            contract: None,
            account: None,
            gas_prices: None,
            last_error: None,
            alarms: vec![],
            as_of: None,
        }
    }

    /// The view of a node that has nothing to do with the chain.
    pub fn disabled() -> Self {
        Self::new(State::Disabled)
    }

    /// What the contract can do, as far as it was found out.
    pub fn generation(&self) -> Option<Generation> {
        self.contract.as_ref().map(|contract| contract.generation)
    }
}
