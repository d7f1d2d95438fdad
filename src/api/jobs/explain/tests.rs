//! What an answer costs where there is much to look at.

use std::time::Duration;

use super::*;
use crate::domain::apply::Position;
use crate::domain::command::{Command, Record, Submit};
use crate::domain::job::{JobSpec, Requirements, Source};
use crate::domain::matching::Live;
use crate::domain::worker::{Capabilities, Location};
use crate::domain::{Digest, PeerId, State, sample};

const JOBS: u64 = 200_000;
const WORKERS: u16 = 1_000;
const CLIENTS: u64 = 50;

fn job(n: u64) -> JobId {
    JobId::from_key("test", &n.to_string())
}

/// What nobody may change is asked for, so that every worker has a word to say.
fn submit(n: u64, clients: u64) -> Command {
    let requirements = Requirements { min_cpu_cores: 64, ..Requirements::default() };
    let spec = JobSpec {
        priority: u8::try_from(n % 10).unwrap() + 1,
        requirements: requirements.into(),
        client_address: (clients > 1).then(|| format!("0x{:x}", n % clients + 1).into()),
        ..sample::spec()
    };
    let fingerprint = Digest::of(&n.to_be_bytes());
    Command::Submit(Box::new(Submit {
        id: job(n),
        spec,
        payload: Some(sample::INPUT.to_vec()),
        fingerprint,
        source: Source::Api,
    }))
}

fn register(n: u16) -> Command {
    let mut worker = [7; 32];
    worker[..2].copy_from_slice(&n.to_be_bytes());
    let capabilities = Capabilities {
        cpu_cores: 8,
        max_parallel_jobs: 4,
        job_types: vec!["sha256".to_owned()],
        ..Capabilities::default()
    };
    let (location, version) = (Location::default(), "1.0.0".to_owned());
    Command::RegisterWorker { worker: PeerId(worker), capabilities: Box::new(capabilities), location, version }
}

fn apply(state: &mut State, commands: Vec<Command>) {
    let position = Position { index: state.applied() + 1, term: 1 };
    let replies = state.apply(position, &Record { at: Timestamp(1_000 + position.index), commands });
    assert!(replies.iter().all(Result::is_ok));
}

fn crowded(jobs: u64, workers: u16, clients: u64) -> State {
    let mut state = State::default();
    apply(&mut state, (0..workers).map(register).collect());
    for from in (0..jobs).step_by(1_000) {
        apply(&mut state, (from..jobs.min(from + 1_000)).map(|n| submit(n, clients)).collect());
    }
    assert_eq!(state.open_count() as u64, jobs);
    state
}

fn heard(_: crate::domain::WorkerId) -> (Live, Option<u32>) {
    (Live { load_permille: 100, rtt_us: Some(900) }, Some(3))
}

#[test]
fn a_glance_has_the_place_and_the_workers_of_a_job_that_waits() {
    let state = crowded(30, 3, 1);
    let glance = |n| Glance::of(&state, None, job(n), Timestamp(0));
    assert!(glance(30).is_none());
    // The same minute and the same record: by priority 10 to 1, then by id.
    let mut turns: Vec<u64> = (0..30).collect();
    turns.sort_by_key(|n| (9 - n % 10, job(*n)));
    for (ahead, n) in turns.into_iter().enumerate() {
        assert_eq!(glance(n).unwrap().place, Some(Place { ahead, exact: true }), "job {n}");
    }
    let crowd = Crowd::of(&glance(0).unwrap().job, &glance(0).unwrap().workers, heard);
    assert_eq!((crowd.known, crowd.fitting, crowd.eligible, crowd.told.len()), (3, 0, 0, 3));
    let told = serde_json::to_value(&crowd.told).unwrap();
    assert_eq!(told[0]["misfits"][0]["requirement"], "min_cpu_cores");
    assert_eq!((&told[0]["room"], &told[0]["eligible"]), (&3.into(), &false.into()));
}

/// Run it with `--ignored --nocapture`.
#[test]
#[ignore = "measures, and asserts nothing"]
fn measure_an_answer_among_200_000_open_jobs_and_1_000_workers() {
    let took = |what: &str, work: &mut dyn FnMut()| {
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let begun = clock::instant();
                work();
                begun.elapsed()
            })
            .collect();
        times.sort();
        println!("{what:<44} median {:?}, worst {:?}", times[4], times[8]);
    };
    for clients in [1, CLIENTS] {
        let mut state = crowded(JOBS, WORKERS, clients);
        println!("{JOBS} open jobs of {clients} clients, {WORKERS} workers");
        let (id, now) = (job(JOBS - 10), state.now());
        let glance = || Glance::of(&state, None, id, now).unwrap();
        let workers = glance().workers;
        let found = Arc::clone(&glance().job);
        took("copy of the whole state", &mut || drop(state.clone()));
        took("5 000 places, walked", &mut || {
            assert!(state.open_jobs(now).take(5_000).all(|open| open.id != job(JOBS + 1)));
        });
        took("its place", &mut || assert!(state.place(&found, now).ahead > 0));
        took("what is taken under the lock, with the place", &mut || drop(glance()));
        took("workers, matched", &mut || drop(Crowd::of(&found, &workers, heard)));
        let crowd = Crowd::of(&found, &workers, heard);
        took("workers, written down", &mut || drop(serde_json::to_vec(&crowd.told).unwrap()));
        let copy = state.clone();
        let begun = clock::instant();
        apply(&mut state, vec![submit(JOBS + 1, clients)]);
        println!("{:<44} {:?}", "a write while a copy is held", begun.elapsed());
        drop(copy);
    }
}
