//! `GET /blockchain/metrics`: counts, fees, latency, and why transactions were reverted.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::picture::Picture;
use super::transactions::known;
use crate::api::problem::Problem;
use crate::api::request::Request;
use crate::api::route::Route;
use crate::api::{Api, respond};
use crate::domain::State;

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/blockchain/metrics", "Counts, fees, latency and reverts of the cluster's transactions", metrics)
            .fresh()
            .answers::<BlockchainMetrics>(200, "The figures: since the cluster began, and the same on every node"),
    ]
}

#[derive(Serialize, ToSchema)]
pub struct BlockchainMetrics {
    /// This node's own connection.
    #[schema(pattern = "^(connected|connecting|down|disabled|paused)$")]
    state: &'static str,
    /// Prepared ever, a nonce once.
    transactions_sent: u64,
    /// Landed and had their effect.
    transactions_confirmed: u64,
    transactions_reverted: u64,
    /// Another transaction took their nonce.
    transactions_abandoned: u64,
    /// Not known to have landed.
    transactions_pending: u64,
    /// Calls of those that had their effect.
    calls: u64,
    /// In the smallest unit of the fee token.
    fees_total: String,
    fees_this_hour: String,
    /// Of those that landed, by call; null before the first.
    fee_per_call: Option<String>,
    /// From being prepared to having landed, of those that are listed; null before the first.
    confirm_p50_ms: Option<u64>,
    confirm_p99_ms: Option<u64>,
    confirm_max_ms: Option<u64>,
    /// By the contract's word.
    reverts_by_reason: BTreeMap<String, u64>,
    /// Stages of jobs that are planned again, and that are parked.
    again: u64,
    parked: u64,
    /// Jobs taken from the contract's events, and those that can not be run here.
    jobs_arrived: u64,
    jobs_refused: u64,
    applied_index: u64,
}

async fn metrics(api: Api, _request: Request) -> Result<Response, Problem> {
    let picture = Picture::of(&api.context);
    let view = api.client().view();
    respond::json(&metrics_of(&picture, &view))
}

pub fn metrics_of(picture: &Picture, state: &State) -> BlockchainMetrics {
    let totals = &picture.totals;
    let mut took: Vec<u64> = known(state.chain()).iter().filter_map(|one| one.took_ms()).collect();
    took.sort_unstable();
    BlockchainMetrics {
        state: picture.state(),
        transactions_sent: picture.prepared(),
        transactions_confirmed: totals.succeeded,
        transactions_reverted: totals.reverted,
        transactions_abandoned: totals.abandoned,
        transactions_pending: picture.waiting,
        calls: totals.calls,
        fees_total: totals.fees.to_string(),
        fees_this_hour: picture.spent_this_hour.to_string(),
        fee_per_call: totals.fees.checked_div(u128::from(totals.calls)).map(|fee| fee.to_string()),
        confirm_p50_ms: share(&took, 50),
        confirm_p99_ms: share(&took, 99),
        confirm_max_ms: took.last().copied(),
        reverts_by_reason: totals.reasons.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
        again: picture.again,
        parked: picture.parked,
        jobs_arrived: totals.arrived,
        jobs_refused: totals.refused,
        applied_index: picture.applied_index,
    }
}

/// The value that `percent` of them do not exceed.
fn share(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}
