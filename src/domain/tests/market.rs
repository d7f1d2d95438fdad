//! Awards and requirements.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_assert, prop_assert_eq, proptest};

use super::fixture::{check, complete, fail, job, register, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::auction::{Bid, Bidder, Evidence, Fate, Sealed, Win, award, verify};
use crate::domain::command::{Command, Record};
use crate::domain::ids::{JobId, Price, WorkerId};
use crate::domain::job::{Job, JobSpec};
use crate::domain::matching::{Live, fits, misfits};
use crate::domain::score::{Policy, Weights};
use crate::domain::state::State;
use crate::domain::time::Timestamp;
use crate::domain::worker::Worker;

fn state(commands: Vec<Command>) -> State {
    let mut state = State::default();
    let replies = state.apply(Position { index: 1, term: 1 }, &Record { at: Timestamp(1_000), commands });
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    state
}

fn market(jobs: u8, rooms: &[u32]) -> State {
    let workers = (1..).zip(rooms).map(|(n, room)| register(worker(n), *room));
    let jobs = (0..jobs).map(|n| submit(job(n), spec(&[n]), &[n]));
    state(workers.chain(jobs).collect())
}

fn bid(n: u8, w: u8, price: u128, load_permille: u32) -> Bid {
    Bid { job: job(n), attempt: 1, worker: worker(w), price: Price(price), expected_ms: 0, load_permille, rtt_us: None }
}

fn clear(state: &State, bids: &[Bid]) -> Vec<Win> {
    let jobs: Vec<&Job> = state.open_jobs(state.now()).map(AsRef::as_ref).collect();
    award(&jobs, bids, &bidders(state))
}

fn bidders(state: &State) -> BTreeMap<WorkerId, Bidder<'_>> {
    state.workers().map(|worker| (worker.id, Bidder { worker, room: state.room(worker) })).collect()
}

fn winner(wins: &[Win], id: JobId) -> Option<WorkerId> {
    wins.iter().find(|win| win.job == id).map(|win| win.worker)
}

#[test]
fn the_newest_finished_jobs_keep_the_evidence_of_their_award() {
    let mut state = market(3, &[9]);
    state.limits.evidence = 2;
    let wins = clear(&state, &[bid(0, 1, 1, 0), bid(1, 1, 1, 0), bid(2, 1, 1, 0)]);
    for (n, win) in (2..).zip(&wins) {
        let evidence = Sealed::of(win.evidence.clone());
        let (job, worker, price) = (win.job, win.worker, win.price);
        let assign = Command::Assign { job, attempt: 1, worker, price, lease_ms: 30_000, evidence };
        let record = Record { at: Timestamp(n * 1_000), commands: vec![assign, complete(job, 1, worker, b"done")] };
        assert!(state.apply(Position { index: n, term: 1 }, &record).iter().all(Result::is_ok));
        check(&state);
    }
    let kept: Vec<bool> = wins.iter().map(|win| state.job(win.job).unwrap().runs[0].award.evidence.is_some()).collect();
    assert_eq!(kept, [false, true, true]);
}

const LIVE: Live = Live { load_permille: 1_000, rtt_us: Some(40_000) };

#[test]
fn the_policy_decides_what_counts() {
    let mut bids = [bid(0, 1, 9, 0), bid(0, 2, 8, 900), bid(0, 3, 9, 900), bid(0, 4, 9, 900)];
    bids[2].expected_ms = 10;
    bids[2].rtt_us = Some(100);
    (bids[0].expected_ms, bids[1].expected_ms, bids[3].expected_ms) = (300, 900, 1_000);
    for (policy, wanted) in
        [(Policy::Balanced, 1), (Policy::LowestCost, 2), (Policy::FastestResponse, 3), (Policy::HighestReputation, 4)]
    {
        let job_spec = JobSpec { policy, ..spec(b"x") };
        let workers = (1..=4).map(|n| register(worker(n), 4));
        let mut state = state(workers.chain([submit(job(0), job_spec, b"x")]).collect());
        Arc::make_mut(state.workers.get_mut(&worker(4)).unwrap()).reputation = 1_000;
        assert_eq!(winner(&clear(&state, &bids), job(0)), Some(worker(wanted)), "{policy:?}");
    }
}

