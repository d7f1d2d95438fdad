//! Runs side by side: where they go, and how the punctual are told from the late.

use std::collections::BTreeMap;

use super::fixture::{check, complete, job, register, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::auction::{Bid, Bidder, Fate, Sealed, Win, award, verify};
use crate::domain::command::{Command, Record};
use crate::domain::ids::{Price, WorkerId};
use crate::domain::job::{Job, JobSpec};
use crate::domain::score::{Nearness, Policy};
use crate::domain::state::State;
use crate::domain::time::Timestamp;

fn apply(state: &mut State, at: u64, commands: Vec<Command>) {
    let index = state.applied() + 1;
    let replies = state.apply(Position { index, term: 1 }, &Record { at: Timestamp(at), commands });
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    check(state);
}

fn register_in(n: u8, region: &str, country: &str) -> Command {
    let mut command = register(worker(n), 4);
    let Command::RegisterWorker { location, .. } = &mut command else { unreachable!() };
    (location.region, location.country) = (region.to_owned(), country.to_owned());
    command
}

/// One round for job 1: who wins, and how.
fn round(state: &State, bids: &[(u8, u128)], expected_ms: u32) -> Option<Win> {
    let job: &Job = state.job(job(1)).unwrap();
    let bid = |(n, price): &(u8, u128)| Bid {
        job: job.id,
        attempt: job.attempt + 1,
        worker: worker(*n),
        price: Price(*price),
        expected_ms,
        load_permille: 0,
        rtt_us: None,
    };
    let bidders: BTreeMap<WorkerId, Bidder<'_>> =
        state.workers().map(|worker| (worker.id, Bidder { worker, room: state.room(worker) })).collect();
    award(&[job], &bids.iter().map(bid).collect::<Vec<_>>(), &bidders).pop()
}

fn assign(win: &Win) -> Command {
    let (job, attempt, worker, price) = (win.job, win.attempt, win.worker, win.price);
    Command::Assign { job, attempt, worker, price, lease_ms: 120_000, evidence: Sealed::of(win.evidence.clone()) }
}

fn market(redundancy: u8, workers: Vec<Command>) -> State {
    let mut state = State::default();
    let spec = JobSpec { redundancy, max_price: Some(Price(100)), ..spec(b"x") };
    apply(&mut state, 1_000, workers.into_iter().chain([submit(job(1), spec, b"x")]).collect());
    state
}

#[test]
fn a_further_run_rather_goes_to_another_country_and_region() {
    let places = [("north", "SE"), ("north", "SE"), ("south", "SE"), ("west", "US"), ("", "")];
    let workers = (1..).zip(places).map(|(n, (region, country))| register_in(n, region, country));
    let mut state = market(5, workers.collect());
    let bids = [(1, 10), (2, 11), (3, 12), (4, 13), (5, 60)];
    let (mut winners, mut nearness) = (vec![], vec![]);
    while let Some(win) = round(&state, &bids, 100) {
        verify(Some(Price(100)), &Policy::Balanced.weights(), win.worker, win.price, &win.evidence).unwrap();
        let won = &win.evidence.offers[0];
        assert_eq!((won.worker, won.fate), (win.worker, Fate::Won));
        winners.push(win.worker.0[0]);
        nearness.push(won.terms.near);
        let mut forged = win.evidence.clone();
        forged.offers[0].terms.near =
            if won.terms.near == Nearness::Apart { Nearness::Region } else { Nearness::Apart };
        assert!(verify(None, &Policy::Balanced.weights(), win.worker, win.price, &forged).is_err(), "another nearness");
        apply(&mut state, 2_000, vec![assign(&win)]);
    }
    assert_eq!(winners, [1, 4, 3, 5, 2], "the same country costs less than the same region; who says nothing is apart");
    use Nearness::{Apart, Country, Region};
    assert_eq!(nearness, [Apart, Apart, Country, Apart, Region]);
}

#[test]
fn a_worker_has_one_run_of_a_job_and_gets_another_only_in_another_round() {
    let mut state = market(2, vec![register(worker(1), 4), register(worker(2), 4)]);
    let first = round(&state, &[(1, 1), (2, 50)], 0).unwrap();
    apply(&mut state, 2_000, vec![assign(&first)]);
    assert_eq!(round(&state, &[(1, 1)], 0), None, "it runs the job already");
    let second = round(&state, &[(1, 1), (2, 50)], 0).unwrap();
    assert_eq!(second.worker, worker(2));
    apply(&mut state, 3_000, vec![assign(&second)]);
    let votes = vec![complete(job(1), 1, worker(1), b"a"), complete(job(1), 2, worker(2), b"b")];
    apply(&mut state, 4_000, votes);
    let later = state.job(job(1)).unwrap().next_attempt_at;
    apply(&mut state, later.0, vec![register(worker(3), 4)]);
    assert_eq!(round(&state, &[(1, 1), (2, 1), (3, 99)], 0).unwrap().worker, worker(3), "others first");
    assert!(round(&state, &[(1, 1)], 0).is_some(), "but rather the same than nobody");
}

#[test]
fn a_result_that_breaks_its_bids_promise_is_late() {
    for (redundancy, took, fact) in
        [(1, 33_000, "completed"), (1, 33_001, "late"), (2, 33_000, "completed"), (2, 33_001, "late")]
    {
        let mut state = market(redundancy, vec![register(worker(1), 4), register(worker(2), 4)]);
        for _ in 0..redundancy {
            let win = round(&state, &[(1, 1), (2, 1)], 1_000).unwrap();
            apply(&mut state, 2_000, vec![assign(&win)]);
        }
        let first = state.job(job(1)).unwrap().runs[0].award.worker;
        apply(&mut state, 2_000 + took, vec![complete(job(1), 1, first, b"a")]);
        if redundancy == 2 {
            // What counts is when it voted, not when the other one did.
            let second = state.job(job(1)).unwrap().runs[1].award.worker;
            apply(&mut state, 90_000, vec![complete(job(1), 2, second, b"a")]);
        }
        let change = state.worker(first).unwrap().changes.last().copied().unwrap();
        assert_eq!(change.fact.as_str(), fact, "{redundancy} runs, after {took} ms");
    }
}
