//! What the nodes counted themselves, before and after.

use std::collections::BTreeMap;

use anyhow::bail;

use super::cluster::Cluster;
use super::histogram::Summary;

/// Of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct Scrape {
    /// By name and labels, as written.
    samples: BTreeMap<String, f64>,
}

/// Copies of gossip messages that came in, those that were known already included; then without them.
pub(super) const COPIES: &str = "libp2p_gossip_topic_msg_recv_counts_unfiltered_total";
pub(super) const DISTINCT: &str = "libp2p_gossip_topic_msg_recv_counts_total";

const RESIDENT: &str = "process_resident_memory_bytes";

/// The nodes' metrics at one moment.
///
/// Fails if one does not answer, or counts nothing.
pub(super) async fn all(cluster: &Cluster) -> anyhow::Result<Vec<Scrape>> {
    let mut scrapes = Vec::new();
    for node in cluster.nodes() {
        let scrape = Scrape::parse(&cluster.metrics(node).await?);
        if scrape.samples.is_empty() {
            bail!(
                "{node} shows no metrics: it needs metrics.enabled, and a build with the features metrics and prometheus"
            );
        }
        scrapes.push(scrape);
    }
    Ok(scrapes)
}

impl Scrape {
    pub(super) fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (key, value) = line.rsplit_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// The sum over all labels.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    pub(super) fn resident_mib(&self) -> f64 {
        self.sum(RESIDENT) / f64::from(1 << 20)
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let samples = self.samples.range(name.to_owned()..).take_while(move |(key, _)| key.starts_with(name));
        let labels = samples.map(move |(key, value)| (&key[name.len()..], *value));
        labels.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
    }

    /// Upper bounds in seconds and how many observations are at most that.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let bucket = |(labels, count): (&str, f64)| {
            let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
            Some((if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? }, count))
        };
        let mut buckets: Vec<_> = self.of(&format!("{name}_bucket")).filter_map(bucket).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets
    }
}

/// By how much a counter grew, node by node. It starts anew with the process.
pub(super) fn growth(name: &str, before: &[Scrape], after: &[Scrape]) -> Vec<f64> {
    let grown = |(before, after): (&Scrape, &Scrape)| {
        let (old, new) = (before.sum(name), after.sum(name));
        if new < old { new } else { new - old }
    };
    before.iter().zip(after).map(grown).collect()
}

/// What a histogram in seconds counted between two scrapes, over all nodes. A value is taken for the largest that
/// its bucket may hold, so a percentile is never below the true one.
pub(super) fn observed(name: &str, before: &[Scrape], after: &[Scrape]) -> Summary {
    let mut counts: Vec<(f64, f64)> = Vec::new();
    for (before, after) in before.iter().zip(after) {
        let (old, new) = (before.buckets(name), after.buckets(name));
        if counts.is_empty() {
            counts = new.iter().map(|(bound, _)| (*bound, 0.0)).collect();
        }
        let restarted = old.last().map(|(_, count)| *count) > new.last().map(|(_, count)| *count);
        for (at, (_, count)) in new.iter().enumerate() {
            let old = if restarted { 0.0 } else { old.get(at).map_or(0.0, |(_, count)| *count) };
            if let Some(sum) = counts.get_mut(at) {
                sum.1 += count - old;
            }
        }
    }
    let total = counts.last().map_or(0.0, |(_, count)| *count);
    let value = |share: f64| {
        let bound =
            counts.iter().find(|(_, count)| *count > 0.0 && *count >= share * total).map_or(0.0, |found| found.0);
        micros(if bound.is_finite() { bound } else { 3_600.0 })
    };
    Summary { count: whole(total), p50_us: value(0.5), p90_us: value(0.9), p99_us: value(0.99), max_us: value(1.0) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts and durations are not negative")]
pub(super) fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn micros(secs: f64) -> u64 {
    whole(secs * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(low: u32, high: u32, all: u32) -> Scrape {
        Scrape::parse(&format!(
            "# TYPE x histogram\nx_bucket{{le=\"0.1\"}} {low}\nx_bucket{{le=\"0.25\"}} {high}\nx_bucket{{le=\"+Inf\"}} {all}\n\
             x_sum 3.5\nbytes_in{{topic=\"bids\"}} {all}\nbytes_in{{topic=\"beats\"}} 2\nbytes_in_total 99\n"
        ))
    }

    #[test]
    fn counters_are_summed_over_their_labels_only() {
        assert!((scrape(0, 0, 7).sum("bytes_in") - 9.0).abs() < 1e-9);
        assert!(scrape(0, 0, 7).sum("bytes").abs() < 1e-9);
        let grown = growth("bytes_in", &[scrape(0, 0, 7), scrape(0, 0, 9)], &[scrape(0, 0, 10), scrape(0, 0, 1)]);
        assert_eq!(grown, [3.0, 3.0], "the second node began anew");
    }

    #[test]
    fn a_percentile_is_that_of_what_came_between() {
        let (before, after) = ([scrape(100, 100, 100), Scrape::default()], [scrape(150, 199, 200), Scrape::default()]);
        let summary = observed("x", &before, &after);
        assert_eq!((summary.count, summary.p50_us, summary.p99_us), (100, 100_000, 250_000));
        assert_eq!(summary.max_us, 3_600_000_000, "beyond the last bound");
        assert_eq!(observed("x", &after, &after), Summary::default());
    }
}
