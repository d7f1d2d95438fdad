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
use super::{Remote, job, module, output, reference};
use crate::clock;
use crate::wire::wasm::Module;

/// Submissions, and waits, under way at once.
const AT_ONCE: usize = 32;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ciro-coordinator job submit --type sha256 README.md --wait\n  \
    ciro-coordinator job submit --type sha256 src/ --wait\n  echo hello | ciro-coordinator job submit --type wordcount -\n  \
    ciro-coordinator job submit --wasm module.wasm --input data.bin --wait")]
pub struct Args {
    /// Files or directories to submit, one job per file; - is standard input
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The same as naming the file
    #[arg(long = "file", short, visible_alias = "input", value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    module: module::Args,
    /// The payload itself
    #[arg(long, value_name = "TEXT", conflicts_with = "input_uri")]
    payload: Option<String>,
    #[command(flatten)]
    reference: reference::Reference,
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
    /// Workers that run the job independently, 1 to 5; more than half must bring the same output
    #[arg(long, value_name = "COUNT")]
    redundancy: Option<u64>,
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
    /// How offers are weighed: balanced, best_match, lowest_cost, fastest_response or highest_reputation
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Several times for several
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The client's account on chain; a settled job may name one only where clients are charged
    #[arg(long, value_name = "ADDRESS")]
    client_address: Option<String>,
    /// Where the end of the job is posted to, http or https
    #[arg(long, value_name = "URL")]
    callback: Option<String>,
    /// How it is settled on chain: none, settle_later or register_before_distribution
    #[arg(long, value_name = "POLICY")]
    settlement: Option<String>,
    /// What must be reached before a stage of it counts: preconfirmed, accepted_l2 or accepted_l1
    #[arg(long, value_name = "NAME")]
    confirmation: Option<String>,
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
        if self.module.is_given() {
            spec.entry("type").or_insert_with(|| json!("wasm"));
        }
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
        set("redundancy", self.redundancy.map(Value::from));
        set("client_address", self.client_address.clone().map(Value::from));
        set("callback_url", self.callback.clone().map(Value::from));
        set("policy", self.policy.clone().map(Value::from));
        set("tags", texts(&self.tags));
        set("settlement", self.settled());
        let named: Vec<PathBuf> = self.paths.iter().chain(&self.files).cloned().collect();
        set("input", self.reference.input(&named)?);
        if self.reference.is_given() {
            spec.remove("payload");
        }
        merge(&mut spec, "retry", [("max_attempts", self.max_attempts.map(Value::from))])?;
        let requirements = [
            ("min_cpu_cores", self.min_cpu_cores.map(Value::from)),
            ("min_ram_gb", self.min_ram_gb.map(Value::from)),
            ("min_gpu_memory_gb", self.min_gpu_memory_gb.map(Value::from)),
            ("required_frameworks", texts(&self.frameworks)),
            ("preferred_regions", texts(&self.regions)),
        ];
        merge(&mut spec, "requirements", requirements)?;
        if spec.contains_key("type") {
            Ok(spec)
        } else {
            Err(Failure::usage("what kind of job is it?").hint("--type TYPE, e.g. --type sha256"))
        }
    }

    fn settled(&self) -> Option<Value> {
        match (&self.settlement, &self.confirmation) {
            (None, None) => None,
            (Some(policy), None) => Some(json!(policy)),
            (None, Some(confirmation)) => Some(json!({ "confirmation": confirmation })),
            (Some(policy), Some(confirmation)) => Some(json!({ "policy": policy, "confirmation": confirmation })),
        }
    }

    fn sources(&self, spec: &Map<String, Value>) -> Result<Vec<Source>, Failure> {
        let named: Vec<PathBuf> = self.paths.iter().chain(&self.files).cloned().collect();
        if self.reference.is_given() {
            return Ok(vec![]);
        }
        let complete = spec.contains_key("payload") || spec.contains_key("input");
        if named.is_empty() && self.payload.is_none() {
            match (self.module.is_given(), complete) {
                (true, true) => return Err(Failure::usage("the spec has an input already; a module needs its own")),
                // A module may need none.
                (true, false) => return files::sources(&[], Some("")),
                (false, true) => return Ok(vec![]),
                (false, false) => {}
            }
        }
        files::sources(&named, self.payload.as_deref())
    }
}

