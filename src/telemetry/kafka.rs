//! Kafka's gauges and counters, as figures.

use super::figures::{Figure, Labels, Unit, Value};
use super::histogram::as_f64;
use super::metrics::{Kafka, KafkaPartition};

pub(super) fn figures(kafka: &Kafka) -> Vec<Figure> {
    let one = |name, help, value| Figure::one(name, Unit::None, help, gauge(value));
    let mut figures = vec![
        one("ciro_kafka_dead_letters", "Dead letters in the queue", kafka.letters),
        Figure::one(
            "ciro_kafka_dead_letters_held",
            Unit::Bytes,
            "Bytes of the dead letters in the queue",
            gauge(kafka.letter_bytes),
        ),
        one("ciro_kafka_undelivered", "Events of the journal that Kafka has not got", kafka.undelivered),
        one(
            "ciro_kafka_undelivered_limit",
            "Events kept for a sink that lags; there new jobs are refused",
            kafka.undelivered_limit,
        ),
        alarms(kafka),
        by_partition(kafka, "ciro_kafka_intake_offset", "Next offset to read, replicated", |partition| partition.next),
        by_partition(kafka, "ciro_kafka_intake_lag", "Records of a partition not read yet", |partition| partition.lag),
        by_topic(kafka, "ciro_kafka_messages_in", "Records read from a topic", |traffic| traffic.read),
        by_topic(kafka, "ciro_kafka_messages_out", "Records written to a topic", |traffic| traffic.written),
    ];
    let known = [
        ("ciro_kafka_connected", "1 while this node reaches a broker", kafka.connected.map(u64::from)),
        ("ciro_kafka_journal_cursor", "Newest entry of the journal that Kafka has", kafka.cursor),
    ];
    figures.extend(known.into_iter().filter_map(|(name, help, value)| Some(one(name, help, value?))));
    figures.retain(|figure| !figure.samples.is_empty());
    figures
}

fn gauge(value: u64) -> Value {
    Value::Gauge(as_f64(value))
}

fn alarms(kafka: &Kafka) -> Figure {
    let sample =
        |(code, raised): (&&'static str, &bool)| (vec![("alarm", (*code).to_owned())], gauge(u64::from(*raised)));
    let samples = kafka.alarms.iter().map(sample).collect();
    Figure::new("ciro_kafka_alarm", Unit::None, "1 while the alarm is raised; see docs/kafka.md", samples)
}

fn by_partition(
    kafka: &Kafka,
    name: &'static str,
    help: &'static str,
    value: fn(&KafkaPartition) -> Option<u64>,
) -> Figure {
    let sample = |partition: &KafkaPartition| -> Option<(Labels, Value)> {
        let labels = vec![("topic", partition.topic.clone()), ("partition", partition.number.to_string())];
        Some((labels, gauge(value(partition)?)))
    };
    Figure::new(name, Unit::None, help, kafka.partitions.iter().filter_map(sample).collect())
}

fn by_topic(
    kafka: &Kafka,
    name: &'static str,
    help: &'static str,
    value: fn(&super::traffic::Traffic) -> u64,
) -> Figure {
    let samples = kafka.topics.iter().map(|(topic, traffic)| {
        let labels: Labels = vec![("topic", topic.clone())];
        (labels, Value::Counter(as_f64(value(traffic))))
    });
    Figure::new(name, Unit::None, help, samples.collect())
}
