//! Going on from a backup: everything comes back, and nothing is given away twice.

use std::collections::BTreeMap;

use super::chain::{Cluster, item, landed, site};
use super::fixture::{bytes, check, complete, fail, job, register, reread, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::chain::{Act, Confirmation, Policy, Stage};
use crate::domain::command::{Command, Record, Refusal, Reply};
use crate::domain::ids::{Digest, JobId, Price, WorkerId};
use crate::domain::job::{JobSpec, JobState};
use crate::domain::journal::Sink;
use crate::domain::restore::{Error, Sinks, TERMS, Through};
use crate::domain::state::State;
use crate::domain::time::Timestamp;

/// 2026-01-01, in milliseconds.
const NEW_YEAR: u64 = 1_767_225_600_000;

fn assign(job: JobId, attempt: u32, worker: WorkerId) -> Command {
    Command::Assign { job, attempt, worker, price: Price(5), lease_ms: 30_000, evidence: None }
}

fn apply(state: &mut State, at: u64, commands: Vec<Command>) -> Vec<Reply> {
    let position = Position { index: state.applied() + 1, term: state.applied_term().max(1) };
    let replies = state.apply(position, &Record { at: Timestamp(at), commands });
    check(state);
    replies
}

/// Jobs that wait, run, run twice, failed and ended; a sink that lags.
fn lived() -> State {
    let mut state = State::default();
    let replies = apply(
        &mut state,
        NEW_YEAR,
        vec![
            register(worker(1), 4),
            register(worker(2), 4),
            submit(job(1), spec(b"waits"), b"waits"),
            submit(job(2), spec(b"runs"), b"runs"),
            submit(job(3), JobSpec { redundancy: 2, ..spec(b"twice") }, b"twice"),
            submit(job(4), spec(b"fails"), b"fails"),
            submit(job(5), spec(b"done"), b"done"),
            assign(job(2), 1, worker(1)),
            assign(job(3), 1, worker(1)),
            assign(job(4), 1, worker(2)),
            assign(job(5), 1, worker(2)),
            fail(job(4), 1, worker(2), false),
            complete(job(5), 1, worker(2), b"done"),
            Command::Delivered { sink: Sink::Kafka, through: 4 },
        ],
    );
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    state
}

fn restored(state: &State) -> State {
    let restored = reread(state).restored(&Sinks::new(), 0, Digest::default()).unwrap();
    check(&restored);
    restored
}

/// The bytes of a state's snapshot by section; the head and the end are left out.
fn sections(state: &State) -> BTreeMap<u8, Vec<u8>> {
    let bytes = bytes(state);
    let (mut at, mut sections) = (12, BTreeMap::<u8, Vec<u8>>::new());
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().unwrap()) as usize;
        sections.entry(bytes[at]).or_default().extend(&bytes[at + 5..at + 5 + length]);
        at += 5 + length;
    }
    sections.remove(&1);
    sections.remove(&7);
    sections
}

/// "An upgrade restores only part of the state" (nomad PR #24412).
#[test]
fn a_restore_brings_back_all_of_the_state() {
    let old = lived();
    assert_eq!(bytes(&reread(&old)), bytes(&old), "a state that is read is the state that was written");

    let new = restored(&old);
    let (before, after) = (sections(&old), sections(&new));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (section, bytes) in &before {
        // Jobs that wait have their next attempts fenced: looked at below.
        assert!(*section == 3 || after[section] == *bytes, "section {section} changed");
    }
    for (was, is) in old.jobs_after(None).zip(new.jobs_after(None)) {
        let mut is = crate::domain::Job::clone(is);
        assert!(is.attempt >= was.attempt);
        is.attempt = was.attempt;
        assert_eq!(is, **was);
    }
    assert_eq!(new.now(), old.now());
    assert_eq!(new.job_counts(), old.job_counts());
    assert_eq!((new.submitted_total(), new.ended_total(JobState::Completed)), (5, 1));
    assert_eq!(new.journal().cursor(Sink::Kafka), Some(4));
    assert_eq!((new.applied(), new.applied_term()), (old.applied() + 1, old.applied_term() + TERMS));
    assert_ne!(new.hash(), old.hash(), "it is another cluster");
}

