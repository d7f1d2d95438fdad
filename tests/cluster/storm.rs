//! Nodes are killed one after another while jobs flow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng as _;

use crate::cluster::Cluster;
use crate::secs;

const KILLS: usize = 20;
const CLIENTS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_nodes_are_killed_over_and_over() {
    let mut cluster = Cluster::start(3, 3).await;
    let calm = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
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
    for round in 0..KILLS {
        // Every third time it is the leader, else anybody.
        let victim = if round % 3 == 0 { cluster.leader().await } else { cluster.rng.random_range(0..3) };
        cluster.kill(victim);
        let pause = std::time::Duration::from_millis(cluster.rng.random_range(0..400));
        tokio::time::sleep(pause).await;
        cluster.restart(victim).await;
    }
    calm.store(true, Ordering::SeqCst);
    let mut accepted = 0;
    for client in clients {
        accepted += client.await.unwrap();
    }
    println!("{accepted} jobs accepted across {KILLS} kills");
    assert!(accepted >= KILLS, "hardly a job was accepted: {accepted}");
    cluster.finish().await;
}

/// hatchet #552, chronos #371: the same task runs twice after a restart or a hand-over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_killed_at_once_come_back_with_everything() {
    let mut cluster = Cluster::start(3, 2).await;
    for round in 0..3 {
        for turn in 0..20 {
            cluster.client.submit(turn, &cluster.client.mark(0.05)).await;
        }
        println!("round {round}: all are killed");
        for node in 0..3 {
            cluster.kill(node);
        }
        cluster.heal().await;
    }
    // The workers lived on, and every award they heard of was on disk before: nothing is run again.
    for ticket in cluster.client.tickets() {
        cluster.client.ended(0, &ticket.id, secs(30)).await;
        assert_eq!(cluster.executions(&ticket.name), 1, "{ticket:?}");
    }
    cluster.finish().await;
}
