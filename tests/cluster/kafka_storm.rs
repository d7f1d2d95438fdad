//! Jobs come in over Kafka while leaders die, clients repeat themselves and send nonsense.

use std::collections::BTreeSet;
use std::time::Duration;

use ciro::kafka::{Delivery, Message};
use ciro::tasks::Tasks;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::cluster::Cluster;
use crate::kafka_broker::Apache;
use crate::kafka_desk::Desk;
use crate::kafka_oracle::{self, Produced};
use crate::kafka_records::{job, poison};
use crate::secs;

/// Of a hundred jobs, those that are sent a second time under the same key.
const RETRIES_PERCENT: usize = 5;
const POISON_PERCENT: usize = 1;

struct Storm {
    name: &'static str,
    delivery: Delivery,
    jobs: usize,
    kills: usize,
    /// Records produced each second.
    pace: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_storm_each_job_and_each_result_exactly_once() {
    storm(Storm { name: "storm-exact", delivery: Delivery::ExactlyOnce, jobs: 20_000, kills: 10, pace: 500 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_storm_at_least_once_repeats_only_under_the_same_id() {
    storm(Storm { name: "storm-least", delivery: Delivery::AtLeastOnce, jobs: 4_000, kills: 4, pace: 300 }).await;
}

async fn storm(plan: Storm) {
    let apache = Apache::shared().await;
    let tasks = Tasks::new();
    let desk = Desk::new(&apache.bootstrap, plan.name, plan.delivery, &tasks);
    let mut cluster = Cluster::start_as(3, 0, &desk.network, desk.settings()).await;
    cluster.add_idler();
    cluster.add_idler();
    cluster.workers_online(2).await;
    desk.topic(&desk.topics.jobs).await;

    let (messages, produced) = script(&desk, &plan, &mut StdRng::seed_from_u64(cluster.rng.random()));
    println!("{} records for {} jobs, {} poison", messages.len(), produced.good.len(), produced.poison.len());
    let producing = produce(&desk, &messages, plan.pace);
    let breaking = break_leaders(&mut cluster, plan.kills);
    tokio::join!(producing, breaking);
    cluster.heal().await;
    let started = ciro::clock::instant();
    let repeats = kafka_oracle::judge(&cluster.client, &desk, &produced).await;
    println!("{}: {repeats:?}, judged in {:?}", plan.name, started.elapsed());
    cluster.finish().await;
    tasks.cancel();
}

/// All that clients will produce, in order.
fn script(desk: &Desk, plan: &Storm, rng: &mut StdRng) -> (Vec<Message>, Produced) {
    let mut produced = Produced { good: BTreeSet::new(), poison: BTreeSet::new() };
    let mut slots: Vec<(f64, Message)> = vec![];
    for number in 0..plan.jobs {
        let name = format!("job-{number:05}");
        let at = number as f64;
        slots.push((at, job(desk, &name, number)));
        if rng.random_range(0..100) < RETRIES_PERCENT {
            // At once, or so late that the job has ended.
            let later = if rng.random() { 0.5 } else { rng.random_range(1.0..5_000.0) };
            slots.push((at + later, job(desk, &name, number)));
        }
        produced.good.insert(name);
    }
    let mut places: Vec<usize> = (0..plan.jobs).collect();
    places.shuffle(rng);
    for (number, at) in places.into_iter().take(plan.jobs * POISON_PERCENT / 100).enumerate() {
        let name = format!("poison-{number:04}");
        slots.push((at as f64 + 0.25, poison(desk, &name, number)));
        produced.poison.insert(name);
    }
    slots.sort_by(|a, b| a.0.total_cmp(&b.0));
    (slots.into_iter().map(|(_, message)| message).collect(), produced)
}

/// The broker is not what breaks here: it takes every record at once, each once.
async fn produce(desk: &Desk, messages: &[Message], pace: usize) {
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    for portion in messages.chunks(pace / 5) {
        ticks.tick().await;
        desk.produce(portion.to_vec()).await;
    }
}

/// Kills the leader over and over; halfway one is put to sleep past its lease instead, and wakes.
async fn break_leaders(cluster: &mut Cluster, kills: usize) {
    for round in 0..=kills {
        let calm = Duration::from_millis(cluster.rng.random_range(800..2_500));
        tokio::time::sleep(calm).await;
        let leader = cluster.leader().await;
        if round == kills / 2 {
            println!("round {round}: node {leader}, the leader, sleeps");
            cluster.pause(leader);
            tokio::time::sleep(secs(5)).await;
            cluster.resume(leader);
            continue;
        }
        println!("round {round}: node {leader}, the leader, is killed");
        cluster.kill(leader);
        let dead = Duration::from_millis(cluster.rng.random_range(0..1_500));
        tokio::time::sleep(dead).await;
        cluster.restart(leader).await;
    }
}
