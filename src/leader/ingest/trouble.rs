//! What makes intake begin anew.

use crate::kafka;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// Offsets of one Kafka cluster say nothing about another.
    #[error("the offsets are of Kafka cluster {known:?}, and this is {found:?}: reset intake to take jobs from it")]
    OtherCluster { known: String, found: String },
    /// Whether the log took what it was sent is not known, or it is not for us to ask.
    #[error("the log did not answer")]
    Unanswered,
}

impl Trouble {
    /// What people are told, if it lasts or needs one of them.
    pub fn alarm(&self) -> Option<String> {
        match self {
            Self::Kafka(kafka::Error::Spent(_)) | Self::Unanswered => None,
            other => Some(other.to_string()),
        }
    }

    /// The library keeps what it learnt of a topic, its id among it. After another cluster
    /// answered, or the topic was made anew, that is wrong, and only a new reader learns better.
    pub fn wants_new_reader(&self) -> bool {
        match self {
            Self::OtherCluster { .. } | Self::Kafka(kafka::Error::NoTopic(_)) => true,
            Self::Kafka(error) => error.wants_new_client(),
            Self::Unanswered => false,
        }
    }
}