#[test]
fn a_job_may_weigh_for_itself_and_wish_for_a_region() {
    let only_price = Weights { price: 1, time: 0, reputation: 0, load: 0, distance: 0 };
    let mut wish = spec(b"y");
    wish.requirements.preferred_regions = vec!["eu-north".to_owned()];
    let mut elsewhere = register(worker(2), 4);
    let Command::RegisterWorker { location, .. } = &mut elsewhere else { unreachable!() };
    location.region = "us-west".to_owned();
    let cheap = JobSpec { weights: Some(only_price), ..spec(b"x") };
    let jobs = [submit(job(0), cheap, b"x"), submit(job(1), wish, b"y")];
    let state = state([register(worker(1), 4), elsewhere].into_iter().chain(jobs).collect());
    let bids = [bid(0, 1, 100, 0), bid(0, 2, 99, 1_000), bid(1, 1, 100, 0), bid(1, 2, 99, 0)];
    let wins = clear(&state, &bids);
    assert_eq!(winner(&wins, job(0)), Some(worker(2)), "the price alone counts");
    assert_eq!(winner(&wins, job(1)), Some(worker(1)), "it is in the region");
}

#[test]
fn an_award_records_what_it_takes_to_judge_it_again() {
    let state = market(2, &[1, 1]);
    // Worker 1 is the best for both jobs; the second could go nowhere else.
    let wins = clear(&state, &[bid(0, 1, 1, 0), bid(0, 2, 9, 0), bid(1, 1, 1, 0)]);
    assert_eq!((winner(&wins, job(0)), winner(&wins, job(1))), (Some(worker(2)), Some(worker(1))));
    let first = wins.iter().find(|win| win.job == job(0)).unwrap();
    let fates: Vec<_> = first.evidence.offers.iter().map(|offer| (offer.worker, offer.fate)).collect();
    assert_eq!(fates, [(worker(2), Fate::Won), (worker(1), Fate::Elsewhere)]);
    assert_eq!(first.evidence.bids, 2);

    let judge = |evidence: &Evidence| verify(None, &Policy::Balanced.weights(), first.worker, first.price, evidence);
    assert_eq!(judge(&first.evidence), Ok(()));
    let tampered = |change: fn(&mut Evidence)| {
        let mut evidence = first.evidence.clone();
        change(&mut evidence);
        judge(&evidence)
    };
    assert!(tampered(|e| e.offers[0].cost -= 1).is_err(), "a cost that does not follow");
    assert!(tampered(|e| e.offers[0].terms.price = Price(1)).is_err(), "another price");
    assert!(tampered(|e| e.offers[1].fate = Fate::Lost).is_err(), "a better offer that lost");
    assert!(tampered(|e| e.offers.reverse()).is_err(), "another winner");
    assert!(tampered(|e| e.scale.price = Price(1)).is_err(), "another scale");
    assert!(tampered(|e| e.offers = Box::new([])).is_err(), "nothing");
    let sealed = Sealed::of(first.evidence.clone()).unwrap();
    assert_eq!(sealed.open(first.worker, first.price), Some(first.evidence.clone()));
}

#[test]
fn equal_bids_are_drawn_by_lot_so_that_each_worker_wins_some() {
    let state = market(60, &[60, 60]);
    let wins: Vec<Win> = (0..60).flat_map(|n| clear(&state, &[bid(n, 1, 5, 0), bid(n, 2, 5, 0)])).collect();
    let first = wins.iter().filter(|win| win.worker == worker(1)).count();
    assert!((15..=45).contains(&first), "{first} of 60");
}

