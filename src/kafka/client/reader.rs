//! Reading partitions from where we are told to.
//!
//! The consumer is assigned, never subscribed: no group decides what it reads,
//! so a new leader reads within milliseconds. It commits nothing. An offset that
//! the broker does not have is an error here, never a jump.
//!
//! Records come in batches, each from one visit to a blocking thread. A batch
//! that nobody waited for any more is kept for the next call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;

use super::aside::{Patience, SLICE, aside};
use super::context::Ear;
use super::{codes, settings, survey};
use crate::domain::kafka::{Header, Partition};
use crate::kafka::guard::guarded;
use crate::kafka::{Error, Handle, Marks, Record, Survey};
use crate::tasks::Tasks;

/// Where each assigned partition goes on.
type Positions = Arc<Mutex<BTreeMap<Partition, u64>>>;

/// Reads the partitions it is assigned, from the offsets it is told.
pub struct Reader {
    handle: Handle,
    consumer: Arc<BaseConsumer<Ear>>,
    positions: Positions,
    /// A visit to the consumer that nobody waited for to its end.
    visit: Option<JoinHandle<Visit>>,
    /// What stopped the last visit, behind the records it had.
    trouble: Option<KafkaError>,
}

/// What a visit to the consumer brought.
struct Visit {
    records: Vec<Record>,
    trouble: Option<KafkaError>,
}

/// How much a visit brings at most.
#[derive(Clone, Copy)]
struct Bounds {
    records: usize,
    bytes: usize,
}

impl Reader {
    pub(super) fn new(handle: &Handle) -> Result<Self, Error> {
        let options = handle.options();
        let consumer = settings::consumer(options, Some(&options.intake_group()))
            .create_with_context(Ear::new("reader"))
            .map_err(|error| codes::of(&error, None, &options.topics.jobs))?;
        Ok(Self {
            handle: handle.clone(),
            consumer: Arc::new(consumer),
            positions: Arc::default(),
            visit: None,
            trouble: None,
        })
    }

    /// Asks the brokers what a topic has now, and which cluster they are.
    ///
    /// # Errors
    ///
    /// [`Error::NoTopic`], [`Error::Down`], [`Error::Refused`].
    pub async fn survey(&self, topic: &str) -> Result<Survey, Error> {
        let topic = topic.to_owned();
        self.ask(move |consumer, patience| survey::survey(consumer, &topic, patience)).await
    }

    /// Replaces what is read. What was read but not handed out is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Down`], [`Error::Refused`]: nothing is to be taken for assigned.
    pub async fn assign(&mut self, at: &[(Partition, u64)]) -> Result<(), Error> {
        if let Some(visit) = self.visit.take() {
            // Its token is cancelled: it ends within a moment.
            let _ = visit.await;
        }
        self.trouble = None;
        let list = offsets(at)?;
        self.positions().clear();
        self.ask(move |consumer, _| consumer.assign(&list).map_err(|error| codes::of(&error, None, ""))).await?;
        self.positions().extend(at.iter().cloned());
        Ok(())
    }

    /// Waits for records and returns as soon as there are any: at most `most`, and none once `bytes` are reached.
    /// Empty: none came within `wait`. In order for each partition. A call that is dropped loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`]: that partition is not read any more until it is assigned anew; the others are.
    /// [`Error::Down`]: reading goes on by itself once a broker is back, with no assignment.
    pub async fn read(&mut self, most: usize, bytes: usize, wait: Duration) -> Result<Vec<Record>, Error> {
        if let Some(trouble) = self.trouble.take() {
            return Err(self.explain(&trouble).await);
        }
        let leaving = self.handle.tasks().token().child_token();
        let _when_nobody_waits = leaving.clone().drop_guard();
        let visit = match &mut self.visit {
            Some(visit) => visit,
            none => none.insert(self.handle.tasks().spawn_blocking({
                let (consumer, positions) = (self.consumer.clone(), self.positions.clone());
                let patience = Patience::new(wait, leaving);
                move || visit(&consumer, &positions, Bounds { records: most, bytes }, &patience)
            })),
        };
        let brought = visit.await;
        self.visit = None;
        let Visit { records, trouble } = brought.map_err(|_| Error::Stopping)?;
        match trouble {
            Some(trouble) if records.is_empty() => Err(self.explain(&trouble).await),
            trouble => {
                self.trouble = trouble;
                Ok(records)
            }
        }
    }

    /// Stops reading of some of the assigned partitions. Records that were read already may still come.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: one of them is not assigned.
    pub async fn pause(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        let list = names(partitions);
        self.ask(move |consumer, _| consumer.pause(&list).map_err(|error| codes::of(&error, None, ""))).await
    }

    /// Goes on where it was paused.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: one of them is not assigned.
    pub async fn resume(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        let list = names(partitions);
        self.ask(move |consumer, _| consumer.resume(&list).map_err(|error| codes::of(&error, None, ""))).await
    }

