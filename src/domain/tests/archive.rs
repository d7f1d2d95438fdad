//! Finished jobs on their way out of memory.

use super::fixture::{SMALL, bytes, check, complete, job, register, reread, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::archive::{Archived, Damage, HEAD, Retain, Sealed, head, index, record};
use crate::domain::command::{Command, Done, Record, Refusal, Reply};
use crate::domain::ids::{JobId, Price};
use crate::domain::job::{JobSpec, JobState};
use crate::domain::journal::Sink;
use crate::domain::state::State;
use crate::domain::time::Timestamp;

fn apply(state: &mut State, command: Command) -> Reply {
    let index = state.applied() + 1;
    let record = Record { at: Timestamp(1_000 * index), commands: vec![command] };
    let reply = state.apply(Position { index, term: 1 }, &record).remove(0);
    check(state);
    reply
}

/// A job that is submitted and completed.
fn done(state: &mut State, id: JobId, output: &[u8]) {
    apply(state, submit(id, spec(b"in"), b"in")).unwrap();
    let assign =
        Command::Assign { job: id, attempt: 1, worker: worker(1), price: Price(5), lease_ms: 30_000, evidence: None };
    apply(state, assign).unwrap();
    apply(state, complete(id, 1, worker(1), output)).unwrap();
}

fn with_jobs(count: u8) -> State {
    let mut state = State::within(SMALL);
    apply(&mut state, register(worker(1), 4)).unwrap();
    for n in 1..=count {
        done(&mut state, job(n), &[n; 20]);
    }
    state
}

fn whole(bytes: &[u8]) -> Result<Vec<Archived>, Damage> {
    let mut first = [0; HEAD];
    first.copy_from_slice(&bytes[..HEAD]);
    let at = head(&first)?.index as usize;
    let entries = index(&first, bytes.get(at..).unwrap_or_default())?;
    let read = |offset: u32, id| record(bytes.get(offset as usize..at).unwrap_or_default(), id);
    let found = entries.iter().map(|entry| Ok(read(entry.offset, entry.id)?.ok()));
    Ok(found.collect::<Result<Option<Vec<_>>, Damage>>()?.unwrap_or_default())
}

#[test]
fn the_oldest_jobs_leave_memory_whole_and_in_the_order_of_their_ends() {
    let mut state = with_jobs(5);
    assert_eq!((state.hot_jobs(), state.archive().jobs()), (5, 0), "a segment has two jobs, and four stay");
    let before = state.clone();
    done(&mut state, job(6), b"six");
    assert_eq!((state.hot_jobs(), state.archive().jobs()), (4, 2));
    assert_eq!(state.job_counts()[&JobState::Completed], 6, "they are kept");
    let [Sealed { segment, bytes }] = &state.take_sealed()[..] else { panic!("one segment") };
    assert_eq!((segment.number, segment.jobs, segment.bytes), (1, [2, 0, 0], bytes.len() as u64));
    let read = whole(bytes).unwrap();
    assert_eq!(read.iter().map(|archived| archived.job.id).collect::<Vec<_>>(), [job(1), job(2)]);
    for archived in read {
        let id = archived.job.id;
        assert_eq!(archived.job, *before.job(id).unwrap());
        assert_eq!(archived.output.as_ref(), before.output(id));
        let beside = state.beside(archived);
        assert_eq!((beside.job(id), beside.output(id)), (before.job(id), before.output(id)));
        assert_eq!((beside.applied(), beside.hash()), (state.applied(), state.hash()));
    }
    reread(&state);
}

#[test]
fn every_flipped_bit_of_a_segment_is_found() {
    let mut state = with_jobs(6);
    let bytes = state.take_sealed()[0].bytes.to_vec();
    let good = whole(&bytes).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let read = whole(&flipped);
            assert!(read.as_ref().map_or(true, |jobs| jobs.len() < good.len()), "bit {bit} of byte {at}");
        }
    }
    for end in HEAD..bytes.len() {
        assert!(whole(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_sink_that_lags_keeps_jobs_in_memory() {
    let mut state = State::within(SMALL);
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 0 }).unwrap();
    apply(&mut state, register(worker(1), 4)).unwrap();
    for n in 1..=7 {
        done(&mut state, job(n), b"x");
    }
    assert_eq!((state.hot_jobs(), state.archive().jobs()), (7, 0));
    assert!(!state.expires(state.now()));
    let newest = state.journal().last_seq();
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: newest }).unwrap();
    assert_eq!((state.hot_jobs(), state.archive().jobs()), (5, 2));
}

