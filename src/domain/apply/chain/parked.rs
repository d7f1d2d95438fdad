//! Items that can not be settled, and another site.

use std::sync::Arc;

use crate::domain::apply::{Step, cut};
use crate::domain::chain::{Again, ESCROW_LOW, Felt, Item, Parked, Site, Slot, Stage};
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::JobId;
use crate::domain::job::{Cause, JobError, JobState};

/// Why a job whose registration can not be had does not run.
pub(super) const UNREGISTERED: &str = "registration_failed";

impl Step<'_> {
    pub(super) fn park(&mut self, parked: &[(Item, Box<str>, Box<str>)], through: u64) -> Reply {
        let items: Vec<Item> = parked.iter().map(|(item, ..)| item.clone()).collect();
        self.takeable(&items, through)?;
        let (room, limit) = (self.state.chain.parked_len() + items.len(), self.state.limits.letters);
        if room > limit {
            return Err(Refusal::LettersFull { limit: u64::try_from(limit).unwrap_or(u64::MAX) });
        }
        for (item, code, reason) in parked {
            self.state.chain.again.remove(&item.seq);
            let parked =
                Parked { item: item.clone(), at: self.state.now, code: code.clone(), reason: cut(reason).into() };
            self.state.chain.parked.insert(item.seq, Arc::new(parked));
            self.settlement(item.job, |settlement| settlement.parked.push(item.seq));
            if item.stage == Stage::Register && &**code != ESCROW_LOW {
                self.not_registered(item.job, reason)?;
            }
        }
        self.plan_through(through)
    }

    /// A job that waits for a registration that can not be had fails: it never ran, and nothing is owed.
    fn not_registered(&mut self, id: JobId, reason: &str) -> Result<(), Refusal> {
        if !self.state.jobs.get(&id).is_some_and(|job| job.awaits_chain && !job.state.is_final()) {
            return Ok(());
        }
        let error = JobError { code: UNREGISTERED.to_owned(), detail: cut(reason) };
        self.finish(id, None, JobState::Failed, Cause::Failed, |job| job.error = Some(error.into())).map(drop)
    }

    pub(super) fn retry_parked(&mut self, seq: u64) -> Reply {
        let job = self.state.chain.parked(seq).ok_or(Refusal::UnknownLetter(seq))?.item.job;
        let behind = |parked: &&Arc<Parked>| parked.item.job == job && parked.item.seq >= seq;
        let due: Vec<Arc<Parked>> = self.state.chain.parked_after(None).filter(behind).map(Arc::clone).collect();
        for parked in due {
            self.state.chain.parked.remove(&parked.item.seq);
            let again = Again { item: parked.item.clone(), tries: 0, reason: parked.reason.clone() };
            self.state.chain.again.insert(again.item.seq, Arc::new(again));
        }
        self.settlement(job, |settlement| settlement.parked.retain(|parked| *parked < seq));
        Ok(Done::Letter { letter: seq })
    }

    pub(super) fn drop_parked(&mut self, seq: u64) -> Reply {
        let parked = self.state.chain.parked.remove(&seq).ok_or(Refusal::UnknownLetter(seq))?;
        self.settlement(parked.item.job, |settlement| settlement.parked.retain(|known| *known != seq));
        if parked.item.stage == Stage::Register {
            self.not_registered(parked.item.job, "its registration was dropped")?;
        }
        Ok(Done::Letter { letter: seq })
    }

    pub(super) fn reset_chain(&mut self, site: &Site) -> Reply {
        if self.state.chain.site() == Some(site) {
            return Ok(Done::Unchanged);
        }
        let open = self.state.chain.waiting().filter(|(_, slot)| !slot.given_back);
        let open: Vec<Arc<Slot>> = open.map(|(_, slot)| Arc::clone(slot)).collect();
        for slot in &open {
            self.plan_again(slot.items(), "another site was accepted");
        }
        self.redirect(site.contract);
        let chain = &mut self.state.chain;
        chain.lane.clear();
        chain.payees = Default::default();
        chain.books.turn_to(site);
        Ok(Done::Booked)
    }

    /// Calls of items that are not in flight go to another contract from now on.
    fn redirect(&mut self, to: Felt) {
        let Some(from) = self.state.chain.site().map(|site| site.contract) else { return };
        let turn = |item: &Item| {
            let mut item = item.clone();
            item.calls.iter_mut().filter(|call| call.to == from).for_each(|call| call.to = to);
            item
        };
        let again: Vec<Again> =
            self.state.chain.again().map(|again| Again { item: turn(&again.item), ..Again::clone(again) }).collect();
        for again in again {
            self.state.chain.again.insert(again.item.seq, Arc::new(again));
        }
        let parked = self.state.chain.parked_after(None);
        let parked: Vec<Parked> =
            parked.map(|parked| Parked { item: turn(&parked.item), ..Parked::clone(parked) }).collect();
        for parked in parked {
            self.state.chain.parked.insert(parked.item.seq, Arc::new(parked));
        }
    }
}
