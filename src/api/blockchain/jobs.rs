//! `GET /blockchain/jobs/{id}`: a job's settlement in full.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::letters::ParkedBody;
use crate::api::jobs::read::{unknown, with_job};
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::route::Route;
use crate::api::settlement::{SettlementBody, StageBody};
use crate::api::{Api, respond};
use crate::domain::chain::{Again, Payment, U256};
use crate::domain::{Job, State};

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/blockchain/jobs/{id}", "How a job is settled, stage by stage", job)
            .fresh()
            .answers::<JobOnChain>(200, "Its settlement, transactions, and what is not settled yet")
            .problems(&[Code::UnknownJob, Code::ArchiveDamaged]),
    ]
}

#[derive(Serialize, ToSchema)]
pub struct JobOnChain {
    #[schema(format = "uuid")]
    pub job_id: String,
    #[schema(pattern = "^(pending|assigned|running|completed|failed|cancelled)$")]
    pub state: &'static str,
    pub settlement: SettlementBody,
    /// Whether it waits for its registration before anybody is asked to run it.
    pub awaits_chain: bool,
    /// What our contract calls it, whether it is registered or not.
    pub id_in_contract: String,
    /// Paid in advance when it is registered: max_price for each of its workers. Null: it is not settled.
    pub escrow: Option<String>,
    /// What its workers are owed, once it is completed; what is running costs so much if it completes.
    pub price: Option<String>,
    /// Its stages, in the order of the log.
    pub transactions: Vec<StageBody>,
    /// What the contract paid for it, as its events say, whoever asked for it.
    pub payments: Vec<PaymentBody>,
    /// Stages whose transaction came to nothing: they are planned again.
    pub again: Vec<AgainBody>,
    /// Stages that can not be settled until somebody says so.
    pub parked: Vec<ParkedBody>,
    pub applied_index: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChainPayment)]
pub struct PaymentBody {
    pub payee: String,
    /// In the smallest unit of the token, less the contract's fee.
    pub amount: String,
    pub block: u64,
}

impl PaymentBody {
    fn of(payment: &Payment) -> Self {
        let Payment { payee, amount, block, .. } = payment;
        Self { payee: payee.to_string(), amount: amount.to_string(), block: *block }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = StageAgain)]
pub struct AgainBody {
    /// Number of the event it is about.
    pub id: String,
    #[schema(pattern = "^(register|assign|settle|refund)$")]
    pub stage: &'static str,
    /// Transactions it was in.
    pub tries: u32,
    pub reason: String,
}

impl AgainBody {
    fn of(again: &Again) -> Self {
        let Again { item, tries, reason } = again;
        Self { id: item.seq.to_string(), stage: item.stage.as_str(), tries: *tries, reason: reason.to_string() }
    }
}

async fn job(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.job()?;
    let (view, client) = (api.client().view(), api.client().clone());
    let told = move || {
        let state = with_job(&view, &client, id)?;
        respond::json(&job_of(&state, state.job(id).ok_or_else(|| unknown(id))?))
    };
    api.aside(told).await?
}

pub fn job_of(state: &State, job: &Job) -> JobOnChain {
    let books = state.chain();
    let settlement = books.settlement(job.id).map(Arc::as_ref);
    let parked = settlement.map(|settlement| settlement.parked.as_slice()).unwrap_or_default();
    let deposit = |price: crate::domain::Price| price.0.saturating_mul(u128::from(job.spec.redundancy));
    JobOnChain {
        job_id: job.id.to_string(),
        state: job.state.as_str(),
        settlement: SettlementBody::of(state, job),
        awaits_chain: job.state == crate::domain::JobState::Pending && job.awaits_chain,
        id_in_contract: settlement.and_then(|settlement| settlement.chain_job).unwrap_or(U256::of(job.id)).to_string(),
        escrow: job.spec.settlement.and(job.spec.max_price).map(|price| deposit(price).to_string()),
        price: job.price().map(|price| price.to_string()),
        transactions: settlement.iter().flat_map(|settlement| &settlement.links).map(StageBody::of).collect(),
        payments: settlement.iter().flat_map(|settlement| &settlement.payments).map(PaymentBody::of).collect(),
        again: books.again().filter(|again| again.item.job == job.id).map(|again| AgainBody::of(again)).collect(),
        parked: parked.iter().filter_map(|seq| books.parked(*seq)).map(|parked| ParkedBody::of(parked)).collect(),
        applied_index: state.applied(),
    }
}
