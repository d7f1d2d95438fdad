//! A producer and the thread that serves it: what both writers stand on.
//!
//! Messages of a batch are handed over in order; the batch hears of every one's
//! end exactly once, also when the producer is dropped with some still waiting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};
use tokio::sync::oneshot;

use super::aside::{Patience, SLICE, late};
use super::codes;
use super::context::Ear;
use super::settings::MESSAGE_MAX;
use crate::kafka::{Error, Message, Place};
use crate::tasks::Tasks;

/// What a message takes in the library's own accounts beside its bytes.
const OVERHEAD: usize = 512;

/// A pause while the producer's queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Line {
    producer: Arc<BaseProducer<Ear>>,
    closing: Arc<AtomicBool>,
}

impl Line {
    pub(super) fn new(config: &ClientConfig, client: &'static str) -> Result<Self, Error> {
        let producer: BaseProducer<Ear> =
            config.create_with_context(Ear::new(client)).map_err(|error| codes::of(&error, None, ""))?;
        let line = Self { producer: Arc::new(producer), closing: Arc::default() };
        let (producer, closing) = (line.producer.clone(), line.closing.clone());
        let serve = move || {
            while !closing.load(Ordering::SeqCst) {
                producer.poll(SLICE);
            }
            // The last to let go of the producer waits for the library's threads: this one may.
            while Arc::strong_count(&producer) > 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        Tasks::thread("kafka-writer", serve).map_err(|error| Error::Spent(format!("start a thread: {error}")))?;
        Ok(line)
    }

    pub(super) fn producer(&self) -> &Arc<BaseProducer<Ear>> {
        &self.producer
    }
}

impl Drop for Line {
    /// What still waits is not sent any more: a successor may be sending by now.
    fn drop(&mut self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        self.closing.store(true, Ordering::SeqCst);
    }
}

/// Messages that are on their way together.
#[derive(Debug)]
pub(super) struct Batch {
    /// By index: the message's size.
    sizes: Vec<usize>,
    topics: Vec<String>,
    left: AtomicUsize,
    /// Where each is, by index, if somebody wants to know.
    places: Option<Mutex<Vec<Place>>>,
    /// The errors that were heard, by index.
    failed: Mutex<BTreeMap<usize, Code>>,
    over: Mutex<Option<oneshot::Sender<()>>>,
}

/// One message's place in its batch: comes back when the message has ended.
#[derive(Debug)]
pub(super) struct Ticket {
    batch: Arc<Batch>,
    index: usize,
}

impl Batch {
    /// The batch, and what completes when all of its messages have ended.
    pub(super) fn new(messages: &[Message]) -> Result<(Arc<Self>, oneshot::Receiver<()>), Error> {
        let (batch, when_over) = Self::made(messages)?;
        Ok((Arc::new(batch), when_over))
    }

    /// The same, remembering where each message is.
    pub(super) fn placing(messages: &[Message]) -> Result<(Arc<Self>, oneshot::Receiver<()>), Error> {
        let (batch, when_over) = Self::made(messages)?;
        let places = Some(Mutex::new(vec![Place::default(); messages.len()]));
        Ok((Arc::new(Self { places, ..batch }), when_over))
    }

    /// Where the messages are, in their order, once all have ended well.
    pub(super) fn places(&self) -> Vec<Place> {
        let places = self.places.as_ref().map(|places| places.lock().unwrap_or_else(PoisonError::into_inner));
        places.map(|places| places.clone()).unwrap_or_default()
    }

