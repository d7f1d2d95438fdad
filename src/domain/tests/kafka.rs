//! Intake from Kafka, letters, and what is kept for a sink that lags.

use super::fixture::{SMALL, check, complete, job, register, reread, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::command::{Command, Done, Record, Refusal, Reply, Submit};
use crate::domain::ids::{JobId, Price};
use crate::domain::job::JobState;
use crate::domain::journal::{Event, Sink};
use crate::domain::kafka::{Header, Ingest, Ingested, Item, Lane, Letter, Partition, Taken};
use crate::domain::state::State;
use crate::domain::time::Timestamp;

pub(super) fn partition(number: u8) -> Partition {
    Partition { topic: "jobs".into(), number: number.into() }
}

pub(super) fn letter(partition: Partition, offset: u64, size: usize) -> Letter {
    Letter {
        partition,
        offset,
        timestamp_ms: Some(1),
        key: None,
        value: Some(vec![7; size]),
        headers: vec![Header { name: "h".into(), value: None }],
        left_out: 0,
        code: "undecodable".into(),
        message: "not a job".into(),
        attempts: 1,
        first_failed_at: None,
    }
}

fn taken(id: JobId, payload: &[u8]) -> Taken {
    let Command::Submit(submit) = submit(id, spec(payload), payload) else { unreachable!() };
    Taken::Job(submit)
}

/// A batch of partition 0 from `offset` on, without gaps.
fn batch(offset: u64, items: Vec<Taken>) -> Command {
    let items: Vec<Item> = (offset..).zip(items).map(|(offset, taken)| Item { offset, taken }).collect();
    let next = offset + items.len() as u64;
    Command::Ingest(Box::new(Ingest { cluster: "one".to_owned(), partition: partition(0), from: 0, items, next }))
}

fn poison(offset: u64) -> Taken {
    Taken::Letter(Box::new(letter(partition(0), offset, 10)))
}

fn apply(state: &mut State, command: Command) -> Reply {
    let position = Position { index: state.applied() + 1, term: 1 };
    let record = Record { at: Timestamp(1_000 + position.index), commands: vec![command] };
    let reply = state.apply(position, &record).remove(0);
    check(&reread(state));
    reply
}

fn got(next: u64) -> Reply {
    Ok(Done::Ingested(Ingested { next, refused: None }))
}

fn stopped(next: u64, refusal: Refusal) -> Reply {
    Ok(Done::Ingested(Ingested { next, refused: Some(Box::new(refusal)) }))
}

#[test]
fn a_batch_that_comes_twice_is_taken_once() {
    let mut state = State::within(SMALL);
    let both = || batch(5, vec![taken(job(1), b"a"), poison(6), taken(job(2), b"b")]);
    assert_eq!(apply(&mut state, both()), got(8));
    let (seq, hash) = (state.journal().last_seq(), state.hash());
    assert_eq!(apply(&mut state, both()), got(8));
    assert_eq!((state.journal().last_seq(), state.kafka().letters()), (seq, 1));
    assert_ne!(state.hash(), hash);
    // Overlapping: only what is new counts.
    assert_eq!(apply(&mut state, batch(7, vec![taken(job(2), b"b"), taken(job(3), b"c")])), got(9));
    let intake = *state.kafka().intake().next().unwrap().1;
    assert_eq!((intake.jobs, intake.repeats, intake.letters), (3, 0, 1));
}

#[test]
fn a_seek_is_not_undone_by_what_was_read_before_it() {
    let mut state = State::within(SMALL);
    apply(&mut state, batch(0, vec![taken(job(1), b"a"), taken(job(2), b"b"), poison(2)])).unwrap();
    apply(&mut state, Command::SeekIntake { partition: partition(0), next: 1 }).unwrap();
    let Command::Ingest(late) = batch(3, vec![taken(job(3), b"c")]) else { unreachable!() };
    let late = Ingest { from: 3, ..*late };
    assert_eq!(apply(&mut state, Command::Ingest(Box::new(late.clone()))), got(1), "the reader hears where to go on");
    assert!(state.job(job(3)).is_none());
    assert_eq!(apply(&mut state, batch(1, vec![taken(job(2), b"b"), poison(2)])), got(3));
    assert_eq!(apply(&mut state, Command::Ingest(Box::new(late))), got(4));
}

#[test]
fn the_same_job_at_another_offset_is_a_repeat_even_when_it_was_forgotten() {
    let mut state = State::within(SMALL);
    let id = JobId::from_key("kafka", "k");
    assert_eq!(apply(&mut state, batch(0, vec![taken(id, b"a"), taken(id, b"a")])), got(2));
    apply(&mut state, Command::Cancel { job: id, reason: String::new() }).unwrap();
    for n in 1..=5 {
        apply(&mut state, batch(1 + u64::from(n), vec![taken(job(n), b"x")])).unwrap();
        apply(&mut state, Command::Cancel { job: job(n), reason: String::new() }).unwrap();
    }
    assert!(state.job(id).is_none() && state.remembers(id));
    assert_eq!(apply(&mut state, batch(7, vec![taken(id, b"a")])), got(8));
    let intake = *state.kafka().intake().next().unwrap().1;
    assert_eq!((intake.jobs, intake.repeats), (6, 2));
}

#[test]
fn what_is_refused_stops_the_batch_before_it() {
    let mut state = State::within(SMALL);
    let id = JobId::from_key("kafka", "k");
    apply(&mut state, batch(0, vec![taken(id, b"a")])).unwrap();
    let with_conflict = batch(1, vec![taken(job(1), b"1"), taken(id, b"other"), taken(job(2), b"2")]);
    assert_eq!(apply(&mut state, with_conflict), stopped(2, Refusal::Conflict { job: id }));
    assert!(state.job(job(1)).is_some() && state.job(job(2)).is_none());
    // The sender turns it into a letter and goes on.
    assert_eq!(apply(&mut state, batch(2, vec![poison(2), taken(job(2), b"2")])), got(4));

    // A job that no door would let through is refused like any other.
    let Taken::Job(odd) = taken(job(9), b"9") else { unreachable!() };
    let odd = Submit { payload: Some(b"not that".to_vec()), ..*odd };
    let reply = apply(&mut state, batch(4, vec![Taken::Job(Box::new(odd))]));
    assert!(
        matches!(reply, Ok(Done::Ingested(Ingested { next: 4, refused: Some(why) })) if matches!(*why, Refusal::Invalid(_)))
    );

    for n in 3..=5 {
        apply(&mut state, batch(u64::from(n) + 1, vec![taken(job(n), b"x")])).unwrap();
    }
    let full = apply(&mut state, batch(7, vec![taken(job(6), b"x")]));
    assert_eq!(full, stopped(7, Refusal::BacklogFull { limit: SMALL.backlog as u64 }));
    apply(&mut state, Command::Cancel { job: job(1), reason: String::new() }).unwrap();
    assert_eq!(apply(&mut state, batch(7, vec![taken(job(6), b"x")])), got(8));
}

#[test]
fn gaps_are_passed_and_offsets_of_another_cluster_refused() {
    let mut state = State::within(SMALL);
    apply(&mut state, batch(0, vec![taken(job(1), b"1")])).unwrap();
    let gap = Ingest { cluster: "one".to_owned(), partition: partition(0), from: 0, items: vec![], next: 40 };
    assert_eq!(apply(&mut state, Command::Ingest(Box::new(gap.clone()))), got(40));
    let other = Ingest { cluster: "two".to_owned(), next: 50, ..gap.clone() };
    let refused = Refusal::OtherKafka { known: "one".to_owned(), found: "two".to_owned() };
    assert_eq!(apply(&mut state, Command::Ingest(Box::new(other.clone()))), Err(refused));
    apply(&mut state, Command::SeekIntake { partition: partition(0), next: 7 }).unwrap();
    assert_eq!(state.kafka().next_offset(&partition(0)), Some(7));
    apply(&mut state, Command::ResetIntake { cluster: "two".to_owned() }).unwrap();
    assert_eq!((state.kafka().cluster(), state.kafka().intake().count()), (Some("two"), 0));
    assert_eq!(apply(&mut state, Command::Ingest(Box::new(other))), got(50));
    // More partitions than are kept.
    let number = |number| Command::SeekIntake { partition: partition(number), next: 1 };
    apply(&mut state, number(1)).unwrap();
    assert!(matches!(apply(&mut state, number(2)), Err(Refusal::Invalid(_))));
    let late = Ingest { items: vec![Item { offset: 3, taken: poison(3) }], next: 3, ..gap };
    assert!(matches!(apply(&mut state, Command::Ingest(Box::new(late))), Err(Refusal::Invalid(_))));
}

#[test]
fn a_letter_is_published_replayed_and_gone() {
    let mut state = State::within(SMALL);
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 0 }).unwrap();
    apply(&mut state, batch(0, vec![poison(0), poison(1)])).unwrap();
    let ids: Vec<u64> = state.kafka().letters_after(None).map(|dead| dead.id).collect();
    assert_eq!(ids, [1, 2]);
    assert!(state.journal().after(0, 9).iter().all(|entry| entry.event == Event::Letter));
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 2 }).unwrap();
    assert_eq!(state.kafka().published(Lane::DeadLetters), 2);

    apply(&mut state, Command::ReplayLetter { letter: 1 }).unwrap();
    assert_eq!(apply(&mut state, Command::ReplayLetter { letter: 1 }), Ok(Done::Unchanged));
    assert_eq!(state.kafka().letter(1).unwrap().replay, Some(3));
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 3 }).unwrap();
    assert!(state.kafka().letter(1).is_none());
    assert_eq!((state.kafka().published(Lane::Replays), state.kafka().letters()), (1, 1));

    apply(&mut state, Command::DropLetter { letter: 2 }).unwrap();
    assert_eq!(apply(&mut state, Command::DropLetter { letter: 2 }), Err(Refusal::UnknownLetter(2)));
    assert_eq!((state.kafka().letters(), state.kafka().letter_bytes()), (0, 0));
    let whole = Letter { left_out: 9_000_000, value: None, ..letter(partition(0), 2, 0) };
    apply(&mut state, batch(2, vec![Taken::Letter(Box::new(whole))])).unwrap();
    assert!(matches!(apply(&mut state, Command::ReplayLetter { letter: 4 }), Err(Refusal::Invalid(_))));
}

