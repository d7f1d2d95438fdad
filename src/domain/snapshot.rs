//! The state as bytes: what a checkpoint stores and a follower receives.
//!
//! A versioned stream of frames, so that neither side needs the whole in memory.

use std::io::{Read, Write};

use super::state::State;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read or write snapshot")]
    Io(#[from] std::io::Error),
    #[error("snapshot has format {found}, this build reads {known}")]
    Version { found: u32, known: u32 },
    #[error("snapshot is damaged: {0}")]
    Damaged(String),
}

impl State {
    pub fn write_to(&self, _out: &mut impl Write) -> Result<(), Error> {
        todo!()
    }

    pub fn read_from(_input: &mut impl Read) -> Result<Self, Error> {
        todo!()
    }
}
