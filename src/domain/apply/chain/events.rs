//! What the contract's events say: jobs of others, payments.

use super::not_planned;
use crate::domain::apply::Step;
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
        payments.iter().for_each(|payment| self.paid(payment));
        let books = &mut self.state.chain.books;
        books.next_block = Some(to.number.saturating_add(1));
        books.tail.push(to);
        let surplus = books.tail.len().saturating_sub(TAIL_MAX);
        books.tail.drain(..surplus);
        Ok(Done::Booked)
    }

    /// Whether all new jobs find room: none is passed by for want of it.
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

    /// Our own job may not be known to be registered yet: a leader died before it told so. It is known by its id.
    fn paid(&mut self, payment: &Payment) {
        let ours = JobId(payment.job.low.to_be_bytes());
        let job = self.state.chain.arrived(payment.job).unwrap_or(ours);
        let noted = self.state.chain.settlement(job).is_some_and(|known| {
            known.chain_job.unwrap_or(U256::of(job)) == payment.job && known.payments.len() < PAYMENTS_MAX
        });
        if noted {
            self.settlement(job, |settlement| settlement.payments.push(payment.clone()));
        }
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

    /// What was paid in the blocks that are read again is told again.
    pub(super) fn rewind(&mut self, to: u64) -> Reply {
        let books = &mut self.state.chain.books;
        if books.next_block.is_none_or(|next| to >= next) {
            return Ok(Done::Unchanged);
        }
        books.next_block = Some(to);
        books.tail.retain(|block| block.number < to);
        let gone = |settlement: &Settlement| settlement.payments.iter().any(|payment| payment.block >= to);
        let settlements = self.state.chain.settlements.iter();
        let hit: Vec<JobId> = settlements.filter(|(_, settlement)| gone(settlement)).map(|(job, _)| *job).collect();
        for job in hit {
            self.settlement(job, |settlement| settlement.payments.retain(|payment| payment.block < to));
        }
        Ok(Done::Booked)
    }
}
