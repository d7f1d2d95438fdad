//! Counting. One set of counters for the process; without the feature `metrics`
//! every function here that counts does nothing.
//!
//! Labels come from closed sets (routes are patterns, methods are the known
//! ones, reasons are literals), so memory does not grow with traffic. Libraries
//! that bring their own metrics register them by `with_registry`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::{Map, Value as Json, json};

use super::book::{self, BOOK, Book};
use super::figures::{self, Figure};
use super::{chain, kafka, traffic};
use crate::clock;

/// See [`apply_paused`].
static PAUSE_MAX: AtomicU64 = AtomicU64::new(0);

/// Values read from the node at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    pub jobs: BTreeMap<&'static str, u64>,
    pub workers: BTreeMap<&'static str, u64>,
    pub jobs_submitted_total: u64,
    pub leader: bool,
    /// Voters that the leader has not heard for long; 0 on nodes that do not lead.
    pub voters_dead: u64,
    pub term: u64,
    pub applied: u64,
    pub committed: u64,
    pub staleness_ms: Option<u64>,
    pub peers_connected: u64,
    pub journal_seq: u64,
    /// Notices of ended jobs that wait for their receivers, and these.
    pub callbacks_waiting: u64,
    pub callback_receivers: u64,
    /// Finished jobs in memory, in segments, and removed; segments, their bytes, and those that wait or are missing.
    pub retained: Retained,
    pub storage_used_bytes: u64,
    pub storage_free_bytes: u64,
    pub sync_p50_us: u64,
    pub sync_p99_us: u64,
    pub uptime_secs: u64,
    pub kafka: Kafka,
    pub chain: Chain,
    /// `None`: the node takes none by itself.
    pub backup: Option<Backup>,
}

/// Backups that the node takes by itself.
#[derive(Clone, Debug, Default)]
pub struct Backup {
    pub taken: u64,
    pub failed: u64,
    /// `None`: none was ever taken.
    pub last_at_ms: Option<u64>,
    pub last_bytes: Option<u64>,
    pub failing: bool,
}

/// Where finished jobs are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retained {
    pub hot: u64,
    pub cold: u64,
    pub removed: u64,
    pub segments: u64,
    pub bytes: u64,
    pub waiting: u64,
    pub missing: u64,
}

/// The same of Kafka. What is not known is `None`.
#[derive(Clone, Debug, Default)]
pub struct Kafka {
    /// `None`: disabled on this node.
    pub connected: Option<bool>,
    /// At most as many as the state keeps offsets of.
    pub partitions: Vec<KafkaPartition>,
    /// Records not read yet, over all partitions.
    pub lag: Option<u64>,
    pub letters: u64,
    pub letter_bytes: u64,
    /// Entries of the journal that Kafka lacks, and how many are kept at most.
    pub undelivered: u64,
    pub undelivered_limit: u64,
    pub cursor: Option<u64>,
    pub topics: traffic::Topics,
    /// Every alarm there is, and whether it is raised.
    pub alarms: BTreeMap<&'static str, bool>,
}

#[derive(Clone, Debug)]
pub struct KafkaPartition {
    pub topic: String,
    pub number: u32,
    pub next: Option<u64>,
    pub lag: Option<u64>,
}

