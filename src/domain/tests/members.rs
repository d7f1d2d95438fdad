//! The books of the membership.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::member::{Act, Denied, INVITATIONS_MAX, MEMBERS_MAX, Members, Move, Seat, Secret, Token, Wish};
use crate::domain::{Digest, NodeId, PeerId, Timestamp};

const NOW: Timestamp = Timestamp(1_000);

fn id(n: u8) -> NodeId {
    PeerId([n; 32])
}

fn address(n: u8) -> String {
    format!("/ip4/10.0.0.{n}/tcp/4001/p2p/{}", id(n))
}

fn ids(of: &[u8]) -> BTreeSet<NodeId> {
    of.iter().map(|n| id(*n)).collect()
}

fn seat(members: &mut Members, configs: &[&[u8]], nodes: &[u8]) {
    let configs: Vec<_> = configs.iter().map(|voters| ids(voters)).collect();
    let nodes: BTreeMap<_, _> = nodes.iter().map(|n| (id(*n), address(*n))).collect();
    members.seat(&configs, &nodes, NOW);
}

fn cluster(voters: &[u8]) -> Members {
    let mut members = Members::default();
    seat(&mut members, &[voters], voters);
    members
}

fn invite(members: &mut Members, n: u8, ttl_ms: u64) -> Digest {
    let id = Secret([n; 32]).id();
    members.act(&Act::Invite { id, voter: true, ttl_ms }, NOW).unwrap();
    id
}

fn redeem(members: &mut Members, id: Digest, n: u8, incarnation: u128, now: Timestamp) -> Result<bool, Denied> {
    members.act(&Act::Redeem { id, node: self::id(n), incarnation, address: address(n) }, now)
}

#[test]
fn an_invitation_admits_one_node_as_often_as_it_asks() {
    let mut members = cluster(&[1, 2, 3]);
    let token = invite(&mut members, 7, 1_000);
    assert_eq!(redeem(&mut members, Digest::of(b"forged"), 4, 44, NOW), Err(Denied::UnknownInvitation));
    assert_eq!(redeem(&mut members, token, 4, 44, Timestamp(2_001)), Err(Denied::Expired));
    assert_eq!(redeem(&mut members, token, 4, 44, NOW), Ok(true));
    assert_eq!(redeem(&mut members, token, 4, 44, Timestamp(9_999)), Ok(false), "a lost answer");
    assert_eq!(redeem(&mut members, token, 4, 45, NOW), Err(Denied::OtherStore(id(4))));
    assert_eq!(redeem(&mut members, token, 5, 55, NOW), Err(Denied::Used));
    assert_eq!(members.act(&Act::Revoke { id: token }, NOW), Err(Denied::Used));
}

#[test]
fn a_joiner_is_admitted_then_waits_until_it_is_ready_then_votes() {
    let mut members = cluster(&[1, 2, 3]);
    let token = invite(&mut members, 7, 1_000);
    redeem(&mut members, token, 4, 44, NOW).unwrap();
    let next = members.next_move(id(1), |_| true);
    assert_eq!(next, Some(Move::Admit { node: id(4), address: address(4) }));
    seat(&mut members, &[&[1, 2, 3]], &[1, 2, 3, 4]);
    assert_eq!(members.next_move(id(1), |_| false), None);
    assert_eq!(members.next_move(id(1), |_| true), Some(Move::SetVoters(ids(&[1, 2, 3, 4]))));
    // A leader died in the middle of it.
    seat(&mut members, &[&[1, 2, 3], &[1, 2, 3, 4]], &[1, 2, 3, 4]);
    assert!(members.in_flight().is_some() && !members.is_settled(id(4)));
    assert_eq!(members.next_move(id(2), |_| false), Some(Move::SetVoters(ids(&[1, 2, 3, 4]))));
    seat(&mut members, &[&[1, 2, 3, 4]], &[1, 2, 3, 4]);
    assert_eq!((members.in_flight(), members.next_move(id(2), |_| true)), (None, None));
}

