//! `job submit`: one job per input, each under its own idempotency key, many at
//! a time, spread over the nodes that were named.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};

use super::client::{Call, Client};
use super::failure::{Failure, Kind};
use super::files::{self, Source};
use super::{Remote, job, output};
use crate::clock;

/// Submissions, and waits, under way at once.
const AT_ONCE: usize = 32;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ciro-coordinator job submit --type sha256 README.md --wait\n  \
    ciro-coordinator job submit --type sha256 src/ --wait\n  echo hello | ciro-coordinator job submit --type wordcount -")]
pub struct Args {
    /// Files or directories to submit, one job per file; - is standard input
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The same as naming the file
    #[arg(long = "file", short, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// The payload itself
    #[arg(long, value_name = "TEXT")]
    payload: Option<String>,
    /// The job type; workers declare which they run
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    kind: Option<String>,
    /// A submission in JSON, for all that flags do not cover; flags win over it
    #[arg(long, value_name = "PATH")]
    spec: Option<PathBuf>,
    /// 1 (last) to 10 (first)
    #[arg(long)]
    priority: Option<u64>,
    /// The most to pay, in the smallest unit of the token
    #[arg(long, value_name = "AMOUNT")]
    max_price: Option<String>,
    /// The job fails if it is not done by then, RFC 3339
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// Longest run of one attempt
    #[arg(long, value_name = "SECONDS")]
    timeout_secs: Option<u64>,
    /// Attempts before the job fails
    #[arg(long, value_name = "COUNT")]
    max_attempts: Option<u64>,
    /// CPU cores the worker must have
    #[arg(long, value_name = "COUNT")]
    min_cpu_cores: Option<u64>,
    /// Memory the worker must have, GB
    #[arg(long, value_name = "GB")]
    min_ram_gb: Option<f64>,
    /// GPU memory the worker must have, GB
    #[arg(long, value_name = "GB")]
    min_gpu_memory_gb: Option<f64>,
    /// Framework the worker must have; several times for several
    #[arg(long = "framework", value_name = "NAME")]
    frameworks: Vec<String>,
    /// Region the worker should be in; several times for several
    #[arg(long = "region", value_name = "NAME")]
    regions: Vec<String>,
    /// Several times for several
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The client's account on chain
    #[arg(long, value_name = "ADDRESS")]
    client_address: Option<String>,
    /// The same key is the same job, however often it is submitted (made up without it; one input only)
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until every job has ended; exit code 5 unless all completed
    #[arg(long, short)]
    wait: bool,
    /// Seconds to wait at most; exit code 6 after that
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    wait_timeout: u64,
}

impl Args {
    /// The submission without its payload.
    fn spec(&self) -> Result<Map<String, Value>, Failure> {
        let mut spec = match &self.spec {
            Some(path) => read_spec(path)?,
            None => Map::new(),
        };
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                spec.insert(name.to_owned(), value);
            }
        };
        set("type", self.kind.clone().map(Value::from));
        set("priority", self.priority.map(Value::from));
        set("max_price", self.max_price.clone().map(Value::from));
        set("deadline", self.deadline.clone().map(Value::from));
        set("timeout_secs", self.timeout_secs.map(Value::from));
        set("client_address", self.client_address.clone().map(Value::from));
        set("tags", texts(&self.tags));
        merge(&mut spec, "retry", [("max_attempts", self.max_attempts.map(Value::from))]);
        let requirements = [
            ("min_cpu_cores", self.min_cpu_cores.map(Value::from)),
            ("min_ram_gb", self.min_ram_gb.map(Value::from)),
            ("min_gpu_memory_gb", self.min_gpu_memory_gb.map(Value::from)),
            ("required_frameworks", texts(&self.frameworks)),
            ("preferred_regions", texts(&self.regions)),
        ];
        merge(&mut spec, "requirements", requirements);
        if spec.contains_key("type") {
            Ok(spec)
        } else {
            Err(Failure::usage("what kind of job is it?").hint("--type TYPE, e.g. --type sha256"))
        }
    }

    fn sources(&self, spec: &Map<String, Value>) -> Result<Vec<Source>, Failure> {
        let named: Vec<PathBuf> = self.paths.iter().chain(&self.files).cloned().collect();
        let complete = spec.contains_key("payload") || spec.contains_key("input");
        if named.is_empty() && self.payload.is_none() && complete {
            return Ok(vec![]);
        }
        files::sources(&named, self.payload.as_deref())
    }
}

fn texts(values: &[String]) -> Option<Value> {
    (!values.is_empty()).then(|| json!(values))
}

/// Sets what was given in the object `name`, which appears only if anything was.
fn merge<const N: usize>(spec: &mut Map<String, Value>, name: &str, values: [(&str, Option<Value>); N]) {
    for (key, value) in values {
        let Some(value) = value else { continue };
        let object = spec.entry(name).or_insert_with(|| json!({}));
        if let Value::Object(object) = object {
            object.insert(key.to_owned(), value);
        }
    }
}

fn read_spec(path: &PathBuf) -> Result<Map<String, Value>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("read {shown}: {error}")))?;
    serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{shown} is not one JSON object: {error}")))
}

/// A submission on its way.
struct Item {
    name: String,
    body: Result<Value, Failure>,
    key: String,
}

/// What became of one submission: its name, and the job.
type Outcome = (String, Result<Value, Failure>);

