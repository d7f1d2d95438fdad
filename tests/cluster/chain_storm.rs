//! Leaders die, and wake from sleep, while a thousand jobs are settled over a line with faults.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ciro::clock;
use ciro::tasks::Tasks;
use rand::Rng as _;
use serde_json::json;

use crate::chain_desk::{Desk, Jobs};
use crate::chain_node::Devnet;
use crate::chain_oracle;
use crate::chain_proxy::{Fault, Proxy, Rule, SEND};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::{secs, until};

const JOBS: usize = 1_000;
const KILLS: usize = 20;
const PAUSES: usize = 3;
const ROUNDS_OF_A_PAUSE: usize = (KILLS + PAUSES) / PAUSES;
/// Submitted each second.
const PORTION: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_storm_each_job_is_registered_assigned_completed_and_paid_once() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let mut cluster = desk.cluster().await;
    let client = cluster.client.clone();
    let mut jobs = Jobs::default();
    weather(&desk.proxy);
    let calm = AtomicBool::new(false);
    let breaking = async {
        let taken = break_leaders(&mut cluster, &desk).await;
        calm.store(true, Ordering::SeqCst);
        taken
    };
    let (_, mut taken) = tokio::join!(submit(&client, &mut jobs, &calm), breaking);
    let faults = desk.proxy.faults();
    desk.proxy.heal();
    cluster.heal().await;
    let verdict = chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    taken.sort_unstable();
    println!("{KILLS} kills, {PAUSES} pauses, {faults} requests met a fault");
    println!("from a new leader to its epoch on chain: p50 {:?}, max {:?}", taken[taken.len() / 2], taken.last());
    assert!(verdict.jobs >= JOBS && verdict.epoch > KILLS as u128, "{verdict:?}");
    chain_oracle::independent(&desk, &jobs).await;
    cluster.finish().await;
    tasks.cancel();
}

/// What a line to a public endpoint does now and then.
fn weather(proxy: &Proxy) {
    for rule in [
        Rule::some(5, &[SEND], Fault::DropAnswer),
        Rule::some(5, &[SEND], Fault::Refuse),
        Rule::some(5, &[SEND], Fault::Twice),
        Rule::some(20, &[SEND], Fault::DelayUpTo(Duration::from_millis(400))),
        Rule::some(2, &[], Fault::Unavailable),
        Rule::some(1, &[], Fault::TooMany(1)),
        Rule::some(10, &[], Fault::DelayUpTo(Duration::from_millis(200))),
    ] {
        proxy.rule(rule);
    }
}

/// As long as leaders die, so that there is always something to settle.
async fn submit(client: &Client, jobs: &mut Jobs, calm: &AtomicBool) {
    let mut ticks = tokio::time::interval(secs(1));
    while !calm.load(Ordering::SeqCst) {
        ticks.tick().await;
        jobs.submit(client, PORTION, &json!({})).await;
    }
    jobs.submit(client, JOBS.saturating_sub(jobs.ids.len()), &json!({})).await;
}

/// Returns how long each new leader took until its epoch was on chain.
async fn break_leaders(cluster: &mut Cluster, desk: &Desk<'_>) -> Vec<Duration> {
    let mut taken = vec![];
    for round in 0..KILLS + PAUSES {
        let calm = Duration::from_millis(cluster.rng.random_range(200..1_500));
        tokio::time::sleep(calm).await;
        let leader = cluster.leader().await;
        let before = desk.epoch().await;
        // Spread over the rounds.
        if round % ROUNDS_OF_A_PAUSE == ROUNDS_OF_A_PAUSE / 2 {
            taken.push(sleep_and_wake(cluster, desk, leader, before).await);
            continue;
        }
        in_a_moment(cluster, desk, leader).await;
        cluster.leader().await;
        taken.push(epoch_above(desk, before).await);
        cluster.restart(leader).await;
    }
    taken
}

/// Kills the leader: anywhere, before a send, or before the answer to one.
async fn in_a_moment(cluster: &mut Cluster, desk: &Desk<'_>, leader: usize) {
    let moment = cluster.rng.random_range(0..4);
    let gate = match moment {
        0 => desk.proxy.first(Rule::hold_request(&[SEND])),
        1 => desk.proxy.first(Rule::hold_answer(&[SEND])),
        _ => {
            cluster.kill(leader);
            return;
        }
    };
    gate.reached(secs(20), "the leader sends").await;
    println!("node {leader} is killed {} a transaction is sent", ["before", "after"][moment]);
    cluster.kill(leader);
    gate.shut();
}

/// The leader sleeps in mid-send, another takes over, and the first wakes and goes on where it was.
async fn sleep_and_wake(cluster: &mut Cluster, desk: &Desk<'_>, leader: usize, before: u128) -> Duration {
    let gate = desk.proxy.first(Rule::hold_request(&[SEND]));
    gate.reached(secs(20), "the leader sends").await;
    cluster.pause(leader);
    let new = cluster.leader().await;
    println!("node {leader} sleeps before a transaction is sent, node {new} leads");
    let taken = epoch_above(desk, before).await;
    gate.open();
    cluster.resume(leader);
    taken
}

async fn epoch_above(desk: &Desk<'_>, before: u128) -> Duration {
    let start = clock::instant();
    until(secs(30), "the new leader's epoch is on chain", async || (desk.epoch().await > before).then_some(())).await;
    start.elapsed()
}
