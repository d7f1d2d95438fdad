//! `GET /blockchain/events`: the contract's events as this node reads them from its endpoint, now.
//!
//! So that an operator, or a client, can compare the chain with the books
//! without an endpoint of their own. At most [`BLOCKS_MAX`] blocks at once, and
//! few such reads side by side: each goes out to the endpoint.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{amount, disabled};
use crate::api::Api;
use crate::api::params::{Kind, Param};
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::route::Route;
use crate::chain::{Event, What, worker_felt};
use crate::domain::chain::{Felt, U256};
use crate::domain::{JobId, State, WorkerId};

/// Blocks of one answer. Beyond it: 400.
pub const BLOCKS_MAX: u64 = 1_000;

/// Blocks of an answer to who named no beginning.
const BLOCKS_USUAL: u64 = 100;

pub fn routes() -> Vec<Route> {
    let number = || Kind::Integer { min: 0, max: u64::MAX >> 1 };
    vec![
        Route::get("/blockchain/events", "The contract's events, as this node reads them from the chain now", events)
            .param(Param::new("from", number(), "First block; without it, 100 blocks."))
            .param(Param::new("to", number(), "Last block, at most 999 after the first; without it, the newest."))
            .answers::<EventList>(200, "The events, in the order of the chain")
            .problems(&[Code::NotAvailable, Code::ChainUnreachable, Code::Overloaded]),
    ]
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChainEventList)]
pub struct EventList {
    pub from: u64,
    pub to: u64,
    /// The newest block, as this node saw it last.
    pub block_number: Option<u64>,
    pub events: Vec<EventBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChainEvent)]
pub struct EventBody {
    /// JobSubmitted, JobAssigned, JobCompleted, PaymentReleased, JobCancelled, JobExpired, WorkerRegistered or
    /// EpochRaised.
    pub event: &'static str,
    /// Null: in a block that is not closed.
    pub block: Option<u64>,
    pub block_hash: Option<String>,
    pub transaction_hash: String,
    /// The job's id in the contract.
    pub chain_job: Option<String>,
    /// Our job of that id, if this node knows it.
    pub job_id: Option<String>,
    /// Who submitted, is paid, gets the payment back, or raised the epoch.
    pub account: Option<String>,
    /// As the contract calls it.
    pub worker: Option<String>,
    /// Our worker of that name, if this node knows it.
    pub worker_id: Option<String>,
    /// In the smallest unit of the token.
    pub amount: Option<String>,
    pub epoch: Option<u64>,
}

/// Names of ours for what the contract tells.
pub struct Names<'a> {
    state: &'a State,
    workers: BTreeMap<Felt, WorkerId>,
}

#[cfg_attr(all(not(feature = "chain"), not(test)), expect(dead_code, reason = "without a client nothing is read"))]
impl<'a> Names<'a> {
    pub fn of(state: &'a State) -> Self {
        Self { state, workers: state.workers().map(|worker| (worker_felt(worker.id), worker.id)).collect() }
    }

    fn job(&self, id: U256) -> Option<JobId> {
        let ours = JobId(id.low.to_be_bytes());
        let named = self.state.chain().arrived(id);
        named.or((id == U256::of(ours) && self.state.job(ours).is_some()).then_some(ours))
    }
}

