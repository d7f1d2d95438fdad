//! What the contract tells: its events, decoded. Ids are in the keys, not in the data.

use super::records::Reader;
use super::selectors::{self, Name};
use crate::domain::chain::{Block, Felt, U256};

/// An event of the contract, in the order of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `None`: in a block that is not closed.
    pub block: Option<Block>,
    pub transaction: Felt,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Submitted {
        job: U256,
        client: Felt,
        payment: U256,
    },
    /// `worker` as [`super::worker_felt`] calls it.
    Assigned {
        job: U256,
        worker: Felt,
    },
    Completed {
        job: U256,
        worker: Felt,
    },
    /// The fee is taken off.
    Paid {
        job: U256,
        payee: Felt,
        amount: U256,
    },
    Cancelled {
        job: U256,
        payer: Felt,
        refund: U256,
    },
    Expired {
        job: U256,
        payer: Felt,
        refund: U256,
    },
    WorkerRegistered {
        worker: Felt,
        payee: Felt,
    },
    EpochRaised {
        coordinator: Felt,
        epoch: u64,
    },
}

impl What {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submitted { .. } => "JobSubmitted",
            Self::Assigned { .. } => "JobAssigned",
            Self::Completed { .. } => "JobCompleted",
            Self::Paid { .. } => "PaymentReleased",
            Self::Cancelled { .. } => "JobCancelled",
            Self::Expired { .. } => "JobExpired",
            Self::WorkerRegistered { .. } => "WorkerRegistered",
            Self::EpochRaised { .. } => "EpochRaised",
        }
    }

    /// The job it is about.
    pub fn job(&self) -> Option<U256> {
        match self {
            Self::Submitted { job, .. }
            | Self::Assigned { job, .. }
            | Self::Completed { job, .. }
            | Self::Paid { job, .. }
            | Self::Cancelled { job, .. }
            | Self::Expired { job, .. } => Some(*job),
            Self::WorkerRegistered { .. } | Self::EpochRaised { .. } => None,
        }
    }
}

/// Selectors of the events that are read.
pub(super) const READ: [Name; 8] = [
    selectors::JOB_SUBMITTED,
    selectors::JOB_ASSIGNED,
    selectors::JOB_COMPLETED,
    selectors::PAYMENT_RELEASED,
    selectors::JOB_CANCELLED,
    selectors::JOB_EXPIRED,
    selectors::WORKER_REGISTERED,
    selectors::EPOCH_RAISED,
];

/// `None`: none of those above, or not in their form.
pub(super) fn decode(keys: &[Felt], data: &[Felt]) -> Option<What> {
    let (mut keys, mut data) = (Reader(keys), Reader(data));
    let selector = keys.felt()?;
    let is = |name: Name| selector == name.felt();
    let what = if is(selectors::WORKER_REGISTERED) {
        What::WorkerRegistered { worker: keys.felt()?, payee: keys.felt()? }
    } else if is(selectors::EPOCH_RAISED) {
        What::EpochRaised { coordinator: keys.felt()?, epoch: data.number()? }
    } else {
        let (job, who) = (keys.u256()?, keys.felt()?);
        if is(selectors::JOB_SUBMITTED) {
            What::Submitted { job, client: who, payment: data.u256()? }
        } else if is(selectors::JOB_ASSIGNED) {
            What::Assigned { job, worker: who }
        } else if is(selectors::JOB_COMPLETED) {
            What::Completed { job, worker: who }
        } else if is(selectors::PAYMENT_RELEASED) {
            What::Paid { job, payee: who, amount: data.u256()? }
        } else if is(selectors::JOB_CANCELLED) {
            What::Cancelled { job, payer: who, refund: data.u256()? }
        } else if is(selectors::JOB_EXPIRED) {
            What::Expired { job, payer: who, refund: data.u256()? }
        } else {
            return None;
        }
    };
    keys.end(()).and(data.end(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_the_keys() {
        let felt = |number: u64| Felt::from(number);
        let keys = [selectors::JOB_SUBMITTED.felt(), felt(7), felt(0), felt(0xc)];
        let data = [felt(100), felt(1)];
        let job = U256 { high: 0, low: 7 };
        let payment = U256 { high: 1, low: 100 };
        assert_eq!(decode(&keys, &data), Some(What::Submitted { job, client: felt(0xc), payment }));
        // Ids in the data, as some took them to be: no event of ours.
        assert_eq!(decode(&keys[..1], &[felt(7), felt(0), felt(0xc), felt(100), felt(1)]), None);
        assert_eq!(decode(&keys, &[]), None);
        assert_eq!(decode(&[], &[]), None);
        assert_eq!(decode(&[felt(1), felt(7), felt(0), felt(0xc)], &data), None);
    }

    #[test]
    fn every_event_is_read_in_its_form() {
        let felt = |number: u64| Felt::from(number);
        let of_job = |name: Name| [name.felt(), felt(1), felt(2), felt(3)];
        let amount = [felt(4), felt(5)];
        for name in READ {
            let found = match name {
                selectors::WORKER_REGISTERED => decode(&[name.felt(), felt(1), felt(2)], &[]),
                selectors::EPOCH_RAISED => decode(&[name.felt(), felt(1)], &[felt(2)]),
                selectors::JOB_ASSIGNED | selectors::JOB_COMPLETED => decode(&of_job(name), &[]),
                _ => decode(&of_job(name), &amount),
            };
            let found = found.unwrap_or_else(|| panic!("{name:?} is not read"));
            if let Some(job) = found.job() {
                assert_eq!(job, U256 { high: 2, low: 1 });
            }
            assert!(!found.name().is_empty());
        }
    }
}
