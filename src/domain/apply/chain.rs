//! What commands do to the books of the chain. [`crate::domain::chain`] says what they hold.

mod events;
mod outcomes;
mod parked;

use std::sync::Arc;

use super::Step;
use crate::domain::chain::{
    Act, Felt, IN_FLIGHT_MAX, Item, LANE_MAX, LINKS_MAX, Link, Settlement, Site, Slot, Stage, TRIES_MAX, Transaction,
};
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobState};
use crate::domain::journal::Sink;

impl Step<'_> {
    pub(super) fn chain(&mut self, act: &Act) -> Reply {
        self.touched.chain = true;
        match act {
            Act::Claim { site, least } => self.claim(site, *least),
            Act::Prepare { transaction, through } => self.prepare(transaction, *through),
            Act::Skip { through } => self.plan_through(*through),
            Act::Landed { nonce, landed } => self.landed(*nonce, landed),
            Act::Lost { nonce } => self.lost(*nonce),
            Act::Close { nonce } => self.close(*nonce),
            Act::Abandon { nonce } => self.abandon(*nonce),
            Act::Park { parked, through } => self.park(parked, *through),
            Act::Retry { seq } => self.retry_parked(*seq),
            Act::Drop { seq } => self.drop_parked(*seq),
            Act::Reset { site } => self.reset_chain(site),
            Act::Followed { from, to, arrivals, payments } => self.followed(*from, *to, arrivals, payments),
            Act::Rewind { to } => self.rewind(*to),
        }
    }

    fn claim(&mut self, site: &Site, least: u64) -> Reply {
        match self.state.chain.site() {
            Some(known) if known == site => {}
            // What was read of its blocks was nothing.
            Some(_) if self.state.chain.is_blank() => self.state.chain.books.turn_to(site),
            Some(known) => return Err(other_chain(known, site)),
            None => self.state.chain.books.site = Some(site.clone()),
        }
        if self.state.journal.cursor(Sink::Chain).is_none() {
            let begin = self.state.journal.first_seq().saturating_sub(1).max(self.state.chain.books.planned);
            self.state.journal.deliver(Sink::Chain, begin);
        }
        let books = &mut self.state.chain.books;
        books.epoch = books.epoch.saturating_add(1).max(least);
        Ok(Done::Epoch(books.epoch))
    }

    fn prepare(&mut self, transaction: &Transaction, through: u64) -> Reply {
        let current = self.state.chain.epoch();
        if transaction.epoch != current {
            return Err(Refusal::StaleEpoch { sent: transaction.epoch, current });
        }
        match self.state.chain.lane.get(&transaction.nonce) {
            Some(slot) => self.try_again(Arc::clone(slot), transaction),
            None => self.new_slot(transaction, through),
        }
    }

    /// Another transaction for a nonce that has one: its items stay.
    fn try_again(&mut self, slot: Arc<Slot>, transaction: &Transaction) -> Reply {
        let nonce = transaction.nonce;
        if slot.landed.is_some() {
            return Err(not_planned(format!("nonce {nonce} is used")));
        }
        if slot.tries.iter().any(|known| known.hash == transaction.hash) {
            return Ok(Done::Unchanged);
        }
        if slot.tries.len() >= TRIES_MAX {
            return Err(not_planned(format!("nonce {nonce} was tried {TRIES_MAX} times")));
        }
        if slot.items() != transaction.items {
            return Err(not_planned(format!("nonce {nonce} is planned for other items")));
        }
        let mut slot = Slot::clone(&slot);
        slot.tries.push(transaction.clone());
        self.state.chain.lane.insert(nonce, Arc::new(slot));
        self.link(transaction);
        Ok(Done::Booked)
    }

    fn new_slot(&mut self, transaction: &Transaction, through: u64) -> Reply {
        let chain = &self.state.chain;
        let waiting = chain.waiting().count();
        if waiting >= IN_FLIGHT_MAX {
            return Err(not_planned(format!("{waiting} transactions are in flight")));
        }
        if waiting > 0 && chain.next_nonce() != Some(transaction.nonce) {
            let nonce = transaction.nonce;
            return Err(not_planned(format!("nonce {nonce} is out of turn, {:?} is next", chain.next_nonce())));
        }
        self.takeable(&transaction.items, through)?;
        self.refundable(&transaction.items)?;
        self.make_room_in_lane();
        for item in &transaction.items {
            self.state.chain.again.remove(&item.seq);
        }
        let slot = Slot {
            tries: vec![transaction.clone()],
            prepared_at: self.state.now,
            prepared_index: self.position.index,
            landed: None,
            landed_at: None,
            given_back: false,
        };
        self.state.chain.lane.insert(transaction.nonce, Arc::new(slot));
        self.state.chain.books.next_nonce = Some(transaction.nonce.saturating_add(1));
        self.link(transaction);
        self.plan_through(through)
    }

    /// Whether every item is due: to be planned again, or from an entry that planning has not passed.
    fn takeable(&self, items: &[Item], through: u64) -> Result<(), Refusal> {
        let cursor = self.planned_through(through)?;
        let mut last = None;
        for item in items {
            let due = match self.state.chain.again.get(&item.seq) {
                Some(again) => again.item.job == item.job && again.item.stage == item.stage,
                None => item.seq > cursor && item.seq <= through,
            };
            // Earlier ones must not be planned behind later ones.
            if !due || last >= Some(item.seq) {
                return Err(not_planned(format!("entry {} is not to be planned", item.seq)));
            }
            last = Some(item.seq);
        }
        Ok(())
    }

    /// Whether no escrow goes back of a job that was given another chance since, or was completed by it.
    fn refundable(&self, items: &[Item]) -> Result<(), Refusal> {
        let lost = |state: JobState| matches!(state, JobState::Failed | JobState::Cancelled);
        let goes_on = |item: &&Item| self.state.jobs.get(&item.job).is_some_and(|job| !lost(job.state));
        match items.iter().filter(|item| item.stage == Stage::Refund).find(goes_on) {
            Some(item) => Err(not_planned(format!("job {} was reopened", item.job))),
            None => Ok(()),
        }
    }

    /// The cursor, if `through` is not behind it and not beyond the journal.
    fn planned_through(&self, through: u64) -> Result<u64, Refusal> {
        let Some(cursor) = self.state.journal.cursor(Sink::Chain) else {
            return Err(not_planned("no leader has begun".to_owned()));
        };
        let cursor = cursor.max(self.state.chain.books.planned);
        if through < cursor || through > self.state.journal.last_seq() {
            return Err(not_planned(format!("planning is at entry {cursor}, not at {through}")));
        }
        Ok(cursor)
    }

    fn plan_through(&mut self, through: u64) -> Reply {
        self.planned_through(through)?;
        self.state.journal.deliver(Sink::Chain, through);
        self.state.chain.books.planned = through;
        Ok(Done::Delivered { through })
    }

    fn make_room_in_lane(&mut self) {
        while self.state.chain.lane.len() >= LANE_MAX {
            let landed = self.state.chain.lane().find(|(_, slot)| slot.landed.is_some()).map(|(nonce, _)| nonce);
            let Some(nonce) = landed else { return };
            if self.close(nonce).is_err() {
                return;
            }
        }
    }

    /// Notes in the jobs' records which transaction carries them.
    fn link(&mut self, transaction: &Transaction) {
        let index = self.position.index;
        for item in &transaction.items {
            let (nonce, hash) = (transaction.nonce, transaction.hash);
            let link = Link { stage: item.stage, seq: item.seq, index, nonce, hash, confirmation: None, block: None };
            self.settlement(item.job, |settlement| {
                settlement.links.retain(|known| known.seq != item.seq);
                let place = settlement.links.partition_point(|known| known.seq < item.seq);
                settlement.links.insert(place, link);
                if settlement.links.len() > LINKS_MAX {
                    let oldest = settlement.links.iter().position(|link| link.stage == Stage::Assign).unwrap_or(0);
                    settlement.links.remove(oldest);
                }
            });
        }
    }

    /// Changes what is kept of a job on chain; a job that is forgotten has nothing any more.
    fn settlement(&mut self, job: JobId, change: impl FnOnce(&mut Settlement)) {
        if !self.state.jobs.contains(&job) {
            return;
        }
        let known = self.state.chain.settlements.get(&job);
        let mut settlement = known.map(|known| Settlement::clone(known)).unwrap_or_default();
        change(&mut settlement);
        self.state.chain.settlements.insert(job, Arc::new(settlement));
        self.touched.settlements.insert(job);
    }

    /// Whether a job that failed would wait for its registration if it had another chance. `None`: none will come.
    pub(super) fn awaits_registration(&self, job: &Job) -> Option<bool> {
        let (chain, id) = (&self.state.chain, job.id);
        let links = chain.settlement(id).map(|settlement| settlement.links.as_slice()).unwrap_or_default();
        let reached =
            links.iter().filter(|link| link.stage == Stage::Register).filter_map(|link| link.confirmation).max();
        let wanted = job.spec.settlement.map(|terms| terms.confirmation);
        if !job.awaits_chain || (reached.is_some() && reached >= wanted) {
            return Some(false);
        }
        let of_it = |item: &Item| item.job == id && item.stage == Stage::Register;
        let open = chain.again().any(|again| of_it(&again.item))
            || chain.parked_after(None).any(|parked| of_it(&parked.item))
            || chain.lane().any(|(_, slot)| slot.items().iter().any(of_it));
        // What failed for something else has its registration still ahead.
        let dropped = job.error.as_ref().is_some_and(|error| error.code == parked::UNREGISTERED);
        (open || !dropped).then_some(true)
    }

    /// Whether the escrow of a job went back, or is on its way.
    pub(super) fn is_refunded(&self, job: JobId) -> bool {
        let refund = |item: &Item| item.job == job && item.stage == Stage::Refund;
        let linked = |settlement: &Arc<Settlement>| settlement.links.iter().any(|link| link.stage == Stage::Refund);
        self.state.chain.settlement(job).is_some_and(linked)
            || self.state.chain.again().any(|again| refund(&again.item))
    }
}

fn other_chain(known: &Site, found: &Site) -> Refusal {
    let show =
        |site: &Site| format!("contract {} by account {} on {}", site.contract, site.account, name(site.chain_id));
    Refusal::OtherChain { known: show(known), found: show(found) }
}

fn name(chain: Felt) -> String {
    String::from_utf8(chain.text().to_vec()).unwrap_or_else(|_| chain.to_string())
}

fn not_planned(why: String) -> Refusal {
    Refusal::NotPlanned(why)
}
