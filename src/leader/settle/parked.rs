//! Items that can not be settled as things are: put aside, and taken up again where that follows by itself.

use std::collections::BTreeSet;

use tracing::{debug, info};

use super::funds::payment;
use super::items::{NO_PAYOUT_ADDRESS, can_be_paid};
use super::plan::Plan;
use super::worries::Worry;
use super::{SHUT, Settler, Trouble};
use crate::clock;
use crate::domain::chain::{Act, ESCROW_LOW, Item, Ledger, Stage};
use crate::domain::command::Refusal;
use crate::domain::job::JobState;
use crate::domain::{JobId, State};

/// Parked items looked at while the state's lock is held.
const SLICE: usize = 256;

/// Taken up again at once; the others follow.
const RETRIED: usize = 256;

impl Settler {
    /// Puts aside what a plan says. What it was for may have come about: then nothing is kept of it. `false`: there is no
    /// room, and nobody's money may make some; all of it stays where it was.
    pub(super) async fn park(&mut self, plan: &Plan) -> Result<bool, Trouble> {
        for (item, code, reason) in &plan.parked {
            let stage = item.stage.as_str();
            debug!(job = %item.job, stage, entry = item.seq, %code, %reason, "put aside");
        }
        let parked = Act::Park { parked: plan.parked.clone(), through: plan.through };
        let dropped = plan.idle.iter().map(|seq| Act::Drop { seq: *seq });
        let replies = self.tell(std::iter::once(parked).chain(dropped).collect()).await?;
        match replies.into_iter().next() {
            Some(Err(Refusal::LettersFull { limit })) => self.make_room(limit).await,
            Some(Err(refusal)) => Err(refusal.into()),
            _ => {
                self.worries.note(Worry::Parked, None);
                Ok(true)
            }
        }
    }

    /// Forgets what is parked of jobs that came to nothing without anything paid. Whether there was any.
    async fn make_room(&mut self, limit: u64) -> Result<bool, Trouble> {
        let idle = self.reign.context.client.read(|state| resolved(state, RETRIED));
        if idle.is_empty() {
            let text = format!(
                "{limit} stages are parked, and there is no room for more: what comes behind the next that can not be \
                 settled waits, and nothing is lost. Retry or drop some: `blockchain dlq`"
            );
            self.worries.note(Worry::Parked, Some(text));
            return Ok(false);
        }
        info!(stages = idle.len(), "parked stages of jobs that came to nothing make room for others");
        self.tell(idle.into_iter().map(|seq| Act::Drop { seq }).collect()).await?;
        Ok(true)
    }

    /// Payments go on whose workers have said by now where they are paid, and registrations that can be paid for.
    pub(super) async fn unpark(&mut self) -> Result<(), Trouble> {
        if self.unparked_at.is_some_and(|at| at.elapsed() < SHUT) {
            return Ok(());
        }
        if self.books(|chain| chain.parked_len()) == 0 {
            self.worries.note(Worry::Payment, None);
            return Ok(());
        }
        self.unparked_at = Some(clock::instant());
        let again = self.books(again_for_escrow);
        let mut look = Look { left: self.room().escrow.saturating_sub(again), ..Look::default() };
        while self.reign.context.client.read(|state| look.go_on(state)) {
            tokio::task::yield_now().await;
        }
        let text = self.funds.filter(|_| look.short > 0).map(|funds| funds.worry(look.short, look.cheapest));
        self.worries.note(Worry::Payment, text);
        if look.due.len() >= RETRIED {
            // There is more: it does not wait for the next look.
            self.unparked_at = None;
        }
        if !look.due.is_empty() {
            info!(stages = look.due.len(), "what they waited for is there: tried again");
        }
        let acts: Vec<Act> = look.acts().collect();
        if !acts.is_empty() {
            self.tell(acts).await?;
        }
        Ok(())
    }
}

