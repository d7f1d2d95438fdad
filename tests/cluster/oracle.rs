//! Asks a healed cluster whether it kept every promise.
//!
//! * Every acknowledged job is on every node, exactly once, and nothing else is.
//! * Every job ended as it must, once; one result was accepted, of the attempt the job ended with.
//! * A completed job was executed, and its output is what the execution wrote.
//! * All nodes agree on the state, and none has less than any ever showed.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use ciro::clock;

use crate::client::{Client, Ticket};
use crate::observer::Observer;
use crate::{secs, until};

/// `workers_died`: an attempt may have been executed again by a worker that came back; else it never is.
pub async fn judge(client: &Client, nodes: &[usize], observer: &Observer, executions: &Path, workers_died: bool) {
    let tickets = client.tickets();
    for (turn, ticket) in tickets.iter().enumerate() {
        client.ended(nodes[turn % nodes.len()], &ticket.id, secs(90)).await;
    }
    let jobs = agreed(client, nodes, observer).await;
    exactly_once(&tickets, &jobs);
    let counts = executions_by_name(executions);
    let mut attempts = 0;
    for (turn, ticket) in tickets.iter().enumerate() {
        let attempt = ended_once(client, nodes[turn % nodes.len()], ticket, &counts).await;
        let executed = counts.get(&ticket.name).copied().unwrap_or(0);
        assert!(workers_died || executed <= attempt, "{ticket:?}: {executed} executions for {attempt} attempts");
        attempts += attempt;
    }
    let (broken, samples) = observer.verdict();
    assert!(broken.is_empty(), "seen while the story ran:\n{}", broken.join("\n"));
    assert!(samples > 0, "the observer never saw a node");
    println!(
        "oracle: {} jobs, {attempts} attempts, {} executions, {samples} samples",
        tickets.len(),
        counts.values().sum::<usize>()
    );
}

/// How often each job was executed, as the executions themselves noted it.
pub fn executions_by_name(file: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

async fn agree(client: &Client, nodes: &[usize], observer: &Observer) {
    until(secs(20), "all nodes show the same state at the same index", async || {
        let mut states = Vec::new();
        for node in nodes.iter().copied() {
            let status = client.get(node, "/status").await?.body;
            states.push((status["applied_index"].as_u64()?, status["state_hash"].as_str()?.to_owned()));
        }
        let (applied, _) = states[0].clone();
        (applied >= observer.highest() && states.windows(2).all(|pair| pair[0] == pair[1])).then_some(())
    })
    .await;
}

/// The jobs, which are the same on all nodes. A story may leave some under way: it is waited until they show alike.
async fn agreed(client: &Client, nodes: &[usize], observer: &Observer) -> BTreeMap<String, Value> {
    let start = clock::instant();
    loop {
        agree(client, nodes, observer).await;
        let mut shown = Vec::new();
        for node in nodes.iter().copied() {
            shown.push(jobs_on(client, node).await);
        }
        let other = shown.iter().position(|jobs| *jobs != shown[0]);
        let Some(other) = other else { return shown.swap_remove(0) };
        if start.elapsed() > secs(60) {
            assert_eq!(shown[other], shown[0], "node {} shows other jobs than the first one", nodes[other]);
        }
    }
}

/// The lasting facts of every job `node` knows, by id.
async fn jobs_on(client: &Client, node: usize) -> BTreeMap<String, Value> {
    let mut jobs = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let answer =
            client.get(node, &format!("/jobs?state=all&limit=1000{cursor}")).await.expect("a healed node lists");
        assert_eq!(answer.status, 200, "{answer:?}");
        for job in answer.body["jobs"].as_array().expect("a list of jobs") {
            let id = job["id"].as_str().expect("a job has an id").to_owned();
            assert!(jobs.insert(id.clone(), lasting(job)).is_none(), "node {node} lists {id} twice");
        }
        match answer.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return jobs,
        }
    }
}

fn lasting(job: &Value) -> Value {
    let fields =
        ["type", "state", "attempt", "worker_id", "price", "submitted_at", "finished_at", "submitted_index", "tags"];
    fields.iter().map(|field| ((*field).to_owned(), job[*field].clone())).collect()
}

fn exactly_once(tickets: &[Ticket], jobs: &BTreeMap<String, Value>) {
    for ticket in tickets {
        let job = jobs.get(&ticket.id).unwrap_or_else(|| panic!("lost: {ticket:?}"));
        assert_eq!(job["state"], ticket.ends, "{ticket:?}: {job}");
        assert_eq!(job["tags"][0], *ticket.name, "{ticket:?}");
    }
    // Other types are jobs that a story submits, and judges, by itself.
    let marks = jobs.values().filter(|job| job["type"] == "mark").count();
    assert_eq!(marks, tickets.len(), "there are jobs nobody was promised");
}

/// Returns the attempt it ended with.
async fn ended_once(client: &Client, node: usize, ticket: &Ticket, counts: &BTreeMap<String, usize>) -> usize {
    let id = &ticket.id;
    let job = client.get(node, &format!("/jobs/{id}")).await.expect("a healed node answers").body;
    let events = client.get(node, &format!("/jobs/{id}/events")).await.expect("a healed node answers").body;
    let finals = ["completed", "failed", "cancelled"];
    let ends = events["events"].as_array().unwrap_or_else(|| panic!("events of {id}: {events}"));
    let ends = ends.iter().filter(|event| finals.iter().any(|state| event["state"] == *state)).count();
    assert_eq!(ends, 1, "{ticket:?} ended {ends} times: {events}");
    let attempt = usize::try_from(job["attempt"].as_u64().expect("a job has an attempt")).unwrap();
    if ticket.ends != "completed" {
        return attempt;
    }
    let executed = counts.get(&ticket.name).copied().unwrap_or(0);
    assert!(executed >= 1, "{ticket:?} completed without an execution");
    let result = client.get(node, &format!("/jobs/{id}/result")).await.expect("a healed node answers").body;
    let output = format!("done {}\n", ticket.name).into_bytes();
    // Old outputs may be gone; the digest stays.
    if let Some(text) = result["output"].as_str() {
        assert_eq!(STANDARD.decode(text).unwrap(), output, "{result}");
    }
    let digest = result["output_sha256"].as_str().unwrap_or_default().trim_start_matches("0x");
    assert_eq!(digest, hex::encode(Sha256::digest(&output)), "{result}");
    // With redundancy any run of the majority may speak for it.
    if job["redundancy"] == 1 {
        assert_eq!(result["attempt"], job["attempt"], "{ticket:?}: the result of another attempt: {result}");
    }
    assert_eq!(result["worker_id"], job["worker_id"], "{ticket:?}: the result of another worker: {result}");
    attempt
}