    /// Tells Kafka how far intake is, for dashboards: nobody here reads it.
    /// Skipped while an earlier note is under way. How it went is only logged.
    ///
    /// # Errors
    ///
    /// [`Error::Down`], [`Error::Refused`]: it was not even sent.
    pub async fn note_offsets(&self, next: &[(Partition, u64)]) -> Result<(), Error> {
        if next.is_empty() || !self.ear().begin_commit() {
            return Ok(());
        }
        let list = offsets(next)?;
        let sent = self.ask(move |consumer, _| {
            consumer.commit(&list, CommitMode::Async).map_err(|error| codes::of(&error, None, ""))
        });
        let sent = sent.await;
        if sent.is_err() {
            self.ear().end_commit();
        }
        sent
    }

    /// Puts a question to the consumer that it may take a while to answer.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer<Ear>, &Patience) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let consumer = self.consumer.clone();
        let limit = self.handle.options().timing.request;
        aside(self.handle.tasks(), limit, move |patience| question(&consumer, patience)).await
    }

    /// What an error of the library means for what we read.
    async fn explain(&self, trouble: &KafkaError) -> Error {
        match trouble.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
                self.find_out_of_range().await
            }
            _ => {
                let topics: Vec<String> =
                    self.positions().keys().map(|partition| partition.topic.to_string()).collect();
                codes::of(trouble, self.ear().reason(), topics.first().map_or("", String::as_str))
            }
        }
    }

    /// The library says that an offset is out of range, but not which.
    async fn find_out_of_range(&self) -> Error {
        let positions = self.positions().clone();
        let partitions: Vec<_> =
            positions.keys().map(|partition| (partition.topic.to_string(), signed(partition.number))).collect();
        let marks = match self.ask(move |consumer, patience| survey::marks(consumer, &partitions, patience)).await {
            Ok(marks) => marks,
            Err(error) => return error,
        };
        let outside = marks.into_iter().find_map(|Marks { partition, low, high }| {
            let next = *positions.get(&partition)?;
            (next < low || next > high).then_some(Error::OutOfRange { partition, next, low, high })
        });
        outside.unwrap_or_else(|| Error::Spent("the broker lost a position, and has it again".to_owned()))
    }

    fn ear(&self) -> &Ear {
        self.consumer.client().context()
    }

    fn positions(&self) -> std::sync::MutexGuard<'_, BTreeMap<Partition, u64>> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("positions", &self.positions()).finish_non_exhaustive()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Closing waits for the library's threads, so it is left to a thread that is the last to let go.
        let consumer = self.consumer.clone();
        let _ = Tasks::thread("kafka-close", move || {
            while Arc::strong_count(&consumer) > 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
}

/// Takes what the consumer has, waiting for the first record only.
fn visit(consumer: &BaseConsumer<Ear>, positions: &Positions, bounds: Bounds, patience: &Patience) -> Visit {
    let mut visit = Visit { records: vec![], trouble: None };
    let mut bytes = 0;
    while visit.records.len() < bounds.records && bytes < bounds.bytes {
        let wait = if visit.records.is_empty() { patience.step(SLICE) } else { Ok(Duration::ZERO) };
        // Also when there is no time left we look once.
        match (consumer.poll(wait.clone().unwrap_or_default()), wait) {
            (Some(Ok(message)), _) => {
                let record = record(&message);
                bytes += record.size();
                visit.records.push(record);
            }
            (Some(Err(trouble)), _) => {
                visit.trouble = Some(trouble);
                break;
            }
            (None, Ok(wait)) if !wait.is_zero() => {}
            (None, _) => break,
        }
    }
    let mut positions = positions.lock().unwrap_or_else(PoisonError::into_inner);
    for record in &visit.records {
        if let Some(next) = positions.get_mut(&record.partition) {
            *next = record.offset.saturating_add(1);
        }
    }
    if !visit.records.is_empty() {
        consumer.client().context().forget_reason();
    }
    visit
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let (headers, unreadable_headers) = headers(message);
    Record {
        partition: Partition {
            topic: message.topic().into(),
            number: u32::try_from(message.partition()).unwrap_or_default(),
        },
        offset: u64::try_from(message.offset()).unwrap_or_default(),
        timestamp_ms: message.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok()),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
        unreadable_headers,
    }
}

/// The headers, and how many can not be read.
fn headers(message: &BorrowedMessage<'_>) -> (Vec<Header>, usize) {
    let Some(borrowed) = message.headers() else { return (vec![], 0) };
    let mut headers = Vec::with_capacity(borrowed.count());
    let mut unreadable = 0;
    for index in 0..borrowed.count() {
        let header = guarded(|| {
            let header = borrowed.try_get(index)?;
            Some(Header { name: header.key.into(), value: header.value.map(<[u8]>::to_vec) })
        });
        match header.flatten() {
            Some(header) => headers.push(header),
            None => unreadable += 1,
        }
    }
    (headers, unreadable)
}

fn offsets(at: &[(Partition, u64)]) -> Result<TopicPartitionList, Error> {
    let mut list = TopicPartitionList::with_capacity(at.len());
    for (partition, offset) in at {
        let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
        list.add_partition_offset(&partition.topic, signed(partition.number), offset)
            .map_err(|error| codes::of(&error, None, &partition.topic))?;
    }
    Ok(list)
}

fn names(partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(&partition.topic, signed(partition.number));
    }
    list
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
