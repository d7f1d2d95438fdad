//! What a read may rest on, and who may be handed the lead.

use std::time::Duration;

use crate::clock;
use crate::consensus::core::Core;
use crate::consensus::tests::cluster::{Cluster, LIMIT, has, options, submission, wait_until};
use crate::consensus::{Error, Leadership, Options, Reason, Role, read};
use crate::domain::NodeId;
use crate::mesh::Lane;

async fn leased() -> Cluster {
    Cluster::with(3, Options { lease_reads: true, ..options() }).await
}

async fn lease_is_held(core: &Core, wanted: bool) {
    let begun = clock::instant();
    while read::lease_index(core).await.is_ok() != wanted {
        assert!(begun.elapsed() < LIMIT, "no lease is held: {}", !wanted);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_index_is_asked_for_anew_on_every_retry() {
    let cluster = Cluster::new(3).await;
    let (leader, follower) = (cluster.leader().await.0, cluster.follower().await);
    cluster.client(follower).linearize(LIMIT).await.unwrap();
    cluster.hub.lose_answers(Lane::Forward);
    let before = cluster.hub.carried(Lane::Forward);
    let client = cluster.client(follower);
    let read = async { client.linearize(LIMIT).await.unwrap() };
    let write = async {
        wait_until("the leader was asked", || cluster.hub.carried(Lane::Forward) > before).await;
        let index = cluster.client(leader).submit(submission(1), LIMIT).await.unwrap().0;
        cluster.hub.heal();
        index
    };
    let (read, written) = tokio::join!(read, write);
    assert!(read >= written, "an index of before the write ({read} < {written}) was used on the retry");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lay_in_a_link_while_it_was_cut_is_no_news() {
    let cluster = Cluster::new(3).await;
    let (leader, follower) = (cluster.leader().await.0, cluster.follower().await);
    cluster.client(leader).submit(submission(1), LIMIT).await.unwrap().1.unwrap();
    let fresh = || cluster.client(follower).status().staleness_ms.is_some_and(|ms| ms < 600);
    wait_until("the follower is up to date", || cluster.client(follower).read(|state| has(state, 1)) && fresh()).await;

    cluster.hub.isolate([follower]);
    let cut = clock::instant();
    wait_until("it misses its leader", || !fresh()).await;
    let missed = cluster.client(leader).submit(submission(2), LIMIT).await.unwrap().0;
    for _ in 0..3 {
        cluster.hub.repeat_append(follower).await;
        let told = cluster.client(follower).status().staleness_ms.unwrap();
        assert!(told + 300 > u64::try_from(cut.elapsed().as_millis()).unwrap(), "{told} ms stale, by old news");
    }
    cluster.hub.heal();
    wait_until("it is up to date again", fresh).await;
    let applied = cluster.client(follower).status().applied;
    assert!(applied >= missed, "it says that it is, with {applied} of {missed}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_lease_no_quorum_is_asked_and_without_one_nothing_is_answered() {
    let cluster = leased().await;
    let (leader, follower) = (cluster.leader().await.0, cluster.follower().await);
    for (n, id) in [(1, leader), (2, follower)] {
        cluster.client(leader).submit(submission(n), LIMIT).await.unwrap().1.unwrap();
        cluster.client(id).linearize_by_lease(LIMIT).await.unwrap();
        assert!(cluster.client(id).read(|state| has(state, n)), "{id}");
    }
    let core = cluster.client(leader).core;
    lease_is_held(&core, true).await;

    cluster.hub.isolate([leader]);
    let lost = clock::instant();
    lease_is_held(&core, false).await;
    println!("the lease was over {:?} after the last answer at the latest", lost.elapsed());
    assert!(lost.elapsed() < core.options.lease() + Duration::from_secs(2));
    let others = cluster.ids.iter().copied().filter(|id| *id != leader);
    let leads = |id| cluster.client(id).status().role == Role::Leader;
    wait_until("another one leads", || others.clone().any(leads)).await;
    assert!(read::lease_index(&core).await.is_err(), "two leaders hold a lease");
    let refused = cluster.client(leader).linearize_by_lease(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(refused, Error::NoLeader | Error::Timeout), "{refused}");
    drop(core);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_not_served_where_they_are_off() {
    let cluster = Cluster::new(1).await;
    let (leader, _) = cluster.leader().await;
    let core = cluster.client(leader).core;
    assert!(read::lease_index(&core).await.is_err());
    assert!(cluster.client(leader).linearize_by_lease(LIMIT).await.is_ok(), "by a quorum");
    drop(core);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_does_not_call_itself_one() {
    let cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    cluster.hub.isolate([leader]);
    wait_until("it owns up", || cluster.client(leader).headline().role == Role::Candidate).await;
    let status = cluster.client(leader).status();
    let late = u64::try_from(cluster.options.election_max.as_millis()).unwrap();
    assert_eq!(status.leader, None);
    assert!(status.staleness_ms.is_some_and(|ms| ms >= late), "{status:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hears_a_leader_without_a_quorum_does_not_call_its_state_new() {
    let cluster = Cluster::new(5).await;
    let (leader, follower) = (cluster.leader().await.0, cluster.follower().await);
    cluster.hub.split([leader, follower]);
    let cut = clock::instant();
    let others: Vec<_> = cluster.ids.iter().copied().filter(|id| ![leader, follower].contains(id)).collect();
    let leads = |id: &&NodeId| *cluster.client(**id).leadership().borrow() != Leadership::Following;
    wait_until("the others elect one", || others.iter().any(|id| leads(&id))).await;
    let elected = *others.iter().find(leads).unwrap();
    let written = cluster.client(elected).submit(submission(1), LIMIT).await.unwrap().0;
    let election = cluster.options.election_max;
    // The old leader goes on to look for a quorum, now and then.
    while cut.elapsed() < election * 8 {
        let status = cluster.client(follower).status();
        let least = cut.elapsed().saturating_sub(election);
        let told = status.staleness_ms.map(Duration::from_millis);
        assert!(status.applied < written && told.is_none_or(|told| told >= least), "after {least:?}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.hub.heal();
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_not_handed_to_a_member_that_does_not_answer() {
    let mut cluster = Cluster::new(3).await;
    let (leader, term) = cluster.leader().await;
    let dead = cluster.follower().await;
    cluster.kill(dead).await;
    let refused = cluster.client(leader).transfer_leadership(Some(dead), LIMIT).await;
    // For a second after its death it may be taken for alive.
    if let Err(refused) = refused {
        assert!(matches!(refused, Error::Behind { node, .. } if node == dead), "{refused}");
        assert_eq!(cluster.leader().await, (leader, term), "it went on to lead");
    }
    let (leader, term) = cluster.leader().await;
    let refused = cluster.client(leader).transfer_leadership(Some(dead), LIMIT).await.unwrap_err();
    assert!(matches!(refused, Error::Behind { node, .. } if node == dead), "{refused}");
    assert_eq!(cluster.leader().await, (leader, term), "it went on to lead");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_not_handed_to_a_member_that_is_behind() {
    let cluster = Cluster::new(3).await;
    let (leader, term) = cluster.leader().await;
    let behind = cluster.follower().await;
    cluster.hub.isolate([behind]);
    for n in 0..300 {
        cluster.client(leader).submit(submission(n), LIMIT).await.unwrap().1.unwrap();
    }
    let refused = cluster.client(leader).transfer_leadership(Some(behind), LIMIT).await.unwrap_err();
    assert!(matches!(refused, Error::Behind { node, entries } if node == behind && entries > 256), "{refused}");
    assert_eq!(cluster.leader().await, (leader, term), "it went on to lead");

    let moved = cluster.client(leader).transfer_leadership(None, LIMIT).await.unwrap();
    assert!(moved != leader && moved != behind, "to {moved}");
    let handed = cluster.client(leader).handed_over().unwrap();
    assert_eq!((handed.to, handed.reason), (moved, Reason::Asked));
    cluster.hub.heal();
    cluster.converge().await;
    cluster.shutdown().await;
}
