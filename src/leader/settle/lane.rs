//! What to do for each nonce, given what the chain says: a pure decision.
//!
//! A transaction that waits is asked for by the hashes of all its tries. What is
//! not known is sent, the very same, until it is there or its nonce is taken; a
//! lost answer is therefore never more than "unknown". What does not land is
//! sent with higher fees at the same nonce. What landed is watched until it is
//! deep enough, since a block may be given up.
//!
//! What one node says of a nonce or a hash may lag behind another's. So nothing
//! is given up at the first look: [`Rules`] say how long it must be so.

use std::time::Duration;

use crate::domain::chain::{Confirmation, Landed, Slot, TRIES_MAX};

/// What the chain says of a slot, asked in this order: the nonce first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// The account's next.
    pub nonce: u64,
    /// Of the try that is known, if one is.
    pub found: Option<Landed>,
    /// The chain waits for a lower nonce, which nobody has planned.
    pub gap: bool,
    /// The newest closed block.
    pub head: u64,
}

/// Why a node did not take a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is asked for by its hash.
    Taken,
    /// It pays too little: prices rose, or another one waits.
    Cheap,
    /// The account can not pay for it, or the node does not take the signature: nothing that sending can mend.
    Hopeful,
    /// It will never be taken as it is.
    Final,
}

/// What this leader did for a slot, and since when it has been how it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Since its newest try was first sent.
    pub first_sent: Option<Duration>,
    pub last_sent: Option<Duration>,
    /// A node has it, as far as nodes say.
    pub accepted: bool,
    pub refused: Option<Refusal>,
    /// Refusals in a row.
    pub refusals: u32,
    /// Since when the chain does not know it although its nonce is taken, or it had landed, or there is a gap.
    pub amiss: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Until the same is sent once more, if a node took it, and if not.
    pub resend: Duration,
    pub retry: Duration,
    /// Until more is paid.
    pub replace: Duration,
    /// How long something must be amiss.
    pub patience: Duration,
    /// The same where it means that transactions that were sent are given up.
    pub long_patience: Duration,
    pub watch_blocks: u64,
}

/// Final refusals until a transaction is taken apart.
const FINAL_MAX: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The newest try, as it is.
    Send,
    /// Another try, which pays more.
    Replace,
    Landed(Box<Landed>),
    Lost,
    /// Its items are planned again.
    Abandon,
    Close,
    Wait,
}

impl Rules {
    /// For a slot that is not known to have landed.
    pub fn waiting(&self, nonce: u64, slot: &Slot, look: &Look, seen: &Seen) -> Step {
        if let Some(landed) = &look.found {
            return Step::Landed(Box::new(landed.clone()));
        }
        if look.nonce > nonce {
            return if lasts(seen.amiss, self.patience) { Step::Abandon } else { Step::Wait };
        }
        if look.gap {
            return if lasts(seen.amiss, self.long_patience) { Step::Abandon } else { Step::Wait };
        }
        let (Some(first), Some(last)) = (seen.first_sent, seen.last_sent) else { return Step::Send };
        let more = slot.tries.len() < TRIES_MAX;
        match seen.refused {
            Some(Refusal::Cheap) if more => return Step::Replace,
            Some(Refusal::Final) if seen.refusals >= FINAL_MAX => return Step::Abandon,
            _ => {}
        }
        if seen.accepted && more && first >= self.replace {
            return Step::Replace;
        }
        let pause = if seen.accepted { self.resend } else { self.retry };
        if last >= pause { Step::Send } else { Step::Wait }
    }

    /// For a slot that landed as `known`.
    pub fn watched(&self, nonce: u64, known: &Landed, look: &Look, seen: &Seen) -> Step {
        let Some(found) = &look.found else {
            // With its nonce free again it is to be sent again; else another node may know it.
            let patience = if look.nonce > nonce { self.long_patience } else { self.patience };
            return if lasts(seen.amiss, patience) { Step::Lost } else { Step::Wait };
        };
        if found.hash != known.hash || found.reverted.is_some() != known.reverted.is_some() {
            return Step::Lost;
        }
        if found.confirmation == known.confirmation && found.block != known.block && known.block.is_some() {
            return Step::Lost;
        }
        if found.confirmation > known.confirmation {
            // The reason is kept cut; it is the same.
            return Step::Landed(Box::new(Landed { reverted: known.reverted.clone(), ..found.clone() }));
        }
        if self.is_done(known, look.head) { Step::Close } else { Step::Wait }
    }

    /// Whether a transaction that landed needs no watching any more.
    pub fn is_done(&self, known: &Landed, head: u64) -> bool {
        let deep = known.block.is_some_and(|block| head.saturating_sub(block.number) >= self.watch_blocks);
        known.confirmation == Confirmation::AcceptedL1 || (known.confirmation == Confirmation::AcceptedL2 && deep)
    }
}

fn lasts(since: Option<Duration>, long_enough: Duration) -> bool {
    since.is_some_and(|since| since >= long_enough)
}

#[cfg(test)]
#[path = "tests/lane.rs"]
mod tests;
