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
        Self::with(node, &[], &[])
    }

    /// With arguments and settings of its own.
    pub fn with(node: &Node, args: &[&str], settings: &[(&str, String)]) -> Self {
        let log = File::create(node.dir().join("worker.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ciro-worker"))
            .args(["--network", "ciro-test", "--coordinator", &node.p2p(), "--data-dir"])
            .arg(node.dir().join("worker"))
            .args(args)
            .envs(settings.iter().map(|(name, value)| (name, value)))
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

#[tokio::test]
async fn an_input_by_reference_waits_for_a_worker_that_fetches_it() {
    let node = Node::start().await;
    let root = node.dir().join("inputs");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("hello"), "hello").unwrap();
    let uri = format!("file://{}", root.canonicalize().unwrap().join("hello").display());
    let input = json!({"uri": uri, "sha256": hex::encode(Digest::of(b"hello").0), "size": 5});

    let shy = Worker::start(&node);
    let made = node.post("/jobs", &json!({"type": "sha256", "input": input})).await;
    assert_eq!((made.status, &made.body["input"]["uri"]), (201, &json!(uri)), "{}", made.text);
    let id = made.body["id"].as_str().unwrap().to_owned();
    let start = ciro::clock::instant();
    loop {
        let why = node.get(&format!("/jobs/{id}/explain")).await.body;
        if why["reason"] == "no_worker_fits" {
            let misfit = &why["workers"][0]["misfits"][0];
            assert_eq!((&misfit["requirement"], &misfit["offered"]), (&json!("input"), &json!("none")), "{why}");
            break;
        }
        assert!(start.elapsed().as_secs() < 25, "{why}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drop(shy);

    let settings = [
        ("CIRO_WORKER__INPUTS__SCHEMES", "[\"file\"]".to_owned()),
        ("CIRO_WORKER__INPUTS__FILE_ROOTS", format!("[{:?}]", root.to_str().unwrap())),
    ];
    let _worker = Worker::with(&node, &[], &settings);
    let ended = node.get(&format!("/jobs/{id}?wait=terminal&timeout_secs=25")).await;
    assert_eq!(ended.body["state"], "completed", "{}", ended.text);
    let output = node.get(&format!("/jobs/{id}/output")).await;
    assert!(output.text.starts_with(&hex::encode(Digest::of(b"hello").0)), "{}", output.text);
    let etag = output.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", hex::encode(Digest::of(output.text.as_bytes()).0)));
}
