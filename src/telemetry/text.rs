//! OpenMetrics text, by prometheus-client's encoder.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as TextUnit};

use super::figures::{Figure, Labels, Unit, Value};
use super::histogram::{BOUNDS, Reading};

/// One scrape's figures, handed to the encoder.
#[derive(Debug)]
struct Scrape(Vec<Figure>);

/// The figures and what libraries registered, as one exposition that ends with `# EOF`.
pub(super) fn render(figures: Vec<Figure>, libraries: &Registry) -> String {
    let mut scrape = Registry::default();
    scrape.register_collector(Box::new(Scrape(figures)));
    let mut text = String::new();
    let written = text::encode_registry(&mut text, &scrape)
        .and_then(|()| text::encode_registry(&mut text, libraries))
        .and_then(|()| text::encode_eof(&mut text));
    if let Err(error) = written {
        tracing::error!(%error, "metrics could not be encoded");
    }
    text
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for figure in self.0.iter().filter(|figure| !figure.samples.is_empty()) {
            let unit = match figure.unit {
                Unit::None => None,
                Unit::Seconds => Some(&TextUnit::Seconds),
                Unit::Bytes => Some(&TextUnit::Bytes),
            };
            let kind = match figure.kind() {
                "counter" => MetricType::Counter,
                "histogram" => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(figure.name, figure.help, unit, kind)?;
            for (labels, value) in &figure.samples {
                sample(&mut metric, labels, value)?;
            }
        }
        Ok(())
    }
}

fn sample(metric: &mut MetricEncoder<'_>, labels: &Labels, value: &Value) -> Result<(), std::fmt::Error> {
    if labels.is_empty() { encode(metric, value) } else { encode(&mut metric.encode_family(labels)?, value) }
}

fn encode(metric: &mut MetricEncoder<'_>, value: &Value) -> Result<(), std::fmt::Error> {
    match value {
        Value::Gauge(value) => metric.encode_gauge(value),
        Value::Counter(value) => metric.encode_counter::<NoLabelSet, f64, u64>(value, None),
        Value::Histogram(reading) => {
            metric.encode_histogram::<NoLabelSet>(reading.sum_secs, reading.count(), &buckets(reading), None)
        }
    }
}

/// Bounds and counts, not cumulative (the encoder sums), the unbounded one last.
fn buckets(reading: &Reading) -> Vec<(f64, u64)> {
    BOUNDS.into_iter().chain([f64::INFINITY]).zip(reading.buckets).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;

    use super::super::metrics::{self, Gauges};

    /// Checks what the OpenMetrics format asks of an exposition; returns each family's type.
    fn validate(text: &str) -> BTreeMap<String, String> {
        assert!(text.ends_with("# EOF\n"), "ends with # EOF");
        let mut types: BTreeMap<String, String> = BTreeMap::new();
        let mut family = String::new();
        let mut seen = BTreeSet::new();
        for line in text.lines().take_while(|line| *line != "# EOF") {
            assert!(!line.is_empty() && line.trim() == line, "blank in {line:?}");
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            }
            if let Some(rest) = line.strip_prefix("# ") {
                rest.split(' ').nth(1).unwrap().clone_into(&mut family);
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|_| panic!("number in {line:?}"));
            assert!(seen.insert(series.to_owned()), "{series} twice");
            let name = series.split('{').next().unwrap();
            let suffixes: &[&str] = match types.get(&family).map(String::as_str) {
                Some("counter") => &["_total"],
                Some("histogram") => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{name} under {family}"));
            assert!(suffixes.contains(&suffix), "{name} in family {family}");
        }
        types
    }

    #[test]
    fn a_scrape_is_valid_open_metrics_with_the_names_users_know() {
        metrics::commit_took(Duration::from_millis(4));
        metrics::apply_took(Duration::from_micros(40), 12);
        metrics::http_served("GET", "/jobs/{id}", 200, Duration::from_millis(1));
        metrics::auction_closed(Duration::from_millis(200), 2, 5, 2);
        metrics::assignments("accepted", 2);
        metrics::mesh_offence("signature");
        let pings = Counter::<u64>::default();
        metrics::with_registry(|registry| registry.register("libp2p_test_pings", "Pings", pings.clone()));
        pings.inc();

        let gauges = Gauges { jobs: BTreeMap::from([("pending", 1)]), staleness_ms: Some(1), ..Gauges::default() };
        let text = metrics::render_text(&gauges);
        let types = validate(&text);
        for (name, kind) in [
            ("ciro_jobs", "gauge"),
            ("ciro_jobs_submitted", "counter"),
            ("ciro_raft_commit_seconds", "histogram"),
            ("ciro_raft_apply_seconds", "histogram"),
            ("ciro_http_requests", "counter"),
            ("ciro_http_request_seconds", "histogram"),
            ("ciro_auction_seconds", "histogram"),
            ("ciro_storage_used_bytes", "gauge"),
            ("process_cpu_seconds", "counter"),
            ("libp2p_test_pings", "counter"),
        ] {
            assert_eq!(types.get(name).map(String::as_str), Some(kind), "{name} in\n{text}");
        }
        assert!(text.contains("ciro_jobs{state=\"pending\"} 1"), "{text}");
        assert!(
            text.contains("ciro_http_requests_total{method=\"GET\",route=\"/jobs/{id}\",status=\"200\"}"),
            "{text}"
        );
        assert!(text.contains("ciro_raft_commit_seconds_bucket{le=\"+Inf\"}"), "{text}");
    }
}
