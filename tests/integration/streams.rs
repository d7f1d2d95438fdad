//! Events as they happen, again, and after a gap; and the end of the node.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::node::Node;

/// Reads events until there are `count` of them.
async fn read(node: &Node, path: &str, last: Option<u64>, count: usize) -> Vec<(String, Value)> {
    let mut request = node.http.get(format!("{}{path}", node.api));
    if let Some(last) = last {
        request = request.header("last-event-id", last.to_string());
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert!(response.headers().contains_key("x-ciro-node"));
    let (mut chunks, mut text) = (response.bytes_stream(), String::new());
    let enough = async {
        while text.matches("\n\n").count() < count {
            text.push_str(std::str::from_utf8(&chunks.next().await.unwrap().unwrap()).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), enough).await.expect("events in time");
    text.split("\n\n").filter_map(event).collect()
}

fn event(text: &str) -> Option<(String, Value)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    let data: Value = serde_json::from_str(&field("data:")?).ok()?;
    if data["seq"].is_u64() {
        assert_eq!(field("id:")?, data["seq"].to_string());
    }
    Some((field("event:")?, data))
}

async fn submit(node: &Node) -> String {
    let made = node.post("/jobs", &json!({"type": "sha256", "payload": ""})).await;
    made.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_left() {
    let node = Node::start().await;
    let jobs = [submit(&node).await, submit(&node).await, submit(&node).await];
    let all = read(&node, "/events?after=0", None, 3).await;
    let told: Vec<_> = all.iter().map(|(_, data)| data["job_id"].as_str().unwrap()).collect();
    assert_eq!(told, jobs);
    assert_eq!((all[0].0.as_str(), &all[0].1["state"]), ("job", &json!("pending")));

    let first = all[0].1["seq"].as_u64().unwrap();
    let rest = read(&node, "/events", Some(first), 2).await;
    assert_eq!(rest, all[1..]);
    let of_one = read(&node, &format!("/events?after=0&job={}", jobs[2]), None, 1).await;
    assert_eq!(of_one[0].1["job_id"], jobs[2].as_str());

    let (live, _) = tokio::join!(read(&node, "/events", None, 1), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.ask("DELETE", &format!("/jobs/{}", jobs[0])).send().await
    });
    assert_eq!((&live[0].1["job_id"], &live[0].1["state"]), (&json!(jobs[0]), &json!("cancelled")));
}

#[tokio::test]
async fn open_streams_and_waits_do_not_hold_up_the_end() {
    let mut node = Node::start().await;
    let id = submit(&node).await;
    let stream = node.http.get(format!("{}/events", node.api)).send().await.unwrap();
    let mut wait = pin!(node.http.get(format!("{}/jobs/{id}?wait=terminal&timeout_secs=60", node.api)).send());
    let early = tokio::time::timeout(Duration::from_millis(300), wait.as_mut()).await;
    assert!(early.is_err(), "the answer is held");
    assert!(node.stop(Duration::from_secs(12)).await, "the node stops in time\n{}", node.log());
    let ended = tokio::time::timeout(Duration::from_secs(5), wait).await.expect("the wait has ended");
    if let Ok(answer) = ended {
        assert_eq!(answer.status(), 503, "told to go elsewhere, unless it was cut");
    }
    let rest = stream.bytes_stream().collect::<Vec<_>>();
    tokio::time::timeout(Duration::from_secs(5), rest).await.expect("the stream has ended");
}
