//! Prepares transactions and sends them, strictly in the order of their nonces.
//!
//! A node may run a transaction whose nonce is not the next, and then never take
//! the one before it. So the next is sent only when a node has said that it has
//! the one before; a lost answer is asked about first.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::bisect::{self, Culprit, Estimator, Found};
use super::funds::{payment, too_dear};
use super::items::Place;
use super::lane::Refusal;
use super::plan::Plan;
use super::purse::{Blame, Purse, Short, blame};
use super::rates::{Rates, at_prices};
use super::worries::Worry;
use super::{GATHER, IN_FLIGHT, PAUSE, POLL, Rest, SHUT, Settler, Trouble};
use crate::chain::{self, Estimate, EstimateError, Kind, SendError, fees, gas};
use crate::clock;
use crate::domain::chain::{Act, Bounds, Call, ESCROW_LOW, Item, Slot, Stage, Transaction};
use crate::domain::command::Refusal as Refused;

/// What can be short.
const SHORTS: [Worry; 3] = [Worry::Balance, Worry::Fee, Worry::Hour];

/// What comes of looking at what a plan costs.
enum Cost {
    /// Its first items go, all of them if it says so.
    Bounds(Bounds),
    Not(Rest),
}

/// Estimates transactions of a nonce.
struct At {
    chain: chain::Handle,
    nonce: u64,
    /// What comes before all items.
    lead: Vec<Call>,
}

impl Estimator for At {
    async fn estimate(&mut self, items: &[Item]) -> Result<Estimate, EstimateError> {
        self.chain.estimate(self.nonce, &self.lead, items).await
    }
}

impl Settler {
    /// Prepares the next transaction, if it is time.
    pub(super) async fn go_on(&mut self, mut plan: Plan, place: Place) -> Result<Rest, Trouble> {
        let waiting = self.waiting();
        // Its estimate must see what all others have done. Clients may fail to pay: then all would revert.
        let alone = plan.again || plan.charged || !self.rates.is_some_and(|rates| rates.are_fresh());
        if waiting >= IN_FLIGHT || (waiting > 0 && (alone || !self.traces.all_accepted())) {
            return Ok(Rest::For(POLL));
        }
        if let Some(rest) = self.not_due(&plan, waiting) {
            return Ok(rest);
        }
        let Some(nonce) = self.next_nonce(waiting).await? else { return Ok(Rest::For(POLL)) };
        let examined = alone || (waiting == 0 && !plan.full);
        let bounds = if examined {
            match self.examine(&mut plan, place, nonce).await? {
                Cost::Bounds(bounds) => bounds,
                Cost::Not(rest) => return Ok(rest),
            }
        } else {
            self.learnt(&plan.items)
        };
        let bounds = gas::capped(bounds);
        if let Some(rest) = self.is_short(&plan, &bounds) {
            return Ok(rest);
        }
        self.prepare(plan, place, nonce, bounds).await
    }

    /// How long more calls are waited for. If somebody waits for a registration, only for what comes at the same time.
    fn not_due(&self, plan: &Plan, waiting: usize) -> Option<Rest> {
        let wait = self.chain.options().batch_wait;
        let wait = if plan.urgent && waiting < 2 { wait.min(GATHER) } else { wait };
        let age = plan.oldest.map(|at| Duration::from_millis(self.reign.context.client.log_now().since(at)));
        let left = age.map(|age| wait.saturating_sub(age)).unwrap_or_default();
        (!plan.again && !plan.full && !left.is_zero()).then_some(Rest::For(left.min(PAUSE)))
    }

    /// `None`: what the chain says does not fit what is in flight, and is asked again.
    async fn next_nonce(&mut self, waiting: usize) -> Result<Option<u64>, Trouble> {
        let planned = self.books(|chain| chain.next_nonce());
        if waiting > 0 {
            return Ok(planned);
        }
        let nonce = self.chain.nonce().await?;
        if self.books(|chain| chain.slot(nonce).is_some()) {
            return Ok(None);
        }
        if planned.is_some_and(|planned| planned != nonce) {
            info!(planned, nonce, "the account's nonce is not the one planned: its own is taken");
        }
        Ok(Some(nonce))
    }

    fn learnt(&self, items: &[Item]) -> Bounds {
        self.rates.map(|rates| rates.bounds(items, self.chain.view().gas_prices)).unwrap_or_default()
    }

    // ------------------------------------------------------------ what it costs

