//! What `crate::sim` needs of these tests: small bounds, and what must hold of any state and any step.

use super::{chain, fixture, properties};
use crate::domain::command::{Record, Reply};
use crate::domain::state::{Limits, State};

/// Bounds that a simulation reaches now and then.
const SMALL: Limits = Limits {
    letters: 8,
    letter_bytes: 4_000,
    partitions: 2,
    backlog: 16,
    backlog_bytes: 100_000,
    classes: 8,
    classes_in_all: 12,
    finished: 8,
    finished_bytes: 50_000,
    segment_jobs: 2,
    segment_bytes: 8_000,
    ballot_bytes: 4_000,
    evidence: 3,
    retired: 200,
    workers: 8,
    journal_keep: 40,
    journal_max: 400,
    callbacks: 4,
    callback_bytes: 4_000,
    callbacks_of_one: 2,
};

pub(crate) fn empty() -> State {
    State::within(SMALL)
}

pub(crate) fn snapshot(state: &State) -> Vec<u8> {
    fixture::bytes(state)
}

pub(crate) fn restore(bytes: &[u8]) -> State {
    State::read_within(&mut &*bytes, SMALL).unwrap()
}

/// What must hold of any state. Takes long.
pub(crate) fn check(state: &State) {
    fixture::check(state);
}

/// What must hold between a state and the next.
pub(crate) fn check_step(was: &State, is: &State, record: &Record, replies: &[Reply]) {
    properties::check_step(was, is, record, replies);
    chain::check_books(is);
}
