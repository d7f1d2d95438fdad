//! What is committed when, and what the log's answers lead to. The log is the real one.

use std::sync::LazyLock;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::super::judge::tests::record;
use super::*;
use crate::clock;
use crate::domain::apply::Position;
use crate::domain::command::Record as Logged;
use crate::domain::{JobId, State};

const GOOD: &[u8] = br#"{"type":"a","payload":"aGk="}"#;
const NOW: Timestamp = Timestamp(1_000);
const MANY: Bounds = Bounds { each: 1_000, records: 1_000, bytes: 1 << 20 };

static START: LazyLock<Instant> = LazyLock::new(clock::instant);

/// So long after the start.
fn after(ms: u64) -> Instant {
    *START + Duration::from_millis(ms)
}

fn partition(number: u32) -> Partition {
    Partition { topic: "jobs".into(), number }
}

fn entry(number: u32, offset: u64, value: &[u8]) -> Entry {
    let mut record = record(offset, value);
    record.partition = partition(number);
    record.key = Some(format!("{number}/{offset}").into_bytes());
    Entry::of(record, 1_000.into(), NOW)
}

fn entries(number: u32, offsets: std::ops::Range<u64>) -> Vec<Entry> {
    offsets.map(|offset| entry(number, offset, GOOD)).collect()
}

/// Lanes from offset 0 on.
fn lanes(partitions: u32) -> Lanes {
    let mut lanes = Lanes::default();
    for number in 0..partitions {
        lanes.add(partition(number), 0, None);
    }
    lanes
}

fn cut_at(lanes: &mut Lanes, bounds: Bounds, at: Instant) -> Vec<(Sent, Command)> {
    lanes.cut("k", bounds, &Rules { door: 1_000.into(), now: NOW, least: None, known: &|_: JobId| false }, at)
}

fn cut(lanes: &mut Lanes, bounds: Bounds) -> Vec<(Sent, Command)> {
    cut_at(lanes, bounds, after(0))
}

fn offsets(command: &Command) -> Vec<u64> {
    match command {
        Command::Ingest(ingest) => ingest.items.iter().map(|item| item.offset).collect(),
        other => panic!("{other:?}"),
    }
}

fn apply(state: &mut State, command: Command) -> Reply {
    let position = Position { index: state.applied() + 1, term: 1 };
    state.apply(position, &Logged { at: NOW, commands: vec![command] }).remove(0)
}

/// Sends everything that is due through the log, once.
fn round(lanes: &mut Lanes, state: &mut State, bounds: Bounds, at: Instant) -> Vec<Heard> {
    let cut = cut_at(lanes, bounds, at);
    cut.into_iter().map(|(sent, command)| lanes.hear(&sent, &apply(state, command), NOW, at)).collect()
}

fn reply(next: u64, refused: Option<Refusal>) -> Reply {
    Ok(Done::Ingested(Ingested { next, refused: refused.map(Box::new) }))
}

fn hear(lanes: &mut Lanes, sent: &Sent, reply: &Reply) -> Heard {
    lanes.hear(sent, reply, NOW, after(0))
}

#[test]
fn a_batch_is_one_command_for_each_partition() {
    let (mut lanes, mut state) = (lanes(3), State::default());
    lanes.push(entries(0, 0..3));
    lanes.push(entries(1, 0..2));
    let cut = cut(&mut lanes, MANY);
    assert_eq!(cut.len(), 2, "the third has nothing");
    for (sent, command) in cut {
        assert_eq!(offsets(&command).len() as u64, sent.next);
        assert_eq!(hear(&mut lanes, &sent, &apply(&mut state, command)), Heard::Fine);
    }
    assert_eq!(lanes.take_tally(), Tally::from([("job", 5)]));
    assert_eq!((lanes.bytes(), state.jobs_after(None).count()), (0, 5));
    assert_eq!(lanes.offsets()[..2], [(partition(0), 3), (partition(1), 2)]);
}

#[test]
fn a_commit_is_bounded_in_records_and_bytes_and_partitions_take_turns() {
    let mut lanes = lanes(2);
    lanes.push(entries(0, 0..10));
    lanes.push(entries(1, 0..10));
    let few = Bounds { records: 4, ..MANY };
    let firsts: Vec<u32> = (0..2).map(|_| cut(&mut lanes, few)[0].0.partition.number).collect();
    assert_ne!(firsts[0], firsts[1]);
    let counts = |cut: Vec<(Sent, Command)>| cut.iter().map(|(_, command)| offsets(command).len()).collect::<Vec<_>>();
    assert_eq!(counts(cut(&mut lanes, Bounds { each: 3, records: 5, ..MANY })), [3, 2]);

    let mut lanes = super::tests::lanes(1);
    lanes.push(entries(0, 0..10));
    let one = entry(0, 0, GOOD).encoded();
    assert_eq!(offsets(&cut(&mut lanes, Bounds { bytes: one * 3, ..MANY })[0].1), [0, 1, 2]);
    assert_eq!(offsets(&cut(&mut lanes, Bounds { bytes: 1, ..MANY })[0].1), [0], "one goes alone, however large");
}