    fn made(messages: &[Message]) -> Result<(Self, oneshot::Receiver<()>), Error> {
        let sizes: Vec<usize> = messages.iter().map(Message::size).collect();
        if let Some((index, bytes)) = sizes.iter().enumerate().find(|(_, size)| **size + OVERHEAD > MESSAGE_MAX) {
            return Err(Error::TooLarge { index, bytes: *bytes });
        }
        let (over, when_over) = oneshot::channel();
        let batch = Self {
            left: AtomicUsize::new(sizes.len()),
            places: None,
            sizes,
            topics: messages.iter().map(|message| message.topic.clone()).collect(),
            failed: Mutex::default(),
            over: Mutex::new(Some(over)),
        };
        Ok((batch, when_over))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// What went wrong first, in the order of the messages.
    pub(super) fn outcome(&self, producer: &BaseProducer<Ear>) -> Result<(), Error> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that failed for another's sake come first only if there are no others.
        let first = failed.iter().find(|(_, code)| **code != Code::InvalidDifferentRecord).or(failed.iter().next());
        let Some((index, code)) = first.map(|(index, code)| (*index, *code)) else { return Ok(()) };
        if let Some((code, why)) = producer.client().fatal_error() {
            return Err(match codes::error(code, None, "") {
                Error::Fenced => Error::Fenced,
                _ => Error::Spent(why),
            });
        }
        let alike = failed.values().filter(|other| **other == code).count();
        Err(match code {
            // What is refused is all that went to a partition in one piece.
            code if alike > 1 && codes::is_of_record(code) => Error::Unclear { messages: alike, why: code.to_string() },
            code if codes::is_of_size(code) => {
                Error::TooLarge { index, bytes: self.sizes.get(index).copied().unwrap_or_default() }
            }
            code if codes::is_of_record(code) => Error::Unfit { index, why: code.to_string() },
            code => codes::error(code, None, self.topics.get(index).map_or("", String::as_str)),
        })
    }
}

impl Ticket {
    /// Says where the message is, before [`Self::delivered`].
    pub(super) fn placed(&self, partition: i32, offset: i64) {
        let Some(places) = &self.batch.places else { return };
        if let Some(place) = places.lock().unwrap_or_else(PoisonError::into_inner).get_mut(self.index) {
            let whole = |number: i64| u64::try_from(number).unwrap_or_default();
            *place = Place { partition: u32::try_from(partition).unwrap_or_default(), offset: whole(offset) };
        }
    }

    pub(super) fn delivered(&self, failure: Option<Code>) {
        if let Some(code) = failure {
            self.batch.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(self.index, code);
        }
        if self.batch.left.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(over) = self.batch.over.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            let _ = over.send(());
        }
    }
}

/// Hands all messages over, in order. A full queue is waited for.
pub(super) fn hand_over(
    producer: &BaseProducer<Ear>,
    messages: &[Message],
    batch: &Arc<Batch>,
    patience: &Patience,
) -> Result<(), Error> {
    for (index, message) in messages.iter().enumerate() {
        let mut record = record(message, Box::new(Ticket { batch: batch.clone(), index }));
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(Code::QueueFull) {
                return Err(refused(&error, producer, message, index));
            }
            record = back;
            std::thread::sleep(patience.step(QUEUE_FULL_PAUSE)?);
        }
    }
    Ok(())
}

fn record(message: &Message, ticket: Box<Ticket>) -> BaseRecord<'_, [u8], [u8], Box<Ticket>> {
    let headers = (!message.headers.is_empty()).then(|| {
        let room = OwnedHeaders::new_with_capacity(message.headers.len());
        message
            .headers
            .iter()
            .fold(room, |headers, header| headers.insert(Header { key: &header.name, value: header.value.as_deref() }))
    });
    BaseRecord {
        topic: &message.topic,
        partition: message.partition.map(|number| i32::try_from(number).unwrap_or(i32::MAX)),
        payload: message.value.as_deref(),
        key: message.key.as_deref(),
        timestamp: None,
        headers,
        delivery_opaque: ticket,
    }
}

fn refused(error: &KafkaError, producer: &BaseProducer<Ear>, message: &Message, index: usize) -> Error {
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => Error::TooLarge { index, bytes: message.size() },
        _ => match producer.client().fatal_error() {
            Some((code, why)) => match codes::error(code, None, "") {
                Error::Fenced => Error::Fenced,
                _ => Error::Spent(why),
            },
            None => codes::of(error, None, &message.topic),
        },
    }
}

/// Waits until every message of a batch has ended.
pub(super) async fn ended(when_over: oneshot::Receiver<()>, limit: Duration, tasks: &Tasks) -> Result<(), Error> {
    tokio::select! {
        over = when_over => over.map_err(|_| Error::Stopping),
        () = tasks.token().cancelled() => Err(Error::Stopping),
        () = tokio::time::sleep(limit) => Err(late(limit)),
    }
}
