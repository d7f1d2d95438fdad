//! What a node is told about Kafka.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// What the brokers are. Tells people; [`Mode::Embedded`] brokers also have no transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `ciro-coordinator dev-broker`: keeps nothing.
    Embedded,
    External,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::External => "external",
        }
    }
}

/// How often consumers see what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Repeats after a change of leader; they carry the same `ce_id`.
    AtLeastOnce,
    /// Readers of committed records see each once. Needs brokers with transactions.
    ExactlyOnce,
}

impl Delivery {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at_least_once",
            Self::ExactlyOnce => "exactly_once",
        }
    }
}

/// Where a partition that was never read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    Earliest,
    Latest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    pub jobs: String,
    pub workers: String,
    pub results: String,
}

impl Topics {
    /// Where records go that could not become jobs. One partition.
    pub fn dead_letters(&self) -> String {
        format!("{}.dlq", self.jobs)
    }

    /// The topic whose one partition the watermark of [`Delivery::ExactlyOnce`] is committed for. It stays empty.
    pub fn progress(&self) -> String {
        format!("{}.progress", self.results)
    }

    /// All that are used, each with the partitions it gets when this node creates it.
    pub fn all(&self, delivery: Delivery) -> Vec<(String, u32)> {
        let ours = [&self.jobs, &self.workers, &self.results].map(|topic| (topic.clone(), PARTITIONS));
        let progress = (delivery == Delivery::ExactlyOnce).then(|| (self.progress(), 1));
        ours.into_iter().chain([(self.dead_letters(), 1)]).chain(progress).collect()
    }
}

/// Partitions of a topic that this node creates.
const PARTITIONS: u32 = 4;

/// How jobs are taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intake {
    pub from: Start,
    /// Reading pauses while this many jobs have not ended.
    pub max_in_flight_jobs: usize,
    /// Records that are taken in with one command.
    pub batch_records: usize,
    /// Bytes of them.
    pub batch_bytes: usize,
}

/// How brokers are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }
}

/// Text that is for the broker alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    #[cfg(feature = "kafka")]
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    pub protocol: Protocol,
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, with a SASL protocol.
    pub mechanism: Option<String>,
    pub username: Option<Hidden>,
    pub password: Option<Hidden>,
    /// Of who signed the brokers' certificates. `None`: the system's.
    pub ca_file: Option<PathBuf>,
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl Security {
    /// None at all.
    pub fn plaintext() -> Self {
        Self {
            protocol: Protocol::Plaintext,
            mechanism: None,
            username: None,
            password: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
        }
    }
}

/// How long is waited for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two looks at the brokers.
    pub probe: Duration,
    /// For an answer to a question.
    pub request: Duration,
    /// For the acknowledgement of what was sent.
    pub send: Duration,
    /// For a transaction, and for taking over from a predecessor.
    pub transaction: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe: Duration::from_secs(2),
            request: Duration::from_secs(5),
            send: Duration::from_secs(30),
            transaction: Duration::from_secs(60),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `host:port`.
    pub bootstrap_servers: Vec<String>,
    pub mode: Mode,
    pub delivery: Delivery,
    pub topics: Topics,
    /// Name of our own cluster: it makes group and transaction names.
    pub cluster_name: String,
    /// How the brokers call this node in their logs.
    pub client_id: String,
    /// Create topics that are missing.
    pub create_topics: bool,
    pub intake: Intake,
    pub security: Security,
    pub timing: Timing,
}

impl Options {
    /// The group that offsets of intake are noted for, for dashboards.
    pub fn intake_group(&self) -> String {
        format!("{}.intake", self.cluster_name)
    }

    /// The group that the watermark is committed for.
    pub fn journal_group(&self) -> String {
        format!("{}.journal", self.cluster_name)
    }

    /// One for all leaders there will be: whoever uses it last fences those before.
    pub fn transactional_id(&self) -> String {
        format!("{}.publish", self.cluster_name)
    }
}
