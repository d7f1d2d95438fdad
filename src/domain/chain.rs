//! What of the chain is replicated: which transactions were prepared, what
//! became of them, and what could not be settled.
//!
//! A journal entry about a job that is to be settled becomes an [`Item`]: a
//! stage of its life on chain, with the calls that bring it there. Items go
//! into a [`Transaction`], which is in the log with its nonce, hash and calls
//! **before** it is sent. So whoever leads next can ask for it by its hash, and
//! send the very same again. What it came to enters the log as well.
//!
//! ```text
//! journal ──► lane (nonce → slot) ──► landed, watched ──► closed, recent
//!               ▲        │ reverted, abandoned
//!               └─ again ◄┘           parked: not before an operator says so
//! ```
//!
//! Invariants
//!
//! * Every item is in exactly one place: ahead of the cursor, in the lane, in
//!   `again`, parked, or done. The cursor of [`Sink::Chain`] is where planning
//!   is: an item carries its own calls, so it needs the journal no more.
//! * The epoch only grows; what is prepared in an older one is refused.
//! * Nonces are planned one by one. A nonce with an open slot is never planned
//!   for something else, only again for the same items.
//! * All is of one [`Site`].
//!
//! Absent: connections, keys, fees to come. They are each node's own view, or
//! the leader's business.
//!
//! [`Sink::Chain`]: super::journal::Sink::Chain

mod amounts;
mod ledger;

pub use amounts::{Felt, U256};
pub(super) use ledger::Books;
pub use ledger::{Ledger, Totals};

use serde::{Deserialize, Serialize};

use super::command::Submit;
use super::ids::{JobId, WorkerId};
use super::job::{Cause, JobState};
use super::journal::Event;
use super::time::Timestamp;

/// Slots whose transaction is not known to have landed.
pub const IN_FLIGHT_MAX: usize = 8;
/// Slots in all. Beyond it the oldest that landed is closed.
pub const LANE_MAX: usize = 64;
/// Transactions prepared for one nonce.
pub const TRIES_MAX: usize = 8;
/// Calls in one transaction.
pub const CALLS_MAX: usize = 500;
/// Felts of all calls of one transaction; the network's own bound on calldata.
pub const FELTS_MAX: usize = 5_000;
/// Links kept of one job. Beyond it the oldest assignment goes.
pub const LINKS_MAX: usize = 16;
/// Closed transactions kept for those who look.
pub const RECENT_MAX: usize = 1_000;
/// Blocks kept to notice that the chain took another turn.
pub const TAIL_MAX: usize = 64;
/// Payments kept of one job. Beyond it further ones are not noted: no job of ours has so many.
pub const PAYMENTS_MAX: usize = 16;
/// The code of a parked registration that waits for the account to be funded: it goes on by itself, and what awaits
/// it does so, too.
pub const ESCROW_LOW: &str = "escrow_low";
/// Bytes kept of a reason.
pub const REASON_MAX: usize = 1 << 10;

/// How a job is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Terms {
    pub policy: Policy,
    /// What has to be reached before a stage counts.
    pub confirmation: Confirmation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Nobody is asked to run it before its registration is confirmed.
    RegisterBeforeDistribution,
    /// The chain is told when it can be told.
    SettleLater,
}

/// How certain it is that a transaction stays; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirmation {
    Preconfirmed,
    AcceptedL2,
    AcceptedL1,
}

/// Which contract, told by which account. All that is prepared is for one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    pub chain_id: Felt,
    pub contract: Felt,
    pub account: Felt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Register,
    Assign,
    /// Result and payment.
    Settle,
    /// The job did not come to a result: the escrow goes back.
    Refund,
}

impl Stage {
    pub const ALL: [Self; 4] = [Self::Register, Self::Assign, Self::Settle, Self::Refund];

    /// What an event of a settled job asks for; `None`: nothing.
    pub fn of(event: &Event) -> Option<(JobId, Self)> {
        let Event::Job { job, state, cause, .. } = event else { return None };
        let stage = match (state, cause) {
            (JobState::Pending, Cause::Submitted) => Self::Register,
            (_, Cause::Awarded) => Self::Assign,
            (JobState::Completed, _) => Self::Settle,
            (JobState::Failed | JobState::Cancelled, _) => Self::Refund,
            _ => return None,
        };
        Some((*job, stage))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Assign => "assign",
            Self::Settle => "settle",
            Self::Refund => "refund",
        }
    }
}

/// One stage of one job, with the calls that bring it there. Calling them twice does no harm: the contract holds that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The journal entry it is about.
    pub seq: u64,
    pub job: JobId,
    pub stage: Stage,
    pub calls: Vec<Call>,
    /// Workers that the calls make known to the contract, and where they are paid.
    pub payees: Vec<(WorkerId, Felt)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub to: Felt,
    pub selector: Felt,
    pub calldata: Vec<Felt>,
}

/// The most that a transaction may use, and pay for each unit, in the fee token's smallest unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    pub l1_gas: u64,
    pub l1_gas_price: u128,
    pub l2_gas: u64,
    pub l2_gas_price: u128,
    pub l1_data_gas: u64,
    pub l1_data_gas_price: u128,
    pub tip: u64,
}

