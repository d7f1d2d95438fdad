//! Asks a healed cluster whether Kafka in and Kafka out kept every promise.
//!
//! * On every node the replicated offsets are where the topic ends.
//! * Every good job is on every node once, and completed; nothing else came in.
//! * Every poison record is in the queue of dead letters once, and once on their topic.
//! * A reader of committed records sees each result once: as it is with exactly
//!   once, and without the repeats of an id with at least once (`ce_id`; of letters `dlq.id`).

use std::collections::{BTreeMap, BTreeSet};

use ciro::kafka::{Delivery, Record};
use serde_json::Value;

use crate::client::Client;
use crate::kafka_desk::{Desk, header};
use crate::{secs, until};

/// What was produced, by name. Whatever is sent again keeps its name.
#[derive(Default)]
pub struct Produced {
    pub good: BTreeSet<String>,
    /// By the record's key.
    pub poison: BTreeSet<String>,
}

/// Records that came more than once, under the same id.
#[derive(Debug, PartialEq, Eq)]
pub struct Repeats {
    pub results: usize,
    pub letters: usize,
}

pub async fn judge(client: &Client, desk: &Desk, produced: &Produced) -> Repeats {
    offsets_reach_the_end(client, desk).await;
    all_ended(client, produced).await;
    all_delivered(client).await;
    let mut ids = BTreeSet::new();
    for node in 0..client.nodes() {
        let jobs = jobs_on(client, node).await;
        let names: BTreeSet<String> = jobs.values().cloned().collect();
        assert_eq!(names.len(), jobs.len(), "node {node} has two jobs of one name");
        assert_eq!(names, produced.good, "node {node}");
        ids.extend(jobs.into_keys());
    }
    let results = results_once(desk, &ids).await;
    let letters = letters_once(client, desk, produced).await;
    let repeats = Repeats { results, letters };
    println!("kafka oracle: {} jobs, {} dead letters, {repeats:?}", produced.good.len(), produced.poison.len());
    if desk.delivery == Delivery::ExactlyOnce {
        assert_eq!(repeats, Repeats { results: 0, letters: 0 }, "exactly once");
    }
    repeats
}

/// Waits until every node has taken in all there is.
pub async fn offsets_reach_the_end(client: &Client, desk: &Desk) {
    let ends = desk.ends().await;
    for node in 0..client.nodes() {
        until(secs(240), &format!("node {node}: the offsets reach {ends:?}"), async || {
            let intake = intake_of(client, node, &desk.topics.jobs).await?;
            ends.iter().all(|(number, end)| *end == 0 || intake.get(number) == Some(end)).then_some(())
        })
        .await;
    }
}

/// The replicated next offset of each partition of `topic`, as `node` shows them.
pub async fn intake_of(client: &Client, node: usize, topic: &str) -> Option<BTreeMap<u32, u64>> {
    let status = client.get(node, "/kafka/status").await?.body;
    let partition = |of: &Value| Some((u32::try_from(of["partition"].as_u64()?).ok()?, of["next_offset"].as_u64()?));
    Some(status["intake"].as_array()?.iter().filter(|of| of["topic"] == *topic).filter_map(partition).collect())
}

async fn all_ended(client: &Client, produced: &Produced) {
    until(secs(240), "every job ends", async || {
        let jobs = client.get(0, "/status").await?.body["jobs"].clone();
        let count = |state: &str| jobs[state].as_u64().unwrap_or(0);
        let open = count("pending") + count("assigned") + count("running");
        (open == 0 && count("completed") >= produced.good.len() as u64).then_some(())
    })
    .await;
}

/// Waits until the cursor is at the end of the journal, on every node.
pub async fn all_delivered(client: &Client) {
    for node in 0..client.nodes() {
        until(secs(120), &format!("node {node}: all is delivered"), async || {
            let status = client.get(node, "/kafka/status").await?.body;
            (status["undelivered"] == 0).then_some(())
        })
        .await;
    }
}

