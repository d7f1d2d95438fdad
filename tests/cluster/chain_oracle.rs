//! Asks the chain itself whether the nodes kept every promise, and holds what they say against it.
//!
//! * Each job is registered once, for what it may cost at most, and nothing else is.
//! * It is assigned to whom the log awarded it, in that order, completed once with
//!   the log's result, and paid once, what was agreed; or refunded whole.
//! * The escrow is what open jobs have in it, and every balance follows from the
//!   payments, to the last unit.
//! * No nonce is left open, and each is used by what the nodes say.
//! * What a node links to a job is the transaction that did it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use starknet::core::types::Felt;
use starknet::core::utils::get_selector_from_name;

use crate::chain_desk::{Desk, FEE_BPS, FUNDS, Jobs, amount, payout};
use crate::chain_hand::view;
use crate::chain_node::{felt, hex, u128_of};
use crate::client::Client;
use crate::{secs, until};

/// Jobs asked for with one call.
const MANY: usize = 100;
/// Felts of one job's details.
const DETAILS: usize = 12;

pub const COMPLETED: u64 = 2;
const CANCELLED: u64 = 4;

/// What the contract says of a job.
#[derive(Clone, Debug)]
pub struct Details {
    pub id: u128,
    pub state: u64,
    pub payment: u128,
    /// 0: it never was.
    pub created_at: u64,
    pub result_hash: Felt,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub name: &'static str,
    pub job: u128,
    /// The last key: the client, a worker, the payee or the payer.
    pub who: Felt,
    pub data: Vec<Felt>,
    pub hash: Felt,
    pub block: u64,
}

const EVENTS: [&str; 6] =
    ["JobSubmitted", "JobAssigned", "JobCompleted", "PaymentReleased", "JobCancelled", "JobExpired"];

/// What came of a story.
#[derive(Debug, Default)]
pub struct Verdict {
    pub jobs: usize,
    /// Of the account, and those of them that changed something about jobs.
    pub transactions: u64,
    pub effective: usize,
    pub paid: u128,
    pub refunded: usize,
    pub epoch: u128,
}

/// Waits until all is settled, then judges. The cluster must be whole.
pub async fn judge(client: &Client, desk: &Desk<'_>, jobs: &Jobs) -> Verdict {
    judge_funded(client, desk, jobs, 0).await
}

/// The same when the coordinator was given `more` of the token.
pub async fn judge_funded(client: &Client, desk: &Desk<'_>, jobs: &Jobs, more: u128) -> Verdict {
    jobs.ended(client).await;
    let told = told(client).await;
    let names: BTreeSet<&String> = jobs.ids.values().collect();
    assert_eq!(told.keys().collect::<BTreeSet<_>>(), names, "jobs the nodes have, and jobs accepted");
    settled(desk, &told).await;
    nothing_waits(client).await;
    let mut verdict = Verdict { jobs: told.len(), epoch: desk.epoch().await, ..Verdict::default() };
    let events = events(desk).await;
    let by_job = by_job(&events);
    let ours: BTreeSet<u128> = told.keys().map(|id| number_of(id)).collect();
    assert_eq!(by_job.keys().copied().collect::<BTreeSet<_>>(), ours, "jobs on chain");
    let mut payees: BTreeMap<Felt, u128> = BTreeMap::new();
    for (id, job) in &told {
        let happened = &by_job[&number_of(id)];
        let paid = judge_job(client, id, job, happened, &mut payees).await;
        verdict.paid += paid;
        verdict.refunded += usize::from(paid == 0);
    }
    balances(desk, &payees, verdict.paid, more).await;
    verdict.transactions = desk.nonce().await - desk.first_nonce;
    verdict.effective = events.iter().map(|event| event.hash).collect::<BTreeSet<_>>().len();
    println!("chain oracle: {verdict:?}");
    verdict
}

