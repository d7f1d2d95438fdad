//! The replicated books: lane, waiting and parked items, jobs on chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Again, Block, Closed, Felt, Parked, RECENT_MAX, Settlement, Site, Slot, U256};
use crate::domain::cow::Map;
use crate::domain::ids::{JobId, WorkerId};

/// Counts since ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub succeeded: u64,
    pub reverted: u64,
    pub abandoned: u64,
    /// Calls of transactions that succeeded.
    pub calls: u64,
    /// Fees of all that landed, in the fee token's smallest unit.
    pub fees: u128,
    /// Reverted transactions by the reason's last word, at most 32 of them; the rest is `other`.
    pub reasons: BTreeMap<Box<str>, u64>,
    /// Jobs taken from the contract's events, and those that can not be run here.
    pub arrived: u64,
    pub refused: u64,
}

/// What [`super`] says, in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub(in crate::domain) books: Books,
    pub(in crate::domain) lane: BTreeMap<u64, Arc<Slot>>,
    pub(in crate::domain) again: Map<u64, Arc<Again>>,
    pub(in crate::domain) parked: Map<u64, Arc<Parked>>,
    pub(in crate::domain) settlements: Map<JobId, Arc<Settlement>>,
    /// Jobs that came from the contract; follows from `settlements`.
    pub(in crate::domain) arrived: Map<U256, JobId>,
    pub(in crate::domain) payees: Map<WorkerId, Felt>,
    pub(in crate::domain) recent: Map<u64, Arc<Closed>>,
}

/// The small part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    pub site: Option<Site>,
    pub epoch: u64,
    /// Where planning is; also known when the sink was forgotten meanwhile.
    pub planned: u64,
    pub next_nonce: Option<u64>,
    pub totals: Totals,
    /// Number of the last closed transaction.
    pub closed: u64,
    /// The hour (since 1970) that something was last paid in, and how much in it.
    pub spent: (u64, u128),
    /// The first block whose events were not read; `None`: none ever was.
    pub next_block: Option<u64>,
    /// The newest blocks that were read, oldest first.
    pub tail: Vec<Block>,
}

impl Books {
    /// From now on they are of another site: nonces and blocks are counted anew.
    pub(in crate::domain) fn turn_to(&mut self, site: &Site) {
        self.site = Some(site.clone());
        self.next_nonce = None;
        self.next_block = None;
        self.tail = Vec::new();
    }
}

impl Ledger {
    /// `None` before the first leader began.
    pub fn site(&self) -> Option<&Site> {
        self.books.site.as_ref()
    }

    /// Whether nothing was ever prepared, parked or taken from the chain: then the site is only a name, and perhaps a
    /// wrong one.
    pub fn is_blank(&self) -> bool {
        let Books { next_nonce, totals, closed, .. } = &self.books;
        let unsent = next_nonce.is_none() && *closed == 0 && *totals == Totals::default() && self.lane.is_empty();
        unsent && self.again.len() + self.parked.len() + self.settlements.len() == 0
    }

    pub fn epoch(&self) -> u64 {
        self.books.epoch
    }

    /// The nonce that is planned next; `None` before the first.
    pub fn next_nonce(&self) -> Option<u64> {
        self.books.next_nonce
    }

    pub fn totals(&self) -> &Totals {
        &self.books.totals
    }

    /// Fees paid in the hour (since 1970) of `now_ms`.
    pub fn spent_in_hour(&self, now_ms: u64) -> u128 {
        let (hour, spent) = self.books.spent;
        if hour == now_ms / 3_600_000 { spent } else { 0 }
    }

    pub fn next_block(&self) -> Option<u64> {
        self.books.next_block
    }

    pub fn tail(&self) -> &[Block] {
        &self.books.tail
    }

    /// Open slots by nonce: waiting ones, and those that are watched.
    pub fn lane(&self) -> impl Iterator<Item = (u64, &Arc<Slot>)> {
        self.lane.iter().map(|(nonce, slot)| (*nonce, slot))
    }

    /// Those whose transaction is not known to have landed.
    pub fn waiting(&self) -> impl Iterator<Item = (u64, &Arc<Slot>)> {
        self.lane().filter(|(_, slot)| slot.landed.is_none())
    }

    pub fn slot(&self, nonce: u64) -> Option<&Arc<Slot>> {
        self.lane.get(&nonce)
    }

    /// Items to be planned again, oldest entry first.
    pub fn again(&self) -> impl Iterator<Item = &Arc<Again>> {
        self.again.iter().map(|(_, again)| again)
    }

