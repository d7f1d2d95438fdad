//! A worker against coordinators that only follow a script, over a real mesh.

mod coordinator;
mod freight;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use self::coordinator::{Coordinator, Heard, Temper, attempt, failure_code, output_of};
use super::bidder::Terms;
use super::config::LogFormat;
use super::executor::{Action, Program, Recipe};
use super::freight::Freight;
use super::inputs::Policy;
use super::simulate::{self, Dishonest, Plan};
use super::{Error, Settings, run};
use crate::domain::worker::{Capabilities, Location};
use crate::domain::{Digest, PeerId, Price};
use crate::mesh;
use crate::tasks::Tasks;
use crate::wire;

/// Runs its payload as a shell script.
const SCRIPT: &str = "script";

struct Worker {
    id: PeerId,
    stop: CancellationToken,
    life: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Worker {
    fn start(directory: &TempDir, coordinators: &[&Coordinator], tasks: &Tasks) -> Self {
        Self::start_with(settings(directory, coordinators), tasks)
    }

    fn start_with(settings: Settings, tasks: &Tasks) -> Self {
        let key = mesh::Identity::load_or_create(&settings.data_dir.join("worker.key")).unwrap();
        let stop = CancellationToken::new();
        let life = tasks.spawn("worker", run(settings, stop.clone()));
        Self { id: key.id(), stop, life }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.life.await.unwrap().unwrap();
    }
}

fn settings(directory: &TempDir, coordinators: &[&Coordinator]) -> Settings {
    let program = Program {
        path: PathBuf::from("/bin/sh"),
        arguments: vec![],
        environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        permanent_exit_codes: vec![],
    };
    let recipe = Recipe { action: Action::Command(program), max_input_bytes: 100_000, max_output_bytes: 100_000 };
    let terms = Terms { price: Price(7), max_input_bytes: 100_000, max_run_secs: 100, ..Terms::default() };
    Settings {
        data_dir: directory.path().to_owned(),
        network: "worker-test".to_owned(),
        coordinators: coordinators.iter().map(|coordinator| (coordinator.id(), coordinator.address())).collect(),
        capabilities: Capabilities {
            cpu_cores: 1,
            job_types: vec![SCRIPT.to_owned()],
            max_parallel_jobs: 2,
            ..Capabilities::default()
        },
        location: Location::default(),
        terms: BTreeMap::from([(SCRIPT.to_owned(), terms)]),
        recipes: BTreeMap::from([(SCRIPT.to_owned(), recipe)]),
        freight: freight(),
        heartbeat: Duration::from_millis(200),
        appraisal: None,
        tick: Duration::from_millis(50),
        shutdown_grace: Duration::ZERO,
        leave: false,
        log_format: LogFormat::Text,
    }
}

/// Outputs above 1000 bytes stay with the worker.
fn freight() -> Freight {
    let long = Duration::from_secs(3_600);
    Freight {
        inputs: Policy {
            schemes: vec![],
            roots: vec![],
            roots_named: vec![],
            allow_private: false,
            authorities: vec![],
            max_bytes: 1 << 20,
            connect: long,
            idle: long,
            total: long,
        },
        cache_bytes: 1 << 20,
        inline_bytes: 1_000,
        store_bytes: 2 << 20,
        keep: long,
    }
}

struct Story {
    directory: TempDir,
    tasks: Tasks,
}

impl Story {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), tasks: Tasks::new() }
    }

    /// A worker that is registered at `first`, which it also takes for the leader.
    async fn worker(&self, first: &mut Coordinator, others: &[&Coordinator]) -> Worker {
        let all: Vec<&Coordinator> = std::iter::once(&*first).chain(others.iter().copied()).collect();
        let worker = Worker::start(&self.directory, &all, &self.tasks);
        first.await_connection(worker.id).await;
        for other in others {
            other.await_connection(worker.id).await;
        }
        worker
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_from_announcement_to_signed_result() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let worker = story.worker(&mut leader, &[]).await;
    let register = leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
    assert!(matches!(register, Heard::Registered(r) if r.capabilities.as_ref().unwrap().job_types == [SCRIPT]));

    let bids = leader.announce_until_answered(SCRIPT, attempt(1, 1)).await;
    assert_eq!((bids.room, bids.bids.len()), (2, 1));
    assert_eq!(wire::price_from_bytes(&bids.bids[0].price), Some(Price(7)));

    let items = leader.assign(worker.id, SCRIPT, attempt(1, 1), "echo result; sleep 1", 10_000).await;
    assert!(items[0].accepted);
    leader.hear(|heard| matches!(heard, Heard::Beat(beat) if beat.running.len() == 1 && beat.room == 1)).await;
    let report = leader.hear_report(attempt(1, 1)).await;
    let output = output_of(&report);
    assert_eq!(output.inline.as_ref(), b"result\n");
    let sha256 = Digest::of(&output.inline);
    assert_eq!(output.sha256.as_ref(), sha256.0);
    let (job, attempt) = attempt(1, 1);
    assert!(mesh::verify(worker.id, &wire::signed_result(job, attempt, &sha256), &output.signature));
    leader.hear(|heard| matches!(heard, Heard::Beat(beat) if beat.running.is_empty() && beat.room == 2)).await;

    let card: serde_json::Value =
        serde_json::from_slice(&std::fs::read(story.directory.path().join("worker.json")).unwrap()).unwrap();
    assert_eq!(card, serde_json::json!({ "worker_id": worker.id.to_string(), "pid": std::process::id() }));
    worker.stop().await;
    leader.hear(|heard| matches!(heard, Heard::Beat(beat) if beat.stopping)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_coordinator_dies_the_result_goes_to_another() {
    let story = Story::new();
    let mut first = Coordinator::start(1).await;
    let mut second = Coordinator::start(2).await;
    let worker = story.worker(&mut first, &[&second]).await;
    first.announce_until_answered(SCRIPT, attempt(1, 1)).await;
    let items = first.assign(worker.id, SCRIPT, attempt(1, 1), "sleep 0.5; echo late", 60_000).await;
    assert!(items[0].accepted);
    // It takes the result, but dies before it answers.
    first.set_temper(Temper::Silent);
    first.hear_report(attempt(1, 1)).await;
    first.die().await;
    let report = second.hear_report(attempt(1, 1)).await;
    assert_eq!(output_of(&report).inline.as_ref(), b"late\n");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_hangs_does_not_hold_up_a_result() {
    let story = Story::new();
    let mut hangs = Coordinator::start(1).await;
    let mut other = Coordinator::start(2).await;
    let worker = story.worker(&mut hangs, &[&other]).await;
    hangs.announce_until_answered(SCRIPT, attempt(1, 1)).await;
    assert!(hangs.assign(worker.id, SCRIPT, attempt(1, 1), "echo soon", 60_000).await[0].accepted);
    hangs.set_temper(Temper::Silent);
    hangs.hear_report(attempt(1, 1)).await;
    let asked = crate::clock::instant();
    other.hear_report(attempt(1, 1)).await;
    assert!(asked.elapsed() < super::courier::ANSWER_LIMIT, "it waited for the one that hangs");
    other.await_accepted(attempt(1, 1)).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_nobody_took_is_delivered_after_a_restart_and_not_run_again() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    leader.set_temper(Temper::Undecided);
    let worker = story.worker(&mut leader, &[]).await;
    let witness = story.directory.path().join("runs");
    let script = format!("echo run >> {}; echo kept", witness.display());
    leader.assign(worker.id, SCRIPT, attempt(1, 1), &script, 60_000).await;
    leader.hear_report(attempt(1, 1)).await;
    let id = worker.id;
    worker.stop().await;

    leader.await_disconnection(id).await;
    leader.set_temper(Temper::Accepting);
    leader.forget();
    let worker = story.worker(&mut leader, &[]).await;
    assert_eq!(worker.id, id, "the key is the identity");
    assert_eq!(output_of(&leader.hear_report(attempt(1, 1)).await).inline.as_ref(), b"kept\n");
    let again = leader.assign(worker.id, SCRIPT, attempt(1, 1), &script, 60_000).await;
    assert!(again[0].accepted, "known, not run again");
    leader.hear(|heard| matches!(heard, Heard::Beat(beat) if beat.running.is_empty())).await;
    assert_eq!(std::fs::read_to_string(witness).unwrap(), "run\n");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_another_key_signed_are_not_handed_in() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    leader.set_temper(Temper::Undecided);
    let worker = story.worker(&mut leader, &[]).await;
    leader.assign(worker.id, SCRIPT, attempt(1, 1), "echo old", 60_000).await;
    leader.hear_report(attempt(1, 1)).await;
    let id = worker.id;
    worker.stop().await;
    leader.await_disconnection(id).await;

    std::fs::remove_file(story.directory.path().join("worker.key")).unwrap();
    leader.set_temper(Temper::Accepting);
    leader.forget();
    let worker = story.worker(&mut leader, &[]).await;
    assert_ne!(worker.id, id);
    leader.assign(worker.id, SCRIPT, attempt(2, 1), "echo new", 60_000).await;
    let first = leader.hear(|heard| matches!(heard, Heard::Report(..))).await;
    assert!(matches!(first, Heard::Report(key, _) if key == attempt(2, 1)), "{first:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_lives_as_long_as_its_lease() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let worker = story.worker(&mut leader, &[]).await;
    leader.assign(worker.id, SCRIPT, attempt(1, 1), "exec sleep 60", 500).await;
    leader.assign(worker.id, SCRIPT, attempt(2, 1), "sleep 1; echo renewed", 500).await;
    let renewed = leader.renew(worker.id, &[attempt(2, 1), attempt(3, 1)], 30_000).await;
    assert_eq!((renewed[0].accepted, renewed[1].code.as_str()), (true, "unknown_attempt"));
    let lapsed = leader.hear_report(attempt(1, 1)).await;
    assert_eq!(failure_code(&lapsed), ("lease_lost", true));
    assert_eq!(output_of(&leader.hear_report(attempt(2, 1)).await).inline.as_ref(), b"renewed\n");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_answered_item_by_item() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let stranger = Coordinator::start(2).await;
    let worker = story.worker(&mut leader, &[]).await;
    let sleep = "exec sleep 60";
    assert_eq!(leader.assign(worker.id, "video", attempt(1, 1), sleep, 60_000).await[0].code, "unknown_type");
    assert!(leader.assign(worker.id, SCRIPT, attempt(1, 1), sleep, 60_000).await[0].accepted);
    assert!(leader.assign(worker.id, SCRIPT, attempt(1, 1), sleep, 60_000).await[0].accepted);
    assert!(leader.assign(worker.id, SCRIPT, attempt(2, 1), sleep, 60_000).await[0].accepted);
    assert_eq!(leader.assign(worker.id, SCRIPT, attempt(3, 1), sleep, 60_000).await[0].code, "no_room");
    assert!(leader.assign(worker.id, SCRIPT, attempt(2, 2), sleep, 60_000).await[0].accepted, "replaces the first");

    assert!(leader.stop(worker.id, &[attempt(1, 1)], "cancelled").await[0].accepted);
    assert_eq!(failure_code(&leader.hear_report(attempt(1, 1)).await), ("cancelled", true));
    leader.hear(|heard| matches!(heard, Heard::Beat(beat) if beat.running.len() == 1 && beat.room == 1)).await;
    assert!(leader.refuses_garbage(worker.id).await);
    assert!(!stranger.reaches(worker.id).await, "a worker opens no port");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_run_anything_takes_no_more_for_a_while() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let mut settings = settings(&story.directory, &[&leader]);
    if let Some(Recipe { action: Action::Command(program), .. }) = settings.recipes.get_mut(SCRIPT) {
        program.path = PathBuf::from("/nonexistent/program");
    }
    let worker = Worker::start_with(settings, &story.tasks);
    leader.await_connection(worker.id).await;
    assert!(leader.assign(worker.id, SCRIPT, attempt(1, 1), "", 60_000).await[0].accepted);
    assert_eq!(failure_code(&leader.hear_report(attempt(1, 1)).await), ("spawn", true));
    leader.hear(|heard| matches!(heard, Heard::Beat(beat) if beat.running.is_empty() && beat.room == 0)).await;
    assert_eq!(leader.assign(worker.id, SCRIPT, attempt(2, 1), "", 60_000).await[0].code, "no_room");
    assert_eq!(leader.announce_until_answered(SCRIPT, attempt(2, 1)).await.bids.len(), 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_not_known_registers_again_and_then_delivers() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let worker = story.worker(&mut leader, &[]).await;
    leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
    leader.set_temper(Temper::UnknownUntilRegistered);
    leader.assign(worker.id, SCRIPT, attempt(1, 1), "echo x", 60_000).await;
    leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
    leader.await_accepted(attempt(1, 1)).await;

    leader.forget();
    leader.stop(worker.id, &[], "unknown_worker").await;
    leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_are_learned_from_the_leader_and_obeyed() {
    let story = Story::new();
    let mut first = Coordinator::start(1).await;
    let mut second = Coordinator::start(2).await;
    first.introduce(&second);
    let worker = story.worker(&mut first, &[]).await;
    first.announce_until_answered(SCRIPT, attempt(1, 1)).await;
    second.await_connection(worker.id).await;
    first.die().await;
    assert!(second.assign(worker.id, SCRIPT, attempt(1, 1), "echo ok", 60_000).await[0].accepted);
    assert_eq!(output_of(&second.hear_report(attempt(1, 1)).await).inline.as_ref(), b"ok\n");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_for_one_worker() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let worker = story.worker(&mut leader, &[]).await;
    let second = run(settings(&story.directory, &[&leader]), CancellationToken::new()).await;
    assert!(matches!(second, Err(Error::InUse { .. })));
    worker.stop().await;
}

/// Runs simulated workers against `leader`, until the token is cancelled.
fn crowd(story: &Story, leader: &Coordinator, plan: Plan) -> Worker {
    let recipe = Recipe { action: Action::Noop, max_input_bytes: 100, max_output_bytes: 100 };
    let mut settings = settings(&story.directory, &[leader]);
    settings.terms.insert("noop".to_owned(), settings.terms[SCRIPT].clone());
    settings.recipes.insert("noop".to_owned(), recipe);
    settings.capabilities.job_types.push("noop".to_owned());
    let stop = CancellationToken::new();
    let life = story.tasks.spawn("crowd", simulate::run(settings, plan, stop.clone()));
    Worker { id: leader.id(), stop, life }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simulated_workers_register_and_bid_each_for_itself() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let plan = Plan { workers: 3, seed: Some(1), price_spread: 1_000, dishonest: None };
    let crowd = crowd(&story, &leader, plan);
    for _ in 0..plan.workers {
        let register = leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
        assert!(matches!(register, Heard::Registered(r) if r.capabilities.as_ref().unwrap().job_types == ["noop"]));
    }
    let mut prices = BTreeSet::new();
    for round in 1..=20 {
        leader.announce_until_answered("noop", attempt(round, 1)).await;
        let bids = leader.hear(|heard| matches!(heard, Heard::Bids(bids) if !bids.bids.is_empty())).await;
        let Heard::Bids(bids) = bids else { continue };
        assert_eq!(bids.signature.len(), 64);
        assert_ne!(bids.reach, 0);
        prices.insert(wire::price_from_bytes(&bids.bids[0].price).unwrap());
    }
    assert!(prices.len() > 1, "several of them bid: {prices:?}");
    crowd.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dishonest_workers_are_let_in_like_any_other() {
    for dishonest in [Dishonest::Vanish, Dishonest::WrongResult, Dishonest::Forge] {
        let story = Story::new();
        let mut leader = Coordinator::start(1).await;
        let plan = Plan { workers: 1, seed: Some(1), price_spread: 0, dishonest: Some(dishonest) };
        let crowd = crowd(&story, &leader, plan);
        leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
        leader.hear(|heard| matches!(heard, Heard::Beat(beat) if beat.room > 0)).await;
        let bids = leader.announce_until_answered("noop", attempt(1, 1)).await;
        assert_eq!(bids.bids[0].price.len(), 0, "{dishonest:?} asks nothing");
        crowd.stop().await;
    }
}
