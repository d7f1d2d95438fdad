//! What only a raw connection can do: chunked bodies, silence, nonsense.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::Node;

/// Sends `text` and returns what comes back, until the node closes or nothing more comes.
async fn talk(node: &Node, parts: &[&[u8]], limit: Duration) -> String {
    let mut stream = connect(node).await;
    for part in parts {
        if stream.write_all(part).await.is_err() {
            break;
        }
    }
    let mut answer = vec![];
    tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
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
    let answer = talk(&node, &[&chunked(good.as_bytes())], Duration::from_secs(10)).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let large = json!({"type": "sha256", "payload": "A".repeat(400_000)}).to_string();
    let answer = talk(&node, &[&chunked(large.as_bytes())], Duration::from_secs(10)).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
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
    let (silent, slow, preface) = tokio::join!(
        talk(&node, &[], limit),
        talk(&node, &[b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "], limit),
        talk(&node, &[b"PRI * HTTP/2"], limit),
    );
    assert_eq!((silent.as_str(), preface.as_str()), ("", ""));
    assert!(slow.is_empty() || slow.starts_with("HTTP/1.1 408"), "{slow}");
    for mut stream in [connect(&node).await, connect(&node).await] {
        stream.write_all(b"PRI * HTTP/2").await.unwrap();
        let mut rest = vec![];
        let closed = tokio::time::timeout(limit, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a connection without a request is held for ever");
    }
}

#[tokio::test]
async fn nonsense_does_not_hurt_the_node() {
    let node = Node::start().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(300_000));
    let fat = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Fat: {}\r\n\r\n", "a".repeat(400_000));
    for text in [b"\x16\x03\x01\x00\xff garbage \r\n\r\n".as_slice(), b"GET\r\n\r\n", long.as_bytes(), fat.as_bytes()] {
        let answer = talk(&node, &[text], Duration::from_secs(15)).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(node.get("/health/live").await.status, 200);
}
