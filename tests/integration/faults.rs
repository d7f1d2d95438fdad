//! Bad input on every route: the right problem, and nothing changed.

use serde_json::{Value, json};

use crate::node::Node;

const JOB: &str = "018f0000-0000-7000-8000-000000000000";

fn with(field: &str, value: Value) -> Value {
    let mut body = json!({"type": "sha256", "payload": "aGk="});
    body[field] = value;
    body
}

#[tokio::test]
async fn submissions_out_of_range_are_refused_by_name() {
    let node = Node::start().await;
    let cases = [
        (with("priority", json!(999)), 422, "invalid_field", "priority"),
        (with("priority", json!(0)), 422, "invalid_field", "priority"),
        (with("priority", json!("5")), 422, "invalid_field", "priority"),
        (with("priority", json!(5.5)), 422, "invalid_field", "priority"),
        (with("priority", json!(1e300)), 422, "invalid_field", "priority"),
        (with("timeout_secs", json!(86_401)), 422, "invalid_field", "timeout_secs"),
        (with("max_price", json!("-1")), 422, "invalid_field", "max_price"),
        (with("max_price", json!(1)), 422, "invalid_field", "max_price"),
        (with("deadline", json!("2001-01-01T00:00:00Z")), 422, "invalid_field", "deadline"),
        (with("deadline", json!("tomorrow")), 422, "invalid_field", "deadline"),
        (with("type", json!("Not A Type")), 422, "invalid_field", "type"),
        (with("type", json!(null)), 422, "invalid_field", "type"),
        (with("payload", json!("%%%")), 422, "invalid_field", "payload"),
        (with("payload", json!(null)), 422, "missing_field", "payload"),
        (with("tags", json!(vec!["x"; 17])), 422, "invalid_field", "tags"),
        (with("tags", json!([7])), 422, "invalid_field", "tags[0]"),
        (with("client_address", json!("alice")), 422, "invalid_field", "client_address"),
        (with("redundancy", json!(6)), 422, "invalid_field", "redundancy"),
        (with("requirements", json!({"min_ram_gb": -1})), 422, "invalid_field", "requirements.min_ram_gb"),
        (with("requirements", json!({"min_rma_gb": 1})), 422, "unknown_field", "requirements.min_rma_gb"),
        (with("retry", json!([])), 422, "invalid_field", "retry"),
        (with("callback_url", json!("ftp://localhost/")), 422, "invalid_field", "callback_url"),
        (with("settlement", json!("chain")), 422, "not_available", "settlement"),
        (with("input", json!({"uri": "http://x/"})), 422, "invalid_field", "input"),
        (json!({"type": "a", "input": {"uri": "s3://x"}}), 422, "invalid_field", "input.uri"),
        (with("nme", json!(1)), 422, "unknown_field", "nme"),
        (json!({"payload": ""}), 422, "missing_field", "type"),
        (json!({"type": "sha256"}), 422, "missing_field", "payload"),
        (json!([]), 422, "invalid_field", ""),
        (json!("x"), 422, "invalid_field", ""),
    ];
    for (body, status, code, field) in cases {
        let answer = node.post("/jobs", &body).await;
        let found = (answer.status, answer.code(), answer.body["field"].as_str().unwrap_or_default());
        assert_eq!(found, (status, code, field), "{body}: {}", answer.text);
    }
    assert_eq!(node.get("/status").await.body["jobs_submitted_total"], 0, "nothing was changed");
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let node = Node::start().await;
    let good = r#"{"type":"sha256","payload":""}"#;
    let deep = "[".repeat(100_000);
    let cases: [(&str, &str, Vec<u8>, u16, &str); 13] = [
        ("/jobs", "application/json", b"{".to_vec(), 400, "invalid_json"),
        ("/jobs", "application/json", b"".to_vec(), 400, "invalid_json"),
        ("/jobs", "application/json", b"\xff\xfe".to_vec(), 400, "invalid_json"),
        ("/jobs", "application/json", format!("{good}{good}").into(), 400, "invalid_json"),
        ("/jobs", "application/json", deep.clone().into(), 422, "invalid_field"),
        ("/jobs", "text/plain", good.into(), 415, "unsupported_media_type"),
        ("/jobs", "", good.into(), 415, "unsupported_media_type"),
        ("/jobs/batch", "application/json", deep.into(), 400, "invalid_json"),
        ("/jobs/batch", "application/json", b"[]".to_vec(), 422, "invalid_field"),
        ("/jobs/batch", "application/json", b"{}".to_vec(), 422, "invalid_field"),
        ("/jobs/batch", "text/csv", good.into(), 415, "unsupported_media_type"),
        ("/workers", "application/json", b"{}".to_vec(), 422, "missing_field"),
        ("/cluster/transfer-leadership", "application/json", b"[1]".to_vec(), 422, "invalid_field"),
    ];
    for (path, media_type, body, status, code) in cases {
        let answer = node.ask("POST", path).bytes(media_type, body.clone()).send().await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert_eq!((answer.status, answer.code()), (status, code), "{path} {shown}: {}", answer.text);
    }
    let zipped = node.ask("POST", "/jobs").header("content-encoding", "gzip").bytes("application/json", good);
    assert_eq!(zipped.send().await.status, 415);
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let limits = [("CIRO__API__MAX_BODY_BYTES", "65536"), ("CIRO__API__MAX_PAYLOAD_BYTES", "1024")];
    let node = Node::start_with(&limits).await;
    let body = with("payload", json!("A".repeat(70_000)));
    let answer = node.post("/jobs", &body).await;
    assert_eq!((answer.status, answer.code()), (413, "body_too_large"));
    let answer = node.post("/jobs", &with("payload", json!("AAAA".repeat(400)))).await;
    assert_eq!((answer.status, answer.code()), (413, "payload_too_large"));
    let document = node.get("/openapi.json").await.body;
    assert_eq!(document["components"]["schemas"]["Submission"]["properties"]["payload"]["maxLength"], 1_368);
}

