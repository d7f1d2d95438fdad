//! The chain as this node knows it at one moment: its own connection beside what is replicated.
//!
//! The books (transactions, epoch, cursor, what is parked) are the same on every
//! node at the same index. Connection, block, contract, account and balance are
//! this node's own view, whether it leads or not: so a follower that can not
//! reach the chain says so before it has to lead.
//!
//! Status, health, alarms and metrics are all made from one [`Picture`], so that
//! they can not disagree. What is not known is `None`, never 0.

use super::alarms::{self, Alarm};
use crate::api::Context;
use crate::chain;
use crate::clock;
use crate::domain::chain::{ESCROW_LOW, Parked, Site, Totals};
use crate::domain::journal::Sink;
use crate::domain::{JobState, State, Timestamp};
use crate::telemetry::metrics;

/// This node's own view, and what it was told.
#[derive(Clone, Debug)]
pub struct Own {
    pub view: chain::View,
    pub options: chain::Options,
}

impl Own {
    /// What this node would settle by.
    pub fn site(&self) -> Option<Site> {
        let chain_id = self.view.chain_id?;
        Some(Site { chain_id, contract: self.options.contract, account: self.options.account })
    }
}

/// A registration that goes on when the account is funded: its job may still come to something.
fn awaits_funds(state: &State, parked: &Parked) -> bool {
    let lost =
        || state.job(parked.item.job).is_some_and(|job| matches!(job.state, JobState::Failed | JobState::Cancelled));
    &*parked.code == ESCROW_LOW && !lost()
}

#[derive(Clone, Debug)]
pub struct Picture {
    /// `None`: the chain is disabled on this node.
    pub own: Option<Own>,
    /// Which contract the books are of, told by which account.
    pub site: Option<Site>,
    pub epoch: u64,
    pub next_nonce: Option<u64>,
    /// Transactions not known to have landed, and those that landed and are watched.
    pub waiting: u64,
    pub watched: u64,
    /// When the oldest of those that wait was prepared.
    pub waiting_since: Option<Timestamp>,
    /// Stages of jobs that are to be planned again.
    pub again: u64,
    pub parked: u64,
    /// Of these, registrations that wait until the account is funded.
    pub escrow_low: u64,
    pub totals: Totals,
    pub spent_this_hour: u128,
    pub cursor: Option<u64>,
    /// Entries of the journal that were not looked at yet.
    pub unsettled: u64,
    /// Entries that were dropped before they were looked at: the chain was behind for too long.
    pub lost: u64,
    /// The first block whose events were not read.
    pub next_block: Option<u64>,
    pub applied_index: u64,
}

impl Picture {
    /// Looks at this node and its state.
    pub fn of(context: &Context) -> Self {
        let own = context.chain.as_ref().map(|chain| Own { view: chain.view(), options: chain.options().clone() });
        context.client.read(|state| Self::from_parts(own, state, clock::now()))
    }

    pub fn from_parts(own: Option<Own>, state: &State, now: Timestamp) -> Self {
        let (books, journal) = (state.chain(), state.journal());
        let cursor = journal.cursor(Sink::Chain);
        let dropped = journal.first_seq().saturating_sub(1);
        let waiting = count(books.waiting().count());
        Self {
            own,
            site: books.site().cloned(),
            epoch: books.epoch(),
            next_nonce: books.next_nonce(),
            waiting,
            watched: count(books.lane().count()).saturating_sub(waiting),
            waiting_since: books.waiting().map(|(_, slot)| slot.prepared_at).min(),
            again: count(books.again_len()),
            parked: count(books.parked_len()),
            escrow_low: count(books.parked_after(None).filter(|parked| awaits_funds(state, parked)).count()),
            totals: books.totals().clone(),
            spent_this_hour: books.spent_in_hour(now.max(state.now()).0),
            cursor,
            unsettled: cursor.map_or(0, |cursor| journal.waiting_after(cursor)),
            lost: cursor.map_or(0, |cursor| journal.given(cursor, dropped)),
            next_block: books.next_block(),
            applied_index: state.applied(),
        }
    }

    /// connected, connecting, down, paused or disabled.
    pub fn state(&self) -> &'static str {
        self.own.as_ref().map_or("disabled", |own| own.view.state.as_str())
    }

    pub fn alarms(&self) -> Vec<Alarm> {
        alarms::of(self)
    }

    /// Transactions that landed or were given up, and those under way.
    pub fn prepared(&self) -> u64 {
        let Totals { succeeded, reverted, abandoned, .. } = self.totals;
        succeeded.saturating_add(reverted).saturating_add(abandoned).saturating_add(self.waiting)
    }

    /// The same for a scrape.
    pub fn gauges(&self) -> metrics::Chain {
        let raised = self.alarms();
        let view = self.own.as_ref().map(|own| &own.view);
        let account = view.and_then(|view| view.account.as_ref());
        let Totals { succeeded, reverted, abandoned, calls, fees, reasons, arrived, refused } = &self.totals;
        metrics::Chain {
            connected: view.map(|view| matches!(view.state, chain::State::Connected | chain::State::Paused)),
            block: view.and_then(|view| view.block).map(|block| block.number),
            balance: account.map(|account| super::amount(account.balance)).and_then(|digits| digits.parse().ok()),
            outcomes: [("succeeded", *succeeded), ("reverted", *reverted), ("abandoned", *abandoned)],
            reverts: reasons.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
            calls: *calls,
            fees: *fees,
            arrived: *arrived,
            refused: *refused,
            waiting: self.waiting,
            again: self.again,
            parked: self.parked,
            unsettled: self.unsettled,
            epoch: self.epoch,
            cursor: self.cursor,
            alarms: alarms::CODES
                .into_iter()
                .map(|code| (code, raised.iter().any(|alarm| alarm.code == code)))
                .collect(),
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
