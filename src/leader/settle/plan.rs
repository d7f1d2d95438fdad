//! What is settled next.
//!
//! The journal says what is to be settled, in order; what was sent and came to
//! nothing is ahead of it. A plan is made under the state's lock, in slices so
//! short that `apply` does not wait, and is checked again when it is committed:
//! the state may have gone on.
//!
//! Invariants
//!
//! * Stages of one job go in the journal's order: nothing overtakes an item of
//!   its job that is to be planned again, and nothing goes while one is parked.
//! * What is passed over has nothing to settle: a plan ends before the first
//!   entry that has, but does not go along.
//! * A plan's items fit one transaction, and there is enough to pay for the jobs it registers. One that is too dear by
//!   itself is put aside, so that it stands in nobody's way.

use std::collections::{BTreeMap, BTreeSet};

use super::items::{Made, Place, Wanted, is_lost};
use crate::chain::gas;
use crate::domain::chain::{Again, Call, ESCROW_LOW, Item, Ledger, Stage};
use crate::domain::journal::{Entry, Event, Sink};
use crate::domain::{Job, JobId, State, Timestamp};

/// Entries looked at while the state's lock is held.
const SLICE: usize = 256;

/// Entries looked at for one plan: most may have nothing to settle.
const ENTRIES: usize = 16_384;

/// Items parked at once.
const PARKED: usize = 256;

/// Felts that a call takes in the account's calldata beside its own.
const CALL_FELTS: usize = 3;

/// Items that go together if one of them was in a transaction that reverted although its estimate did not, by how often
/// that was so, from once; beyond it alone. So what does it is soon among few and then alone, while the others go on.
const TOGETHER: [usize; 3] = [32, 8, 2];

/// Transactions that an item may be in, in one term, that revert although estimates of it do not. It was alone in the
/// last of them, so that nothing is put aside for what another one does.
pub(super) const TRIES: u32 = TOGETHER.len() as u32 + 5;

/// Why items wait for an operator.
const BEHIND: &str = "behind";
const REOPENED: &str = "reopened";
const JOB_ENDED: &str = "job_ended";
const KEEPS_REVERTING: &str = "keeps_reverting";

/// What one transaction may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub calls: usize,
    pub felts: usize,
    /// L2 gas.
    pub gas: u64,
    /// What our account has left for escrow.
    pub escrow: u128,
}

/// An item that can not be settled, a code for machines, and words for people.
pub(super) type Park = (Item, Box<str>, Box<str>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// For the next transaction, in the order of the journal.
    pub items: Vec<Item>,
    /// To be parked. Never together with items of the journal.
    pub parked: Vec<Park>,
    /// Parked and dropped at once: what they were for has come about.
    pub idle: Vec<u64>,
    /// The last entry that was looked at and either goes along or has nothing to settle.
    pub through: u64,
    /// When the oldest of the items happened.
    pub oldest: Option<Timestamp>,
    /// Somebody waits: a job is not run before it is registered.
    pub urgent: bool,
    /// No more fit, or must not go along.
    pub full: bool,
    /// The items are planned again, not new.
    pub again: bool,
    /// Entries that were due, but are no longer in the journal: it ran over its bound.
    pub lost: u64,
    /// Some of its jobs their clients may be asked to pay for.
    pub charged: bool,
    calls: usize,
    felts: usize,
    gas: u64,
    escrow: u128,
    entries: usize,
}

impl Plan {
    /// An empty plan for what follows `seq`.
    pub fn after(seq: u64) -> Self {
        Self { through: seq, ..Self::default() }
    }

    /// Nothing but one item to be parked.
    pub fn parking(parked: Park, idle: Vec<u64>, through: u64) -> Self {
        Self { parked: vec![parked], idle, ..Self::after(through) }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.parked.is_empty()
    }

    /// The last entry before which there is nothing to settle.
    pub fn idle_through(&self) -> u64 {
        let first = self.items.first().or(self.parked.first().map(|(item, ..)| item));
        first.map_or(self.through, |first| first.seq.saturating_sub(1))
    }

    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Keeps the first items only, and what was passed over before the next.
    pub fn keep(&mut self, first: usize) {
        if let Some(next) = self.items.get(first) {
            if !self.again {
                self.through = next.seq.saturating_sub(1);
            }
            self.full = true;
        }
        self.items.truncate(first);
        self.calls = calls_of(&self.items);
    }

