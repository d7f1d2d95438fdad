//! What records become, and that a letter is the record.

use super::*;
use crate::domain::Command;
use crate::domain::job::Input;
use crate::domain::kafka::{Ingest, Item, Partition};

pub(in crate::leader::ingest) fn record(offset: u64, value: &[u8]) -> Record {
    Record {
        partition: Partition { topic: "jobs".into(), number: 0 },
        offset,
        timestamp_ms: Some(5),
        key: Some(format!("k{offset}").into_bytes()),
        value: Some(value.to_vec()),
        headers: vec![],
        unreadable_headers: 0,
    }
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: Some(value.as_bytes().to_vec()) }
}

fn rules(now: u64, known: &dyn Fn(JobId) -> bool) -> Rules<'_> {
    Rules { door: 1_000.into(), now: Timestamp(now), least: None, known }
}

fn as_letter(taken: Taken) -> Letter {
    match taken {
        Taken::Letter(letter) => *letter,
        Taken::Job(job) => panic!("{job:?} is no letter"),
    }
}

fn buried(record: &Record) -> Letter {
    as_letter(judge(record, 1_000.into(), Timestamp(9)).0)
}

const GOOD: &[u8] = br#"{"type":"a","payload":"aGk="}"#;

#[test]
fn a_good_record_is_a_job_under_its_key() {
    let (taken, letter) = judge(&record(3, GOOD), 1_000.into(), Timestamp(9));
    let Taken::Job(submit) = taken else { panic!("{taken:?}") };
    assert_eq!((submit.id, submit.source), (JobId::from_key("kafka", "k3"), Source::Kafka));
    assert_eq!((submit.payload.as_deref(), letter), (Some(&b"hi"[..]), None));
}

#[test]
fn a_letter_is_the_record_byte_for_byte() {
    let mut poison = record(7, b"{\xff\x00");
    poison.headers = vec![header("h", "1"), Header { name: "h".into(), value: None }];
    let letter = buried(&poison);
    assert_eq!((letter.key, letter.value), (poison.key, poison.value));
    assert_eq!((letter.headers, letter.left_out, letter.offset), (poison.headers, 0, 7));
    assert_eq!((&*letter.code, letter.attempts, letter.first_failed_at), ("undecodable", 1, None));
    assert_eq!(buried(&Record { value: None, ..record(1, b"") }).value, None);
}

#[test]
fn a_replayed_record_carries_on_what_was_counted() {
    let with = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| header(name, value)).collect();
        let letter = buried(&Record { headers, ..record(1, b"") });
        (letter.attempts, letter.first_failed_at.map(|at| at.0))
    };
    let first = ("dlq.first_failed_at", "1970-01-01T00:00:00.004Z");
    assert_eq!(with(&[("dlq.attempts", "2"), first]), (3, Some(4)));
    assert_eq!(with(&[first]), (1, None), "never tried is never failed");
    assert_eq!(with(&[("dlq.attempts", "1"), ("dlq.first_failed_at", "2999-01-01T00:00:00Z")]), (2, None));
    assert_eq!(with(&[("dlq.attempts", "4294967295")]), (ATTEMPTS_MAX + 1, None));
    assert_eq!(with(&[("dlq.attempts", "-1")]), (1, None));
}

#[test]
fn what_is_too_large_for_a_letter_is_left_out_and_said_so() {
    let fits = record(1, &vec![0; LETTER_BYTES - 2]);
    assert_eq!(buried(&fits).left_out, 0);
    let value = record(1, &vec![0; LETTER_BYTES]);
    let letter = buried(&value);
    assert_eq!((letter.value, letter.left_out, letter.key), (None, LETTER_BYTES as u64, value.key));
    let mut all = record(1, b"abc");
    all.key = Some(vec![0; 2 << 20]);
    let letter = buried(&all);
    assert_eq!((letter.key, letter.value, letter.left_out), (None, None, (2 << 20) + 3));
    all.key = None;
    all.headers = vec![header("", ""); 200_000];
    let letter = buried(&Record { value: Some(vec![]), ..all });
    assert!(letter.headers.is_empty(), "headers are counted although they are empty");
}

#[test]
fn what_a_refusal_says_is_cut_at_a_character() {
    let mut entry = Entry::of(record(1, GOOD), 1_000.into(), Timestamp(9));
    entry.bury("invalid_command", &"ä".repeat(10_000), Timestamp(9));
    let letter = as_letter(entry.give(&rules(9, &|_| false)));
    assert_eq!((&*letter.code, letter.message.chars().count()), ("invalid_command", MESSAGE_MAX));
}

