//! Stores that are changed while no node runs on them.

use crate::consensus::tests::cluster::{Cluster, LIMIT, has, open_store, options, submission, wait_until};
use crate::consensus::{Error, Options, found, survey};
use crate::domain::restore::{Sinks, TERMS};
use crate::domain::{Digest, NodeId, PeerId, State};
use crate::storage::Store;

async fn open(cluster: &Cluster, id: NodeId) -> Store {
    open_store(&cluster.dir(id), id).await
}

/// What a backup of a small cluster holds.
async fn lived() -> State {
    let cluster = Cluster::new(1).await;
    let client = cluster.client(cluster.ids[0]);
    for n in 0..30 {
        client.submit(submission(n), LIMIT).await.unwrap().1.unwrap();
    }
    let state = State::clone(&client.view());
    cluster.shutdown().await;
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_begins_with_a_state_from_elsewhere() {
    let state = lived().await;
    let restored = state.clone().restored(&Sinks::new(), 0, Digest::default()).unwrap();
    let mut cluster = Cluster::stopped(3, options());
    for id in cluster.ids.clone() {
        let store = open(&cluster, id).await;
        found(&store, id, &cluster.options.initial_members, &restored).await.unwrap();
        let again = found(&store, id, &cluster.options.initial_members, &restored).await.unwrap_err();
        assert!(again.to_string().contains("in use"), "{again}");
    }
    for id in cluster.ids.clone() {
        cluster.start(id).await.unwrap();
        let client = cluster.client(id);
        let begins = client.read(|state| (state.applied(), state.hash()));
        assert_eq!(begins, (restored.applied(), restored.hash()), "equal before anybody said a word");
    }
    let (leader, term) = cluster.leader().await;
    assert!(term > state.applied_term() + TERMS, "a term that the old cluster can not have had: {term}");
    cluster.client(leader).submit(submission(77), LIMIT).await.unwrap().1.unwrap();
    cluster.converge().await;
    for id in cluster.ids.clone() {
        assert!(cluster.client(id).read(|state| (0..30).all(|n| has(state, n)) && has(state, 77)), "on {id}");
        assert_eq!(cluster.client(id).status().members.len(), 3);
    }

    // It is a cluster like any other: one that was down catches up, and the leader may die.
    let late = cluster.follower().await;
    cluster.kill(late).await;
    cluster.client(leader).submit(submission(78), LIMIT).await.unwrap().1.unwrap();
    cluster.start(late).await.unwrap();
    cluster.converge().await;
    cluster.kill(leader).await;
    cluster.leader().await;
    cluster.start(leader).await.unwrap();
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_founded() {
    let cluster = Cluster::stopped(1, options());
    let stranger = PeerId([9; 32]);
    let store = open(&cluster, stranger).await;
    let refused = found(&store, stranger, &cluster.options.initial_members, &State::default()).await.unwrap_err();
    assert!(refused.to_string().contains("not among the members"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_goes_on_alone_with_all_it_has_and_the_others_are_told() {
    let mut cluster = Cluster::with(3, Options { snapshot_every: 20, keep_entries: 5, ..options() }).await;
    let (leader, _) = cluster.leader().await;
    for n in 0..50 {
        cluster.client(leader).submit(submission(n), LIMIT).await.unwrap().1.unwrap();
    }
    cluster.converge().await;
    let survivor = cluster.follower().await;
    let others: Vec<NodeId> = cluster.ids.iter().copied().filter(|id| *id != survivor).collect();
    let term = cluster.client(survivor).status().term;
    for id in cluster.ids.clone() {
        cluster.kill(id).await;
    }

    let found = survey(open(&cluster, survivor).await, survivor).await.unwrap();
    let findings = found.findings().clone();
    assert_eq!((findings.jobs, findings.members.len(), findings.term), (50, 3, term));
    assert!(findings.committed <= findings.last && findings.jobs_uncommitted <= 50, "{findings:?}");
    let (new_term, index) = found.recover().await.unwrap();
    assert!(new_term >= term + TERMS && index == findings.last + 1);
    let again = survey(open(&cluster, survivor).await, survivor).await.err().unwrap();
    assert!(again.to_string().contains("the only voter already"), "{again}");

    cluster.start(survivor).await.unwrap();
    let (leads, leads_in) = cluster.leader().await;
    assert!(leads == survivor && leads_in > new_term);
    let client = cluster.client(survivor);
    client.submit(submission(60), LIMIT).await.unwrap().1.unwrap();
    assert!(client.read(|state| (0..50).all(|n| has(state, n)) && has(state, 60)));
    assert_eq!(client.status().members.len(), 1);

    // The two others come back. They could elect one of them; but they reach the survivor, and stop.
    for id in &others {
        cluster.start(*id).await.unwrap();
    }
    for id in &others {
        let failed = tokio::time::timeout(LIMIT, cluster.raft(*id).failed()).await.unwrap();
        assert!(matches!(&failed, Error::Amnesiac(why) if why.contains("was recovered")), "{failed:?}");
        cluster.kill(*id).await;
    }
    client.submit(submission(61), LIMIT).await.unwrap().1.unwrap();
    wait_until("the survivor leads on", || client.status().leader == Some(survivor)).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_cut_short_is_finished_before_the_node_starts() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    for n in 0..10 {
        cluster.client(leader).submit(submission(n), LIMIT).await.unwrap().1.unwrap();
    }
    cluster.converge().await;
    for id in cluster.ids.clone() {
        cluster.kill(id).await;
    }

    let survivor = leader;
    let refused = async |cluster: &mut Cluster| {
        let error = cluster.start(survivor).await.unwrap_err().to_string();
        assert!(error.contains("cluster recover"), "{error}");
    };
    // The others were on record as dismissed, and there was no snapshot yet.
    let found = survey(open(&cluster, survivor).await, survivor).await.unwrap();
    let term = found.findings().term;
    found.begin(&State::default()).await.unwrap();
    drop(found);
    refused(&mut cluster).await;

    // There was a snapshot, and the log was not behind it.
    let found = survey(open(&cluster, survivor).await, survivor).await.unwrap();
    found.recover().await.unwrap();
    let store = open(&cluster, survivor).await;
    store.tree("raft_meta").unwrap().put(b"recovering", b"").unwrap();
    store.tree("raft_meta").unwrap().delete(b"purged").unwrap();
    drop(store);
    refused(&mut cluster).await;

    let found = survey(open(&cluster, survivor).await, survivor).await.unwrap();
    let (recovered, _) = found.recover().await.unwrap();
    assert!(recovered >= term + TERMS);
    cluster.start(survivor).await.unwrap();
    cluster.client(survivor).submit(submission(60), LIMIT).await.unwrap().1.unwrap();
    assert!(cluster.client(survivor).read(|state| (0..10).all(|n| has(state, n)) && has(state, 60)));
    assert_eq!(cluster.client(survivor).status().members.len(), 1);
    cluster.shutdown().await;
}