    fn fits(&self, item: &Item, place: &Place, room: Room) -> bool {
        let escrow = place.escrow(item);
        if escrow > 0 && self.escrow.saturating_add(escrow) > room.escrow {
            return false;
        }
        let (calls, felts) = (self.calls + item.calls.len(), self.felts + felts_of(&item.calls));
        let gas = self.gas.saturating_add(gas_of(&item.calls));
        self.items.is_empty() || (calls <= room.calls && felts <= room.felts && gas <= room.gas)
    }

    fn push(&mut self, item: Item, place: &Place) {
        self.calls += item.calls.len();
        self.felts += felts_of(&item.calls);
        self.gas = self.gas.saturating_add(gas_of(&item.calls));
        self.escrow = self.escrow.saturating_add(place.escrow(&item));
        self.charged |= place.is_charged(&item);
        self.items.push(item);
    }

    // ------------------------------------------------------------ again

    /// What came to nothing so far, first of all. `reverts` says how often items were reverted.
    pub fn again(state: &State, place: &Place, room: Room, reverts: &BTreeMap<u64, u32>) -> Self {
        let chain = state.chain();
        let mut plan = Self { again: true, ..Self::after(state.journal().cursor(Sink::Chain).unwrap_or(0)) };
        // Jobs with an item that does not go along.
        let mut waiting: BTreeSet<JobId> = BTreeSet::new();
        let mut most = usize::MAX;
        for again in chain.again() {
            let item = &again.item;
            if waiting.contains(&item.job) {
                continue;
            }
            let reverted = reverts.get(&item.seq).copied().unwrap_or(0);
            let together = together(reverted).min(most);
            match renewed(state, place, again, reverted) {
                Renewed::Item(item) if plan.items.len() < together && plan.fits(&item, place, room) => {
                    most = together;
                    plan.push(item, place);
                }
                Renewed::Item(_) => {
                    plan.full = true;
                    break;
                }
                Renewed::Idle(item) => {
                    plan.idle.push(item.seq);
                    plan.parked.push((item, JOB_ENDED.into(), "its stage is behind it".into()));
                }
                Renewed::Parked(parked) => {
                    waiting.insert(item.job);
                    plan.parked.push(parked);
                }
            }
            if plan.parked.len() >= PARKED {
                break;
            }
        }
        plan
    }

    // ------------------------------------------------------------ the journal

    /// Adds what follows, as far as one short look goes. `false`: nothing follows yet, or it is full.
    pub fn extend(&mut self, state: &State, place: &Place, room: Room) -> bool {
        let entries = state.journal().after(self.through, SLICE);
        let more = !entries.is_empty();
        let waiting: BTreeSet<JobId> = state.chain().again().map(|again| again.item.job).collect();
        for entry in entries {
            self.full = self.full || self.entries >= ENTRIES || self.parked.len() >= PARKED;
            if self.full || !self.add(state, place, room, &waiting, &entry) {
                self.full = true;
                return false;
            }
        }
        more
    }

    /// `false`: the entry has to wait.
    fn add(&mut self, state: &State, place: &Place, room: Room, waiting: &BTreeSet<JobId>, entry: &Entry) -> bool {
        let made = match wanted(state, entry) {
            Some(wanted) if !self.is_due(state.chain(), &wanted) => Made::Nothing,
            Some(wanted) => place.item(state, wanted),
            None => Made::Nothing,
        };
        let taken = match made {
            Made::Nothing => true,
            Made::Item(Item { job, .. }) | Made::Unfit { item: Item { job, .. }, .. } if waiting.contains(&job) => {
                false
            }
            Made::Item(item) if state.chain().is_parked(item.job) || self.parks(item.job) => {
                self.park(item, BEHIND, behind())
            }
            Made::Unfit { item, code, reason } => self.park(item, code, reason),
            Made::Item(item) => match place.is_dear(&item) {
                Some(reason) => self.park(item, ESCROW_LOW, reason),
                None => self.take(state, (place, room), entry, item),
            },
        };
        if taken {
            self.lost += state.journal().given(self.through, entry.seq.saturating_sub(1));
            self.through = entry.seq;
            self.entries += 1;
        }
        taken
    }

    /// Whether there is something for the stage to act on. A refund has nothing if the job was never registered.
    fn is_due(&self, chain: &Ledger, wanted: &Wanted) -> bool {
        if wanted.stage != Stage::Refund {
            return true;
        }
        let id = wanted.job.id;
        let of_plan = self.items.iter().any(|item| item.job == id && item.stage == Stage::Register);
        let settlement = chain.settlement(id);
        let on_chain = settlement.is_some_and(|settlement| settlement.chain_job.is_some());
        let sent = settlement.is_some_and(|settlement| {
            settlement.links.iter().any(|link| link.stage == Stage::Register && !settlement.parked.contains(&link.seq))
        });
        let again = chain.again().any(|again| again.item.job == id && again.item.stage == Stage::Register);
        of_plan || on_chain || sent || again
    }

