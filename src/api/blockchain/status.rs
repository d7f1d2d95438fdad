//! `GET /blockchain/status`: this node's own connection, and the replicated books.

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::alarms::Alarm;
use super::picture::{Own, Picture};
use super::{amount, chain_name};
use crate::api::problem::Problem;
use crate::api::request::Request;
use crate::api::route::Route;
use crate::api::{Api, respond, text};
use crate::chain;
use crate::domain::chain::Site;
use crate::domain::state::LIMITS;
use crate::submission::settlement::{NONE, POLICIES, confirmation_name};

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/blockchain/status", "The connection to the chain, and how far settling is", status)
            .fresh()
            .answers::<BlockchainStatus>(200, "This node's connection, and the replicated rest"),
    ]
}

#[derive(Serialize, ToSchema)]
pub struct BlockchainStatus {
    /// This node's own connection. paused: the chain answers, and nothing can be settled all the same.
    #[schema(pattern = "^(connected|connecting|down|disabled|paused)$")]
    state: &'static str,
    /// Without credentials: the endpoint that answered last.
    rpc_url: Option<String>,
    chain_id: Option<String>,
    /// The newest block that is closed.
    block_number: Option<u64>,
    block_hash: Option<String>,
    job_manager_address: Option<String>,
    contract: ContractBody,
    account_address: Option<String>,
    /// Of the fee token, in its smallest unit.
    balance: Option<String>,
    /// The account's next, as the chain says; null also while the account is not deployed.
    nonce: Option<u64>,
    /// Whether the account takes signatures of this node's key; null: it has none, or did not look yet.
    key_fits: Option<bool>,
    /// What the account has of the token that jobs are paid in, and what of it the contract may take.
    payment_balance: Option<String>,
    payment_allowance: Option<String>,
    gas_prices: Option<GasPricesBody>,
    fees: FeesBody,
    /// How jobs are settled that do not say; null while disabled.
    settlement: Option<SettlementDefaults>,
    /// Which contract the books are of; null before a leader began.
    recorded: Option<SiteBody>,
    /// The leader's, which fences what older leaders sent.
    epoch: u64,
    /// The nonce that is planned next.
    next_nonce: Option<u64>,
    /// Transactions that are prepared and not known to have landed.
    pending_transactions: u64,
    #[schema(format = DateTime)]
    pending_since: Option<String>,
    /// Those that landed and are watched until they are certain enough.
    watched_transactions: u64,
    /// Stages of jobs that were in a transaction which came to nothing, and are planned again.
    again: u64,
    /// Entries of /blockchain/dead-letter-queue.
    parked: u64,
    /// Number of the newest event that is planned.
    journal_cursor: Option<u64>,
    /// Events that were not looked at yet.
    unsettled: u64,
    /// Events kept while the chain lags; there new jobs are refused.
    unsettled_limit: u64,
    /// The contract's events are read up to here.
    events_next_block: Option<u64>,
    /// What needs somebody.
    alarms: Vec<Alarm>,
    /// Why this node's connection is down or paused.
    last_error: Option<String>,
    /// When this node looked at the chain last, and saw it.
    #[schema(format = DateTime)]
    as_of: Option<String>,
    applied_index: u64,
}

/// What this node found out about the contract; null where it did not, or the contract does not tell.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = Contract)]
struct ContractBody {
    class_hash: Option<String>,
    /// Functions that work.
    capabilities: Vec<&'static str>,
    /// full, or submission_only: jobs are registered, and neither assigned nor paid.
    generation: Option<&'static str>,
    paused: Option<bool>,
    /// The token that jobs are paid in.
    token: Option<String>,
    fee_recipient: Option<String>,
    /// Of what is paid out, in hundredths of a percent.
    fee_bps: Option<u16>,
    min_payment: Option<String>,
    /// In escrow for all jobs.
    escrow: Option<String>,
    /// The highest that our account used there.
    epoch: Option<u64>,
    /// Whether our account is a coordinator there.
    coordinator: Option<bool>,
}

/// Of the newest block, in the fee token's smallest unit.
#[derive(Serialize, ToSchema)]
#[schema(as = GasPrices)]
struct GasPricesBody {
    l1: String,
    l2: String,
    l1_data: String,
}

/// In the fee token's smallest unit; null: no bound.
#[derive(Serialize, ToSchema)]
#[schema(as = ChainFees)]
struct FeesBody {
    /// The most that one transaction may cost.
    max_fee: Option<String>,
    max_spend_per_hour: Option<String>,
    spent_this_hour: String,
    /// Of each unit of L2 gas.
    tip: Option<u64>,
    /// Ever paid.
    total: String,
}

