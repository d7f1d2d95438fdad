//! `blockchain status|transactions|metrics|job|events|dlq|reset|forget`: the chain as the nodes see it, by REST.

use serde_json::{Value, json};

use crate::cli::client::{Call, Client, segment};
use crate::cli::failure::Failure;
use crate::cli::job::{fresh, pages};
use crate::cli::{Remote, output};

const NODES: &[(&str, &str)] = &[
    ("url", "url"),
    ("state", "state"),
    ("chain", "chain_id"),
    ("block", "block_number"),
    ("contract", "contract.generation"),
    ("balance", "balance"),
    ("error", "last_error"),
];

const TRANSACTIONS: &[(&str, &str)] = &[
    ("hash", "hash"),
    ("state", "state"),
    ("nonce", "nonce"),
    ("epoch", "epoch"),
    ("jobs", "jobs"),
    ("calls", "calls"),
    ("block", "block"),
    ("fee", "fee"),
    ("tries", "tried"),
    ("prepared", "prepared_at"),
    ("landed", "landed_at"),
    ("error", "error"),
];

const STAGES: &[(&str, &str)] = &[
    ("stage", "stage"),
    ("log index", "log_index"),
    ("nonce", "nonce"),
    ("transaction", "transaction_hash"),
    ("confirmation", "confirmation"),
    ("block", "block"),
];

const PAYMENTS: &[(&str, &str)] = &[("payee", "payee"), ("amount", "amount"), ("block", "block")];

const PARKED: &[(&str, &str)] = &[
    ("id", "id"),
    ("job", "job_id"),
    ("stage", "stage"),
    ("code", "code"),
    ("parked", "parked_at"),
    ("reason", "reason"),
];

const AGAIN: &[(&str, &str)] = &[("id", "id"), ("stage", "stage"), ("tries", "tries"), ("reason", "reason")];

const EVENTS: &[(&str, &str)] = &[
    ("block", "block"),
    ("event", "event"),
    ("job", "job"),
    ("account", "account"),
    ("worker", "by"),
    ("amount", "amount"),
    ("transaction", "transaction_hash"),
];

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// A node's connection to the chain, the contract, the account, and how far settling is; with several --node, each one's
    Status,
    /// Transactions and what became of them, newest first
    Transactions(ListArgs),
    /// Counts, fees, latency, and why transactions were reverted
    Metrics,
    /// How a job is settled, stage by stage
    Job { id: String },
    /// The contract's events, as a node reads them from the chain now
    Events {
        /// First block; without it, 100 blocks
        #[arg(long, value_name = "BLOCK")]
        from: Option<u64>,
        /// Last block, at most 999 after the first; without it, the newest
        #[arg(long, value_name = "BLOCK")]
        to: Option<u64>,
    },
    /// What could not be settled
    #[command(subcommand)]
    Dlq(Letters),
    /// Accept the contract, account and chain that a node is configured with in place of those the books are of
    Reset {
        /// Without it, what would be accepted is shown, and nothing is done
        #[arg(long)]
        yes: bool,
    },
    /// Give settling up: the journal no longer keeps events for the chain; refused while it is enabled
    Forget,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// prepared, preconfirmed, accepted_l2, accepted_l1, reverted or abandoned
    #[arg(long)]
    state: Option<String>,
    /// With a stage of this job
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Most transactions to show
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

