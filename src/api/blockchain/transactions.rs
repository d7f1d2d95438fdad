//! `GET /blockchain/transactions`: what was prepared, newest first, and what became of it.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use crate::api::page::{self, Page, after};
use crate::api::params::{Kind, Param};
use crate::api::problem::Problem;
use crate::api::request::Request;
use crate::api::route::Route;
use crate::api::{Api, respond, text};
use crate::domain::chain::{Closed, Confirmation, Landed, Ledger, Slot};
use crate::domain::{JobId, State, Timestamp};
use crate::submission::settlement::confirmation_name;

const STATES: [&str; 6] = ["prepared", "preconfirmed", "accepted_l2", "accepted_l1", "reverted", "abandoned"];

/// A cursor: when it was prepared, in milliseconds, then its nonce.
const KEY: usize = 16;

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/blockchain/transactions", "Transactions and the jobs they are for, newest first", transactions)
            .params(page::params(KEY))
            .param(Param::new("state", Kind::Choice(STATES.to_vec()), "In this state."))
            .param(Param::new("job", Kind::JobId, "With a stage of this job."))
            .fresh()
            .answers::<TransactionList>(
                200,
                "A page of transactions: all that are open, and the last 1000 closed ones",
            ),
    ]
}

#[derive(Serialize, ToSchema)]
pub struct TransactionList {
    pub transactions: Vec<TransactionBody>,
    pub next_cursor: Option<String>,
    pub applied_index: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Transaction)]
pub struct TransactionBody {
    /// Of the one that landed, else of the newest try.
    pub hash: String,
    /// prepared: it is not known to have landed. reverted: it landed and had no effect. abandoned: another
    /// transaction took its nonce. Else how certain it is that it stays.
    #[schema(pattern = "^(prepared|preconfirmed|accepted_l2|accepted_l1|reverted|abandoned)$")]
    pub state: &'static str,
    pub nonce: u64,
    pub epoch: u64,
    /// Each once, in the order of their stages.
    pub job_ids: Vec<String>,
    /// Calls in it, the epoch's fence included.
    pub calls: usize,
    /// Number of its block; null before that is closed.
    pub block: Option<u64>,
    pub block_hash: Option<String>,
    /// Paid, in the fee token's smallest unit; null before it landed.
    pub fee: Option<String>,
    /// Why it was reverted.
    pub error: Option<String>,
    /// Hashes of all that were prepared for its nonce, oldest first; of a closed one only its own.
    pub tries: Vec<String>,
    #[schema(format = DateTime)]
    pub prepared_at: String,
    #[schema(format = DateTime)]
    pub landed_at: Option<String>,
    /// Of the log entry that prepared it; null once it is closed.
    pub log_index: Option<u64>,
    /// It is not watched any more.
    pub closed: bool,
}

/// An open transaction or a closed one.
pub enum Known<'a> {
    Open(u64, &'a Arc<Slot>),
    Closed(&'a Arc<Closed>),
}

impl Known<'_> {
    fn prepared_at(&self) -> Timestamp {
        match self {
            Self::Open(_, slot) => slot.prepared_at,
            Self::Closed(closed) => closed.prepared_at,
        }
    }

    pub fn landed_at(&self) -> Option<Timestamp> {
        match self {
            Self::Open(_, slot) => slot.landed_at,
            Self::Closed(closed) => closed.landed_at,
        }
    }

    /// From being prepared to having landed.
    pub fn took_ms(&self) -> Option<u64> {
        self.landed_at().map(|at| at.since(self.prepared_at()))
    }

    fn key(&self) -> [u8; KEY] {
        let nonce = match self {
            Self::Open(nonce, _) => *nonce,
            Self::Closed(closed) => closed.nonce,
        };
        (u128::from(self.prepared_at().0) << 64 | u128::from(nonce)).to_be_bytes()
    }

    fn state(&self) -> &'static str {
        let landed = match self {
            Self::Open(_, slot) => slot.landed.as_ref(),
            Self::Closed(closed) => closed.landed.as_ref(),
        };
        match (landed, self) {
            (Some(Landed { reverted: Some(_), .. }), _) => "reverted",
            (Some(Landed { confirmation, .. }), _) => confirmed(*confirmation),
            (None, Self::Open(..)) => "prepared",
            (None, Self::Closed(_)) => "abandoned",
        }
    }

    fn is_of(&self, job: JobId) -> bool {
        match self {
            Self::Open(_, slot) => slot.items().iter().any(|item| item.job == job),
            Self::Closed(closed) => closed.jobs.contains(&job),
        }
    }

    fn body(&self) -> TransactionBody {
        match self {
            Self::Open(nonce, slot) => open(*nonce, slot, self.state()),
            Self::Closed(closed) => shut(closed, self.state()),
        }
    }
}

