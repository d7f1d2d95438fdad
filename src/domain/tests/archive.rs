//! Finished jobs on their way out of memory.

use super::chain::{Cluster, item, landed, site};
use super::fixture::{SMALL, bytes, check, complete, job, register, reread, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::archive::{Archived, Damage, HEAD, LENGTH_MAX, Retain, Sealed, Segment, head, index, record};
use crate::domain::chain::{Act, Confirmation, Item, Policy, Stage};
use crate::domain::command::{Command, Done, Record, Refusal, Reply};
use crate::domain::ids::{Digest, JobId, Price};
use crate::domain::job::{JobSpec, JobState};
use crate::domain::journal::Sink;
use crate::domain::snapshot;
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

#[test]
fn a_segment_that_is_longer_than_any_is_not_believed() {
    let named = |length| {
        let mut state = with_jobs(1);
        let segment = Segment {
            number: 1,
            sha256: Digest::default(),
            bytes: length,
            jobs: [0; 3],
            first: Timestamp(1),
            last: Timestamp(1),
        };
        state.archive.add(Sealed { segment: segment.into(), bytes: [].into() });
        State::read_from(&mut bytes(&state).as_slice()).map(drop)
    };
    named(LENGTH_MAX).unwrap();
    assert!(matches!(named(LENGTH_MAX + 1), Err(snapshot::Error::Damaged(_))), "who reads it would hold all of it");
}

/// A state that settles, with a job that was cancelled before anybody was told on chain.
fn settling() -> (Cluster, Vec<Item>) {
    let mut cluster = Cluster::new();
    let registered = cluster.submit(job(1), Policy::SettleLater);
    cluster.apply(cancel(1)).unwrap();
    let refunded = cluster.last();
    (cluster, vec![item(registered, job(1), Stage::Register), item(refunded, job(1), Stage::Refund)])
}

fn cancel(n: u8) -> Command {
    Command::Cancel { job: job(n), reason: String::new() }
}

/// So many jobs end that have nothing to do with the chain.
fn others(cluster: &mut Cluster, from: u8, to: u8) {
    for n in from..to {
        cluster.apply(submit(job(n), spec(b"in"), b"in")).unwrap();
        cluster.apply(cancel(n)).unwrap();
        let through = cluster.last();
        cluster.act(Act::Skip { through }).unwrap();
    }
}

fn archived(state: &mut State) -> Vec<Archived> {
    state.take_sealed().iter().flat_map(|sealed| whole(&sealed.bytes).unwrap()).collect()
}

fn ids(archived: &[Archived]) -> Vec<JobId> {
    archived.iter().map(|archived| archived.job.id).collect()
}

#[test]
fn a_job_leaves_memory_with_what_the_chain_said_of_it() {
    let (mut cluster, items) = settling();
    cluster.prepare(5, 50, items).unwrap();
    others(&mut cluster, 2, 9);
    assert_eq!(ids(&archived(&mut cluster.0)), [job(2), job(3), job(4), job(5)], "it is in flight");

    cluster.land(5, landed(50, Confirmation::AcceptedL2, Some("it reverted"))).unwrap();
    cluster.act(Act::Close { nonce: 5 }).unwrap();
    others(&mut cluster, 9, 11);
    assert_eq!(ids(&archived(&mut cluster.0)), [job(6), job(7)], "it is to be planned again");

    let again: Vec<Item> = cluster.0.chain().again().map(|again| again.item.clone()).collect();
    cluster.prepare(6, 60, again).unwrap();
    cluster.land(6, landed(60, Confirmation::AcceptedL2, None)).unwrap();
    others(&mut cluster, 11, 13);
    assert_eq!(ids(&archived(&mut cluster.0)), [job(8), job(9)], "it is watched");

    cluster.act(Act::Close { nonce: 6 }).unwrap();
    others(&mut cluster, 13, 15);
    let sealed = archived(&mut cluster.0);
    assert_eq!(ids(&sealed), [job(1), job(10)]);
    let links = &sealed[0].settlement.as_ref().unwrap().links;
    assert!(links.iter().all(|link| link.confirmation == Some(Confirmation::AcceptedL2)), "{links:?}");
}

#[test]
fn a_job_with_something_parked_waits_for_the_operator() {
    let (mut cluster, items) = settling();
    let seq = items[1].seq;
    let parked = items.into_iter().map(|item| (item, "poison".into(), "why".into())).collect();
    let through = cluster.last();
    cluster.act(Act::Park { parked, through }).unwrap();
    others(&mut cluster, 2, 9);
    assert_eq!(ids(&archived(&mut cluster.0)), [job(2), job(3), job(4), job(5)]);
    let first = cluster.0.chain().parked_after(None).next().unwrap().item.seq;
    cluster.act(Act::Retry { seq }).unwrap();
    cluster.act(Act::Drop { seq: first }).unwrap();
    others(&mut cluster, 9, 11);
    assert_eq!(ids(&archived(&mut cluster.0)), [job(6), job(7)], "nothing was sent yet");
}

#[test]
fn memory_is_bounded_whatever_the_chain_has_yet_to_say() {
    let (mut cluster, items) = settling();
    cluster.prepare(5, 50, items).unwrap();
    cluster.0.limits.finished_bytes = 0;
    cluster.act(Act::Claim { site: site(1), least: 0 }).unwrap();
    assert_eq!(ids(&archived(&mut cluster.0)), [job(1)]);

    // As many as there may be: the oldest go.
    let mut cluster = Cluster::new();
    for n in 1..=8 {
        let seq = cluster.submit(job(n), Policy::SettleLater);
        cluster.prepare(n.into(), n.into(), vec![item(seq, job(n), Stage::Register)]).unwrap();
        cluster.land(n.into(), landed(n.into(), Confirmation::AcceptedL2, None)).unwrap();
        cluster.apply(cancel(n)).unwrap();
        let through = cluster.last();
        cluster.act(Act::Skip { through }).unwrap();
    }
    assert_eq!(ids(&archived(&mut cluster.0)), [job(1), job(2)]);
}
