//! Notices of ended jobs: one for each end, kept until told of, bounded.

use super::fixture::{SMALL, check, complete, fail, job, keep, register, reread, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::callback::{Called, DETAIL_MAX, Notice, OUTPUT_MAX, OVERFLOW};
use crate::domain::command::{Command, Done, Record, Reply};
use crate::domain::ids::{Digest, Price};
use crate::domain::job::{JobSpec, JobState};
use crate::domain::state::{Limits, State};
use crate::domain::time::Timestamp;

/// Room for what these stories need besides notices.
const ROOMY: Limits = Limits { backlog: 50, backlog_bytes: 1 << 20, finished: 50, finished_bytes: 1 << 20, ..SMALL };

fn apply(state: &mut State, command: Command) -> Reply {
    let position = Position { index: state.applied() + 1, term: 1 };
    let at = Timestamp(1_000 * position.index);
    let reply = state.apply(position, &Record { at, commands: vec![command] }).remove(0);
    check(state);
    reply
}

fn world(limits: Limits) -> State {
    let mut state = State::within(limits);
    apply(&mut state, register(worker(1), 4)).unwrap();
    state
}

/// A job that wants to be told of at `url`.
fn called_at(state: &mut State, n: u8, url: &str) {
    let spec = JobSpec { callback_url: Some(url.into()), tags: vec!["t".to_owned()], ..spec(b"in") };
    apply(state, submit(job(n), spec, b"in")).unwrap();
}

fn assign(state: &mut State, n: u8, attempt: u32) {
    let (job, worker, price) = (job(n), worker(1), Price(5));
    apply(state, Command::Assign { job, attempt, worker, price, lease_ms: 30_000, evidence: None }).unwrap();
}

fn cancelled_at(state: &mut State, n: u8, url: &str) {
    called_at(state, n, url);
    apply(state, Command::Cancel { job: job(n), reason: "x".repeat(5_000) }).unwrap();
}

fn waiting(state: &State) -> Vec<Notice> {
    state.callbacks().after(0).map(|notice| Notice::clone(notice)).collect()
}

fn delivered(event: u64) -> Command {
    Command::CalledBack { event, called: Called::Delivered { tries: 2 } }
}

fn called(state: &State, n: u8) -> Option<Called> {
    state.job(job(n)).unwrap().callback.as_ref().unwrap().called.clone()
}

#[test]
fn a_job_that_completes_leaves_what_its_client_is_told() {
    let mut state = world(ROOMY);
    called_at(&mut state, 1, "https://a/x");
    assert_eq!(state.job(job(1)).unwrap().callback, None);
    assign(&mut state, 1, 1);
    apply(&mut state, complete(job(1), 1, worker(1), b"out")).unwrap();
    let [notice] = waiting(&state).try_into().unwrap();
    assert_eq!(notice.event, state.journal().last_seq());
    assert_eq!(
        (notice.job, notice.state, notice.attempt, notice.worker),
        (job(1), JobState::Completed, 1, Some(worker(1)))
    );
    assert_eq!((notice.receiver(), &notice.error), ("a", &None));
    let brought = notice.result.unwrap();
    assert_eq!((brought.output_sha256, brought.output_size), (Digest::of(b"out"), 3));
    assert_eq!(brought.output.as_deref(), Some(&b"out"[..]), "a short output comes along");

    let read = reread(&state);
    assert_eq!(read.callbacks(), state.callbacks());
    assert_eq!(apply(&mut state, delivered(notice.event)), Ok(Done::CalledBack { event: notice.event }));
    assert_eq!(called(&state, 1), Some(Called::Delivered { tries: 2 }));
    assert_eq!(apply(&mut state, delivered(notice.event)), Ok(Done::Unchanged));
    assert_eq!((state.callbacks().len(), state.callbacks().bytes(), state.callbacks().receivers()), (0, 0, 0));
}

#[test]
fn a_long_output_or_one_kept_elsewhere_does_not_come_along_nor_does_all_of_a_long_error() {
    let mut state = world(Limits { callbacks: 9, callbacks_of_one: 9, callback_bytes: 1 << 20, ..ROOMY });
    for n in 1..=2 {
        called_at(&mut state, n, "https://a/x");
        assign(&mut state, n, 1);
    }
    apply(&mut state, complete(job(1), 1, worker(1), &vec![7; OUTPUT_MAX + 1])).unwrap();
    apply(&mut state, keep(job(2), 1, worker(1), 1 << 30)).unwrap();
    let brought: Vec<_> = waiting(&state).into_iter().map(|notice| notice.result.unwrap()).collect();
    assert!(brought.iter().all(|brought| brought.output.is_none()));
    assert_eq!(brought.iter().map(|brought| brought.output_size).collect::<Vec<_>>(), [OUTPUT_MAX as u64 + 1, 1 << 30]);
    cancelled_at(&mut state, 3, "https://a/x");
    let error = waiting(&state).pop().unwrap().error.unwrap();
    assert_eq!((error.code.as_str(), error.detail.len()), ("cancelled", DETAIL_MAX));
}

#[test]
fn a_job_nobody_wants_to_hear_of_leaves_nothing() {
    let mut state = world(ROOMY);
    apply(&mut state, submit(job(1), spec(b"in"), b"in")).unwrap();
    apply(&mut state, Command::Cancel { job: job(1), reason: String::new() }).unwrap();
    assert!(state.callbacks().is_empty());
    assert_eq!(state.job(job(1)).unwrap().callback, None);
}

#[test]
fn a_job_that_is_retried_and_ends_again_is_told_of_again_under_another_number() {
    let mut state = world(ROOMY);
    called_at(&mut state, 1, "https://a/x");
    assign(&mut state, 1, 1);
    apply(&mut state, fail(job(1), 1, worker(1), false)).unwrap();
    apply(&mut state, Command::Retry { job: job(1) }).unwrap();
    assign(&mut state, 1, 2);
    apply(&mut state, complete(job(1), 2, worker(1), b"out")).unwrap();
    let notices = waiting(&state);
    let told: Vec<_> = notices.iter().map(|notice| (notice.state, notice.attempt)).collect();
    assert_eq!(told, [(JobState::Failed, 1), (JobState::Completed, 2)]);
    assert!(notices[0].event < notices[1].event);
    apply(&mut state, delivered(notices[0].event)).unwrap();
    assert_eq!(called(&state, 1), None, "the job's record is of its last end");
}

#[test]
fn a_notice_outlives_its_job() {
    let mut state = world(SMALL);
    cancelled_at(&mut state, 1, "https://a/x");
    for n in 2..=6 {
        apply(&mut state, submit(job(n), spec(b"in"), b"in")).unwrap();
        apply(&mut state, Command::Cancel { job: job(n), reason: String::new() }).unwrap();
    }
    assert!(state.job(job(1)).is_none(), "a receiver that is down keeps no job");
    let [notice] = waiting(&state).try_into().unwrap();
    assert_eq!(apply(&mut state, delivered(notice.event)), Ok(Done::CalledBack { event: notice.event }));
}

#[test]
fn too_many_for_one_receiver_give_way_among_themselves() {
    let mut state = world(Limits { callback_bytes: 1 << 20, ..ROOMY });
    cancelled_at(&mut state, 1, "https://fine/");
    for n in 2..=9 {
        cancelled_at(&mut state, n, &format!("https://dead/{n}"));
    }
    let jobs: Vec<_> = waiting(&state).iter().map(|notice| notice.job).collect();
    assert_eq!(jobs, [job(1), job(8), job(9)]);
    assert_eq!(called(&state, 7), Some(Called::GivenUp { tries: 0, code: OVERFLOW.into() }));
    assert_eq!((called(&state, 8), state.callbacks().receivers()), (None, 2));
}

#[test]
fn too_many_in_all_or_too_many_bytes_give_way_by_age_and_submissions_go_on() {
    let mut state = world(Limits { callback_bytes: 1 << 20, ..ROOMY });
    for n in 1..=9 {
        cancelled_at(&mut state, n, &format!("https://host-{n}/"));
    }
    assert_eq!(waiting(&state).iter().map(|notice| notice.job).collect::<Vec<_>>(), [job(6), job(7), job(8), job(9)]);

    let mut state = world(ROOMY);
    for n in 1..=9 {
        cancelled_at(&mut state, n, &format!("https://host-{n}/{}", "x".repeat(200)));
    }
    assert_eq!(waiting(&state).iter().map(|notice| notice.job).collect::<Vec<_>>(), [job(8), job(9)]);
    assert!(state.callbacks().bytes() <= ROOMY.callback_bytes);
}
