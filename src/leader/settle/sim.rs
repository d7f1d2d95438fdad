//! The settler's decisions without a connection, for `crate::sim`.
//!
//! Planning, the choice for each nonce, the search for the call that reverts and
//! the calls themselves are the duty's own. How they follow each other in a turn,
//! and what this leader remembers of what it sent, is said again here without
//! waiting, fees, and funds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::FutureExt as _;

use super::bisect::{self, Estimator, Found};
use super::items::Place;
use super::lane::{Look, Refusal, Rules, Seen, Step};
use super::plan::{Plan, Room};
use super::purse::{Blame, blame};
use super::sender::is_idle;
use super::{FELTS, IN_FLIGHT, LATE};
use crate::chain::{Estimate, EstimateError, Generation, calls};
use crate::domain::State;
use crate::domain::chain::{Act, Bounds, Felt, Item, Landed, Site, Slot, Transaction};
use crate::domain::journal::Sink;

/// What of a chain a turn looks at. `None`: it does not answer.
pub(crate) trait Chain {
    fn nonce(&mut self) -> Option<u64>;
    fn status(&mut self, hash: Felt) -> Option<Option<Landed>>;
    fn epoch(&mut self) -> Option<u64>;
    /// Why the items revert, if they do.
    fn reverts(&mut self, items: &[Item]) -> Option<String>;
    fn head(&self) -> u64;
}

/// How sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Accepted,
    /// The node has this very transaction.
    Known,
    NonceUsed,
    /// Nobody knows.
    NoAnswer,
}

pub(crate) enum Turn {
    Tell(Vec<Act>),
    Send(Box<Transaction>),
    Rest,
}

#[derive(Default)]
struct Trace {
    hash: Felt,
    first: Option<Instant>,
    last: Option<Instant>,
    accepted: bool,
    refused: Option<Refusal>,
    refusals: u32,
    amiss: Option<Instant>,
}

#[derive(Default)]
pub(crate) struct Settler {
    claimed: bool,
    traces: BTreeMap<u64, Trace>,
    reverts: BTreeMap<u64, u32>,
    passed: u64,
    passed_at: Option<Instant>,
}

const RULES: Rules = Rules {
    resend: Duration::from_secs(10),
    retry: Duration::from_secs(1),
    // Fees do not change here.
    replace: Duration::from_secs(100_000),
    patience: Duration::from_secs(3),
    long_patience: Duration::from_secs(30),
    watch_blocks: 3,
};

const ROOM: Room = Room { calls: 8, felts: FELTS, gas: u64::MAX, escrow: u128::MAX };

fn place() -> Place {
    let Site { contract, account, .. } = site();
    Place { contract, account, generation: Generation::Full, purse: u128::MAX }
}

/// The chain, contract and account that are settled on.
pub(crate) fn site() -> Site {
    Site { chain_id: Felt::short(b"SN_SIM").unwrap(), contract: Felt::from(0xc0_u64), account: Felt::from(0xaa_u64) }
}

/// The epoch that a transaction asserts, if it does.
pub(crate) fn asserted(transaction: &Transaction) -> Option<u64> {
    transaction.lead.first()?.calldata.first()?.to_u64()
}

struct Estimates<'a>(&'a mut (dyn Chain + Send));

impl Estimator for Estimates<'_> {
    async fn estimate(&mut self, items: &[Item]) -> Result<Estimate, EstimateError> {
        match self.0.reverts(items) {
            Some(word) => Err(EstimateError::Reverted { reason: word.clone(), word }),
            None => Ok(Estimate { fee: 1, bounds: Bounds::default() }),
        }
    }
}

