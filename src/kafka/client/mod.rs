//! All of the client crate: nothing outside this folder names it.

mod admin;
mod aside;
pub mod broker;
mod codes;
mod context;
mod exact;
mod line;
mod probe;
mod reader;
mod settings;
mod survey;
mod writer;

#[cfg(test)]
mod tests;

pub use exact::ExactWriter;
pub use reader::Reader;
pub use writer::Writer;

use super::{Error, Handle, Options};
use crate::tasks::Tasks;

impl Handle {
    /// Starts looking at the brokers, whether they are there or not.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: the settings can not be used, whatever the brokers are.
    pub fn start(options: Options, tasks: &Tasks) -> Result<Self, Error> {
        let handle = Self::new(options, tasks);
        probe::start(&handle)?;
        Ok(handle)
    }

    /// For who asks once and goes: nobody looks at the brokers, so there is no [view](Self::view) of them.
    pub fn for_one_use(options: Options, tasks: &Tasks) -> Self {
        Self::new(options, tasks)
    }

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

    fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }
}
