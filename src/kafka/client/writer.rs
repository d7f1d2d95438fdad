//! Writing records, and hearing that they are there.
use crate::kafka::{Error, Handle, Message};

/// Writes records; every one is acknowledged by all replicas in sync.
#[derive(Debug)]
pub struct Writer {}

impl Writer {
    pub(super) fn new(_handle: &Handle) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Returns when every record is acknowledged. Records of one key keep their order.
    ///
    /// # Errors
    ///
    /// Any: which of the records are there is not known. Send all of them again.
    pub async fn send(&self, _messages: Vec<Message>) -> Result<(), Error> {
        Err(Error::Stopping)
    }
}
