//! Builds of two feature levels in one cluster: the way up, the way back, and where there is none.

use std::time::Duration;

use crate::consensus::level::Raised;
use crate::consensus::tests::cluster::{Cluster, LIMIT, has, options, submission, wait_until};
use crate::domain::NodeId;
use crate::domain::level::{FIRST, TRIAL};

/// Ends a node in good order and starts it as a build that knows levels up to `newest`.
async fn rebuilt(cluster: &mut Cluster, node: NodeId, newest: u32) {
    cluster.stop(node).await;
    cluster.options.newest_level = newest;
    cluster.start(node).await.unwrap();
}

async fn write(cluster: &Cluster, n: u64) {
    let (leader, _) = cluster.leader().await;
    for node in cluster.running() {
        let key = n * 10 + u64::from(node.0[0]);
        cluster.client(node).submit(submission(key), LIMIT).await.unwrap().1.unwrap();
        assert!(cluster.client(leader).read(|state| has(state, key)));
    }
}

fn level(cluster: &Cluster, node: NodeId) -> u32 {
    cluster.client(node).read(crate::domain::State::level)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_two_builds_work_together_until_the_level_is_raised() {
    let mut cluster = Cluster::with(3, options()).await;
    let ids = cluster.ids.clone();
    for (step, node) in ids[..2].iter().enumerate() {
        rebuilt(&mut cluster, *node, TRIAL).await;
        write(&cluster, step as u64 + 1).await;
    }
    // One member does not know the next level: it is not raised, and the others may go back.
    let raised = cluster.client(ids[0]).raise_level(LIMIT).await.unwrap();
    assert_eq!(raised, Raised::Behind { next: TRIAL, members: vec![(ids[2], Some(FIRST))] });
    rebuilt(&mut cluster, ids[0], FIRST).await;
    write(&cluster, 3).await;
    cluster.converge().await;
    assert_eq!(level(&cluster, ids[0]), FIRST);

    for node in [ids[0], ids[2]] {
        rebuilt(&mut cluster, node, TRIAL).await;
    }
    write(&cluster, 4).await;
    let raised = cluster.client(ids[1]).raise_level(LIMIT).await.unwrap();
    assert_eq!(raised, Raised::To(TRIAL));
    write(&cluster, 5).await;
    cluster.converge().await;
    for node in &ids {
        let (level, trial) = cluster.client(*node).read(|state| (state.level(), state.trial()));
        assert_eq!(level, TRIAL);
        assert!(trial.commands >= 3 && trial.sum >= 3, "what the level adds is written: {trial:?}");
    }
    assert_eq!(cluster.client(ids[1]).raise_level(LIMIT).await.unwrap(), Raised::Newest(TRIAL));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_build_before_refuses_a_raised_cluster_and_harms_nobody() {
    let mut cluster = Cluster::with(3, crate::consensus::Options { newest_level: TRIAL, ..options() }).await;
    let ids = cluster.ids.clone();
    write(&cluster, 1).await;
    assert_eq!(cluster.client(ids[0]).raise_level(LIMIT).await.unwrap(), Raised::To(TRIAL));
    write(&cluster, 2).await;
    let old = cluster.follower().await;
    cluster.stop(old).await;
    cluster.options.newest_level = FIRST;
    // It finds out from its own log or snapshot, at its start or when it has replayed so far.
    let refused = match cluster.start(old).await {
        Err(error) => error.to_string(),
        Ok(()) => {
            let why = tokio::time::timeout(LIMIT, cluster.raft(old).failed()).await.unwrap().to_string();
            cluster.kill(old).await;
            why
        }
    };
    assert!(refused.contains("start the newer build"), "{refused}");
    write(&cluster, 3).await;

    cluster.options.newest_level = TRIAL;
    cluster.start(old).await.unwrap();
    cluster.converge().await;
    write(&cluster, 4).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_newer_level_is_read_by_the_builds_that_know_it() {
    let mut cluster = Cluster::with(3, crate::consensus::Options { newest_level: TRIAL, ..options() }).await;
    let (ids, late) = (cluster.ids.clone(), cluster.follower().await);
    assert_eq!(cluster.client(ids[0]).raise_level(LIMIT).await.unwrap(), Raised::To(TRIAL));
    cluster.converge().await;
    cluster.kill(late).await;
    let (leader, _) = cluster.leader().await;
    for n in 0..50 {
        cluster.client(leader).submit(submission(n), LIMIT).await.unwrap().1.unwrap();
    }
    let raft = &cluster.client(leader).core.raft;
    raft.trigger().snapshot().await.unwrap();
    wait_until("a snapshot", || cluster.client(leader).status().snapshot > 50).await;
    raft.trigger().purge_log(cluster.client(leader).status().snapshot).await.unwrap();
    wait_until("a purged log", || cluster.client(leader).status().purged > 50).await;

    cluster.options.newest_level = FIRST;
    let refused = match cluster.start(late).await {
        Err(error) => error,
        Ok(()) => tokio::time::timeout(LIMIT, cluster.raft(late).failed()).await.unwrap(),
    };
    assert!(refused.to_string().contains("start the newer build"), "{refused}");
    if cluster.running().contains(&late) {
        cluster.kill(late).await;
    }

    cluster.options.newest_level = TRIAL;
    cluster.start(late).await.unwrap();
    cluster.converge().await;
    assert!(cluster.client(late).read(|state| has(state, 49) && state.trial().commands >= 50));
    tokio::time::timeout(Duration::from_secs(60), cluster.shutdown()).await.unwrap();
}
