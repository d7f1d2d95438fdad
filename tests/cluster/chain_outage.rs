//! The endpoint is down, frozen, slow, or refuses. Jobs that settle later run all the same, and are settled when it returns.

use std::time::Duration;

use ciro::clock;
use ciro::tasks::Tasks;
use serde_json::{Value, json};

use crate::chain_desk::{Desk, Jobs};
use crate::chain_node::Devnet;
use crate::chain_oracle;
use crate::chain_proxy::{Fault, Rule};
use crate::cluster::Cluster;
use crate::{secs, until};

const OUTAGE: Duration = secs(20);
const JOBS: usize = 200;
/// Requests of three nodes in a second in which every one is told to wait longer than that.
const PATIENT: f64 = 6.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_endpoint_that_is_down_frozen_slow_or_refuses_costs_time_only() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let mut cluster = desk.cluster().await;
    let mut jobs = Jobs::default();
    for node in 0..3 {
        desk.state(&cluster.client, node, "connected").await;
    }
    let calm = run(&mut cluster, &mut jobs).await;
    down(&desk, &mut cluster, &mut jobs, calm).await;
    frozen(&desk, &mut cluster, &mut jobs, calm).await;
    slow(&desk, &mut cluster, &mut jobs).await;
    refuses(&desk, &mut cluster, &mut jobs).await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    cluster.finish().await;
    tasks.cancel();
}

/// How long jobs take to end.
async fn run(cluster: &mut Cluster, jobs: &mut Jobs) -> Duration {
    let start = clock::instant();
    jobs.submit(&cluster.client, JOBS, &json!({})).await;
    jobs.ended(&cluster.client).await;
    start.elapsed()
}

/// As fast as with a chain, give or take what the machine does meanwhile.
fn full_speed(what: &str, took: Duration, calm: Duration) {
    println!("{JOBS} jobs: {calm:?} with the chain, {took:?} {what}");
    assert!(took < calm * 2 + secs(2), "{what} {JOBS} jobs took {took:?}, before {calm:?}");
}

async fn down(desk: &Desk<'_>, cluster: &mut Cluster, jobs: &mut Jobs, calm: Duration) {
    let began = clock::instant();
    desk.proxy.rule(Rule::all(&[], Fault::Refuse));
    full_speed("without", run(cluster, jobs).await, calm);
    for node in 0..3 {
        let status = desk.state(&cluster.client, node, "down").await;
        assert!(status["last_error"].is_string(), "{status}");
        health(cluster, node, "degraded").await;
    }
    tokio::time::sleep(OUTAGE.saturating_sub(began.elapsed())).await;
    desk.proxy.heal();
    returns(desk, cluster).await;
}

async fn frozen(desk: &Desk<'_>, cluster: &mut Cluster, jobs: &mut Jobs, calm: Duration) {
    desk.devnet.pause();
    let took = run(cluster, jobs).await;
    desk.devnet.resume();
    full_speed("with it frozen", took, calm);
    returns(desk, cluster).await;
}

async fn slow(desk: &Desk<'_>, cluster: &mut Cluster, jobs: &mut Jobs) {
    desk.proxy.rule(Rule::all(&[], Fault::Delay(secs(2))));
    jobs.submit(&cluster.client, 20, &json!({})).await;
    jobs.ended(&cluster.client).await;
    let told = chain_oracle::told(&cluster.client).await;
    chain_oracle::settled(desk, &told).await;
    desk.proxy.heal();
}

/// Who is told to come back in four seconds does not come back in one.
async fn refuses(desk: &Desk<'_>, cluster: &mut Cluster, jobs: &mut Jobs) {
    desk.proxy.rule(Rule::all(&[], Fault::TooMany(4)));
    jobs.submit(&cluster.client, 20, &json!({})).await;
    tokio::time::sleep(secs(2)).await;
    let (start, before) = (clock::instant(), desk.proxy.seen_in_all());
    tokio::time::sleep(secs(8)).await;
    let rate = (desk.proxy.seen_in_all() - before) as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.1} requests each second of three nodes that are told to wait");
    assert!(rate < PATIENT, "{rate:.1} requests each second though all are refused with Retry-After");
    desk.proxy.heal();
    returns(desk, cluster).await;
}

async fn returns(desk: &Desk<'_>, cluster: &Cluster) {
    for node in 0..3 {
        desk.state(&cluster.client, node, "connected").await;
    }
    let told = chain_oracle::told(&cluster.client).await;
    chain_oracle::settled(desk, &told).await;
}

/// A node serves whatever the chain does.
async fn health(cluster: &Cluster, node: usize, of_chain: &str) {
    let mut last = Value::Null;
    until(secs(20), &format!("node {node} says that the chain is {of_chain}"), async || {
        let answer = cluster.client.get(node, "/health").await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        last = answer.body["components"]["blockchain"].clone();
        (last["status"] == of_chain).then_some(())
    })
    .await;
}
