//! Putting the contract on a chain: account, classes, token, Job Manager, allowance.
//!
//! Every step looks first whether it is done already, and addresses follow from
//! what is deployed: after a failure the same is said again, and goes on.

use crate::chain::{Error, Handle};
use crate::domain::chain::{Felt, U256};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What jobs are paid in; `None`: a new token for development, of which the account has all.
    pub token: Option<Felt>,
    /// Who gets the fee; `None`: the account.
    pub fee_recipient: Option<Felt>,
    /// Of what is paid out, in hundredths of a percent.
    pub fee_bps: u16,
    /// The least a job pays, in the token's smallest unit.
    pub min_payment: u128,
    /// What the contract may take from the account.
    pub allowance: U256,
    /// Another one gives another contract.
    pub salt: Felt,
    /// Class and salt the account is deployed from, if it is not yet; they must give its address.
    pub account: Option<(Felt, Felt)>,
}

/// One thing that was done, or was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub what: String,
    /// Class hash or address.
    pub at: Felt,
    /// `None`: it was there.
    pub transaction: Option<Felt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    pub chain_id: Felt,
    pub account: Felt,
    pub class_hash: Felt,
    pub contract: Felt,
    pub token: Felt,
    /// The first block whose events matter.
    pub block: u64,
}

/// Does what is missing of `plan`, and tells of each step.
///
/// # Errors
///
/// The first that stops it. The same plan goes on where it stopped.
pub async fn deploy(_handle: &Handle, _plan: &Plan, _tell: &mut (dyn FnMut(&Step) + Send)) -> Result<Deployed, Error> {
    Err(Error::Refused("the contract is not part of this build".to_owned()))
}
