//! What a node is told about the chain.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::domain::Price;
use crate::domain::chain::{Confirmation, Felt, Policy};

/// What the contract can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Generation {
    /// Found out by asking it.
    Auto,
    /// Ours: the whole life of a job.
    Full,
    /// The class people know: jobs can be submitted, and nothing else works.
    SubmissionOnly,
}

impl Generation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::SubmissionOnly => "submission_only",
        }
    }
}

/// Text that is not for people.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    #[cfg(feature = "chain")]
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// An endpoint of Starknet's JSON-RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rpc {
    pub url: Hidden,
    /// Without credentials, for people.
    pub shown: String,
}

/// Where the account's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// There is none: what is read can be read, and nothing is signed.
    None,
    Keystore {
        file: PathBuf,
        /// `None`: it was not given, so the file can not be opened.
        password: Option<Password>,
    },
    /// The key itself, `0x…`: for development.
    Plain(Hidden),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    Given(Hidden),
    /// Its first line.
    File(PathBuf),
}

/// How long is waited for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two looks at the chain.
    pub probe: Duration,
    /// For one endpoint's answer to one question.
    pub request: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { probe: Duration::from_secs(2), request: Duration::from_secs(10) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// At least one; an earlier one is preferred.
    pub rpc: Vec<Rpc>,
    /// `None`: that of the first endpoint that answers.
    pub chain_id: Option<Felt>,
    pub contract: Felt,
    pub account: Felt,
    pub signer: Signer,
    pub generation: Generation,
    /// How a job is settled that does not say; `None`: it is not.
    pub policy: Option<Policy>,
    pub confirmation: Confirmation,
    /// What a job that is settled may cost when its client does not say.
    pub default_max_price: Option<Price>,
    /// The most that is put into escrow for one job that is submitted here, in the payment token's smallest unit.
    pub max_escrow: Option<u128>,
    /// Jobs may name a client who is charged for them, up to its limit.
    pub charge_clients: bool,
    /// Most calls in one transaction.
    pub batch_calls: usize,
    /// Longest wait for more calls.
    pub batch_wait: Duration,
    /// The most a transaction may cost, in the fee token's smallest unit.
    pub max_fee: Option<u128>,
    /// The most that is spent on fees in an hour of the clock, in the fee token's smallest unit.
    pub max_spend_per_hour: Option<u128>,
    /// Of each unit of L2 gas, in the fee token's smallest unit.
    pub tip: u64,
    /// A transaction that has not landed after this is sent with higher fees.
    pub replace_after: Duration,
    /// A transaction that landed is watched for so many blocks.
    pub watch_blocks: u64,
    /// Events before this block are not read; `None`: none before the head when they are first read.
    pub follow_from: Option<u64>,
    pub timing: Timing,
}
