//! Kafka is down, slow, refuses, or is switched off. Everything else goes on, and nothing is lost.

use std::time::Duration;

use ciro::kafka::Delivery;
use ciro::tasks::Tasks;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::kafka_broker::Apache;
use crate::kafka_desk::Desk;
use crate::kafka_mock::DevBroker;
use crate::kafka_oracle::{self, Produced};
use crate::kafka_records::{job, poison};
use crate::{secs, until};

const OUTAGE: Duration = secs(30);

struct Stage {
    cluster: Cluster,
    desk: Desk,
    produced: Produced,
}

impl Stage {
    async fn set(bootstrap: &str, story: &str, delivery: Delivery, tasks: &Tasks) -> Self {
        let desk = Desk::new(bootstrap, story, delivery, tasks);
        let mut cluster = Cluster::start_as(3, 0, &desk.network, desk.settings()).await;
        cluster.add_idler();
        cluster.workers_online(1).await;
        Self { cluster, desk, produced: Produced::default() }
    }

    /// Jobs over Kafka, and one record that is none.
    async fn produce(&mut self, count: usize) {
        let mut messages = vec![];
        for _ in 0..count {
            let name = self.name();
            messages.push(job(&self.desk, &name, self.produced.good.len()));
        }
        let name = format!("poison-{:05}", self.produced.poison.len());
        messages.push(poison(&self.desk, &name, self.produced.poison.len()));
        self.produced.poison.insert(name);
        self.desk.produce(messages).await;
    }

    /// Jobs by REST, each on the next node.
    async fn submit(&mut self, count: usize) {
        for turn in 0..count {
            let name = self.name();
            let body = json!({"type": "noop", "payload": "", "tags": [name]});
            let answer = self.cluster.client.post(turn % 3, "/jobs", &name, &body).await.expect("the node answers");
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }

    fn name(&mut self) -> String {
        let name = format!("job-{:05}", self.produced.good.len());
        self.produced.good.insert(name.clone());
        name
    }

    /// What each node says of Kafka's health, once all say the same.
    async fn health(&self, of_kafka: &str) {
        for node in 0..3 {
            let mut last = Value::Null;
            until(secs(40), &format!("node {node} says that kafka is {of_kafka}"), async || {
                let answer = self.cluster.client.get(node, "/health").await?;
                assert_eq!(answer.status, 200, "the node serves whatever Kafka does: {answer:?}");
                let kafka = answer.body["components"]["kafka"].clone();
                if kafka != last {
                    println!("node {node}: kafka is {kafka}");
                    last = kafka.clone();
                }
                (kafka["status"] == of_kafka).then_some(())
            })
            .await;
        }
    }

    async fn completed(&self, node: usize) -> u64 {
        let status = self.cluster.client.get(node, "/status").await.expect("the node answers").body;
        status["jobs"]["completed"].as_u64().unwrap_or(0)
    }

    async fn kafka(&self, node: usize) -> Value {
        self.cluster.client.get(node, "/kafka/status").await.expect("the node answers").body
    }

    async fn finish(self) {
        kafka_oracle::judge(&self.cluster.client, &self.desk, &self.produced).await;
        self.cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_broker_that_sleeps_for_half_a_minute_costs_time_only() {
    let apache = Apache::shared().await;
    let tasks = Tasks::new();
    let mut stage = Stage::set(&apache.bootstrap, "asleep", Delivery::ExactlyOnce, &tasks).await;
    stage.desk.topic(&stage.desk.topics.jobs).await;
    stage.health("healthy").await;
    stage.produce(200).await;
    let _awake = apache.awake_in_the_end();
    apache.pause();
    let began = ciro::clock::instant();
    stage.health("degraded").await;
    stage.submit(60).await;
    until(secs(20), "jobs by REST end meanwhile", async || (stage.completed(0).await >= 60).then_some(())).await;
    for node in 0..3 {
        assert_eq!(stage.kafka(node).await["state"], "down", "node {node}");
    }
    tokio::time::sleep(OUTAGE.saturating_sub(began.elapsed())).await;
    apache.resume();
    stage.health("healthy").await;
    stage.produce(200).await;
    stage.finish().await;
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_broker_that_is_killed_and_comes_back_costs_time_only() {
    let apache = Apache::shared().await;
    let tasks = Tasks::new();
    let mut stage = Stage::set(&apache.bootstrap, "killed", Delivery::ExactlyOnce, &tasks).await;
    stage.desk.topic(&stage.desk.topics.jobs).await;
    stage.produce(500).await;
    apache.kill();
    stage.submit(30).await;
    apache.start_again();
    stage.health("healthy").await;
    stage.produce(100).await;
    stage.finish().await;
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_broker_that_is_slow_and_refuses_costs_time_only() {
    let mut broker =
        DevBroker::start(&[("slow.jobs", 4), ("slow.jobs.dlq", 1), ("slow.results", 4), ("slow.workers", 4)]).await;
    let tasks = Tasks::new();
    let mut stage = Stage::set(&broker.bootstrap, "slow", Delivery::AtLeastOnce, &tasks).await;
    stage.produce(100).await;
    broker.order("rtt 500");
    stage.produce(100).await;
    broker.order("errors produce not_enough_replicas 20");
    stage.submit(50).await;
    stage.produce(50).await;
    kafka_oracle::offsets_reach_the_end(&stage.cluster.client, &stage.desk).await;
    kafka_oracle::all_delivered(&stage.cluster.client).await;
    broker.order("rtt 0");
    broker.order("down");
    stage.health("degraded").await;
    stage.submit(20).await;
    broker.order("up");
    stage.health("healthy").await;
    stage.finish().await;
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_switched_off_and_on_again_loses_nothing() {
    let apache = Apache::shared().await;
    let tasks = Tasks::new();
    let mut stage = Stage::set(&apache.bootstrap, "switch", Delivery::AtLeastOnce, &tasks).await;
    stage.desk.topic(&stage.desk.topics.jobs).await;
    stage.produce(100).await;
    kafka_oracle::offsets_reach_the_end(&stage.cluster.client, &stage.desk).await;
    switch(&mut stage.cluster, "false").await;
    stage.submit(100).await;
    stage.produce(100).await;
    until(secs(30), "jobs by REST end", async || (stage.completed(0).await >= 200).then_some(())).await;
    let status = stage.kafka(0).await;
    assert_eq!(status["state"], "disabled", "{status}");
    assert!(status["undelivered"].as_u64() >= Some(100), "the journal keeps what Kafka has not got: {status}");
    switch(&mut stage.cluster, "true").await;
    stage.finish().await;
    tasks.cancel();
}

/// One node after the other, as an operator would.
async fn switch(cluster: &mut Cluster, enabled: &str) {
    cluster.set("CIRO__KAFKA__ENABLED", enabled);
    for node in 0..3 {
        cluster.kill(node);
        cluster.restart(node).await;
    }
    cluster.leader().await;
}
