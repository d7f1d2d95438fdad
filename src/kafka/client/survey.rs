//! What topics have: partitions, and the offsets they hold.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};

use super::aside::Patience;
use super::codes;
use super::context::Ear;
use crate::domain::kafka::Partition;
use crate::kafka::guard::guarded;
use crate::kafka::{Error, Marks, Survey};

/// Errors of the library that are served at once. More wait for the next time.
const EVENTS_AT_ONCE: usize = 64;

/// What the brokers say of one topic.
pub(super) struct Shape {
    /// `host:port`.
    pub(super) brokers: Vec<String>,
    /// Numbers of its partitions; `None`: there is no such topic.
    pub(super) partitions: Option<Vec<i32>>,
}

pub(super) fn survey(consumer: &BaseConsumer<Ear>, topic: &str, patience: &Patience) -> Result<Survey, Error> {
    let shape = shape(consumer, topic, patience)?;
    let numbers = shape.partitions.ok_or_else(|| Error::NoTopic(topic.to_owned()))?;
    let cluster_id = cluster_id(consumer, patience)?;
    let partitions: Vec<_> = numbers.into_iter().map(|number| (topic.to_owned(), number)).collect();
    Ok(Survey { cluster_id, partitions: marks(consumer, &partitions, patience)? })
}

/// Asks for a topic's partitions; creates nothing.
pub(super) fn shape(consumer: &BaseConsumer<Ear>, topic: &str, patience: &Patience) -> Result<Shape, Error> {
    let left = patience.left()?;
    let asked = guarded(|| {
        let metadata = consumer.fetch_metadata(Some(topic), left)?;
        let brokers = metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port())).collect();
        let found = metadata.topics().iter().find(|found| found.name() == topic).map(|found| {
            let mut numbers: Vec<i32> = found.partitions().iter().map(MetadataPartition::id).collect();
            numbers.sort_unstable();
            (numbers, found.error().map(Code::from))
        });
        Ok((brokers, found))
    });
    let (brokers, found) = asked
        .ok_or_else(|| Error::Refused("the brokers' answer can not be read".to_owned()))?
        .map_err(|error| told(consumer, &error, topic))?;
    let partitions = match found {
        Some((_, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic))) | None => None,
        Some((numbers, None | Some(Code::NoError))) if !numbers.is_empty() => Some(numbers),
        // It is being made.
        Some((_, None | Some(Code::NoError | Code::LeaderNotAvailable))) => None,
        Some((_, Some(code))) => return Err(codes::error(code, None, topic)),
    };
    Ok(Shape { brokers, partitions })
}

/// Which Kafka cluster answered last.
pub(super) fn cluster_id(consumer: &BaseConsumer<Ear>, patience: &Patience) -> Result<String, Error> {
    let id = consumer.client().fetch_cluster_id(patience.left()?);
    id.ok_or_else(|| Error::Down("the brokers do not say which cluster they are".to_owned()))
}

/// The offsets that partitions hold: two questions to each broker, however many partitions.
pub(super) fn marks(
    consumer: &BaseConsumer<Ear>,
    partitions: &[(String, i32)],
    patience: &Patience,
) -> Result<Vec<Marks>, Error> {
    if partitions.is_empty() {
        return Ok(vec![]);
    }
    let low = ends(consumer, partitions, Offset::Beginning, patience)?;
    let high = ends(consumer, partitions, Offset::End, patience)?;
    let marks = partitions.iter().zip(low.into_iter().zip(high)).map(|((topic, number), (low, high))| Marks {
        partition: Partition { topic: topic.as_str().into(), number: u32::try_from(*number).unwrap_or_default() },
        low,
        high: high.max(low),
    });
    Ok(marks.collect())
}

/// One end of each partition, in the order of `partitions`.
fn ends(
    consumer: &BaseConsumer<Ear>,
    partitions: &[(String, i32)],
    end: Offset,
    patience: &Patience,
) -> Result<Vec<u64>, Error> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for (topic, number) in partitions {
        asked.add_partition_offset(topic, *number, end).map_err(|error| codes::of(&error, None, topic))?;
    }
    let first = partitions.first().map_or("", |(topic, _)| topic);
    let found = consumer.offsets_for_times(asked, patience.left()?).map_err(|error| told(consumer, &error, first))?;
    let offset = |(topic, number): &(String, i32)| {
        let element = found
            .find_partition(topic, *number)
            .ok_or_else(|| Error::Down(format!("no answer for {topic}/{number}")))?;
        element.error().map_err(|error| codes::of(&error, None, topic))?;
        match element.offset() {
            Offset::Offset(offset) => Ok(u64::try_from(offset).unwrap_or_default()),
            _ => Err(Error::Down(format!("no offset of {topic}/{number}"))),
        }
    };
    partitions.iter().map(offset).collect()
}

/// The error with the reason that the library gave beside it.
fn told(consumer: &BaseConsumer<Ear>, error: &KafkaError, topic: &str) -> Error {
    codes::of(error, consumer.client().context().reason(), topic)
}

/// Takes what waits for a client that reads nothing: log lines and errors.
pub(super) fn serve(consumer: &BaseConsumer<Ear>) {
    for _ in 0..EVENTS_AT_ONCE {
        // Nothing, or something that was for the ear: it does not say which.
        let _ = consumer.poll(Duration::ZERO);
    }
}