    /// Estimates a plan, and looks for what makes it revert.
    async fn examine(&mut self, plan: &mut Plan, place: Place, nonce: u64) -> Result<Cost, Trouble> {
        let lead = self.lead(place, self.books(|chain| chain.epoch()));
        let mut chain = At { chain: self.chain.clone(), nonce, lead };
        match bisect::find(&plan.items, &mut chain).await {
            Ok(Found::Fine(estimate)) => {
                self.rates = Some(Rates::learn(self.rates, &plan.items, &estimate.bounds));
                Ok(Cost::Bounds(at_prices(&estimate.bounds, self.chain.view().gas_prices)))
            }
            Ok(Found::Culprit(culprit)) => self.judge(plan, culprit).await,
            Err(EstimateError::Failed(error)) => Err(error.into()),
            Err(EstimateError::Refused(refused)) => Ok(Cost::Not(self.not_estimated(plan, &refused))),
            Err(EstimateError::Reverted { word, reason }) => Ok(Cost::Not(self.refuses(&word, &reason))),
        }
    }

    /// The node does not even try: fewer calls may do.
    fn not_estimated(&mut self, plan: &Plan, refused: &chain::Refused) -> Rest {
        debug!(%refused, calls = plan.calls(), "not estimated");
        if plan.items.len() > 1 && refused.kind != Kind::NonceUsed {
            self.calls = Some((plan.calls() / 2).max(1));
            return Rest::No;
        }
        let text = format!("nothing is sent: the node refuses to estimate it: {refused}");
        self.worries.note(Worry::Stuck, Some(text));
        Rest::For(SHUT)
    }

    /// What is before the one that reverts goes; if nothing is, it is parked.
    async fn judge(&mut self, plan: &mut Plan, culprit: Culprit) -> Result<Cost, Trouble> {
        let Culprit { fine, word, reason } = culprit;
        let whom = blame(&word);
        let Some((fine, estimate)) = fine.filter(|_| matches!(whom, Blame::Item | Blame::Payment)) else {
            return Ok(Cost::Not(self.refuses(&word, &reason)));
        };
        if fine > 0 {
            plan.keep(fine);
            return Ok(Cost::Bounds(estimate.bounds));
        }
        let Some(item) = plan.items.first().cloned() else { return Ok(Cost::Not(Rest::For(SHUT))) };
        let (word, reason) = match payment(&item) {
            Some((amount, _)) if whom == Blame::Payment && self.is_ours_to_pay(&item).await? => {
                (ESCROW_LOW.to_owned(), too_dear(amount))
            }
            _ => (word, reason),
        };
        info!(job = %item.job, stage = item.stage.as_str(), %word, "a call reverts: it is put aside");
        let through = if plan.again { plan.through } else { item.seq };
        self.reverts.remove(&item.seq);
        let idle = if is_idle(item.stage, &word) { vec![item.seq] } else { vec![] };
        let parked = self.park(&Plan::parking((item, word.into(), reason.into()), idle, through)).await?;
        Ok(Cost::Not(if parked { Rest::No } else { Rest::For(SHUT) }))
    }

    /// The contract takes nothing at all.
    fn refuses(&mut self, word: &str, reason: &str) -> Rest {
        if blame(word) == Blame::Epoch {
            self.overtaken();
            return Rest::No;
        }
        debug!(word, reason, "the contract takes nothing");
        let text = format!("nothing is sent: the contract refuses everything ({word})");
        self.worries.note(Worry::Stuck, Some(text));
        Rest::For(SHUT)
    }

    /// Whether it can not be paid for. Then fewer calls are tried.
    fn is_short(&mut self, plan: &Plan, bounds: &Bounds) -> Option<Rest> {
        let purse = self.purse();
        let Err(short) = purse.check(bounds) else {
            self.worries.only(&SHORTS, None);
            return None;
        };
        if purse.reserved > 0 && !matches!(short, Short::Fee { .. }) {
            // What is in flight comes to less than it may.
            return Some(Rest::For(POLL));
        }
        if plan.items.len() > 1 {
            self.calls = Some((plan.calls() / 2).max(1));
            return Some(Rest::No);
        }
        self.worries.only(&SHORTS, Some(short.worry()));
        Some(Rest::For(SHUT))
    }

    fn purse(&self) -> Purse {
        let options = self.chain.options();
        let now = self.reign.context.client.log_now();
        let (spent, reserved) = self.books(|chain| {
            let most = |slot: &Slot| slot.newest().map_or(0, |newest| fees::most(&newest.bounds));
            let reserved = chain.waiting().map(|(_, slot)| most(slot)).fold(0, u128::saturating_add);
            (chain.spent_in_hour(now.0), reserved)
        });
        Purse {
            balance: self.chain.view().account.map(|account| account.balance),
            max_fee: options.max_fee,
            max_spend_per_hour: options.max_spend_per_hour,
            spent,
            reserved,
        }
    }

    // ------------------------------------------------------------ the log first