#[test]
fn a_removal_goes_by_way_of_a_learner_and_a_leader_hands_over_first() {
    let mut members = cluster(&[1, 2, 3]);
    members.act(&Act::Remove { node: id(3) }, NOW).unwrap();
    assert_eq!(members.next_move(id(3), |_| true), Some(Move::HandOver));
    assert_eq!(members.next_move(id(1), |_| true), Some(Move::SetVoters(ids(&[1, 2]))));
    seat(&mut members, &[&[1, 2, 3], &[1, 2]], &[1, 2, 3]);
    assert_eq!(members.next_move(id(3), |_| true), Some(Move::HandOver));
    seat(&mut members, &[&[1, 2]], &[1, 2, 3]);
    assert_eq!(members.next_move(id(1), |_| true), Some(Move::Drop(id(3))));
    seat(&mut members, &[&[1, 2]], &[1, 2]);
    assert_eq!(members.next_move(id(1), |_| true), None);
    assert_eq!(members.known(id(3)).map(|known| known.wish), Some(Wish::Gone), "it is remembered");
}

#[test]
fn one_change_at_a_time_and_the_refusal_says_which() {
    let mut members = cluster(&[1, 2, 3]);
    members.act(&Act::Add { node: id(4), address: address(4), voter: true }, NOW).unwrap();
    let denied = members.act(&Act::Remove { node: id(3) }, NOW).unwrap_err();
    assert_eq!(denied.to_string(), format!("a change is under way: admitting, as a voter, {}", id(4)));
    assert_eq!(members.next_move(id(1), |_| true), None, "nobody has met it");
    members.act(&Act::Remove { node: id(4) }, NOW).unwrap();
    assert_eq!(members.in_flight(), None, "its own removal ends it");
    members.act(&Act::Remove { node: id(3) }, NOW).unwrap();
}

#[test]
fn the_last_voter_stays() {
    let mut members = cluster(&[1]);
    assert_eq!(members.act(&Act::Remove { node: id(1) }, NOW), Err(Denied::LastVoter(id(1))));
    assert_eq!(members.act(&Act::SetVoter { node: id(1), voter: false }, NOW), Err(Denied::LastVoter(id(1))));
}

#[test]
fn who_left_without_being_asked_is_not_asked_back() {
    // Somebody rebuilt the cluster around one survivor.
    let mut members = cluster(&[1, 2, 3]);
    seat(&mut members, &[&[1]], &[1]);
    assert_eq!((members.in_flight(), members.next_move(id(1), |_| true)), (None, None));
    members.act(&Act::Met { node: id(2), incarnation: 22 }, NOW).unwrap();
    let token = invite(&mut members, 7, 1_000);
    assert_eq!(redeem(&mut members, token, 2, 23, NOW), Err(Denied::OtherStore(id(2))), "wiped");
    assert_eq!(redeem(&mut members, token, 2, 22, NOW), Ok(true), "with the data it had it may come back");
}

#[test]
fn a_dead_voter_and_its_stand_in_change_places_in_one_step() {
    let mut members = cluster(&[1, 2, 3]);
    seat(&mut members, &[&[1, 2, 3]], &[1, 2, 3, 4]);
    assert_eq!(members.known(id(4)).and_then(|known| known.seat), Some(Seat::Learner));
    assert_eq!(members.stand_in(|node| node == id(2), |_| false), None);
    assert_eq!(members.stand_in(|node| node != id(1), |_| true), None, "there is no majority to do it");
    assert_eq!(members.stand_in(|node| node == id(2), |_| true), Some((id(2), id(4))));
    members.act(&Act::Replace { dead: id(2), by: id(4) }, NOW).unwrap();
    assert_eq!(members.next_move(id(1), |_| false), None, "nobody goes before somebody comes");
    assert_eq!(members.next_move(id(1), |_| true), Some(Move::SetVoters(ids(&[1, 3, 4]))));
}