#[test]
fn a_full_backlog_is_waited_for_longer_and_longer() {
    let mut lanes = lanes(1);
    lanes.push(entries(0, 0..4));
    let full = Refusal::BacklogFull { limit: 1 };
    let (sent, _) = cut(&mut lanes, MANY).remove(0);
    assert_eq!(hear(&mut lanes, &sent, &reply(2, Some(full.clone()))), Heard::Held("backlog_full"));
    assert!(cut_at(&mut lanes, MANY, after(99)).is_empty());
    assert_eq!(lanes.pauses(false, after(99)).0, [partition(0)]);
    assert!(lanes.alarms().is_empty(), "that jobs wait is no reason to wake anybody");
    let (sent, command) = cut_at(&mut lanes, MANY, after(100)).remove(0);
    assert_eq!(offsets(&command), [2, 3], "from where it was refused, with the same records");
    lanes.hear(&sent, &reply(2, Some(full)), NOW, after(100));
    assert!(cut_at(&mut lanes, MANY, after(299)).is_empty());
    let (sent, _) = cut_at(&mut lanes, MANY, after(300)).remove(0);
    assert_eq!(lanes.hear(&sent, &reply(4, None), NOW, after(300)), Heard::Fine);
    assert_eq!(lanes.pauses(false, after(300)).1, [partition(0)]);
}

#[test]
fn a_full_letter_queue_is_an_alarm_for_its_partition_only() {
    let mut lanes = lanes(2);
    lanes.push(vec![entry(0, 0, b"?")]);
    lanes.push(entries(1, 0..1));
    for (sent, _) in cut(&mut lanes, MANY) {
        let full = (sent.partition.number == 0).then_some(Refusal::LettersFull { limit: 9 });
        hear(&mut lanes, &sent, &reply(u64::from(full.is_none()), full));
    }
    assert_eq!(lanes.alarms(), ["the dead-letter queue is full: its limit is 9"]);
    lanes.push(entries(1, 1..2));
    assert_eq!(cut(&mut lanes, MANY).len(), 1);
    let (sent, _) = cut_at(&mut lanes, MANY, after(100)).into_iter().find(|(sent, _)| sent.next == 1).unwrap();
    hear(&mut lanes, &sent, &reply(1, None));
    assert_eq!(lanes.alarms(), [""; 0]);
}