    async fn prepare(&mut self, plan: Plan, place: Place, nonce: u64, bounds: Bounds) -> Result<Rest, Trouble> {
        let epoch = self.books(|chain| chain.epoch());
        let (calls, items, through) = (plan.calls(), plan.items.len(), plan.through);
        let escrow = plan.items.iter().map(|item| place.escrow(item)).fold(0, u128::saturating_add);
        let transaction = self.chain.transaction(nonce, epoch, self.lead(place, epoch), plan.items, bounds)?;
        let hash = transaction.hash;
        self.commit(transaction, through).await?;
        info!(nonce, transaction = %hash, calls, items, "prepared");
        self.traces.ours(nonce, hash);
        self.reserve(escrow);
        self.worries.note(Worry::Stuck, None);
        // What was too much once may do again.
        self.calls = self.calls.map(|calls| calls.saturating_mul(2));
        Ok(Rest::No)
    }

    async fn commit(&mut self, transaction: Transaction, through: u64) -> Result<(), Trouble> {
        let prepare = Act::Prepare { transaction: Box::new(transaction), through };
        match self.tell(vec![prepare]).await?.into_iter().next() {
            Some(Err(refusal)) => {
                self.claimed &= !matches!(refusal, Refused::StaleEpoch { .. });
                Err(refusal.into())
            }
            _ => Ok(()),
        }
    }

    /// Another try for a nonce, which pays more.
    pub(super) async fn replace(&mut self, nonce: u64, slot: &Slot) -> Result<(), Trouble> {
        let Some(newest) = slot.newest() else { return Ok(()) };
        let now = at_prices(&newest.bounds, self.chain.view().gas_prices);
        let bounds = gas::capped(fees::raised(&newest.bounds, &now));
        if let Some(limit) = self.chain.options().max_fee.filter(|limit| fees::most(&bounds) > *limit) {
            let text = format!(
                "transaction {} (nonce {nonce}) does not land, and paying more for it is above blockchain.max_fee \
                 ({limit})",
                newest.hash
            );
            self.worries.note(Worry::Stuck, Some(text));
            self.traces.put_off(nonce);
            return Ok(());
        }
        let place = self.place();
        let epoch = self.books(|chain| chain.epoch());
        let lead = self.lead(place, epoch);
        let transaction = self.chain.transaction(nonce, epoch, lead, newest.items.clone(), bounds)?;
        let hash = transaction.hash;
        self.commit(transaction, 0).await?;
        warn!(nonce, transaction = %hash, tries = slot.tries.len() + 1, "prepared again, with higher fees");
        self.traces.ours(nonce, hash);
        Ok(())
    }

    // ------------------------------------------------------------ sending

    /// Sends the newest try of a nonce. Whether a node has it then.
    pub(super) async fn send(&mut self, nonce: u64, slot: &Slot) -> Result<bool, Trouble> {
        let Some(newest) = slot.newest() else { return Ok(false) };
        let begun = clock::instant();
        let sent = self.chain.send(newest).await;
        let trace = self.traces.sent(nonce, newest.hash);
        match sent {
            Ok(()) => {
                trace.accepted();
                self.worries.only(&[Worry::Balance, Worry::Stuck], None);
                debug!(nonce, transaction = %newest.hash, took_ms = begun.elapsed().as_millis(), "sent");
                Ok(true)
            }
            Err(SendError::Refused(refused)) => {
                let kind = refusal(&refused.kind);
                trace.refused(kind, refused.kind == Kind::Duplicate);
                debug!(nonce, transaction = %newest.hash, %refused, "the node does not take it");
                self.tell_refused(nonce, &refused);
                Ok(refused.kind == Kind::Duplicate)
            }
            // Nobody knows: it is asked for by its hash.
            Err(SendError::Unknown(reason)) => {
                debug!(nonce, transaction = %newest.hash, %reason, "sent, and no answer heard");
                Ok(false)
            }
            Err(SendError::NotSent(error)) => {
                self.traces.not_sent(nonce);
                Err(error.into())
            }
        }
    }

    fn tell_refused(&mut self, nonce: u64, refused: &chain::Refused) {
        let what = format!("the node does not take the transaction of nonce {nonce}: {}", refused.detail);
        let (worry, text) = match refusal(&refused.kind) {
            Refusal::Taken | Refusal::Cheap => return,
            _ if refused.kind == Kind::InsufficientBalance => {
                (Worry::Balance, format!("{what}. Send STRK to the account: `blockchain account fund-hint`"))
            }
            _ => (Worry::Stuck, what),
        };
        self.worries.note(worry, Some(text));
    }
}

/// Whether a stage of a job that has ended on chain, or was never there, leaves nothing to do.
pub(super) fn is_idle(stage: Stage, word: &str) -> bool {
    match stage {
        Stage::Assign | Stage::Refund => word == "job_ended",
        Stage::Register | Stage::Settle => false,
    }
}

fn refusal(kind: &Kind) -> Refusal {
    match kind {
        Kind::NonceUsed | Kind::Duplicate => Refusal::Taken,
        Kind::InsufficientBounds | Kind::Underpriced => Refusal::Cheap,
        Kind::InsufficientBalance | Kind::BadSignature => Refusal::Hopeful,
        Kind::Reverting(_) | Kind::Other => Refusal::Final,
    }
}
