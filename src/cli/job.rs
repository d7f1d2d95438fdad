//! `job …`: submit, look, wait, cancel.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Call, Client, segment};
use super::failure::{Failure, Kind};
use super::{Remote, award, download, output, receipt, submit, watch};
use crate::clock;

/// How long one request waits for a job to end; then the next one does.
const HELD: Duration = Duration::from_secs(25);

/// Columns of a list of jobs.
pub(super) const COLUMNS: &[(&str, &str)] = &[
    ("id", "id"),
    ("type", "type"),
    ("state", "state"),
    ("priority", "priority"),
    ("attempt", "attempt"),
    ("worker", "worker_id"),
    ("price", "price"),
    ("submitted", "submitted_at"),
    ("finished", "finished_at"),
];

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Submit a job; several files or a directory: one job per file
    Submit(Box<submit::Args>),
    /// Everything known about a job
    Get { id: String },
    /// Jobs that are not finished; --state all for every one that is remembered
    List(ListArgs),
    /// Cancel a job, in any state that is not final
    Cancel { id: String },
    /// Give a failed job a fresh budget of attempts
    Retry { id: String },
    /// Wait until jobs have ended; exit code 5 unless all completed
    Wait {
        #[arg(required = true)]
        ids: Vec<String>,
        /// Seconds to wait at most; exit code 6 after that
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout: u64,
    },
    /// A job's output, byte for byte, compared with the digest its worker signed
    Result {
        id: String,
        /// Write the output to a file, which appears only when it is whole and right
        #[arg(long, short, value_name = "PATH")]
        output: Option<PathBuf>,
    },
    /// Why a job is where it is
    Explain { id: String },
    /// Judge the awards of a job again, from their record: costs, winner, the winner's signature
    VerifyAward { id: String },
    /// A completed job's receipt, in JSON: `ciro-coordinator verify` checks it without any node
    Receipt { id: String },
    /// Follow a job until it ends; without an id everything that happens
    Watch { id: Option<String> },
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// pending, assigned, running, completed, failed, cancelled or all
    #[arg(long)]
    state: Option<String>,
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Peer id of the worker
    #[arg(long, value_name = "ID")]
    worker: Option<String>,
    /// The client's address on chain
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    #[arg(long)]
    tag: Option<String>,
    /// Submitted at or after this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Failed jobs that may be retried, see `job retry`
    #[arg(long)]
    dead: bool,
    /// Most jobs to show
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

pub async fn run(command: Command, remote: &Remote) -> Result<(), Failure> {
    let client = remote.client()?;
    match command {
        Command::Submit(args) => submit::run(*args, &client, remote).await,
        Command::Get { id } => show(&client, &fresh(&job_path(&id)), remote).await,
        Command::List(args) => list(&client, args, remote).await,
        Command::Cancel { id } => cancel(&client, &id, remote).await,
        Command::Retry { id } => retry(&client, &id, remote).await,
        Command::Wait { ids, timeout } => {
            wait_all(&client, &ids, Limit::new(Duration::from_secs(timeout)), remote).await
        }
        Command::Result { id, output } => download::result(&client, &id, output, remote).await,
        Command::Explain { id } => show(&client, &fresh(&format!("{}/explain", job_path(&id))), remote).await,
        Command::VerifyAward { id } => award::verify(&client, &id, remote).await,
        Command::Receipt { id } => receipt::fetch(&client, &id).await,
        Command::Watch { id: Some(id) } => watch::job(&client, &id, remote.json).await,
        Command::Watch { id: None } => watch::everything(&client, remote.json).await,
    }
}

pub(super) fn job_path(id: &str) -> String {
    format!("/jobs/{}", segment(id))
}

/// A read that sees everything acknowledged before it, on whichever node.
pub(super) fn fresh(path: &str) -> Call {
    Call::get(path).query("consistency", "linearizable")
}

async fn show(client: &Client, call: &Call, remote: &Remote) -> Result<(), Failure> {
    let answer = client.call(call).await?;
    if remote.json { output::json(&answer.body) } else { output::thing(&answer.body) }
}

async fn list(client: &Client, args: ListArgs, remote: &Remote) -> Result<(), Failure> {
    let dead = args.dead.then(|| "true".to_owned());
    let filters = [
        ("state", &args.state),
        ("dead", &dead),
        ("type", &args.kind),
        ("worker", &args.worker),
        ("client", &args.client),
        ("tag", &args.tag),
        ("since", &args.since),
    ];
    let call = filters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)))
        .fold(fresh("/jobs"), |call, (name, value)| call.query(name, value));
    let jobs = pages(client, &call, "jobs", args.limit).await?;
    if remote.json { output::json(&json!({ "jobs": jobs })) } else { output::list(&jobs, COLUMNS) }
}

