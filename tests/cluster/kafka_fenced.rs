//! A leader that is put to sleep in the middle of sending, and wakes when it leads no more.

use ciro::kafka::Delivery;
use ciro::tasks::Tasks;
use serde_json::json;

use crate::cluster::Cluster;
use crate::kafka_broker::Apache;
use crate::kafka_desk::Desk;
use crate::kafka_oracle::{self, Produced};
use crate::{secs, until};

const ROUNDS: usize = 3;
const JOBS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_a_deposed_leader_that_wakes_in_mid_transaction_changes_nothing() {
    let apache = Apache::shared().await;
    let tasks = Tasks::new();
    let desk = Desk::new(&apache.bootstrap, "fenced", Delivery::ExactlyOnce, &tasks);
    let mut cluster = Cluster::start_as(3, 0, &desk.network, desk.settings()).await;
    cluster.add_idler();
    cluster.workers_online(1).await;
    desk.topic(&desk.topics.results).await;
    let mut produced = Produced::default();
    for round in 0..ROUNDS {
        let (old, follower) = (cluster.leader().await, cluster.follower().await);
        // The broker sleeps, so the leader is left in a transaction that it can not end.
        let _awake = apache.awake_in_the_end();
        apache.pause();
        for number in 0..JOBS {
            let name = format!("job-{round}-{number:03}");
            let body = json!({"type": "noop", "payload": "", "tags": [name]});
            let answer = cluster.client.post(follower, "/jobs", &name, &body).await.expect("the node answers");
            assert_eq!(answer.status, 201, "{answer:?}");
            produced.good.insert(name);
        }
        until(secs(20), "the jobs end", async || {
            let status = cluster.client.get(old, "/status").await?.body;
            (status["jobs"]["completed"].as_u64()? >= produced.good.len() as u64).then_some(())
        })
        .await;
        cluster.pause(old);
        apache.resume();
        let new = cluster.leader().await;
        assert_ne!(new, old);
        until(secs(60), "the new leader delivers", async || {
            let status = cluster.client.get(new, "/kafka/status").await?.body;
            (status["undelivered"] == 0).then_some(())
        })
        .await;
        tokio::time::sleep(secs(2)).await;
        println!("round {round}: node {old} wakes, node {new} leads");
        cluster.resume(old);
    }
    kafka_oracle::judge(&cluster.client, &desk, &produced).await;
    cluster.finish().await;
    tasks.cancel();
}
