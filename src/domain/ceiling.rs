//! What a job offers at most, and when.
//!
//! `max_price` is the client's reserve price: no award is ever above it. With an
//! [`Escalation`] the job begins lower and offers more as it waits, up to that
//! price. The ceiling is a function of the job and the log's clock alone, so
//! every node judges an award alike, then and later. It counts from when the
//! job was queued, does not sink, and does not begin anew with a retry.

use serde::{Deserialize, Serialize};

use super::ids::Price;
use super::job::Job;
use super::time::Timestamp;

/// Longest step of an escalation, in seconds.
pub const EVERY_MAX_SECS: u32 = 86_400;

/// How a job raises what it offers. Needs a `max_price`, which ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escalation {
    /// Offered at first. Not above the job's `max_price`.
    pub start: Price,
    /// Added each time. Not 0.
    pub step: Price,
    /// 1 to [`EVERY_MAX_SECS`].
    pub every_secs: u32,
}

impl Escalation {
    /// Says what is wrong with it, if anything is.
    pub(super) fn check(&self, max_price: Option<Price>) -> Result<(), String> {
        match max_price {
            None => Err("price_escalation needs a max_price".to_owned()),
            Some(most) if self.start > most => Err("price_escalation.start is above max_price".to_owned()),
            _ if self.step.0 == 0 => Err("price_escalation.step is 0".to_owned()),
            _ if !(1..=EVERY_MAX_SECS).contains(&self.every_secs) => {
                Err(format!("price_escalation.every_secs is not from 1 to {EVERY_MAX_SECS}"))
            }
            _ => Ok(()),
        }
    }

    /// What is offered at most after a wait of `waited_ms`, if `most` is the end of it.
    pub fn ceiling(&self, most: Price, waited_ms: u64) -> Price {
        let raised = self.step.0.saturating_mul((waited_ms / self.every_ms()).into());
        Price(self.start.0.saturating_add(raised).min(most.0))
    }

    fn every_ms(&self) -> u64 {
        u64::from(self.every_secs.max(1)).saturating_mul(1_000)
    }
}

impl Job {
    /// The most that is paid for the job at `at`; `None`: any price.
    pub fn ceiling(&self, at: Timestamp) -> Option<Price> {
        let most = self.spec.max_price?;
        let Some(escalation) = self.spec.price_escalation else { return Some(most) };
        Some(escalation.ceiling(most, at.0.saturating_sub(self.queued_at.0)))
    }

    /// When the ceiling is `price` or more; `None` if it never is. Since it was queued if it was so from the start.
    pub fn ceiling_reaches(&self, price: Price) -> Option<Timestamp> {
        let Some(most) = self.spec.max_price else { return Some(self.queued_at) };
        if price > most {
            return None;
        }
        let Some(escalation) = self.spec.price_escalation else { return Some(self.queued_at) };
        let missing = price.0.saturating_sub(escalation.start.0);
        let steps = u64::try_from(missing.div_ceil(escalation.step.0.max(1))).ok()?;
        self.queued_at.0.checked_add(steps.checked_mul(escalation.every_ms())?).map(Timestamp)
    }
}
