//! What is printed: one table for people, one document for programs.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::histogram::Summary;
use super::load::Outcome;
use super::setup::Setup;

#[derive(Clone, Debug)]
pub(super) struct Report {
    bench: &'static str,
    parameters: Value,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
enum Figure {
    Count(&'static str, u64),
    Rate(&'static str, f64),
    Seconds(&'static str, f64),
    Text(&'static str, String),
    Latency(&'static str, Summary),
}

impl Report {
    pub(super) fn new(bench: &'static str, parameters: Value) -> Self {
        Self { bench, parameters, figures: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn count(mut self, name: &'static str, value: u64) -> Self {
        self.figures.push(Figure::Count(name, value));
        self
    }

    pub(super) fn rate(mut self, name: &'static str, value: f64) -> Self {
        self.figures.push(Figure::Rate(name, value));
        self
    }

    pub(super) fn seconds(mut self, name: &'static str, value: f64) -> Self {
        self.figures.push(Figure::Seconds(name, value));
        self
    }

    pub(super) fn text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.figures.push(Figure::Text(name, value.into()));
        self
    }

    pub(super) fn latency(mut self, name: &'static str, value: Summary) -> Self {
        self.figures.push(Figure::Latency(name, value));
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// What a closed loop measured; `things` and `things_per_sec` name what was counted.
    pub(super) fn outcome(self, things: &'static str, per_sec: &'static str, outcome: &Outcome) -> Self {
        let mut report = self
            .rate(per_sec, outcome.things_per_sec())
            .latency("request", outcome.latency)
            .count(things, outcome.things)
            .count("requests", outcome.requests)
            .count("failures", outcome.failures)
            .seconds("measured_secs", outcome.elapsed.as_secs_f64());
        if let Some(what) = &outcome.first_failure {
            report = report.note(format!("the first of {} failures: {what}", outcome.failures));
        }
        if let Some(why) = &outcome.stopped {
            report = report.note(format!("stopped early: {why}"));
        }
        report
    }

    pub(super) fn json(&self, setup: &Setup) -> serde_json::Result<Value> {
        let mut results = Map::new();
        for figure in &self.figures {
            let (name, value) = match figure {
                Figure::Count(name, value) => ((*name).to_owned(), json!(value)),
                Figure::Rate(name, value) | Figure::Seconds(name, value) => ((*name).to_owned(), rounded(*value)),
                Figure::Text(name, value) => ((*name).to_owned(), json!(value)),
                Figure::Latency(name, value) => (format!("{name}_latency"), serde_json::to_value(value)?),
            };
            results.insert(name, value);
        }
        serde_json::to_value(Document {
            bench: self.bench,
            throughput_per_sec: self.figures.iter().find_map(Figure::rate),
            latency_ms: self.figures.iter().find_map(Figure::millis),
            fdatasync_ms: Millis::from(&setup.disk_fdatasync),
            parameters: &self.parameters,
            results,
            notes: &self.notes,
            setup,
        })
    }

    pub(super) fn table(&self, setup: &Setup) -> String {
        let mut text = format!("{}  {}\n\n", self.bench, parameters(&self.parameters));
        let mut table = plain();
        for figure in &self.figures {
            for (name, value) in figure.rows() {
                table.add_row([name, value]);
            }
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _ = writeln!(text, "{table}\n");
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        let mut table = plain();
        table.add_rows(setup_rows(setup));
        let _ = writeln!(text, "{table}");
        text
    }
}

#[derive(Serialize)]
struct Document<'a> {
    bench: &'static str,
    /// The first rate and the first latency of the results: what the bench is about.
    throughput_per_sec: Option<Value>,
    latency_ms: Option<Millis>,
    /// This disk's own, to hold them against.
    fdatasync_ms: Millis,
    parameters: &'a Value,
    results: Map<String, Value>,
    notes: &'a [String],
    setup: &'a Setup,
}

#[derive(Serialize)]
struct Millis {
    p50: Value,
    p90: Value,
    p99: Value,
    max: Value,
}

impl From<&Summary> for Millis {
    fn from(summary: &Summary) -> Self {
        let millis = |micros: u64| rounded(micros as f64 / 1000.0);
        Self {
            p50: millis(summary.p50_us),
            p90: millis(summary.p90_us),
            p99: millis(summary.p99_us),
            max: millis(summary.max_us),
        }
    }
}

impl Figure {
    fn rate(&self) -> Option<Value> {
        match self {
            Self::Rate(_, value) => Some(rounded(*value)),
            _ => None,
        }
    }

    fn millis(&self) -> Option<Millis> {
        match self {
            Self::Latency(_, summary) => Some(summary.into()),
            _ => None,
        }
    }

    fn rows(&self) -> Vec<(String, String)> {
        match self {
            Self::Count(name, value) => vec![(words(name), value.to_string())],
            Self::Rate(name, value) => vec![(words(name), format!("{value:.0}"))],
            Self::Seconds(name, value) => vec![(words(name), format!("{value:.2}"))],
            Self::Text(name, value) => vec![(words(name), value.clone())],
            Self::Latency(name, summary) => {
                let name = words(name);
                let row = |which: &str, micros| (format!("{name} {which}"), millis(micros));
                vec![
                    row("p50", summary.p50_us),
                    row("p90", summary.p90_us),
                    row("p99", summary.p99_us),
                    row("max", summary.max_us),
                ]
            }
        }
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

fn setup_rows(setup: &Setup) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = Vec::new();
    if !setup.nodes.is_empty() {
        let (members, asked, online) = (setup.members, setup.nodes.len(), setup.workers_online);
        rows.push(row("cluster", format!("{members} members, {asked} asked, {online} workers online")));
    }
    for node in &setup.nodes {
        let about = format!("{}  {}  {}  {}", node.url, node.role, node.version, node.environment);
        rows.push(row("node", about));
    }
    let disk = &setup.disk_fdatasync;
    rows.extend([
        row("durability", setup.fsync.to_owned()),
        row(
            "this disk",
            format!(
                "append + fdatasync p50 {}, p99 {} ({} in {})",
                millis(disk.p50_us),
                millis(disk.p99_us),
                disk.count,
                setup.disk_dir.display()
            ),
        ),
        row("hardware", format!("{}, {} cores, {} MiB", setup.cpu, setup.cores, setup.memory_mib)),
        row("kernel", setup.kernel.clone()),
        row("bench", setup.bench_version.to_owned()),
    ]);
    rows
}

fn parameters(parameters: &Value) -> String {
    let Value::Object(fields) = parameters else { return String::new() };
    let texts = fields.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{}={text}", words(name)),
        other => format!("{}={other}", words(name)),
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn words(name: &str) -> String {
    name.replace("_per_sec", "/s").replace("_secs", " s").replace('_', " ")
}

fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::setup::Node;

    fn setup() -> Setup {
        Setup {
            nodes: vec![Node {
                url: "http://127.0.0.1:8080".into(),
                version: "0.1.0".into(),
                environment: "development".into(),
                role: "leader".into(),
            }],
            members: 3,
            workers_online: 2,
            fsync: "flush + fdatasync, group commit",
            cpu: "Some CPU".into(),
            cores: 2,
            memory_mib: 16_000,
            kernel: "6.1".into(),
            disk_dir: "/tmp".into(),
            disk_fdatasync: Summary { count: 300, p50_us: 180, p90_us: 200, p99_us: 1234, max_us: 5000 },
            bench_version: "0.1.0",
        }
    }

    fn report() -> Report {
        let latency = Summary { count: 9, p50_us: 1_500, p90_us: 2_000, p99_us: 30_007, max_us: 41_000 };
        Report::new("submit", json!({ "clients": 256, "duration_secs": 10 }))
            .rate("jobs_per_sec", 3123.4567)
            .latency("request", latency)
            .count("jobs", 31_234)
            .note("256 jobs stay pending")
    }

    #[test]
    fn the_table_says_figures_notes_and_setup() {
        let text = report().table(&setup());
        for part in [
            "submit  clients=256, duration s=10",
            "jobs/s",
            "3123",
            "request p99",
            "30.007 ms",
            "note: 256 jobs stay pending",
            "flush + fdatasync, group commit",
            "p50 0.180 ms, p99 1.234 ms",
            "Some CPU, 2 cores, 16000 MiB",
            "3 members, 1 asked, 2 workers online",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn the_document_holds_the_same() {
        let document = report().json(&setup()).unwrap();
        assert_eq!(document["bench"], "submit");
        assert_eq!(document["throughput_per_sec"], 3123.457);
        assert_eq!(document["latency_ms"]["p99"], 30.007);
        assert_eq!(document["fdatasync_ms"]["p50"], 0.18);
        assert_eq!(document["parameters"]["clients"], 256);
        assert_eq!(document["results"]["jobs_per_sec"], 3123.457);
        assert_eq!(document["results"]["request_latency"]["p99_us"], 30_007);
        assert_eq!(document["results"]["jobs"], 31_234);
        assert_eq!(document["setup"]["disk_fdatasync"]["p50_us"], 180);
        assert_eq!(document["notes"][0], "256 jobs stay pending");
    }
}
