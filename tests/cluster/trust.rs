//! A worker lies, and what the others and a receipt say to that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::Mark;
use crate::cluster::Cluster;
use crate::{secs, until};

/// A job that three workers run, honest ones for `seconds`.
fn compared(cluster: &Cluster, seconds: f64) -> Mark {
    Mark { later: seconds, redundancy: 3, ..cluster.client.mark(seconds) }
}

fn states(job: &Value) -> Vec<&str> {
    let mut states: Vec<&str> =
        job["runs"].as_array().expect("runs are shown").iter().filter_map(|run| run["state"].as_str()).collect();
    states.sort_unstable();
    states
}

/// The health of the worker whose run of `job` is in `state`.
async fn health_of(cluster: &Cluster, node: usize, job: &Value, state: &str) -> Value {
    let runs = job["runs"].as_array().expect("runs are shown");
    let run = runs.iter().find(|run| run["state"] == state).unwrap_or_else(|| panic!("no run is {state}: {job}"));
    let path = format!("/workers/{}/health", run["worker_id"].as_str().expect("a run has a worker"));
    cluster.client.get(node, &path).await.expect("the node answers").body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_worker_is_outvoted_and_the_receipt_proves_it_without_a_node() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.add_liar();
    cluster.workers_online(3).await;
    let node = cluster.follower().await;
    let ticket = cluster.client.submit(node, &compared(&cluster, 1.5)).await;
    let job = cluster.client.ended(node, &ticket.id, secs(30)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(3)), "{job}");
    assert_eq!(states(&job), ["agreed", "agreed", "outvoted"], "{job}");

    // The liar pays with its name, the others are owed what they bid.
    let liar = health_of(&cluster, node, &job, "outvoted").await;
    let last = liar["reputation"]["changes"].as_array().and_then(|changes| changes.last()).cloned();
    assert_eq!(liar["reputation"]["score"], 400, "{liar}");
    assert_eq!(last.map(|change| change["fact"].clone()), Some(json!("wrong_result")), "{liar}");
    assert_eq!(health_of(&cluster, node, &job, "agreed").await["reputation"]["score"], 515);

    // Whoever has the receipt needs no node, and notices what was changed in it.
    let text = cluster.cli(node, &["job", "receipt", &ticket.id]);
    let receipt = cluster.file("receipt.json", text.as_bytes());
    let result = cluster.client.get(node, &format!("/jobs/{}/result", ticket.id)).await.expect("the node answers");
    let output = STANDARD.decode(result.body["output"].as_str().expect("a small output is inline")).unwrap();
    let output = cluster.file("output", &output);
    let issuer = cluster.nodes[node].id.clone();
    let (said, code) = cluster.offline(&["verify", &receipt, "--output", &output, "--issuer", &issuer]);
    println!("{said}");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 of 3 workers agree"), "{said}");
    let (said, code) = cluster.offline(&["verify", &receipt, "--output", &receipt]);
    assert_eq!(code, Some(7), "another output: {said}");
    let price = job["price"].as_str().expect("a completed job has a price");
    let dearer = text.replace(&format!("\"price\": \"{price}\""), "\"price\": \"999999\"");
    assert_ne!(dearer, text);
    let (said, code) = cluster.offline(&["verify", &cluster.file("dearer.json", dearer.as_bytes())]);
    assert_eq!(code, Some(7), "another price: {said}");
    cluster.cli(node, &["job", "verify-award", &ticket.id]);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_outlive_the_leader_that_took_them() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.add_liar();
    cluster.workers_online(3).await;
    let (leader, node) = (cluster.leader().await, cluster.follower().await);
    let ticket = cluster.client.submit(node, &compared(&cluster, 6.0)).await;
    until(secs(15), "one worker voted and the others are at it", async || {
        let job = cluster.client.get(node, &format!("/jobs/{}", ticket.id)).await?.body;
        (states(&job) == ["running", "running", "voted"]).then_some(())
    })
    .await;
    cluster.kill(leader);
    let job = cluster.client.ended(node, &ticket.id, secs(40)).await;
    assert_eq!(
        (&job["state"], &job["attempt"]),
        (&json!("completed"), &json!(3)),
        "no run was lost or repeated: {job}"
    );
    assert_eq!(states(&job), ["agreed", "agreed", "outvoted"], "{job}");
    assert_eq!(cluster.executions(&ticket.name), 3);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_run_of_a_killed_worker_is_replaced_and_cancelled_runs_stop() {
    let mut cluster = Cluster::start(3, 3).await;
    let node = cluster.follower().await;
    let ticket = cluster.client.submit(node, &Mark { redundancy: 2, ..compared(&cluster, 50.0) }).await;
    let runs = async |cluster: &Cluster| {
        let path = format!("/jobs/{}", ticket.id);
        until(secs(15), "two workers run it", async || {
            let job = cluster.client.get(node, &path).await?.body;
            (states(&job) == ["running", "running"]).then(|| job["runs"].clone())
        })
        .await
    };
    let worker = |run: &Value| run["worker_id"].as_str().expect("a run has a worker").to_owned();
    let (victim, other) = {
        let runs = runs(&cluster).await;
        (worker(&runs[0]), worker(&runs[1]))
    };
    let number = cluster.worker_by_id(&victim);
    cluster.kill_worker(number);
    until(secs(10), "a third worker runs it beside the second", async || {
        let job = cluster.client.get(node, &format!("/jobs/{}", ticket.id)).await?.body;
        let workers: Vec<String> = job["runs"].as_array()?.iter().map(worker).collect();
        (workers.len() == 2 && workers.contains(&other) && !workers.contains(&victim)).then_some(())
    })
    .await;
    let both = runs(&cluster).await;
    cluster.client.delete(node, &format!("/jobs/{}", ticket.id)).await.expect("the node answers");
    cluster.client.expect_end(&ticket.id, "cancelled");
    for run in both.as_array().expect("runs are shown") {
        let path = format!("/workers/{}/health", worker(run));
        until(secs(5), "its worker stops", async || {
            let health = cluster.client.get(node, &path).await?.body;
            (health["heartbeat"]["jobs_running"] == 0).then_some(())
        })
        .await;
    }
    cluster.finish().await;
}
