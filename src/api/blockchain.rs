//! The chain, as far as this node goes: it is not connected to one, and says so.

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::page;
use super::problem::Problem;
use super::request::Request;
use super::respond;
use super::route::Route;
use super::{Api, params::Kind, params::Param};
use crate::domain::journal::Sink;

pub fn routes() -> Vec<Route> {
    let states = vec!["prepared", "sent", "accepted", "confirmed", "reverted", "dropped"];
    vec![
        Route::get("/blockchain/status", "The connection to the chain", status)
            .fresh()
            .answers::<BlockchainStatus>(200, "Connection, contract and account"),
        Route::get("/blockchain/transactions", "Transactions and the jobs they are for", transactions)
            .params(page::params(16))
            .param(Param::new("state", Kind::Choice(states), "In this state."))
            .fresh()
            .answers::<TransactionList>(200, "A page of transactions"),
        Route::get("/blockchain/metrics", "Counts, fees and latency", metrics)
            .fresh()
            .answers::<BlockchainMetrics>(200, "The figures"),
    ]
}

#[derive(Serialize, ToSchema)]
struct BlockchainStatus {
    #[schema(pattern = "^(connected|connecting|down|disabled|paused)$")]
    state: &'static str,
    /// Without credentials.
    rpc_url: Option<String>,
    chain_id: Option<String>,
    block_number: Option<u64>,
    job_manager_address: Option<String>,
    contract: ContractBody,
    account_address: Option<String>,
    balance: Option<String>,
    nonce: Option<u64>,
    pending_transactions: u64,
    /// Number of the newest event that is settled.
    journal_cursor: Option<u64>,
    last_error: Option<String>,
}

#[derive(Default, Serialize, ToSchema)]
#[schema(as = Contract)]
struct ContractBody {
    class_hash: Option<String>,
    capabilities: Vec<String>,
    generation: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct TransactionList {
    transactions: Vec<TransactionBody>,
    next_cursor: Option<String>,
    applied_index: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Transaction)]
struct TransactionBody {
    hash: String,
    state: String,
    nonce: u64,
    job_ids: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct BlockchainMetrics {
    #[schema(pattern = "^(connected|connecting|down|disabled|paused)$")]
    state: &'static str,
    transactions_sent: u64,
    transactions_confirmed: u64,
    transactions_reverted: u64,
    /// In the smallest unit of the fee token.
    fees_total: String,
    confirm_p50_ms: Option<u64>,
    confirm_p99_ms: Option<u64>,
}

async fn status(api: Api, _request: Request) -> Result<Response, Problem> {
    respond::json(&BlockchainStatus {
        state: "disabled",
        rpc_url: None,
        chain_id: None,
        block_number: None,
        job_manager_address: None,
        contract: ContractBody::default(),
        account_address: None,
        balance: None,
        nonce: None,
        pending_transactions: 0,
        journal_cursor: api.client().read(|state| state.journal().cursor(Sink::Chain)),
        last_error: None,
    })
}

async fn transactions(api: Api, _request: Request) -> Result<Response, Problem> {
    let applied_index = api.client().read(crate::domain::State::applied);
    respond::json(&TransactionList { transactions: vec![], next_cursor: None, applied_index })
}

async fn metrics(_api: Api, _request: Request) -> Result<Response, Problem> {
    respond::json(&BlockchainMetrics {
        state: "disabled",
        transactions_sent: 0,
        transactions_confirmed: 0,
        transactions_reverted: 0,
        fees_total: "0".to_owned(),
        confirm_p50_ms: None,
        confirm_p99_ms: None,
    })
}