#[test]
fn a_late_job_is_a_letter_unless_it_is_a_repeat() {
    let late = record(1, br#"{"type":"a","payload":"","deadline":"1970-01-01T00:00:01Z"}"#);
    let entry = || Entry::of(late.clone(), 1_000.into(), Timestamp(5));
    let mut early = entry();
    assert!(matches!(early.give(&rules(999, &|_| false)), Taken::Job(_)));
    // It was not taken, and is given away again, now too late.
    let letter = as_letter(early.give(&rules(1_000, &|_| false)));
    assert_eq!((&*letter.code, early.letter()), ("expired", Some("expired")));
    assert_eq!(&*letter.message, "deadline must be in the future: 1970-01-01T00:00:01.000Z is past");
    let known = |job| job == JobId::from_key("kafka", "k1");
    assert!(matches!(entry().give(&rules(1_000, &known)), Taken::Job(_)), "a retry gets the first outcome");
}

#[test]
fn a_job_that_the_contract_would_refuse_is_a_letter_unless_it_is_a_repeat() {
    use crate::domain::chain::{Confirmation, Policy};
    use crate::submission::settlement::Defaults;
    let defaults = Defaults {
        policy: Some(Policy::SettleLater),
        confirmation: Confirmation::AcceptedL2,
        max_price: Some(crate::domain::Price(70)),
        max_escrow: None,
        payer: None,
    };
    let door = Door { settlement: Some(defaults), ..1_000.into() };
    let given = |least, known: &dyn Fn(JobId) -> bool| {
        Entry::of(record(1, GOOD), door, Timestamp(5)).give(&Rules { door, now: Timestamp(9), least, known })
    };
    assert!(matches!(given(None, &|_| false), Taken::Job(_)), "nobody knows what it takes");
    assert!(matches!(given(Some(70), &|_| false), Taken::Job(_)));
    let letter = as_letter(given(Some(71), &|_| false));
    assert_eq!(&*letter.code, "invalid_field");
    assert!(letter.message.contains("max_price × redundancy must be at least 71"), "{}", letter.message);
    assert!(matches!(given(Some(71), &|_| true), Taken::Job(_)), "a retry gets the first outcome");
}

/// The estimate is what keeps a batch below the largest command.
#[test]
fn no_item_takes_more_than_was_estimated() {
    let names = |count: usize| vec!["x".repeat(64); count];
    let everything = format!(
        r#"{{"type":"{}","input":{{"uri":"http://{}","sha256":"{}","size":1099511627776}},"priority":10,
        "max_price":"{nines}","price_escalation":{{"start":"{nines}","step":"{nines}","every_secs":86400}},
        "deadline":"9999-12-31T23:59:59Z","timeout_secs":86400,"requirements":{{"min_cpu_cores":65536,
        "min_ram_gb":1048576,"min_gpu_memory_gb":1048576,"required_frameworks":{many:?},"preferred_regions":{many:?},
        "max_network_latency_ms":3600000,"max_worker_load":1,"min_reputation":1000}},"weights":{{"price":100,
        "time":100,"reputation":100,"load":100,"distance":100}},"retry":{{"max_attempts":100,
        "initial_delay_ms":86400000,"multiplier":100,"max_delay_ms":86400000}},"redundancy":5,"tags":{tags:?},
        "client_address":"0x7{}"}}"#,
        "a".repeat(64),
        "x".repeat(1_990),
        "ab".repeat(32),
        "f".repeat(62),
        nines = "9".repeat(38),
        many = names(32),
        tags = names(16),
    );
    let mut headers = record(u64::MAX >> 1, b"?");
    headers.headers = (0..300).map(|n| header(&format!("h{n}"), &"v".repeat(n))).collect();
    for record in [
        record(u64::MAX >> 1, everything.as_bytes()),
        record(1, GOOD),
        record(1, &vec![b'?'; LETTER_BYTES / 2]),
        headers,
    ] {
        let entry = Entry::of(record.clone(), 1_000_000.into(), Timestamp(u64::MAX >> 1));
        let of = |items: Vec<Item>| {
            let (cluster, partition) = ("c".to_owned(), record.partition.clone());
            let ingest = Ingest { cluster, partition, from: 0, items, next: 0 };
            let command = Command::Ingest(Box::new(ingest));
            bincode::serde::encode_to_vec(&command, bincode::config::standard()).unwrap().len()
        };
        let taken = entry.taken.clone().unwrap();
        let real = of(vec![Item { offset: record.offset, taken }]) - of(vec![]);
        assert!(real <= entry.encoded, "{real} bytes, {} estimated: {:?}", entry.encoded, entry.letter);
    }
}

#[test]
fn an_input_by_reference_is_not_carried() {
    let reference = format!(r#"{{"type":"a","input":{{"uri":"http://x/","sha256":"{}","size":5}}}}"#, "0".repeat(64));
    let (taken, _) = judge(&record(1, reference.as_bytes()), 1_000.into(), Timestamp(9));
    let Taken::Job(submit) = taken else { panic!("{taken:?}") };
    assert_eq!(submit.payload, None);
    assert!(matches!(submit.spec.input, Input { size: 5, uri: Some(_), .. }));
}
