//! A backup of many jobs becomes a cluster of three: how long it takes until all three show the same state.
//!
//! Needs no cluster: the state is made here, as a leader would. The
//! clock runs from the first `cluster restore` to the moment the last node is ready
//! and all show one state hash.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::RestoreArgs;
use super::nodes::{Node, Place, Running, program, run_to_end};
use super::report::Report;
use crate::backup::header::Header;
use crate::backup::take::{self, Pace};
use crate::clock;
use crate::domain::apply::Position;
use crate::domain::command::{Complete, Submit};
use crate::domain::job::{Input, JobSpec, Requirements, Retry, Source};
use crate::domain::score::Policy;
use crate::domain::worker::{Capabilities, Location};
use crate::domain::{Command, Digest, JobId, PeerId, Price, Record, State, Timestamp};

const NODES: usize = 3;

/// Jobs in one record.
const BATCH: u64 = 500;

/// Bytes of a job's input and of its output.
const INPUT: usize = 64;

/// Nobody waits for longer.
const LIMIT: Duration = Duration::from_secs(300);

const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn run(args: &RestoreArgs) -> anyhow::Result<Report> {
    let place = Place::new("restore")?;
    let state = lived(u64::from(args.jobs))?;
    let file = place.0.join("backup");
    let begun = clock::instant();
    let bytes = write(&state, &file)?;
    let written = begun.elapsed();

    let nodes: Vec<Node> = (0..NODES).map(|number| Node::new(&place.0, number)).collect::<anyhow::Result<_>>()?;
    let members = nodes.iter().map(|node| node.address.as_str()).collect::<Vec<_>>().join(",");
    let begun = clock::instant();
    for node in &nodes {
        restore(node, &file, &members)?;
    }
    let restored = begun.elapsed();
    let flags = ["--environment", "test", "--initial-members", &members];
    let running: Vec<Running> = nodes.iter().map(|node| node.start(&flags, &[])).collect::<anyhow::Result<_>>()?;
    let hash = agree(&nodes, u64::from(args.jobs)).await?;
    let elapsed = begun.elapsed();
    drop(running);
    Ok(Report::new("restore", json!({ "jobs": args.jobs, "nodes": NODES }))
        .seconds("restore_secs", elapsed.as_secs_f64())
        .seconds("restore_commands_secs", restored.as_secs_f64())
        .seconds("backup_write_secs", written.as_secs_f64())
        .count("backup_bytes", bytes)
        .count("jobs", u64::from(args.jobs))
        .text("state_hash_of_all_nodes", hash))
}

/// A state with so many completed jobs.
fn lived(jobs: u64) -> anyhow::Result<State> {
    let mut state = State::default();
    let worker = PeerId([7; 32]);
    let capabilities =
        Capabilities { job_types: vec!["noop".to_owned()], max_parallel_jobs: 64, ..Capabilities::default() };
    let (location, version) = (Location::default(), "1.0.0".to_owned());
    let mut commands = vec![Command::RegisterWorker { worker, capabilities: capabilities.into(), location, version }];
    let now = clock::now();
    for first in (0..jobs).step_by(usize::try_from(BATCH)?) {
        commands.extend((first..jobs.min(first + BATCH)).flat_map(|number| life(number, worker)));
        let position = Position { index: state.applied() + 1, term: 1 };
        let record = Record { at: Timestamp(now.0 + first), commands: std::mem::take(&mut commands) };
        let replies = state.apply(position, &record);
        if let Some(Err(refusal)) = replies.iter().find(|reply| reply.is_err()) {
            bail!("the state can not be made: {refusal}");
        }
    }
    Ok(state)
}

/// Submitted, awarded, completed.
fn life(number: u64, worker: PeerId) -> [Command; 3] {
    let job = JobId::from_key("bench", &number.to_string());
    let input: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(INPUT).collect();
    let submit = Submit {
        id: job,
        spec: spec(&input),
        fingerprint: Digest::of(&number.to_be_bytes()),
        payload: Some(input.clone()),
        source: Source::Api,
    };
    let complete = Complete {
        job,
        attempt: 1,
        worker,
        output_sha256: Digest::of(&input),
        output: input,
        kept_size: 0,
        exit_code: 0,
        duration_ms: 12,
        signature: vec![7; 64],
    };
    let assign = Command::Assign { job, attempt: 1, worker, price: Price(5), lease_ms: 60_000, evidence: None };
    [Command::Submit(submit.into()), assign, Command::Complete(complete.into())]
}

fn spec(input: &[u8]) -> JobSpec {
    JobSpec {
        kind: "noop".to_owned(),
        input: Input { sha256: Digest::of(input), size: input.len() as u64, uri: None },
        priority: 5,
        max_price: None,
        price_escalation: None,
        deadline: None,
        timeout_secs: 60,
        requirements: Requirements::default().into(),
        policy: Policy::default(),
        weights: None,
        retry: Retry::default().into(),
        redundancy: 1,
        tags: Vec::new(),
        client_address: None,
        callback_url: None,
        settlement: None,
    }
}

fn write(state: &State, path: &Path) -> anyhow::Result<u64> {
    let header = Header::of_state(state, "ciro-test", clock::now());
    let pace = Pace::new(u64::MAX, CancellationToken::new());
    let out = std::io::BufWriter::new(fs::File::create(path)?);
    let (out, written) = take::write(state, &header, &[], &pace, out)?;
    out.into_inner()?.sync_all()?;
    Ok(written.bytes)
}

fn restore(node: &Node, file: &Path, members: &str) -> anyhow::Result<()> {
    let mut command = program()?;
    command.args(["cluster", "restore"]).arg(file).args(["--environment", "test", "--members", members]);
    run_to_end(command.arg("--data-dir").arg(&node.data)).map(drop)
}

/// The state hash, once all nodes are ready and show the same with all jobs in it.
async fn agree(nodes: &[Node], jobs: u64) -> anyhow::Result<String> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().build()?;
    let begun = clock::instant();
    loop {
        let views = futures::future::join_all(nodes.iter().map(|node| view(&http, node, jobs))).await;
        if let Some(first) =
            views.first().cloned().flatten().filter(|first| views.iter().all(|view| view.as_ref() == Some(first)))
        {
            return Ok(first.1);
        }
        if begun.elapsed() > LIMIT {
            let log = nodes.first().map(|node| fs::read_to_string(&node.log).unwrap_or_default()).unwrap_or_default();
            bail!("the nodes did not agree within {LIMIT:?}; the first one's log:\n{log}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Applied index and state hash of a node that is ready and has the jobs.
async fn view(http: &reqwest::Client, node: &Node, jobs: u64) -> Option<(u64, String)> {
    let url = |path: &str| format!("{}{path}", node.api());
    let ready = http.get(url("/health/ready")).send().await.ok()?.status().is_success();
    let status: Value = http.get(url("/status")).send().await.ok()?.json().await.ok()?;
    let complete = status["jobs"]["completed"].as_u64() == Some(jobs);
    let view = (status["applied_index"].as_u64()?, status["state_hash"].as_str()?.to_owned());
    (ready && complete).then_some(view)
}