#[tokio::test]
async fn paths_methods_and_parameters_are_checked() {
    let node = Node::start().await;
    let worker = ciro::domain::PeerId([7; 32]);
    let never = format!("12D3KooW{}", "z".repeat(44));
    let cases = [
        ("GET", "/nothing".to_owned(), 404, "unknown_route"),
        ("GET", "/jobs/".to_owned(), 404, "unknown_route"),
        ("GET", format!("/jobs/{JOB}/nothing"), 404, "unknown_route"),
        ("PUT", "/jobs".to_owned(), 405, "method_not_allowed"),
        ("GET", "/jobs/batch".to_owned(), 405, "method_not_allowed"),
        ("PATCH", format!("/jobs/{JOB}"), 405, "method_not_allowed"),
        ("TRACE", "/health".to_owned(), 405, "method_not_allowed"),
        ("BREW", "/jobs".to_owned(), 405, "method_not_allowed"),
        ("GET", "/jobs/7".to_owned(), 404, "invalid_id"),
        ("GET", "/jobs/%ff%fe".to_owned(), 404, "unknown_route"),
        ("DELETE", "/jobs/7".to_owned(), 404, "invalid_id"),
        ("GET", format!("/jobs/{JOB}"), 404, "unknown_job"),
        ("GET", format!("/jobs/{JOB}?wait=terminal"), 404, "unknown_job"),
        ("GET", format!("/jobs/{JOB}/status"), 404, "unknown_job"),
        ("GET", format!("/jobs/{JOB}/result"), 404, "unknown_job"),
        ("GET", format!("/jobs/{JOB}/events"), 404, "unknown_job"),
        ("GET", format!("/jobs/{JOB}/explain"), 404, "unknown_job"),
        ("DELETE", format!("/jobs/{JOB}"), 404, "unknown_job"),
        ("POST", format!("/jobs/{JOB}/retry"), 404, "unknown_job"),
        ("GET", "/jobs?dead=perhaps".to_owned(), 400, "invalid_parameter"),
        ("GET", format!("/jobs/{JOB}?wait=forever"), 400, "invalid_parameter"),
        ("GET", format!("/jobs/{JOB}?timeout_secs=301"), 400, "invalid_parameter"),
        ("GET", "/jobs?limit=0".to_owned(), 400, "invalid_parameter"),
        ("GET", "/jobs?limit=1001".to_owned(), 400, "invalid_parameter"),
        ("GET", "/jobs?limit=ten".to_owned(), 400, "invalid_parameter"),
        ("GET", "/jobs?limit=5&limit=5".to_owned(), 400, "invalid_parameter"),
        ("GET", "/jobs?cursor=abc".to_owned(), 400, "invalid_parameter"),
        ("GET", "/jobs?state=lost".to_owned(), 400, "invalid_parameter"),
        ("GET", "/jobs?since=yesterday".to_owned(), 400, "invalid_parameter"),
        ("GET", "/jobs?stat=all".to_owned(), 400, "unknown_parameter"),
        ("GET", "/jobs?consistency=maybe".to_owned(), 400, "invalid_parameter"),
        ("GET", "/jobs?min_index=-1".to_owned(), 400, "invalid_parameter"),
        ("GET", "/health?x=1".to_owned(), 400, "unknown_parameter"),
        ("GET", "/workers/7".to_owned(), 404, "invalid_id"),
        ("GET", format!("/workers/{never}"), 404, "unknown_worker"),
        ("GET", format!("/workers/{worker}"), 404, "unknown_worker"),
        ("GET", format!("/workers/{worker}/health"), 404, "unknown_worker"),
        ("DELETE", format!("/workers/{worker}"), 404, "unknown_worker"),
        ("POST", format!("/workers/{worker}/drain"), 404, "unknown_worker"),
        ("POST", format!("/workers/{worker}/resume"), 404, "unknown_worker"),
        ("GET", "/metrics?format=xml".to_owned(), 400, "invalid_parameter"),
        ("GET", "/metrics/history?step=0".to_owned(), 400, "invalid_parameter"),
        ("GET", "/events?after=x".to_owned(), 400, "invalid_parameter"),
        ("POST", "/kafka/dead-letter-queue/7/replay".to_owned(), 404, "unknown_dead_letter"),
        ("DELETE", "/kafka/dead-letter-queue/7".to_owned(), 404, "unknown_dead_letter"),
        ("DELETE", format!("/cluster/members/{worker}"), 404, "unknown_member"),
        ("DELETE", "/cluster/members/x".to_owned(), 404, "invalid_id"),
        ("DELETE", format!("/cluster/members/{worker}?force=yes"), 400, "invalid_parameter"),
        ("DELETE", "/cluster/invitations/x".to_owned(), 404, "unknown_invitation"),
    ];
    for (method, path, status, code) in cases {
        let answer = node.ask(method, &path).send().await;
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}: {}", answer.text);
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{method} {path}");
    }
    let answer = node.ask("PUT", "/jobs").send().await;
    assert_eq!(answer.header("allow"), "POST, GET, HEAD, OPTIONS");
    let body = node.ask("POST", &format!("/workers/{worker}/drain")).json(&json!({})).send().await;
    assert_eq!(body.code(), "unexpected_body");
}