#[test]
fn a_worker_that_let_a_job_down_gets_it_again_only_if_nobody_else_wants_it() {
    let mut state = market(1, &[4, 4]);
    let assign = Command::Assign {
        job: job(0),
        attempt: 1,
        worker: worker(1),
        price: Price(1),
        lease_ms: 30_000,
        evidence: None,
    };
    let record = Record { at: Timestamp(2_000), commands: vec![assign, fail(job(0), 1, worker(1), true)] };
    assert!(state.apply(Position { index: 2, term: 1 }, &record).iter().all(Result::is_ok));
    let later = state.job(job(0)).unwrap().next_attempt_at;
    state.apply(Position { index: 3, term: 1 }, &Record { at: later, commands: vec![] });
    let second = |w, price| Bid { attempt: 2, ..bid(0, w, price, 0) };
    assert_eq!(winner(&clear(&state, &[second(1, 1), second(2, 900)]), job(0)), Some(worker(2)));
    assert_eq!(winner(&clear(&state, &[second(1, 1)]), job(0)), Some(worker(1)));
}

#[test]
fn equal_bids_spread_over_workers_by_room() {
    let state = market(12, &[2, 4, 6]);
    let bids: Vec<Bid> = (0..12).flat_map(|n| (1..=3).map(move |w| bid(n, w, 5, 0))).collect();
    let jobs: Vec<&Job> = state.open_jobs(state.now()).map(AsRef::as_ref).take(6).collect();
    let wins = award(&jobs, &bids, &bidders(&state));
    let won = |w| wins.iter().filter(|win| win.worker == worker(w)).count();
    assert_eq!([won(1), won(2), won(3)], [1, 2, 3]);
    let all = clear(&state, &bids);
    assert_eq!(all.len(), 12, "all room is used");
}

#[test]
fn bids_that_do_not_count() {
    let mut dear = spec(b"x");
    dear.max_price = Some(Price(10));
    let mut commands = vec![register(worker(1), 1), register(worker(2), 1), register(worker(3), 9)];
    commands.extend([submit(job(1), dear, b"x"), Command::Drain { worker: worker(2) }]);
    let state = state(commands);
    let stale = Bid { attempt: 2, ..bid(1, 1, 1, 0) };
    assert_eq!(clear(&state, &[stale]), [], "another attempt");
    assert_eq!(clear(&state, &[bid(1, 1, 11, 0)]), [], "above max_price");
    assert_eq!(clear(&state, &[bid(1, 2, 1, 0)]), [], "draining");
    assert_eq!(clear(&state, &[bid(1, 9, 1, 0)]), [], "a stranger");
    assert_eq!(clear(&state, &[bid(7, 1, 1, 0)]), [], "no such job");
    assert_eq!(clear(&state, &[bid(1, 1, 10, 0)]).len(), 1);
}

/// akash support #193, #438: a reservation or a bid outlives the job it was for.
#[test]
fn no_room_and_no_bid_outlive_the_run_they_were_for() {
    let endings = [
        complete(job(0), 1, worker(1), b"done"),
        fail(job(0), 1, worker(1), false),
        Command::Cancel { job: job(0), reason: "no longer wanted".to_owned() },
        Command::Decline { job: job(0), attempt: 1, worker: worker(1) },
    ];
    for ending in endings {
        let mut state = market(1, &[1]);
        let mut index = 1;
        let mut apply = |state: &mut State, command: &Command| {
            index += 1;
            let record = Record { at: Timestamp(index * 1_000), commands: vec![command.clone()] };
            state.apply(Position { index, term: 1 }, &record).remove(0).is_ok()
        };
        let room = |state: &State| state.room(state.worker(worker(1)).unwrap());
        let (price, evidence) = (Price(1), None);
        let assign = Command::Assign { job: job(0), attempt: 1, worker: worker(1), price, lease_ms: 30_000, evidence };
        assert!(apply(&mut state, &assign));
        assert_eq!(room(&state), 0);
        assert!(apply(&mut state, &ending), "{ending:?}");
        assert_eq!(room(&state), 1, "after {ending:?}");
        assert_eq!(clear(&state, &[bid(0, 1, 1, 0)]), [], "the bid wins nothing more after {ending:?}");
        assert!(!apply(&mut state, &assign), "nor is it awarded again after {ending:?}");
        check(&state);
    }
}