/// The same of the chain. What is not known is `None`; amounts are in the fee token's smallest unit.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// `None`: disabled on this node.
    pub connected: Option<bool>,
    pub block: Option<u64>,
    pub balance: Option<f64>,
    /// Transactions of the whole cluster by what became of them.
    pub outcomes: [(&'static str, u64); 3],
    /// Reverted ones by the contract's word; a bounded set.
    pub reverts: Vec<(String, u64)>,
    pub calls: u64,
    pub fees: u128,
    /// Jobs that others submitted on chain, taken and not taken.
    pub arrived: u64,
    pub refused: u64,
    pub waiting: u64,
    pub again: u64,
    pub parked: u64,
    /// Entries of the journal that were not looked at.
    pub unsettled: u64,
    pub epoch: u64,
    pub cursor: Option<u64>,
    /// Every alarm there is, and whether it is raised.
    pub alarms: BTreeMap<&'static str, bool>,
}

static ENABLED: AtomicBool = AtomicBool::new(true);

/// Turns counting on or off for the process (`metrics.enabled`). On until told otherwise.
pub fn enable(on: bool) {
    ENABLED.store(on, Ordering::Relaxed);
}

/// Whether this build counts, and was not told to stop.
pub fn enabled() -> bool {
    cfg!(feature = "metrics") && ENABLED.load(Ordering::Relaxed)
}

/// A record was committed and applied, `took` after it was proposed.
pub fn commit_took(took: Duration) {
    count(|book| book.commit.observe(took));
}

/// A record of `commands` commands was applied.
pub fn apply_took(took: Duration, commands: usize) {
    count(|book| {
        book.apply.observe(took);
        book.add("ciro_raft_commands_applied", "", "", commands);
    });
}

/// The state stood still for so long while a checkpoint was made of it.
pub fn apply_paused(took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    PAUSE_MAX.fetch_max(micros, Ordering::Relaxed);
}

/// The longest of these since the process started, in microseconds.
pub fn apply_pause_max_us() -> u64 {
    PAUSE_MAX.load(Ordering::Relaxed)
}

/// This node led and gave leadership to another member.
pub fn leadership_given_away(reason: &'static str) {
    count(|book| book.add("ciro_raft_leadership_given_away", "reason", reason, 1));
}

/// `route` is the pattern (`/jobs/{id}`), not the path.
pub fn http_served(method: &str, route: &'static str, status: u16, took: Duration) {
    count(|book| book.http(known_method(method), route, status, took));
}

pub fn auction_closed(took: Duration, jobs: usize, bids: usize, awards: usize) {
    count(|book| {
        book.auction.observe(took);
        book.add("ciro_auction_jobs", "", "", jobs);
        book.add("ciro_auction_bids", "", "", bids);
        book.add("ciro_auction_awards", "", "", awards);
    });
}

/// An award was committed, `took` after its job was first announced.
pub fn awarded(took: Duration) {
    count(|book| book.award.observe(took));
}

/// `result`: accepted, declined, unreachable.
pub fn assignments(result: &'static str, count_of: usize) {
    count(|book| book.add("ciro_assignments", "result", result, count_of));
}

/// `what`: renewed, expired.
pub fn leases(what: &'static str, count_of: usize) {
    count(|book| book.add("ciro_leases", "outcome", what, count_of));
}

/// Records were read from Kafka.
pub fn intake_read(records: usize) {
    count(|book| book.add("ciro_kafka_intake_read", "", "", records));
}

/// Records were taken into the log; `outcome`: job, or the code of the letter they became.
pub fn intake(outcome: &'static str, records: usize) {
    count(|book| book.add("ciro_kafka_intake", "outcome", outcome, records));
}

/// A batch of records was committed, `took` after it was sent to the log.
pub fn intake_batch(took: Duration) {
    count(|book| book.intake.observe(took));
}

/// Intake had to wait; `why`: in_flight, or the code of the refusal.
pub fn intake_paused(why: &'static str) {
    count(|book| book.add("ciro_kafka_intake_paused", "reason", why, 1));
}

pub fn mesh_offence(reason: &'static str) {
    count(|book| book.add("ciro_mesh_offences", "reason", reason, 1));
}

/// Kafka acknowledged `records` of `lane`.
pub fn kafka_published(lane: &'static str, records: usize) {
    count(|book| book.add("ciro_kafka_published", "lane", lane, records));
}

/// A batch was acknowledged, `took` after the first of it happened.
pub fn kafka_publish_took(took: Duration) {
    count(|book| book.publish.observe(took));
}

/// `result` of sending a batch: ok, failed, fenced.
pub fn kafka_batch(result: &'static str) {
    count(|book| book.add("ciro_kafka_batches", "result", result, 1));
}

/// The same, of a transaction.
pub fn kafka_transaction(result: &'static str) {
    count(|book| book.add("ciro_kafka_transactions", "result", result, 1));
}

/// A stage of a job landed on chain, `took` after the event that asked for it.
pub fn chain_settled(took: Duration) {
    count(|book| book.settle.observe(took));
}

/// Callbacks by what became of them; `outcome`: delivered, retried, given_up, displaced.
pub fn callbacks(outcome: &'static str, count_of: usize) {
    if count_of > 0 {
        count(|book| book.add("ciro_callbacks", "outcome", outcome, count_of));
    }
}

/// A callback was delivered, `took` after the job ended.
pub fn callback_took(took: Duration) {
    count(|book| book.callback.observe(took));
}

/// The gauges, the process and what was counted, as JSON.
pub fn render_json(gauges: &Gauges) -> Json {
    let metrics: Map<String, Json> = all(gauges).iter().map(|figure| (figure.full_name(), figure.to_json())).collect();
    json!({ "at_ms": clock::now().0, "counting": enabled(), "metrics": metrics })
}

fn all(gauges: &Gauges) -> Vec<Figure> {
    let mut figures = figures::measured(gauges);
    figures.extend(kafka::figures(&gauges.kafka));
    figures.extend(chain::figures(&gauges.chain));
    figures.extend(gauges.backup.iter().flat_map(super::backup::figures));
    figures.extend(counted());
    figures
}

fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

fn counted() -> Vec<Figure> {
    if enabled() { BOOK.figures() } else { vec![] }
}

fn count(with: impl FnOnce(&Book)) {
    if enabled() {
        with(&BOOK);
    }
}

/// Lends the registry in which libraries register metrics of their own. It
/// blocks scrapes meanwhile: register and return.
pub fn with_registry<R>(register: impl FnOnce(&mut Registry) -> R) -> R {
    register(&mut book::registry())
}

/// The same as OpenMetrics 1.0 text. Without the feature `prometheus` it exposes nothing.
#[cfg(not(feature = "prometheus"))]
pub fn render_text(_gauges: &Gauges) -> String {
    "# EOF\n".to_owned()
}

/// The same as OpenMetrics 1.0 text.
#[cfg(feature = "prometheus")]
pub fn render_text(gauges: &Gauges) -> String {
    super::text::render(all(gauges), &book::registry())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges() -> Gauges {
        Gauges {
            jobs: BTreeMap::from([("pending", 3), ("running", 1)]),
            jobs_submitted_total: 17,
            leader: true,
            staleness_ms: Some(250),
            ..Gauges::default()
        }
    }

    #[test]
    fn json_always_has_the_gauges_and_the_process() {
        let json = render_json(&gauges());
        let metrics = &json["metrics"];
        assert_eq!(metrics["ciro_jobs"]["samples"][0]["labels"]["state"], "pending");
        assert_eq!(metrics["ciro_jobs"]["samples"][0]["value"], 3.0);
        assert_eq!(metrics["ciro_jobs_submitted_total"]["samples"][0]["value"], 17.0);
        assert_eq!(metrics["ciro_raft_staleness_seconds"]["samples"][0]["value"], 0.25);
        assert!(metrics["process_resident_memory_bytes"]["samples"][0]["value"].as_f64().unwrap() > 1e5);
    }

    #[test]
    fn kafka_shows_what_is_known_and_nothing_else() {
        let disabled = render_json(&gauges());
        assert!(disabled["metrics"]["ciro_kafka_connected"].is_null(), "disabled is not disconnected");
        assert_eq!(disabled["metrics"]["ciro_kafka_dead_letters"]["samples"][0]["value"], 0.0);
        let partition = |number, lag| KafkaPartition { topic: "ciro.jobs".to_owned(), number, next: Some(7), lag };
        let kafka = Kafka {
            connected: Some(true),
            partitions: vec![partition(0, Some(5)), partition(1, None)],
            topics: traffic::Topics::from([("ciro.jobs".to_owned(), traffic::Traffic { read: 9, written: 1 })]),
            alarms: BTreeMap::from([("down", false), ("duty", true)]),
            ..Kafka::default()
        };
        let json = render_json(&Gauges { kafka, ..gauges() });
        let value = |name: &str, sample: usize| json["metrics"][name]["samples"][sample]["value"].clone();
        assert_eq!(value("ciro_kafka_connected", 0), 1.0);
        assert_eq!(
            json["metrics"]["ciro_kafka_intake_lag"]["samples"].as_array().unwrap().len(),
            1,
            "of what is known"
        );
        assert_eq!(value("ciro_kafka_intake_lag", 0), 5.0);
        assert_eq!((value("ciro_kafka_intake_offset", 1), value("ciro_kafka_alarm", 1)), (json!(7.0), json!(1.0)));
        assert_eq!(value("ciro_kafka_messages_in_total", 0), 9.0);
    }

    #[test]
    fn the_chain_shows_what_is_known_and_nothing_else() {
        let disabled = render_json(&gauges());
        for name in ["ciro_chain_connected", "ciro_chain_balance_fri", "ciro_chain_block"] {
            assert!(disabled["metrics"][name].is_null(), "{name}");
        }
        assert_eq!(disabled["metrics"]["ciro_chain_parked"]["samples"][0]["value"], 0.0);
        let chain = Chain {
            connected: Some(true),
            balance: Some(1e18),
            outcomes: [("succeeded", 7), ("reverted", 1), ("abandoned", 0)],
            reverts: vec![("SPEC_MISMATCH".to_owned(), 1)],
            fees: 12,
            alarms: BTreeMap::from([("down", false), ("parked", true)]),
            ..Chain::default()
        };
        let json = render_json(&Gauges { chain, ..gauges() });
        let value = |name: &str, sample: usize| json["metrics"][name]["samples"][sample]["value"].clone();
        assert_eq!((value("ciro_chain_connected", 0), value("ciro_chain_balance_fri", 0)), (json!(1.0), json!(1e18)));
        assert_eq!(value("ciro_chain_transactions_total", 1), 1.0);
        assert_eq!((value("ciro_chain_fee_fri_total", 0), value("ciro_chain_alarm", 1)), (json!(12.0), json!(1.0)));
        let reverts = &json["metrics"]["ciro_chain_reverts_total"]["samples"][0];
        assert_eq!(reverts["labels"]["reason"], "SPEC_MISMATCH");
    }

    #[test]
    fn methods_from_the_network_do_not_become_labels() {
        assert_eq!(known_method("POST"), "POST");
        assert_eq!(known_method("BREW\n"), "other");
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn what_is_counted_shows_up_with_quantiles() {
        http_served("GET", "/test/json", 200, Duration::from_millis(3));
        let json = render_json(&gauges());
        let samples = json["metrics"]["ciro_http_request_seconds"]["samples"].as_array().unwrap();
        let mine = samples.iter().find(|sample| sample["labels"]["route"] == "/test/json").unwrap();
        assert_eq!(mine["count"], 1);
        assert!((0.0025..=0.005).contains(&mine["p50"].as_f64().unwrap()), "{mine}");
    }
}