fn texts(values: &[String]) -> Option<Value> {
    (!values.is_empty()).then(|| json!(values))
}

/// Sets what was given in the object `name`, which appears only if anything was.
fn merge<const N: usize>(
    spec: &mut Map<String, Value>,
    name: &str,
    values: [(&str, Option<Value>); N],
) -> Result<(), Failure> {
    for (key, value) in values {
        let Some(value) = value else { continue };
        let object = spec.entry(name).or_insert(Value::Null);
        if object.is_null() {
            *object = json!({});
        }
        let Value::Object(object) = object else {
            return Err(Failure::usage(format!("{name} in the spec is not an object, so no flag can add to it")));
        };
        object.insert(key.to_owned(), value);
    }
    Ok(())
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

/// What became of one submission.
struct Outcome {
    name: String,
    key: String,
    /// As it was seen last, once it was accepted.
    job: Option<Value>,
    /// Why it was not accepted; or why it was not waited for to its end.
    failure: Option<Failure>,
}

impl Outcome {
    fn of(name: String, key: String, submitted: Result<Value, Failure>) -> Self {
        match submitted {
            Ok(job) => Self { name, key, job: Some(job), failure: None },
            Err(failure) if failure.doubtful => {
                let hint = format!("it may have been accepted; repeat with --idempotency-key {key}");
                Self { name, key, job: None, failure: Some(failure.hint(hint)) }
            }
            Err(failure) => Self { name, key, job: None, failure: Some(failure) },
        }
    }

    /// How the wait for an accepted job went.
    fn waited(&mut self, ended: Result<Value, Failure>) {
        match ended {
            Ok(job) => self.job = Some(job),
            Err(failure) => self.failure = Some(failure),
        }
    }

    /// One word for the state where the job does not say it.
    fn state(&self, failure: &Failure) -> &'static str {
        match failure.kind {
            Kind::Timeout => "unfinished",
            _ if failure.doubtful || self.job.is_some() => "unknown",
            Kind::Refused | Kind::Usage => "refused",
            _ => "not accepted",
        }
    }

    fn row(&self) -> Value {
        let mut job = self.job.clone().unwrap_or_else(|| json!({}));
        let Some(failure) = &self.failure else {
            return json!({ "input_name": self.name, "error": output::at(&job, "error.detail"), "job": job });
        };
        job["state"] = json!(self.state(failure));
        let key = (self.job.is_none() && failure.doubtful).then_some(&self.key);
        json!({ "input_name": self.name, "job": job, "error": failure.message, "idempotency_key": key })
    }
}

pub async fn run(args: Args, client: &Client, remote: &Remote) -> Result<(), Failure> {
    let spec = args.spec()?;
    let sources = args.sources(&spec)?;
    if sources.len() > 1 && args.idempotency_key.is_some() {
        return Err(Failure::usage("one --idempotency-key can not be for several jobs"));
    }
    let single = sources.len() <= 1;
    let module = args.module.read()?;
    let outcomes = submit_all(client, items(&args, &spec, module.as_ref(), sources)).await;
    let outcomes = if args.wait { wait_each(client, outcomes, &args).await } else { outcomes };
    if single { one(outcomes, &args, remote) } else { many(&outcomes, &args, remote) }
}

