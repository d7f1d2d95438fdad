//! Writing records, and hearing that they are there.
//!
//! The producer is idempotent: what it sends again by itself is there once. What
//! is sent again by us, after an error, may be there twice.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::aside::aside;
use super::line::{Batch, Line, ended, hand_over};
use super::settings;
use crate::kafka::{Error, Handle, Message, Place};

/// What the library needs to say that a message's time is over.
const GRACE: Duration = Duration::from_secs(2);

/// Writes records; every one is acknowledged by all replicas in sync. Dropped: what still waits is not sent.
pub struct Writer {
    handle: Handle,
    line: Line,
}

impl Writer {
    pub(super) fn new(handle: &Handle) -> Result<Self, Error> {
        Ok(Self { handle: handle.clone(), line: Line::new(&settings::producer(handle.options()), "writer")? })
    }

    /// Returns when every record is acknowledged. Records of one key keep their order.
    ///
    /// # Errors
    ///
    /// Any: which of the records are there is not known. Send all of them again,
    /// with a new writer if the error [wants one](Error::wants_new_client).
    pub async fn send(&self, messages: Vec<Message>) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let (batch, when_over) = Batch::new(&messages)?;
        self.deliver(messages, &batch, when_over).await
    }

    /// The same, and says where each record is, in their order.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub async fn place(&self, messages: Vec<Message>) -> Result<Vec<Place>, Error> {
        if messages.is_empty() {
            return Ok(vec![]);
        }
        let (batch, when_over) = Batch::placing(&messages)?;
        self.deliver(messages, &batch, when_over).await?;
        Ok(batch.places())
    }

    async fn deliver(
        &self,
        messages: Vec<Message>,
        batch: &Arc<Batch>,
        when_over: oneshot::Receiver<()>,
    ) -> Result<(), Error> {
        let (tasks, limit) = (self.handle.tasks(), self.handle.options().timing.send);
        let (producer, filling) = (self.line.producer().clone(), batch.clone());
        aside(tasks, limit, move |patience| hand_over(&producer, &messages, &filling, patience)).await?;
        ended(when_over, limit + GRACE, tasks).await?;
        batch.outcome(self.line.producer())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}
