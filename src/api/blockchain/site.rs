//! What an operator may do: accept another contract, account or chain, and give settling up.
//!
//! Each is refused where this node can see that it is a mistake: what is to be
//! accepted must be what this node is configured with and sees, and a cursor is
//! not forgotten while the chain is enabled.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::reply::Response;

use super::alarms::shown;
use super::picture::Picture;
use super::{chain_name, disabled};
use crate::api::decode;
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::route::Route;
use crate::api::{Api, respond};
use crate::domain::chain::{Act, Felt, Site};
use crate::domain::journal::Sink;
use crate::domain::{Command, Done};

const BODY_MAX: usize = 4 << 10;

pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/blockchain/reset", "Accept another contract, account or chain: settling goes on there", reset)
            .takes::<Reset>(true, BODY_MAX)
            .answers::<WasReset>(200, "The books are of that one now; what was in flight is planned again")
            .write()
            .problems(&[Code::NotAvailable]),
        Route::delete("/blockchain/cursor", "Give settling up: events are no longer kept for the chain", forget)
            .answers::<Forgotten>(200, "Events are not kept for the chain until it is enabled again")
            .write(),
    ]
}

/// What this node is configured with, said once more so that nothing is accepted by a slip of the pen.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChainReset, example = json!({"chain_id": "SN_SEPOLIA", "job_manager_address": "0x1a2b", "account_address": "0x3c4d"}))]
pub struct Reset {
    /// As /blockchain/status shows it.
    #[schema(pattern = "^[!-~]{1,66}$")]
    chain_id: String,
    #[schema(pattern = "^0x[0-9a-fA-F]{1,64}$")]
    job_manager_address: String,
    #[schema(pattern = "^0x[0-9a-fA-F]{1,64}$")]
    account_address: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChainWasReset)]
struct WasReset {
    chain_id: String,
    job_manager_address: String,
    account_address: String,
    /// False: the books were of this one, and stay.
    changed: bool,
    applied_index: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChainForgotten)]
struct Forgotten {
    /// False: nothing was kept for the chain.
    changed: bool,
    applied_index: u64,
}

async fn reset(api: Api, request: Request) -> Result<Response, Problem> {
    let wish: Reset = decode::json(&request.body)?;
    let site = wish.check()?;
    may_reset(&Picture::of(&api.context), &site)?;
    let (applied_index, done) = write(&api, Command::Chain(Act::Reset { site: site.clone() })).await?;
    respond::json(&WasReset {
        chain_id: chain_name(site.chain_id),
        job_manager_address: site.contract.to_string(),
        account_address: site.account.to_string(),
        changed: done != Done::Unchanged,
        applied_index,
    })
}

impl Reset {
    /// # Errors
    ///
    /// A field that is no address, or no id of a chain.
    pub fn check(&self) -> Result<Site, Problem> {
        let refuse = |field: &'static str, what: &str| {
            Problem::new(Code::InvalidField, format!("{field} must be {what}")).field(field)
        };
        let address = |field, text: &str| {
            text.parse::<Felt>().map_err(|_| refuse(field, "0x and 1 to 64 hex digits, below the field's prime"))
        };
        let chain_id = if self.chain_id.starts_with("0x") {
            self.chain_id.parse().ok()
        } else {
            Felt::short(self.chain_id.as_bytes()).filter(|_| self.chain_id.bytes().all(|byte| byte.is_ascii_graphic()))
        };
        let named = chain_id.filter(|id| *id != Felt::ZERO);
        Ok(Site {
            chain_id: named.ok_or_else(|| refuse("chain_id", "a name such as SN_SEPOLIA, or 0x and hex digits"))?,
            contract: address("job_manager_address", &self.job_manager_address)?,
            account: address("account_address", &self.account_address)?,
        })
    }
}

/// Refuses what this node is not configured with, or does not see.
pub fn may_reset(picture: &Picture, wanted: &Site) -> Result<(), Problem> {
    let Some(own) = &picture.own else { return Err(disabled("it can not tell whether that contract is there")) };
    let hint = "GET /blockchain/status shows chain_id, job_manager_address and account_address.";
    match own.site() {
        Some(site) if site == *wanted => Ok(()),
        Some(site) => {
            let detail = format!("this node is configured for {}", shown(&site));
            Err(Problem::new(Code::Conflict, detail).hint(hint))
        }
        None => {
            let detail = "this node has not seen the chain yet, so it can not tell whether that contract is there";
            Err(Problem::new(Code::Conflict, detail)
                .hint("Ask a node that is connected; GET /blockchain/status says so."))
        }
    }
}

async fn forget(api: Api, _request: Request) -> Result<Response, Problem> {
    if api.context.chain.is_some() {
        let problem = Problem::new(Code::Conflict, "the chain is enabled on this node, and needs its events");
        return Err(problem.hint("Set blockchain.enabled = false on every node first; or repair the connection."));
    }
    let (applied_index, done) = write(&api, Command::ForgetSink { sink: Sink::Chain }).await?;
    respond::json(&Forgotten { changed: done != Done::Unchanged, applied_index })
}

async fn write(api: &Api, command: Command) -> Result<(u64, Done), Problem> {
    let (index, reply) = api.client().submit(command, api.limits().write_deadline).await?;
    Ok((index, reply?))
}
