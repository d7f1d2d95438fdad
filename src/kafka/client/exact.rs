//! Writing records that exist only together with how far they go.
//!
//! A transaction holds records and one offset: the journal number up to which
//! they go, committed for a group of ours on a topic of one partition. Readers of
//! committed records see both or neither. All leaders there will ever be use one
//! transactional id, so the brokers let only the newest of them commit.
//!
//! After any error the state of a transaction is not known. Rather than finding
//! it out, the writer is given up: the next one aborts what is open, or waits for
//! what is being committed, and then reads how far it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::aside::{Patience, aside};
use super::context::Ear;
use super::line::{Batch, Line, ended, hand_over};
use super::{codes, settings, survey};
use crate::kafka::{Error, Handle, Message, Options};

/// The progress topic's one partition.
const PARTITION: i32 = 0;

/// Longest step of a call that can be repeated.
const STEP: Duration = Duration::from_secs(2);

/// A pause before a step is repeated.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes transactions of records and the watermark.
pub struct ExactWriter {
    handle: Handle,
    line: Line,
    group: Arc<ConsumerGroupMetadata>,
    /// A transaction was begun and is not known to have ended well.
    open: bool,
}

impl ExactWriter {
    pub(super) async fn new(handle: &Handle) -> Result<(Self, Option<u64>), Error> {
        let options = handle.options().clone();
        let limit = options.timing.transaction;
        let opened = aside(handle.tasks(), limit, move |patience| {
            let line = Line::new(&settings::transactional(&options), "exact writer")?;
            repeat(patience, |step| line.producer().init_transactions(step))?;
            let (group, watermark) = progress(&options, patience)?;
            Ok((line, group, watermark))
        });
        let (line, group, watermark) = opened.await?;
        Ok((Self { handle: handle.clone(), line, group: Arc::new(group), open: false }, watermark))
    }

    /// Writes the records and the watermark `through` in one transaction. No
    /// records: the watermark alone, which keeps it from expiring (7 days by default).
    ///
    /// # Errors
    ///
    /// After any error this writer is of no more use: drop it, ask for a new
    /// one, and go on behind the watermark that comes with it.
    /// [`Error::Fenced`]: another writer was made after this one.
    pub async fn send(&mut self, messages: Vec<Message>, through: u64) -> Result<(), Error> {
        if self.open {
            return Err(Error::Spent("its last transaction did not end".to_owned()));
        }
        let (batch, when_over) = Batch::new(&messages)?;
        let watermark = self.watermark(through)?;
        self.open = true;
        self.begin(messages, &batch).await?;
        if !batch.is_empty() {
            ended(when_over, self.handle.options().timing.transaction, self.handle.tasks()).await?;
        }
        batch.outcome(self.line.producer())?;
        self.commit(watermark).await?;
        self.open = false;
        Ok(())
    }

    async fn begin(&self, messages: Vec<Message>, batch: &Arc<Batch>) -> Result<(), Error> {
        let (producer, batch) = (self.line.producer().clone(), batch.clone());
        let limit = self.handle.options().timing.send;
        let work = move |patience: &Patience| {
            producer.begin_transaction().map_err(|error| codes::of(&error, None, ""))?;
            hand_over(&producer, &messages, &batch, patience)
        };
        aside(self.handle.tasks(), limit, work).await
    }

    async fn commit(&self, watermark: TopicPartitionList) -> Result<(), Error> {
        let (producer, group): (Arc<BaseProducer<Ear>>, _) = (self.line.producer().clone(), self.group.clone());
        let limit = self.handle.options().timing.transaction;
        let work = move |patience: &Patience| {
            repeat(patience, |step| producer.send_offsets_to_transaction(&watermark, &group, step))?;
            repeat(patience, |step| producer.commit_transaction(step))
        };
        aside(self.handle.tasks(), limit, work).await
    }

    fn watermark(&self, through: u64) -> Result<TopicPartitionList, Error> {
        let topic = self.handle.options().topics.progress();
        let mut list = TopicPartitionList::with_capacity(1);
        let offset = Offset::Offset(i64::try_from(through).unwrap_or(i64::MAX));
        list.add_partition_offset(&topic, PARTITION, offset).map_err(|error| codes::of(&error, None, &topic))?;
        Ok(list)
    }
}

impl fmt::Debug for ExactWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExactWriter").field("open", &self.open).finish_non_exhaustive()
    }
}

/// The group that the watermark is committed for, and the watermark.
fn progress(options: &Options, patience: &Patience) -> Result<(ConsumerGroupMetadata, Option<u64>), Error> {
    let topic = options.topics.progress();
    let consumer: BaseConsumer<Ear> = settings::consumer(options, Some(&options.journal_group()))
        .create_with_context(Ear::new("watermark"))
        .map_err(|error| codes::of(&error, None, &topic))?;
    // A commit for a topic that is not there would be lost, and an answer about it says nothing.
    if survey::shape(&consumer, &topic, patience)?.partitions.is_none() {
        return Err(Error::NoTopic(topic));
    }
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(&topic, PARTITION);
    let mut found = None;
    repeat(patience, |step| {
        found = Some(consumer.committed_offsets(list.clone(), step)?);
        Ok(())
    })?;
    let element = found.as_ref().and_then(|found| found.find_partition(&topic, PARTITION));
    let element = element.ok_or_else(|| Error::Down(format!("no answer for {topic}")))?;
    element.error().map_err(|error| codes::of(&error, None, &topic))?;
    let watermark = match element.offset() {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    };
    let group = consumer.group_metadata().ok_or_else(|| Error::Spent("the library has no group".to_owned()))?;
    Ok((group, watermark))
}

/// Takes a step that may be taken again, until it is done, fails for good, or takes too long.
fn repeat(patience: &Patience, mut step: impl FnMut(Duration) -> Result<(), KafkaError>) -> Result<(), Error> {
    loop {
        let error = match step(patience.step(STEP)?) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !is_repeatable(&error) {
            return Err(codes::of(&error, None, ""));
        }
        tracing::debug!(%error, "a step of a transaction is repeated");
        std::thread::sleep(patience.step(PAUSE)?);
    }
}

fn is_repeatable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(inner) => inner.is_retriable() && !inner.is_fatal() && !inner.txn_requires_abort(),
        KafkaError::MetadataFetch(code) => {
            matches!(code, Code::OperationTimedOut | Code::WaitingForCoordinator | Code::UnstableOffsetCommit)
        }
        // The library's own wait for acknowledgements, which all came by then.
        KafkaError::Flush(code) => *code == Code::OperationTimedOut,
        _ => false,
    }
}