#[derive(Serialize, ToSchema)]
struct SettlementDefaults {
    policy: &'static str,
    confirmation: &'static str,
    default_max_price: Option<String>,
    /// The most that is put into escrow for one job.
    max_escrow: Option<String>,
    /// Whether a settled job may name a client who is charged for it.
    charge_clients: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChainSite)]
pub struct SiteBody {
    pub chain_id: String,
    pub job_manager_address: String,
    pub account_address: String,
}

impl SiteBody {
    pub fn of(site: &Site) -> Self {
        Self {
            chain_id: chain_name(site.chain_id),
            job_manager_address: site.contract.to_string(),
            account_address: site.account.to_string(),
        }
    }
}

impl ContractBody {
    fn of(contract: &chain::Contract) -> Self {
        Self {
            class_hash: Some(contract.class_hash.to_string()),
            capabilities: contract.capabilities.to_vec(),
            generation: Some(contract.generation.as_str()),
            paused: contract.paused,
            token: contract.token.map(|token| token.to_string()),
            fee_recipient: contract.fee_recipient.map(|recipient| recipient.to_string()),
            fee_bps: contract.fee_bps,
            min_payment: contract.min_payment.map(amount),
            escrow: contract.escrow.map(amount),
            epoch: contract.epoch,
            coordinator: contract.coordinator,
        }
    }
}

impl FeesBody {
    fn of(picture: &Picture) -> Self {
        let options = picture.own.as_ref().map(|own| &own.options);
        let bound = |of: fn(&chain::Options) -> Option<u128>| options.and_then(of).map(|most| most.to_string());
        Self {
            max_fee: bound(|options| options.max_fee),
            max_spend_per_hour: bound(|options| options.max_spend_per_hour),
            spent_this_hour: picture.spent_this_hour.to_string(),
            tip: options.map(|options| options.tip),
            total: picture.totals.fees.to_string(),
        }
    }
}

impl SettlementDefaults {
    fn of(own: &Own) -> Self {
        let name = |policy| POLICIES.iter().find(|(known, _)| *known == policy).map(|(_, name)| *name);
        Self {
            policy: own.options.policy.and_then(name).unwrap_or(NONE),
            confirmation: confirmation_name(own.options.confirmation),
            default_max_price: own.options.default_max_price.map(|price| price.to_string()),
            max_escrow: own.options.max_escrow.map(|most| most.to_string()),
            charge_clients: own.options.charge_clients,
        }
    }
}

async fn status(api: Api, _request: Request) -> Result<Response, Problem> {
    respond::json(&status_of(&Picture::of(&api.context)))
}

pub fn status_of(picture: &Picture) -> BlockchainStatus {
    let own = picture.own.as_ref();
    let view = own.map(|own| &own.view);
    let account = view.and_then(|view| view.account.as_ref());
    let payment = account.and_then(|account| account.payment);
    let block = view.and_then(|view| view.block);
    BlockchainStatus {
        state: picture.state(),
        rpc_url: view.and_then(|view| view.rpc_url.clone()),
        chain_id: view.and_then(|view| view.chain_id).map(chain_name),
        block_number: block.map(|block| block.number),
        block_hash: block.map(|block| block.hash.to_string()),
        job_manager_address: own.map(|own| own.options.contract.to_string()),
        contract: view.and_then(|view| view.contract.as_ref()).map(ContractBody::of).unwrap_or_default(),
        account_address: own.map(|own| own.options.account.to_string()),
        balance: account.map(|account| amount(account.balance)),
        nonce: account.and_then(|account| account.nonce),
        key_fits: account.and_then(|account| account.key_fits),
        payment_balance: payment.map(|payment| amount(payment.balance)),
        payment_allowance: payment.map(|payment| amount(payment.allowance)),
        gas_prices: view.and_then(|view| view.gas_prices).map(|prices| GasPricesBody {
            l1: prices.l1.to_string(),
            l2: prices.l2.to_string(),
            l1_data: prices.l1_data.to_string(),
        }),
        fees: FeesBody::of(picture),
        settlement: own.map(SettlementDefaults::of),
        recorded: picture.site.as_ref().map(SiteBody::of),
        epoch: picture.epoch,
        next_nonce: picture.next_nonce,
        pending_transactions: picture.waiting,
        pending_since: picture.waiting_since.map(text::time),
        watched_transactions: picture.watched,
        again: picture.again,
        parked: picture.parked,
        journal_cursor: picture.cursor,
        unsettled: picture.unsettled,
        unsettled_limit: u64::try_from(LIMITS.journal_max).unwrap_or(u64::MAX),
        events_next_block: picture.next_block,
        alarms: picture.alarms(),
        last_error: view.and_then(|view| view.last_error.clone()),
        as_of: view.and_then(|view| view.as_of).map(text::time),
        applied_index: picture.applied_index,
    }
}
