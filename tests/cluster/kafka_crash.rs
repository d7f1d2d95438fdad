//! The leader dies at each of the moments that matter, staged without hooks in the program.
//!
//! With both followers asleep nothing commits, and with the broker asleep nothing
//! is acknowledged. So each moment can be held open for as long as it takes to
//! see that it is there, and the leader is killed in it:
//!
//! | the leader dies | how the moment is held |
//! |---|---|
//! | before intake is committed | followers asleep, records read |
//! | after that | a follower shows the offsets |
//! | before the broker has what is sent | broker asleep, jobs have ended |
//! | between its acknowledgement and the cursor | results can be read, followers asleep |
//! | after the cursor | a follower shows the cursor at the end |
//!
//! The third row is the one that is not exact: a broker that sleeps has sockets that do not, and what the leader
//! wrote into them before it died is read when the broker wakes. So the records may arrive after all, unacknowledged.
//! Both ways are one row to the successor, which can not tell them apart either; that something was sent twice is
//! asserted in the fourth row, where it is certain.

use std::time::Duration;

use ciro::kafka::Delivery;
use ciro::tasks::Tasks;
use serde_json::json;

use crate::cluster::Cluster;
use crate::kafka_broker::Apache;
use crate::kafka_desk::{Desk, Follow};
use crate::kafka_oracle::{self, Produced, Repeats};
use crate::kafka_records::{job, poison};
use crate::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_crash_table_exactly_once() {
    let repeats = crash_table("crash-exact", Delivery::ExactlyOnce).await;
    assert_eq!(repeats, Repeats { results: 0, letters: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_crash_table_at_least_once() {
    let repeats = crash_table("crash-least", Delivery::AtLeastOnce).await;
    assert!(repeats.results > 0, "no batch was sent again, so the moment after the acknowledgement was missed");
}

async fn crash_table(name: &str, delivery: Delivery) -> Repeats {
    let apache = Apache::shared().await;
    let tasks = Tasks::new();
    let desk = Desk::new(&apache.bootstrap, name, delivery, &tasks);
    let mut cluster = Cluster::start_as(3, 0, &desk.network, desk.settings()).await;
    cluster.add_idler();
    cluster.workers_online(1).await;
    desk.topic(&desk.topics.results).await;
    let mut table = Table { cluster, desk, apache, produced: Produced::default(), number: 0 };
    let _awake = apache.awake_in_the_end();
    table.warm_up().await;
    table.before_intake_commits().await;
    table.after_intake_committed().await;
    table.before_the_broker_has_it().await;
    table.between_acknowledgement_and_cursor().await;
    table.after_the_cursor().await;
    let repeats = kafka_oracle::judge(&table.cluster.client, &table.desk, &table.produced).await;
    println!("{name}: {repeats:?}");
    table.cluster.finish().await;
    tasks.cancel();
    repeats
}

struct Table {
    cluster: Cluster,
    desk: Desk,
    apache: &'static Apache,
    produced: Produced,
    number: usize,
}

/// Good jobs of one row.
const JOBS: usize = 40;

impl Table {
    /// One row's records: jobs, and among them one that is none.
    async fn produce(&mut self) {
        let mut messages = vec![];
        for _ in 0..JOBS {
            let name = format!("job-{:05}", self.number);
            messages.push(job(&self.desk, &name, self.number));
            self.produced.good.insert(name);
            self.number += 1;
        }
        let name = format!("poison-{:05}", self.number);
        messages.insert(JOBS / 2, poison(&self.desk, &name, self.number));
        self.produced.poison.insert(name);
        self.desk.produce(messages).await;
    }

    /// Everything is open, known and at rest.
    async fn settled(&mut self) {
        self.cluster.heal().await;
        kafka_oracle::offsets_reach_the_end(&self.cluster.client, &self.desk).await;
        kafka_oracle::all_delivered(&self.cluster.client).await;
    }

    async fn warm_up(&mut self) {
        self.produce().await;
        self.settled().await;
    }

    async fn followers(&mut self) -> (usize, Vec<usize>) {
        let leader = self.cluster.leader().await;
        (leader, self.cluster.running().into_iter().filter(|node| *node != leader).collect())
    }

    /// The leader dies, who slept wakes, and all is well again.
    async fn dies(&mut self, leader: usize, asleep: &[usize]) {
        self.cluster.kill(leader);
        for node in asleep {
            self.cluster.resume(*node);
        }
        self.settled().await;
    }

    async fn before_intake_commits(&mut self) {
        println!("row: before intake is committed");
        let (leader, followers) = self.followers().await;
        let before = self.taken(followers[0]).await;
        let read = self.read(leader).await;
        followers.iter().for_each(|node| self.cluster.pause(*node));
        self.produce().await;
        until(secs(5), "the leader has read records that it can not commit", async || {
            (self.read(leader).await > read).then_some(())
        })
        .await;
        assert_eq!(self.taken(leader).await, before, "committed without a majority");
        self.dies(leader, &followers).await;
    }

    async fn after_intake_committed(&mut self) {
        println!("row: after intake is committed");
        let (leader, followers) = self.followers().await;
        self.produce().await;
        let ends = self.desk.ends().await;
        until(secs(20), "a follower has all offsets", async || {
            let intake = kafka_oracle::intake_of(&self.cluster.client, followers[0], &self.desk.topics.jobs).await?;
            ends.iter().all(|(number, end)| *end == 0 || intake.get(number) == Some(end)).then_some(())
        })
        .await;
        self.dies(leader, &[]).await;
    }

    async fn before_the_broker_has_it(&mut self) {
        println!("row: before the broker has what is sent");
        let (leader, followers) = self.followers().await;
        self.apache.pause();
        self.undelivered(followers[0]).await;
        // So that the leader is in the middle of sending.
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.cluster.kill(leader);
        self.apache.resume();
        self.settled().await;
    }

    async fn between_acknowledgement_and_cursor(&mut self) {
        println!("row: between acknowledgement and cursor");
        let (leader, followers) = self.followers().await;
        let mut results = self.desk.follow(&self.desk.topics.results).await;
        results.drain().await;
        let before = results.records.len();
        self.apache.pause();
        self.undelivered(followers[0]).await;
        followers.iter().for_each(|node| self.cluster.pause(*node));
        self.apache.resume();
        self.arrive(&mut results, before).await;
        self.dies(leader, &followers).await;
    }

    async fn after_the_cursor(&mut self) {
        println!("row: after the cursor");
        let (leader, followers) = self.followers().await;
        let marks = self.rest_jobs().await;
        until(secs(30), "a follower has the cursor at the end", async || {
            let ended = self.cluster.client.get(followers[0], "/status").await?.body["jobs"]["completed"].as_u64()?;
            let status = self.cluster.client.get(followers[0], "/kafka/status").await?.body;
            (ended >= marks && status["undelivered"] == 0).then_some(())
        })
        .await;
        self.dies(leader, &[]).await;
    }

    /// Ends jobs that Kafka can not be told of, and waits until `node` knows of it.
    async fn undelivered(&mut self, node: usize) {
        let completed = self.rest_jobs().await;
        until(secs(20), "jobs end while the broker sleeps", async || {
            let status = self.cluster.client.get(node, "/status").await?.body;
            (status["jobs"]["completed"].as_u64()? >= completed).then_some(())
        })
        .await;
    }

    /// Submits jobs by REST, and returns how many must have completed after that.
    async fn rest_jobs(&mut self) -> u64 {
        let node = self.cluster.running()[0];
        for _ in 0..JOBS {
            let name = format!("job-{:05}", self.number);
            let body = json!({"type": "noop", "payload": "", "tags": [name]});
            let answer = self.cluster.client.post(node, "/jobs", &name, &body).await.expect("the node answers");
            assert_eq!(answer.status, 201, "{answer:?}");
            self.produced.good.insert(name);
            self.number += 1;
        }
        self.produced.good.len() as u64
    }

    async fn arrive(&self, results: &mut Follow, before: usize) {
        results.until(secs(30), "results of this row", |records| records.len() > before).await;
    }

    /// Records that `node` has read from Kafka in this life, taken or not.
    async fn read(&self, node: usize) -> u64 {
        let metrics = self.cluster.client.get(node, "/metrics?format=json").await.expect("the node answers").body;
        let samples = metrics["metrics"]["ciro_kafka_intake_read_total"]["samples"].as_array().cloned();
        samples.unwrap_or_default().iter().filter_map(|sample| sample["value"].as_f64()).sum::<f64>() as u64
    }

    /// Records of the job topic that `node` knows to be taken.
    async fn taken(&self, node: usize) -> u64 {
        let intake = kafka_oracle::intake_of(&self.cluster.client, node, &self.desk.topics.jobs).await;
        intake.expect("the node answers").values().sum()
    }
}