fn confirmed(confirmation: Confirmation) -> &'static str {
    confirmation_name(confirmation)
}

/// All there are, newest first.
pub fn known(books: &Ledger) -> Vec<Known<'_>> {
    let open = books.lane().map(|(nonce, slot)| Known::Open(nonce, slot));
    let mut all: Vec<Known> = open.chain(books.recent_after(None).map(Known::Closed)).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.key()));
    all
}

fn open(nonce: u64, slot: &Slot, state: &'static str) -> TransactionBody {
    let sent = slot.landed.as_ref().and_then(|landed| slot.tries.iter().find(|known| known.hash == landed.hash));
    let sent = sent.or(slot.newest());
    let mut jobs: Vec<JobId> = Vec::new();
    for item in slot.items() {
        if jobs.last() != Some(&item.job) {
            jobs.push(item.job);
        }
    }
    TransactionBody {
        hash: sent.map(|sent| sent.hash.to_string()).unwrap_or_default(),
        epoch: sent.map_or(0, |sent| sent.epoch),
        calls: sent.map_or(0, |sent| sent.calls().count()),
        tries: slot.tries.iter().map(|known| known.hash.to_string()).collect(),
        log_index: Some(slot.prepared_index),
        closed: false,
        ..outcome(nonce, state, &jobs, (slot.prepared_at, slot.landed_at), slot.landed.as_ref())
    }
}

fn shut(closed: &Closed, state: &'static str) -> TransactionBody {
    TransactionBody {
        hash: closed.hash.to_string(),
        epoch: closed.epoch,
        calls: usize::try_from(closed.calls).unwrap_or(usize::MAX),
        tries: vec![closed.hash.to_string()],
        log_index: None,
        closed: true,
        ..outcome(closed.nonce, state, &closed.jobs, (closed.prepared_at, closed.landed_at), closed.landed.as_ref())
    }
}

/// What open and closed ones have in common; the rest is empty.
fn outcome(
    nonce: u64,
    state: &'static str,
    jobs: &[JobId],
    (prepared_at, landed_at): (Timestamp, Option<Timestamp>),
    landed: Option<&Landed>,
) -> TransactionBody {
    let block = landed.and_then(|landed| landed.block);
    TransactionBody {
        hash: String::new(),
        state,
        nonce,
        epoch: 0,
        job_ids: jobs.iter().map(JobId::to_string).collect(),
        calls: 0,
        block: block.map(|block| block.number),
        block_hash: block.map(|block| block.hash.to_string()),
        fee: landed.map(|landed| landed.fee.to_string()),
        error: landed.and_then(|landed| landed.reverted.as_deref()).map(str::to_owned),
        tries: vec![],
        prepared_at: text::time(prepared_at),
        landed_at: landed_at.map(text::time),
        log_index: None,
        closed: false,
    }
}

async fn transactions(api: Api, request: Request) -> Result<Response, Problem> {
    let view = api.client().view();
    respond::json(&list_of(&view, &request))
}

pub fn list_of(state: &State, request: &Request) -> TransactionList {
    let wanted = request.text("state");
    let job: Option<JobId> = request.text("job").and_then(|job| job.parse().ok());
    let start = after::<KEY>(request);
    let mut page = Page::of(request);
    for one in known(state.chain()) {
        let key = one.key();
        let takes = start.is_none_or(|start| key < start)
            && wanted.is_none_or(|wanted| wanted == one.state())
            && job.is_none_or(|job| one.is_of(job));
        if takes && !page.push(key, || one.body()) {
            break;
        }
    }
    let (transactions, next_cursor) = page.finish();
    TransactionList { transactions, next_cursor, applied_index: state.applied() }
}
