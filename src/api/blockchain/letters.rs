//! What could not be settled: stages of jobs that are parked, listed, looked at, tried again, dropped.

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use crate::api::page::{self, Page, after};
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::route::Route;
use crate::api::{Api, respond, text};
use crate::domain::chain::{Act, Call, Parked};
use crate::domain::{Command, Refusal, State};

pub fn routes() -> Vec<Route> {
    let known = &[Code::UnknownDeadLetter];
    vec![
        Route::get("/blockchain/dead-letter-queue", "Stages of jobs that could not be settled", list)
            .params(page::params(8))
            .fresh()
            .answers::<ParkedList>(200, "The size of the queue and a page of its entries, oldest event first"),
        Route::get("/blockchain/dead-letter-queue/{id}", "A parked stage with its calls, felt by felt", get)
            .fresh()
            .answers::<WholeParked>(200, "The entry")
            .problems(known),
        Route::post("/blockchain/dead-letter-queue/{id}/retry", "Try again to settle a parked stage", retry)
            .answers::<ParkedBody>(200, "It is planned again, and so is what waits behind it for the same job")
            .write()
            .problems(known),
        Route::delete("/blockchain/dead-letter-queue/{id}", "Drop a parked stage: it is never settled", drop)
            .answers_raw(204, "Dropped", vec![])
            .write()
            .problems(known),
    ]
}

#[derive(Serialize, ToSchema)]
pub struct ParkedList {
    pub size: u64,
    pub entries: Vec<ParkedBody>,
    pub next_cursor: Option<String>,
    pub applied_index: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ParkedStage)]
pub struct ParkedBody {
    /// Number of the event it is about; ids ascend.
    pub id: String,
    #[schema(format = "uuid")]
    pub job_id: String,
    #[schema(pattern = "^(register|assign|settle|refund)$")]
    pub stage: &'static str,
    /// Why it can not be settled: stable, for machines.
    pub code: String,
    /// The same for people.
    pub reason: String,
    #[schema(format = DateTime)]
    pub parked_at: String,
    pub calls: usize,
}

impl ParkedBody {
    pub fn of(parked: &Parked) -> Self {
        Self {
            id: parked.item.seq.to_string(),
            job_id: parked.item.job.to_string(),
            stage: parked.item.stage.as_str(),
            code: parked.code.to_string(),
            reason: parked.reason.to_string(),
            parked_at: text::time(parked.at),
            calls: parked.item.calls.len(),
        }
    }
}

/// A parked stage and what it calls.
#[derive(Serialize, ToSchema)]
#[schema(as = ParkedStageDetail)]
pub struct WholeParked {
    #[serde(flatten)]
    pub parked: ParkedBody,
    pub contract_calls: Vec<CallBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ContractCall)]
pub struct CallBody {
    pub to: String,
    pub selector: String,
    pub calldata: Vec<String>,
}

impl CallBody {
    fn of(call: &Call) -> Self {
        Self {
            to: call.to.to_string(),
            selector: call.selector.to_string(),
            calldata: call.calldata.iter().map(ToString::to_string).collect(),
        }
    }
}

async fn list(api: Api, request: Request) -> Result<Response, Problem> {
    respond::json(&api.client().read(|state| list_of(state, &request)))
}

pub fn list_of(state: &State, request: &Request) -> ParkedList {
    let books = state.chain();
    let mut page = Page::of(request);
    for parked in books.parked_after(after::<8>(request).map(u64::from_be_bytes)) {
        if !page.push(parked.item.seq.to_be_bytes(), || ParkedBody::of(parked)) {
            break;
        }
    }
    let (entries, next_cursor) = page.finish();
    let size = u64::try_from(books.parked_len()).unwrap_or(u64::MAX);
    ParkedList { size, entries, next_cursor, applied_index: state.applied() }
}

async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    let id = entry(&request)?;
    let view = api.client().view();
    respond::json(&whole_of(&view, id).ok_or_else(|| unknown(id))?)
}

pub fn whole_of(state: &State, id: u64) -> Option<WholeParked> {
    let parked = state.chain().parked(id)?;
    let contract_calls = parked.item.calls.iter().map(CallBody::of).collect();
    Some(WholeParked { parked: ParkedBody::of(parked), contract_calls })
}

async fn retry(api: Api, request: Request) -> Result<Response, Problem> {
    let id = entry(&request)?;
    let before = api.client().read(|state| state.chain().parked(id).map(|parked| ParkedBody::of(parked)));
    write(&api, Act::Retry { seq: id }).await?;
    // This node may learn of the entry only now; then it is gone from the queue already.
    respond::json(&before.ok_or_else(|| unknown(id))?)
}

async fn drop(api: Api, request: Request) -> Result<Response, Problem> {
    write(&api, Act::Drop { seq: entry(&request)? }).await?;
    Ok(respond::empty())
}

async fn write(api: &Api, act: Act) -> Result<(), Problem> {
    let (_, reply) = api.client().submit(Command::Chain(act), api.limits().write_deadline).await?;
    match reply {
        Ok(_) => Ok(()),
        Err(Refusal::UnknownLetter(id)) => Err(unknown(id)),
        Err(refusal) => Err(refusal.into()),
    }
}

/// The entry named by the path.
fn entry(request: &Request) -> Result<u64, Problem> {
    request.letter().map_err(|problem| problem.hint("Ids are numbers: GET /blockchain/dead-letter-queue lists them."))
}

fn unknown(id: u64) -> Problem {
    let problem = Problem::new(Code::UnknownDeadLetter, format!("entry {id} is not in the chain's dead-letter queue"));
    problem.hint("GET /blockchain/dead-letter-queue lists the entries.")
}