impl Settler {
    /// One look at everything, and the next step. `None`: the chain did not answer.
    pub fn turn(&mut self, state: &State, chain: &mut (dyn Chain + Send), now: Instant) -> Option<Turn> {
        let books = state.chain();
        if books.site().is_none() || state.journal().cursor(Sink::Chain).is_none() {
            return Some(Turn::Tell(vec![Act::Claim { site: site(), least: 0 }]));
        }
        if let Some(turn) = self.tend(state, chain, now)? {
            return Some(turn);
        }
        let waiting = books.waiting().count();
        if !self.claimed {
            if waiting > 0 {
                return Some(Turn::Rest);
            }
            let least = chain.epoch()?.saturating_add(1);
            return Some(Turn::Tell(vec![Act::Claim { site: site(), least }]));
        }
        let plan = self.plan(state);
        let through = plan.idle_through();
        let late = self.passed_at.is_none_or(|at| now.saturating_duration_since(at) >= LATE);
        if !plan.again && through > state.journal().cursor(Sink::Chain).unwrap_or(0) && late {
            self.passed = self.passed.max(through);
            self.passed_at = Some(now);
            return Some(Turn::Tell(vec![Act::Skip { through }]));
        }
        if !plan.parked.is_empty() {
            return Some(park(plan));
        }
        if plan.items.is_empty() {
            return Some(Turn::Rest);
        }
        self.go_on(state, plan, waiting, chain)
    }

    /// The log has told how a claim or a plan was taken.
    pub fn claimed(&mut self, claimed: bool) {
        self.claimed = claimed;
    }

    /// A transaction was handed to the chain.
    pub fn sent(&mut self, nonce: u64, hash: Felt, sent: Sent, now: Instant) {
        let trace = self.traces.entry(nonce).or_default();
        if trace.hash != hash {
            *trace = Trace { hash, ..Trace::default() };
        }
        trace.first.get_or_insert(now);
        trace.last = Some(now);
        match sent {
            Sent::Accepted => (trace.accepted, trace.refused, trace.refusals) = (true, None, 0),
            Sent::Known | Sent::NonceUsed => {
                trace.accepted |= sent == Sent::Known;
                trace.refused = Some(Refusal::Taken);
                trace.refusals += 1;
            }
            Sent::NoAnswer => {}
        }
    }

    // ------------------------------------------------------------ what is in flight

    fn tend(&mut self, state: &State, chain: &mut (dyn Chain + Send), now: Instant) -> Option<Option<Turn>> {
        let books = state.chain();
        self.traces.retain(|nonce, _| books.slot(*nonce).is_some());
        if books.lane().next().is_none() {
            return Some(None);
        }
        // The nonce first: what lands in between is not taken for one whose nonce somebody else used.
        let account = chain.nonce()?;
        let head = chain.head();
        let (mut acts, mut sends) = (Vec::new(), Vec::new());
        let lowest = books.waiting().next().map_or(0, |(nonce, _)| nonce);
        let known = |nonce| books.slot(nonce).is_some_and(|slot| slot.landed.is_some());
        for (nonce, slot) in books.lane() {
            let found = found(slot, chain)?;
            let gap = slot.landed.is_none() && account < lowest && !known(account);
            let amiss = found.is_none() && (slot.landed.is_some() || account > nonce || gap);
            let seen = self.note(nonce, slot, amiss, now);
            let look = Look { nonce: account, found, gap, head };
            let step = match &slot.landed {
                Some(landed) => RULES.watched(nonce, landed, &look, &seen),
                None => RULES.waiting(nonce, slot, &look, &seen),
            };
            self.step(nonce, slot, step, seen, &mut acts, &mut sends);
        }
        if !acts.is_empty() {
            return Some(Some(Turn::Tell(acts)));
        }
        // In order, up to the first that no node is known to have.
        for (transaction, accepted) in sends {
            match transaction {
                Some(transaction) => return Some(Some(Turn::Send(Box::new(transaction)))),
                None if accepted => {}
                None => break,
            }
        }
        Some(None)
    }

    fn note(&mut self, nonce: u64, slot: &Slot, amiss: bool, now: Instant) -> Seen {
        let trace = self.traces.entry(nonce).or_default();
        let newest = slot.newest().map(|newest| newest.hash).unwrap_or_default();
        if trace.hash != newest {
            *trace = Trace { hash: newest, ..Trace::default() };
        }
        trace.amiss = amiss.then(|| trace.amiss.unwrap_or(now));
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        Seen {
            first_sent: since(trace.first),
            last_sent: since(trace.last),
            accepted: trace.accepted,
            refused: trace.refused,
            refusals: trace.refusals,
            amiss: since(trace.amiss),
        }
    }

