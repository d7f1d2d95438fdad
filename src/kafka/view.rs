//! What one node saw of Kafka. Its own view: another node may see another.

use crate::domain::Timestamp;
use crate::domain::kafka::Partition;

/// The connection, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not looked yet.
    Connecting,
    Connected,
    /// It did not answer when looked for last.
    Down,
    Disabled,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Down => "down",
            Self::Disabled => "disabled",
        }
    }
}

/// The offsets a partition holds: those from `low` up to but without `high`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    pub partition: Partition,
    pub low: u64,
    /// Behind the last record that is committed.
    pub high: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub state: State,
    /// Kept while Kafka is down, like all that was seen of it.
    pub cluster_id: Option<String>,
    /// `host:port` of each broker.
    pub brokers: Vec<String>,
    /// Of our topics, those that exist, by topic and number.
    pub marks: Vec<Marks>,
    /// Of our topics, those that do not exist.
    pub missing: Vec<String>,
    /// Why it is down, or what is wrong although it is up.
    pub last_error: Option<String>,
    /// What this node's duties complain of; only a leader has any.
    pub alarms: Vec<String>,
    /// When `marks` were seen.
    pub as_of: Option<Timestamp>,
}

impl View {
    pub(super) fn new(state: State) -> Self {
        Self {
            state,
            cluster_id: None,
            brokers: vec![],
            marks: vec![],
            missing: vec![],
            last_error: None,
            alarms: vec![],
            as_of: None,
        }
    }

    /// The view of a node that has nothing to do with Kafka.
    pub fn disabled() -> Self {
        Self::new(State::Disabled)
    }

    /// Behind the last record of a partition.
    pub fn high(&self, partition: &Partition) -> Option<u64> {
        self.marks.iter().find(|marks| marks.partition == *partition).map(|marks| marks.high)
    }
}
