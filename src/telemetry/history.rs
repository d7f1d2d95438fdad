//! The key figures of the last day, in memory, for `/metrics/history`.
//!
//! One ring of samples for the process; `node` records one every
//! [`INTERVAL`]. Beyond [`POINTS_MAX`] the oldest is dropped. Nothing is kept
//! across a restart: a monitoring system is the place for that.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::histogram::as_f64;
use super::metrics::Gauges;
use super::process::Process;
use super::traffic::{self, Traffic};
use crate::clock;

/// How often a sample is taken.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Samples kept: a day at one every ten seconds.
pub const POINTS_MAX: usize = 8_640;

/// Points of a series in an answer to who named no step.
const POINTS_UNASKED: u64 = 1_000;

/// The series, in the order of a sample's values.
pub const NAMES: [&str; 25] = [
    "jobs_pending",
    "jobs_assigned",
    "jobs_running",
    "jobs_completed",
    "jobs_failed",
    "jobs_cancelled",
    "jobs_submitted_total",
    "workers_online",
    "workers_busy",
    "workers_offline",
    "peers_connected",
    "raft_term",
    "raft_is_leader",
    "raft_applied_index",
    "raft_staleness_seconds",
    "journal_seq",
    "storage_used_bytes",
    "storage_free_bytes",
    "storage_sync_p99_seconds",
    "process_resident_memory_bytes",
    "kafka_intake_lag",
    "kafka_messages_in_total",
    "kafka_messages_out_total",
    "kafka_undelivered",
    "kafka_dead_letters",
];

static HISTORY: Mutex<History> = Mutex::new(History { samples: VecDeque::new() });

#[derive(Debug, Default)]
struct History {
    /// Oldest first.
    samples: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    at_ms: u64,
    /// NaN: not known.
    values: [f64; NAMES.len()],
}

/// Takes a sample now.
pub fn record(gauges: &Gauges) {
    let values = values(gauges);
    traffic::record(clock::instant(), &gauges.kafka.topics);
    lock().push(Sample { at_ms: clock::now().0, values });
}

/// The series `name` (all of them without one) from `from_ms` to `to_ms`, both
/// included, milliseconds since the epoch. Only the last point of each `step_ms`
/// is given; without one, of each thousandth of the range. What was not known is
/// null. An unknown name gives no series; see [`NAMES`].
pub fn query(name: Option<&str>, from_ms: Option<u64>, to_ms: Option<u64>, step_ms: Option<u64>) -> Json {
    lock().query(name, from_ms.unwrap_or(0), to_ms.unwrap_or(u64::MAX), step_ms)
}

fn lock() -> std::sync::MutexGuard<'static, History> {
    HISTORY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// A clock that was set back was wrong before: what is later than now goes.
    fn push(&mut self, sample: Sample) {
        while self.samples.back().is_some_and(|last| last.at_ms > sample.at_ms) {
            self.samples.pop_back();
        }
        if self.samples.len() >= POINTS_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    fn query(&self, name: Option<&str>, from: u64, to: u64, step: Option<u64>) -> Json {
        let step = step.unwrap_or_else(|| self.default_step(from, to));
        let picked = self.pick(from, to, step);
        let wanted = NAMES.iter().enumerate().filter(|(_, known)| name.is_none_or(|name| name == **known));
        let series: Map<String, Json> = wanted
            .map(|(i, known)| {
                let points = picked.iter().map(|sample| json!([sample.at_ms, sample.values[i]])).collect();
                ((*known).to_owned(), Json::Array(points))
            })
            .collect();
        let interval_ms = u64::try_from(INTERVAL.as_millis()).unwrap_or_default();
        json!({ "interval_ms": interval_ms, "names": NAMES, "series": series })
    }

    fn default_step(&self, from: u64, to: u64) -> u64 {
        let edge = |sample: Option<&Sample>| sample.map_or(0, |sample| sample.at_ms);
        let (from, to) = (from.max(edge(self.samples.front())), to.min(edge(self.samples.back())));
        to.saturating_sub(from) / POINTS_UNASKED
    }

    /// Samples within the bounds; of each step, the last.
    fn pick(&self, from: u64, to: u64, step: u64) -> Vec<&Sample> {
        let mut picked: Vec<&Sample> = vec![];
        let within = self.samples.iter().filter(|sample| (from..=to).contains(&sample.at_ms));
        for sample in within {
            match picked.last_mut() {
                Some(last) if step > 0 && last.at_ms / step == sample.at_ms / step => *last = sample,
                _ => picked.push(sample),
            }
        }
        picked
    }
}