#[test]
fn restoring_the_same_gives_the_same_bytes_and_survives_a_snapshot() {
    let old = lived();
    let new = restored(&old);
    assert_eq!(bytes(&restored(&old)), bytes(&new));
    assert_eq!(bytes(&reread(&new)), bytes(&new));
    let skipped = old.restored(&Sinks::from([(Sink::Kafka, Through::All)]), 0, Digest::default()).unwrap();
    assert_ne!(skipped.hash(), new.hash(), "nodes that were told otherwise show it");
    let others = lived().restored(&Sinks::new(), 0, Digest::of(b"other members")).unwrap();
    assert_ne!(others.hash(), new.hash());
}

#[test]
fn events_that_waited_keep_their_numbers_and_new_ones_never_had_theirs() {
    let old = lived();
    let mut new = restored(&old);
    let newest = old.journal().last_seq();
    let waiting = old.journal().undelivered();
    let due: Vec<u64> = new.journal().after(4, 1_000).iter().map(|entry| entry.seq).collect();
    assert_eq!(due, (5..=newest).collect::<Vec<_>>());
    assert!(new.journal().is_behind());

    // The old cluster goes on for an hour, with a thousand events a second.
    let given_by_old = newest + 3_600_000;
    apply(&mut new, NEW_YEAR + 3_600_000, vec![submit(job(9), spec(b"new"), b"new")]);
    let journal = new.journal();
    let first = journal.after(newest, 1)[0].seq;
    assert!(first > given_by_old && first < 1 << 53, "{first}");
    assert_eq!(journal.last_seq(), first);
    assert_eq!(journal.undelivered(), waiting + 1, "numbers that nobody has are not waited for");
    assert_eq!(journal.given(newest, first), 1);
    assert!(!journal.is_behind());

    // A second restore of the same backup, a second later, is above the first.
    let mut again = restored(&old);
    apply(&mut again, NEW_YEAR + 3_601_000, vec![submit(job(9), spec(b"new"), b"new")]);
    assert!(again.journal().last_seq() > first + 1_000_000);

    // The sink gets there, and what is behind it is let go.
    let through = new.journal().last_seq();
    apply(&mut new, NEW_YEAR + 3_600_000, vec![Command::Delivered { sink: Sink::Kafka, through }]);
    assert_eq!(new.journal().undelivered(), 0);
    assert_eq!(bytes(&reread(&new)), bytes(&new));
}

#[test]
fn a_result_for_an_attempt_that_only_the_old_cluster_gave_is_stale() {
    let old = lived();
    // After the backup the old cluster gave attempt 1 of the waiting job to worker 1, and lost it.
    let mut new = restored(&old);
    let at = NEW_YEAR + 1_000;
    let stale = apply(&mut new, at, vec![complete(job(1), 1, worker(1), b"of the old cluster")]);
    assert!(matches!(stale[0], Err(Refusal::StaleAttempt { sent: 1, .. })), "{stale:?}");
    // The new one gives it to the same worker, under a number that nobody had.
    let next = new.job(job(1)).unwrap().attempt + 1;
    assert!(next > 1_000, "{next}");
    let replies = apply(&mut new, at, vec![assign(job(1), 1, worker(1)), assign(job(1), next, worker(1))]);
    assert!(replies[0].is_err() && replies[1].is_ok(), "{replies:?}");
    let replies = apply(
        &mut new,
        at,
        vec![complete(job(1), 1, worker(1), b"of the old cluster"), complete(job(1), next, worker(1), b"new")],
    );
    assert!(matches!(replies[0], Err(Refusal::StaleAttempt { .. })) && replies[1].is_ok(), "{replies:?}");
}

#[test]
fn a_run_that_the_backup_knows_stays_in_force_and_the_next_is_fenced() {
    let mut new = restored(&lived());
    let at = NEW_YEAR + 1_000;
    assert_eq!(new.job(job(2)).unwrap().attempt, 1);
    let replies = apply(&mut new, at, vec![fail(job(2), 1, worker(1), true)]);
    assert!(replies[0].is_ok(), "the worker was awarded it: {replies:?}");
    assert!(new.job(job(2)).unwrap().attempt >= 1_000, "attempt 2 may be out already");
    assert_eq!(new.job(job(2)).unwrap().history.last().unwrap().attempt, 1, "history tells what was");
    // One of two side by side goes on; the other run begins above.
    let next = new.job(job(3)).unwrap().attempt + 1;
    let replies = apply(
        &mut new,
        at,
        vec![complete(job(3), 1, worker(1), b"vote"), assign(job(3), 2, worker(2)), assign(job(3), next, worker(2))],
    );
    assert!(replies[0].is_ok() && replies[1].is_err() && replies[2].is_ok(), "{replies:?}");
    // So does a failed one that is given another chance; a new job begins with 1.
    let replies = apply(
        &mut new,
        at,
        vec![Command::Retry { job: job(4) }, submit(job(8), spec(b"x"), b"x"), assign(job(8), 1, worker(2))],
    );
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    assert!(new.job(job(4)).unwrap().attempt >= 1_000);
}