/// The submissions, each made when it is sent: only those under way are in memory.
fn items<'a>(
    args: &'a Args,
    spec: &'a Map<String, Value>,
    module: Option<&'a Module>,
    sources: Vec<Source>,
) -> impl ExactSizeIterator<Item = Item> + 'a {
    let given = if sources.is_empty() { vec![None] } else { sources.into_iter().map(Some).collect() };
    given.into_iter().map(move |source| {
        let mut body = spec.clone();
        let framed = |bytes| match module {
            Some(module) => module::payload(module, bytes),
            None => Ok(bytes),
        };
        let read = source.as_ref().map(|source| source.read().and_then(framed)).transpose().map(|bytes| {
            if let Some(bytes) = bytes {
                body.insert("payload".to_owned(), Value::String(BASE64.encode(bytes)));
                body.remove("input");
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
            let Item { name, body, key } = item;
            let job = match body {
                Ok(body) => client.call_from(turn, &Call::post("/jobs").body(body).key(&key)).await.map(|a| a.body),
                Err(failure) => Err(failure),
            };
            bar.inc(1);
            Outcome::of(name, key, job)
        }
    });
    let outcomes = first.buffered(AT_ONCE).collect().await;
    bar.finish_and_clear();
    outcomes
}

async fn wait_each(client: &Client, mut outcomes: Vec<Outcome>, args: &Args) -> Vec<Outcome> {
    let accepted = |outcome: &Outcome| {
        let job = outcome.job.as_ref()?;
        Some((job["id"].as_str()?.to_owned(), job["submitted_index"].as_u64()))
    };
    let limit = job::Limit::new(Duration::from_secs(args.wait_timeout));
    let ended = wait_for(client, outcomes.iter().filter_map(accepted).collect(), limit).await;
    let waiting = outcomes.iter_mut().filter(|outcome| accepted(outcome).is_some());
    waiting.zip(ended).for_each(|(outcome, ended)| outcome.waited(ended));
    outcomes
}

/// Waits for jobs, many at once, in the order given.
pub(super) async fn wait_for(
    client: &Client,
    jobs: Vec<(String, Option<u64>)>,
    limit: job::Limit,
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
    let Some(Outcome { job, failure, .. }) = outcomes.into_iter().next() else { return Ok(()) };
    if let Some(job) = &job {
        match remote.json {
            true => output::json(job)?,
            false if args.wait && failure.is_none() => output::thing(job)?,
            false => output::line(&output::cell(&job["id"]))?,
        }
    }
    match (failure, job) {
        (Some(failure), _) => Err(failure),
        (None, Some(job)) if args.wait => job::judge(&[job]),
        (None, _) => Ok(()),
    }
}

fn many(outcomes: &[Outcome], args: &Args, remote: &Remote) -> Result<(), Failure> {
    let rows: Vec<Value> = outcomes.iter().map(Outcome::row).collect();
    if remote.json {
        output::json(&json!({ "jobs": rows }))?;
    } else {
        output::list(&rows, &columns(args.wait, &rows))?;
    }
    let failures: Vec<&Failure> = outcomes.iter().filter_map(|outcome| outcome.failure.as_ref()).collect();
    if let Some(first) = failures.first() {
        let message = format!("{} of {} jobs: {}", failures.len(), outcomes.len(), first.message);
        return Err(Failure { message, ..(*first).clone() });
    }
    let jobs: Vec<Value> = outcomes.iter().filter_map(|outcome| outcome.job.clone()).collect();
    if args.wait { job::judge(&jobs) } else { Ok(()) }
}

/// Without a wait only what can differ: what went wrong, and the keys of those that may have been accepted.
fn columns(waited: bool, rows: &[Value]) -> Vec<(&'static str, &'static str)> {
    let any = |field: &str| rows.iter().any(|row| !row[field].is_null());
    let mut columns = vec![("input", "input_name"), ("job", "job.id"), ("state", "job.state")];
    if waited {
        columns.extend([("worker", "job.worker_id"), ("price", "job.price"), ("attempt", "job.attempt")]);
    }
    if waited || any("error") {
        columns.push(("error", "error"));
    }
    if any("idempotency_key") {
        columns.push(("idempotency key", "idempotency_key"));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(submitted: Result<Value, Failure>) -> Outcome {
        Outcome::of("a".to_owned(), "k-1".to_owned(), submitted)
    }

    #[test]
    fn a_row_says_refused_only_of_what_was_refused() {
        let state = |outcome: &Outcome| outcome.row()["job"]["state"].clone();
        assert_eq!(state(&outcome(Err(Failure::new(Kind::Refused, "no")))), "refused");
        assert_eq!(state(&outcome(Err(Failure::new(Kind::Unreachable, "nobody")))), "not accepted");
        let doubtful = outcome(Err(Failure::new(Kind::Unreachable, "no answer").doubtful()));
        assert_eq!((state(&doubtful), &doubtful.row()["idempotency_key"]), (json!("unknown"), &json!("k-1")));
        assert!(doubtful.failure.unwrap().hint.unwrap().ends_with("repeat with --idempotency-key k-1"));
        for (kind, word) in [(Kind::Unreachable, "unknown"), (Kind::Refused, "unknown"), (Kind::Timeout, "unfinished")]
        {
            let mut accepted = outcome(Ok(json!({ "id": "j", "state": "pending" })));
            accepted.waited(Err(Failure::new(kind, "x")));
            assert_eq!(accepted.row()["job"], json!({ "id": "j", "state": word }), "the id is not lost");
        }
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn line(words: &[&str]) -> Result<Args, clap::Error> {
        clap::Parser::try_parse_from([&["submit"], words].concat()).map(|line: Line| line.args)
    }

    #[test]
    fn a_module_and_a_reference_exclude_each_other() {
        let reference = ["--input-uri", "https://example.org/x", "--sha256", "00", "--size", "1"];
        for module in [["--wasm", "m.wasm"], ["--wasm-sha256", "00"]] {
            let error = line(&[&module[..], &reference[..]].concat()).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
            assert!(line(&[&module[..], &["data.bin"]].concat()).is_ok());
        }
        assert!(line(&["--wasm", "m.wasm", "--wasm-sha256", "00"]).is_err());
    }

    #[test]
    fn an_input_that_is_given_wins_over_the_one_in_the_spec() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, r#"{"type":"sha256","payload":"aGk="}"#).unwrap();
        let reference = ["--input-uri", "https://example.org/x", "--sha256", "00", "--size", "1"];
        let spec = line(&[&["--spec", path][..], &reference[..]].concat()).unwrap().spec().unwrap();
        assert!(spec.contains_key("input") && !spec.contains_key("payload"));

        std::fs::write(path, r#"{"type":"sha256","input":{"uri":"https://example.org/x"}}"#).unwrap();
        let args = line(&["--spec", path, "--payload", "hi"]).unwrap();
        let spec = args.spec().unwrap();
        let sources = args.sources(&spec).unwrap();
        let body = items(&args, &spec, None, sources).next().unwrap().body.unwrap();
        assert_eq!(body, json!({ "type": "sha256", "payload": "aGk=" }));
    }

    #[test]
    fn where_the_end_is_posted_to_is_passed_on() {
        let args = line(&["--type", "a", "--callback", "https://example.org/x"]).unwrap();
        assert_eq!(args.spec().unwrap()["callback_url"], "https://example.org/x");
    }

    #[test]
    fn how_a_job_is_settled_is_said_by_one_flag_or_two() {
        let of =
            |words: &[&str]| line(&[&["--type", "a"], words].concat()).unwrap().spec().unwrap()["settlement"].clone();
        assert_eq!(of(&["--settlement", "settle_later"]), "settle_later");
        let both = of(&["--settlement", "settle_later", "--confirmation", "accepted_l1"]);
        assert_eq!(both, json!({ "policy": "settle_later", "confirmation": "accepted_l1" }));
        assert_eq!(of(&["--confirmation", "preconfirmed"]), json!({ "confirmation": "preconfirmed" }));
    }

    #[test]
    fn flags_win_over_a_spec_or_say_that_they_can_not() {
        let mut spec = Map::from_iter([("retry".to_owned(), Value::Null), ("requirements".to_owned(), json!([]))]);
        merge(&mut spec, "retry", [("max_attempts", Some(json!(2)))]).unwrap();
        assert_eq!(spec["retry"], json!({ "max_attempts": 2 }));
        assert_eq!(merge(&mut spec, "requirements", [("min_ram_gb", Some(json!(2)))]).unwrap_err().code(), 2);
        merge(&mut spec, "requirements", [("min_ram_gb", None)]).unwrap();
    }
}