#[test]
fn a_record_seals_a_few_segments_and_the_next_ones_the_rest() {
    let mut state = State::within(SMALL);
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: 0 }).unwrap();
    apply(&mut state, Command::Retain(Retain::Hold { hot: 1, batch: 1 })).unwrap();
    apply(&mut state, register(worker(1), 4)).unwrap();
    for n in 1..=7 {
        done(&mut state, job(n), b"x");
    }
    let newest = state.journal().last_seq();
    apply(&mut state, Command::Delivered { sink: Sink::Kafka, through: newest }).unwrap();
    assert_eq!((state.hot_jobs(), state.archive().segment_count()), (3, 4));
    reread(&state);
    apply(&mut state, Command::Retain(Retain::Drop { through: 0 })).unwrap();
    assert_eq!((state.hot_jobs(), state.archive().segment_count()), (1, 6));
}

#[test]
fn a_key_outlives_its_job_in_the_archive_and_after() {
    let mut state = with_jobs(0);
    let id = JobId::from_key("test", "one");
    done(&mut state, id, b"1");
    for n in 1..=5 {
        done(&mut state, job(n), b"x");
    }
    assert!(state.job(id).is_none());
    let again = submit(id, spec(b"in"), b"in");
    assert_eq!(apply(&mut state, again.clone()), Ok(Done::Submitted { job: id, created: false }));
    let other = submit(id, JobSpec { priority: 1, ..spec(b"in") }, b"in");
    assert_eq!(apply(&mut state, other), Err(Refusal::Conflict { job: id }));
    assert_eq!(apply(&mut state, Command::Retain(Retain::Drop { through: 1 })), Ok(Done::Retained { removed: 2 }));
    assert_eq!(apply(&mut state, again), Err(Refusal::Forgotten { job: id }));
    reread(&state);
}

#[test]
fn segments_go_from_the_oldest_and_never_come_back() {
    let mut state = with_jobs(10);
    let numbers = |state: &State| state.archive().segments().map(|segment| segment.number).collect::<Vec<_>>();
    assert_eq!(numbers(&state), [1, 2, 3]);
    let hash = state.hash();
    let too_far = apply(&mut state, Command::Retain(Retain::Drop { through: 4 }));
    assert!(matches!(too_far, Err(Refusal::Invalid(_))), "{too_far:?}");
    assert_eq!(apply(&mut state, Command::Retain(Retain::Drop { through: 2 })), Ok(Done::Retained { removed: 4 }));
    assert_ne!(state.hash(), hash);
    assert_eq!((numbers(&state), state.archive().jobs(), state.archive().removed_total()), (vec![3], 2, 4));
    assert_eq!(apply(&mut state, Command::Retain(Retain::Drop { through: 2 })), Ok(Done::Unchanged));
    done(&mut state, job(11), b"x");
    done(&mut state, job(12), b"x");
    assert_eq!(numbers(&state), [3, 4]);
    assert_eq!(state.job_counts()[&JobState::Completed], 8);
    reread(&state);
}

#[test]
fn what_is_too_old_goes_from_memory_too() {
    let mut state = with_jobs(4);
    let third = state.job(job(3)).unwrap().finished_at.unwrap();
    assert!(state.expires(third) && !state.expires(Timestamp(1_000)));
    let expire = Command::Retain(Retain::Expire { before: third });
    assert_eq!(apply(&mut state, expire.clone()), Ok(Done::Retained { removed: 2 }));
    assert_eq!(apply(&mut state, expire), Ok(Done::Unchanged));
    assert_eq!((state.hot_jobs(), state.job(job(2)), state.output(job(1))), (2, None, None));
}

#[test]
fn how_many_stay_is_the_logs_to_say() {
    let mut state = with_jobs(4);
    assert_eq!(state.hold(), (4, 2));
    let hold = |hot, batch| Command::Retain(Retain::Hold { hot, batch });
    assert!(apply(&mut state, hold(0, 1)).is_err());
    apply(&mut state, hold(1, 1)).unwrap();
    assert_eq!((state.hold(), state.hot_jobs(), state.archive().segment_count()), ((1, 1), 1, 3));
    apply(&mut state, hold(1_000, 1_000)).unwrap();
    assert_eq!(state.hold(), (4, 2), "no more than a node can hold");
    assert_eq!(bytes(&reread(&state)), bytes(&state));
}
