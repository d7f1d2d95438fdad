//! Results and workers' lives, as consumers see them.

use super::fixture::{World, assign, complete, decoded, fail, header, job, outlet, register, shown, submit, worker};
use crate::domain::journal::Sink;
use crate::domain::kafka::Lane;
use crate::domain::worker::Verdict;
use crate::domain::{Command, Digest};
use crate::kafka::Message;
use crate::leader::publish::batch::Batch;
use crate::leader::publish::record::{Form, Refused};
use crate::wire::proto::kafka::v1 as proto;

fn completed(output: &[u8]) -> World {
    World::after([register(1), submit(1), assign(1, 1, 1), complete(1, 1, 1, output)])
}

fn results(world: &World) -> Vec<Message> {
    world.messages().into_iter().filter(|message| message.topic == "results").collect()
}

#[test]
fn a_result_is_a_cloud_event_keyed_by_its_job() {
    let world = completed(b"out");
    let [result] = results(&world).try_into().unwrap();
    assert_eq!(result.key.as_deref(), Some(job(1).to_string().as_bytes()));
    assert_eq!(result.partition, None, "the key chooses");
    assert_eq!(
        shown(&result),
        [
            "ce_specversion: 1.0",
            "ce_id: test-net-4",
            "ce_source: /ciro/test-net",
            "ce_type: ciro.job.completed.v1",
            "ce_time: 2025-11-24T16:00:00.004Z",
            &format!("ce_subject: {}", job(1)),
            "content-type: application/protobuf",
            &format!("traceparent: 00-{}-0000000000000004-00", job(1).to_string().replace('-', "")),
        ]
    );
}

