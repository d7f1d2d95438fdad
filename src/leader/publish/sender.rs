//! The two ways to send: acknowledged, or acknowledged together with how far it goes.

use std::time::{Duration, Instant};

use crate::clock;
use crate::kafka::{Error, ExactWriter, Handle, Message, Writer};
use crate::telemetry::metrics;

/// Brokers forget a watermark after 7 days by default; this is how often it is written at least.
const RENEW_EVERY: Duration = Duration::from_secs(24 * 3_600);

pub(super) enum Sender {
    AtLeastOnce(Writer),
    ExactlyOnce {
        writer: ExactWriter,
        /// When the watermark was last written; `None`: not by this writer.
        marked: Option<Instant>,
    },
}

impl Sender {
    /// One that needs no watermark.
    pub fn at_least_once(kafka: &Handle) -> Result<Self, Error> {
        kafka.writer().map(Self::AtLeastOnce)
    }

    /// Fences and aborts what predecessors left open. Also returns the watermark.
    pub async fn exactly_once(kafka: &Handle) -> Result<(Self, Option<u64>), Error> {
        let (writer, mark) = kafka.exact_writer().await?;
        Ok((Self::ExactlyOnce { writer, marked: None }, mark))
    }

    /// Returns once all of `messages` are in Kafka for good; they end the journal's entry `through`.
    pub async fn send(&mut self, messages: Vec<Message>, through: u64) -> Result<(), Error> {
        match self {
            Self::AtLeastOnce(writer) => {
                let sent = writer.send(messages).await;
                metrics::kafka_batch(result(&sent));
                sent
            }
            Self::ExactlyOnce { writer, marked } => {
                let sent = writer.send(messages, through).await;
                metrics::kafka_transaction(result(&sent));
                sent.inspect(|()| *marked = Some(clock::instant()))
            }
        }
    }

    /// When the watermark is to be written although there is nothing to send; `None`: never.
    pub fn renewal_in(&self) -> Option<Duration> {
        match self {
            Self::AtLeastOnce(_) => None,
            Self::ExactlyOnce { marked: None, .. } => Some(Duration::ZERO),
            Self::ExactlyOnce { marked: Some(marked), .. } => Some(RENEW_EVERY.saturating_sub(marked.elapsed())),
        }
    }

    /// Whether it can go on after `error`. One that knows a topic as missing would know it as such for long.
    pub fn survives(&self, error: &Error) -> bool {
        let usable = !error.wants_new_client() && !matches!(error, Error::NoTopic(_));
        matches!(self, Self::AtLeastOnce(_)) && usable
    }
}

fn result(sent: &Result<(), Error>) -> &'static str {
    match sent {
        Ok(()) => "ok",
        Err(Error::Fenced) => "fenced",
        Err(_) => "failed",
    }
}