#[cfg_attr(all(not(feature = "chain"), not(test)), expect(dead_code, reason = "without a client nothing is read"))]
impl EventBody {
    pub fn of(event: &Event, names: &Names) -> Self {
        let (mut account, mut worker, mut sum, mut raised) = (None, None, None, None);
        match &event.what {
            What::Submitted { client, payment, .. } => (account, sum) = (Some(*client), Some(*payment)),
            What::Assigned { worker: felt, .. } | What::Completed { worker: felt, .. } => worker = Some(*felt),
            What::Paid { payee, amount, .. } => (account, sum) = (Some(*payee), Some(*amount)),
            What::Cancelled { payer, refund, .. } | What::Expired { payer, refund, .. } => {
                (account, sum) = (Some(*payer), Some(*refund));
            }
            What::WorkerRegistered { worker: felt, payee } => (account, worker) = (Some(*payee), Some(*felt)),
            What::EpochRaised { coordinator, epoch } => (account, raised) = (Some(*coordinator), Some(*epoch)),
        }
        let job = event.what.job();
        Self {
            event: event.what.name(),
            block: event.block.map(|block| block.number),
            block_hash: event.block.map(|block| block.hash.to_string()),
            transaction_hash: event.transaction.to_string(),
            chain_job: job.map(|id| id.to_string()),
            job_id: job.and_then(|id| names.job(id)).map(|id| id.to_string()),
            account: account.map(|felt| felt.to_string()),
            worker: worker.map(|felt| felt.to_string()),
            worker_id: worker.and_then(|felt| names.workers.get(&felt)).map(|id| id.to_string()),
            amount: sum.map(amount),
            epoch: raised,
        }
    }
}

/// The blocks that are asked for; `head`: the newest.
///
/// # Errors
///
/// They are the wrong way round, too many, or not there.
pub fn range(request: &Request, head: u64) -> Result<(u64, u64), Problem> {
    let refuse = |field: &'static str, detail: String| Err(Problem::new(Code::InvalidParameter, detail).field(field));
    let to = request.integer("to").unwrap_or_else(|| match request.integer("from") {
        Some(from) => head.min(from.saturating_add(BLOCKS_MAX - 1)).max(from),
        None => head,
    });
    let from = request.integer("from").unwrap_or(to.saturating_sub(BLOCKS_USUAL - 1));
    if to < from {
        return refuse("to", format!("to is {to}, before from, which is {from}"));
    }
    if to - from >= BLOCKS_MAX {
        return refuse("to", format!("from {from} to {to} are {} blocks, at most {BLOCKS_MAX}", to - from + 1));
    }
    Ok((from, to))
}

async fn events(api: Api, request: Request) -> Result<Response, Problem> {
    let Some(chain) = api.context.chain.clone() else { return Err(disabled("it can not read the contract's events")) };
    let head = chain.view().block.map(|block| block.number);
    let (from, to) =
        range(&request, head.ok_or_else(|| unreachable("this node has not seen the chain yet".to_owned()))?)?;
    read(&api, &chain, from, to, head).await
}

fn unreachable(why: String) -> Problem {
    Problem::new(Code::ChainUnreachable, why)
}

#[cfg(not(feature = "chain"))]
async fn read(_: &Api, _: &crate::chain::Handle, _: u64, _: u64, _: Option<u64>) -> Result<Response, Problem> {
    Err(disabled("it can not read the contract's events"))
}

#[cfg(feature = "chain")]
async fn read(
    api: &Api,
    chain: &crate::chain::Handle,
    from: u64,
    to: u64,
    block_number: Option<u64>,
) -> Result<Response, Problem> {
    let crowded = || Problem::new(Code::Overloaded, "too many reads of the chain are under way");
    let _permit = std::sync::Arc::clone(&api.chain_reads).try_acquire_owned().map_err(|_| crowded())?;
    let read = chain.events(from, to).await.map_err(told)?;
    let view = api.client().view();
    let names = Names::of(&view);
    let events = read.iter().map(|event| EventBody::of(event, &names)).collect();
    crate::api::respond::json(&EventList { from, to, block_number, events })
}

#[cfg(feature = "chain")]
fn told(error: crate::chain::Error) -> Problem {
    use crate::chain::Error;
    match error {
        Error::TooMany { limit, .. } => {
            let detail = format!("there are more than {limit} events in these blocks: ask for fewer");
            Problem::new(Code::InvalidParameter, detail).field("to")
        }
        Error::Stopping => Problem::new(Code::Stopping, "this node takes no more requests"),
        error => unreachable(error.to_string()),
    }
}
