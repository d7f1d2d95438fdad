//! Writing records that exist only together with how far they go.
use crate::kafka::{Error, Handle, Message};

/// Writes transactions of records and the watermark.
#[derive(Debug)]
pub struct ExactWriter {}

impl ExactWriter {
    pub(super) async fn new(_handle: &Handle) -> Result<(Self, Option<u64>), Error> {
        Err(Error::Stopping)
    }

    /// Writes the records and the watermark `through` in one transaction. No
    /// records: the watermark alone, which keeps it from expiring (7 days by default).
    ///
    /// # Errors
    ///
    /// After any error this writer is of no more use: drop it, ask for a new
    /// one, and go on behind the watermark that comes with it.
    /// [`Error::Fenced`]: another writer was made after this one.
    pub async fn send(&mut self, _messages: Vec<Message>, _through: u64) -> Result<(), Error> {
        Err(Error::Stopping)
    }
}
