//! A real receipt holds, and every lie in it is found.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Check, check};
use crate::api::receipt::{issue, statement};
use crate::domain::apply::Position;
use crate::domain::auction::{self, Bid, Bidder, Sealed, Win};
use crate::domain::bid_proof::{Head, Leaf, Proof, Tree};
use crate::domain::command::{Complete, Record, Submit};
use crate::domain::job::{Input, JobSpec, Source};
use crate::domain::worker::{Capabilities, Location};
use crate::domain::{Command, Digest, Job, JobId, Price, State, Timestamp, sample};
use crate::mesh::Identity;
use crate::wire;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

const JOB: JobId = JobId([9; 16]);

fn worker(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

fn issuer() -> Identity {
    Identity::from_secret([77; 32])
}

/// A job that `redundancy` workers ran. The first to get it lies, if there is more than one.
fn done(redundancy: u8) -> State {
    let mut state = State::default();
    let mut commands: Vec<Command> = (1..=redundancy).map(register).collect();
    commands.push(submit(redundancy));
    apply(&mut state, commands);
    let wins: Vec<Win> = (1..=redundancy).map(|_| award(&mut state)).collect();
    for (turn, win) in wins.iter().enumerate() {
        let output: &[u8] = if turn == 0 && redundancy > 1 { b"lie" } else { b"truth" };
        let signer = (1..=redundancy).map(worker).find(|worker| worker.id() == win.worker).unwrap();
        apply(&mut state, vec![complete(win, &signer, output)]);
    }
    state
}

fn apply(state: &mut State, commands: Vec<Command>) {
    let index = state.applied() + 1;
    let replies = state.apply(Position { index, term: 1 }, &Record { at: Timestamp(index * 1_000), commands });
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
}

fn register(n: u8) -> Command {
    let capabilities = Capabilities {
        cpu_cores: 4,
        job_types: vec!["sha256".to_owned()],
        max_parallel_jobs: 2,
        ..Capabilities::default()
    };
    let location = Location { region: format!("region-{}", n % 2), country: "SE".to_owned(), ..Location::default() };
    let worker = worker(n).id();
    Command::RegisterWorker { worker, capabilities: Box::new(capabilities), location, version: "1.0.0".to_owned() }
}

fn submit(redundancy: u8) -> Command {
    let spec = JobSpec {
        input: Input { sha256: Digest::of(b"input"), size: 5, uri: None },
        max_price: Some(Price(1_000)),
        redundancy,
        ..sample::spec()
    };
    let (payload, fingerprint) = (Some(b"input".to_vec()), Digest([1; 32]));
    Command::Submit(Box::new(Submit { id: JOB, spec, payload, fingerprint, source: Source::Api }))
}

/// One round: every worker bids, one wins, and its signature is kept.
fn award(state: &mut State) -> Win {
    let job: &Job = state.job(JOB).unwrap();
    let bidders = state.workers().map(|worker| (worker.id, Bidder { worker, room: state.room(worker) })).collect();
    let bids: Vec<Bid> = (1..)
        .zip(state.workers())
        .map(|(n, worker)| Bid {
            job: JOB,
            attempt: job.attempt + 1,
            worker: worker.id,
            price: Price(100 * n),
            expected_ms: 500,
            load_permille: 100,
            rtt_us: Some(20_000),
        })
        .collect();
    let mut win = auction::award(&[job], &bids, &bidders).pop().expect("somebody wins");
    let signer = (1..=9).map(worker).find(|worker| worker.id() == win.worker).unwrap();
    let leaf = Leaf { job: JOB, attempt: win.attempt, price: win.price, expected_ms: 500 };
    let other = Leaf { job: JobId([8; 16]), ..leaf };
    let tree = Tree::over(vec![leaf.hash(), other.hash()]);
    let head = Head { term: 1, seq: 2, room: 2, load_permille: 100, nonce: 7, count: 2 };
    let signature = signer.sign(&head.statement(&tree.root()));
    win.evidence.proof = Some(Box::new(Proof { head, place: 0, path: tree.path(0), signature }));
    let Win { job, attempt, worker, price, evidence } = win.clone();
    let evidence = Sealed::of(evidence);
    apply(state, vec![Command::Assign { job, attempt, worker, price, lease_ms: 30_000, evidence }]);
    win
}

fn complete(win: &Win, signer: &Identity, output: &[u8]) -> Command {
    let output_sha256 = Digest::of(output);
    Command::Complete(Box::new(Complete {
        kept_size: 0,
        job: JOB,
        attempt: win.attempt,
        worker: win.worker,
        output: output.to_vec(),
        output_sha256,
        exit_code: 0,
        duration_ms: 12,
        signature: signer.sign(&wire::signed_result(JOB, win.attempt, &output_sha256)),
    }))
}

/// As a client reads it.
fn receipt(state: &State) -> Value {
    let issued = issue(state, state.job(JOB).unwrap(), &issuer()).expect("the job is completed");
    serde_json::from_str(&serde_json::to_string_pretty(&issued).unwrap()).unwrap()
}

fn lie(checks: &[Check]) -> Option<&'static str> {
    checks.iter().find(|check| check.found.is_err()).map(|check| check.name)
}

