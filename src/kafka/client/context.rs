//! What a client hears from the library: logs, errors, acknowledgements.
//!
//! The library repeats itself while it can not connect. So its lines are for
//! debugging only; that Kafka is down is said once, by the probe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use tracing::{debug, trace};

use super::line::Ticket;

/// Bytes of a reason that are kept.
const REASON_MAX: usize = 300;

/// The ear of one client.
#[derive(Debug)]
pub(super) struct Ear {
    client: &'static str,
    reason: Mutex<Option<String>>,
    committing: AtomicBool,
}

impl Ear {
    pub(super) fn new(client: &'static str) -> Self {
        Self { client, reason: Mutex::default(), committing: AtomicBool::new(false) }
    }

    /// What went wrong last, in the library's words.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn keep_reason(&self, reason: Option<String>) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    pub(super) fn forget_reason(&self) {
        self.keep_reason(None);
    }

    /// False: an earlier commit is still under way.
    pub(super) fn begin_commit(&self) -> bool {
        !self.committing.swap(true, Ordering::SeqCst)
    }

    pub(super) fn end_commit(&self) {
        self.committing.store(false, Ordering::SeqCst);
    }
}

impl ClientContext for Ear {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let client = self.client;
        match level {
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                trace!(client, facility, line, "librdkafka");
            }
            _ => debug!(client, facility, line, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(client = self.client, %error, reason, "librdkafka error");
        let kept: String = reason.chars().filter(|c| !c.is_control()).take(REASON_MAX).collect();
        let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        // That all brokers are down says less than why the last of them is.
        if reason.is_none() || error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *reason = Some(kept);
        }
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Ear {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        self.end_commit();
        if let Err(error) = result {
            debug!(client = self.client, %error, "offsets were not noted");
        }
    }
}

impl ProducerContext for Ear {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        if let Ok(message) = result {
            ticket.placed(message.partition(), message.offset());
        }
        ticket.delivered(result.as_ref().err().and_then(|(error, _)| error.rdkafka_error_code()));
    }
}