#[derive(Debug, clap::Subcommand)]
pub enum Letters {
    /// The entries of the queue, oldest event first
    List {
        /// Most entries to show
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// An entry with its calls, felt by felt
    Show { id: String },
    /// Try again, with what waits behind it for the same job
    Retry {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Drop entries: they are never settled
    Drop {
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

pub async fn run(command: Command, remote: &Remote) -> Result<(), Failure> {
    let client = remote.client()?;
    match command {
        Command::Status => status(&client, remote).await,
        Command::Transactions(args) => transactions(&client, &args, remote).await,
        Command::Metrics => show(&client, &fresh("/blockchain/metrics"), remote).await,
        Command::Job { id } => job(&client, &id, remote).await,
        Command::Events { from, to } => events(&client, from, to, remote).await,
        Command::Dlq(letters) => dlq(letters, &client, remote).await,
        Command::Reset { yes } => reset(&client, yes, remote).await,
        Command::Forget => show(&client, &Call::delete("/blockchain/cursor"), remote).await,
    }
}

async fn show(client: &Client, call: &Call, remote: &Remote) -> Result<(), Failure> {
    let answer = client.call(call).await?.body;
    if remote.json { output::json(&answer) } else { output::thing(&answer) }
}

async fn status(client: &Client, remote: &Remote) -> Result<(), Failure> {
    let mut status = client.call(&Call::get("/blockchain/status")).await?.body;
    let count = client.nodes().count();
    if count > 1 {
        let views = futures::future::join_all((0..count).map(|node| view(client, node))).await;
        match &mut status {
            Value::Object(fields) if remote.json => {
                fields.insert("views".to_owned(), Value::Array(views));
            }
            _ => {
                output::list(&views, NODES)?;
                output::line("")?;
            }
        }
    }
    if remote.json { output::json(&status) } else { output::thing(&status) }
}

/// What one node says of its own connection.
async fn view(client: &Client, node: usize) -> Value {
    let url = client.nodes().nth(node).unwrap_or_default();
    match client.ask(node, &Call::get("/blockchain/status")).await {
        Ok(answer) => {
            let part = |key: &str| answer.body[key].clone();
            json!({
                "url": url, "state": part("state"), "chain_id": part("chain_id"), "block_number": part("block_number"),
                "contract": part("contract"), "balance": part("balance"), "last_error": part("last_error"),
            })
        }
        Err(failure) => json!({ "url": url, "state": "unknown", "last_error": failure.message }),
    }
}

async fn transactions(client: &Client, args: &ListArgs, remote: &Remote) -> Result<(), Failure> {
    let filters = [("state", &args.state), ("job", &args.job)];
    let call = filters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)))
        .fold(fresh("/blockchain/transactions"), |call, (name, value)| call.query(name, value));
    let found = pages(client, &call, "transactions", args.limit).await?;
    if remote.json {
        return output::json(&json!({ "transactions": found }));
    }
    let rows: Vec<Value> = found.iter().map(counted).collect();
    output::list(&rows, TRANSACTIONS)
}

/// With the number of its jobs and tries in place of their names.
fn counted(transaction: &Value) -> Value {
    let mut row = transaction.clone();
    let length = |list: &Value| json!(list.as_array().map(Vec::len));
    (row["jobs"], row["tried"]) = (length(&transaction["job_ids"]), length(&transaction["tries"]));
    row
}

async fn job(client: &Client, id: &str, remote: &Remote) -> Result<(), Failure> {
    let mut job = client.call(&fresh(&format!("/blockchain/jobs/{}", segment(id)))).await?.body;
    if remote.json {
        return output::json(&job);
    }
    let lists = [("transactions", STAGES), ("payments", PAYMENTS), ("again", AGAIN), ("parked", PARKED)];
    let taken = lists.map(|(name, columns)| (name, columns, job.as_object_mut().and_then(|job| job.remove(name))));
    // Its stages are told of below.
    for field in ["registered", "assigned", "settled", "refunded", "parked"] {
        job["settlement"].as_object_mut().and_then(|settlement| settlement.remove(field));
    }
    output::thing(&job)?;
    for (name, columns, items) in taken {
        let items = items.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !items.is_empty() {
            output::line(&format!("\n{name}:"))?;
            output::list(items, columns)?;
        }
    }
    Ok(())
}

async fn events(client: &Client, from: Option<u64>, to: Option<u64>, remote: &Remote) -> Result<(), Failure> {
    let blocks = [("from", from), ("to", to)].into_iter().filter_map(|(name, block)| Some((name, block?)));
    let call = blocks.fold(Call::get("/blockchain/events"), |call, (name, block)| call.query(name, block));
    let read = client.call(&call.limit(std::time::Duration::from_secs(60))).await?.body;
    if remote.json {
        return output::json(&read);
    }
    let events = read["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Value> = events.iter().map(named).collect();
    output::list(&rows, EVENTS)
}

/// With our own names where there are any.
fn named(event: &Value) -> Value {
    let mut row = event.clone();
    let either = |ours: &str, theirs: &str| if event[ours].is_null() { &event[theirs] } else { &event[ours] }.clone();
    (row["job"], row["by"]) = (either("job_id", "chain_job"), either("worker_id", "worker"));
    row
}

async fn dlq(command: Letters, client: &Client, remote: &Remote) -> Result<(), Failure> {
    let path = |id: &str, verb: &str| format!("/blockchain/dead-letter-queue/{}{verb}", segment(id));
    match command {
        Letters::List { limit } => {
            let entries = pages(client, &fresh("/blockchain/dead-letter-queue"), "entries", limit).await?;
            if remote.json { output::json(&json!({ "entries": entries })) } else { output::list(&entries, PARKED) }
        }
        Letters::Show { id } => show(client, &fresh(&path(&id, "")), remote).await,
        Letters::Retry { ids } => {
            let call = |id: &str| Call::post(path(id, "/retry")).idempotent();
            crate::cli::each(&ids, call, "planned again", client, remote).await
        }
        Letters::Drop { ids } => {
            crate::cli::each(&ids, |id| Call::delete(path(id, "")), "dropped", client, remote).await
        }
    }
}

/// Asks one node what it is configured with, and has the cluster accept just that.
async fn reset(client: &Client, yes: bool, remote: &Remote) -> Result<(), Failure> {
    let status = client.call(&Call::get("/blockchain/status")).await?.body;
    let part = |key: &str| status[key].clone();
    let site = json!({
        "chain_id": part("chain_id"), "job_manager_address": part("job_manager_address"),
        "account_address": part("account_address"),
    });
    if site.as_object().is_some_and(|site| site.values().any(Value::is_null)) {
        let failure = Failure::usage("the node that was asked does not see a chain, so there is nothing to accept");
        return Err(failure.hint("--node URL names one that does; see `blockchain status`"));
    }
    if !yes {
        let plan = json!({ "recorded": part("recorded"), "accept": site });
        if remote.json {
            output::json(&plan)?
        } else {
            output::thing(&plan)?
        }
        return Err(
            Failure::usage("nothing was done").hint("--yes accepts it: what was in flight is planned again there")
        );
    }
    show(client, &Call::post("/blockchain/reset").body(site).idempotent(), remote).await
}
