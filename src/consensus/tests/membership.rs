//! Who may take part: members only, and only with the data they had.

use bytes::Bytes;

use crate::consensus::Error;
use crate::consensus::tests::cluster::{Cluster, LIMIT, has, options, submission, wait_until};
use crate::domain::PeerId;
use crate::mesh::Lane;

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_refused_and_told_why() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let wiped = cluster.follower().await;
    cluster.client(leader).submit(submission(1), LIMIT).await.unwrap().1.unwrap();
    cluster.converge().await;
    cluster.kill(wiped).await;
    std::fs::remove_dir_all(cluster.dir(wiped)).unwrap();

    cluster.start(wiped).await.unwrap();
    let failed = tokio::time::timeout(LIMIT, cluster.raft(wiped).failed()).await.unwrap();
    assert!(matches!(failed, Error::Amnesiac(_)), "{failed:?}");
    let message = failed.to_string();
    assert!(
        message.contains(&wiped.to_string()) && message.contains("Only the very directory it had may be put back"),
        "{message}"
    );
    assert_eq!(cluster.client(wiped).status().last_log, 0, "it took no part");

    cluster.client(leader).submit(submission(2), LIMIT).await.unwrap().1.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_the_unmannered_are_not_served() {
    let cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let member = cluster.follower().await;
    let stranger = PeerId([77; 32]);
    for lane in [Lane::Append, Lane::Control, Lane::Snapshot, Lane::Forward] {
        let refused = cluster.raft(leader).serve(stranger, lane, Bytes::from_static(&[9, 0, 0])).await.unwrap_err();
        assert!(refused.to_string().contains("not a member"), "{refused}");
        for garbage in [&b""[..], b"\xff", b"\x02\xff\xff\xff\xff\xff\xff\xff\xff", b"\x09\xfc\xff\xff\xff\xff\x00"] {
            let answer = cluster.raft(leader).serve(member, lane, Bytes::from_static(garbage)).await;
            assert!(answer.is_err(), "{garbage:?} on {lane:?}");
        }
    }
    let members: std::collections::BTreeSet<_> = cluster.ids.iter().copied().collect();
    wait_until("the mesh knows the members", || cluster.hub.members_of(leader) == members).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_outside_its_own_list_does_not_start() {
    let mut cluster = Cluster::stopped(2, options());
    cluster.options.initial_members.remove(0);
    let refused = cluster.start(cluster.ids[0]).await.unwrap_err();
    assert!(matches!(&refused, Error::Setup(why) if why.contains("not among the initial members")), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_start_late_still_form_one_cluster() {
    let mut cluster = Cluster::stopped(3, options());
    let ids = cluster.ids.clone();
    cluster.start(ids[2]).await.unwrap();
    wait_until("it formed its side", || cluster.client(ids[2]).status().members.len() == 3).await;
    cluster.start(ids[0]).await.unwrap();
    cluster.leader().await;
    cluster.client(ids[2]).submit(submission(1), LIMIT).await.unwrap().1.unwrap();
    cluster.start(ids[1]).await.unwrap();
    cluster.converge().await;
    assert!(cluster.client(ids[1]).read(|state| has(state, 1)));
    cluster.shutdown().await;
}
