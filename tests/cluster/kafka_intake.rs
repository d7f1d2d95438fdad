//! The job topic is not there, grows, loses records, or belongs to somebody else.

use ciro::kafka::Delivery;
use ciro::tasks::Tasks;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::kafka_broker::Apache;
use crate::kafka_desk::Desk;
use crate::kafka_oracle::{self, Produced};
use crate::kafka_records::job;
use crate::{secs, until};

async fn cluster_for(desk: &Desk, more: &[(&str, &str)]) -> Cluster {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let settings = desk.settings().into_iter().chain(more).collect();
    let mut cluster = Cluster::start_as(3, 0, &desk.network, settings).await;
    cluster.add_idler();
    cluster.workers_online(1).await;
    cluster
}

/// Produces `count` jobs that were not produced before.
async fn produce(desk: &Desk, produced: &mut Produced, count: usize) {
    let mut messages = vec![];
    for _ in 0..count {
        let name = format!("job-{:05}", produced.good.len());
        messages.push(job(desk, &name, produced.good.len()));
        produced.good.insert(name);
    }
    desk.produce(messages).await;
}

/// Waits until `node` raises the alarm, and returns the status it shows.
async fn alarm(cluster: &Cluster, node: usize, code: &str) -> Value {
    until(secs(30), &format!("alarm {code}"), async || {
        let status = cluster.client.get(node, "/kafka/status").await?.body;
        status["alarms"].as_array()?.iter().any(|alarm| alarm["code"] == *code).then_some(status)
    })
    .await
}

async fn no_alarm(cluster: &Cluster, node: usize) {
    until(secs(30), "no alarm is left", async || {
        let status = cluster.client.get(node, "/kafka/status").await?.body;
        status["alarms"].as_array()?.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_a_topic_that_is_missing_comes_and_then_grows() {
    let apache = Apache::shared().await;
    let tasks = Tasks::new();
    let desk = Desk::new(&apache.bootstrap, "grows", Delivery::AtLeastOnce, &tasks);
    let mut cluster = cluster_for(&desk, &[("CIRO__KAFKA__CREATE_TOPICS", "false")]).await;
    let leader = cluster.leader().await;
    alarm(&cluster, leader, "topic_missing").await;
    for topic in [&desk.topics.jobs, &desk.topics.results, &desk.topics.workers, &desk.topics.dead_letters()] {
        apache.create_topic(topic, 1);
    }
    let mut produced = Produced::default();
    produce(&desk, &mut produced, 50).await;
    kafka_oracle::offsets_reach_the_end(&cluster.client, &desk).await;
    no_alarm(&cluster, leader).await;

    apache.add_partitions(&desk.topics.jobs, 5);
    until(secs(30), "clients see the new partitions", async || (desk.ends().await.len() == 5).then_some(())).await;
    until(secs(60), "every partition has records", async || {
        produce(&desk, &mut produced, 50).await;
        desk.ends().await.values().all(|end| *end > 0).then_some(())
    })
    .await;
    kafka_oracle::judge(&cluster.client, &desk, &produced).await;
    cluster.finish().await;
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_records_deleted_unread_stop_intake_until_somebody_decides() {
    let apache = Apache::shared().await;
    let tasks = Tasks::new();
    let desk = Desk::new(&apache.bootstrap, "deleted", Delivery::AtLeastOnce, &tasks);
    apache.create_topic(&desk.topics.jobs, 1);
    let mut cluster = cluster_for(&desk, &[]).await;
    let mut produced = Produced::default();
    produce(&desk, &mut produced, 30).await;
    kafka_oracle::offsets_reach_the_end(&cluster.client, &desk).await;

    for node in 0..3 {
        cluster.kill(node);
    }
    // Of these nothing will be known.
    desk.produce((0..20).map(|number| job(&desk, &format!("never-{number}"), number)).collect()).await;
    produce(&desk, &mut produced, 20).await;
    apache.delete_records(&desk.topics.jobs, 0, 50);
    cluster.heal().await;
    let leader = cluster.leader().await;
    let status = alarm(&cluster, leader, "records_gone").await;
    assert_eq!(status["intake"][0]["next_offset"], 30, "nothing is skipped in silence: {status}");
    tokio::time::sleep(secs(3)).await;
    let still = cluster.client.get(leader, "/kafka/status").await.expect("the node answers").body;
    assert_eq!(still["intake"][0]["next_offset"], 30, "{still}");

    let body = json!({"topic": desk.topics.jobs, "partition": 0, "offset": 50});
    let answer = cluster.client.post(leader, "/kafka/intake/seek", "seek", &body).await.expect("the node answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    kafka_oracle::judge(&cluster.client, &desk, &produced).await;
    no_alarm(&cluster, leader).await;
    cluster.finish().await;
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_another_cluster_at_the_same_address_is_not_read_until_somebody_decides() {
    let first = Apache::start(None);
    let tasks = Tasks::new();
    let desk = Desk::new(&first.bootstrap, "other", Delivery::AtLeastOnce, &tasks);
    let mut cluster = cluster_for(&desk, &[]).await;
    desk.topic(&desk.topics.jobs).await;
    let mut produced = Produced::default();
    produce(&desk, &mut produced, 30).await;
    kafka_oracle::offsets_reach_the_end(&cluster.client, &desk).await;
    kafka_oracle::all_delivered(&cluster.client).await;

    first.stop();
    let second = Apache::start(Some(first.port()));
    // A new client, as the people of the new cluster have.
    let theirs = Desk::new(&second.bootstrap, "other", Delivery::AtLeastOnce, &tasks);
    theirs.topic(&theirs.topics.jobs).await;
    produce(&theirs, &mut produced, 30).await;
    let leader = cluster.leader().await;
    let status = alarm(&cluster, leader, "other_cluster").await;
    tokio::time::sleep(secs(3)).await;
    let jobs = cluster.client.get(leader, "/status").await.expect("the node answers").body["jobs"].clone();
    assert_eq!(jobs["completed"], 30, "nothing of the other cluster is read: {jobs}");

    let body = json!({"cluster_id": status["cluster_id"]});
    let answer = cluster.client.post(leader, "/kafka/intake/reset", "reset", &body).await.expect("the node answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    kafka_oracle::offsets_reach_the_end(&cluster.client, &theirs).await;
    until(secs(60), "the other cluster's jobs end", async || {
        let status = cluster.client.get(leader, "/status").await?.body;
        (status["jobs"]["completed"] == 60).then_some(())
    })
    .await;
    kafka_oracle::all_delivered(&cluster.client).await;
    no_alarm(&cluster, leader).await;
    cluster.finish().await;
    tasks.cancel();
    second.stop();
}