#[test]
fn each_requirement_is_judged_and_named() {
    let state = market(1, &[1]);
    let worker: &Worker = state.worker(worker(1)).unwrap();
    let mut spec = spec(b"x");
    assert_eq!(misfits(&spec, worker, Some(LIVE)), []);
    assert!(fits(&spec, worker, Some(LIVE)));
    spec.kind = "render3d".to_owned();
    spec.requirements.min_cpu_cores = 5;
    spec.requirements.min_ram_mb = 8_193;
    spec.requirements.min_gpu_memory_mb = 1;
    spec.requirements.required_frameworks = vec!["onnx".to_owned(), "pytorch".to_owned()];
    spec.requirements.preferred_regions = vec!["mars".to_owned()];
    spec.requirements.max_network_latency_ms = 1;
    spec.requirements.max_worker_load_permille = 250;
    spec.requirements.min_reputation = 501;
    spec.input.uri = Some("https://example.org/x".into());
    let told: Vec<String> = misfits(&spec, worker, Some(Live { load_permille: 251, rtt_us: Some(1_001) }))
        .into_iter()
        .map(|misfit| format!("{}: {} / {}", misfit.requirement, misfit.wanted, misfit.offered))
        .collect();
    assert_eq!(
        told,
        [
            "type: render3d / sha256, wordcount",
            "input: fetches https references / none",
            "min_cpu_cores: at least 5 / 4",
            "min_ram_gb: at least 8193 MB / 8192 MB",
            "min_gpu_memory_gb: at least 1 MB / 0 MB",
            "min_reputation: at least 501 / 500",
            "required_frameworks: pytorch / onnx",
            "max_worker_load: 0.250 / 0.251",
            "max_network_latency_ms: at most 1 ms / 2 ms",
        ]
    );
}

#[test]
fn a_job_with_a_reference_fits_who_fetches_such() {
    let state = market(1, &[1]);
    let mut worker: Worker = Worker::clone(state.worker(worker(1)).unwrap());
    let mut spec = spec(b"x");
    spec.input.uri = Some("https://example.org/x".into());
    assert!(!fits(&spec, &worker, None));
    worker.capabilities.input_schemes = vec!["file".to_owned(), "https".to_owned()];
    assert!(fits(&spec, &worker, None) && misfits(&spec, &worker, None).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_bids_gives_the_same_awards_and_no_one_gets_more_than_it_has_room_for(
        (bids, shuffled) in prop::collection::vec((0u8..10, 1u8..6, 0u128..4, 0u32..3), 0..80)
            .prop_flat_map(|bids| (Just(bids.clone()), Just(bids).prop_shuffle())),
        rooms in prop::collection::vec(1u32..4, 5),
    ) {
        let state = market(8, &rooms);
        let read = |bids: &[(u8, u8, u128, u32)]| -> Vec<Bid> {
            bids.iter().map(|(n, w, price, load)| bid(*n, *w, *price, *load)).collect()
        };
        let wins = clear(&state, &read(&bids));
        prop_assert_eq!(&wins, &clear(&state, &read(&shuffled)));
        for (w, room) in (1..).zip(&rooms) {
            prop_assert!(wins.iter().filter(|win| win.worker == worker(w)).count() as u32 <= *room);
        }
        for win in &wins {
            let offered = |bid: &Bid| (bid.job, bid.worker, bid.price) == (win.job, win.worker, win.price);
            prop_assert!(read(&bids).iter().any(offered), "a win on terms nobody offered");
        }
        // What is won can be assigned.
        let mut state = state;
        let assign = |win: &Win| Command::Assign {
            job: win.job, attempt: win.attempt, worker: win.worker, price: win.price, lease_ms: 1_000,
            evidence: Sealed::of(win.evidence.clone()),
        };
        let record = Record { at: Timestamp(2_000), commands: wins.iter().map(assign).collect() };
        assert!(state.apply(Position { index: 2, term: 1 }, &record).iter().all(Result::is_ok));
    }
}
