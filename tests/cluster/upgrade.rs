//! A new build takes the place of the one before it, node by node, under load, and back again as long as that is allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{secs, until};

/// What makes this build the one before it, or the one after.
const NEWEST: &str = "CIRO_TEST_NEWEST_LEVEL";

const RAISE: [&str; 3] = ["cluster", "feature-level", "--raise"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_upgraded_and_taken_back_under_load_until_its_level_is_raised() {
    let mut cluster = Cluster::start_with(3, 2, &[(NEWEST, "1")]).await;
    let calm = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|node| {
            let (client, calm) = (cluster.client.clone(), calm.clone());
            cluster.tasks.spawn("client", async move {
                let mut count = 0;
                while !calm.load(Ordering::SeqCst) {
                    client.submit(node, &client.mark(0.05)).await;
                    count += 1;
                }
                count
            })
        })
        .collect();

    // Forward with two, refused while the third is of the build before, and back with one.
    rebuild(&mut cluster, &[0, 1], "2").await;
    let refused = cluster.cli_fails(0, &RAISE);
    let behind = format!("{} knows levels up to 1", cluster.nodes[2].id);
    assert!(refused.contains("not every member knows feature level 2") && refused.contains(&behind), "{refused}");
    rebuild(&mut cluster, &[1], "1").await;
    assert_eq!(level(&cluster, 1).await, 1);

    // Forward with all, and up.
    rebuild(&mut cluster, &[1, 2], "2").await;
    assert_eq!(raise(&cluster, 2), json!({"feature_level": 2, "raised": true}));
    for node in 0..3 {
        until(secs(20), "the level is raised everywhere", async || (level(&cluster, node).await == 2).then_some(()))
            .await;
    }
    assert_eq!(raise(&cluster, 1), json!({"feature_level": 2, "raised": false}));

    // There is no way back now, and the node that tried says what to do.
    let old = cluster.follower().await;
    cluster.kill(old);
    cluster.set(NEWEST, "1");
    cluster.launch(old);
    let process = cluster.nodes[old].process.take().expect("it was started");
    let log = process.log();
    let status = process.wait(secs(30)).await;
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!status.success() && said.contains("start the newer build"), "{status}");
    cluster.set(NEWEST, "2");
    cluster.restart(old).await;

    calm.store(true, Ordering::SeqCst);
    let mut accepted = 0;
    for client in clients {
        accepted += client.await.unwrap();
    }
    println!("{accepted} jobs accepted meanwhile");
    assert!(accepted > 50, "hardly a job was accepted: {accepted}");
    cluster.finish().await;
}

/// Stops these nodes one after the other in good order and starts them as another build.
async fn rebuild(cluster: &mut Cluster, nodes: &[usize], newest: &str) {
    cluster.set(NEWEST, newest);
    for node in nodes {
        let mut process = cluster.nodes[*node].process.take().expect("the node runs");
        process.signal(Signal::SIGTERM);
        assert!(process.wait(secs(20)).await.success());
        cluster.restart(*node).await;
    }
}

fn raise(cluster: &Cluster, node: usize) -> Value {
    serde_json::from_str(&cluster.cli(node, &[&["--json"][..], &RAISE].concat())).unwrap()
}

async fn level(cluster: &Cluster, node: usize) -> u64 {
    let answer = cluster.client.get(node, "/cluster").await.expect("the node answers");
    answer.body["feature_level"].as_u64().unwrap()
}
