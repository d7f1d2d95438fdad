//! Nodes come and go while the cluster runs.

use std::time::Duration;

use crate::consensus::tests::cluster::{Cluster, LIMIT, has, submission, wait_until};
use crate::consensus::{Change, Error, Joining, Leadership, Options};
use crate::domain::member::{Act, Denied, Seat, Secret, Token};
use crate::domain::{Command, NodeId, PeerId};
use crate::mesh::Lane;

const HOUR: Duration = Duration::from_secs(3_600);

async fn token(cluster: &Cluster, on: NodeId, voter: bool) -> Token {
    cluster.client(on).invite(voter, HOUR, LIMIT).await.unwrap().unwrap().token
}

fn joining(peers: &[NodeId], secret: Option<Secret>) -> Joining {
    Joining { peers: peers.to_vec(), secret }
}

fn seat(cluster: &Cluster, on: NodeId, node: NodeId) -> Option<Seat> {
    cluster.client(on).read(|state| state.members().known(node).and_then(|known| known.seat))
}

async fn change(cluster: &Cluster, on: NodeId, change: Change) -> Result<bool, Denied> {
    cluster.client(on).change_members(change, false, LIMIT).await.unwrap().map(|changed| changed.settled)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_invitation_becomes_a_voter_and_the_token_admits_nobody_else() {
    let mut cluster = Cluster::new(3).await;
    let founders = cluster.ids.clone();
    let (leader, _) = cluster.leader().await;
    let follower = cluster.follower().await;
    for n in 0..50 {
        cluster.client(leader).submit(submission(n), LIMIT).await.unwrap().1.unwrap();
    }
    let token = token(&cluster, follower, true).await;
    assert_eq!(token.to_string().parse(), Ok(token.clone()));
    let (newcomer, other) = (PeerId([4; 32]), PeerId([5; 32]));
    cluster.start_joining(newcomer, joining(&[follower], Some(token.secret))).await.unwrap();
    wait_until("it votes", || seat(&cluster, newcomer, newcomer) == Some(Seat::Voter)).await;
    cluster.converge().await;
    assert!(cluster.client(newcomer).read(|state| (0..50).all(|n| has(state, n))));

    // The same command line again, before and after, does no harm.
    cluster.kill(newcomer).await;
    cluster.start_joining(newcomer, joining(&founders, Some(token.secret))).await.unwrap();
    cluster.client(newcomer).submit(submission(100), LIMIT).await.unwrap().1.unwrap();

    for secret in [token.secret, Secret([9; 32])] {
        cluster.start_joining(other, joining(&[follower], Some(secret))).await.unwrap();
        let failed = tokio::time::timeout(LIMIT, cluster.raft(other).failed()).await.unwrap();
        assert!(matches!(&failed, Error::Setup(why) if why.contains("cluster invite")), "{failed}");
        cluster.kill(other).await;
    }
    assert!(cluster.hub.penalties(other) >= 2, "wrong tokens count against the sender");
    assert_eq!(seat(&cluster, leader, other), None);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_ends_with_its_time_and_when_it_is_taken_back() {
    let mut cluster = Cluster::new(1).await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader);
    let short = client.invite(true, Duration::from_millis(1), LIMIT).await.unwrap().unwrap();
    let revoked = client.invite(true, HOUR, LIMIT).await.unwrap().unwrap();
    client.revoke(revoked.id, LIMIT).await.unwrap().unwrap();
    assert_eq!(client.revoke(revoked.id, LIMIT).await.unwrap(), Err(Denied::UnknownInvitation));
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.submit(submission(1), LIMIT).await.unwrap().1.unwrap();
    for (n, secret) in [(2, short.token.secret), (3, revoked.token.secret)] {
        let id = PeerId([n; 32]);
        cluster.start_joining(id, joining(&[leader], Some(secret))).await.unwrap();
        let failed = tokio::time::timeout(LIMIT, cluster.raft(id).failed()).await.unwrap();
        assert!(matches!(failed, Error::Setup(_)), "{failed}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_stays_one_and_is_promoted_demoted_and_removed_on_demand() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let follower = cluster.follower().await;
    let learner = PeerId([4; 32]);
    let token = token(&cluster, leader, false).await;
    cluster.start_joining(learner, joining(&[leader], Some(token.secret))).await.unwrap();
    wait_until("it follows", || cluster.client(learner).status().ready).await;
    assert_eq!(seat(&cluster, leader, learner), Some(Seat::Learner));
    for (voter, wanted) in [(true, Seat::Voter), (false, Seat::Learner)] {
        assert_eq!(change(&cluster, follower, Change::SetVoter { node: learner, voter }).await, Ok(true));
        assert_eq!(seat(&cluster, leader, learner), Some(wanted));
    }
    assert_eq!(change(&cluster, follower, Change::Remove { node: learner }).await, Ok(true));
    assert_eq!(change(&cluster, follower, Change::Remove { node: learner }).await, Ok(true), "it is so already");
    wait_until("it notices", || cluster.client(learner).status().removed).await;
    let never = Change::Remove { node: PeerId([99; 32]) };
    assert_eq!(change(&cluster, follower, never).await, Err(Denied::NotAMember(PeerId([99; 32]))));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_removes_itself_and_the_call_is_answered() {
    let cluster = Cluster::new(3).await;
    let (leader, term) = cluster.leader().await;
    assert_eq!(change(&cluster, leader, Change::Remove { node: leader }).await, Ok(true));
    wait_until("it notices", || cluster.client(leader).status().removed).await;
    let others: Vec<NodeId> = cluster.running().into_iter().filter(|id| *id != leader).collect();
    let client = cluster.client(others[0]);
    client.submit(submission(1), LIMIT).await.unwrap().1.unwrap();
    let before = client.status().term;
    assert!(before > term);
    tokio::time::sleep(cluster.options.election_max * 4).await;
    assert_eq!(client.status().term, before, "who is out disturbs nobody");
    assert_eq!(*cluster.client(leader).leadership().borrow(), Leadership::Following);

    // The last two, then the last one.
    let (next, _) = leader_of(&cluster, &others).await;
    let rest = *others.iter().find(|id| **id != next).unwrap();
    assert_eq!(change(&cluster, next, Change::Remove { node: rest }).await, Ok(true));
    assert_eq!(change(&cluster, next, Change::Remove { node: next }).await, Err(Denied::LastVoter(next)));
    cluster.client(next).submit(submission(2), LIMIT).await.unwrap().1.unwrap();
    cluster.shutdown().await;
}

async fn leader_of(cluster: &Cluster, among: &[NodeId]) -> (NodeId, u64) {
    let find = || {
        among.iter().find_map(|id| match *cluster.client(*id).leadership().borrow() {
            Leadership::Leading { term } => Some((*id, term)),
            Leadership::Following => None,
        })
    };
    wait_until("a leader among the rest", || find().is_some()).await;
    find().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_end_the_cluster_is_refused_and_what_is_unwise_needs_force() {
    let mut cluster = Cluster::new(5).await;
    let (leader, _) = cluster.leader().await;
    let others: Vec<NodeId> = cluster.ids.iter().copied().filter(|id| *id != leader).collect();
    cluster.kill(others[0]).await;
    let client = cluster.client(leader);
    let demote = |node, force| client.change_members(Change::SetVoter { node, voter: false }, force, LIMIT);
    wait_until("its silence is noticed", || {
        let members = client.status().members;
        members.iter().any(|member| member.id == others[0] && member.silence > Some(Duration::from_secs(3)))
    })
    .await;
    let denied = demote(others[1], false).await.unwrap().unwrap_err();
    assert_eq!(denied.code(), "needs_force", "{denied}");
    assert!(demote(others[1], true).await.unwrap().unwrap().settled);
    assert_eq!(seat(&cluster, leader, others[1]), Some(Seat::Learner));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_majority_that_would_be_lost_is_told_before_the_fact() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let others: Vec<NodeId> = cluster.ids.iter().copied().filter(|id| *id != leader).collect();
    cluster.kill(others[0]).await;
    let client = cluster.client(leader);
    wait_until("a dead voter is reported", || {
        client.status().members.iter().any(|member| member.id == others[0] && member.dead)
    })
    .await;
    let denied = client.change_members(Change::Remove { node: others[1] }, true, LIMIT).await.unwrap().unwrap_err();
    assert!(matches!(denied, Denied::QuorumLost { live: 1, voters: 2, needed: 2, .. }), "{denied}");
    assert_eq!(change(&cluster, leader, Change::Remove { node: others[0] }).await, Ok(true), "the dead one may go");
    let changed = client.change_members(Change::Remove { node: others[1] }, false, LIMIT).await.unwrap().unwrap();
    assert!(changed.settled && changed.warnings[0].contains("one voter"), "{changed:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_does_not_count_for_a_new_leader_either() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let others: Vec<NodeId> = cluster.ids.iter().copied().filter(|id| *id != leader).collect();
    cluster.kill(others[0]).await;
    cluster.client(leader).transfer_leadership(Some(others[1]), LIMIT).await.unwrap();
    let remove = Change::Remove { node: leader };
    let denied = cluster.client(others[1]).change_members(remove, true, LIMIT).await.unwrap().unwrap_err();
    assert!(matches!(denied, Denied::QuorumLost { live: 1, voters: 2, needed: 2, .. }), "{denied}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_follows_a_leader_that_was_admitted_meanwhile() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let away = cluster.follower().await;
    cluster.kill(away).await;
    let (newcomer, token) = (PeerId([4; 32]), token(&cluster, leader, true).await);
    cluster.start_joining(newcomer, joining(&[leader], Some(token.secret))).await.unwrap();
    wait_until("it votes", || seat(&cluster, leader, newcomer) == Some(Seat::Voter)).await;
    cluster.client(leader).transfer_leadership(Some(newcomer), LIMIT).await.unwrap();
    cluster.client(newcomer).submit(submission(1), LIMIT).await.unwrap().1.unwrap();

    cluster.start(away).await.unwrap();
    wait_until("it follows", || cluster.client(away).status().ready).await;
    assert_eq!(seat(&cluster, away, newcomer), Some(Seat::Voter));
    // And it is of use: without it there would be no majority of the four.
    let third = cluster.ids.iter().copied().find(|id| ![leader, away].contains(id)).unwrap();
    cluster.kill(third).await;
    cluster.client(newcomer).submit(submission(2), LIMIT).await.unwrap().1.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_and_wiped_is_refused_and_told_the_way_out() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let wiped = cluster.follower().await;
    let books_know =
        || cluster.client(leader).read(|state| state.members().known(wiped).is_some_and(|it| it.incarnation.is_some()));
    wait_until("its data directory is on record", books_know).await;
    assert_eq!(change(&cluster, leader, Change::Remove { node: wiped }).await, Ok(true));
    cluster.kill(wiped).await;
    std::fs::remove_dir_all(cluster.dir(wiped)).unwrap();
    let token = token(&cluster, leader, true).await;
    cluster.start_joining(wiped, joining(&[leader], Some(token.secret))).await.unwrap();
    let failed = tokio::time::timeout(LIMIT, cluster.raft(wiped).failed()).await.unwrap();
    assert!(matches!(&failed, Error::Amnesiac(why) if why.contains("cluster invite")), "{failed}");
    assert_eq!(seat(&cluster, leader, wiped), None);

    // Under a new identity the same token is good.
    let fresh = PeerId([8; 32]);
    cluster.start_joining(fresh, joining(&[leader], Some(token.secret))).await.unwrap();
    wait_until("it votes", || seat(&cluster, fresh, fresh) == Some(Seat::Voter)).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_without_an_invitation_until_it_is_added() {
    let mut cluster = Cluster::new(1).await;
    let (leader, _) = cluster.leader().await;
    let waiting = PeerId([2; 32]);
    cluster.start_joining(waiting, joining(&[leader], None)).await.unwrap();
    wait_until("it knocked", || cluster.hub.carried(Lane::Join) > 1).await;
    assert_eq!(seat(&cluster, leader, waiting), None);
    let address = format!("/memory/2/p2p/{waiting}");
    change(&cluster, leader, Change::Add { node: waiting, address, voter: true }).await.unwrap();
    wait_until("it votes", || seat(&cluster, waiting, waiting) == Some(Seat::Voter)).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_and_a_new_leader_do_not_end_a_join() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let token = token(&cluster, leader, true).await;
    cluster.hub.lose_answers(Lane::Join);
    let newcomer = PeerId([4; 32]);
    cluster.start_joining(newcomer, joining(&cluster.ids.clone(), Some(token.secret))).await.unwrap();
    wait_until("it is admitted, and does not know", || {
        cluster.client(leader).read(|state| state.members().known(newcomer).is_some())
    })
    .await;
    cluster.kill(leader).await;
    cluster.hub.heal();
    wait_until("it votes", || seat(&cluster, newcomer, newcomer) == Some(Seat::Voter)).await;
    cluster.client(newcomer).submit(submission(7), LIMIT).await.unwrap().1.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autopilot_lets_a_learner_vote_in_place_of_the_dead() {
    let options = Options { autopilot: Some(Duration::from_millis(1)), ..super::cluster::options() };
    let mut cluster = Cluster::with(3, options).await;
    let (leader, _) = cluster.leader().await;
    let token = token(&cluster, leader, false).await;
    let learner = PeerId([4; 32]);
    cluster.start_joining(learner, joining(&[leader], Some(token.secret))).await.unwrap();
    wait_until("it follows", || seat(&cluster, learner, learner) == Some(Seat::Learner)).await;
    let dead = cluster.follower().await;
    cluster.kill(dead).await;
    wait_until("it stands in", || seat(&cluster, learner, learner) == Some(Seat::Voter)).await;
    wait_until("the dead one votes no more, and may come back", || {
        seat(&cluster, learner, dead) == Some(Seat::Learner)
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_member_says_it_is_goes_into_the_books() {
    let cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let moved = cluster.follower().await;
    let elsewhere = Act::Moved { node: moved, address: format!("/memory/77/p2p/{moved}") };
    cluster.client(leader).submit(Command::Member(elsewhere), LIMIT).await.unwrap().1.unwrap();
    let right = format!("/memory/{}/p2p/{moved}", moved.0[0]);
    wait_until("it corrects them", || {
        cluster.client(leader).status().members.iter().any(|member| member.id == moved && member.address == right)
    })
    .await;
    cluster.shutdown().await;
}