    pub fn again_len(&self) -> usize {
        self.again.len()
    }

    pub fn parked(&self, seq: u64) -> Option<&Arc<Parked>> {
        self.parked.get(&seq)
    }

    pub fn parked_after(&self, cursor: Option<u64>) -> impl Iterator<Item = &Arc<Parked>> {
        self.parked.after(cursor).map(|(_, parked)| parked)
    }

    pub fn parked_len(&self) -> usize {
        self.parked.len()
    }

    /// Whether an item of the job is parked: what comes after it has to wait.
    pub fn is_parked(&self, job: JobId) -> bool {
        self.settlements.get(&job).is_some_and(|settlement| !settlement.parked.is_empty())
    }

    pub fn settlement(&self, job: JobId) -> Option<&Arc<Settlement>> {
        self.settlements.get(&job)
    }

    /// Our job that came from the contract under this id.
    pub fn arrived(&self, job: U256) -> Option<JobId> {
        self.arrived.get(&job).copied()
    }

    /// Where the contract pays a worker, as far as we told it.
    pub fn payee(&self, worker: WorkerId) -> Option<Felt> {
        self.payees.get(&worker).copied()
    }

    /// Finds out which jobs came from the contract.
    pub(in crate::domain) fn with_arrivals(mut self) -> Self {
        let named = |(job, of): (&JobId, &Arc<Settlement>)| of.chain_job.map(|id| (id, *job));
        let theirs = self.settlements.iter().filter_map(named).filter(|(id, job)| *id != U256::of(*job));
        self.arrived = theirs.fold(Map::default(), |mut map, (id, job)| {
            map.insert(id, job);
            map
        });
        self
    }

    /// With the job goes what is kept of it.
    pub(in crate::domain) fn forget(&mut self, job: JobId) {
        let settlement = self.settlements.remove(&job);
        if let Some(id) = settlement.and_then(|settlement| settlement.chain_job) {
            self.arrived.remove(&id);
        }
    }

    /// Takes a slot out of the lane, and keeps a note of it.
    pub(in crate::domain) fn shut(&mut self, nonce: u64, slot: &Slot) {
        self.lane.remove(&nonce);
        let hash = slot.landed.as_ref().map(|landed| landed.hash);
        let sent = slot.tries.iter().find(|known| Some(known.hash) == hash).or(slot.newest());
        let Some(sent) = sent else { return };
        self.books.closed = self.books.closed.saturating_add(1);
        let mut jobs: Vec<JobId> = sent.items.iter().map(|item| item.job).collect();
        jobs.dedup();
        let closed = Closed {
            number: self.books.closed,
            nonce,
            hash: sent.hash,
            epoch: sent.epoch,
            calls: u32::try_from(sent.calls().count()).unwrap_or(u32::MAX),
            jobs,
            prepared_at: slot.prepared_at,
            landed_at: slot.landed_at,
            landed: slot.landed.clone(),
        };
        self.recent.insert(closed.number, Arc::new(closed));
        while self.recent.len() > RECENT_MAX {
            let Some(oldest) = self.recent.first().map(|(number, _)| *number) else { break };
            self.recent.remove(&oldest);
        }
    }

    /// Nothing that was planned is to be settled any more: an operator did. What is on its way is not sent again. What
    /// landed is watched as before.
    pub(in crate::domain) fn settled_elsewhere(&mut self) {
        let lane: Vec<(u64, Arc<Slot>)> = self.lane().map(|(nonce, slot)| (nonce, Arc::clone(slot))).collect();
        for (nonce, slot) in lane {
            if slot.landed.is_some() {
                self.lane.insert(nonce, Arc::new(Slot { given_back: true, ..Slot::clone(&slot) }));
            } else {
                self.shut(nonce, &slot);
                self.books.totals.abandoned = self.books.totals.abandoned.saturating_add(1);
            }
        }
        self.again = Map::default();
        let parked: BTreeSet<JobId> = self.parked.iter().map(|(_, parked)| parked.item.job).collect();
        self.parked = Map::default();
        for job in parked {
            if let Some(settlement) = self.settlements.get_mut(&job) {
                Arc::make_mut(settlement).parked.clear();
            }
        }
    }

    /// Closed transactions after a number, oldest first; the last [`super::RECENT_MAX`].
    pub fn recent_after(&self, cursor: Option<u64>) -> impl Iterator<Item = &Arc<Closed>> {
        self.recent.after(cursor).map(|(_, closed)| closed)
    }
}
