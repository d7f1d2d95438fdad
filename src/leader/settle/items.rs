//! What a stage of a job's life is on chain: the calls that bring it there.
//!
//! An item carries all it takes: once it is planned, the job may be forgotten.
//! So every payment brings along where its workers are paid, until the contract
//! is known to know; saying it twice does no harm.
//!
//! Absent: whether it is an item's turn, which is [`super::plan`]'s.

use std::collections::BTreeSet;

use crate::chain::calls::{self, Outcome};
use crate::chain::{Generation, Share};
use crate::domain::chain::{Call, Felt, Item, Ledger, Stage, U256};
use crate::domain::job::{JobState, Source};
use crate::domain::{Job, State, WorkerId};

/// Parked until the worker says where it is paid; goes on by itself then.
pub(super) const NO_PAYOUT_ADDRESS: &str = "no_payout_address";

/// In the place of an address that is not known: no account has it.
const UNSAID: Felt = Felt::ZERO;

/// The job has no bound on its price, so nothing says what to put into escrow.
const NO_MAX_PRICE: &str = "no_max_price";

/// Where calls go, and who sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub contract: Felt,
    pub account: Felt,
    pub generation: Generation,
    /// The most that the account can put into escrow for one job, in the payment token's smallest unit.
    pub purse: u128,
}

/// What an entry of the journal comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Item(Item),
    /// It can not be settled as things are.
    Unfit {
        item: Item,
        code: &'static str,
        reason: String,
    },
    /// There is nothing to settle.
    Nothing,
}

/// A stage of a job that an entry of the journal asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub seq: u64,
    pub stage: Stage,
    pub job: &'a Job,
    /// Who won it, for [`Stage::Assign`].
    pub worker: Option<WorkerId>,
}

impl Place {
    /// Whether the contract can do what a stage asks for.
    pub fn takes(&self, stage: Stage) -> bool {
        stage == Stage::Register || self.generation != Generation::SubmissionOnly
    }

    pub fn item(&self, state: &State, wanted: Wanted) -> Made {
        let (job, chain) = (wanted.job, state.chain());
        let contract = self.contract;
        if job.spec.settlement.is_none() || !self.takes(wanted.stage) {
            return Made::Nothing;
        }
        match wanted.stage {
            Stage::Register => self.register(wanted),
            Stage::Assign => match wanted.worker {
                Some(worker) => made(wanted, calls::assign_job_to_worker(contract, id_of(chain, job), worker)),
                None => Made::Nothing,
            },
            Stage::Settle => self.settle(state, wanted),
            Stage::Refund if is_lost(job) => made(wanted, calls::cancel_job(contract, id_of(chain, job))),
            Stage::Refund => Made::Nothing,
        }
    }

    fn register(&self, wanted: Wanted) -> Made {
        let job = wanted.job;
        if job.source == Source::Chain {
            return Made::Nothing;
        }
        let Some(price) = job.spec.max_price else {
            let reason = "the job has no max_price, so nothing says what to put into escrow".to_owned();
            return Made::Unfit { item: item(wanted, vec![]), code: NO_MAX_PRICE, reason };
        };
        let payment = price.0.saturating_mul(u128::from(job.spec.redundancy.max(1)));
        let client = job.spec.client_address.as_deref().and_then(|address| address.parse().ok());
        made(wanted, calls::submit_ai_job(self.contract, job, payment, client.unwrap_or(self.account)))
    }

    fn settle(&self, state: &State, wanted: Wanted) -> Made {
        let job = wanted.job;
        let Some(accepted) = job.outcome.as_ref().filter(|_| job.state == JobState::Completed) else {
            return Made::Nothing;
        };
        let outcome = Outcome {
            worker: accepted.worker,
            output: accepted.output_sha256,
            seconds: accepted.duration_ms.div_ceil(1_000),
        };
        let shares = shares(job, accepted.attempt);
        let call = calls::settle_job(self.contract, id_of(state.chain(), job), &outcome, &shares);
        let mut item = item(wanted, vec![call]);
        // Those without an amount are not paid, so they need no address.
        let paid = shares.iter().filter(|share| share.amount > 0);
        let paid: BTreeSet<WorkerId> = paid.map(|share| share.worker).collect();
        item.payees = paid.into_iter().map(|worker| (worker, UNSAID)).collect();
        self.with_payees(state, item)
    }

