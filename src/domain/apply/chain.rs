//! What commands do to the books of the chain. [`crate::domain::chain`] says what they hold.

use std::sync::Arc;

use super::{Step, cut};
use crate::domain::chain::{
    Act, Again, Closed, Confirmation, Felt, IN_FLIGHT_MAX, Item, LANE_MAX, LINKS_MAX, Landed, Link,
    Parked, RECENT_MAX, Settlement, Site, Slot, Stage, TAIL_MAX, TRIES_MAX, Transaction, U256,
};
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::JobId;
use crate::domain::job::{Cause, JobError, JobState, Source};
use crate::domain::journal::Sink;

/// Kinds of reasons that are counted apart.
const REASONS_MAX: usize = 32;

/// Why a job whose registration can not be had does not run.
const UNREGISTERED: &str = "registration_failed";

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
            Some(known) if known != site => return Err(other_chain(known, site)),
            Some(_) => {}
            None => self.state.chain.books.site = Some(site.clone()),
        }
        let first = self.state.journal.first_seq();
        if self.state.journal.cursor(Sink::Chain).is_none() {
            self.state.journal.deliver(Sink::Chain, first.saturating_sub(1));
        }
        let books = &mut self.state.chain.books;
        books.epoch = books.epoch.saturating_add(1).max(least);
        Ok(Done::Epoch(books.epoch))
    }

    // ------------------------------------------------------------ planning

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
        Ok(Done::Unchanged)
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
        if through < cursor || through > self.state.journal.last_seq() {
            return Err(not_planned(format!("planning is at entry {cursor}, not at {through}")));
        }
        Ok(cursor)
    }

    fn plan_through(&mut self, through: u64) -> Reply {
        self.planned_through(through)?;
        self.state.journal.deliver(Sink::Chain, through);
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
    pub(super) fn settlement(&mut self, job: JobId, change: impl FnOnce(&mut Settlement)) {
        if !self.state.jobs.contains(&job) {
            return;
        }
        let known = self.state.chain.settlements.get(&job);
        let mut settlement = known.map(|known| Settlement::clone(known)).unwrap_or_default();
        change(&mut settlement);
        self.state.chain.settlements.insert(job, Arc::new(settlement));
        self.touched.settlements.insert(job);
    }

    // ------------------------------------------------------------ outcomes

    fn landed(&mut self, nonce: u64, landed: &Landed) -> Reply {
        let slot = self.slot(nonce)?;
        let Some(transaction) = slot.tries.iter().find(|known| known.hash == landed.hash).cloned() else {
            return Err(not_planned(format!("{} was not prepared for nonce {nonce}", landed.hash)));
        };
        let known = slot.landed.as_ref();
        if known == Some(landed) {
            return Ok(Done::Unchanged);
        }
        let first = known.is_none();
        if known.is_some_and(|known| known.hash != landed.hash || known.reverted != landed.reverted) {
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
        self.state.chain.lane.insert(nonce, Arc::new(slot));
        match &landed.reverted {
            Some(reason) if first => self.plan_again(&transaction.items, reason),
            Some(_) => {}
            None => self.succeeded(&transaction, landed)?,
        }
        Ok(Done::Unchanged)
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
                for link in settlement.links.iter_mut().filter(|link| link.seq == item.seq) {
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
        if !job.awaits_chain || !enough {
            return Ok(());
        }
        self.change(id, |job| job.awaits_chain = false).map(drop)
    }

    fn plan_again(&mut self, items: &[Item], reason: &str) {
        for item in items {
            let tries = self.state.chain.again.get(&item.seq).map_or(0, |again| again.tries).saturating_add(1);
            let again = Again { item: item.clone(), tries, reason: cut(reason).into() };
            self.state.chain.again.insert(item.seq, Arc::new(again));
        }
    }

    /// The transaction is to be sent again, as it is. What was said of its items is no longer so.
    fn lost(&mut self, nonce: u64) -> Reply {
        let mut slot = Slot::clone(&*self.slot(nonce)?);
        let Some(landed) = slot.landed.take() else { return Ok(Done::Unchanged) };
        if landed.reverted.is_some() {
            // Its items are planned elsewhere, and nothing else is to come of it.
            return self.close(nonce);
        }
        slot.landed_at = None;
        let items = slot.items().to_vec();
        self.state.chain.lane.insert(nonce, Arc::new(slot));
        for item in items {
            self.settlement(item.job, |settlement| {
                for link in settlement.links.iter_mut().filter(|link| link.seq == item.seq) {
                    link.confirmation = None;
                    link.block = None;
                }
            });
        }
        Ok(Done::Unchanged)
    }

    fn close(&mut self, nonce: u64) -> Reply {
        let slot = self.slot(nonce)?;
        if slot.landed.is_none() {
            return Err(not_planned(format!("nonce {nonce} has not landed")));
        }
        self.shut(nonce, &slot);
        Ok(Done::Unchanged)
    }

    fn abandon(&mut self, nonce: u64) -> Reply {
        let slot = self.slot(nonce)?;
        if slot.landed.is_some() {
            return Err(not_planned(format!("nonce {nonce} has landed")));
        }
        self.plan_again(slot.items(), "its nonce was used by another transaction");
        self.shut(nonce, &slot);
        let abandoned = &mut self.state.chain.books.totals.abandoned;
        *abandoned = abandoned.saturating_add(1);
        Ok(Done::Unchanged)
    }

    /// Takes a slot out of the lane, and keeps a note of it.
    fn shut(&mut self, nonce: u64, slot: &Slot) {
        self.state.chain.lane.remove(&nonce);
        let hash = slot.landed.as_ref().map(|landed| landed.hash);
        let sent = slot.tries.iter().find(|known| Some(known.hash) == hash).or(slot.newest());
        let Some(sent) = sent else { return };
        let books = &mut self.state.chain.books;
        books.closed = books.closed.saturating_add(1);
        let mut jobs: Vec<JobId> = sent.items.iter().map(|item| item.job).collect();
        jobs.dedup();
        let closed = Closed {
            number: books.closed,
            nonce,
            hash: sent.hash,
            epoch: sent.epoch,
            calls: u32::try_from(sent.calls().count()).unwrap_or(u32::MAX),
            jobs,
            prepared_at: slot.prepared_at,
            landed_at: slot.landed_at,
            landed: slot.landed.clone(),
        };
        let recent = &mut self.state.chain.recent;
        recent.insert(closed.number, Arc::new(closed));
        while recent.len() > RECENT_MAX {
            let Some(oldest) = recent.first().map(|(number, _)| *number) else { break };
            recent.remove(&oldest);
        }
    }

    // ------------------------------------------------------------ parked

    fn park(&mut self, parked: &[(Item, Box<str>, Box<str>)], through: u64) -> Reply {
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
            if item.stage == Stage::Register {
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

    fn retry_parked(&mut self, seq: u64) -> Reply {
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

    fn drop_parked(&mut self, seq: u64) -> Reply {
        let parked = self.state.chain.parked.remove(&seq).ok_or(Refusal::UnknownLetter(seq))?;
        self.settlement(parked.item.job, |settlement| settlement.parked.retain(|known| *known != seq));
        Ok(Done::Letter { letter: seq })
    }

    fn reset_chain(&mut self, site: &Site) -> Reply {
        if self.state.chain.site() == Some(site) {
            return Ok(Done::Unchanged);
        }
        let open: Vec<(u64, Arc<Slot>)> =
            self.state.chain.waiting().map(|(nonce, slot)| (nonce, Arc::clone(slot))).collect();
        for (_, slot) in &open {
            self.plan_again(slot.items(), "another site was accepted");
        }
        let chain = &mut self.state.chain;
        chain.lane.clear();
        chain.payees = Default::default();
        let books = &mut chain.books;
        books.site = Some(site.clone());
        books.next_nonce = None;
        books.next_block = None;
        books.tail = Vec::new();
        Ok(Done::Unchanged)
    }

    /// Whether the escrow of a job went back, or is on its way.
    pub(super) fn is_refunded(&self, job: JobId) -> bool {
        let refund = |item: &Item| item.job == job && item.stage == Stage::Refund;
        let linked = |settlement: &Arc<Settlement>| settlement.links.iter().any(|link| link.stage == Stage::Refund);
        self.state.chain.settlement(job).is_some_and(linked)
            || self.state.chain.again().any(|again| refund(&again.item))
    }
}

/// The last word of a reason in quotes, such as `STALE_EPOCH`; what the contract says stands at its end.
fn kind(reason: &str) -> &str {
    let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let words = reason.split(|c| !word(c)).filter(|found| found.len() > 3 && found.contains('_'));
    words.last().filter(|found| found.len() <= 31).unwrap_or("other")
}

fn other_chain(known: &Site, found: &Site) -> Refusal {
    let show =
        |site: &Site| format!("contract {} by account {} on {}", site.contract, site.account, name(site.chain_id));
    Refusal::OtherChain { known: show(known), found: show(found) }
}

fn name(chain: Felt) -> String {
    String::from_utf8(chain.text().to_vec()).unwrap_or_else(|_| chain.to_string())
}

pub(super) fn not_planned(why: String) -> Refusal {
    Refusal::NotPlanned(why)
}