#[test]
fn a_replacement_whose_stand_in_is_gone_is_ended_by_a_word_about_either() {
    let stuck = || {
        let mut members = cluster(&[1, 2, 3]);
        seat(&mut members, &[&[1, 2, 3]], &[1, 2, 3, 4, 5]);
        members.act(&Act::Replace { dead: id(2), by: id(4) }, NOW).unwrap();
        assert_eq!(members.next_move(id(1), |_| false), None);
        assert!(matches!(members.act(&Act::Remove { node: id(5) }, NOW), Err(Denied::InFlight { .. })));
        members
    };
    let wish = |members: &Members, n| members.known(id(n)).unwrap().wish;
    let after = |act: Act| {
        let mut members = stuck();
        assert_eq!(members.act(&act, NOW), Ok(true), "{act:?}");
        members
    };

    for undone in [Act::SetVoter { node: id(4), voter: false }, Act::SetVoter { node: id(2), voter: true }] {
        let mut members = after(undone);
        assert_eq!((wish(&members, 2), wish(&members, 4)), (Wish::Voter, Wish::Learner));
        assert_eq!(members.in_flight(), None);
        assert_eq!(members.act(&Act::Replace { dead: id(2), by: id(5) }, NOW), Ok(true), "another one may come");
    }

    let members = after(Act::Remove { node: id(4) });
    assert_eq!((wish(&members, 2), members.next_move(id(1), |_| false)), (Wish::Voter, Some(Move::Drop(id(4)))));

    let members = after(Act::Remove { node: id(2) });
    assert_eq!(wish(&members, 4), Wish::Learner);
    assert_eq!(members.next_move(id(1), |_| false), Some(Move::SetVoters(ids(&[1, 3]))));

    // Once Raft is at it, it goes on to its end.
    let mut members = stuck();
    seat(&mut members, &[&[1, 2, 3], &[1, 3, 4]], &[1, 2, 3, 4, 5]);
    assert!(matches!(members.act(&Act::Remove { node: id(4) }, NOW), Err(Denied::InFlight { .. })));
}

#[test]
fn a_removal_that_has_not_happened_is_taken_back() {
    let mut members = cluster(&[1, 2, 3]);
    members.act(&Act::Remove { node: id(3) }, NOW).unwrap();
    assert_eq!(members.act(&Act::SetVoter { node: id(3), voter: false }, NOW), Err(Denied::NotAMember(id(3))));
    assert_eq!(members.act(&Act::SetVoter { node: id(3), voter: true }, NOW), Ok(true));
    assert_eq!((members.in_flight(), members.next_move(id(1), |_| true)), (None, None));

    members.act(&Act::Remove { node: id(3) }, NOW).unwrap();
    seat(&mut members, &[&[1, 2]], &[1, 2, 3]);
    assert_eq!(members.act(&Act::SetVoter { node: id(3), voter: true }, NOW), Ok(true), "it only follows by now");
    assert_eq!(members.next_move(id(1), |_| true), Some(Move::SetVoters(ids(&[1, 2, 3]))));

    members.act(&Act::Remove { node: id(3) }, NOW).unwrap();
    seat(&mut members, &[&[1, 2]], &[1, 2]);
    assert_eq!(members.act(&Act::SetVoter { node: id(3), voter: true }, NOW), Err(Denied::NotAMember(id(3))));
}

#[test]
fn the_books_are_bounded() {
    let mut members = cluster(&[1]);
    for n in 2..=u8::try_from(MEMBERS_MAX).unwrap() {
        seat(&mut members, &[&[1]], &(1..=n).collect::<Vec<u8>>());
    }
    let act = Act::Add { node: id(200), address: address(200), voter: false };
    assert_eq!(members.act(&act, NOW), Err(Denied::Full { limit: MEMBERS_MAX as u64 }));
    for n in 0..INVITATIONS_MAX {
        let id = Digest::of(&n.to_be_bytes());
        members.act(&Act::Invite { id, voter: true, ttl_ms: 10 }, NOW).unwrap();
    }
    let one_more = Act::Invite { id: Digest::of(b"one more"), voter: true, ttl_ms: 10 };
    let full = Denied::InvitationsFull { limit: INVITATIONS_MAX as u64 };
    assert_eq!(members.act(&one_more, NOW), Err(full));
    assert_eq!(members.act(&one_more, Timestamp(2_000)), Ok(true), "one that has expired makes room");
    assert_eq!(members.invitations().count(), INVITATIONS_MAX);
}

#[test]
fn a_token_is_read_as_it_was_written_and_a_letter_more_or_less_is_noticed() {
    let token = Token::new(Secret([7; 32]), [address(1), address(2)]);
    let text = token.to_string();
    assert_eq!(text.parse(), Ok(token.clone()));
    assert!(!format!("{token:?}").contains(&text[8..20]), "the secret is not in logs");
    for wrong in [&text[1..], &text[..text.len() - 1], "", "ciro1", "ciro10OIl", &text.replacen('a', "b", 1)] {
        assert!(wrong == text || wrong.parse::<Token>().is_err(), "{wrong}");
    }
    assert!(format!("ciro1{}", "z".repeat(100_000)).parse::<Token>().is_err());
}
