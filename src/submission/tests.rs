//! What a submission may say, and the words in which it is refused.

use super::*;
use crate::domain::score::{Policy, Weights};

fn check(body: &str) -> Result<Checked, Rejected> {
    Ok(decode::json::<Submission>(body.as_bytes())?.check(16)?)
}

fn with(field: &str) -> String {
    format!(r#"{{"type":"sha256","payload":"aGk=",{field}}}"#)
}

#[test]
fn defaults_are_filled_in() {
    let checked = check(r#"{"type":"sha256","payload":"aGk="}"#).unwrap();
    assert_eq!(checked.payload.as_deref(), Some(&b"hi"[..]));
    assert_eq!(checked.spec.input, Input { sha256: Digest::of(b"hi"), size: 2, uri: None });
    assert_eq!((checked.spec.priority, checked.spec.timeout_secs, checked.spec.redundancy), (5, 3_600, 1));
    assert_eq!(*checked.spec.retry, Retry::default());
    assert_eq!(*checked.spec.requirements, Requirements::default());
}

#[test]
fn the_same_wish_has_the_same_fingerprint() {
    let plain = check(r#"{"type":"sha256","payload":"aGk="}"#).unwrap();
    let spelt =
        with(r#""priority":5.0,"redundancy":1,"settlement":"none","tags":[],"retry":{"multiplier":2},"input":null"#);
    assert_eq!(check(&spelt).unwrap().fingerprint(), plain.fingerprint());
    let other = check(r#"{"type":"sha256","payload":"aGo="}"#).unwrap();
    assert_ne!(other.fingerprint(), plain.fingerprint());
    let one = check(&with(r#""client_address":"0x0AbC""#)).unwrap();
    let two = check(&with(r#""client_address":"0xabc""#)).unwrap();
    assert_eq!(one.fingerprint(), two.fingerprint());
}

#[test]
fn units_are_converted() {
    let body = with(r#""requirements":{"min_ram_gb":1.5,"max_worker_load":0.25},"retry":{"multiplier":1.5}"#);
    let spec = check(&body).unwrap().spec;
    assert_eq!(spec.requirements.min_ram_mb, 1_536);
    assert_eq!(spec.requirements.max_worker_load_permille, 250);
    assert_eq!(spec.retry.multiplier_permille, 1_500);
}

#[test]
fn every_field_is_bounded_and_named() {
    let cases = [
        (r#""priority":999"#, "priority", "priority must be from 1 to 10, not 999"),
        (r#""priority":-1"#, "priority", "priority must be from 1 to 10, not -1"),
        (r#""timeout_secs":0"#, "timeout_secs", "timeout_secs must be from 1 to 86400, not 0"),
        (r#""redundancy":6"#, "redundancy", "redundancy must be from 1 to 5, not 6"),
        (r#""max_price":"1e3""#, "max_price", "max_price must be a decimal string of at most 38 digits"),
        (r#""max_price":5"#, "max_price", "max_price must be a string, not integer 5"),
        (r#""tags":["",""]"#, "tags", "tags[0] must have from 1 to 64 characters, not 0"),
        (r#""client_address":"0xg""#, "client_address", ""),
        (r#""deadline":"soon""#, "deadline", ""),
        (r#""settlement":"chain""#, "settlement", ""),
        (r#""callback_url":"http://x""#, "callback_url", ""),
        (r#""input":{"uri":"http://x/"}"#, "input", "input must not be given together with payload"),
        (r#""input":[]"#, "input", "input must be an object, not an array"),
        (r#""retry":{"multiplier":0}"#, "retry.multiplier", "retry.multiplier must be from 1 to 100, not 0"),
        (r#""requirements":{"min_ram_gb":-1}"#, "requirements.min_ram_gb", ""),
        (r#""requirements":{"min_reputation":1001}"#, "requirements.min_reputation", ""),
        (r#""policy":"mine""#, "policy", ""),
        (r#""weights":{"price":101}"#, "weights.price", "weights.price must be from 0 to 100, not 101"),
        (r#""weights":{}"#, "weights", "weights must not all be 0"),
        (r#""requirements":{"gpu":1}"#, "requirements.gpu", "requirements.gpu is not a field of this body"),
        (r#""requirements":[]"#, "requirements", "requirements must be an object, not an array"),
    ];
    for (field, path, detail) in cases {
        let rejected = check(&with(field)).expect_err(field);
        assert_eq!(rejected.field.as_deref(), Some(path), "{field}");
        if !detail.is_empty() {
            assert_eq!(rejected.message, detail, "{field}");
        }
    }
}

#[test]
fn a_job_says_how_offers_are_weighed() {
    let spec = check(&with(r#""policy":"lowest_cost""#)).unwrap().spec;
    assert_eq!((spec.policy, spec.weights), (Policy::LowestCost, None));
    let spec = check(&with(r#""weights":{"time":3}"#)).unwrap().spec;
    assert_eq!(spec.weights, Some(Weights { price: 0, time: 3, reputation: 0, load: 0, distance: 0 }));
}

#[test]
fn what_is_refused_may_be_of_any_size_and_is_not_kept() {
    let large = with(&format!(r#""input":[{}]"#, vec!["0"; 10_000].join(",")));
    assert_eq!(check(&large).unwrap_err().field.as_deref(), Some("input"));
}

#[test]
fn an_input_may_be_a_reference() {
    let reference =
        |uri: &str, sha256: &str| format!(r#"{{"type":"a","input":{{"uri":"{uri}","sha256":"{sha256}","size":5}}}}"#);
    let digits = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    for sha256 in [digits.to_owned(), format!("0x{digits}"), digits.to_uppercase()] {
        let checked = check(&reference("https://example.org/a?b=c", &sha256)).unwrap();
        let uri = Some("https://example.org/a?b=c".into());
        assert_eq!(checked.spec.input, Input { sha256: Digest::of(b"hello"), size: 5, uri });
        assert_eq!((checked.payload, checked.spec.input.scheme()), (None, Some("https")));
    }
    assert!(check(&reference("file:///srv/data/x", digits)).is_ok());
    for (uri, word) in [
        ("s3://bucket/x", "must begin with"),
        ("HTTP://example.org/", "must begin with"),
        ("/srv/data/x", "must begin with"),
        ("file://host/srv/x", "must not name a host"),
        ("file:///srv/data/", "must name a file"),
        ("http://user@example.org/", "user or a password"),
        ("http://:secret@example.org/", "user or a password"),
        ("http://example.org/#part", "fragment"),
        ("http://", "is not a URI"),
        ("http://exa mple.org/", "visible ASCII"),
        (&format!("http://example.org/{}", "x".repeat(2_000)), "at most 2000"),
    ] {
        let rejected = check(&reference(uri, digits)).expect_err(uri);
        assert_eq!(rejected.field.as_deref(), Some("input.uri"), "{uri}");
        assert!(rejected.message.contains(word), "{}", rejected.message);
    }
    for (body, field) in [
        (reference("http://example.org/", "abc"), "input.sha256"),
        (r#"{"type":"a","input":{}}"#.to_owned(), "input.uri"),
        (r#"{"type":"a","input":{"uri":"http://x/"}}"#.to_owned(), "input.sha256"),
        (format!(r#"{{"type":"a","input":{{"uri":"http://x/","sha256":"{digits}"}}}}"#), "input.size"),
        (format!(r#"{{"type":"a","input":{{"uri":"http://x/","sha256":"{digits}","size":-1}}}}"#), "input.size"),
        (r#"{"type":"a","input":{"url":"http://x/"}}"#.to_owned(), "input.url"),
    ] {
        assert_eq!(check(&body).expect_err(&body).field.as_deref(), Some(field), "{body}");
    }
}

#[test]
fn payloads_are_base64_within_the_limit() {
    let large = text::base64(&[0; 17]);
    let cases = [
        (r#"{"type":"a"}"#.to_owned(), code::MISSING_FIELD),
        (r#"{"type":"a","payload":"%"}"#.to_owned(), code::INVALID_FIELD),
        (format!(r#"{{"type":"a","payload":"{large}"}}"#), code::TOO_LARGE),
        (r#"{"type":"A","payload":""}"#.to_owned(), code::INVALID_FIELD),
        (r#"{"type":"","payload":""}"#.to_owned(), code::INVALID_FIELD),
        (r#"{"type":"a-b","payload":""}"#.to_owned(), code::INVALID_FIELD),
    ];
    for (body, code) in cases {
        assert_eq!(check(&body).expect_err(&body).code, code, "{body}");
    }
}

#[test]
fn addresses_are_below_two_to_the_251() {
    for good in ["0x0", "0x00", "0x7ff", &format!("0x7{}", "f".repeat(62)), &format!("0x07{}", "f".repeat(62))] {
        assert!(address(good).is_ok(), "{good}");
    }
    for bad in ["", "0x", "7", "0x-1", &format!("0x8{}", "0".repeat(62)), &format!("0x1{}", "0".repeat(63))] {
        assert!(address(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_deadline_must_lie_ahead() {
    let checked = check(&with(r#""deadline":"2030-01-01T00:00:00Z""#)).unwrap();
    let deadline = checked.spec.deadline.unwrap();
    assert!(checked.deadline_ahead(Timestamp(deadline.0 - 1)).is_ok());
    assert_eq!(checked.deadline_ahead(deadline).unwrap_err().field, "deadline");
}
