//! The session that every answer carries, and reads on the leader's lease.

use ciro::api::is_older_session;
use serde_json::json;

use crate::node::Node;

const SESSION: &str = "x-ciro-session";

fn job() -> serde_json::Value {
    json!({"type": "noop", "payload": "aGk="})
}

#[tokio::test]
async fn every_answer_takes_the_session_further_and_never_back() {
    let node = Node::start().await;
    let written = node.post("/jobs", &job()).await;
    let path = format!("/jobs/{}", written.body["id"].as_str().unwrap());
    let first = written.header(SESSION).to_owned();
    assert!(!first.is_empty() && first.len() <= 23, "{first:?}");
    for path in [path.as_str(), "/health", "/metrics", "/nowhere", "/jobs/0", "/", "/events?after=x"] {
        let answer = node.ask("GET", path).header(SESSION, &first).send().await;
        let next = answer.header(SESSION);
        assert!(!next.is_empty() && !is_older_session(next, &first), "{path}: {next} after {first}");
    }
    let other = node.post("/jobs", &job()).await.header(SESSION).to_owned();
    assert!(is_older_session(&first, &other), "a write takes it further");
    let again = node.ask("DELETE", &path).header(SESSION, &other).send().await;
    assert_eq!(again.status, 200, "{}", again.text);
}

#[tokio::test]
async fn a_token_that_no_node_of_this_cluster_gave_out_is_refused() {
    let (node, other) = (Node::start().await, Node::start().await);
    let (written, elsewhere) = (node.post("/jobs", &job()).await, other.post("/jobs", &job()).await);
    for (method, path) in [("GET", "/status"), ("GET", "/health"), ("GET", "/jobs"), ("DELETE", "/jobs/0")] {
        let refused = node.ask(method, path).header(SESSION, "latest").send().await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_header"), "{method} {path}: {}", refused.text);
        assert_eq!(refused.body["field"], "X-Ciro-Session");
        assert!(!refused.header(SESSION).is_empty(), "a new session can begin here");

        let refused = node.ask(method, path).header(SESSION, elsewhere.header(SESSION)).send().await;
        assert_eq!((refused.status, refused.code()), (400, "foreign_session"), "{method} {path}: {}", refused.text);
        assert_eq!(refused.body["field"], "X-Ciro-Session");
    }
    // Of this history, of an index that it has not.
    let known = written.header(SESSION);
    let ahead = format!("{}_____w", &known[..12]);
    let refused = node.ask("GET", "/status").header(SESSION, &ahead).send().await;
    assert_eq!((refused.status, refused.code()), (409, "index_ahead"), "{}", refused.text);
    assert_eq!(refused.body["field"], "X-Ciro-Session");
    assert_ne!(refused.header(SESSION), ahead, "what does not exist is not given back");
}

#[tokio::test]
async fn lease_reads_are_refused_until_an_operator_switches_them_on() {
    let node = Node::start().await;
    let refused = node.get("/status?consistency=lease").await;
    assert_eq!((refused.status, refused.code()), (400, "lease_reads_off"), "{}", refused.text);
    assert_eq!(refused.body["field"], "consistency");
    assert!(refused.body["hint"].as_str().unwrap().contains("api.lease_reads = true"), "{}", refused.text);

    let node = Node::start_with(&[("CIRO__API__LEASE_READS", "true")]).await;
    let answer = node.get("/status?consistency=lease").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}
