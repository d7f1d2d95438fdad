//! What the contract's events do to the books: jobs that others submitted, and payments.
//!
//! Blocks are read again when the chain took another turn. A job is taken once,
//! by its id; a payment is taken back with its block.

use super::Step;
use super::chain::not_planned;
use crate::domain::chain::{Arrival, Block, PAYMENTS_MAX, Payment, Settlement, TAIL_MAX, U256};
use crate::domain::check;
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::JobId;
use crate::domain::index::texts;
use crate::domain::job::Source;

impl Step<'_> {
    pub(super) fn followed(&mut self, from: u64, to: Block, arrivals: &[Arrival], payments: &[Payment]) -> Reply {
        let next = self.state.chain.next_block();
        if next.is_some_and(|next| next != from) || to.number < from {
            return Err(not_planned(format!("events are read up to block {next:?}, not {from}")));
        }
        self.room_for_arrivals(arrivals)?;
        for arrival in arrivals {
            self.arrive(arrival);
        }
        for payment in payments {
            self.pay(payment);
        }
        let books = &mut self.state.chain.books;
        books.next_block = Some(to.number.saturating_add(1));
        books.tail.push(to);
        let surplus = books.tail.len().saturating_sub(TAIL_MAX);
        books.tail.drain(..surplus);
        Ok(Done::Unchanged)
    }

    /// Whether all new jobs find room: none is left behind for want of it.
    fn room_for_arrivals(&self, arrivals: &[Arrival]) -> Result<(), Refusal> {
        let new = arrivals.iter().filter_map(|arrival| arrival.submit.as_deref());
        let new: Vec<_> = new.filter(|submit| !self.state.remembers(submit.id)).collect();
        let limit = self.state.limits.backlog;
        if !new.is_empty() && self.state.index.active.len() + new.len() > limit {
            return Err(Refusal::BacklogFull { limit: u64::try_from(limit).unwrap_or(u64::MAX) });
        }
        let bytes = new.iter().map(|submit| texts(&submit.spec)).sum();
        new.iter().try_for_each(|submit| self.room_for(&submit.spec, bytes))
    }

    /// Notes what was paid for a job. Our own may not be known to be registered yet, and are known by their ids.
    fn pay(&mut self, payment: &Payment) {
        let ours = JobId(payment.job.low.to_be_bytes());
        let job = self.state.chain.arrived(payment.job).unwrap_or(ours);
        let Some(known) = self.state.chain.settlement(job) else { return };
        if known.chain_job.unwrap_or(U256::of(job)) != payment.job {
            return;
        }
        self.settlement(job, |settlement| {
            settlement.paid = settlement.paid.saturating_add(payment.amount);
            settlement.payments.push((payment.block, payment.amount));
            let surplus = settlement.payments.len().saturating_sub(PAYMENTS_MAX);
            settlement.payments.drain(..surplus);
        });
    }

    /// Takes a job from the contract. It is registered there already.
    fn arrive(&mut self, arrival: &Arrival) {
        let taken = arrival.submit.as_ref().is_some_and(|submit| {
            let known = self.state.remembers(submit.id);
            let accepted = check::submit(submit).is_ok()
                && submit.source == Source::Chain
                && (known || matches!(self.submit(submit), Ok(Done::Submitted { .. })));
            if accepted && !known {
                self.state.chain.arrived.insert(arrival.job, submit.id);
                self.settlement(submit.id, |settlement| settlement.chain_job = Some(arrival.job));
            }
            accepted
        });
        let totals = &mut self.state.chain.books.totals;
        let count = if taken { &mut totals.arrived } else { &mut totals.refused };
        *count = count.saturating_add(1);
    }

    pub(super) fn rewind(&mut self, to: u64) -> Reply {
        let books = &mut self.state.chain.books;
        if books.next_block.is_none_or(|next| to >= next) {
            return Ok(Done::Unchanged);
        }
        books.next_block = Some(to);
        books.tail.retain(|block| block.number < to);
        self.take_payments_back(to);
        Ok(Done::Unchanged)
    }

    /// What was paid in blocks from `first` on is read again, if it is still so.
    fn take_payments_back(&mut self, first: u64) {
        let gone = |settlement: &Settlement| settlement.payments.iter().any(|(block, _)| *block >= first);
        let all = self.state.chain.settlements.iter();
        let jobs: Vec<JobId> = all.filter(|(_, settlement)| gone(settlement)).map(|(job, _)| *job).collect();
        for job in jobs {
            self.settlement(job, |settlement| {
                let (gone, kept) = settlement.payments.iter().partition(|(block, _)| *block >= first);
                let gone: Vec<(u64, u128)> = gone;
                settlement.paid = gone.iter().fold(settlement.paid, |paid, (_, part)| paid.saturating_sub(*part));
                settlement.payments = kept;
            });
        }
    }
}
