//! Dead letters, out and back.

use super::fixture::{World, header, ingest, letter, named, outlet, shown};
use crate::domain::Command;
use crate::domain::kafka::Letter;
use crate::leader::publish::record::{Form, Refused};

fn refused() -> Form {
    Form::Stub(Refused { code: "record_too_large", message: "a record of 9 bytes".to_owned() })
}

#[test]
fn a_letter_goes_out_byte_for_byte_and_says_what_is_wrong() {
    let theirs = vec![named("trace", &[0xff, 0xfe]), named("trace", b"again"), named("ce_id", b"7")];
    let world = World::after([ingest(letter(41, theirs.clone()))]);
    let [message] = world.messages().try_into().unwrap();
    assert_eq!((message.topic.as_str(), message.partition), ("jobs.dlq", Some(0)));
    assert_eq!(message.key.as_deref(), Some(b"order-7".as_slice()));
    assert_eq!(message.value.as_deref(), Some([0xff, 0, 0x80].as_slice()));
    let (kept, ours) = message.headers.split_at(theirs.len());
    assert_eq!(kept, theirs);
    let ours = crate::kafka::Message { headers: ours.to_vec(), ..message.clone() };
    assert_eq!(
        shown(&ours),
        [
            "dlq.cluster: test-net",
            "dlq.id: 1",
            "dlq.original.topic: jobs",
            "dlq.original.partition: 3",
            "dlq.original.offset: 41",
            "dlq.original.timestamp: 1700000000123",
            "dlq.error.code: undecodable",
            "dlq.error.message: the value is not a job",
            "dlq.attempts: 1",
            "dlq.first_failed_at: 2025-11-24T16:00:00.001Z",
            "__connect.errors.topic: jobs",
            "__connect.errors.partition: 3",
            "__connect.errors.offset: 41",
            "__connect.errors.exception.message: the value is not a job",
        ]
    );
}

#[test]
fn headers_of_an_earlier_failure_are_replaced_not_repeated() {
    let world = World::after([ingest(letter(41, vec![named("dlq.attempts", b"9"), named("x", b"1")]))]);
    let [message] = world.messages().try_into().unwrap();
    let attempts: Vec<_> = message.headers.iter().filter(|header| &*header.name == "dlq.attempts").collect();
    assert_eq!(attempts.len(), 1);
    assert_eq!(header(&message, "dlq.attempts"), Some("1"));
    assert_eq!(header(&message, "x"), Some("1"));
}

#[test]
fn a_value_that_was_not_carried_is_named_by_its_length() {
    let long = Letter { value: None, left_out: 7_000_000, ..letter(41, vec![]) };
    let [message] = World::after([ingest(long)]).messages().try_into().unwrap();
    assert_eq!((message.value.as_deref(), header(&message, "dlq.value.left_out")), (None, Some("7000000")));

    // The same where Kafka does not take it with its value, and then not with its headers.
    let world = World::after([ingest(letter(41, vec![named("x", b"1")]))]);
    let item = world.items(0).pop().unwrap();
    let lean = outlet().message(&item, &Form::Lean);
    assert_eq!((lean.value.as_deref(), header(&lean, "dlq.value.left_out")), (None, Some("3")));
    assert_eq!((lean.key.is_some(), header(&lean, "x")), (true, Some("1")));
    let stub = outlet().message(&item, &refused());
    assert_eq!((stub.key.as_deref(), stub.value.as_deref(), header(&stub, "x")), (None, None, None));
    assert_eq!(header(&stub, "ciro.error.code"), Some("record_too_large"));
    assert_eq!(header(&stub, "dlq.original.offset"), Some("41"));
}

#[test]
fn a_replay_goes_back_as_it_came_with_the_count_of_attempts() {
    let theirs = vec![named("idempotency-key", b"k1"), named("dlq.attempts", b"1")];
    let again = Letter { attempts: 2, ..letter(41, theirs) };
    let world = World::after([ingest(again), Command::ReplayLetter { letter: 1 }]);
    let [_, back] = world.messages().try_into().unwrap();
    assert_eq!(back.topic, "jobs");
    assert_eq!(back.key.as_deref(), Some(b"order-7".as_slice()));
    assert_eq!(back.value.as_deref(), Some([0xff, 0, 0x80].as_slice()));
    assert_eq!(
        shown(&back),
        ["idempotency-key: k1", "dlq.attempts: 2", "dlq.first_failed_at: 2025-11-24T16:00:00.001Z"]
    );
}

#[test]
fn a_replay_of_a_record_without_identity_is_one_job_however_often_it_is_sent() {
    let nameless = || Letter { key: None, ..letter(41, vec![named("ce_id", b"7")]) };
    let world = World::after([ingest(nameless()), Command::ReplayLetter { letter: 1 }]);
    let back = world.messages().pop().unwrap();
    assert_eq!(header(&back, "idempotency-key"), Some("jobs/3/41"), "ce_id alone is no identity");
    let keyed = World::after([ingest(letter(41, vec![])), Command::ReplayLetter { letter: 1 }]);
    assert_eq!(header(&keyed.messages()[1], "idempotency-key"), None, "its key is");
}

#[test]
fn a_replay_that_kafka_does_not_take_is_not_lost() {
    let world = World::after([ingest(letter(41, vec![])), Command::ReplayLetter { letter: 1 }]);
    let item = world.items(0).pop().unwrap();
    let lean = outlet().message(&item, &Form::Lean);
    assert_eq!((lean.topic.as_str(), lean.value.is_some(), lean.headers.len()), ("jobs", true, 0));
    let stub = outlet().message(&item, &refused());
    assert_eq!((stub.topic.as_str(), header(&stub, "ciro.error.code")), ("jobs.dlq", Some("record_too_large")));
}

#[test]
fn letters_that_were_dropped_are_not_published() {
    let world = World::after([
        ingest(letter(41, vec![])),
        Command::ReplayLetter { letter: 1 },
        Command::DropLetter { letter: 1 },
    ]);
    assert_eq!(world.messages(), []);
}
