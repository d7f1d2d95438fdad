//! Why Kafka did not do what it was asked.

use crate::domain::kafka::Partition;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No broker answered, or not in time. What was asked for may have been done all the same.
    #[error("reach Kafka: {0}")]
    Down(String),
    #[error("topic {0} does not exist")]
    NoTopic(String),
    /// The broker no longer has, or never had, the record that would come next.
    #[error("offset {next} of {}/{} is not among {low} to {high}", partition.topic, partition.number)]
    OutOfRange { partition: Partition, next: u64, low: u64, high: u64 },
    /// Another [`ExactWriter`](super::ExactWriter) of this cluster was made after this one.
    #[error("another writer took over")]
    Fenced,
    /// `index`: of the message among those to be sent. Whether others were sent is not known.
    #[error("message {index} of {bytes} bytes is longer than Kafka takes")]
    TooLarge { index: usize, bytes: usize },
    /// The broker takes what was sent beside it, and never this. `index`: of the message among those to be sent.
    #[error("Kafka refuses message {index}: {why}")]
    Unfit { index: usize, why: String },
    /// Of messages that were sent together the broker refuses some for good, and does not say which.
    #[error("Kafka refuses some of {messages} messages: {why}")]
    Unclear { messages: usize, why: String },
    /// Nothing changes until somebody changes something: rights, credentials, settings.
    #[error("Kafka refuses: {0}")]
    Refused(String),
    /// This reader or writer is of no more use. A new one may be.
    #[error("Kafka client is spent: {0}")]
    Spent(String),
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

impl Error {
    /// Whether the same may succeed later, by itself or because somebody made the topic.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Down(_) | Self::NoTopic(_))
    }

    /// Whether to go on with a new reader or writer.
    pub fn wants_new_client(&self) -> bool {
        matches!(self, Self::Fenced | Self::Spent(_))
    }
}