    fn parks(&self, job: JobId) -> bool {
        self.parked.iter().any(|(item, ..)| item.job == job)
    }

    /// What is parked and what is sent are two commands: they do not go together.
    fn park(&mut self, item: Item, code: &str, reason: String) -> bool {
        if self.items.is_empty() {
            self.parked.push((item, code.into(), reason.into()));
        }
        self.items.is_empty()
    }

    fn take(&mut self, state: &State, (place, room): (&Place, Room), entry: &Entry, item: Item) -> bool {
        if !self.parked.is_empty() || !self.fits(&item, place, room) {
            return false;
        }
        self.oldest.get_or_insert(entry.at);
        self.urgent |= item.stage == Stage::Register && state.job(item.job).is_some_and(|job| job.awaits_chain);
        self.push(item, place);
        true
    }
}

/// How many items go together with one that was so often in a transaction that reverted.
fn together(reverted: u32) -> usize {
    let Some(before) = reverted.checked_sub(1) else { return usize::MAX };
    TOGETHER.get(usize::try_from(before).unwrap_or(usize::MAX)).copied().unwrap_or(1)
}

/// What becomes of an item that is to be planned again.
enum Renewed {
    Item(Item),
    /// Nothing is left to do for it.
    Idle(Item),
    Parked(Park),
}

fn renewed(state: &State, place: &Place, again: &Again, tries: u32) -> Renewed {
    let item = place.aimed(again.item.clone());
    let park = |item: Item, code: &str, reason: String| Renewed::Parked((item, code.into(), reason.into()));
    let (chain, job) = (state.chain(), state.job(item.job).map(AsRef::as_ref));
    if is_behind(chain, &item) {
        return park(item, BEHIND, behind());
    }
    if tries >= TRIES {
        let reason = format!("reverted {tries} times, at last alone, although an estimate does not: {}", again.reason);
        return park(item, KEEPS_REVERTING, reason);
    }
    if item.stage == Stage::Refund && job.is_some_and(|job| !is_lost(job)) {
        return park(item, REOPENED, "the job was given another chance: its escrow stays".to_owned());
    }
    if item.stage == Stage::Assign && is_settled(chain, item.job) {
        return Renewed::Idle(item);
    }
    if item.stage == Stage::Register && again.tries == 0 && job.is_some_and(|job| is_stranded(chain, job)) {
        let reason = "the job has ended and no refund would follow: retry the job first".to_owned();
        return park(item, JOB_ENDED, reason);
    }
    if let Some(reason) = place.is_dear(&item) {
        return park(item, ESCROW_LOW, reason);
    }
    if item.stage != Stage::Settle {
        return Renewed::Item(item);
    }
    match place.with_payees(state, item) {
        Made::Item(item) => Renewed::Item(item),
        Made::Unfit { item, code, reason } => park(item, code, reason),
        Made::Nothing => Renewed::Idle(again.item.clone()),
    }
}

fn is_behind(chain: &Ledger, item: &Item) -> bool {
    let parked = chain.settlement(item.job).map(|settlement| settlement.parked.as_slice()).unwrap_or_default();
    parked.iter().any(|seq| *seq < item.seq)
}

fn is_settled(chain: &Ledger, job: JobId) -> bool {
    let landed = |link: &crate::domain::chain::Link| link.stage == Stage::Settle && link.confirmation.is_some();
    chain.settlement(job).is_some_and(|settlement| settlement.links.iter().any(landed))
}

/// Whether registering a job would only lock its escrow.
fn is_stranded(chain: &Ledger, job: &Job) -> bool {
    let refund = |again: &Again| again.item.job == job.id && again.item.stage == Stage::Refund;
    is_lost(job) && !chain.again().any(|again| refund(again))
}

fn wanted<'a>(state: &'a State, entry: &Entry) -> Option<Wanted<'a>> {
    let (job, stage) = Stage::of(&entry.event)?;
    let Event::Job { worker, .. } = entry.event else { return None };
    Some(Wanted { seq: entry.seq, stage, job: state.job(job)?, worker })
}

fn behind() -> String {
    "an earlier stage of the job is parked: retry or drop that one".to_owned()
}

fn calls_of(items: &[Item]) -> usize {
    items.iter().map(|item| item.calls.len()).sum()
}

fn gas_of(calls: &[Call]) -> u64 {
    calls.iter().map(gas::of).fold(0, u64::saturating_add)
}

fn felts_of(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.calldata.len() + CALL_FELTS).sum()
}
