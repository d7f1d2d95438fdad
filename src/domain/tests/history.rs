//! The name of a cluster's past.

use crate::domain::apply::Position;
use crate::domain::command::Record;
use crate::domain::{State, Timestamp};

fn record(at: u64) -> Record {
    Record { at: Timestamp(at), commands: vec![] }
}

#[test]
fn the_first_record_names_the_history_and_no_later_one_does() {
    let mut state = State::default();
    state.skip(Position { index: 1, term: 1 });
    assert_eq!(state.history(), 0, "a membership is of no time");
    state.apply(Position { index: 2, term: 1 }, &record(1_000));
    let named = state.history();
    assert_ne!(named, 0);
    state.apply(Position { index: 3, term: 1 }, &record(2_000));
    assert_eq!(state.history(), named);

    let mut bytes = Vec::new();
    state.write_to(&mut bytes).unwrap();
    assert_eq!(State::read_from(&mut bytes.as_slice()).unwrap().history(), named, "it survives a snapshot");

    let mut other = State::default();
    other.skip(Position { index: 1, term: 1 });
    other.apply(Position { index: 2, term: 1 }, &record(1_001));
    assert_ne!(other.history(), named, "another cluster");
}

#[test]
fn a_cluster_made_of_another_ones_state_has_a_history_of_its_own() {
    let mut old = State::default();
    old.apply(Position { index: 1, term: 1 }, &record(1_000));
    let (mut restored, mut twice) = (old.clone(), old.clone());
    restored.begin_history(7);
    twice.begin_history(8);
    assert_ne!(restored.history(), old.history());
    assert_ne!(restored.history(), twice.history());
    assert_eq!(restored.hash(), old.hash(), "the state is the same");
}
