//! A broker for development: the library's own, in a process of its own.
//!
//! It speaks Kafka's protocol over TCP and keeps at most 5 MiB of each partition,
//! in memory; it has no transactions, and a topic that somebody asks for is there.
//! On a second port it takes orders to misbehave, one a line, so that tests can
//! see what a node makes of a bad broker:
//!
//! ```text
//! rtt 500            every answer takes 500 ms
//! down | up          no broker can be reached; they can again
//! down 2 | up 2      the same of one broker
//! errors produce not_enough_replicas 5
//!                    the next 5 requests of this kind fail so
//! clear produce      they do not
//! leader TOPIC 0 2   broker 2 leads partition 0; `none`: nobody does
//! topic NAME 4       make a topic of 4 partitions
//! ```
//!
//! An order is answered by `ok`, or by `error: ` and why.

mod orders;
mod serve;

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

pub use serve::{Setup, serve};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("start broker: {0}")]
    Start(String),
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: std::io::Error,
    },
}

/// A broker, or several, until dropped.
pub(crate) struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// `topics`: name and partitions.
    pub(crate) fn start(brokers: u16, topics: &[(String, u32)]) -> Result<Self, Error> {
        let failed = |error: KafkaError| Error::Start(error.to_string());
        let cluster = MockCluster::new(i32::from(brokers)).map_err(failed)?;
        for (topic, partitions) in topics {
            let partitions = i32::try_from(*partitions).unwrap_or(i32::MAX);
            cluster.create_topic(topic, partitions, i32::from(brokers.min(3))).map_err(failed)?;
        }
        Ok(Self { cluster })
    }

    /// `host:port`, comma separated.
    pub(crate) fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Carries out one line of orders.
    pub(crate) fn obey(&self, line: &str) -> Result<(), String> {
        orders::obey(&self.cluster, line)
    }
}