#[test]
fn an_operator_may_know_better_what_is_out() {
    let old = lived();
    let newest = old.journal().last_seq();
    let through = |through| old.clone().restored(&Sinks::from([(Sink::Kafka, through)]), 0, Digest::default());
    assert_eq!(through(Through::All).unwrap().journal().cursor(Sink::Kafka), Some(newest));
    assert_eq!(through(Through::Entry(6)).unwrap().journal().cursor(Sink::Kafka), Some(6));
    // What came after the backup is out as well, and not in it.
    assert_eq!(through(Through::Entry(newest + 77)).unwrap().journal().cursor(Sink::Kafka), Some(newest));
    assert!(matches!(through(Through::Entry(3)), Err(Error::Behind { said: 3, known: 4, .. })));
    let chain = old.clone().restored(&Sinks::from([(Sink::Chain, Through::All)]), 0, Digest::default());
    assert!(matches!(chain, Err(Error::NoSink(Sink::Chain))));
}

/// Settled jobs: one landed, one is to be planned again, one is parked, one is in flight, one not planned yet.
fn settling() -> State {
    let mut cluster = Cluster::new();
    let register = |seq, n| item(seq, job(n), Stage::Register);
    let seq = cluster.submit(job(1), Policy::SettleLater);
    cluster.prepare(4, 40, vec![register(seq, 1)]).unwrap();
    cluster.land(4, landed(40, Confirmation::AcceptedL2, None)).unwrap();
    let seq = cluster.submit(job(2), Policy::SettleLater);
    cluster.prepare(5, 50, vec![register(seq, 2)]).unwrap();
    cluster.land(5, landed(50, Confirmation::AcceptedL2, Some("reverted"))).unwrap();
    let seq = cluster.submit(job(3), Policy::SettleLater);
    let parked = (register(seq, 3), "poison".into(), "why".into());
    cluster.act(Act::Park { parked: vec![parked], through: seq }).unwrap();
    let seq = cluster.submit(job(4), Policy::SettleLater);
    cluster.prepare(6, 60, vec![register(seq, 4)]).unwrap();
    cluster.submit(job(5), Policy::SettleLater);
    cluster.0
}

#[test]
fn what_an_operator_settled_by_hand_is_not_settled_again() {
    let old = settling();
    let books = |state: &State| {
        let chain = state.chain();
        (chain.again_len(), chain.parked_len(), chain.waiting().count(), chain.lane().count())
    };
    assert_eq!(books(&old), (1, 1, 1, 3));
    assert_eq!(books(&restored(&old)), (1, 1, 1, 3), "nothing was said of the chain");
    let planned = old.journal().cursor(Sink::Chain).unwrap();
    for through in [Through::All, Through::Entry(planned)] {
        let state = old.clone().restored(&Sinks::from([(Sink::Chain, through)]), 0, Digest::default()).unwrap();
        check(&state);
        assert_eq!(books(&reread(&state)), (0, 0, 0, 2));
        assert!(state.chain().lane().all(|(_, slot)| slot.given_back), "what landed is watched and no more");
        assert!(!state.chain().is_parked(job(3)), "what comes after it does not wait");
        assert_eq!(state.chain().settlement(job(4)).unwrap().links.len(), 1, "it is known what was sent");
        // A leader goes on with what is new.
        let mut next = Cluster(state);
        next.act(Act::Claim { site: site(1), least: 0 }).unwrap();
        let late = next.submit(job(6), Policy::SettleLater);
        next.prepare(6, 61, vec![item(late, job(6), Stage::Register)]).unwrap();
        assert_eq!(next.0.chain().waiting().count(), 1);
    }
}
