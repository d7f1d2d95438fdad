//! What records may say, in which form, and what becomes of those that say it wrong.

use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::*;
use crate::domain::score::Weights;

const BODY: &str = r#"{"type":"sha256","payload":"aGk=","max_price":"9","tags":["a"]}"#;

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: Some(value.as_bytes().to_vec()) }
}

fn parts<'a>(value: &'a [u8], headers: &'a [Header]) -> Parts<'a> {
    Parts { topic: "jobs", partition: 3, offset: 7, key: None, value: Some(value), headers }
}

fn read(value: &[u8], headers: &[(&str, &str)]) -> Result<Checked, Rejected> {
    let headers: Vec<Header> = headers.iter().map(|(name, value)| header(name, value)).collect();
    from_record(&parts(value, &headers), 16)
}

fn code_of(value: &[u8], headers: &[(&str, &str)]) -> &'static str {
    read(value, headers).expect_err("must be rejected").code
}

fn job() -> proto::Job {
    proto::Job {
        r#type: "sha256".to_owned(),
        payload: Some(bytes::Bytes::from_static(b"hi")),
        max_price: Some("9".to_owned()),
        tags: vec!["a".to_owned()],
        ..Default::default()
    }
}

#[test]
fn both_forms_of_a_job_are_the_same_job() {
    let json = read(BODY.as_bytes(), &[]).unwrap();
    let binary = job().encode_to_vec();
    for headers in [
        &[][..],
        &[("content-type", "application/protobuf")],
        &[("Content-Type", "application/x-protobuf; version=1")],
        &[("ciro-version", "v1.4"), ("ce_dataschema", "https://example.org/ciro.kafka.v1.Job")],
    ] {
        let checked = read(&binary, headers).unwrap();
        assert_eq!(checked.spec, json.spec);
        assert_eq!(checked.payload.as_deref(), Some(&b"hi"[..]));
        assert_eq!(checked.fingerprint(), json.fingerprint(), "a repeat in another form is no conflict");
    }
    assert_eq!(read(BODY.as_bytes(), &[("content-type", "application/json; charset=utf-8")]).unwrap().spec, json.spec);
}

#[test]
fn every_field_of_protobuf_arrives() {
    let full = proto::Job {
        r#type: "a".to_owned(),
        input: Some(proto::Input { uri: Some("http://x/y".to_owned()), sha256: Some("ab".repeat(32)), size: Some(5) }),
        priority: Some(9),
        max_price: Some("70".to_owned()),
        price_escalation: Some(proto::PriceEscalation {
            start: Some("10".to_owned()),
            step: Some("5".to_owned()),
            every_secs: Some(30),
        }),
        deadline: Some("2030-01-01T00:00:00Z".to_owned()),
        timeout_secs: Some(60),
        requirements: Some(proto::Requirements {
            min_cpu_cores: Some(2),
            min_ram_gb: Some(1.5),
            min_gpu_memory_gb: Some(2.0),
            required_frameworks: vec!["torch".to_owned()],
            preferred_regions: vec!["eu".to_owned()],
            max_network_latency_ms: Some(40),
            max_worker_load: Some(0.25),
            min_reputation: Some(300),
        }),
        policy: Some("lowest_cost".to_owned()),
        weights: Some(proto::Weights { time: Some(3), ..Default::default() }),
        retry: Some(proto::Retry {
            max_attempts: Some(7),
            initial_delay_ms: Some(10),
            multiplier: Some(1.5),
            max_delay_ms: Some(99),
        }),
        redundancy: Some(3),
        tags: vec!["t".to_owned()],
        client_address: Some("0x0AbC".to_owned()),
        ..Default::default()
    };
    let json = r#"{"type":"a","input":{"uri":"http://x/y","sha256":"HASH","size":"5"},"priority":9,"maxPrice":"70",
        "priceEscalation":{"start":"10","step":"5","everySecs":30},"deadline":"2030-01-01T00:00:00Z","timeoutSecs":"60",
        "requirements":{"minCpuCores":2,"minRamGb":1.5,"minGpuMemoryGb":"2","requiredFrameworks":["torch"],
        "preferredRegions":["eu"],"maxNetworkLatencyMs":40,"maxWorkerLoad":0.25,"minReputation":300},
        "policy":"lowest_cost","weights":{"time":3},"retry":{"maxAttempts":7,"initialDelayMs":"10","multiplier":1.5,
        "maxDelayMs":"99"},"redundancy":3,"tags":["t"],"clientAddress":"0xabc"}"#;
    let checked = read(&full.encode_to_vec(), &[]).unwrap();
    let mapped = read(json.replace("HASH", &"ab".repeat(32)).as_bytes(), &[]).unwrap();
    assert_eq!(checked.spec, mapped.spec);
    assert_eq!(checked.spec.weights, Some(Weights { price: 0, time: 3, reputation: 0, load: 0, distance: 0 }));
    assert_eq!((checked.spec.redundancy, checked.spec.retry.max_delay_ms), (3, 99));
    assert_eq!((checked.payload, checked.spec.client_address.as_deref()), (None, Some("0xabc")));
}

