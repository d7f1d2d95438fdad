//! Why a job waits, by what a real worker bids.

use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};

use crate::node::Node;
use crate::results::Worker;

/// Asks until the answer is as wanted.
async fn told(node: &Node, id: &str, reason: &str) -> Value {
    let give_up = clock::instant() + Duration::from_secs(30);
    loop {
        let why = node.get(&format!("/jobs/{id}/explain")).await;
        assert_eq!(why.status, 200, "{}", why.text);
        if why.body["reason"] == reason {
            return why.body;
        }
        assert!(clock::instant() < give_up, "never {reason}: {}", why.text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_job_that_offers_too_little_says_what_would_do_and_is_placed_when_it_offers_that() {
    let node = Node::start().await;
    let _worker = Worker::with(&node, &["--price", "70"], &[]);
    let submit = async |body: Value| node.post("/jobs", &body).await.body["id"].as_str().unwrap().to_owned();
    let never = submit(json!({"type": "sha256", "payload": "", "max_price": "69"})).await;
    let why = told(&node, &never, "price_too_low").await;
    assert_eq!((&why["price"]["offered"], &why["price"]["would_do"]), (&json!("69"), &json!("70")), "{why}");
    assert_eq!((&why["price"]["would_do_at"], &why["ask_node"]), (&Value::Null, &Value::Null), "{why}");
    assert_eq!((&why["queue_position"], &why["queue_position_exact"]), (&json!(0), &json!(true)), "{why}");
    let lost = &why["last_round"]["lost"][0];
    assert_eq!((&lost["why"], &lost["price"]), (&json!("too_dear"), &json!("70")), "{why}");
    assert!(why["detail"].as_str().unwrap().contains("never"), "{why}");

    let rising = json!({"start": "40", "step": "10", "every_secs": 1});
    let rises = submit(json!({"type": "sha256", "payload": "", "max_price": "90", "price_escalation": rising})).await;
    let ended = node.get(&format!("/jobs/{rises}?wait=terminal&timeout_secs=30")).await;
    assert_eq!((&ended.body["state"], &ended.body["price"]), (&json!("completed"), &json!("70")), "{}", ended.text);
    let waited = parse(&ended.body["assigned_at"]) - parse(&ended.body["queued_at"]);
    assert!(waited >= time::Duration::seconds(3), "it was paid more than it offered then: {}", ended.text);
    let why = told(&node, &rises, "completed").await;
    assert_eq!(why["attempts"][0]["outcome"], "completed", "{why}");
    assert_eq!(why["award"]["evidence"]["offers"][0]["fate"], "won", "{why}");
}

fn parse(at: &Value) -> time::OffsetDateTime {
    time::OffsetDateTime::parse(at.as_str().unwrap(), &time::format_description::well_known::Rfc3339).unwrap()
}

#[tokio::test]
async fn a_dead_job_tells_its_attempts_and_gets_another_chance() {
    let node = Node::start().await;
    let config = node.dir().join("failing.toml");
    std::fs::write(&config, "[jobs.broken]\ncommand = [\"/bin/sh\", \"-c\", \"exit 3\"]\n").unwrap();
    let _worker = Worker::with(&node, &["--config", config.to_str().unwrap()], &[]);
    let retry = json!({"max_attempts": 2, "initial_delay_ms": 10});
    let made = node.post("/jobs", &json!({"type": "broken", "payload": "", "retry": retry})).await;
    let id = made.body["id"].as_str().unwrap().to_owned();
    let path = format!("/jobs/{id}?wait=terminal&timeout_secs=30");
    assert_eq!(node.get(&path).await.body["state"], "failed");
    let why = told(&node, &id, "failed").await;
    let attempts = why["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{why}");
    assert!(attempts.iter().all(|attempt| attempt["outcome"] == "failed"), "{why}");
    assert!(attempts[1]["error"]["code"].is_string(), "{why}");

    let dead = node.get("/jobs?state=failed&dead=true").await;
    assert_eq!(dead.body["jobs"][0]["id"], json!(id), "{}", dead.text);
    let again = node.ask("POST", &format!("/jobs/{id}/retry")).send().await;
    assert_eq!((again.status, &again.body["failures"]), (200, &json!(0)), "{}", again.text);
    let ended = node.get(&path).await;
    assert_eq!((&ended.body["state"], &ended.body["attempt"]), (&json!("failed"), &json!(4)), "{}", ended.text);
}
