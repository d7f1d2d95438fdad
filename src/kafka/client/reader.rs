//! Reading partitions from where we are told to.
use std::time::Duration;

use crate::domain::kafka::Partition;
use crate::kafka::{Error, Handle, Record, Survey};

/// Reads the partitions it is assigned, from the offsets it is told.
#[derive(Debug)]
pub struct Reader {
    handle: Handle,
}

impl Reader {
    pub(super) fn new(handle: &Handle) -> Result<Self, Error> {
        Ok(Self { handle: handle.clone() })
    }

    /// Asks the brokers what a topic has now, and which cluster they are.
    ///
    /// # Errors
    ///
    /// [`Error::NoTopic`], [`Error::Down`], [`Error::Refused`].
    pub async fn survey(&self, topic: &str) -> Result<Survey, Error> {
        Err(Error::NoTopic(topic.to_owned()))
    }

    /// Replaces what is read. What was read but not handed out is dropped.
    pub async fn assign(&mut self, _at: &[(Partition, u64)]) -> Result<(), Error> {
        Err(Error::Stopping)
    }

    /// Waits for records and returns as soon as there are any: at most `most`, and none once `bytes` are reached.
    /// Empty: none came within `wait`. In order for each partition. A call that is dropped loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`]: that partition is not read any more until it is assigned anew; the others are.
    /// [`Error::Down`]: reading goes on by itself once a broker is back, with no assignment.
    pub async fn read(&mut self, _most: usize, _bytes: usize, _wait: Duration) -> Result<Vec<Record>, Error> {
        Err(Error::Stopping)
    }

    /// Stops reading of some of the assigned partitions. Records that were read already may still come.
    pub async fn pause(&mut self, _partitions: &[Partition]) -> Result<(), Error> {
        Err(Error::Stopping)
    }

    /// Goes on where it was paused.
    pub async fn resume(&mut self, _partitions: &[Partition]) -> Result<(), Error> {
        Err(Error::Stopping)
    }

    /// Tells Kafka how far intake is, for dashboards: nobody here reads it. Skipped while an earlier note is under way.
    pub async fn note_offsets(&self, _next: &[(Partition, u64)]) -> Result<(), Error> {
        let _ = self.handle.options().intake_group();
        Err(Error::Stopping)
    }
}
