//! What runs beside commands of one kind: modules clients bring, and attempts that say how far they are.
//!
//! The oracle knows jobs of type `mark` only, so these stories compare the nodes themselves.

use std::fs;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{secs, until};

/// Copies its input to its output.
const ECHO: &str = include_str!("../echo.wat");

const ENDLESS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $more (br $more))))"#;

const BOMB: &str = r#"(module (memory (export "memory") 1)
  (func (export "_start") (loop $more (drop (memory.grow (i32.const 64))) (br $more))))"#;

fn submit(cluster: &Cluster, node: usize, args: &[&str]) -> String {
    let id = cluster.cli(node, &[&["job", "submit"], args].concat());
    id.trim().to_owned()
}

/// Every node says the same of the job.
async fn agree(cluster: &Cluster, id: &str) {
    let mut said: Vec<Value> = Vec::new();
    for node in 0..cluster.nodes.len() {
        let path = format!("/jobs/{id}?consistency=linearizable");
        said.push(cluster.client.get(node, &path).await.expect("the node answers").body);
    }
    assert!(said.windows(2).all(|pair| pair[0] == pair[1]), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_a_client_brings_runs_and_hostile_ones_fail_alone() {
    let cluster = Cluster::start(3, 1).await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let module = |name: &str, text: &str| file(name, &wat::parse_str(text).unwrap());
    let input = file("input", b"what a client brings");
    let hostile = [(module("endless", ENDLESS), "wasm_out_of_fuel"), (module("bomb", BOMB), "wasm_out_of_memory")];
    let failing: Vec<(String, &str)> =
        hostile.iter().map(|(path, code)| (submit(&cluster, 1, &["--wasm", path]), *code)).collect();

    let echo = module("echo", ECHO);
    let good = submit(&cluster, 0, &["--wasm", &echo, "--input", &input]);
    let job = cluster.client.ended(0, &good, secs(30)).await;
    assert_eq!((&job["state"], &job["type"]), (&json!("completed"), &json!("wasm")), "{job}");
    assert_eq!(cluster.cli(2, &["job", "result", &good]), "what a client brings");
    agree(&cluster, &good).await;

    // The worker has seen it: now its digest will do.
    let digest = ciro::domain::Digest::of(&fs::read(&echo).unwrap());
    let named = submit(&cluster, 2, &["--wasm-sha256", &hex::encode(digest.0), "--input", &input]);
    assert_eq!(cluster.client.ended(1, &named, secs(30)).await["state"], "completed");

    for (id, code) in &failing {
        let job = cluster.client.ended(0, id, secs(30)).await;
        let told = (&job["state"], &job["error"]["code"], &job["attempt"]);
        assert_eq!(told, (&json!("failed"), &json!(code), &json!(1)), "no retry would end otherwise: {job}");
        agree(&cluster, id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_says_how_far_a_job_is() {
    let cluster = Cluster::start(3, 1).await;
    let id = submit(&cluster, 0, &["--type", "steps", "--payload", "x"]);
    let status = async |node: usize| {
        let path = format!("/jobs/{id}/status");
        cluster.client.get(node, &path).await.map(|answer| answer.body)
    };
    for node in 0..3 {
        until(secs(20), "the node says how far it is", async || {
            let told = status(node).await?;
            (told["progress"] == 0.25 && told["progress_message"] == "a first step").then_some(())
        })
        .await;
    }
    // Also to who follows it: the progress of this attempt, then its end.
    let watched = cluster.cli(1, &["job", "watch", &id]);
    assert!(
        watched.contains("progress") && watched.contains("25.0 %") && watched.contains("a first step"),
        "{watched}"
    );
    assert!(watched.contains("completed"), "{watched}");
    for node in 0..3 {
        until(secs(10), "no node shows what an ended attempt said", async || {
            let told = status(node).await?;
            (told["progress"] == 1.0 && told["progress_message"].is_null()).then_some(())
        })
        .await;
    }
}