    /// Puts in front of a payment what makes its workers known. Those whose address was not said are looked up again.
    pub fn with_payees(&self, state: &State, mut item: Item) -> Made {
        let (unsaid, mut payees): (Vec<_>, Vec<_>) =
            std::mem::take(&mut item.payees).into_iter().partition(|(_, address)| *address == UNSAID);
        let mut known = vec![];
        for (worker, _) in unsaid {
            match payout(state, worker) {
                Payout::Known => {}
                Payout::At(address) => {
                    known.push(calls::register_worker(self.contract, worker, address));
                    payees.push((worker, address));
                }
                Payout::Unsaid => payees.push((worker, UNSAID)),
            }
        }
        item.calls.splice(0..0, known);
        item.payees = payees;
        match item.payees.iter().find(|(_, address)| *address == UNSAID) {
            None => Made::Item(item),
            Some((worker, _)) => {
                let reason = format!(
                    "worker {worker} has not said where it is paid: set payout_address in its configuration, or drop \
                     this entry"
                );
                Made::Unfit { item, code: NO_PAYOUT_ADDRESS, reason }
            }
        }
    }

    /// The same item at this contract: it may have been planned for another one.
    pub fn aimed(&self, mut item: Item) -> Item {
        for call in &mut item.calls {
            call.to = self.contract;
        }
        item
    }
}

/// Where a worker is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payout {
    /// The contract knows.
    Known,
    At(Felt),
    Unsaid,
}

fn payout(state: &State, worker: WorkerId) -> Payout {
    let known = state.chain().payee(worker);
    let said = state.worker(worker).and_then(|worker| worker.capabilities.payout_address);
    match said.filter(|said| *said != UNSAID) {
        Some(said) if known != Some(said) => Payout::At(said),
        None if known.is_none() => Payout::Unsaid,
        _ => Payout::Known,
    }
}

/// Whether every worker of a parked payment has said by now where it is paid.
pub(super) fn can_be_paid(state: &State, item: &Item) -> bool {
    let mut unsaid = item.payees.iter().filter(|(_, address)| *address == UNSAID);
    unsaid.all(|(worker, _)| payout(state, *worker) != Payout::Unsaid)
}

/// How a completed job's workers are paid: each run whose result it is, its price. Who brought the result is among
/// them even for nothing: so the contract takes it from a worker whose assignment it has not seen.
fn shares(job: &Job, accepted: u32) -> Vec<Share> {
    let owed = job.runs.iter().filter_map(|run| Some((run, job.owed(run)?.0)));
    owed.filter(|(run, amount)| *amount > 0 || run.attempt == accepted)
        .map(|(run, amount)| Share { worker: run.award.worker, amount })
        .collect()
}

/// A job's id on chain.
fn id_of(chain: &Ledger, job: &Job) -> U256 {
    let given = chain.settlement(job.id).and_then(|settlement| settlement.chain_job);
    given.unwrap_or_else(|| U256::of(job.id))
}

/// Whether it came to nothing for good, unless it is reopened.
pub(super) fn is_lost(job: &Job) -> bool {
    matches!(job.state, JobState::Failed | JobState::Cancelled)
}

fn item(wanted: Wanted, calls: Vec<Call>) -> Item {
    Item { seq: wanted.seq, job: wanted.job.id, stage: wanted.stage, calls, payees: vec![] }
}

fn made(wanted: Wanted, call: Call) -> Made {
    Made::Item(item(wanted, vec![call]))
}