pub async fn run(args: Args, client: &Client, remote: &Remote) -> Result<(), Failure> {
    let spec = args.spec()?;
    let sources = args.sources(&spec)?;
    if sources.len() > 1 && args.idempotency_key.is_some() {
        return Err(Failure::usage("one --idempotency-key can not be for several jobs"));
    }
    let single = sources.len() <= 1;
    let outcomes = submit_all(client, items(&args, &spec, sources)).await;
    let outcomes = if args.wait { wait_each(client, outcomes, &args).await } else { outcomes };
    if single { one(outcomes, &args, remote) } else { many(&outcomes, &args, remote) }
}

/// The submissions, each made when it is sent: only those under way are in memory.
fn items<'a>(
    args: &'a Args,
    spec: &'a Map<String, Value>,
    sources: Vec<Source>,
) -> impl ExactSizeIterator<Item = Item> + 'a {
    let given = if sources.is_empty() { vec![None] } else { sources.into_iter().map(Some).collect() };
    given.into_iter().map(|source| {
        let mut body = spec.clone();
        let read = source.as_ref().map(Source::read).transpose().map(|bytes| {
            if let Some(bytes) = bytes {
                body.insert("payload".to_owned(), Value::String(BASE64.encode(bytes)));
            }
            Value::Object(body)
        });
        let name = source.map_or_else(|| "spec".to_owned(), |source| source.name());
        let key = args.idempotency_key.clone().unwrap_or_else(|| clock::uuid().to_string());
        Item { name, body: read, key }
    })
}

async fn submit_all(client: &Client, items: impl ExactSizeIterator<Item = Item>) -> Vec<Outcome> {
    let bar = output::progress(items.len() as u64, "submitting");
    let first = stream::iter(items.enumerate()).map(|(turn, item)| {
        let bar = bar.clone();
        async move {
            let job = match item.body {
                Ok(body) => client.call_from(turn, &Call::post("/jobs").body(body).key(item.key)).await.map(|a| a.body),
                Err(failure) => Err(failure),
            };
            bar.inc(1);
            (item.name, job)
        }
    });
    let outcomes = first.buffered(AT_ONCE).collect().await;
    bar.finish_and_clear();
    outcomes
}

async fn wait_each(client: &Client, outcomes: Vec<Outcome>, args: &Args) -> Vec<Outcome> {
    let accepted = outcomes.iter().filter_map(|(_, job)| {
        let job = job.as_ref().ok()?;
        Some((job["id"].as_str()?.to_owned(), job["submitted_index"].as_u64()))
    });
    let ended = wait_for(client, accepted.collect(), Duration::from_secs(args.wait_timeout)).await;
    let mut ended = ended.into_iter();
    let wait_result = |(name, job): Outcome| match job {
        Ok(job) if job["id"].is_string() => (name, ended.next().unwrap_or(Ok(job))),
        other => (name, other),
    };
    outcomes.into_iter().map(wait_result).collect()
}

/// Waits for jobs, many at once, in the order given.
pub(super) async fn wait_for(
    client: &Client,
    jobs: Vec<(String, Option<u64>)>,
    limit: Duration,
) -> Vec<Result<Value, Failure>> {
    let bar = output::progress(jobs.len() as u64, "waiting");
    let waits = stream::iter(jobs).map(|(id, seen)| {
        let bar = bar.clone();
        async move {
            let ended = job::wait(client, &id, seen, limit).await;
            bar.inc(1);
            ended
        }
    });
    let ended = waits.buffered(AT_ONCE).collect().await;
    bar.finish_and_clear();
    ended
}

fn one(outcomes: Vec<Outcome>, args: &Args, remote: &Remote) -> Result<(), Failure> {
    let Some((_, outcome)) = outcomes.into_iter().next() else { return Ok(()) };
    let job = outcome?;
    match remote.json {
        true => output::json(&job)?,
        false if args.wait => output::thing(&job)?,
        false => output::line(&output::cell(&job["id"]))?,
    }
    if args.wait { job::judge(&[job]) } else { Ok(()) }
}

fn many(outcomes: &[Outcome], args: &Args, remote: &Remote) -> Result<(), Failure> {
    let rows: Vec<Value> = outcomes.iter().map(|(name, job)| row(name, job)).collect();
    if remote.json {
        output::json(&json!({ "jobs": rows }))?;
    } else {
        output::list(&rows, columns(args.wait))?;
    }
    let failures: Vec<&Failure> = outcomes.iter().filter_map(|(_, job)| job.as_ref().err()).collect();
    if let Some(first) = failures.first() {
        let message = format!("{} of {} jobs: {}", failures.len(), outcomes.len(), first.message);
        return Err(Failure { message, ..(*first).clone() });
    }
    let jobs: Vec<Value> = outcomes.iter().filter_map(|(_, job)| job.as_ref().ok().cloned()).collect();
    if args.wait { job::judge(&jobs) } else { Ok(()) }
}

fn columns(waited: bool) -> &'static [(&'static str, &'static str)] {
    let all = &[
        ("input", "input_name"),
        ("job", "job.id"),
        ("state", "job.state"),
        ("worker", "job.worker_id"),
        ("price", "job.price"),
        ("attempt", "job.attempt"),
        ("error", "error"),
    ];
    let (brief, _) = all.split_at(3);
    if waited { all } else { brief }
}

fn row(name: &str, outcome: &Result<Value, Failure>) -> Value {
    match outcome {
        Ok(job) => json!({ "input_name": name, "job": job, "error": output::at(job, "error.detail") }),
        Err(failure) => {
            let state = if failure.kind == Kind::Timeout { "unfinished" } else { "refused" };
            json!({ "input_name": name, "job": { "state": state }, "error": failure.message })
        }
    }
}