/// Follows `next_cursor` until `limit` items are there, or all.
pub(super) async fn pages(client: &Client, call: &Call, items: &str, limit: usize) -> Result<Vec<Value>, Failure> {
    let mut all = vec![];
    let mut cursor: Option<String> = None;
    while all.len() < limit {
        let mut page = call.clone().query("limit", (limit - all.len()).min(1_000));
        if let Some(cursor) = &cursor {
            page = page.query("cursor", cursor);
        }
        let answer = client.call(&page).await?;
        let found = answer.body[items].as_array().cloned().unwrap_or_default();
        let came = !found.is_empty();
        all.extend(found);
        cursor = answer.body["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() || !came {
            break;
        }
    }
    all.truncate(limit);
    Ok(all)
}

async fn cancel(client: &Client, id: &str, remote: &Remote) -> Result<(), Failure> {
    let answer = match client.call(&Call::delete(job_path(id))).await {
        // A repeat of a request that had its effect after all is refused: what counts is the job.
        Err(refused) if refused.kind == Kind::Refused => {
            let now = client.call(&fresh(&job_path(id))).await;
            now.ok().filter(|job| job.body["state"] == "cancelled").ok_or(refused)?
        }
        answer => answer?,
    };
    if remote.json { output::json(&answer.body) } else { output::line(&format!("{id} cancelled")) }
}

async fn retry(client: &Client, id: &str, remote: &Remote) -> Result<(), Failure> {
    let answer = client.call(&Call::post(format!("{}/retry", job_path(id))).idempotent()).await?;
    let state = output::cell(&answer.body["state"]);
    if remote.json { output::json(&answer.body) } else { output::line(&format!("{id} {state}")) }
}

async fn wait_all(client: &Client, ids: &[String], limit: Limit, remote: &Remote) -> Result<(), Failure> {
    let jobs = submit::wait_for(client, ids.iter().map(|id| (id.clone(), None)).collect(), limit).await;
    let jobs = jobs.into_iter().collect::<Result<Vec<_>, _>>()?;
    match jobs.as_slice() {
        [job] if remote.json => output::json(job)?,
        jobs if remote.json => output::json(&json!({ "jobs": jobs }))?,
        jobs => output::list(jobs, COLUMNS)?,
    }
    judge(&jobs)
}

/// A time to wait, counted once for all that is waited for.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    total: Duration,
    give_up: Instant,
}

impl Limit {
    pub(super) fn new(total: Duration) -> Self {
        Self { total, give_up: clock::instant() + total }
    }

    fn left(self) -> Duration {
        self.give_up.saturating_duration_since(clock::instant())
    }
}

/// Holds until the job has ended. `seen`: an index that the answer must include.
///
/// # Errors
///
/// Also when `limit` passes first: [`Kind::Timeout`].
pub(super) async fn wait(client: &Client, id: &str, seen: Option<u64>, limit: Limit) -> Result<Value, Failure> {
    loop {
        let left = limit.left();
        // Whole seconds, at least one while there is time; after that one look.
        let held = if left.is_zero() { 0 } else { left.min(HELD).as_secs().max(1) };
        let call = Call::get(job_path(id)).query("wait", "terminal").query("timeout_secs", held);
        let call = match seen {
            Some(index) => call.query("min_index", index),
            None => call.query("consistency", "linearizable"),
        };
        let answer = client.call(&call.limit(Duration::from_secs(held) + Duration::from_secs(10))).await?;
        if is_final(&answer.body) {
            return Ok(answer.body);
        }
        if limit.left().is_zero() {
            let state = output::cell(&answer.body["state"]);
            let message = format!("job {id} is still {state} after {} s", limit.total.as_secs());
            return Err(Failure::new(Kind::Timeout, message)
                .hint(format!("`ciro-coordinator job explain {id}` says why; `job wait {id}` goes on waiting")));
        }
    }
}

pub(super) fn is_final(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("completed" | "failed" | "cancelled"))
}

/// An error unless every job completed.
pub(super) fn judge(jobs: &[Value]) -> Result<(), Failure> {
    let bad: Vec<&Value> = jobs.iter().filter(|job| job["state"] != "completed").collect();
    match bad.as_slice() {
        [] => Ok(()),
        [job] => {
            let why = output::cell(output::at(job, "error.detail"));
            let (id, state) = (output::cell(&job["id"]), output::cell(&job["state"]));
            let why = if why == "-" { String::new() } else { format!(": {why}") };
            Err(Failure::new(Kind::JobFailed, format!("job {id} {state}{why}")))
        }
        many => Err(Failure::new(Kind::JobFailed, format!("{} of {} jobs did not complete", many.len(), jobs.len()))),
    }
}
