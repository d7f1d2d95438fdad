//! Turns: nobody starves, and no client blocks another.

use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

use super::fixture::{check, complete, register, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::command::{Command, Record};
use crate::domain::ids::{JobId, Price};
use crate::domain::job::{Job, JobSpec, Requirements};
use crate::domain::matching::{class, fits};
use crate::domain::place::{EXACT, Place};
use crate::domain::queue::{AGE_MS, URGENT_EVERY};
use crate::domain::shares::SLICE;
use crate::domain::state::State;
use crate::domain::time::Timestamp;

fn id(n: u64) -> JobId {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    JobId(id)
}

fn apply(state: &mut State, at: u64, commands: Vec<Command>) {
    let position = Position { index: state.applied() + 1, term: 1 };
    let replies = state.apply(position, &Record { at: Timestamp(at), commands });
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
}

fn of(client: &str, priority: u8) -> JobSpec {
    JobSpec { client_address: Some(client.into()), priority, ..spec(b"") }
}

fn some(jobs: std::ops::Range<u64>, spec: &JobSpec) -> Vec<Command> {
    jobs.map(|n| submit(id(n), spec.clone(), b"")).collect()
}

/// The first `count` jobs in turn are awarded and done.
fn serve(state: &mut State, at: u64, count: usize) -> Vec<JobId> {
    let served: Vec<(JobId, u32)> =
        state.open_jobs(Timestamp(at)).take(count).map(|job| (job.id, job.attempt + 1)).collect();
    let commands = served.iter().flat_map(|(job, attempt)| {
        let (job, attempt, worker) = (*job, *attempt, worker(1));
        let assign = Command::Assign { job, attempt, worker, price: Price(1), lease_ms: 9_000, evidence: None };
        [assign, complete(job, attempt, worker, b"")]
    });
    let commands = commands.collect();
    apply(state, at, commands);
    served.into_iter().map(|(job, _)| job).collect()
}

#[test]
fn one_job_is_served_within_a_few_rounds_beside_20_000_of_another_client() {
    let mut state = State::default();
    apply(&mut state, 1_000, vec![register(worker(1), 32)]);
    for n in 0..20 {
        apply(&mut state, 2_000 + n, some(n * 1_000..(n + 1) * 1_000, &of("0xa", 9)));
    }
    for _ in 0..40 {
        serve(&mut state, 300_000, 32);
    }
    apply(&mut state, 400_000, some(30_000..30_001, &of("0xb", 1)));
    let rounds = (1..).find(|_| serve(&mut state, 400_000, 32).contains(&id(30_000)));
    assert!(rounds.unwrap() <= 2, "{rounds:?} rounds");
    check(&state);
}

/// Whatever is counted instead of walked is what walking would come to, or less.
#[test]
fn a_place_is_where_the_job_is_found_or_a_lower_bound_of_it() {
    let now = Timestamp(90_000);
    let walked = |state: &State, n: u64| state.open_jobs(now).position(|open| open.id == id(n)).unwrap();
    let told = |state: &State, n: u64| state.place(state.job(id(n)).unwrap(), now);
    let mut state = State::default();
    let asks = |ram: u64, priority| {
        let requirements = Requirements { min_ram_mb: ram, ..Requirements::default() };
        JobSpec { requirements: requirements.into(), ..of("0xa", priority) }
    };
    for (turn, spec) in [asks(1, 5), asks(2, 7), asks(1, 9), asks(3, 5)].iter().enumerate() {
        let from = turn as u64 * 1_000;
        apply(&mut state, 1_000 + from * 20, some(from..from + 1_000, spec));
    }
    for n in [0, 1, 999, 1_000, 1_500, 2_047, 3_999] {
        assert_eq!(told(&state, n), Place { ahead: walked(&state, n), exact: true }, "job {n}");
    }
    // Another client waits as well.
    apply(&mut state, 80_000, some(9_000..9_600, &of("0xb", 5)));
    for n in [0, 500, 2_500, 3_999, 9_000, 9_599] {
        let (place, walked) = (told(&state, n), walked(&state, n));
        assert_eq!(place.exact, walked < EXACT, "job {n}");
        assert!(
            if place.exact { place.ahead == walked } else { place.ahead <= walked },
            "job {n}: {place:?}, {walked}"
        );
    }
    let last = told(&state, 999);
    assert!(last.ahead > EXACT, "{last:?}");
}

#[test]
fn clients_share_the_room_for_different_requirements() {
    let mut state = State::within(super::fixture::SMALL);
    let limits = state.limits;
    apply(&mut state, 1, vec![register(worker(1), 1)]);
    let asks = |client: &str, ram: u64| {
        let requirements = Requirements { min_ram_mb: ram, ..Requirements::default() };
        JobSpec { requirements: requirements.into(), ..of(client, 5) }
    };
    let mut submitted = 0;
    let mut may = |state: &mut State, spec: &JobSpec| {
        submitted += 1;
        let position = Position { index: state.applied() + 1, term: 1 };
        let record = Record { at: Timestamp(2), commands: vec![submit(id(submitted), spec.clone(), b"")] };
        let taken = state.apply(position, &record)[0].is_ok();
        check(state);
        taken
    };
    assert_eq!((limits.classes, limits.classes_in_all), (4, 5));
    assert!((0..4).all(|ram| may(&mut state, &asks("0xa", ram))));
    assert!(!may(&mut state, &asks("0xa", 4)), "a client has its bound");
    assert!(may(&mut state, &asks("0xb", 4)));
    assert!(!may(&mut state, &asks("0xb", 5)), "and all of them have one");
    assert!(may(&mut state, &asks("0xb", 0)), "what is asked for already costs no more");
}

#[test]
fn the_lowest_priority_is_served_after_nine_minutes_at_the_latest() {
    let mut state = State::default();
    apply(&mut state, 1, vec![register(worker(1), 1)]);
    apply(&mut state, 1, some(0..1, &of("0xa", 1)));
    // More urgent work comes faster than it is done.
    let served = (0..20).find(|minute| {
        let at = 1 + minute * AGE_MS;
        apply(&mut state, at, some(100 + minute * 2..102 + minute * 2, &of("0xa", 10)));
        serve(&mut state, at, 1) == [id(0)]
    });
    // Until then two of the first priority came in each minute, and one was served.
    assert_eq!(served, Some(18));
    check(&state);
}

#[test]
fn a_near_deadline_of_a_busy_client_is_met() {
    let mut state = State::default();
    apply(&mut state, 1_000, vec![register(worker(1), 100)]);
    for client in ["0xa", "0xb", "0xc"] {
        apply(&mut state, 1_000, some(0..0, &of(client, 5)));
    }
    apply(&mut state, 1_000, some(0..1_000, &of("0xa", 10)));
    serve(&mut state, 1_000, 100);
    apply(&mut state, 1_000, some(2_000..3_000, &of("0xb", 10)));
    let dated = JobSpec { deadline: Some(Timestamp(30_000)), ..of("0xa", 1) };
    apply(&mut state, 1_000, some(5_000..5_001, &dated));
    let far = JobSpec { deadline: Some(Timestamp(3_000_000)), ..of("0xa", 1) };
    apply(&mut state, 1_000, some(6_000..6_001, &far));
    let place = |n| state.open_jobs(state.now()).position(|job| job.id == id(n)).unwrap() as u64;
    assert!(place(5_000) < URGENT_EVERY, "{}", place(5_000));
    assert!(place(6_000) > 900, "one that is far off waits for its turn: {}", place(6_000));
    check(&state);
}

#[test]
fn jobs_that_nobody_wants_are_not_in_the_way_of_another_client() {
    let mut state = State::default();
    apply(&mut state, 1_000, some(0..1_000, &of("0xa", 10)));
    apply(&mut state, 61_000, some(5_000..5_001, &of("0xb", 1)));
    let wanted = |job: &Job| job.id == id(5_000);
    let found = state.serving(state.now(), |_, _| true, wanted).within(2 * SLICE as usize).next();
    assert_eq!(found.map(|job| job.id), Some(id(5_000)));
    let none = state.serving(state.now(), |_, _| true, |_| false).within(100).next();
    assert_eq!(none, None, "the look is bounded");
}

#[test]
fn who_pauses_saves_up_no_turns() {
    let mut state = State::default();
    apply(&mut state, 1_000, vec![register(worker(1), 100)]);
    apply(&mut state, 1_000, some(0..2_000, &of("0xa", 5)));
    for _ in 0..10 {
        serve(&mut state, 1_000, 100);
    }
    apply(&mut state, 1_000, some(5_000..6_000, &of("0xb", 5)));
    let first = serve(&mut state, 1_000, 96);
    let mine = first.iter().filter(|job| **job >= id(5_000)).count() as u64;
    assert!((48 - SLICE..=48 + SLICE).contains(&mine), "{mine} of 96");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// With more waiting than is served, no client is more than two slices behind another.
    #[test]
    fn clients_that_wait_are_served_alike(
        priorities in prop::collection::vec(1u8..=10, 2..6),
        rounds in prop::collection::vec(1usize..60, 1..6),
    ) {
        let mut state = State::default();
        apply(&mut state, 1_000, vec![register(worker(1), 100)]);
        for (n, priority) in (0u64..).zip(&priorities) {
            apply(&mut state, 1_000, some(n * 1_000..n * 1_000 + 200, &of(&format!("0x{n}"), *priority)));
        }
        let mut served = vec![0u64; priorities.len()];
        for count in rounds {
            for job in serve(&mut state, 1_000, count) {
                let n = u64::from_be_bytes(*job.0.first_chunk().unwrap()) / 1_000;
                served[n as usize] += 1;
            }
        }
        let (most, least) = (served.iter().max().unwrap(), served.iter().min().unwrap());
        prop_assert!(most - least <= 2 * SLICE, "{served:?}");
        check(&state);
    }

    /// What is skipped with its class is what nobody fits.
    #[test]
    fn jobs_of_one_class_fit_the_same_workers(needs in any::<[u8; 5]>(), other in any::<[u8; 5]>()) {
        let mut state = State::default();
        apply(&mut state, 1, vec![register(worker(1), 1)]);
        let with = |needs: [u8; 5], client: &str| JobSpec {
            kind: ["sha256", "wordcount"][usize::from(needs[4] % 2)].into(),
            requirements: Requirements {
                min_cpu_cores: u32::from(needs[0] % 8),
                min_ram_mb: u64::from(needs[1]) * 64,
                required_frameworks: (0..needs[2] % 3).map(|n| ["onnx", "torch"][usize::from(n)].into()).collect(),
                min_reputation: u32::from(needs[3]) * 4,
                ..Requirements::default()
            }.into(),
            ..of(client, 5)
        };
        let (one, two, three) = (with(needs, "0xa"), with(needs, "0xb"), with(other, "0xa"));
        prop_assert_eq!(class(&one), class(&two));
        let worker = state.worker(worker(1)).unwrap();
        if class(&one) == class(&three) {
            prop_assert_eq!(fits(&one, worker, None), fits(&three, worker, None));
        }
        prop_assert_eq!(one.requirements == three.requirements && one.kind == three.kind, class(&one) == class(&three));
    }
}
