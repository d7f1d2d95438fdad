//! A disk that takes its time.

use std::time::Duration;

use serde_json::json;

use crate::cluster::Cluster;
use crate::secs;

const SYNC: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_make_answers_late_and_revoke_nothing() {
    let mut cluster = Cluster::start(3, 2).await;
    // The leader and one more, so that no majority is fast.
    let leader = cluster.leader().await;
    for node in [leader, cluster.follower().await] {
        cluster.nodes[node].machine.slow_disk(SYNC);
    }
    let before = cluster.client.get(leader, "/status").await.expect("the node answers").body["term"].clone();
    let start = ciro::clock::instant();
    let mut tickets = Vec::new();
    for node in 0..6 {
        tickets.push(cluster.client.submit(node % 3, &cluster.client.mark(3.0)).await);
    }
    assert!(start.elapsed() > SYNC, "the disks are not slow: {:?}", start.elapsed());
    for ticket in &tickets {
        let job = cluster.client.ended(leader, &ticket.id, secs(60)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    let after = cluster.client.get(leader, "/status").await.expect("the node answers").body["term"].clone();
    assert_eq!(before, after, "a slow disk cost an election");
    cluster.finish().await;
}