    fn step(
        &mut self,
        nonce: u64,
        slot: &Slot,
        step: Step,
        seen: Seen,
        acts: &mut Vec<Act>,
        sends: &mut Vec<(Option<Transaction>, bool)>,
    ) {
        match step {
            Step::Landed(landed) => {
                if landed.reverted.is_some() && slot.landed.is_none() {
                    slot.items().iter().for_each(|item| *self.reverts.entry(item.seq).or_default() += 1);
                }
                acts.push(Act::Landed { nonce, landed });
            }
            Step::Lost => {
                self.traces.remove(&nonce);
                acts.push(Act::Lost { nonce });
            }
            Step::Abandon => {
                self.traces.remove(&nonce);
                acts.push(Act::Abandon { nonce });
            }
            Step::Close => acts.push(Act::Close { nonce }),
            Step::Send | Step::Replace => sends.push((slot.newest().cloned(), false)),
            Step::Wait if slot.landed.is_none() => sends.push((None, seen.accepted)),
            Step::Wait => {}
        }
    }

    // ------------------------------------------------------------ what is new

    fn plan(&self, state: &State) -> Plan {
        if state.chain().again_len() > 0 {
            let again = Plan::again(state, &place(), ROOM, &self.reverts);
            if !again.is_empty() {
                return again;
            }
        }
        let planned = state.journal().cursor(Sink::Chain).unwrap_or(0);
        let mut plan = Plan::after(planned.max(self.passed));
        while plan.extend(state, &place(), ROOM) {}
        assert_eq!(plan.lost, 0, "entries were dropped that are not settled");
        plan
    }

    fn go_on(&mut self, state: &State, mut plan: Plan, waiting: usize, chain: &mut (dyn Chain + Send)) -> Option<Turn> {
        let accepted = self.traces.values().all(|trace| trace.accepted);
        if waiting >= IN_FLIGHT || (waiting > 0 && (plan.again || !accepted)) {
            return Some(Turn::Rest);
        }
        let nonce = if waiting > 0 { state.chain().next_nonce()? } else { chain.nonce()? };
        if state.chain().slot(nonce).is_some() {
            return Some(Turn::Rest);
        }
        if waiting == 0 || plan.again {
            match bisect::find(&plan.items, &mut Estimates(chain)).now_or_never()? {
                Ok(Found::Fine(_)) => {}
                Ok(Found::Culprit(culprit)) => {
                    let fine = culprit.fine.filter(|_| blame(&culprit.word) == Blame::Item);
                    let Some((fine, _)) = fine else {
                        self.claimed &= blame(&culprit.word) != Blame::Epoch;
                        return Some(Turn::Rest);
                    };
                    if fine == 0 {
                        return Some(park_first(&plan, &culprit.word));
                    }
                    plan.keep(fine);
                }
                Err(_) => return None,
            }
        }
        let epoch = state.chain().epoch();
        let lead = vec![calls::assert_epoch(place().contract, epoch)];
        let hash = hash(nonce, epoch, &plan.items);
        let bounds = Bounds::default();
        let transaction = Box::new(Transaction { nonce, hash, epoch, lead, items: plan.items, bounds });
        Some(Turn::Tell(vec![Act::Prepare { transaction, through: plan.through }]))
    }
}

/// Of the newest try that the chain knows.
fn found(slot: &Slot, chain: &mut (dyn Chain + Send)) -> Option<Option<Landed>> {
    for tried in slot.tries.iter().rev() {
        if let Some(landed) = chain.status(tried.hash)? {
            return Some(Some(landed));
        }
    }
    Some(None)
}

fn park(plan: Plan) -> Turn {
    let dropped = plan.idle.iter().map(|seq| Act::Drop { seq: *seq });
    let parked = Act::Park { parked: plan.parked.clone(), through: plan.through };
    Turn::Tell(std::iter::once(parked).chain(dropped).collect())
}

fn park_first(plan: &Plan, word: &str) -> Turn {
    let Some(item) = plan.items.first().cloned() else { return Turn::Rest };
    let through = if plan.again { plan.through } else { item.seq };
    let idle = if is_idle(item.stage, word) { vec![item.seq] } else { vec![] };
    park(Plan::parking((item, word.into(), word.into()), idle, through))
}

fn hash(nonce: u64, epoch: u64, items: &[Item]) -> Felt {
    let seqs: Vec<u64> = items.iter().map(|item| item.seq).collect();
    let calls: usize = items.iter().map(|item| item.calls.len()).sum();
    calls::cut(crate::domain::Digest::of(format!("{nonce} {epoch} {seqs:?} {calls}").as_bytes()))
}
