//! Starknet: the client side of it, and nothing of what the node does with it.
//!
//! A [`Handle`] is this node's way to the Job Manager contract. It looks at the
//! chain every few seconds, whether the node leads or not, and tells what it saw
//! ([`View`]). A leader's duties ask it to sign, send and look up transactions,
//! and to read the contract and its events. What calls look like ([`calls`]) and
//! what they cost at most ([`fees`]) is pure.
//!
//! Invariants
//!
//! * The hash of a transaction is computed here, from what is signed, before anything is sent; the same
//!   transaction always has the same hash and signature.
//! * Every question has a deadline. What a node did not say itself is unknown, never failed.
//! * Nothing is asked of an endpoint that is of another chain than the one expected, or first seen.
//! * What a node says is bounded in bytes and in count before it is kept, and can not end the process.
//! * Credentials in URLs, the key and its password leave [`Hidden`] and the key only towards the node, the
//!   signature and the file; no error, log line, view or `Debug` has them.
//!
//! Deliberately absent: what becomes a transaction and when, retries of a send, the choice of nonces. They are
//! the leader's, and replicated. Without the feature `chain` only what describes remains.

mod alarm;
pub mod calls;
mod error;
#[cfg_attr(not(feature = "chain"), allow(dead_code, reason = "without a client nothing is asked"))]
mod events;
pub mod fees;
#[cfg_attr(not(feature = "chain"), allow(dead_code, reason = "without a client nothing is asked"))]
pub mod gas;
mod options;
#[cfg_attr(not(feature = "chain"), allow(dead_code, reason = "without a client nothing is asked"))]
mod records;
#[cfg(test)]
mod sample;
#[cfg_attr(not(feature = "chain"), allow(dead_code, reason = "without a client nothing is asked"))]
mod selectors;
mod view;

#[cfg(feature = "chain")]
mod client;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use alarm::Alarm;
pub use calls::{Share, worker_felt};
pub use error::{Error, EstimateError, Kind, Refused, SendError};
pub use events::{Event, What};
pub use fees::Estimate;
pub use options::{Generation, Hidden, Options, Password, Rpc, Signer, Timing};
pub use records::{Details, JobStatus, Reference, Spec};
pub use view::{Account, Contract, GasPrices, State, Token, View};

#[cfg(all(test, feature = "chain"))]
pub(crate) use client::tests::devnet;
#[cfg(feature = "chain")]
pub use client::{deploy, keys};
#[cfg(test)]
pub(crate) use sample::job as sample_job;

/// This node's way to the chain. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    options: Options,
    /// What the probe saw last. Its alarms are kept beside it.
    view: RwLock<View>,
    alarms: Mutex<alarm::Alarms>,
    #[cfg(feature = "chain")]
    client: client::Client,
}

impl Handle {
    /// What this node saw of the chain when it looked last, and what its duties complain of now.
    pub fn view(&self) -> View {
        let alarms = self.0.alarms.lock().unwrap_or_else(PoisonError::into_inner).all();
        let view = self.0.view.read().unwrap_or_else(PoisonError::into_inner).clone();
        View { alarms, ..view }
    }

    /// What the contract takes no less than for a job, as this node saw it last; `None`: it has not seen it.
    pub fn min_payment(&self) -> Option<u128> {
        let view = self.0.view.read().unwrap_or_else(PoisonError::into_inner);
        let least = view.contract.as_ref()?.min_payment?;
        Some(if least.high == 0 { least.low } else { u128::MAX })
    }

    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Where a duty says what keeps it from its work. What it said is taken back when the duty ends.
    pub fn alarm(&self, duty: &'static str) -> Alarm {
        Alarm::new(self.clone(), duty)
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("contract", &self.0.options.contract).finish_non_exhaustive()
    }
}
