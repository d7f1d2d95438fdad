//! What is shown of a state with offsets and letters, with and without a connection.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::picture::{Own, Picture, Topics};
use super::{alarms, intake, letters, stats_of, status_of};
use crate::api::problem::Code;
use crate::api::request::Request;
use crate::domain::apply::Position;
use crate::domain::journal::Sink;
use crate::domain::kafka::{Header, Ingest, Item, Letter, Partition, Taken};
use crate::domain::{Command, Record, State, Timestamp};
use crate::kafka::Start;

fn partition(number: u32) -> Partition {
    Partition { topic: "ciro.jobs".into(), number }
}

fn letter(offset: u64) -> Letter {
    Letter {
        partition: partition(0),
        offset,
        timestamp_ms: Some(1_764_000_000_123),
        key: Some(b"order-17".to_vec()),
        value: Some(vec![0xff, offset as u8]),
        headers: vec![
            Header { name: "content-type".into(), value: Some(b"application/json".to_vec()) },
            Header { name: "empty".into(), value: None },
        ],
        left_out: 0,
        code: "invalid_json".into(),
        message: "the body is not JSON".into(),
        attempts: 1,
        first_failed_at: None,
    }
}

fn apply(state: &mut State, commands: Vec<Command>) {
    let position = Position { index: state.applied() + 1, term: 1 };
    let replies = state.apply(position, &Record { at: Timestamp(1_764_000_001_000), commands });
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
}

/// Three letters at the offsets 10, 11 and 12 of partition 0; nothing was published.
fn state() -> State {
    let mut state = State::default();
    let items = (10..13).map(|offset| Item { offset, taken: Taken::Letter(Box::new(letter(offset))) }).collect();
    let ingest = Ingest { cluster: "lkc-1".to_owned(), partition: partition(0), from: 10, items, next: 20 };
    apply(&mut state, vec![Command::Ingest(Box::new(ingest))]);
    state
}

fn own() -> Own {
    Own {
        state: "connected",
        bootstrap_servers: vec!["127.0.0.1:9092".to_owned()],
        mode: "external",
        delivery: "at_least_once",
        topics: Topics {
            jobs: "ciro.jobs".to_owned(),
            workers: "ciro.workers".to_owned(),
            results: "ciro.results".to_owned(),
            dead_letters: "ciro.jobs.dlq".to_owned(),
        },
        cluster_id: Some("lkc-1".to_owned()),
        brokers: vec!["127.0.0.1:9092".to_owned()],
        from: Start::Earliest,
        marks: BTreeMap::from([
            (partition(0), (0, 50)),
            (partition(1), (5, 8)),
            (Partition { topic: "ciro.results".into(), number: 0 }, (0, 7)),
        ]),
        missing: vec![],
        last_error: None,
        complaints: vec![],
        as_of: Some(Timestamp(0)),
    }
}

fn codes(picture: &Picture) -> Vec<&'static str> {
    picture.alarms().iter().map(|alarm| alarm.code).collect()
}

