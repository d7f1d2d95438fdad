//! Every number the node exports, as data: one list from which the OpenMetrics
//! text and the JSON are both written, so that they can not disagree.
//!
//! Names are the field's: `ciro_` and the thing, the unit last, `_total` on
//! counters (the text encoder appends unit and `_total`; [`Figure::full_name`]
//! does for JSON).

use serde_json::{Map, Value as Json, json};

use super::histogram::{self, Reading};
use super::metrics::{self, Gauges, Retained};
use super::process::Process;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    None,
    Seconds,
    Bytes,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Gauge(f64),
    Counter(f64),
    Histogram(Box<Reading>),
}

pub(super) type Labels = Vec<(&'static str, String)>;

/// One metric: what it is, and its value under each set of labels.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub name: &'static str,
    pub unit: Unit,
    pub help: &'static str,
    pub samples: Vec<(Labels, Value)>,
}

impl Figure {
    pub fn new(name: &'static str, unit: Unit, help: &'static str, samples: Vec<(Labels, Value)>) -> Self {
        Self { name, unit, help, samples }
    }

    pub fn one(name: &'static str, unit: Unit, help: &'static str, value: Value) -> Self {
        Self::new(name, unit, help, vec![(vec![], value)])
    }

    pub fn full_name(&self) -> String {
        let unit = match self.unit {
            Unit::None => "",
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
        };
        let total = if self.kind() == "counter" { "_total" } else { "" };
        format!("{}{unit}{total}", self.name)
    }

    pub fn kind(&self) -> &'static str {
        match self.samples.first() {
            Some((_, Value::Counter(_))) => "counter",
            Some((_, Value::Histogram(_))) => "histogram",
            _ => "gauge",
        }
    }

    pub fn to_json(&self) -> Json {
        let samples: Vec<Json> = self.samples.iter().map(|(labels, value)| sample_json(labels, value)).collect();
        json!({ "type": self.kind(), "help": self.help, "samples": samples })
    }
}

fn sample_json(labels: &Labels, value: &Value) -> Json {
    let labels: Map<String, Json> = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    match value {
        Value::Gauge(value) | Value::Counter(value) => json!({ "labels": labels, "value": value }),
        Value::Histogram(reading) => json!({
            "labels": labels,
            "count": reading.count(),
            "sum": reading.sum_secs,
            "p50": reading.quantile(0.50),
            "p90": reading.quantile(0.90),
            "p99": reading.quantile(0.99),
        }),
    }
}

/// Everything but what is counted: the node's gauges and the process.
pub(super) fn measured(gauges: &Gauges) -> Vec<Figure> {
    let mut figures = replicated(gauges);
    figures.extend(local(gauges));
    figures.extend(retained(&gauges.retained));
    figures.extend(process(&Process::read()));
    figures
}

fn gauge(name: &'static str, unit: Unit, help: &'static str, value: u64) -> Figure {
    Figure::one(name, unit, help, Value::Gauge(histogram::as_f64(value)))
}

fn by_state(counts: &std::collections::BTreeMap<&'static str, u64>) -> Vec<(Labels, Value)> {
    counts
        .iter()
        .map(|(state, count)| (vec![("state", (*state).to_owned())], Value::Gauge(histogram::as_f64(*count))))
        .collect()
}

fn replicated(g: &Gauges) -> Vec<Figure> {
    let submitted = Value::Counter(histogram::as_f64(g.jobs_submitted_total));
    vec![
        Figure::new("ciro_jobs", Unit::None, "Jobs by state", by_state(&g.jobs)),
        Figure::new("ciro_workers", Unit::None, "Workers by state", by_state(&g.workers)),
        Figure::one("ciro_jobs_submitted", Unit::None, "Jobs ever accepted by the cluster", submitted),
        gauge("ciro_journal_seq", Unit::None, "Newest entry of the journal", g.journal_seq),
        gauge("ciro_callbacks_waiting", Unit::None, "Callbacks that are not delivered yet", g.callbacks_waiting),
        gauge("ciro_callback_receivers", Unit::None, "Receivers that they wait for", g.callback_receivers),
        gauge("ciro_raft_term", Unit::None, "Current term", g.term),
        gauge("ciro_raft_is_leader", Unit::None, "1 on the leader", u64::from(g.leader)),
        gauge("ciro_raft_voters_dead", Unit::None, "Voters that the leader has not heard for long", g.voters_dead),
        gauge("ciro_raft_applied_index", Unit::None, "Newest log index applied here", g.applied),
        gauge("ciro_raft_committed_index", Unit::None, "Newest log index known to be committed", g.committed),
    ]
}

