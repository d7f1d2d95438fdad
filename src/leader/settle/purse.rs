//! Whether anything may be sent, and whether its fee can be paid. What jobs take into escrow is [`super::funds`]'.
//!
//! Whatever is short or shut pauses settlement with words for people; nothing
//! is dropped. It is looked at again every few seconds, and goes on by itself.

use super::worries::Worry;
use crate::chain::{State as Connection, View, fees};
use crate::domain::chain::{Bounds, Site, U256};

/// What an account may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purse {
    /// Of the fee token; `None`: not known.
    pub balance: Option<U256>,
    /// For one transaction.
    pub max_fee: Option<u128>,
    pub max_spend_per_hour: Option<u128>,
    /// Paid in this hour of the clock.
    pub spent: u128,
    /// The most that what is in flight may come to.
    pub reserved: u128,
}

/// Why a transaction can not be paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// More than may be paid for one.
    Fee {
        most: u128,
        limit: u128,
    },
    Balance {
        most: u128,
        balance: U256,
    },
    Hour {
        most: u128,
        spent: u128,
        limit: u128,
    },
}

impl Purse {
    /// # Errors
    ///
    /// What it lacks for a transaction with these bounds.
    pub fn check(&self, bounds: &Bounds) -> Result<(), Short> {
        let most = fees::most(bounds);
        if let Some(limit) = self.max_fee.filter(|limit| most > *limit) {
            return Err(Short::Fee { most, limit });
        }
        let wanted = U256 { high: 0, low: most.saturating_add(self.reserved) };
        if let Some(balance) = self.balance.filter(|balance| *balance < wanted) {
            return Err(Short::Balance { most: wanted.low, balance });
        }
        let spent = self.spent.saturating_add(self.reserved);
        match self.max_spend_per_hour.filter(|limit| spent.saturating_add(most) > *limit) {
            Some(limit) => Err(Short::Hour { most, spent, limit }),
            None => Ok(()),
        }
    }
}

impl Short {
    pub fn worry(&self) -> (Worry, String) {
        match self {
            Self::Fee { most, limit } => (
                Worry::Fee,
                format!(
                    "nothing is sent: one call may cost up to {most} fri now, and blockchain.max_fee is {limit}. It \
                     goes on when gas is cheaper, or max_fee is higher"
                ),
            ),
            Self::Balance { most, balance } => (
                Worry::Balance,
                format!(
                    "nothing is sent: the account has {} fri for fees, and up to {most} fri are needed. Send STRK to it: \
                     `blockchain account fund-hint`",
                    shown(*balance)
                ),
            ),
            Self::Hour { most, spent, limit } => (
                Worry::Hour,
                format!(
                    "nothing is sent in this hour: {spent} fri of blockchain.max_spend_per_hour ({limit}) are spent or \
                     in flight, and the next transaction may cost {most}"
                ),
            ),
        }
    }
}

/// What a word of the contract says about: one call, or all there is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// This call alone.
    Item,
    /// Whoever pays for this job has too little of the payment token, or has not allowed enough of it.
    Payment,
    /// A later leader, or another cluster, uses the account.
    Epoch,
    /// The contract does not take anything from us now.
    Shut,
}

pub(super) fn blame(word: &str) -> Blame {
    let word = word.to_ascii_lowercase();
    let has = |part: &str| word.contains(part);
    match word.as_str() {
        "stale_epoch" => Blame::Epoch,
        "paused" | "not_coordinator" => Blame::Shut,
        "allowance_too_low" | "balance_too_low" | "token_refused" => Blame::Payment,
        // Tokens of other makes.
        _ if has("allowance") || has("insufficient balance") || has("u256_sub overflow") => Blame::Payment,
        _ => Blame::Item,
    }
}

fn shown(number: U256) -> String {
    if number.high == 0 { number.low.to_string() } else { number.to_string() }
}

/// What keeps everything from being sent, as this node sees the chain.
pub(super) fn shut(view: &View, site: &Site, known: Option<&Site>) -> Option<(Worry, String)> {
    if let Some(known) = known.filter(|known| *known != site) {
        return Some((Worry::Site, other_site(known, site)));
    }
    let told = || view.last_error.clone().unwrap_or_else(|| "it has not answered yet".to_owned());
    match view.state {
        Connection::Connected => {}
        Connection::Connecting | Connection::Down => {
            let text = format!("the chain can not be used: {}. Jobs go on and are settled when it is back", told());
            return Some((Worry::Down, text));
        }
        Connection::Paused => return Some((Worry::Shut, format!("nothing is sent: {}", told()))),
        Connection::Disabled => return Some((Worry::Down, "the chain is disabled on this node".to_owned())),
    }
    let contract = view.contract.as_ref()?;
    if contract.paused == Some(true) {
        let text = "nothing is sent: the contract is paused. It goes on when its admin unpauses it".to_owned();
        return Some((Worry::Shut, text));
    }
    if contract.coordinator == Some(false) {
        let text = format!(
            "nothing is sent: account {} is no coordinator of contract {}. Its admin appoints it (set_coordinator)",
            site.account, site.contract
        );
        return Some((Worry::Shut, text));
    }
    let account = view.account.as_ref()?;
    let text = match (account.nonce, account.key_fits) {
        (None, _) => format!("nothing is sent: account {} is not deployed", site.account),
        (_, Some(false)) => format!("nothing is sent: the keystore's key is not that of account {}", site.account),
        (_, None) => "nothing is sent: this node has no key. Set blockchain.keystore and its password".to_owned(),
        _ => return None,
    };
    Some((Worry::Key, text))
}

fn other_site(known: &Site, found: &Site) -> String {
    let show = |site: &Site| {
        let chain = String::from_utf8(site.chain_id.text().to_vec()).unwrap_or_else(|_| site.chain_id.to_string());
        format!("contract {} by account {} on {chain}", site.contract, site.account)
    };
    format!(
        "nothing is sent: the books are of {}, and this node is set up for {}. Set it back, or accept the new one with \
         `blockchain reset`: what was settled there stays there",
        show(known),
        show(found)
    )
}

#[cfg(test)]
#[path = "tests/purse.rs"]
mod tests;