/// The name of the first check that fails.
fn found_by(receipt: &Value) -> Option<&'static str> {
    lie(&check(receipt, None, &[]))
}

/// Signs again, as a node that lies would.
fn resigned(mut receipt: Value) -> Value {
    receipt["issuer"]["signature"] = json!(BASE64.encode(issuer().sign(&statement(&receipt["receipt"]))));
    receipt
}

/// JSON pointers to everything in `value` that holds no more values.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(key, field)| leaves(field, &format!("{at}/{key}"), found));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(place, item)| leaves(item, &format!("{at}/{place}"), found));
        }
        _ => found.push(at.to_owned()),
    }
}

/// Other values for a leaf, near and far.
fn forgeries(value: &Value) -> Vec<Value> {
    let mut forged = match value {
        Value::String(text) => {
            let flip = |place: usize| {
                let mut chars: Vec<char> = text.chars().collect();
                if let Some(c) = chars.get_mut(place) {
                    *c = if *c == '1' { '2' } else { '1' };
                }
                json!(chars.into_iter().collect::<String>())
            };
            let length = text.chars().count();
            vec![flip(0), flip(length / 2), flip(length.saturating_sub(1)), json!(format!("{text}0")), json!("")]
        }
        Value::Number(number) => {
            vec![json!(number.as_f64().unwrap_or_default() + 1.0), json!(number.as_u64().unwrap_or_default() + 1)]
        }
        Value::Bool(truth) => vec![json!(!truth)],
        _ => vec![json!(1), json!("x")],
    };
    forged.push(Value::Null);
    forged.retain(|other| other != value);
    forged
}

fn with(receipt: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = receipt.clone();
    *changed.pointer_mut(pointer).unwrap() = value;
    changed
}

#[test]
fn a_real_receipt_holds_and_says_what_was_checked() {
    let receipt = receipt(&done(3));
    let checks =
        check(&receipt, Some(issuer().id()), &[("input", Digest::of(b"input")), ("output", Digest::of(b"truth"))]);
    assert_eq!(lie(&checks), None, "{checks:?}\n{receipt:#}");
    let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
    assert_eq!(names, ["format", "issuer", "results", "majority", "awards", "payment", "input", "output"]);
    let counts: Vec<bool> =
        receipt["receipt"]["runs"].as_array().unwrap().iter().map(|run| run["counts"] == true).collect();
    assert_eq!(counts, [false, true, true]);
    assert_eq!(found_by(&self::receipt(&done(1))), None, "a job that one worker ran");
}

#[test]
fn no_award_is_for_more_than_a_rising_offer_had_come_to() {
    let rises = |step: &str, queued_at: &str| {
        let mut receipt = receipt(&done(1));
        // Evidence is judged by the ceiling as well; without it the price alone is.
        receipt["receipt"]["runs"][0]["award"]["evidence"] = Value::Null;
        receipt["receipt"]["price_escalation"] = json!({"start": "40", "step": step, "every_secs": 1});
        receipt["receipt"]["queued_at"] = json!(queued_at);
        found_by(&resigned(receipt))
    };
    // Awarded two seconds after the start of time, for 100.
    assert_eq!(rises("30", "1970-01-01T00:00:00.000Z"), None, "40 + 2 * 30");
    assert_eq!(rises("29", "1970-01-01T00:00:00.000Z"), Some("awards"));
    assert_eq!(rises("30", "1970-01-01T00:00:01.000Z"), Some("awards"), "a second later");
    assert_eq!(rises("30", "later"), Some("awards"), "no time");
    let mut old = receipt(&done(1));
    old["receipt"]["format"] = json!(1);
    for field in ["price_escalation", "queued_at"] {
        old["receipt"].as_object_mut().unwrap().remove(field);
    }
    assert_eq!(found_by(&resigned(old)), None, "a receipt of the first format");
}

#[test]
fn another_issuer_input_or_output_is_found() {
    let receipt = receipt(&done(3));
    assert_eq!(lie(&check(&receipt, Some(worker(1).id()), &[])), Some("issuer"));
    assert_eq!(lie(&check(&receipt, None, &[("input", Digest::of(b"other"))])), Some("input"));
    assert_eq!(lie(&check(&receipt, None, &[("output", Digest::of(b"lie"))])), Some("output"));
    for noise in [json!(null), json!([]), json!({}), json!({"receipt": 1}), json!({"receipt": {"format": 1}})] {
        assert_eq!(found_by(&noise), Some("format"), "{noise}");
    }
}

