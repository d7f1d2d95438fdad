//! Writing and reading through any node.

use std::time::Duration;

use crate::consensus::codec::{Blob, Encoded, Proposal, encode, record};
use crate::consensus::door::{Load, Scope};
use crate::consensus::tests::cluster::{Cluster, LIMIT, has, job, options, submission, submission_of, wait_until};
use crate::consensus::{Error, Leadership, Role};
use crate::domain::command::Done;
use crate::domain::worker::{Capabilities, Location};
use crate::domain::{Command, PeerId, State};
use crate::mesh::Lane;

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_take_writes_through_each() {
    let cluster = Cluster::new(3).await;
    cluster.leader().await;
    for (n, id) in (0..).zip(cluster.ids.clone()) {
        let client = cluster.client(id);
        let (index, reply) = client.submit(submission(n), LIMIT).await.unwrap();
        assert_eq!(reply, Ok(Done::Submitted { job: job(n), created: true }));
        assert!(client.read(|state| has(state, n)), "applied where it was submitted");
        assert!(client.status().applied >= index);
        assert!(*client.applied().borrow() >= index);
    }
    let register = Command::RegisterWorker {
        worker: PeerId([99; 32]),
        capabilities: Box::new(Capabilities { max_parallel_jobs: 2, ..Capabilities::default() }),
        location: Location::default(),
        version: "1".into(),
    };
    let follower = cluster.client(cluster.follower().await);
    follower.submit(register, LIMIT).await.unwrap().1.unwrap();
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_is_a_cluster_at_once() {
    let cluster = Cluster::new(1).await;
    let id = cluster.ids[0];
    let client = cluster.client(id);
    client.submit(submission(1), LIMIT).await.unwrap().1.unwrap();
    client.linearize(LIMIT).await.unwrap();
    cluster.leader().await;
    let status = client.status();
    assert_eq!((status.role, status.leader, status.staleness_ms), (Role::Leader, Some(id), Some(0)));
    assert!(status.ready, "{status:?}");
    assert_eq!(client.storage().min_free_bytes, 0);
    assert!(client.storage().free_bytes > 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_arrive_together_share_records() {
    const COMMANDS: u64 = 1_000;
    let cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader);
    let before = client.status().last_log;

    let submit = |n| {
        let client = client.clone();
        async move { client.submit(submission(n), LIMIT).await.unwrap().1.unwrap() }
    };
    futures::future::join_all((0..COMMANDS).map(submit)).await;

    let entries = client.status().last_log - before;
    println!("{COMMANDS} commands in {entries} log entries");
    assert!(entries <= COMMANDS / 10, "{entries} entries");
    assert!(client.read(|state| (0..COMMANDS).all(|n| has(state, n))));
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_keep_their_order_over_records() {
    let cluster = Cluster::with(3, crate::consensus::Options { inflight: 300, ..options() }).await;
    let follower = cluster.client(cluster.follower().await);
    // The leader's own notes about the members share the door.
    let noted = || follower.read(|state| state.members().seated().all(|(_, known)| known.incarnation.is_some()));
    wait_until("the books of the membership are complete", noted).await;
    let commands = (0..1_000).map(submission).collect();
    let committed = follower.submit_many(commands, LIMIT).await.unwrap();
    for (n, reply) in (0..).zip(&committed.replies) {
        assert_eq!(reply, &Ok(Done::Submitted { job: job(n), created: true }));
    }
    assert_eq!(committed.replies.len(), 1_000);
    assert!(follower.submit_many(Vec::new(), LIMIT).await.unwrap().replies.is_empty());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_commands_pass_and_larger_ones_are_refused() {
    let cluster = Cluster::new(3).await;
    let follower = cluster.client(cluster.follower().await);
    let commands = (0..4).map(|n| submission_of(n, 900 << 10)).chain([submission_of(9, 1_900 << 10)]).collect();
    follower.submit_many(commands, LIMIT).await.unwrap();
    assert!(follower.read(|state| has(state, 9)));

    let refused = follower.submit(submission_of(10, 3 << 20), LIMIT).await.unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_writes_are_refused_at_once() {
    let cluster = Cluster::with(3, crate::consensus::Options { inflight: 10, ..options() }).await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader);
    cluster.hub.delay(Duration::from_millis(50));
    let submit = |n| {
        let client = client.clone();
        async move { client.submit(submission(n), LIMIT).await.map(|(_, reply)| reply.unwrap()) }
    };
    let results = futures::future::join_all((0..50).map(submit)).await;
    let refused = results.iter().filter(|result| matches!(result, Err(Error::Overloaded))).count();
    assert!((1..=40).contains(&refused), "{refused} refused");
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 50 - refused);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_jobs_only() {
    let cluster = Cluster::with(1, crate::consensus::Options { min_free_bytes: u64::MAX, ..options() }).await;
    let client = cluster.client(cluster.ids[0]);
    let refused = client.submit(submission(1), LIMIT).await.unwrap_err();
    assert!(matches!(refused, Error::Storage(crate::storage::Error::Full(_))), "{refused:?}");
    let cancel = Command::Cancel { job: job(1), reason: "still possible".into() };
    assert!(client.submit(cancel, LIMIT).await.unwrap().1.is_err(), "refused by the state, not by the door");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_short_of_disk_refuses_new_jobs_and_nothing_that_travels_with_them() {
    let mut cluster = Cluster::stopped(3, options());
    for (id, min_free_bytes) in cluster.ids.clone().into_iter().zip([u64::MAX, 0, 0]) {
        cluster.options.min_free_bytes = min_free_bytes;
        cluster.start(id).await.unwrap();
    }
    let (full, other) = (cluster.ids[0], cluster.ids[1]);
    cluster.leader().await;
    cluster.client(other).transfer_leadership(Some(full), LIMIT).await.unwrap();

    let client = cluster.client(other);
    let submit = |n| {
        let client = client.clone();
        let cancel = Command::Cancel { job: job(n), reason: "there is no such job".into() };
        let command = if n % 2 == 0 { submission(n) } else { cancel };
        async move { (n, client.submit(command, LIMIT).await) }
    };
    for (n, result) in futures::future::join_all((0..200).map(submit)).await {
        match result {
            Err(Error::Storage(crate::storage::Error::Full(_))) if n % 2 == 0 => {}
            Ok((_, Err(_))) if n % 2 == 1 => {} // refused by the state, not by the door
            other => panic!("{n}: {other:?}"),
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_is_bounded_in_bytes_too() {
    let mut cluster = Cluster::stopped(3, options());
    let alone = cluster.ids[0];
    cluster.start(alone).await.unwrap();
    let client = cluster.client(alone);
    let bytes = bytes::Bytes::from(vec![0; 2 << 20]);
    let submit = |_| {
        let commands = Encoded { count: 1, bytes: Blob(bytes.clone()) };
        client.door.submit(Load { commands, submits: true }, Scope::Anywhere, Duration::from_millis(500), false)
    };
    let results = futures::future::join_all((0..140).map(submit)).await;
    let refused = results.iter().filter(|result| matches!(result, Err(Error::Overloaded))).count();
    let waited = results.iter().filter(|result| matches!(result, Err(Error::NoLeader))).count();
    assert_eq!((refused, waited), (13, 127));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_follower_sees_what_was_acknowledged_elsewhere() {
    let cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let follower = cluster.follower().await;
    for n in 0..20 {
        cluster.client(leader).submit(submission(n), LIMIT).await.unwrap().1.unwrap();
        let index = cluster.client(follower).linearize(LIMIT).await.unwrap();
        assert!(cluster.client(follower).read(|state| has(state, n)), "write {n} is not seen at {index}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duties_write_only_in_the_term_they_were_elected_in() {
    let cluster = Cluster::new(3).await;
    let (leader, term) = cluster.leader().await;
    let follower = cluster.follower().await;
    let forwarded = cluster.hub.carried(Lane::Forward);

    let committed = cluster.client(leader).submit_as_leader(term, vec![submission(1)], LIMIT).await.unwrap();
    assert_eq!(committed.term, term);
    for (id, term) in [(leader, term + 1), (leader, term - 1), (follower, term)] {
        let refused = cluster.client(id).submit_as_leader(term, vec![submission(2)], LIMIT).await;
        assert!(matches!(refused, Err(Error::NoLeader)), "{refused:?}");
    }
    assert_eq!(cluster.hub.carried(Lane::Forward), forwarded, "nothing was forwarded");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request_from_any_node() {
    let cluster = Cluster::new(3).await;
    let (leader, term) = cluster.leader().await;
    let follower = cluster.follower().await;
    let moved = cluster.client(follower).transfer_leadership(Some(follower), LIMIT).await.unwrap();
    assert_eq!(moved, follower);
    super::cluster::wait_until("the old leader follows", || {
        *cluster.client(leader).leadership().borrow() == Leadership::Following
    })
    .await;
    let (now, later) = cluster.leader().await;
    assert_eq!(now, follower);
    assert!(later > term);
    let nobody = cluster.client(follower).transfer_leadership(Some(PeerId([77; 32])), LIMIT).await;
    assert!(matches!(nobody, Err(Error::Setup(_))), "{nobody:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_once_though_the_answer_is_lost() {
    let cluster = Cluster::new(3).await;
    let (_, term) = cluster.leader().await;
    let follower = cluster.client(cluster.follower().await);
    cluster.hub.lose_answers(Lane::Forward);
    let unheard = follower.transfer_leadership(None, LIMIT).await;
    assert!(matches!(unheard, Err(Error::Timeout)), "{unheard:?}");
    let moved = || cluster.ids.iter().any(|id| cluster.client(*id).status().term == term + 1);
    super::cluster::wait_until("a new term", moved).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(cluster.ids.iter().all(|id| cluster.client(*id).status().term == term + 1), "it moved again");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_clock_goes_on_when_the_wall_is_behind_the_log() {
    let cluster = Cluster::new(1).await;
    let client = cluster.client(cluster.ids[0]);
    cluster.leader().await;
    let ahead = crate::clock::now().after_ms(3_600_000);
    let one = encoded(&submission(1));
    let earlier_leader = Proposal(Blob(record(crate::domain::level::FIRST, ahead, [&one].into_iter()).unwrap()));
    client.core.raft.client_write(earlier_leader).await.unwrap();
    assert_eq!(client.read(State::now), ahead);

    let times = || (client.log_now(), client.read(State::now));
    let mut last = times();
    assert!(last.0 >= ahead);
    for n in 2..5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.submit(submission(n), LIMIT).await.unwrap().1.unwrap();
        let now = times();
        assert!(now.0 > last.0 && now.1 > last.1 && now.0 >= now.1, "{now:?} after {last:?}");
        last = now;
    }
    cluster.shutdown().await;
}

fn encoded(command: &Command) -> Encoded {
    Encoded { count: 1, bytes: Blob(encode(command).unwrap().into()) }
}