/// All jobs, by id, as the cluster tells them.
pub async fn told(client: &Client) -> BTreeMap<String, Value> {
    let mut jobs = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/jobs?state=all&limit=1000&consistency=linearizable{cursor}");
        let page = client.get(0, &path).await.expect("a healed node lists").body;
        for job in page["jobs"].as_array().expect("a list of jobs") {
            jobs.insert(job["id"].as_str().expect("a job has an id").to_owned(), job.clone());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return jobs,
        }
    }
}

/// Waits until the contract says of every job how it ended.
pub async fn settled(desk: &Desk<'_>, told: &BTreeMap<String, Value>) {
    let ids: Vec<u128> = told.keys().map(|id| number_of(id)).collect();
    let mut open = 0;
    let start = ciro::clock::instant();
    loop {
        let found = details(desk, &ids).await;
        let ended = |it: &&Details| it.created_at > 0 && (it.state == COMPLETED || it.state == CANCELLED);
        let now = found.len() - found.iter().filter(ended).count();
        if now == 0 {
            return;
        }
        if now != open {
            println!("{now} of {} jobs are not settled after {:?}", found.len(), start.elapsed());
            open = now;
        }
        assert!(
            start.elapsed() < secs(120),
            "{open} jobs are never settled, such as {:?}",
            found.iter().find(|it| !ended(it))
        );
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
}

/// No node has anything left to settle.
pub async fn nothing_waits(client: &Client) {
    for node in 0..client.nodes() {
        until(secs(60), &format!("node {node} has nothing left to settle"), async || {
            let status = client.get(node, "/blockchain/status").await?.body;
            let left = ["pending_transactions", "again", "unsettled"].map(|what| status[what].as_u64());
            (left == [Some(0); 3]).then_some(())
        })
        .await;
    }
}

// ------------------------------------------------------------------- one job

/// Returns what was paid for it.
async fn judge_job(
    client: &Client,
    id: &str,
    job: &Value,
    events: &[Event],
    payees: &mut BTreeMap<Felt, u128>,
) -> u128 {
    let named = |name: &str| -> Vec<&Event> { events.iter().filter(|event| event.name == name).collect() };
    let submitted = named("JobSubmitted");
    assert_eq!(submitted.len(), 1, "job {id} is registered {} times: {events:?}", submitted.len());
    let redundancy = job["redundancy"].as_u64().map_or(1, u128::from);
    let most: u128 =
        job["max_price"].as_str().and_then(|price| price.parse().ok()).expect("a settled job has a max_price");
    assert_eq!(amount(&submitted[0].data), most * redundancy, "escrow of job {id}");
    let assigned: Vec<Felt> = named("JobAssigned").iter().map(|event| event.who).collect();
    let awarded = awarded(client, id).await;
    assert_eq!(assigned, awarded, "workers of job {id}, on chain and in the log");
    let completed = named("JobCompleted");
    if job["state"] != "completed" {
        assert_eq!((completed.len(), named("JobCancelled").len()), (0, 1), "job {id}: {events:?}");
        linked(client, id, &[("registered", submitted[0]), ("refunded", named("JobCancelled")[0])]).await;
        return 0;
    }
    assert_eq!((completed.len(), named("JobCancelled").len()), (1, 0), "job {id}: {events:?}");
    let released = named("PaymentReleased");
    let agreed: u128 = job["price"].as_str().and_then(|price| price.parse().ok()).expect("a completed job has a price");
    assert_eq!(released.len(), usize::from(agreed > 0), "job {id} is paid once: {events:?}");
    let worker = job["worker_id"].as_str().expect("a completed job has a worker");
    assert_eq!(completed[0].who, worker_felt(worker), "who completed job {id}");
    if let Some(released) = released.first() {
        assert_eq!(amount(&released.data), agreed - fee(agreed), "what job {id} paid");
        *payees.entry(released.who).or_default() += agreed - fee(agreed);
    }
    linked(client, id, &[("registered", submitted[0]), ("settled", completed[0])]).await;
    agreed
}

/// The link of a stage is the transaction that did it.
async fn linked(client: &Client, id: &str, stages: &[(&str, &Event)]) {
    let path = format!("/jobs/{id}");
    until(secs(20), &format!("job {id} links what happened to it"), async || {
        let job = client.get(0, &path).await?.body;
        for (stage, event) in stages {
            let link = &job["settlement"][stage];
            let block = link["block"].as_u64()?;
            assert_eq!(felt(&link["transaction_hash"]), event.hash, "{stage} of {job}");
            if block != event.block {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Those a job was awarded to, in order; twice in a row counts once.
async fn awarded(client: &Client, id: &str) -> Vec<Felt> {
    let history = client.get(0, &format!("/jobs/{id}/events")).await.expect("a healed node answers").body;
    let lines = history["events"].as_array().unwrap_or_else(|| panic!("events of {id}: {history}"));
    let awards = lines.iter().filter(|line| line["cause"] == "awarded");
    let mut workers: Vec<Felt> =
        awards.map(|line| worker_felt(line["worker_id"].as_str().expect("an award names a worker"))).collect();
    workers.dedup();
    workers
}

// -------------------------------------------------------------------- amounts

pub fn fee(paid: u128) -> u128 {
    paid * FEE_BPS / 10_000
}

/// `payees`: what each was paid. `paid`: in all, with the fees.
async fn balances(desk: &Desk<'_>, payees: &BTreeMap<Felt, u128>, paid: u128, more: u128) {
    assert_eq!(desk.escrow().await, 0, "escrow when every job has ended");
    assert_eq!(desk.balance(desk.contract).await, 0, "the contract's balance");
    assert_eq!(desk.balance(desk.coordinator.address).await, FUNDS + more - paid, "the coordinator's balance");
    // Others are paid there as well, by other tokens only: the token is the story's own.
    for worker in [payout(1), payout(2)] {
        let due = payees.get(&worker).copied().unwrap_or(0);
        assert_eq!(desk.balance(worker).await, due, "the balance of {worker:#x}");
    }
    let to_workers: u128 = payees.values().sum();
    assert_eq!(desk.balance(desk.fee_recipient).await, paid - to_workers, "fees");
}

// ---------------------------------------------------------- another's reading

/// starknet.py, which shares nothing with us, reads the same from the contract and its events.
pub async fn independent(desk: &Desk<'_>, jobs: &Jobs) {
    let ids: Vec<u128> = jobs.ids.values().map(|id| number_of(id)).collect();
    let ours = details(desk, &ids).await;
    let by_job = by_job(&events(desk).await);
    let read = read_by_others(desk, jobs.ids.values().collect());
    assert_eq!(read["others"], json!({}), "jobs on chain that nobody here knows");
    assert_eq!(read["escrow"], desk.escrow().await.to_string());
    for (id, ours) in jobs.ids.values().zip(ours) {
        let job = &read["jobs"][id];
        let details = &job["details"];
        assert_eq!(details["state"], if ours.state == COMPLETED { "Completed" } else { "Cancelled" }, "{job}");
        assert_eq!(details["payment_amount"], ours.payment.to_string(), "{job}");
        assert_eq!(felt(&details["result_hash"]), ours.result_hash, "{job}");
        let told = |event: &Event| json!({"name": event.name, "transaction": hex(event.hash), "block": event.block});
        let wanted: Vec<Value> = by_job[&ours.id].iter().map(told).collect();
        let only = |event: &Value| json!({"name": event["name"], "transaction": event["transaction"], "block": event["block"]});
        let found: Vec<Value> = job["events"].as_array().expect("events").iter().map(only).collect();
        assert_eq!(found, wanted, "events of {id}");
    }
    println!("starknet.py reads the same of {} jobs", jobs.ids.len());
}

fn read_by_others(desk: &Desk<'_>, ids: Vec<&String>) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), json!(ids).to_string()).unwrap();
    let output = Command::new("bash")
        .arg(root.join("contracts/python.sh"))
        .arg(root.join("contracts/tests/read_jobs.py"))
        .args([&desk.devnet.url, &hex(desk.contract)])
        .arg(list.path())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "read_jobs.py: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

// -------------------------------------------------------------- the contract

pub async fn details(desk: &Desk<'_>, ids: &[u128]) -> Vec<Details> {
    let mut found = vec![];
    for ids in ids.chunks(MANY) {
        let mut arguments = vec![Felt::from(ids.len())];
        arguments.extend(ids.iter().flat_map(|id| [Felt::from(*id), Felt::ZERO]));
        let felts = view(desk.devnet, desk.contract, "get_job_details_many", &arguments).await;
        assert_eq!(felts.len(), 1 + ids.len() * DETAILS, "details of {} jobs", ids.len());
        found.extend(felts[1..].chunks(DETAILS).map(Details::of));
    }
    found
}

impl Details {
    fn of(felts: &[Felt]) -> Self {
        let small = |at: usize| u64::try_from(u128_of(felts[at])).unwrap();
        Self {
            id: amount(&felts[..2]),
            state: small(5),
            payment: amount(&felts[6..8]),
            created_at: small(8),
            result_hash: felts[11],
        }
    }
}

/// Events of the contract about jobs, in order.
pub async fn events(desk: &Desk<'_>) -> Vec<Event> {
    let names: Vec<(Felt, &'static str)> =
        EVENTS.iter().map(|name| (get_selector_from_name(name).unwrap(), *name)).collect();
    let mut found = vec![];
    for event in raw_events(desk).await {
        let keys = felts(&event["keys"]);
        let Some((_, name)) = names.iter().find(|(selector, _)| keys.first() == Some(selector)) else { continue };
        found.push(Event {
            name,
            job: amount(&keys[1..3]),
            who: keys[3],
            data: felts(&event["data"]),
            hash: felt(&event["transaction_hash"]),
            block: event["block_number"].as_u64().expect("a closed block"),
        });
    }
    found
}

/// The block in which the coordinator's epoch came to be `epoch` or more.
pub async fn raised_at(desk: &Desk<'_>, epoch: u128) -> u64 {
    let selector = get_selector_from_name("EpochRaised").unwrap();
    let raised = raw_events(desk).await.into_iter().find(|event| {
        felts(&event["keys"]) == [selector, desk.coordinator.address] && u128_of(felts(&event["data"])[0]) >= epoch
    });
    raised.and_then(|event| event["block_number"].as_u64()).unwrap_or_else(|| panic!("no epoch reached {epoch}"))
}

fn felts(list: &Value) -> Vec<Felt> {
    list.as_array().expect("a list of felts").iter().map(felt).collect()
}

async fn raw_events(desk: &Desk<'_>) -> Vec<Value> {
    let mut found = vec![];
    let mut token = Value::Null;
    loop {
        let mut filter = json!({
            "from_block": {"block_number": desk.first_block},
            "to_block": "latest",
            "address": hex(desk.contract),
            "keys": [],
            // Another size on the next page would skip some.
            "chunk_size": 1000,
        });
        if !token.is_null() {
            filter["continuation_token"] = token.clone();
        }
        let page = desk.devnet.rpc("starknet_getEvents", json!({"filter": filter})).await;
        found.extend(page["events"].as_array().expect("events").iter().cloned());
        token = page["continuation_token"].clone();
        if token.is_null() {
            return found;
        }
    }
}

fn by_job(events: &[Event]) -> BTreeMap<u128, Vec<Event>> {
    let mut jobs: BTreeMap<u128, Vec<Event>> = BTreeMap::new();
    for event in events {
        jobs.entry(event.job).or_default().push(event.clone());
    }
    jobs
}

/// A job's id as the contract has it: its 128 bits.
pub fn number_of(id: &str) -> u128 {
    uuid::Uuid::parse_str(id).unwrap_or_else(|error| panic!("{id}: {error}")).as_u128()
}

/// A worker's id as the contract has it: 31 bytes of the hash of its key, which is the end of its name.
pub fn worker_felt(id: &str) -> Felt {
    let name = bs58::decode(id).into_vec().unwrap_or_else(|error| panic!("{id}: {error}"));
    let key = &name[name.len() - 32..];
    Felt::from_bytes_be_slice(&Sha256::digest(key)[..31])
}
