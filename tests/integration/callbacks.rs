//! Where a client wants to be told of a job's end: what is taken, what refused, and what a job says of it.

use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::node::Node;

const LIMIT: Duration = Duration::from_secs(60);

fn job(url: &str) -> Value {
    json!({"type": "sha256", "payload": "aGVsbG8=", "callback_url": url})
}

#[tokio::test]
async fn a_job_says_how_its_client_is_told_and_not_where() {
    let node = Node::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=hunter2", listener.local_addr().unwrap());
    let made = node.post("/jobs", &job(&url)).await;
    assert_eq!((made.status, &made.body["callback"]["state"]), (201, &json!("not_due")), "{}", made.text);
    assert!(!made.text.contains("hunter2"), "a secret in the URL is not for everybody: {}", made.text);
    let id = made.body["id"].as_str().unwrap().to_owned();

    let ended = node.ask("DELETE", &format!("/jobs/{id}")).send().await;
    assert_eq!(ended.body["callback"]["state"], "waiting", "{}", ended.text);
    let (mut stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let mut text = String::new();
    while !text.ends_with('}') {
        let mut bytes = [0; 4_096];
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "{text}");
        text += std::str::from_utf8(&bytes[..read]).unwrap();
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook?token=hunter2 HTTP/1.1\r\n"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\nx-ciro-event: job.cancelled\r\n") && !head.contains("x-ciro-signature"), "{head}");
    let told: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&told["job"]["id"], &told["job"]["state"]), (&json!(id), &json!("cancelled")));

    let begun = clock::instant();
    let delivered = loop {
        assert!(begun.elapsed() < LIMIT, "the delivery is not recorded");
        let now = node.get(&format!("/jobs/{id}")).await.body["callback"].clone();
        if now["state"] != "waiting" {
            break now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((&delivered["state"], &delivered["tries"]), (&json!("delivered"), &json!(1)));
    assert!(told["event_id"].as_str().unwrap().ends_with(&format!("-{}", delivered["event"])), "{told} {delivered}");
    let plain = node.post("/jobs", &json!({"type": "sha256", "payload": ""})).await;
    assert_eq!(plain.body["callback"], Value::Null);
}

#[tokio::test]
async fn a_node_without_callbacks_refuses_them_and_says_so_in_its_contract() {
    let node = Node::start_with(&[("CIRO__CALLBACKS__ENABLED", "false")]).await;
    let refused = node.post("/jobs", &job("https://example.org/hook")).await;
    assert_eq!((refused.status, refused.code()), (422, "not_available"), "{}", refused.text);
    assert_eq!(refused.body["field"], "callback_url");
    let submission = &node.get("/openapi.json").await.body["components"]["schemas"]["Submission"]["properties"];
    assert_eq!(submission["callback_url"]["type"], "null");
}
