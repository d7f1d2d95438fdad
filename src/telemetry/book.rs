//! The process's counters: what was observed since it started.
//!
//! Histograms without labels are lock-free; the rest is a small map under a
//! mutex that is held for one addition.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;

use super::figures::{Figure, Labels, Unit, Value};
use super::histogram::{self, Histogram};

pub(super) static BOOK: LazyLock<Book> = LazyLock::new(Book::default);

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// Metrics that libraries brought.
pub(super) fn registry() -> MutexGuard<'static, Registry> {
    lock(&REGISTRY)
}

/// Counters by name, then by the value of their one label (empty: no label).
type Counters = BTreeMap<&'static str, (&'static str, BTreeMap<&'static str, u64>)>;

#[derive(Debug, Default)]
pub(super) struct Book {
    pub commit: Histogram,
    pub apply: Histogram,
    pub auction: Histogram,
    pub award: Histogram,
    pub publish: Histogram,
    pub intake: Histogram,
    pub settle: Histogram,
    pub callback: Histogram,
    counters: Mutex<Counters>,
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    request_secs: Mutex<BTreeMap<&'static str, Histogram>>,
}

impl Book {
    /// Adds to the counter `name` under `label` = `value`; an empty `label` is none.
    pub fn add(&self, name: &'static str, label: &'static str, value: &'static str, count: usize) {
        let mut counters = lock(&self.counters);
        let (_, values) = counters.entry(name).or_insert_with(|| (label, BTreeMap::new()));
        *values.entry(value).or_default() += count as u64;
    }

    pub fn http(&self, method: &'static str, route: &'static str, status: u16, took: Duration) {
        *lock(&self.requests).entry((method, route, status)).or_default() += 1;
        lock(&self.request_secs).entry(route).or_default().observe(took);
    }

    pub fn figures(&self) -> Vec<Figure> {
        let timed = |name, help, histogram: &Histogram| {
            Figure::one(name, Unit::Seconds, help, Value::Histogram(Box::new(histogram.read())))
        };
        let mut figures = vec![
            timed("ciro_raft_commit", "From proposing a record to having applied it", &self.commit),
            timed("ciro_raft_apply", "Applying one record", &self.apply),
            timed("ciro_auction", "From announcing to awarding", &self.auction),
            timed("ciro_award", "From announcing a job first to its award being committed", &self.award),
            timed("ciro_kafka_publish", "From an event to its acknowledgement by Kafka, batch by batch", &self.publish),
            timed("ciro_kafka_intake_batch", "From sending a batch of records to the log to its answer", &self.intake),
            timed("ciro_chain_settle", "From an event to its transaction having landed, stage by stage", &self.settle),
            timed("ciro_callback", "From the end of a job to its callback being delivered", &self.callback),
        ];
        figures.extend(self.counter_figures());
        figures.extend(self.http_figures());
        figures
    }

    fn counter_figures(&self) -> Vec<Figure> {
        let counters = lock(&self.counters);
        let figure = |(name, (label, values)): (&&'static str, &(&'static str, BTreeMap<&'static str, u64>))| {
            let labels = |value: &&str| -> Labels {
                if label.is_empty() { vec![] } else { vec![(*label, (*value).to_owned())] }
            };
            let samples = values.iter().map(|(value, count)| (labels(value), counter(*count))).collect();
            Figure::new(name, Unit::None, help_of(name), samples)
        };
        counters.iter().map(figure).collect()
    }

    fn http_figures(&self) -> Vec<Figure> {
        let requests: Vec<_> = lock(&self.requests)
            .iter()
            .map(|((method, route, status), count)| {
                let labels: Labels = vec![
                    ("method", (*method).to_owned()),
                    ("route", (*route).to_owned()),
                    ("status", status.to_string()),
                ];
                (labels, counter(*count))
            })
            .collect();
        let secs: Vec<_> = lock(&self.request_secs)
            .iter()
            .map(|(route, histogram)| {
                (vec![("route", (*route).to_owned())], Value::Histogram(Box::new(histogram.read())))
            })
            .collect();
        let mut figures = vec![
            Figure::new("ciro_http_requests", Unit::None, "Requests answered", requests),
            Figure::new("ciro_http_request", Unit::Seconds, "Answering a request", secs),
        ];
        figures.retain(|figure| !figure.samples.is_empty());
        figures
    }
}

fn counter(count: u64) -> Value {
    Value::Counter(histogram::as_f64(count))
}

fn help_of(name: &str) -> &'static str {
    match name {
        "ciro_raft_commands_applied" => "Commands applied here",
        "ciro_raft_leadership_given_away" => "Leaderships that this node handed to another member",
        "ciro_auction_jobs" => "Jobs announced in closed auctions",
        "ciro_auction_bids" => "Bids in closed auctions",
        "ciro_auction_awards" => "Jobs awarded",
        "ciro_assignments" => "Assignments sent to workers",
        "ciro_leases" => "Leases by what became of them",
        "ciro_kafka_published" => "Records that Kafka acknowledged, repeats included",
        "ciro_kafka_batches" => "Batches of records sent to Kafka",
        "ciro_kafka_transactions" => "Transactions of exactly_once",
        "ciro_kafka_intake_read" => "Records read from Kafka, also those read again",
        "ciro_kafka_intake" => "Records taken into the log, by what became of them",
        "ciro_kafka_intake_paused" => "Times that intake had to wait",
        "ciro_callbacks" => "Tries of callbacks by what became of them, and callbacks that gave way to others",
        "ciro_mesh_offences" => "Invalid messages, refused requests and rate violations",
        _ => "Events counted",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
