//! Jobs on a node without workers: accepted, repeated, listed, explained, cancelled.

use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};

use crate::node::Node;

fn job(kind: &str) -> Value {
    json!({"type": kind, "payload": "aGVsbG8=", "tags": ["integration"], "priority": 7})
}

#[tokio::test]
async fn a_job_goes_from_submitted_to_cancelled() {
    let node = Node::start().await;
    let made = node.post("/jobs", &job("sha256")).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.body["id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), format!("/jobs/{id}"));
    for (field, value) in [
        ("state", json!("pending")),
        ("priority", json!(7)),
        ("attempt", json!(0)),
        ("max_attempts", json!(3)),
        ("source", json!("api")),
        ("tags", json!(["integration"])),
        ("worker_id", Value::Null),
        ("price", Value::Null),
        ("error", Value::Null),
    ] {
        assert_eq!(made.body[field], value, "{field}");
    }
    assert_eq!(made.body["input"]["size"], 5);

    // Read your own write.
    let index = made.body["submitted_index"].as_u64().unwrap();
    let read = node.get(&format!("/jobs/{id}?min_index={index}")).await;
    assert_eq!(read.body, made.body);
    let read = node.get(&format!("/jobs/{id}?consistency=linearizable&max_staleness_ms=60000")).await;
    assert_eq!(read.status, 200);

    let status = node.get(&format!("/jobs/{id}/status")).await;
    assert_eq!((&status.body["state"], &status.body["progress"]), (&json!("pending"), &json!(0.0)));
    let result = node.get(&format!("/jobs/{id}/result")).await;
    assert_eq!((result.status, result.code()), (404, "not_finished"));
    let why = node.get(&format!("/jobs/{id}/explain")).await;
    assert_eq!((&why.body["reason"], &why.body["queue_position"]), (&json!("no_workers"), &json!(0)), "{}", why.text);
    let events = node.get(&format!("/jobs/{id}/events")).await;
    assert_eq!(events.body["events"][0]["cause"], "submitted");
    assert_eq!(events.body["events"][0]["index"], index);

    let gone = node.ask("DELETE", &format!("/jobs/{id}?reason=enough")).send().await;
    assert_eq!((gone.status, &gone.body["state"]), (200, &json!("cancelled")));
    let again = node.ask("DELETE", &format!("/jobs/{id}")).send().await;
    assert_eq!(again.status, 200, "cancelling twice is cancelling once");
    let ended = node.get(&format!("/jobs/{id}?wait=terminal&timeout_secs=5")).await;
    assert_eq!(ended.body["error"]["detail"], "enough");
    assert!(ended.body["finished_at"].is_string());
    assert_eq!(node.get(&format!("/jobs/{id}/result")).await.code(), "no_result");
    assert_eq!(node.get(&format!("/jobs/{id}/explain")).await.body["reason"], "cancelled");
}

#[tokio::test]
async fn a_retry_with_the_same_key_is_the_same_job() {
    let node = Node::start().await;
    let soon = clock::now().after_ms(1_500);
    let mut body = job("sha256");
    let keyed = |body: Value| node.ask("POST", "/jobs").header("idempotency-key", "once").json(&body).send();
    body["deadline"] = json!(rfc3339(soon.0));
    let first = keyed(body.clone()).await;
    assert_eq!(first.status, 201, "{}", first.text);
    let second = keyed(body.clone()).await;
    assert_eq!((second.status, &second.body["id"]), (200, &first.body["id"]));
    assert_eq!(second.header("location"), first.header("location"));

    let mut other = body.clone();
    other["priority"] = json!(1);
    assert_eq!((keyed(other.clone()).await.code()), "idempotency_conflict");

    // The deadline passes; a retry still gets the first outcome, a new job does not get in.
    let id = first.body["id"].as_str().unwrap();
    let ended = node.get(&format!("/jobs/{id}?wait=terminal&timeout_secs=30")).await;
    assert_eq!(ended.body["state"], "failed", "{}", ended.text);
    assert_eq!(keyed(body.clone()).await.status, 200);
    let fresh = node.post("/jobs", &body).await;
    assert_eq!((fresh.status, fresh.body["field"].as_str()), (422, Some("deadline")));
}

#[tokio::test]
async fn a_failed_job_is_retried_unless_it_can_not_be_in_time() {
    let node = Node::start().await;
    let id = |answer: &Value| answer["id"].as_str().unwrap().to_owned();
    let waiting = id(&node.post("/jobs", &job("sha256")).await.body);
    let retry = async |id: &str| node.ask("POST", &format!("/jobs/{id}/retry")).send().await;
    let same = retry(&waiting).await;
    assert_eq!((same.status, &same.body["state"]), (200, &json!("pending")), "{}", same.text);
    node.ask("DELETE", &format!("/jobs/{waiting}")).send().await;
    assert_eq!(retry(&waiting).await.code(), "already_finished");

    let mut late = job("sha256");
    late["deadline"] = json!(rfc3339(clock::now().after_ms(1_000).0));
    let late = id(&node.post("/jobs", &late).await.body);
    let ended = node.get(&format!("/jobs/{late}?wait=terminal&timeout_secs=30")).await;
    assert_eq!(ended.body["state"], "failed", "{}", ended.text);
    assert_eq!((retry(&late).await.status, retry(&late).await.code()), (409, "deadline_passed"));
    let dead = node.get("/jobs?state=failed&dead=true").await;
    assert_eq!((dead.status, &dead.body["jobs"]), (200, &json!([])), "{}", dead.text);
    assert_eq!(node.get("/jobs?state=failed&dead=false").await.body["jobs"].as_array().unwrap().len(), 1);
}

fn rfc3339(ms: u64) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap();
    moment.format(&time::format_description::well_known::Rfc3339).unwrap()
}