#[test]
fn poison_is_told_by_its_code() {
    let binary = job().encode_to_vec();
    let truncated = &binary[..binary.len() - 1];
    let none = Parts { value: None, ..parts(&[], &[]) };
    assert_eq!(from_record(&none, 16).unwrap_err().code, code::EMPTY);
    assert_eq!(code_of(b"", &[]), code::EMPTY);
    assert_eq!(code_of(truncated, &[]), code::UNDECODABLE);
    assert_eq!(code_of(b"{\"type\":", &[]), code::UNDECODABLE);
    assert_eq!(code_of(&binary, &[("content-type", "application/json")]), code::UNDECODABLE);
    assert_eq!(code_of(BODY.as_bytes(), &[("content-type", "application/protobuf")]), code::UNDECODABLE);
    assert_eq!(code_of(BODY.as_bytes(), &[("content-type", "text/plain")]), code::UNKNOWN_CONTENT_TYPE);
    for version in [
        ("ciro-version", "2"),
        ("ciro-version", "v10.1"),
        ("ciro-version", "latest"),
        ("ce_dataschema", "https://example.org/schemas/v3/job"),
        ("content-type", "application/protobuf; version=2"),
        ("content-type", "application/x-protobuf; messageType=\"ciro.kafka.v2.Job\""),
    ] {
        assert_eq!(code_of(&binary, &[version]), code::UNKNOWN_VERSION, "{version:?}");
    }
    assert_eq!(code_of(&vec![b' '; 17 + BESIDE_PAYLOAD], &[]), code::TOO_LARGE);
    let large = proto::Job { payload: Some(vec![0; 17].into()), ..job() };
    assert_eq!(code_of(&large.encode_to_vec(), &[]), code::TOO_LARGE);
    for (field, code) in [
        (r#""priority":11"#, code::INVALID_FIELD),
        (r#""gpu":1"#, code::UNKNOWN_FIELD),
        (r#""settlement":"chain""#, code::NOT_AVAILABLE),
        (r#""maxPrice":7"#, code::INVALID_FIELD),
        (r#""timeoutSecs":60,"timeout_secs":60"#, code::INVALID_FIELD),
        (r#""maxPrise":"7""#, code::UNKNOWN_FIELD),
    ] {
        assert_eq!(code_of(format!(r#"{{"type":"a","payload":"",{field}}}"#).as_bytes(), &[]), code, "{field}");
    }
    let without = proto::Job { payload: None, ..job() };
    assert_eq!(code_of(&without.encode_to_vec(), &[]), code::MISSING_FIELD);
}

#[test]
fn the_words_are_those_of_the_rest_door() {
    let rejected = read(br#"{"type":"a","payload":"","priority":11}"#, &[]).unwrap_err();
    assert_eq!(
        (rejected.field.as_deref(), rejected.message.as_str()),
        (Some("priority"), "priority must be from 1 to 10, not 11")
    );
    let binary = proto::Job { priority: Some(11), ..job() }.encode_to_vec();
    assert_eq!(read(&binary, &[]).unwrap_err(), rejected);
    let nan = proto::Requirements { min_ram_gb: Some(f64::NAN), ..Default::default() };
    let binary = proto::Job { requirements: Some(nan), ..job() }.encode_to_vec();
    assert_eq!(read(&binary, &[]).unwrap_err().field.as_deref(), Some("requirements.min_ram_gb"));
}

#[test]
fn the_job_follows_from_the_first_key_there_is() {
    let id = |key: Option<&[u8]>, headers: &[(&str, &str)], offset| {
        let headers: Vec<Header> = headers.iter().map(|(name, value)| header(name, value)).collect();
        job_id(&Parts { key, offset, ..parts(b"x", &headers) })
    };
    let named = JobId::from_key("kafka", "k-1");
    let event = [("ce_source", "/shop"), ("ce_id", "5")];
    let all = [("ce_source", "/shop"), ("ce_id", "5"), ("idempotency-key", "k-1")];
    assert_eq!(id(Some(b"other"), &all, 1), Ok(named));
    assert_eq!(id(Some(b"k-1"), &[], 1), Ok(named));
    assert_eq!(id(Some(b"other"), &event, 1), Ok(JobId::from_key("kafka", "/shop\n5")));
    assert_eq!(id(Some(b"k-1"), &event[..1], 1), Ok(named), "half an event's identity is none");
    assert_eq!(id(None, &[], 1), Ok(JobId::from_key("kafka", "jobs/3/1")));
    assert_eq!(id(Some(b""), &[], 1), id(None, &[("idempotency-key", &place("jobs", 3, 1))], 9), "as a replay says it");
    assert_ne!(id(None, &[], 1), id(None, &[], 2));
    assert_ne!(id(Some(&[0xff]), &[], 1), id(Some(b"ff"), &[], 1));
    assert_eq!(id(None, &[("idempotency-key", "k-1"), ("idempotency-key", "k-1")], 1), Ok(named));
    for bad in [
        &[("idempotency-key", "")][..],
        &[("idempotency-key", "a b")],
        &[("idempotency-key", "a"), ("idempotency-key", "b")],
    ] {
        assert_eq!(id(None, bad, 1).unwrap_err().code, code::INVALID_HEADER, "{bad:?}");
    }
}

proptest! {
    /// Whatever bytes come, under whatever headers, they are a job or a rejection with a known code.
    #[test]
    fn no_bytes_make_it_panic(
        value in vec(any::<u8>(), 0..300),
        name in "(content-type|ciro-version|ce_dataschema|idempotency-key|ce_id|[a-z]{0,5})",
        said in vec(any::<u8>(), 0..40),
        key in vec(any::<u8>(), 0..20),
    ) {
        let headers = [Header { name: name.into(), value: Some(said) }];
        let parts = Parts { key: Some(&key), ..parts(&value, &headers) };
        for outcome in [from_record(&parts, 64).map(drop), job_id(&parts).map(drop)] {
            if let Err(rejected) = outcome {
                assert!(code::ALL.contains(&rejected.code));
                assert!(rejected.message.len() < 1_000);
            }
        }
    }

    /// A good job with some bytes changed or missing is judged, not crashed upon.
    #[test]
    fn a_damaged_job_is_judged(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(), json in any::<bool>()) {
        let mut value = if json { BODY.as_bytes().to_vec() } else { job().encode_to_vec() };
        let at = at.index(value.len());
        if cut { value.truncate(at) } else { value[at] = byte }
        if let Err(rejected) = from_record(&parts(&value, &[]), 64) {
            assert!(code::ALL.contains(&rejected.code));
        }
    }
}