fn values(g: &Gauges) -> [f64; NAMES.len()] {
    let job = |state| as_f64(g.jobs.get(state).copied().unwrap_or_default());
    let worker = |state| as_f64(g.workers.get(state).copied().unwrap_or_default());
    let messages = |of: fn(&Traffic) -> u64| as_f64(g.kafka.topics.values().map(of).sum());
    [
        job("pending"),
        job("assigned"),
        job("running"),
        job("completed"),
        job("failed"),
        job("cancelled"),
        as_f64(g.jobs_submitted_total),
        worker("online"),
        worker("busy"),
        worker("offline"),
        as_f64(g.peers_connected),
        as_f64(g.term),
        f64::from(u8::from(g.leader)),
        as_f64(g.applied),
        g.staleness_ms.map_or(f64::NAN, |staleness| as_f64(staleness) / 1e3),
        as_f64(g.journal_seq),
        as_f64(g.storage_used_bytes),
        as_f64(g.storage_free_bytes),
        as_f64(g.sync_p99_us) / 1e6,
        Process::read().resident_bytes.map_or(f64::NAN, as_f64),
        g.kafka.lag.map_or(f64::NAN, as_f64),
        messages(|traffic| traffic.read),
        messages(|traffic| traffic.written),
        as_f64(g.kafka.undelivered),
        as_f64(g.kafka.letters),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> History {
        let mut history = History::default();
        for i in 0..count {
            let mut values = [0.0; NAMES.len()];
            values[0] = as_f64(i);
            history.push(Sample { at_ms: i * 10_000, values });
        }
        history
    }

    #[test]
    fn a_range_and_a_step_choose_the_last_point_of_each_step() {
        let answer = filled(20).query(Some("jobs_pending"), 30_000, 120_000, Some(60_000));
        let points = serde_json::to_string(&answer["series"]["jobs_pending"]).unwrap();
        assert_eq!(points, "[[50000,5.0],[110000,11.0],[120000,12.0]]");
    }

    #[test]
    fn the_oldest_sample_goes_when_the_ring_is_full() {
        let history = filled(POINTS_MAX as u64 + 5);
        assert_eq!(history.samples.len(), POINTS_MAX);
        assert_eq!(history.samples.front().unwrap().at_ms, 50_000);
    }

    #[test]
    fn who_names_no_step_gets_a_thousand_points_of_any_range() {
        let (history, pending) = (filled(POINTS_MAX as u64), Some("jobs_pending"));
        let count = |answer: Json| answer["series"]["jobs_pending"].as_array().unwrap().len();
        let day = count(history.query(pending, 0, u64::MAX, None));
        assert!((900..=1_001).contains(&day), "{day}");
        assert_eq!(count(history.query(pending, 100_000, 300_000, None)), 21, "all there are");
        assert_eq!(count(history.query(pending, 0, u64::MAX, Some(10_000))), POINTS_MAX, "all that were asked for");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_pin_the_samples_that_follow() {
        let mut history = filled(5);
        for at_ms in [9_000_000_000, 45_000, 55_000] {
            history.push(Sample { at_ms, values: [0.0; NAMES.len()] });
        }
        let times: Vec<u64> = history.samples.iter().map(|sample| sample.at_ms).collect();
        assert_eq!(times, [0, 10_000, 20_000, 30_000, 40_000, 45_000, 55_000]);
    }

    #[test]
    fn what_is_not_known_is_null_and_not_zero() {
        let mut history = History::default();
        history.push(Sample { at_ms: 1, values: values(&Gauges { staleness_ms: None, ..Gauges::default() }) });
        let answer = history.query(Some("raft_staleness_seconds"), 0, u64::MAX, None);
        assert_eq!(answer["series"]["raft_staleness_seconds"], json!([[1, null]]));
    }

    #[test]
    fn no_name_gives_every_series_and_an_unknown_one_none() {
        let history = filled(2);
        assert_eq!(history.query(None, 0, u64::MAX, None)["series"].as_object().unwrap().len(), NAMES.len());
        assert!(history.query(Some("jobs_lost"), 0, u64::MAX, None)["series"].as_object().unwrap().is_empty());
    }

    #[test]
    fn recording_is_visible_to_a_query() {
        let jobs = std::collections::BTreeMap::from([("failed", 7)]);
        record(&Gauges { jobs, ..Gauges::default() });
        let answer = query(Some("jobs_failed"), None, None, None);
        assert_eq!(answer["series"]["jobs_failed"].as_array().unwrap().last().unwrap()[1], 7.0);
    }
}
