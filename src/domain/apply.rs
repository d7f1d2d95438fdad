//! The one way the state changes.

use super::command::{Record, Reply};
use super::state::State;

/// Where in the log a record stands.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

impl State {
    /// Applies one log entry; one reply per command, in order.
    pub fn apply(&mut self, _position: Position, _record: &Record) -> Vec<Reply> {
        todo!()
    }

    /// Records that an entry without commands (a leader's blank, a membership) was applied.
    pub fn skip(&mut self, _position: Position) {
        todo!()
    }
}