#[test]
fn a_result_says_what_came_out_and_who_signed_it() {
    let [result] = results(&completed(b"out")).try_into().unwrap();
    let result: proto::JobResult = decoded(&result);
    assert_eq!((result.seq, result.attempt, result.details_missing), (4, 1, false));
    assert_eq!((result.job_id, result.worker_id), (job(1).to_string(), worker(1).to_string()));
    assert_eq!((result.state, result.cause.as_str()), (proto::JobState::Completed.into(), "completed"));
    assert_eq!((result.r#type.as_str(), result.tags), ("sha256", vec!["nightly".to_owned()]));
    let outcome = result.outcome.unwrap();
    assert_eq!(outcome.output.as_deref(), Some(b"out".as_slice()));
    assert_eq!((outcome.output_sha256.as_str(), outcome.price.as_str()), (&*Digest::of(b"out").to_string(), "70"));
    assert!(!outcome.output_omitted && !outcome.kept);
    let receipt = result.receipt.unwrap();
    assert_eq!((&*receipt.signature, &*receipt.worker_public_key), (&[7; 64][..], &[1; 32][..]));
    let [run] = result.runs.try_into().unwrap();
    assert_eq!(run.vote, i32::from(proto::Vote::Agreed));
}

#[test]
fn a_result_that_is_too_long_goes_without_its_output_and_then_as_a_stub() {
    let world = completed(&[9; 5_000]);
    let item = world.items(0).pop().unwrap();
    let lean = outlet().message(&item, &Form::Lean);
    assert!(lean.size() < 1_500, "{}", lean.size());
    let result: proto::JobResult = decoded(&lean);
    let outcome = result.outcome.unwrap();
    assert_eq!((outcome.output, outcome.output_omitted, outcome.output_size), (None, true, 5_000));
    assert_eq!(outcome.output_sha256, Digest::of(&[9; 5_000]).to_string());

    let refused = Refused { code: "record_too_large", message: "é".repeat(10_000) };
    let stub = outlet().message(&item, &Form::Stub(refused));
    assert_eq!(header(&stub, "ciro.error.code"), Some("record_too_large"));
    assert_eq!(header(&stub, "ciro.error.message").unwrap().chars().count(), 512);
    let whole = outlet().message(&item, &Form::Whole);
    assert_eq!(header(&stub, "ce_id"), header(&whole, "ce_id"), "it stands for the same event");
    let result: proto::JobResult = decoded(&stub);
    assert_eq!((result.details_missing, result.seq, result.outcome), (true, item.seq, None));
    assert_eq!(result.state, i32::from(proto::JobState::Completed));
}

#[test]
fn a_job_that_got_another_chance_keeps_the_end_it_had() {
    let mut world = World::after([register(1), submit(1), assign(1, 1, 1), fail(1, 1, 1, "exit_code")]);
    let [failed] = results(&world).try_into().unwrap();
    let before: proto::JobResult = decoded(&failed);
    assert_eq!(before.error.unwrap().code, "exit_code");

    world.apply(vec![Command::Retry { job: job(1) }]);
    world.apply(vec![assign(1, 2, 1)]);
    world.apply(vec![complete(1, 2, 1, b"out")]);
    let [failed_later, completed] = results(&world).try_into().unwrap();
    assert_eq!(header(&failed_later, "ce_id"), header(&failed, "ce_id"));
    let after: proto::JobResult = decoded(&failed_later);
    assert!(after.details_missing);
    assert_eq!((after.state, after.attempt), (before.state, before.attempt));
    assert_eq!((after.cause, after.finished_at_ms), (before.cause, before.finished_at_ms));
    assert_eq!((after.outcome, after.error), (None, None), "nothing of the other end");
    let completed: proto::JobResult = decoded(&completed);
    assert_eq!((completed.attempt, completed.outcome.unwrap().output.is_some()), (2, true));
}

#[test]
fn cancelled_jobs_and_their_reason_are_published_too() {
    let reason = "not needed".to_owned();
    let world = World::after([submit(1), Command::Cancel { job: job(1), reason }]);
    let [cancelled] = results(&world).try_into().unwrap();
    assert_eq!(header(&cancelled, "ce_type"), Some("ciro.job.cancelled.v1"));
    let cancelled: proto::JobResult = decoded(&cancelled);
    assert_eq!((cancelled.worker_id.as_str(), cancelled.attempt), ("", 0));
    assert_eq!(cancelled.error.unwrap().detail, "not needed");
}

#[test]
fn a_workers_life_is_told_in_order_and_under_its_own_key() {
    let w = worker(1);
    let world = World::after([
        register(1),
        submit(1),
        assign(1, 1, 1),
        Command::Drain { worker: w },
        Command::Resume { worker: w },
        Command::SetVerdict { worker: w, verdict: Verdict::Unhealthy },
        Command::SetVerdict { worker: w, verdict: Verdict::Offline },
        register(1),
    ]);
    let lives: Vec<Message> = world.messages().into_iter().filter(|message| message.topic == "workers").collect();
    assert!(lives.iter().all(|life| life.key.as_deref() == Some(w.to_string().as_bytes())));
    let types: Vec<&str> = lives.iter().map(|life| header(life, "ce_type").unwrap()).collect();
    let wanted = ["registered", "assigned", "draining", "online", "unhealthy", "offline", "online"];
    assert_eq!(types, wanted.map(|kind| format!("ciro.worker.{kind}.v1")));

    let assigned: proto::WorkerEvent = decoded(&lives[1]);
    assert_eq!((assigned.job_id, assigned.attempt), (job(1).to_string(), 1));
    let traced: Vec<bool> = lives.iter().map(|life| header(life, "traceparent").is_some()).collect();
    assert_eq!(traced, [false, true, false, false, false, false, false], "an award belongs to its job's trace");
    let seqs: Vec<u64> = lives.iter().map(|life| decoded::<proto::WorkerEvent>(life).seq).collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
}

#[test]
fn a_worker_that_left_is_told_of_without_what_it_was_like() {
    let world = World::after([register(1), Command::UnregisterWorker { worker: worker(1) }]);
    let [_, departed] = world.messages().try_into().unwrap();
    assert_eq!(header(&departed, "ce_type"), Some("ciro.worker.departed.v1"));
    assert_eq!(header(&departed, "ce_subject"), Some(&*worker(1).to_string()));
    let departed: proto::WorkerEvent = decoded(&departed);
    assert_eq!((departed.seq, departed.region.as_str()), (2, ""));
}

#[test]
fn a_workers_event_says_what_it_is_like() {
    let world = World::after([register(1)]);
    let [life] = world.messages().try_into().unwrap();
    let life: proto::WorkerEvent = decoded(&life);
    assert_eq!(life.r#type, i32::from(proto::WorkerEventType::Registered));
    assert_eq!((life.reputation, life.banned_until_ms), (500, 0));
    assert_eq!((&*life.version, &*life.region, &*life.job_types), ("1.0.0", "eu-north", &["sha256".to_owned()][..]));
}

#[test]
fn a_ban_is_published() {
    let mut world = World::after([register(1)]);
    // As many at once as the worker has room for: one of a poor reputation gets no more.
    for jobs in [1..=8, 9..=16, 17..=24] {
        world.apply(jobs.clone().flat_map(|n| [submit(n), assign(n, 1, 1)]).collect());
        world.apply(jobs.map(|n| fail(n, 1, 1, "worker_broken")).collect());
    }
    let kinds: Vec<String> =
        world.messages().iter().filter_map(|message| header(message, "ce_type").map(str::to_owned)).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "ciro.worker.banned.v1").count(), 1, "{kinds:?}");
}

#[test]
fn a_batch_is_bounded_and_its_end_covers_what_is_not_published() {
    // One published entry and one that is not, many times.
    let mut world = World::after([register(1)]);
    for n in 1..=3_000 {
        let reason = String::new();
        world.apply(vec![submit(n), Command::Cancel { job: job(n), reason }]);
    }
    let mut batch = Batch::after(0);
    while batch.extend(&world.state) {}
    assert_eq!((batch.items.len(), batch.through, batch.lost), (3_001, 6_001, 0));
    assert_eq!(batch.lanes()[&Lane::Results], 3_000);

    let mut world = World::after([register(1)]);
    for n in 1..=8 {
        world.apply(vec![submit(n), assign(n, 1, 1)]);
        world.apply(vec![complete(n, 1, 1, &vec![1; 1 << 20])]);
    }
    let mut batch = Batch::after(0);
    while batch.extend(&world.state) {}
    let results = batch.lanes()[&Lane::Results];
    assert_eq!(results, 4, "4 MiB are enough for one batch");
    let mut rest = Batch::after(batch.through);
    while rest.extend(&world.state) {}
    assert_eq!(rest.lanes()[&Lane::Results], 4, "and what follows is in the next");
}

#[test]
fn entries_that_the_journal_dropped_are_counted() {
    let mut world = World::after([register(1)]);
    let toggle = || [Command::Drain { worker: worker(1) }, Command::Resume { worker: worker(1) }];
    for _ in 0..26 {
        world.apply((0..1_000).flat_map(|_| toggle()).collect());
    }
    // Without a sink 50 000 are kept.
    let lost = world.state.journal().first_seq() - 1;
    assert_eq!(lost, 2_001);
    let mut batch = Batch::after(0);
    batch.extend(&world.state);
    assert_eq!((batch.lost, batch.items[0].seq), (lost, lost + 1));
    assert_eq!(world.state.journal().cursor(Sink::Kafka), None);
}
