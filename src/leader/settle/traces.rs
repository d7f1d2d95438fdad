//! What this leader did for each nonce in flight, and since when it has been how it is.
//!
//! Kept in memory only: a successor asks the chain.

use std::collections::BTreeMap;
use std::time::Instant;

use super::lane::{Refusal, Seen};
use crate::clock;
use crate::domain::chain::Felt;

#[derive(Debug, Default)]
pub(super) struct Traces(BTreeMap<u64, Trace>);

#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Of the newest try.
    hash: Felt,
    /// Prepared by this leader, and not sent by anyone.
    fresh: bool,
    first_sent: Option<Instant>,
    last_sent: Option<Instant>,
    accepted: bool,
    refused: Option<Refusal>,
    refusals: u32,
    amiss: Option<Instant>,
}

impl Traces {
    /// A try was prepared here, so nobody can have sent it.
    pub fn ours(&mut self, nonce: u64, hash: Felt) {
        self.0.insert(nonce, Trace { hash, fresh: true, ..Trace::default() });
    }

    pub fn is_fresh(&self, nonce: u64, hash: Felt) -> bool {
        self.0.get(&nonce).is_some_and(|trace| trace.fresh && trace.hash == hash)
    }

    pub fn sent(&mut self, nonce: u64, hash: Felt) -> &mut Trace {
        let trace = self.0.entry(nonce).or_default();
        if trace.hash != hash {
            *trace = Trace { hash, ..Trace::default() };
        }
        let now = clock::instant();
        trace.fresh = false;
        trace.first_sent.get_or_insert(now);
        trace.last_sent = Some(now);
        trace
    }

    /// It did not leave this node.
    pub fn not_sent(&mut self, nonce: u64) {
        if let Some(trace) = self.0.get_mut(&nonce) {
            trace.first_sent = None;
            trace.last_sent = None;
        }
    }

    /// It is not replaced for a while.
    pub fn put_off(&mut self, nonce: u64) {
        if let Some(trace) = self.0.get_mut(&nonce) {
            trace.first_sent = trace.last_sent.map(|_| clock::instant());
            trace.refused = None;
        }
    }

    /// Whether a node said of everything that was sent that it has it.
    pub fn all_accepted(&self) -> bool {
        self.0.values().all(|trace| trace.accepted)
    }

    /// Notes whether something is amiss with a nonce.
    pub fn amiss(&mut self, nonce: u64, amiss: bool) {
        if amiss {
            self.0.entry(nonce).or_default().amiss.get_or_insert_with(clock::instant);
        } else if let Some(trace) = self.0.get_mut(&nonce) {
            trace.amiss = None;
        }
    }

    pub fn seen(&self, nonce: u64) -> Seen {
        let Some(trace) = self.0.get(&nonce) else { return Seen::default() };
        Seen {
            first_sent: trace.first_sent.map(|at| at.elapsed()),
            last_sent: trace.last_sent.map(|at| at.elapsed()),
            accepted: trace.accepted,
            refused: trace.refused,
            refusals: trace.refusals,
            amiss: trace.amiss.map(|at| at.elapsed()),
        }
    }

    /// Forgets all nonces that are not `in_flight`.
    pub fn retain(&mut self, in_flight: impl Fn(u64) -> bool) {
        self.0.retain(|nonce, _| in_flight(*nonce));
    }

    /// Begins anew with a nonce.
    pub fn forget(&mut self, nonce: u64) {
        self.0.remove(&nonce);
    }
}

impl Trace {
    pub fn accepted(&mut self) {
        self.accepted = true;
        self.refused = None;
        self.refusals = 0;
    }

    /// `known`: the node has it already.
    pub fn refused(&mut self, refusal: Refusal, known: bool) {
        self.accepted |= known;
        self.refused = Some(refusal);
        self.refusals = self.refusals.saturating_add(1);
    }
}