fn local(g: &Gauges) -> Vec<Figure> {
    let sync = |quantile: &str, micros| {
        (vec![("quantile", quantile.to_owned())], Value::Gauge(histogram::micros_to_secs(micros)))
    };
    let syncs = vec![sync("0.5", g.sync_p50_us), sync("0.99", g.sync_p99_us)];
    let mut figures = vec![
        gauge("ciro_peers_connected", Unit::None, "Peers connected to this node", g.peers_connected),
        gauge("ciro_storage_used", Unit::Bytes, "Disk used by the store", g.storage_used_bytes),
        gauge("ciro_storage_free", Unit::Bytes, "Disk free for the store", g.storage_free_bytes),
        Figure::new("ciro_storage_sync", Unit::Seconds, "Recent durable flushes, how long they took", syncs),
        gauge("ciro_uptime", Unit::Seconds, "Time since this node started", g.uptime_secs),
    ];
    if let Some(ms) = g.staleness_ms {
        let secs = Value::Gauge(histogram::as_f64(ms) / 1e3);
        figures.push(Figure::one("ciro_raft_staleness", Unit::Seconds, "Time since a leader was last heard", secs));
    }
    figures
}

/// Where finished jobs are.
fn retained(r: &Retained) -> Vec<Figure> {
    let finished = vec![
        (vec![("place", "memory".to_owned())], Value::Gauge(histogram::as_f64(r.hot))),
        (vec![("place", "archive".to_owned())], Value::Gauge(histogram::as_f64(r.cold))),
    ];
    let removed = Value::Counter(histogram::as_f64(r.removed));
    let pause = Value::Gauge(histogram::micros_to_secs(metrics::apply_pause_max_us()));
    let help = "Longest time that a record waited for the state while a checkpoint was made";
    vec![
        Figure::new("ciro_finished_jobs", Unit::None, "Finished jobs that are kept, by where they are", finished),
        Figure::one("ciro_finished_jobs_removed", Unit::None, "Finished jobs that retention removed", removed),
        gauge("ciro_archive_segments", Unit::None, "Segments of the archive", r.segments),
        gauge("ciro_archive", Unit::Bytes, "Bytes of the archive's segments", r.bytes),
        gauge("ciro_archive_waiting", Unit::None, "Segments that wait to be written here", r.waiting),
        gauge("ciro_archive_missing", Unit::None, "Segments that are missing or damaged here", r.missing),
        Figure::one("ciro_checkpoint_pause_max", Unit::Seconds, help, pause),
    ]
}

fn process(p: &Process) -> Vec<Figure> {
    let cpu = p
        .cpu_secs
        .map(|secs| Figure::one("process_cpu", Unit::Seconds, "User and system CPU time spent", Value::Counter(secs)));
    let gauges = [
        ("process_resident_memory", Unit::Bytes, "Resident memory", p.resident_bytes),
        ("process_virtual_memory", Unit::Bytes, "Virtual memory", p.virtual_bytes),
        ("process_threads", Unit::None, "Threads of the process", p.threads),
        ("process_open_fds", Unit::None, "Open file descriptors", p.open_fds),
        ("process_max_fds", Unit::None, "Most file descriptors allowed", p.max_fds),
    ];
    let known = gauges.into_iter().filter_map(|(name, unit, help, value)| Some(gauge(name, unit, help, value?)));
    cpu.into_iter().chain(known).collect()
}
