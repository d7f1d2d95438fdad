//! Items that can not be settled as things are: put aside, and taken up again where that follows by itself.

use tracing::{debug, info};

use super::items::{NO_PAYOUT_ADDRESS, can_be_paid};
use super::plan::Plan;
use super::worries::Worry;
use super::{SHUT, Settler, Trouble};
use crate::clock;
use crate::domain::State;
use crate::domain::chain::Act;
use crate::domain::command::Refusal;

/// Parked items looked at while the state's lock is held.
const SLICE: usize = 256;

/// Taken up again at once; the others follow.
const RETRIED: usize = 256;

impl Settler {
    /// Puts aside what a plan says. What it was for may have come about: then nothing is kept of it.
    pub(super) async fn park(&mut self, plan: &Plan) -> Result<(), Trouble> {
        for (item, code, reason) in &plan.parked {
            let stage = item.stage.as_str();
            debug!(job = %item.job, stage, entry = item.seq, %code, %reason, "put aside");
        }
        let parked = Act::Park { parked: plan.parked.clone(), through: plan.through };
        let dropped = plan.idle.iter().map(|seq| Act::Drop { seq: *seq });
        let replies = self.tell(std::iter::once(parked).chain(dropped).collect()).await?;
        match replies.into_iter().next() {
            Some(Err(Refusal::LettersFull { limit })) => {
                let text = format!(
                    "{limit} entries are parked, and there is no room for more: nothing is settled until some are \
                     retried or dropped (`blockchain dlq`)"
                );
                self.worries.note(Worry::Parked, Some(text));
                tokio::time::sleep(SHUT).await;
                Ok(())
            }
            Some(Err(refusal)) => Err(refusal.into()),
            _ => {
                self.worries.note(Worry::Parked, None);
                Ok(())
            }
        }
    }

    /// Payments go on whose workers have said by now where they are paid.
    pub(super) async fn unpark(&mut self) -> Result<(), Trouble> {
        if self.unparked_at.is_some_and(|at| at.elapsed() < SHUT) || self.books(|chain| chain.parked_len()) == 0 {
            return Ok(());
        }
        self.unparked_at = Some(clock::instant());
        let (mut cursor, mut due) = (None, vec![]);
        while let Some(last) = self.reign.context.client.read(|state| payable(state, cursor, &mut due)) {
            cursor = Some(last);
            if due.len() >= RETRIED {
                break;
            }
            tokio::task::yield_now().await;
        }
        if !due.is_empty() {
            info!(payments = due.len(), "workers said where they are paid: tried again");
            self.tell(due.into_iter().map(|seq| Act::Retry { seq }).collect()).await?;
        }
        Ok(())
    }
}

/// Adds the payments after `cursor` that can be made now, as far as one short look goes. The last that was looked at;
/// `None`: there are no more.
fn payable(state: &State, cursor: Option<u64>, due: &mut Vec<u64>) -> Option<u64> {
    let mut last = None;
    for parked in state.chain().parked_after(cursor).take(SLICE) {
        if &*parked.code == NO_PAYOUT_ADDRESS && can_be_paid(state, &parked.item) {
            due.push(parked.item.seq);
        }
        last = Some(parked.item.seq);
    }
    last
}