fn page(query: Vec<(&'static str, String)>, state: &State) -> Value {
    json!(letters::list_of(state, &Request::with_query(query)))
}

#[test]
fn a_status_joins_the_replicated_offsets_with_the_watermarks_this_node_sees() {
    let status = json!(status_of(Picture::from_parts(Some(own()), &state())));
    assert_eq!((&status["state"], &status["cluster_id"]), (&json!("connected"), &json!("lkc-1")));
    let read = &status["intake"][0];
    assert_eq!((&read["next_offset"], &read["high_watermark"], &read["lag"]), (&json!(20), &json!(50), &json!(30)));
    assert_eq!(read["dead_letters"], 3);
    assert_eq!(status["intake"].as_array().map(Vec::len), Some(2), "what is only written to is not intake");
    let unread = &status["intake"][1];
    assert_eq!((&unread["next_offset"], &unread["lag"]), (&Value::Null, &json!(3)));
    let latest = Picture::from_parts(Some(Own { from: Start::Latest, ..own() }), &state());
    assert_eq!(latest.readings[1].lag(), None, "where it begins is for the leader to see");
    assert_eq!((&status["dead_letters"], &status["undelivered"]), (&json!(3), &json!(3)));
    assert_eq!((&status["journal_cursor"], &status["alarms"]), (&Value::Null, &json!([])));
}

#[test]
fn a_node_without_kafka_still_tells_what_is_replicated_and_does_not_guess_the_lag() {
    let picture = Picture::from_parts(None, &state());
    assert!(picture.lag().is_none());
    let status = json!(status_of(picture));
    assert_eq!((&status["state"], &status["brokers"]), (&json!("disabled"), &json!([])));
    assert_eq!(status["intake"][0]["next_offset"], 20);
    assert!(status["intake"][0]["lag"].is_null() && status["intake"][0]["high_watermark"].is_null());
    assert_eq!((&status["dead_letters"], &status["recorded_cluster_id"]), (&json!(3), &json!("lkc-1")));
    assert_eq!(status["undelivered"], 0, "nothing is kept for who never was there");
}

#[test]
fn figures_are_by_topic_in_both_directions() {
    let mut state = state();
    apply(&mut state, vec![Command::Delivered { sink: Sink::Kafka, through: 2 }]);
    let stats = json!(stats_of(&Picture::from_parts(Some(own()), &state)));
    let topics = stats["topics"].as_array().unwrap();
    let of = |name: &str| topics.iter().find(|topic| topic["topic"] == name).unwrap();
    assert_eq!((&of("ciro.jobs")["messages_in"], &of("ciro.jobs")["lag"]), (&json!(3), &json!(33)));
    assert_eq!((&of("ciro.jobs.dlq")["messages_out"], &of("ciro.jobs.dlq")["lag"]), (&json!(2), &Value::Null));
    assert_eq!(of("ciro.results")["messages_out"], 0);
    assert_eq!(stats["published"]["dead_letters"], 2);
}

#[test]
fn letters_are_listed_in_pages_and_shown_byte_for_byte() {
    let mut state = state();
    apply(&mut state, vec![Command::Delivered { sink: Sink::Kafka, through: 1 }, Command::ReplayLetter { letter: 1 }]);
    let first = page(vec![("limit", "2".to_owned())], &state);
    assert_eq!((&first["size"], first["entries"].as_array().map(Vec::len)), (&json!(3), Some(2)));
    let entry = &first["entries"][0];
    for (field, value) in [
        ("id", json!("1")),
        ("topic", json!("ciro.jobs")),
        ("offset", json!(10)),
        ("code", json!("invalid_json")),
        ("attempts", json!(1)),
        ("replaying", json!(true)),
        ("published", json!(true)),
        ("failed_at", json!("2025-11-24T16:00:01.000Z")),
        ("timestamp", json!("2025-11-24T16:00:00.123Z")),
        ("value_size", json!(2)),
        ("header_count", json!(2)),
    ] {
        assert_eq!(entry[field], value, "{field}");
    }
    let cursor = first["next_cursor"].as_str().unwrap().to_owned();
    let second = page(vec![("limit", "2".to_owned()), ("cursor", cursor)], &state);
    assert_eq!((&second["entries"][0]["id"], &second["next_cursor"]), (&json!("3"), &Value::Null));
    assert_eq!(second["entries"][0]["published"], false);

    let whole = json!(letters::whole_of(&state, 1).unwrap());
    assert_eq!(whole["key"], json!({"base64": "b3JkZXItMTc=", "text": "order-17"}));
    assert_eq!(whole["value"], json!({"base64": "/wo=", "text": null}), "not UTF-8");
    assert_eq!(whole["headers"][1], json!({"name": "empty", "value": null}));
    assert!(letters::whole_of(&state, 9).is_none());
}

#[test]
fn a_value_that_was_left_out_shows_its_size_and_that_it_is_gone() {
    let mut state = State::default();
    let large = Letter { value: None, left_out: 9_000_000, code: "too_large".into(), ..letter(0) };
    let items = vec![Item { offset: 0, taken: Taken::Letter(Box::new(large)) }];
    let ingest = Ingest { cluster: "lkc-1".to_owned(), partition: partition(0), from: 0, items, next: 1 };
    apply(&mut state, vec![Command::Ingest(Box::new(ingest))]);
    let whole = json!(letters::whole_of(&state, 1).unwrap());
    assert_eq!((&whole["value"], &whole["value_size"]), (&Value::Null, &json!(9_000_000)));
    assert_eq!(whole["complete"], false);
}

#[test]
fn each_alarm_is_raised_by_its_cause_alone() {
    let state = state();
    let of = |change: fn(&mut Own)| {
        let mut own = own();
        change(&mut own);
        codes(&Picture::from_parts(Some(own), &state))
    };
    assert!(of(|_| {}).is_empty());
    assert_eq!(of(|own| own.state = "down"), ["down"]);
    assert_eq!(of(|own| own.last_error = Some("not authorised".to_owned())), ["refused"]);
    assert_eq!(of(|own| own.missing = vec!["ciro.results".to_owned()]), ["topic_missing"]);
    assert_eq!(of(|own| own.cluster_id = Some("lkc-2".to_owned())), ["other_cluster"]);
    assert_eq!(of(|own| own.complaints = vec!["ingest: offset out of range".to_owned()]), ["duty"]);
    assert_eq!(of(|own| own.marks = BTreeMap::from([(partition(0), (21, 50))])), ["records_gone"]);
    let with = |change: fn(&mut Picture)| {
        let mut picture = Picture::from_parts(None, &state);
        change(&mut picture);
        codes(&picture)
    };
    assert_eq!(with(|picture| picture.undelivered = 800_000), ["journal_near_bound"], "also while disabled");
    assert!(with(|picture| picture.undelivered = 799_999).is_empty());
    assert_eq!(with(|picture| picture.lost = 1), ["events_lost"]);
    assert_eq!(with(|picture| picture.letters = 8_000), ["dead_letters_near_bound"]);
}

#[test]
fn every_alarm_and_every_reason_of_a_letter_is_documented() {
    let page = include_str!("../../../docs/kafka.md");
    for code in alarms::CODES {
        assert!(page.contains(&format!("| `{code}` |")), "{code} in docs/kafka.md");
    }
    for code in crate::submission::code::ALL {
        assert!(page.contains(&format!("`{code}`")), "{code} in docs/kafka.md");
    }
}

#[test]
fn intake_moves_only_where_there_are_records_as_far_as_this_node_sees() {
    let picture = Picture::from_parts(Some(own()), &state());
    assert!(intake::may_seek(&picture, &partition(0), 0).is_ok());
    assert!(intake::may_seek(&picture, &partition(1), 8).is_ok(), "never read, but seen");
    for (to, next) in [(partition(0), 51), (partition(1), 4), (partition(7), 0)] {
        assert_eq!(intake::may_seek(&picture, &to, next).unwrap_err().code, Code::Conflict, "{to:?} {next}");
    }
    let blind = Picture::from_parts(None, &state());
    assert!(intake::may_seek(&blind, &partition(0), 1_000).is_ok(), "who does not see leaves it to the operator");
    assert!(intake::may_seek(&blind, &partition(1), 0).is_err(), "nobody reads it");
}

#[test]
fn only_the_cluster_that_is_seen_may_be_accepted() {
    let of = |own: Option<Own>| intake::may_reset(&Picture::from_parts(own, &state()), "lkc-2").is_ok();
    assert!(of(Some(Own { cluster_id: Some("lkc-2".to_owned()), ..own() })));
    assert!(!of(Some(own())), "another one");
    assert!(!of(Some(Own { cluster_id: None, ..own() })), "not connected yet");
    assert!(!of(None), "disabled");
}
