//! What our account can put into escrow, and what becomes of a job that takes more.
//!
//! A job whose payment alone is more than the account has, or lets the contract
//! take, is put aside (`escrow_low`): whoever may submit jobs could stop all
//! settlement with it otherwise. It goes on by itself when there is enough. Of
//! those that would fit one by one as many go as there is for, in order; the rest
//! waits for what is in flight, and is looked at again then.
//!
//! What the chain said is reduced by what was prepared since: a transaction that
//! is sent without an estimate does not revert for want of it either.
//!
//! Absent: who pays for the job of a client that may be charged. The contract
//! decides that; estimates tell what came of it.

use std::time::{Duration, Instant};

use super::items::Place;
use super::{Settler, Trouble};
use crate::chain::{State as Connection, Token};
use crate::clock;
use crate::domain::chain::{Felt, Item, Slot, Stage, U256};

/// Then the chain is asked again.
const LAST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub(super) struct Funds {
    have: Token,
    /// Of it, for what was in flight then, and what was prepared since.
    reserved: u128,
    at: Instant,
}

impl Funds {
    /// For one job, if nothing else were in flight.
    pub fn purse(&self) -> u128 {
        least(&self.have)
    }

    /// What is not reserved.
    pub fn left(&self) -> u128 {
        self.purse().saturating_sub(self.reserved)
    }

    fn are_fresh(&self) -> bool {
        self.at.elapsed() < LAST
    }

    /// What people read while registrations wait, the cheapest of which takes so much.
    pub fn worry(&self, waiting: usize, cheapest: u128) -> String {
        format!(
            "{waiting} registrations wait: the account has {} of the payment token and has allowed the contract {}, and \
             the cheapest of them takes {cheapest}. Send it some, and approve it for the contract (`blockchain account \
             fund-hint`)",
            shown(self.have.balance),
            shown(self.have.allowance)
        )
    }
}

fn least(have: &Token) -> u128 {
    let number = |number: U256| if number.high == 0 { number.low } else { u128::MAX };
    number(have.balance).min(number(have.allowance))
}

fn shown(number: U256) -> String {
    if number.high == 0 { number.low.to_string() } else { number.to_string() }
}

/// What a registration has put into escrow, and the client who may be asked for it first. `None`: it is another stage.
pub(super) fn payment(item: &Item) -> Option<(u128, Felt)> {
    let data = &item.calls.first().filter(|_| item.stage == Stage::Register)?.calldata;
    // At the end are the payment, low half first, and the client.
    let (rest, client) = data.split_last_chunk::<1>()?;
    let [low, _high] = rest.last_chunk::<2>()?;
    Some((low.to_u128()?, client[0]))
}

impl Place {
    /// What an item takes out of our account.
    pub fn escrow(&self, item: &Item) -> u128 {
        payment(item).filter(|(_, client)| *client == self.account).map_or(0, |(amount, _)| amount)
    }

    /// Whether somebody else may be asked to pay for it.
    pub fn is_charged(&self, item: &Item) -> bool {
        payment(item).is_some_and(|(amount, client)| client != self.account && amount > 0)
    }

    /// Why our account can not register the job, whatever else there is to pay for.
    pub fn is_dear(&self, item: &Item) -> Option<String> {
        let escrow = self.escrow(item);
        (escrow > self.purse).then(|| too_dear(escrow))
    }
}

pub(super) fn too_dear(escrow: u128) -> String {
    format!(
        "the job takes {escrow} of the payment token into escrow, and the account has, or lets the contract take, less. It \
         goes on by itself when there is enough"
    )
}

impl Settler {
    /// Asks what there is, if that is to be known and was not known a moment ago.
    pub(super) async fn look_at_funds(&mut self) -> Result<(), Trouble> {
        if self.funds.is_some_and(|funds| funds.are_fresh()) || !self.has_work() {
            return Ok(());
        }
        self.ask_for_funds().await.map(drop)
    }

    /// `None`: the contract takes no token.
    pub(super) async fn ask_for_funds(&mut self) -> Result<Option<Funds>, Trouble> {
        let token = self.chain.view().contract.and_then(|contract| contract.token);
        let Some(token) = token else {
            self.funds = None;
            return Ok(None);
        };
        let at = clock::instant();
        let have = self.chain.payment_token(token).await?;
        let place = self.place();
        let of = |slot: &Slot| slot.items().iter().map(|item| place.escrow(item)).fold(0, u128::saturating_add);
        let reserved = self.books(|chain| chain.waiting().map(|(_, slot)| of(slot)).fold(0, u128::saturating_add));
        self.funds = Some(Funds { have, reserved, at });
        Ok(self.funds)
    }

    /// These are under way now.
    pub(super) fn reserve(&mut self, escrow: u128) {
        if let Some(funds) = &mut self.funds {
            funds.reserved = funds.reserved.saturating_add(escrow);
        }
    }

    /// Whether it is our account that can not pay for a job that reverts for want of payment, and not its client.
    pub(super) async fn is_ours_to_pay(&mut self, item: &Item) -> Result<bool, Trouble> {
        let Some((amount, client)) = payment(item) else { return Ok(false) };
        let Some(funds) = self.ask_for_funds().await? else { return Ok(false) };
        if client != self.chain.options().account {
            let limit = self.chain.charge_limit(client).await?;
            if limit >= (U256 { high: 0, low: amount }) {
                return Ok(false);
            }
        }
        Ok(amount > funds.purse())
    }

    fn has_work(&self) -> bool {
        if self.chain.view().state != Connection::Connected {
            return false;
        }
        let seen = self.planned().max(self.passed);
        self.reign.context.client.read(|state| {
            let chain = state.chain();
            state.journal().last_seq() > seen || chain.again_len() > 0 || chain.parked_len() > 0
        })
    }
}

#[cfg(test)]
#[path = "tests/funds.rs"]
mod tests;