#[test]
fn a_receipt_whose_evidence_is_gone_says_so() {
    let mut bare = receipt(&done(3));
    for run in bare["receipt"]["runs"].as_array_mut().unwrap() {
        run["award"]["evidence"] = Value::Null;
    }
    let checks = check(&resigned(bare), None, &[]);
    assert_eq!(lie(&checks), None, "{checks:?}");
    assert!(checks.iter().any(|check| check.found.as_ref().is_ok_and(|found| found.contains("evidence of 3"))));
}

#[test]
fn every_single_field_that_is_changed_removed_or_added_is_found() {
    for redundancy in [1, 3] {
        let receipt = receipt(&done(redundancy));
        let mut pointers = vec![];
        leaves(&receipt, "", &mut pointers);
        assert!(pointers.len() > 50, "{pointers:?}");
        for pointer in &pointers {
            for forged in forgeries(receipt.pointer(pointer).unwrap()) {
                assert!(found_by(&with(&receipt, pointer, forged.clone())).is_some(), "{pointer} = {forged}");
            }
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let mut without = receipt.clone();
            match without.pointer_mut(parent).unwrap() {
                Value::Object(fields) => drop(fields.remove(key)),
                Value::Array(items) => drop(items.remove(key.parse().unwrap())),
                _ => unreachable!("a parent holds values"),
            }
            assert!(found_by(&without).is_some(), "{pointer} was removed");
        }
        let mut twice = receipt.clone();
        let runs = twice["receipt"]["runs"].as_array_mut().unwrap();
        runs.push(runs[0].clone());
        assert!(found_by(&twice).is_some(), "a run was added");
        let mut more = receipt.clone();
        more["receipt"]["bonus"] = json!("1");
        assert!(found_by(&more).is_some(), "a field was added");
    }
}

/// What a node that lies could change without anyone noticing off line: no worker signs it and nothing follows
/// from it. The help text says so.
const ISSUERS_WORD: &[&str] = &[
    "attempts",
    "finished_at",
    "input_sha256",
    "input_size",
    "max_price",
    "queued_at",
    "runs/*/award/assigned_at",
    "runs/*/award/evidence/bids",
    "runs/*/award/evidence/offers/*/rtt_us",
    "runs/*/award/evidence/offers/*/worker_id",
    "runs/*/award/lease_until",
    "runs/*/award/started_at",
    "runs/*/duration_ms",
    "runs/*/exit_code",
    "runs/*/output_size",
    "settlement",
    "submitted_at",
    "type",
];

#[test]
fn a_lying_issuer_can_change_only_what_is_its_word() {
    let receipt = receipt(&done(3));
    let mut pointers = vec![];
    leaves(&receipt["receipt"], "/receipt", &mut pointers);
    let unseen = |pointer: &&String| {
        let forged = forgeries(receipt.pointer(pointer).unwrap());
        forged.into_iter().any(|forged| found_by(&resigned(with(&receipt, pointer, forged))).is_none())
    };
    let general = |pointer: &String| {
        let steps = pointer.trim_start_matches("/receipt/").split('/');
        steps.map(|step| if step.parse::<usize>().is_ok() { "*" } else { step }).collect::<Vec<_>>().join("/")
    };
    let unseen: BTreeSet<String> = pointers.iter().filter(unseen).map(general).collect();
    assert_eq!(unseen.iter().map(String::as_str).collect::<Vec<_>>(), ISSUERS_WORD);
}

#[test]
fn a_lying_issuer_can_not_make_a_majority_or_a_debt() {
    let receipt = receipt(&done(3));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut receipt = receipt.clone();
        change(&mut receipt["receipt"]);
        found_by(&resigned(receipt))
    };
    assert_eq!(
        changed(&|receipt| receipt["output_sha256"] = receipt["runs"][0]["output_sha256"].clone()),
        Some("majority")
    );
    assert_eq!(changed(&|receipt| receipt["runs"][2] = receipt["runs"][1].clone()), Some("majority"), "one vote twice");
    assert_eq!(
        changed(&|receipt| receipt["runs"][0]["output_sha256"] = receipt["output_sha256"].clone()),
        Some("results")
    );
    assert_eq!(changed(&|receipt| drop(receipt["runs"].as_array_mut().map(|runs| runs.remove(1)))), Some("majority"));
    assert_eq!(changed(&|receipt| receipt["runs"][1]["owed"] = json!("1")), Some("payment"));
    assert_eq!(changed(&|receipt| receipt["runs"][1]["award"]["price"] = json!("1")), Some("awards"));
    assert_eq!(changed(&|receipt| receipt["max_price"] = json!("1")), Some("awards"));
    let names: BTreeMap<&str, Option<&str>> =
        [("lowest_cost", Some("awards")), ("balanced", None)].into_iter().collect();
    for (policy, found) in names {
        assert_eq!(changed(&|receipt| receipt["policy"] = json!(policy)), found, "{policy}");
    }
}
