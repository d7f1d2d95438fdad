//! A result, as a real worker signed it.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ciro::domain::{Digest, JobId, WorkerId};
use ciro::{mesh, wire};
use serde_json::json;

use crate::node::Node;

/// Ends with its test.
pub struct Worker(Child);

impl Worker {
    fn start(node: &Node) -> Self {
        Self::with(node, &[])
    }

    /// With arguments of its own.
    pub fn with(node: &Node, args: &[&str]) -> Self {
        let log = File::create(node.dir().join("worker.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ciro-worker"))
            .args(["--network", "ciro-test", "--coordinator", &node.p2p(), "--data-dir"])
            .arg(node.dir().join("worker"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_result_is_whole_and_signed_by_its_worker() {
    let node = Node::start().await;
    let _worker = Worker::start(&node);
    let made = node.post("/jobs", &json!({"type": "sha256", "payload": BASE64.encode("hello")})).await;
    let id = made.body["id"].as_str().unwrap().to_owned();
    let ended = node.get(&format!("/jobs/{id}?wait=terminal&timeout_secs=25")).await;
    let worker_log = std::fs::read_to_string(node.dir().join("worker.log")).unwrap();
    assert_eq!(ended.body["state"], "completed", "{}\n{worker_log}", ended.text);

    let result = node.get(&format!("/jobs/{id}/result")).await;
    assert_eq!(result.status, 200, "{}", result.text);
    let text = |field: &str| result.body[field].as_str().unwrap();
    let output = BASE64.decode(text("output")).unwrap();
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert!(output.starts_with(hello.as_bytes()), "{}", String::from_utf8_lossy(&output));
    assert_eq!(text("output_sha256"), Digest::of(&output).to_string());
    assert_eq!((text("worker_id"), &result.body["exit_code"]), (ended.body["worker_id"].as_str().unwrap(), &json!(0)));

    let worker: WorkerId = text("worker_id").parse().unwrap();
    assert_eq!(BASE64.decode(text("worker_public_key")).unwrap(), worker.0);
    let (job, attempt): (JobId, _) = (id.parse().unwrap(), result.body["attempt"].as_u64().unwrap() as u32);
    let signature = BASE64.decode(text("signature")).unwrap();
    let signed = |attempt| wire::signed_result(job, attempt, &Digest::of(&output));
    assert!(mesh::verify(worker, &signed(attempt), &signature));
    assert!(!mesh::verify(worker, &signed(attempt + 1), &signature), "a signature is of one attempt");
}