#[test]
fn what_the_log_refuses_becomes_a_letter_and_the_rest_goes_on() {
    let (mut lanes, mut state) = (lanes(1), State::default());
    let mut conflict = entry(0, 1, br#"{"type":"b","payload":""}"#);
    conflict.record.key = Some(b"0/0".to_vec());
    let conflict = Entry::of(conflict.record, 1_000.into(), NOW);
    lanes.push(vec![entry(0, 0, GOOD), conflict, entry(0, 2, GOOD)]);
    assert_eq!(round(&mut lanes, &mut state, MANY, after(0)), [Heard::Buried("idempotency_conflict")]);
    assert_eq!(round(&mut lanes, &mut state, MANY, after(0)), [Heard::Fine]);
    let letter = &state.kafka().letters_after(None).next().unwrap().letter;
    assert_eq!((letter.offset, &*letter.code), (1, "idempotency_conflict"));
    assert!(letter.message.contains("exists with a different body"), "{}", letter.message);
    assert_eq!(lanes.take_tally(), Tally::from([("job", 2), ("idempotency_conflict", 1)]));
    assert_eq!(lanes.bytes(), 0);
}

#[test]
fn a_seek_empties_the_lane_and_reads_from_there() {
    let (mut lanes, mut state) = (lanes(1), State::default());
    lanes.push(entries(0, 0..3));
    round(&mut lanes, &mut state, MANY, after(0));
    lanes.push(entries(0, 3..5));
    apply(&mut state, Command::SeekIntake { partition: partition(0), next: 1 }).unwrap();
    assert!(lanes.compare(&partition(0), state.kafka().next_offset(&partition(0))));
    assert_eq!((lanes.assignment(), lanes.bytes()), (vec![(partition(0), 1)], 0));
    assert!(!lanes.compare(&partition(0), Some(1)), "once");

    // Sent before the seek, answered after it: what comes next was not taken.
    lanes.push(entries(0, 1..5));
    let (sent, command) = cut(&mut lanes, MANY).remove(0);
    apply(&mut state, Command::SeekIntake { partition: partition(0), next: 0 }).unwrap();
    assert_eq!(hear(&mut lanes, &sent, &apply(&mut state, command)), Heard::Moved);
    assert_eq!(lanes.assignment(), [(partition(0), 0)]);
    lanes.push(entries(0, 0..5));
    assert_eq!(round(&mut lanes, &mut state, MANY, after(0)), [Heard::Fine]);
    assert_eq!(state.jobs_after(None).count(), 5);
}

#[test]
fn a_stuck_partition_waits_for_an_operator_and_holds_up_no_other() {
    let mut lanes = lanes(2);
    lanes.push(entries(0, 0..1));
    lanes.stick(&partition(0), "gone".to_owned());
    assert_eq!(lanes.assignment(), [(partition(1), 0)]);
    lanes.push(entries(0, 7..8));
    let (sent, command) = cut(&mut lanes, MANY).remove(0);
    assert_eq!(offsets(&command), [0], "what was read before is taken, what comes from elsewhere is not");
    hear(&mut lanes, &sent, &reply(1, None));
    assert!(!lanes.compare(&partition(0), Some(1)), "our own step is no seek");
    assert_eq!(lanes.alarms(), ["gone"]);
    assert!(lanes.compare(&partition(0), Some(9)));
    assert_eq!(lanes.assignment(), [(partition(0), 9), (partition(1), 0)]);
    assert_eq!(lanes.alarms(), [""; 0]);
}

#[test]
fn reading_pauses_at_the_bound_of_a_lane_and_goes_on_at_the_half() {
    let mut lanes = lanes(2);
    let records = LANE_RECORDS as u64;
    lanes.push(entries(0, 0..records));
    assert_eq!(lanes.pauses(false, after(0)), (vec![partition(0)], vec![]));
    assert_eq!(lanes.pauses(false, after(0)), (vec![], vec![]), "said once");
    let hear_through = |lanes: &mut Lanes, next: u64| {
        hear(lanes, &Sent { partition: partition(0), next }, &reply(next, None));
        lanes.pauses(false, after(0))
    };
    assert_eq!(hear_through(&mut lanes, records / 2), (vec![], vec![]));
    assert_eq!(hear_through(&mut lanes, records / 2 + 1), (vec![], vec![partition(0)]));
    assert_eq!(lanes.pauses(true, after(0)).0.len(), 2);
    assert_eq!(lanes.assignment().len(), 2, "assigned anew, nothing is paused");
    assert_eq!(lanes.pauses(true, after(0)).0.len(), 2);
}

#[test]
fn an_answer_that_makes_no_sense_begins_anew() {
    let mut lanes = lanes(1);
    lanes.push(entries(0, 0..2));
    let (sent, _) = cut(&mut lanes, MANY).remove(0);
    let other = Refusal::OtherKafka { known: "a".to_owned(), found: "b".to_owned() };
    for answer in [Err(other), Ok(Done::Unchanged)] {
        assert_eq!(hear(&mut lanes, &sent, &answer), Heard::Anew);
    }
    let absurd = Err(Refusal::Invalid("topic is empty".to_owned()));
    assert_eq!(hear(&mut lanes, &sent, &absurd), Heard::Held("invalid_command"));
    assert_eq!(lanes.alarms(), ["invalid command: topic is empty"]);
}

proptest! {
    /// Whatever is read in whatever pieces, cut by whatever bounds, with answers lost and batches read again by a
    /// successor: every record is taken exactly once and in order.
    #[test]
    fn every_record_is_taken_once(
        steps in prop::collection::vec((any::<bool>(), 1_u64..9, 1_usize..6, 0_u8..4), 1..60),
        poison in prop::collection::btree_set(0_u64..60, 0..10),
    ) {
        const ALL: u64 = 60;
        let value = |offset: u64| if poison.contains(&offset) { &b"?"[..] } else { GOOD };
        let (mut state, mut lanes) = (State::default(), lanes(1));
        let mut read = 0;
        let calm = (0..ALL).map(|_| (true, 8, 5, 1));
        for (reads, records, most, fate) in steps.into_iter().chain(calm) {
            if reads {
                let until = (read + records).min(ALL);
                lanes.push((read..until).map(|offset| entry(0, offset, value(offset))).collect());
                read = until;
            }
            let cut = cut(&mut lanes, Bounds { records: most, ..MANY });
            for (sent, command) in cut {
                // 0: never got there. 2: got there, its answer did not.
                let answer = if fate == 0 { None } else { Some(apply(&mut state, command)) };
                if let Some(answer) = answer.filter(|_| fate != 2) {
                    let heard = hear(&mut lanes, &sent, &answer);
                    prop_assert_eq!(heard, Heard::Fine);
                } else {
                    read = state.kafka().next_offset(&partition(0)).unwrap_or(0);
                    lanes = Lanes::default();
                    lanes.add(partition(0), read, None);
                }
            }
        }
        let intake = state.kafka().intake().next().map(|(_, intake)| *intake).unwrap_or_default();
        prop_assert_eq!(intake.next, ALL);
        prop_assert_eq!((intake.jobs, intake.repeats), (ALL - poison.len() as u64, 0));
        prop_assert!(state.kafka().letters_after(None).map(|dead| dead.letter.offset).eq(poison.iter().copied()));
    }
}