/// A transaction as it is signed and sent: its calls are `lead`, then those of the items in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    pub nonce: u64,
    pub hash: Felt,
    pub epoch: u64,
    /// What comes before the items: the epoch's fence.
    pub lead: Vec<Call>,
    pub items: Vec<Item>,
    pub bounds: Bounds,
}

impl Transaction {
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.lead.iter().chain(self.items.iter().flat_map(|item| &item.calls))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    pub number: u64,
    pub hash: Felt,
}

/// What a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    pub hash: Felt,
    /// `None` before the block is closed.
    pub block: Option<Block>,
    pub confirmation: Confirmation,
    /// Paid, in the fee token's smallest unit.
    pub fee: u128,
    /// Why it was reverted; `None`: it succeeded.
    pub reverted: Option<Box<str>>,
    /// Ids that the contract gave to jobs, where it counts them itself.
    pub ids: Vec<(JobId, U256)>,
}

/// A nonce, and what was prepared for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Oldest first; all have the same items. At most [`TRIES_MAX`].
    pub tries: Vec<Transaction>,
    pub prepared_at: Timestamp,
    pub prepared_index: u64,
    pub landed: Option<Landed>,
    pub landed_at: Option<Timestamp>,
    /// It was reverted: its items are planned elsewhere, whatever becomes of it now.
    pub given_back: bool,
}

impl Slot {
    /// The newest try.
    pub fn newest(&self) -> Option<&Transaction> {
        self.tries.last()
    }

    pub fn items(&self) -> &[Item] {
        self.newest().map_or(&[], |transaction| &transaction.items)
    }
}

/// An item whose transaction was reverted or never landed: it is planned again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    pub item: Item,
    /// Transactions it was in.
    pub tries: u32,
    pub reason: Box<str>,
}

/// An item that can not be settled until an operator, or a worker's address, says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    pub item: Item,
    pub at: Timestamp,
    /// Stable, for machines.
    pub code: Box<str>,
    /// For people.
    pub reason: Box<str>,
}

/// A job on chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// Its id there; `None` until the contract has given it one.
    pub chain_job: Option<U256>,
    /// In the order of the journal; at most [`LINKS_MAX`].
    pub links: Vec<Link>,
    /// Entries whose items are parked.
    pub parked: Vec<u64>,
    /// What the contract paid for it, as its events say, whoever asked for it. At most [`PAYMENTS_MAX`].
    pub payments: Vec<Payment>,
}

impl Settlement {
    /// Paid in all, in the payment token's smallest unit.
    pub fn paid(&self) -> u128 {
        self.payments.iter().fold(0, |sum, payment| sum.saturating_add(payment.amount))
    }
}

/// Which transaction carries a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub stage: Stage,
    pub seq: u64,
    /// Of the log entry that prepared it.
    pub index: u64,
    pub nonce: u64,
    pub hash: Felt,
    /// `None`: not known to have landed.
    pub confirmation: Option<Confirmation>,
    pub block: Option<Block>,
}

/// A transaction that is done with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Ascending, from 1.
    pub number: u64,
    pub nonce: u64,
    pub hash: Felt,
    pub epoch: u64,
    pub calls: u32,
    pub jobs: Vec<JobId>,
    pub prepared_at: Timestamp,
    pub landed_at: Option<Timestamp>,
    /// `None`: another transaction took its nonce.
    pub landed: Option<Landed>,
}

/// A payment the contract made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    pub job: U256,
    /// Number of the block it is in.
    pub block: u64,
    pub payee: Felt,
    pub amount: u128,
}

/// A job that somebody submitted to the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    pub job: U256,
    /// `None`: it is none that can be run here.
    pub submit: Option<Box<Submit>>,
}

/// Commands about the chain; see [`super::Command::Chain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// A leader begins: raises the epoch above all before, and to `least` or more. The first one ever says which site
    /// it is, and has the journal kept; another site takes its place without a word while nothing is noted of it.
    Claim {
        site: Site,
        least: u64,
    },
    /// Plans a transaction: the next nonce, or another try for one that did not land. Items are taken from `again`,
    /// or new and from entries up to `through`, where planning then is.
    Prepare {
        transaction: Box<Transaction>,
        through: u64,
    },
    /// Nothing is to be settled up to `through`.
    Skip {
        through: u64,
    },
    /// What the chain says of a prepared transaction; also said again when it is more certain.
    Landed {
        nonce: u64,
        landed: Box<Landed>,
    },
    /// The chain no longer knows a transaction that had landed.
    Lost {
        nonce: u64,
    },
    /// A transaction that landed is not watched any longer.
    Close {
        nonce: u64,
    },
    /// The nonce was used by a transaction that is not ours: the items are planned again.
    Abandon {
        nonce: u64,
    },
    /// Items that can not be settled, from `again` or from entries up to `through`.
    Park {
        parked: Vec<(Item, Box<str>, Box<str>)>,
        through: u64,
    },
    /// An operator, or a new address of a worker: the item and what waits behind it for the same job is tried again.
    Retry {
        seq: u64,
    },
    Drop {
        seq: u64,
    },
    /// An operator accepts another site. What was in flight is planned again.
    Reset {
        site: Site,
    },
    /// The contract's events of the blocks from `from` to `to`.
    Followed {
        from: u64,
        to: Block,
        arrivals: Vec<Arrival>,
        payments: Vec<Payment>,
    },
    /// The chain took another turn: its events are read again from `to`.
    Rewind {
        to: u64,
    },
}