/// Names of the completed jobs of type `noop` that `node` knows, by id.
async fn jobs_on(client: &Client, node: usize) -> BTreeMap<String, String> {
    let mut jobs = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = format!("/jobs?state=all&limit=1000{cursor}");
        let answer = client.get(node, &page).await.expect("a healed node lists");
        assert_eq!(answer.status, 200, "{answer:?}");
        let noops = answer.body["jobs"].as_array().expect("a list of jobs").iter().filter(|job| job["type"] == "noop");
        for job in noops {
            assert_eq!(job["state"], "completed", "{job}");
            let text = |field: &Value| field.as_str().expect("text").to_owned();
            assert!(jobs.insert(text(&job["id"]), text(&job["tags"][0])).is_none(), "{job} is listed twice");
        }
        match answer.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return jobs,
        }
    }
}

/// Returns how many came again.
async fn results_once(desk: &Desk, jobs: &BTreeSet<String>) -> usize {
    let records = desk.all(&desk.topics.results).await;
    let first = by_id(&records, "ce_id");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for record in first.values() {
        let key = String::from_utf8(record.key.clone().expect("a result has a key")).unwrap();
        *counts.entry(key).or_default() += 1;
    }
    for id in jobs {
        assert_eq!(counts.get(id), Some(&1), "results of job {id}");
    }
    records.len() - first.len()
}

/// Returns how many came again.
async fn letters_once(client: &Client, desk: &Desk, produced: &Produced) -> usize {
    let sent = desk.all(&desk.topics.jobs).await;
    let is_poison = |record: &Record| record.key.as_deref().is_some_and(|key| is_among(&produced.poison, key));
    let places = |record: &Record| (record.partition.number, record.offset);
    let poison: BTreeSet<(u32, u64)> = sent.iter().filter(|record| is_poison(record)).map(places).collect();
    assert_eq!(poison.len(), produced.poison.len(), "each was produced once");
    let records = desk.all(&desk.topics.dead_letters()).await;
    let first = by_id(&records, "dlq.id");
    let found: Vec<(u32, u64)> = first.values().map(|record| original(record)).collect();
    let once: BTreeSet<(u32, u64)> = found.iter().copied().collect();
    assert_eq!(found.len(), once.len(), "a dead letter came again under another id");
    assert_eq!(once, poison, "dead letters on their topic");
    for record in first.values() {
        let source = sent.iter().find(|sent| places(sent) == original(record)).unwrap();
        assert_eq!((&record.key, &record.value), (&source.key, &source.value), "byte for byte");
    }
    for node in 0..client.nodes() {
        let queue = client.get(node, "/kafka/dead-letter-queue?limit=1000").await.expect("the node answers").body;
        assert_eq!(queue["size"], poison.len(), "node {node}");
        let entries = queue["entries"].as_array().expect("entries");
        let number = |entry: &Value, field: &str| entry[field].as_u64().expect("a number");
        let queued: BTreeSet<(u32, u64)> = entries
            .iter()
            .map(|entry| (u32::try_from(number(entry, "partition")).unwrap(), number(entry, "offset")))
            .collect();
        assert_eq!(queued, poison, "the queue of node {node}");
    }
    records.len() - first.len()
}

fn is_among(names: &BTreeSet<String>, key: &[u8]) -> bool {
    std::str::from_utf8(key).is_ok_and(|key| names.contains(key))
}

/// Where a dead letter was read.
fn original(record: &Record) -> (u32, u64) {
    let number = |name: &str| header(record, name).unwrap_or_else(|| panic!("{record:?} has no {name}"));
    (number("dlq.original.partition").parse().unwrap(), number("dlq.original.offset").parse().unwrap())
}

/// The first under each value of the header `name`; repeats must be the same record again.
fn by_id<'a>(records: &'a [Record], name: &str) -> BTreeMap<String, &'a Record> {
    let mut first: BTreeMap<String, &Record> = BTreeMap::new();
    for record in records {
        let id = header(record, name).unwrap_or_else(|| panic!("{record:?} has no {name}"));
        let known = first.entry(id).or_insert(record);
        assert_eq!((&known.key, &known.value), (&record.key, &record.value), "a repeat differs");
    }
    first
}