#[tokio::test]
async fn a_change_of_the_members_names_one_node() {
    let node = Node::start().await;
    let worker = ciro::domain::PeerId([7; 32]).to_string();
    for (body, code, field) in [
        (json!({"address": "x"}), "invalid_field", "address"),
        (json!({}), "invalid_field", "node_id"),
        (json!({"node_id": "x"}), "invalid_field", "node_id"),
        (json!({"node_id": worker, "address": "/x"}), "invalid_field", "address"),
        (json!({"node_id": worker, "vote": true}), "unknown_field", "vote"),
        (json!({"node_id": worker}), "unknown_member", ""),
    ] {
        let members = node.post("/cluster/members", &body).await;
        assert_eq!(members.code(), code, "{body}: {}", members.text);
        assert_eq!(members.body["field"].as_str().unwrap_or_default(), field, "{body}");
    }
}

#[tokio::test]
async fn headers_are_checked_and_echoed() {
    let node = Node::start().await;
    for bad in ["a b", &"k".repeat(256), ""] {
        let ask = node.ask("POST", "/jobs").header("idempotency-key", bad).json(&with("priority", json!(5)));
        assert_eq!(ask.send().await.code(), "invalid_header", "{bad:?}");
    }
    let answer = node.ask("GET", "/events").header("last-event-id", "newest").send().await;
    assert_eq!(answer.code(), "invalid_header");
    let elsewhere = node.ask("POST", "/jobs").header("origin", "http://elsewhere").json(&with("priority", json!(5)));
    assert_eq!(elsewhere.send().await.code(), "cross_origin");
    let here = node.ask("POST", "/jobs").header("origin", &node.api).json(&with("priority", json!(5)));
    assert_eq!(here.send().await.status, 201);
    let answer = node.ask("GET", "/health").header("x-request-id", "mine-1").send().await;
    assert_eq!(answer.header("x-request-id"), "mine-1");
    let answer = node.ask("GET", "/nothing").header("x-request-id", "not mine").send().await;
    assert_eq!(answer.header("x-request-id").len(), 36);
}

#[tokio::test]
async fn reads_that_can_not_be_fresh_enough_are_refused_in_time() {
    let node = Node::start().await;
    let start = ciro::clock::instant();
    let answer = node.get("/jobs?min_index=999999999").await;
    assert_eq!((answer.status, answer.code()), (409, "index_ahead"), "{}", answer.text);
    assert!(start.elapsed() < std::time::Duration::from_secs(4), "it waited for what can not come");
    assert_eq!(node.get("/status?consistency=linearizable&min_index=1").await.status, 200);
}
