//! Links break, and processes do not.

use std::time::Duration;

use rand::Rng as _;
use serde_json::json;

use crate::client::Mark;
use crate::cluster::{Cluster, ELECTION};
use crate::links::Party::{Node, Worker};
use crate::{secs, until};

async fn term(cluster: &Cluster, node: usize) -> u64 {
    let answer = cluster.client.get(node, "/status").await.expect("the node answers");
    answer.body["term"].as_u64().expect("a term")
}

/// nomad #4749, river #1161: a deposed leader goes on acting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_from_the_others_gives_way_and_restarts_nothing() {
    let mut cluster = Cluster::start_with_links(3, 2).await;
    let old = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|node| *node != old).collect();
    let mut tickets = Vec::new();
    for _ in 0..6 {
        tickets.push(cluster.client.submit(old, &cluster.client.mark(3.0)).await);
    }
    for ticket in &tickets {
        cluster.client.in_state(old, &ticket.id, "running", secs(10)).await;
    }
    others.iter().for_each(|other| cluster.cut(Node(old), Node(*other)));
    until(ELECTION, "the others elect one of them", async || {
        let status = cluster.client.get(others[0], "/status").await?.body;
        let leader = status["leader_id"].as_str()?;
        others.iter().any(|other| cluster.nodes[*other].id == leader).then_some(())
    })
    .await;
    let refused = cluster.client.try_submit(old, &cluster.client.mark(0.1)).await.expect("the node answers");
    assert_eq!(refused.status, 503, "a write without a majority: {refused:?}");
    let path = format!("/jobs/{}?consistency=linearizable", tickets[0].id);
    let refused = cluster.client.get(old, &path).await.expect("the node answers");
    assert_eq!(refused.status, 503, "a linearizable read without a majority: {refused:?}");
    // The workers still see all three, so what the old leader says must not disturb them.
    let late = cluster.client.mark(0.1);
    let late = cluster.client.submit(others[0], &late).await;
    cluster.client.ended(others[0], &late.id, secs(20)).await;
    for ticket in &tickets {
        let job = cluster.client.ended(others[0], &ticket.id, secs(20)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    cluster.mend();
    until(secs(10), "the old leader follows", async || {
        let status = cluster.client.get(old, "/status").await?.body;
        (status["role"] == "follower").then_some(())
    })
    .await;
    // The refused write becomes a job like others, once, under its key.
    let again = Mark { name: "job-00006".to_owned(), ..cluster.client.mark(0.1) };
    cluster.client.submit(old, &again).await;
    cluster.finish().await;
}

/// consul #5928: one half-partitioned node makes gossip flap for everyone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_broken_link_to_the_leader_makes_nobody_flap() {
    let mut cluster = Cluster::start_with_links(3, 2).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let third = 3 - leader - follower;
    let before = term(&cluster, leader).await;
    cluster.cut(Node(leader), Node(follower));
    until(secs(10), "the follower says how old its state is", async || {
        let answer = cluster.client.get(follower, "/status").await?;
        (answer.header("X-Ciro-Staleness-Ms").parse::<u64>().ok()? > 2_000).then_some(())
    })
    .await;
    for turn in 0..20 {
        let node = if turn % 2 == 0 { leader } else { third };
        let ticket = cluster.client.submit(node, &cluster.client.mark(0.1)).await;
        cluster.client.ended(node, &ticket.id, secs(20)).await;
    }
    assert_eq!(term(&cluster, leader).await, before, "an election although a majority heard the leader");
    cluster.mend();
    let caught_up = cluster.client.submit(leader, &cluster.client.mark(0.1)).await;
    cluster.client.in_state(follower, &caught_up.id, "completed", secs(20)).await;
    assert_eq!(term(&cluster, follower).await, before, "an election when the link was mended");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_reach_the_leader_works_through_the_others() {
    let mut cluster = Cluster::start_with_links(3, 1).await;
    let leader = cluster.leader().await;
    // One job runs when the link breaks, the others come after it.
    let running = cluster.client.submit(leader, &cluster.client.mark(2.0)).await;
    cluster.client.in_state(leader, &running.id, "running", secs(10)).await;
    cluster.cut(Node(leader), Worker(0));
    let mut tickets = vec![running];
    for _ in 0..5 {
        tickets.push(cluster.client.submit(leader, &cluster.client.mark(0.1)).await);
    }
    for ticket in &tickets {
        let job = cluster.client.ended(leader, &ticket.id, secs(40)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job}");
    }
    assert_eq!(cluster.leader().await, leader, "the leader did not change");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_links_break_and_mend() {
    let mut cluster = Cluster::start_with_links(3, 3).await;
    let clients: Vec<_> = (0..3)
        .map(|node| {
            let client = cluster.client.clone();
            cluster.tasks.spawn("client", async move {
                for _ in 0..40 {
                    client.submit(node, &client.mark(0.05)).await;
                }
            })
        })
        .collect();
    let parties: Vec<_> = (0..3).map(Node).chain((0..3).map(Worker)).collect();
    let mut cuts = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        for _ in 0..cluster.rng.random_range(1..=3) {
            let node = Node(cluster.rng.random_range(0..3));
            let other = parties[cluster.rng.random_range(0..parties.len())];
            if node != other {
                cluster.cut(node, other);
                cuts += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(cluster.rng.random_range(100..2_500))).await;
        cluster.mend();
        tokio::time::sleep(Duration::from_millis(cluster.rng.random_range(0..1_500))).await;
    }
    println!("{cuts} cuts");
    for client in clients {
        client.await.unwrap();
    }
    cluster.finish().await;
}
