//! What must hold when nodes die, hang or are cut off.

use std::time::Duration;

use crate::clock;
use crate::consensus::tests::cluster::{Cluster, LIMIT, has, submission, submission_of, wait_until};
use crate::consensus::{Error, Leadership};
use crate::domain::NodeId;
use crate::mesh::Lane;

/// Submits until told that it took effect; only certain refusals are sent again.
async fn submit_surely(cluster: &Cluster, id: NodeId, n: u64) {
    let begun = clock::instant();
    loop {
        match cluster.client(id).submit(submission(n), LIMIT).await {
            Ok((_, reply)) => {
                reply.unwrap();
                return;
            }
            Err(Error::Unknown(why)) => println!("{n}: unknown ({why}), sent again under the same id"),
            Err(error) => println!("{n}: {error}, sent again"),
        }
        assert!(begun.elapsed() < LIMIT, "no write succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_leader_loses_nothing_acknowledged() {
    let mut cluster = Cluster::new(3).await;
    let mut written = 0;
    for round in 0..2 {
        let (leader, term) = cluster.leader().await;
        for id in cluster.running() {
            submit_surely(&cluster, id, written).await;
            written += 1;
        }
        cluster.kill(leader).await;
        let begun = clock::instant();
        let survivor = cluster.running()[0];
        submit_surely(&cluster, survivor, written).await;
        written += 1;
        println!("round {round}: first write {} ms after the kill", begun.elapsed().as_millis());
        assert!(cluster.leader().await.1 > term);

        cluster.start(leader).await.unwrap();
        cluster.converge().await;
        for id in cluster.running() {
            assert!(cluster.client(id).read(|state| (0..written).all(|n| has(state, n))), "{id} lost a write");
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_refuses_writes_and_heals() {
    let cluster = Cluster::new(3).await;
    let (leader, term) = cluster.leader().await;
    cluster.client(leader).submit(submission(0), LIMIT).await.unwrap().1.unwrap();
    cluster.hub.isolate([leader]);

    let short = Duration::from_secs(3);
    let first = cluster.client(leader).submit(submission(1), short).await.unwrap_err();
    assert!(matches!(first, Error::Unknown(_) | Error::NoLeader), "{first}");
    wait_until("the cut-off leader notices", || *cluster.client(leader).leadership().borrow() == Leadership::Following)
        .await;
    let later = cluster.client(leader).submit(submission(2), short).await.unwrap_err();
    assert!(matches!(later, Error::NoLeader), "{later}");
    let read = cluster.client(leader).linearize(short).await.unwrap_err();
    assert!(matches!(read, Error::NoLeader | Error::Timeout), "{read}");
    let status = cluster.client(leader).status();
    assert!(!status.ready && status.staleness_ms.is_some_and(|ms| ms >= 1_000), "{status:?}");

    let others = cluster.ids.iter().copied().filter(|id| *id != leader);
    let majority = others.clone().next().unwrap();
    submit_surely(&cluster, majority, 3).await;
    let elected =
        |id: NodeId| matches!(*cluster.client(id).leadership().borrow(), Leadership::Leading { term: t } if t > term);
    wait_until("a new leader", || others.clone().any(elected)).await;

    cluster.hub.heal();
    submit_surely(&cluster, leader, 4).await;
    cluster.converge().await;
    for id in cluster.running() {
        assert!(cluster.client(id).read(|state| [0, 3, 4].into_iter().all(|n| has(state, n))));
        assert!(cluster.client(id).read(|state| !has(state, 2)), "a refused write took effect");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_promised() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let follower = cluster.follower().await;
    let other = cluster.ids.iter().copied().find(|id| *id != leader && *id != follower).unwrap();
    cluster.kill(leader).await;
    cluster.kill(other).await;

    let begun = clock::instant();
    let refused = cluster.client(follower).submit(submission(1), Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(refused, Error::NoLeader), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_recovers_from_disk() {
    let mut cluster = Cluster::new(3).await;
    cluster.leader().await;
    for n in 0..10 {
        submit_surely(&cluster, cluster.ids[0], n).await;
    }
    let index = cluster.converge().await;
    let ids = cluster.ids.clone();
    let hash = cluster.client(ids[0]).read(|state| state.hash());
    for id in &ids {
        cluster.kill(*id).await;
    }
    for id in &ids {
        cluster.start(*id).await.unwrap();
        let client = cluster.client(*id);
        let restored = client.read(|state| (state.applied(), state.hash()));
        println!("{id} comes back at {} of {index}", restored.0);
        // Those that are back already may have elected a leader, which writes.
        assert!(restored.0 != index || restored.1 == hash);
    }
    wait_until("all ready", || ids.iter().all(|id| cluster.client(*id).status().ready)).await;
    cluster.converge().await;
    for id in &ids {
        assert!(cluster.client(*id).read(|state| (0..10).all(|n| has(state, n))));
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_write_without_an_answer_is_unknown_and_sent_once() {
    let cluster = Cluster::new(3).await;
    let follower = cluster.follower().await;
    let (leader, _) = cluster.leader().await;
    cluster.client(follower).linearize(LIMIT).await.unwrap();
    cluster.hub.lose_answers(Lane::Forward);
    let before = cluster.hub.carried(Lane::Forward);

    let unknown = cluster.client(follower).submit(submission(1), LIMIT).await.unwrap_err();
    assert!(matches!(unknown, Error::Unknown(_)), "{unknown}");
    assert_eq!(cluster.hub.carried(Lane::Forward), before + 1);
    wait_until("it took effect all the same", || cluster.client(leader).read(|state| has(state, 1))).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_replaced_and_steps_down_when_it_wakes() {
    let cluster = Cluster::new(3).await;
    let (leader, term) = cluster.leader().await;
    let other = cluster.follower().await;
    cluster.hub.pause(leader);
    submit_surely(&cluster, other, 1).await;
    let refused = cluster.client(leader).submit_as_leader(term, vec![submission(2)], Duration::from_secs(3)).await;
    assert!(refused.is_err());

    cluster.hub.heal();
    wait_until("the old leader knows", || cluster.client(leader).status().term > term).await;
    assert_eq!(*cluster.client(leader).leadership().borrow(), Leadership::Following);
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_in_good_order_leaves_another_behind() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    submit_surely(&cluster, leader, 1).await;
    let begun = clock::instant();
    cluster.stop(leader).await;
    let survivor = cluster.running()[0];
    submit_surely(&cluster, survivor, 2).await;
    println!("stop and first write took {} ms", begun.elapsed().as_millis());
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_is_ready_only_once_it_has_caught_up() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let late = cluster.follower().await;
    cluster.converge().await;
    cluster.kill(late).await;

    // Too much for one request, so that catching up takes a while.
    let commands = (0..20).map(|n| submission_of(n, 900 << 10)).collect();
    let committed = cluster.client(leader).submit_many(commands, LIMIT).await.unwrap();

    cluster.hub.delay(Duration::from_millis(40));
    cluster.start(late).await.unwrap();
    let client = cluster.client(late);
    let mut applied = 0;
    wait_until("ready", || {
        let ready = client.status().ready;
        applied = client.status().applied;
        ready
    })
    .await;
    assert!(applied >= committed.index, "ready at {applied}, committed is {}", committed.index);
    assert!(client.read(|state| (0..20).all(|n| has(state, n))));
    cluster.shutdown().await;
}