#[test]
fn letters_are_bounded_and_none_is_forgotten_unpublished() {
    let mut state = State::within(SMALL);
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 0 }).unwrap();
    apply(&mut state, batch(0, (0..3).map(poison).collect())).unwrap();
    let full = apply(&mut state, batch(3, vec![poison(3)]));
    assert_eq!(full, stopped(3, Refusal::LettersFull { limit: SMALL.letters as u64 }));
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 1 }).unwrap();
    assert_eq!(apply(&mut state, batch(3, vec![poison(3)])), got(4));
    assert_eq!(state.kafka().letters_after(None).map(|dead| dead.id).collect::<Vec<_>>(), [2, 3, 4]);
}

/// Runs a job to its end.
fn run(state: &mut State, n: u8) {
    apply(state, submit(job(n), spec(b"in"), b"in")).unwrap();
    let assign = Command::Assign {
        job: job(n),
        attempt: 1,
        worker: worker(1),
        price: Price(5),
        lease_ms: 30_000,
        evidence: None,
    };
    apply(state, assign).unwrap();
    apply(state, complete(job(n), 1, worker(1), b"out")).unwrap();
}

#[test]
fn finished_jobs_wait_for_a_sink_that_lags_and_then_submissions_stop() {
    let mut state = State::within(SMALL);
    apply(&mut state, register(worker(1), 2)).unwrap();
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 1 }).unwrap();
    let twice = SMALL.finished as u8 * 2;
    (1..=twice).for_each(|n| run(&mut state, n));
    assert!((1..=twice).all(|n| state.output(job(n)).is_some()), "an output went before it was published");
    let more = |state: &mut State| apply(state, submit(job(50), spec(b"in"), b"in"));
    run(&mut state, twice + 1);
    assert!(matches!(more(&mut state), Err(Refusal::BacklogFull { .. })));

    let through = state.journal().last_seq();
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through }).unwrap();
    assert_eq!(state.ended_total(JobState::Completed), u64::from(twice) + 1);
    assert!(state.job(job(1)).is_none(), "what every sink has heard of makes room again");
    more(&mut state).unwrap();
    assert_eq!(state.kafka().published(Lane::Results), u64::from(twice) + 1);
}

#[test]
fn a_sink_that_is_forgotten_holds_nothing_back() {
    let mut state = State::within(SMALL);
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 0 }).unwrap();
    apply(&mut state, register(worker(1), 2)).unwrap();
    (1..=4).for_each(|n| run(&mut state, n));
    assert_eq!(state.journal().first_seq(), 1);
    apply(&mut state, Command::ForgetSink { sink: Sink::Kafka }).unwrap();
    assert_eq!(apply(&mut state, Command::ForgetSink { sink: Sink::Kafka }), Ok(Done::Unchanged));
    assert_eq!(state.journal().len(), SMALL.journal_keep);
}
