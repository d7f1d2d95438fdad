//! What only a raw connection can do: chunked bodies, silence, nonsense.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::Node;

/// What came back, and whether the node closed the connection in time.
struct Told {
    text: String,
    closed: bool,
}

/// Sends all parts and reads until the node closes, or for as long as `limit`.
async fn talk(node: &Node, parts: &[&[u8]], limit: Duration) -> Told {
    let mut stream = connect(node).await;
    for part in parts {
        if stream.write_all(part).await.is_err() {
            break;
        }
    }
    let mut answer = vec![];
    // A reset closes too.
    let closed = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await.is_ok();
    Told { text: String::from_utf8_lossy(&answer).into_owned(), closed }
}

async fn connect(node: &Node) -> TcpStream {
    TcpStream::connect(node.api.strip_prefix("http://").unwrap()).await.unwrap()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let head = "POST /jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut text = head.as_bytes().to_vec();
    for piece in body.chunks(4_096) {
        text.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        text.extend_from_slice(piece);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

#[tokio::test]
async fn chunked_bodies_are_taken_within_the_limit_and_refused_beyond() {
    let node =
        Node::start_with(&[("CIRO__API__MAX_BODY_BYTES", "65536"), ("CIRO__API__MAX_PAYLOAD_BYTES", "32768")]).await;
    let good = json!({"type": "sha256", "payload": "A".repeat(40_000)}).to_string();
    let Told { text, closed } = talk(&node, &[&chunked(good.as_bytes())], Duration::from_secs(10)).await;
    assert!(closed && text.starts_with("HTTP/1.1 201"), "{text}");
    let large = json!({"type": "sha256", "payload": "A".repeat(400_000)}).to_string();
    let Told { text, closed } = talk(&node, &[&chunked(large.as_bytes())], Duration::from_secs(10)).await;
    assert!(closed && text.starts_with("HTTP/1.1 413") && text.contains("body_too_large"), "{text}");
    assert_eq!(node.get("/status").await.body["jobs_submitted_total"], 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let node = Node::start().await;
    let head =
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"type\"";
    let mut stream = connect(&node).await;
    stream.write_all(head).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = vec![];
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap().ok();
    assert_eq!(node.get("/status").await.body["jobs_submitted_total"], 0);
}

#[tokio::test]
async fn silent_and_slow_connections_are_closed() {
    let node = Node::start().await;
    let limit = Duration::from_secs(20);
    let served: [&[u8]; 1] = [b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"];
    let (silent, slow, preface, idle) = tokio::join!(
        talk(&node, &[], limit),
        talk(&node, &[b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "], limit),
        talk(&node, &[b"PRI * HTTP/2"], limit),
        talk(&node, &served, limit),
    );
    assert!(idle.text.starts_with("HTTP/1.1 200"), "{}", idle.text);
    for (what, told) in [("silent", silent), ("slow", slow), ("preface", preface)] {
        assert!(told.closed, "a connection without a request is held for ever: {what}");
        assert!(told.text.is_empty() || told.text.starts_with("HTTP/1.1 4"), "{what}: {}", told.text);
    }
    assert!(idle.closed, "a connection after a request is held for ever");
}

#[tokio::test]
async fn nonsense_does_not_hurt_the_node() {
    let node = Node::start().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(300_000));
    // The head's limit of 256 KiB is looked at between reads, each of which may be as large.
    let fat = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Fat: {}\r\n\r\n", "a".repeat(600_000));
    for text in [b"\x16\x03\x01\x00\xff garbage \r\n\r\n".as_slice(), b"GET\r\n\r\n", long.as_bytes(), fat.as_bytes()] {
        let Told { text, closed } = talk(&node, &[text], Duration::from_secs(15)).await;
        assert!(closed && (text.is_empty() || text.starts_with("HTTP/1.1 4")), "{text}");
    }
    assert_eq!(node.get("/health/live").await.status, 200);
}
