//! All of the client crate: nothing outside this folder names it.

mod exact;
mod reader;
mod writer;

pub use exact::ExactWriter;
pub use reader::Reader;
pub use writer::Writer;

use super::{Error, Handle};

impl Handle {
    /// Reads nothing before it is assigned something.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: the settings can not be used.
    pub fn reader(&self) -> Result<Reader, Error> {
        Reader::new(self)
    }

    /// # Errors
    ///
    /// [`Error::Refused`]: the settings can not be used.
    pub fn writer(&self) -> Result<Writer, Error> {
        Writer::new(self)
    }

    /// A writer whose predecessors are fenced and whose predecessors' open
    /// transaction is aborted, and the watermark: the number that was given with
    /// the last transaction that committed. `None`: none ever did, or it expired.
    ///
    /// # Errors
    ///
    /// [`Error::Down`], [`Error::NoTopic`] of the progress topic, [`Error::Refused`].
    pub async fn exact_writer(&self) -> Result<(ExactWriter, Option<u64>), Error> {
        ExactWriter::new(self).await
    }
}