/// The oldest parked stages that concern nobody's money: the job was never on chain, so nothing is in escrow, it has
/// come to nothing, and no payment waits for its registration.
fn resolved(state: &State, most: usize) -> Vec<u64> {
    let chain = state.chain();
    let parked = || chain.parked_after(None).map(|parked| &parked.item);
    let owed: BTreeSet<JobId> =
        parked().filter(|item| matches!(item.stage, Stage::Settle | Stage::Refund)).map(|item| item.job).collect();
    let is_on_chain = |job| chain.settlement(job).is_some_and(|known| known.chain_job.is_some());
    let is_gone = |job: JobId| match state.job(job) {
        None => true,
        Some(job) => {
            let overdue = job.spec.deadline.is_some_and(|deadline| deadline <= state.now());
            job.state == JobState::Cancelled || job.state == JobState::Failed && overdue
        }
    };
    let idle = |item: &&Item| !owed.contains(&item.job) && !is_on_chain(item.job) && is_gone(item.job);
    parked().filter(idle).map(|item| item.seq).take(most).collect()
}

/// What registrations that are to be planned again take.
fn again_for_escrow(chain: &Ledger) -> u128 {
    chain.again().map(|again| amount(&again.item)).fold(0, u128::saturating_add)
}

/// What a registration takes, if its client does not pay for it: one that waits for funds waits for ours.
fn amount(item: &Item) -> u128 {
    payment(item).map_or(0, |(amount, _)| amount)
}

/// A look at what is parked.
#[derive(Debug, Default)]
struct Look {
    cursor: Option<u64>,
    /// What is left for escrow.
    left: u128,
    /// To be tried again.
    due: Vec<u64>,
    /// Jobs that never were registered and never will be; what is parked of them.
    gone: BTreeSet<JobId>,
    dropped: Vec<u64>,
    /// Registrations that can not be paid for, and what the cheapest of them takes.
    short: usize,
    cheapest: u128,
}

impl Look {
    /// Looks at some more. Whether there are more.
    fn go_on(&mut self, state: &State) -> bool {
        let mut last = None;
        for parked in state.chain().parked_after(self.cursor).take(SLICE) {
            last = Some(parked.item.seq);
            if self.gone.contains(&parked.item.job) {
                self.dropped.push(parked.item.seq);
            } else if &*parked.code == ESCROW_LOW {
                self.registration(state, &parked.item);
            } else if &*parked.code == NO_PAYOUT_ADDRESS && can_be_paid(state, &parked.item) {
                self.due.push(parked.item.seq);
            }
        }
        self.cursor = last.or(self.cursor);
        last.is_some() && self.due.len() + self.dropped.len() < RETRIED
    }

    /// Whoever comes first is paid for first, and a cheap one does not wait for a dear one.
    fn registration(&mut self, state: &State, item: &Item) {
        let escrow = amount(item);
        match standing(state, item) {
            Standing::Gone => {
                self.gone.insert(item.job);
                self.dropped.push(item.seq);
            }
            Standing::Lost => {}
            Standing::Open if escrow <= self.left => {
                self.left -= escrow;
                self.due.push(item.seq);
            }
            Standing::Open => {
                self.cheapest = if self.short == 0 { escrow } else { self.cheapest.min(escrow) };
                self.short += 1;
            }
        }
    }

    fn acts(self) -> impl Iterator<Item = Act> {
        let retried = self.due.into_iter().map(|seq| Act::Retry { seq });
        retried.chain(self.dropped.into_iter().map(|seq| Act::Drop { seq }))
    }
}

/// How a job stands whose registration waits for funds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    /// It came to nothing, and may be given another chance.
    Lost,
    /// Nothing is left to pay for.
    Gone,
}

fn standing(state: &State, item: &Item) -> Standing {
    let Some(job) = state.job(item.job) else {
        let mut behind = state.chain().parked_after(Some(item.seq));
        let owed = behind.any(|parked| parked.item.job == item.job && parked.item.stage == Stage::Settle);
        return if owed { Standing::Open } else { Standing::Gone };
    };
    let overdue = job.spec.deadline.is_some_and(|deadline| deadline <= state.now());
    match job.state {
        JobState::Cancelled => Standing::Gone,
        JobState::Failed if overdue => Standing::Gone,
        JobState::Failed => Standing::Lost,
        _ => Standing::Open,
    }
}

#[cfg(test)]
#[path = "tests/parked.rs"]
mod tests;