#[tokio::test]
async fn every_item_of_a_batch_has_its_own_answer() {
    let node = Node::start().await;
    let items = json!([job("a"), {"type": "a"}, job("b"), 7, job("c")]);
    let batch = node.ask("POST", "/jobs/batch").header("idempotency-key", "b1").json(&items).send().await;
    assert_eq!(batch.status, 200, "{}", batch.text);
    let statuses = |answer: &Value| -> Vec<u64> {
        answer["results"].as_array().unwrap().iter().map(|item| item["status"].as_u64().unwrap()).collect()
    };
    assert_eq!(statuses(&batch.body), [201, 422, 201, 422, 201]);
    assert_eq!((&batch.body["accepted"], &batch.body["refused"]), (&json!(3), &json!(2)));
    assert_eq!(batch.body["results"][1]["problem"]["field"], "payload");
    assert_eq!(batch.body["results"][2]["job"]["type"], "b");
    let again = node.ask("POST", "/jobs/batch").header("idempotency-key", "b1").json(&items).send().await;
    assert_eq!(statuses(&again.body), [200, 422, 200, 422, 200]);
    assert_eq!(again.body["results"][0]["job"]["id"], batch.body["results"][0]["job"]["id"]);

    let lines = format!("{}\n\nnonsense\n{}\n", job("d"), job("e"));
    let batch = node.ask("POST", "/jobs/batch").bytes("application/x-ndjson", lines).send().await;
    assert_eq!(statuses(&batch.body), [201, 400, 201], "{}", batch.text);

    let many: Vec<Value> = (0..500).map(|_| job("many")).collect();
    let batch = node.post("/jobs/batch", &json!(many)).await;
    assert_eq!(batch.body["accepted"], 500);
    assert_eq!(node.get("/status").await.body["jobs"]["pending"], 505);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let node = Node::start().await;
    let mut batch: Vec<Value> = (0..25).map(|_| job("even")).collect();
    batch.extend(
        (0..25).map(|n| json!({"type": "odd", "payload": "", "tags": [format!("t{n}")], "client_address": "0xAB"})),
    );
    assert_eq!(node.post("/jobs/batch", &json!(batch)).await.body["accepted"], 50);
    let (mut seen, mut path) = (std::collections::BTreeSet::new(), "/jobs?limit=7".to_owned());
    loop {
        let page = node.get(&path).await;
        for job in page.body["jobs"].as_array().unwrap() {
            assert!(seen.insert(job["id"].as_str().unwrap().to_owned()), "a job is on two pages");
        }
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("/jobs?limit=7&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 50);

    let one = seen.first().unwrap();
    node.ask("DELETE", &format!("/jobs/{one}")).send().await;
    let count =
        async |query: &str| node.get(&format!("/jobs?limit=1000&{query}")).await.body["jobs"].as_array().unwrap().len();
    assert_eq!(count("state=active").await, 49);
    assert_eq!(count("state=all").await, 50);
    assert_eq!(count("state=cancelled").await, 1);
    assert_eq!(count("state=running").await, 0);
    assert_eq!(count("state=all&type=odd").await, 25);
    assert_eq!(count("state=all&client=0xab").await, 25);
    assert_eq!(count("state=all&client=0x00Ab").await, 25, "however it is spelt");
    assert_eq!(count("state=all&tag=t7").await, 1);
    assert_eq!(count("since=2999-01-01T00:00:00Z").await, 0);
    assert_eq!(count("since=2020-01-01T00:00:00%2B02:00&state=all").await, 50);
    let nobody = ciro::domain::PeerId([7; 32]);
    assert_eq!(count(&format!("state=all&worker={nobody}")).await, 0);
}

#[tokio::test]
async fn waiting_for_the_end_is_bounded() {
    let node = Node::start().await;
    let id = node.post("/jobs", &job("sha256")).await.body["id"].as_str().unwrap().to_owned();
    let start = clock::instant();
    let held = node.get(&format!("/jobs/{id}?wait=terminal&timeout_secs=1")).await;
    assert_eq!(held.body["state"], "pending");
    assert!(start.elapsed() >= Duration::from_millis(900), "it was not held");

    let path = format!("/jobs/{id}?wait=terminal&timeout_secs=20");
    let (held, cancelled) = tokio::join!(node.get(&path), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.ask("DELETE", &format!("/jobs/{id}")).send().await
    });
    assert_eq!(cancelled.status, 200);
    assert_eq!(held.body["state"], "cancelled");
    assert!(start.elapsed() < Duration::from_secs(15), "the end was not noticed");
}
