//! What people are told of bids that lost, and of requirements that keep workers away.

use std::collections::BTreeMap;

use super::fixture::{job, register, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::auction::{Bid, Bidder};
use crate::domain::command::{Command, Record};
use crate::domain::ids::{Price, WorkerId};
use crate::domain::job::{JobSpec, Requirements};
use crate::domain::lost::{BIDS_MAX, LostRound, Why, lost, single_changes};
use crate::domain::matching::Live;
use crate::domain::state::State;
use crate::domain::time::Timestamp;

fn state(commands: Vec<Command>) -> State {
    let mut state = State::default();
    let replies = state.apply(Position { index: 1, term: 1 }, &Record { at: Timestamp(1_000), commands });
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    state
}

fn bid(worker: WorkerId, price: u128, load_permille: u32) -> Bid {
    Bid { job: job(1), attempt: 1, worker, price: Price(price), expected_ms: 0, load_permille, rtt_us: None }
}

#[test]
fn each_bid_is_told_why_it_lost_the_cheapest_first() {
    let wishes = JobSpec {
        max_price: Some(Price(10)),
        requirements: Requirements { max_worker_load_permille: 500, ..Requirements::default() }.into(),
        ..spec(b"x")
    };
    let workers = (1..=30).map(|n| register(worker(n), 1));
    let state = state(workers.chain([submit(job(1), wishes, b"x")]).collect());
    let bidders: BTreeMap<_, _> = state.workers().map(|worker| (worker.id, Bidder { worker, room: 1 })).collect();
    let mut bids: Vec<Bid> = (4..=30).map(|n| bid(worker(n), 100, 0)).collect();
    bids.extend([bid(worker(1), 12, 0), bid(worker(2), 9, 501), bid(worker(3), 10, 500)]);
    let job = state.job(job(1)).unwrap();
    let told = lost(job, Some(Price(10)), &bids.iter().collect::<Vec<_>>(), &bidders);
    assert_eq!(told.len(), BIDS_MAX);
    assert!(matches!(&told[0].why, Why::Unfit(lack) if lack.requirement == "max_worker_load"), "{:?}", told[0]);
    assert_eq!((told[1].worker, &told[1].why), (worker(3), &Why::NoRoom));
    assert_eq!((told[2].worker, &told[2].why), (worker(1), &Why::TooDear));
    let (at, ceiling) = (Timestamp(0), Some(Price(10)));
    let round = LostRound { at, attempt: 1, ceiling, answers: 30, bids: bids.len(), cheapest: told };
    assert_eq!(round.enough(), Some(Price(12)), "the cheapest that fits and was too dear");
}

#[test]
fn the_smallest_single_change_is_found_for_each_requirement() {
    let machine = |n: u8, cores: u32, ram_mb: u64, frameworks: &[&str]| {
        let mut command = register(worker(n), 1);
        let Command::RegisterWorker { capabilities, .. } = &mut command else { unreachable!() };
        (capabilities.cpu_cores, capabilities.ram_mb) = (cores, ram_mb);
        capabilities.frameworks = frameworks.iter().map(|name| (*name).into()).collect();
        command
    };
    let state = state(vec![
        machine(1, 2, 16_384, &["onnx"]),
        machine(2, 6, 16_384, &["onnx"]),
        machine(3, 6, 16_384, &["onnx"]),
        machine(4, 8, 8_704, &["onnx"]),
        machine(5, 8, 16_384, &[]),
        machine(6, 1, 1_024, &["onnx"]),
    ]);
    let wishes = JobSpec {
        requirements: Requirements {
            min_cpu_cores: 8,
            min_ram_mb: 16_384,
            required_frameworks: vec!["onnx".into()],
            ..Requirements::default()
        }
        .into(),
        ..spec(b"")
    };
    let told: Vec<String> = single_changes(&wishes, state.workers().map(|worker| (worker.as_ref(), None)))
        .into_iter()
        .map(|change| format!("{} {} -> {}: {}", change.requirement, change.wanted, change.would_do, change.workers))
        .collect();
    assert_eq!(
        told,
        [
            "min_cpu_cores at least 8 -> 6: 2",
            "min_ram_gb at least 16384 MB -> 8.5: 1",
            "required_frameworks onnx -> without onnx: 1",
        ]
    );
    let near = Requirements { max_network_latency_ms: 10, ..Requirements::default() };
    let near = JobSpec { requirements: near.into(), ..spec(b"") };
    let rtt = |us| Some(Live { load_permille: 0, rtt_us: us });
    let measured = [Some(80_000), Some(30_500), None, None, None, None];
    let workers = state.workers().zip(measured).map(|(worker, us)| (worker.as_ref(), rtt(us)));
    let told = single_changes(&near, workers);
    assert_eq!((told[0].would_do.as_str(), told[0].workers), ("31", 1));
}
