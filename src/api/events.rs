//! `GET /events`: everything that happened, as server-sent events.
//!
//! The id of an event is its number in the replicated journal, which is the
//! same on every node: a client may go on at another node with the
//! `Last-Event-ID` it has. A node that lags waits until it gets there; one
//! that has forgotten what was asked for says so with an event named `gap`.
//!
//! The stream of one job also says, at most once a second, how far the attempt
//! in force says it is: `progress` events, which are not in the journal, have no
//! number and are not repeated.
//!
//! A stream pulls from the journal at the pace of its reader, and holds no
//! more than [`AHEAD`] events for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use warp::Reply;
use warp::reply::Response;
use warp::sse::Event as Sent;

use super::jobs::progress::Told;
use super::params::{Kind, Param};
use super::problem::{Code, Problem};
use super::request::Request;
use super::route::{Header, Route};
use super::{Api, text};
use crate::domain::JobId;
use crate::domain::journal::{Entry, Event};

/// Events read from the journal at once, and held for a slow reader.
const AHEAD: usize = 256;

/// Between two looks at what the attempt says of its progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

const LAST_EVENT_ID: Header = Header {
    name: "Last-Event-ID",
    pattern: "^[0-9]{1,18}$",
    about: "Number of the last event seen; the stream goes on after it.",
};

pub fn routes() -> Vec<Route> {
    let schema = serde_json::json!({"type": "string", "description": "Server-sent events; see docs/api.md."});
    vec![
        Route::get("/events", "Everything that happens, as server-sent events", stream)
            .follows_session()
            .header(LAST_EVENT_ID)
            .param(Param::new(
                "after",
                Kind::Integer { min: 0, max: 999_999_999_999_999_999 },
                "Like Last-Event-ID, which wins; 0 is from the oldest. Without either, only what happens from now on.",
            ))
            .param(Param::new("job", Kind::JobId, "Only of this job."))
            .answers_raw(200, "The stream; it does not end", vec![("text/event-stream", schema)])
            .problems(&[Code::InvalidHeader, Code::Overloaded]),
    ]
}

#[derive(Serialize)]
struct Data<'a> {
    seq: u64,
    at: String,
    index: u64,
    term: u64,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Job { job_id: String, state: &'a str, attempt: u32, cause: crate::domain::job::Cause, worker_id: Option<String> },
    Worker { worker_id: String, state: &'a str },
    Letter { letter: String, state: &'a str },
}

async fn stream(api: Api, request: Request) -> Result<Response, Problem> {
    let crowded = || Problem::new(Code::Overloaded, "too many event streams are open on this node");
    let start = start(&api, &request)?;
    let permit = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| crowded())?;
    let job = request.text("job").and_then(|text| text.parse().ok());
    let (out, events) = mpsc::channel(AHEAD);
    let tasks = api.tasks.clone();
    tasks.spawn_until_stopped("event stream", feed(api, start, job, out, permit));
    let events = ReceiverStream::new(events).map(Ok::<_, Infallible>);
    Ok(warp::sse::reply(warp::sse::keep_alive().stream(events)).into_response())
}

/// The number after which the client wants to go on.
fn start(api: &Api, request: &Request) -> Result<u64, Problem> {
    if let Some(value) = request.headers.get("last-event-id") {
        let digits = value
            .to_str()
            .ok()
            .filter(|text| (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()));
        return digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
            Problem::new(Code::InvalidHeader, "Last-Event-ID must be the number of an event").field("Last-Event-ID")
        });
    }
    Ok(request.integer("after").unwrap_or_else(|| api.client().read(|state| state.journal().last_seq())))
}

/// Sends events until the reader is gone. Dropped when the node stops, which ends the stream.
async fn feed(api: Api, start: u64, job: Option<JobId>, out: mpsc::Sender<Sent>, permit: OwnedSemaphorePermit) {
    let mut applied = api.client().applied();
    let mut cursor = start;
    let mut look = tokio::time::interval(PROGRESS_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Told> = None;
    loop {
        applied.borrow_and_update();
        let (first, entries) = api.client().read(|state| {
            let journal = state.journal();
            (journal.first_seq(), journal.after(cursor, AHEAD))
        });
        let oldest = entries.first().map_or(first, |entry| entry.seq);
        if cursor + 1 < oldest {
            if out.send(gap(cursor, oldest)).await.is_err() {
                break;
            }
            cursor = oldest - 1;
            continue;
        }
        let (count, last) = (entries.len(), entries.last().map(|entry| entry.seq));
        for entry in entries.iter().filter(|entry| concerns(entry, job)) {
            let Some(event) = event(entry) else { continue };
            if out.send(event).await.is_err() {
                return;
            }
        }
        cursor = last.unwrap_or(cursor);
        if count == AHEAD {
            continue;
        }
        let ended = tokio::select! {
            changed = applied.changed() => changed.is_err(),
            () = out.closed() => true,
            _ = look.tick(), if job.is_some() => {
                let now = job.and_then(|job| Told::now(&api, job)).filter(|now| told.as_ref() != Some(now));
                let event = now.as_ref().and_then(|now| Sent::default().event("progress").json_data(now).ok());
                told = now.or(told);
                match event {
                    Some(event) => out.send(event).await.is_err(),
                    None => false,
                }
            }
        };
        if ended {
            break;
        }
    }
    drop(permit);
}

fn concerns(entry: &Entry, wanted: Option<JobId>) -> bool {
    match (wanted, &entry.event) {
        (None, _) => true,
        (Some(wanted), Event::Job { job, .. }) => *job == wanted,
        (Some(_), _) => false,
    }
}

/// Says that events from `after` on are forgotten, up to the one before `oldest`.
fn gap(after: u64, oldest: u64) -> Sent {
    let data = serde_json::json!({"after": after, "first_available": oldest});
    Sent::default().event("gap").id((oldest - 1).to_string()).data(data.to_string())
}

fn event(entry: &Entry) -> Option<Sent> {
    let (name, what) = match &entry.event {
        Event::Job { job, state, attempt, cause, worker } => {
            let what = What::Job {
                job_id: job.to_string(),
                state: state.as_str(),
                attempt: *attempt,
                cause: *cause,
                worker_id: worker.map(|worker| worker.to_string()),
            };
            ("job", what)
        }
        Event::Worker { worker, state } => {
            ("worker", What::Worker { worker_id: worker.to_string(), state: state.as_str() })
        }
        Event::WorkerGone { worker } => {
            ("worker", What::Worker { worker_id: worker.to_string(), state: "unregistered" })
        }
        Event::Letter => ("dead_letter", What::Letter { letter: entry.seq.to_string(), state: "queued" }),
        Event::Replay { letter } => ("dead_letter", What::Letter { letter: letter.to_string(), state: "replayed" }),
    };
    let data = Data { seq: entry.seq, at: text::time(entry.at), index: entry.index, term: entry.term, what };
    Sent::default().event(name).id(entry.seq.to_string()).json_data(data).ok()
}
