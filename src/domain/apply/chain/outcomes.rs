//! What the chain says of transactions, and what follows for their items.

use std::sync::Arc;

use super::not_planned;
use crate::domain::apply::{Step, cut};
use crate::domain::chain::{Again, Confirmation, Item, Landed, Link, Slot, Stage, Transaction, U256};
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::JobId;

/// Kinds of reasons that are counted apart.
const REASONS_MAX: usize = 32;

impl Step<'_> {
    pub(super) fn landed(&mut self, nonce: u64, landed: &Landed) -> Reply {
        let slot = self.slot(nonce)?;
        let Some(transaction) = slot.tries.iter().find(|known| known.hash == landed.hash).cloned() else {
            return Err(not_planned(format!("{} was not prepared for nonce {nonce}", landed.hash)));
        };
        let known = slot.landed.as_ref();
        let first = known.is_none();
        if known.is_some_and(|known| known.hash == landed.hash && known.confirmation >= landed.confirmation) {
            return Ok(Done::Unchanged);
        }
        if known.is_some_and(|known| known.hash != landed.hash) {
            return Err(not_planned(format!("nonce {nonce} landed otherwise")));
        }
        let mut slot = Slot::clone(&slot);
        let mut kept = landed.clone();
        kept.reverted = kept.reverted.as_deref().map(|reason| cut(reason).into());
        slot.landed = Some(kept);
        if first {
            slot.landed_at = Some(self.state.now);
            self.account(&transaction, landed);
        }
        let given_back = slot.given_back;
        slot.given_back |= landed.reverted.is_some();
        self.state.chain.lane.insert(nonce, Arc::new(slot));
        match &landed.reverted {
            Some(reason) if !given_back => self.plan_again(&transaction.items, reason),
            Some(_) => {}
            None => self.succeeded(&transaction, landed)?,
        }
        Ok(Done::Booked)
    }

    fn slot(&self, nonce: u64) -> Result<Arc<Slot>, Refusal> {
        let slot = self.state.chain.lane.get(&nonce).map(Arc::clone);
        slot.ok_or_else(|| not_planned(format!("nonce {nonce} is not in flight")))
    }

    /// Counts a transaction that landed, and what it cost.
    fn account(&mut self, transaction: &Transaction, landed: &Landed) {
        let hour = self.state.now.0 / 3_600_000;
        let books = &mut self.state.chain.books;
        let before = if books.spent.0 == hour { books.spent.1 } else { 0 };
        books.spent = (hour, before.saturating_add(landed.fee));
        let totals = &mut books.totals;
        totals.fees = totals.fees.saturating_add(landed.fee);
        let Some(reason) = &landed.reverted else {
            totals.succeeded = totals.succeeded.saturating_add(1);
            let calls = u64::try_from(transaction.calls().count()).unwrap_or(u64::MAX);
            totals.calls = totals.calls.saturating_add(calls);
            return;
        };
        totals.reverted = totals.reverted.saturating_add(1);
        let kind = kind(reason);
        let kind = if totals.reasons.len() < REASONS_MAX || totals.reasons.contains_key(kind) { kind } else { "other" };
        *totals.reasons.entry(kind.into()).or_default() += 1;
    }

    fn succeeded(&mut self, transaction: &Transaction, landed: &Landed) -> Result<(), Refusal> {
        for item in &transaction.items {
            for (worker, payee) in &item.payees {
                self.state.chain.payees.insert(*worker, *payee);
            }
            let id = landed.ids.iter().find(|(job, _)| *job == item.job).map(|(_, id)| *id);
            self.settlement(item.job, |settlement| {
                if item.stage == Stage::Register {
                    settlement.chain_job = id.or(settlement.chain_job).or(Some(U256::of(item.job)));
                }
                let here = |link: &&mut Link| link.seq == item.seq && link.nonce == transaction.nonce;
                for link in settlement.links.iter_mut().filter(here) {
                    link.hash = transaction.hash;
                    link.confirmation = Some(landed.confirmation);
                    link.block = landed.block;
                }
            });
            if let Some(id) = id.filter(|id| *id != U256::of(item.job) && self.state.jobs.contains(&item.job)) {
                self.state.chain.arrived.insert(id, item.job);
            }
            if item.stage == Stage::Register {
                self.let_run(item.job, landed.confirmation)?;
            }
        }
        Ok(())
    }

    /// A job that waited for its registration may be run.
    fn let_run(&mut self, id: JobId, reached: Confirmation) -> Result<(), Refusal> {
        let Some(job) = self.state.jobs.get(&id) else { return Ok(()) };
        let enough = job.spec.settlement.is_none_or(|terms| reached >= terms.confirmation);
        if !job.awaits_chain || !enough || job.state.is_final() {
            return Ok(());
        }
        self.change(id, |job| job.awaits_chain = false).map(drop)
    }

    pub(super) fn plan_again(&mut self, items: &[Item], reason: &str) {
        for item in items {
            let tries = self.state.chain.again.get(&item.seq).map_or(0, |again| again.tries).saturating_add(1);
            let again = Again { item: item.clone(), tries, reason: cut(reason).into() };
            self.state.chain.again.insert(item.seq, Arc::new(again));
        }
    }

    /// The transaction is to be sent again, as it is, even if it was reverted: those behind it need its nonce to be
    /// used. What was said of its items is no longer so.
    pub(super) fn lost(&mut self, nonce: u64) -> Reply {
        let mut slot = Slot::clone(&*self.slot(nonce)?);
        if slot.landed.take().is_none() {
            return Ok(Done::Unchanged);
        }
        slot.landed_at = None;
        let items = slot.items().to_vec();
        self.state.chain.lane.insert(nonce, Arc::new(slot));
        for item in items {
            self.settlement(item.job, |settlement| {
                for link in settlement.links.iter_mut().filter(|link| link.seq == item.seq && link.nonce == nonce) {
                    link.confirmation = None;
                    link.block = None;
                }
            });
        }
        Ok(Done::Booked)
    }

    pub(super) fn close(&mut self, nonce: u64) -> Reply {
        let slot = self.slot(nonce)?;
        if slot.landed.is_none() {
            return Err(not_planned(format!("nonce {nonce} has not landed")));
        }
        self.state.chain.shut(nonce, &slot);
        Ok(Done::Booked)
    }

    pub(super) fn abandon(&mut self, nonce: u64) -> Reply {
        let slot = self.slot(nonce)?;
        if slot.landed.is_some() {
            return Err(not_planned(format!("nonce {nonce} has landed")));
        }
        if !slot.given_back {
            self.plan_again(slot.items(), "its nonce was used by another transaction");
        }
        self.state.chain.shut(nonce, &slot);
        let abandoned = &mut self.state.chain.books.totals.abandoned;
        *abandoned = abandoned.saturating_add(1);
        Ok(Done::Booked)
    }
}

/// The last word of a reason in quotes, such as `STALE_EPOCH`; what the contract says stands at its end.
fn kind(reason: &str) -> &str {
    let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let mut words = reason.rsplit(|c| !word(c)).filter(|found| found.len() > 3 && found.contains('_'));
    words.next().filter(|found| found.len() <= 31).unwrap_or("other")
}
