//! `worker …`: list, look, drain, resume.

use serde_json::json;

use super::client::{Call, segment};
use super::failure::Failure;
use super::job::pages;
use super::{Remote, output};

const COLUMNS: &[(&str, &str)] = &[
    ("id", "id"),
    ("state", "state"),
    ("types", "capabilities.job_types"),
    ("running", "jobs_running"),
    ("parallel", "max_parallel_jobs"),
    ("load", "load"),
    ("reputation", "reputation"),
    ("heartbeat", "last_heartbeat_at"),
    ("version", "version"),
];

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Workers that are there; --state all for every registered one
    List {
        /// online, busy, draining, unhealthy, offline, banned or all
        #[arg(long)]
        state: Option<String>,
        #[arg(long)]
        region: Option<String>,
        #[arg(long, value_name = "TYPE")]
        job_type: Option<String>,
        /// Most workers to show
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Everything known about a worker
    Get { id: String },
    /// Give the worker no new jobs; those that run finish
    Drain { id: String },
    /// Give the worker jobs again
    Resume { id: String },
}

pub async fn run(command: Command, remote: &Remote) -> Result<(), Failure> {
    let client = remote.client()?;
    let path = |id: &str, verb: &str| format!("/workers/{}{verb}", segment(id));
    let call = match &command {
        Command::List { state, region, job_type, limit } => {
            let filters = [("state", state), ("region", region), ("job_type", job_type)];
            let call = filters
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.as_ref()?)))
                .fold(Call::get("/workers"), |call, (name, value)| call.query(name, value));
            let workers = pages(&client, &call, "workers", *limit).await?;
            let as_json = || output::json(&json!({ "workers": workers }));
            return if remote.json { as_json() } else { output::list(&workers, COLUMNS) };
        }
        Command::Get { id } => Call::get(path(id, "")),
        Command::Drain { id } => Call::post(path(id, "/drain")).idempotent(),
        Command::Resume { id } => Call::post(path(id, "/resume")).idempotent(),
    };
    let answer = client.call(&call).await?;
    if remote.json { output::json(&answer.body) } else { output::thing(&answer.body) }
}
