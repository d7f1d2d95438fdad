//! What others submit on chain is judged by the rules for all submissions.

use super::*;
use crate::domain::Digest;

const NOW: Timestamp = Timestamp(1_764_000_000_000);

fn told() -> Told {
    Told { id: U256 { high: 0, low: 7 }, client: Felt::from(0xc1u64), payment: U256 { high: 0, low: 900 } }
}

fn short(text: &[u8]) -> Felt {
    Felt::short(text).unwrap()
}

fn spec_with(kind: &[u8], uri: &[u8], sla_deadline: u64) -> Spec {
    let mut metadata = vec![short(b"ciro.ref.v1"), short(kind), Felt::from(1u128), Felt::from(2u128)];
    metadata.push(Felt::from(uri.len().div_ceil(31) as u64));
    metadata.extend(uri.chunks(31).map(short));
    Spec {
        job_type: 0,
        model_id: U256::default(),
        input_data_hash: Felt::ZERO,
        expected_output_format: Felt::ZERO,
        verification_method: 0,
        max_reward: U256 { high: 0, low: 900 },
        sla_deadline,
        compute_requirements: vec![],
        metadata,
    }
}

fn made_of(kind: &[u8], uri: &[u8], sla_deadline: u64) -> Result<Submit, String> {
    made(Felt::from(0xc0u64), &told(), &spec_with(kind, uri, sla_deadline), NOW)
}

#[test]
fn a_reference_becomes_a_job() {
    let submit = made_of(b"sha256", b"https://files.example/some/input/that-is-long.bin", 1_764_000_060).unwrap();
    assert_eq!(submit.id, JobId::from_key("chain", "0xc0:0x7"));
    assert_eq!(submit.source, Source::Chain);
    let mut digest = [0; 32];
    (digest[15], digest[31]) = (1, 2);
    assert_eq!(submit.spec.input.sha256, Digest(digest));
    assert_eq!(submit.spec.input.uri.as_deref(), Some("https://files.example/some/input/that-is-long.bin"));
    assert_eq!(submit.spec.max_price, Some(Price(900)));
    assert_eq!(submit.spec.deadline, Some(Timestamp(1_764_000_060_000)));
    assert_eq!(submit.spec.client_address.as_deref(), Some("0xc1"));
    assert_eq!(submit.payload, None);
}

#[test]
fn the_same_job_is_the_same_here_and_another_is_not() {
    let job = || made_of(b"sha256", b"https://files.example/x", 0).unwrap();
    assert_eq!(job(), job());
    assert_eq!(job().spec.deadline, None);
    let spec = spec_with(b"sha256", b"https://files.example/x", 0);
    let other = Told { id: U256 { high: 0, low: 8 }, ..told() };
    assert_ne!(job().id, made(Felt::from(0xc0u64), &other, &spec, NOW).unwrap().id);
    assert_ne!(job().id, made(Felt::from(0xc2u64), &told(), &spec, NOW).unwrap().id, "another contract");
}

#[test]
fn what_can_not_be_run_is_told_why() {
    for (kind, uri, deadline, why) in [
        (&b"Sha256"[..], &b"https://x.example/"[..], 0, "type"),
        (b"sha256", b"gopher://x.example/", 0, "input.uri"),
        (b"sha256", b"https://user:secret@x.example/", 0, "password"),
        (b"sha256", b"https://x.example/", 1_764_000_000, "deadline"),
        (b"", b"https://x.example/", 0, "type"),
    ] {
        let said = made_of(kind, uri, deadline).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    let mut spec = spec_with(b"sha256", b"https://x.example/", 0);
    spec.metadata = vec![short(b"ciro.job.v1")];
    assert!(made(Felt::ZERO, &told(), &spec, NOW).unwrap_err().contains("metadata"));
}

#[test]
fn absurd_numbers_are_bounded() {
    let told = Told { payment: U256 { high: 1, low: 0 }, ..told() };
    let submit = made(Felt::ZERO, &told, &spec_with(b"sha256", b"https://x.example/", u64::MAX), NOW).unwrap();
    assert_eq!((submit.spec.max_price, submit.spec.deadline), (Some(Price(u128::MAX)), None));
}
