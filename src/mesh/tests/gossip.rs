//! Gossip between whole nodes.

use super::super::{Audience, Gossip, Topic};
use super::*;
use crate::wire;

/// The next message on a topic.
async fn hear(node: &mut Node, topic: Topic) -> Gossip {
    let inbox = node.inbox.as_mut().unwrap();
    loop {
        let gossip = tokio::time::timeout(PATIENCE, inbox.gossip.recv()).await.expect("in time").unwrap();
        if gossip.topic == topic {
            return gossip;
        }
        gossip.verdict.ignore();
    }
}

fn say(node: &Node, topic: Topic, body: &'static [u8]) {
    node.handle.publish(topic, Bytes::from_static(body)).unwrap();
}

fn count(node: &Node, topic: Topic, of: impl Fn(&super::super::TopicStats) -> u64) -> u64 {
    node.handle.stats().topics.iter().find(|stats| stats.topic == topic.name()).map_or(0, of)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_coordinator_and_one_worker_hear_each_other_from_the_first_word() {
    let mut c = node(1, Options { members: [id(1)].into(), ..coordinator() }).await;
    let mut w = node(20, worker(&[&c])).await;
    // Said before they are connected: kept until there is somebody to hear it.
    say(&w, Topic::Heartbeats, b"alive");
    say(&c, Topic::Announcements, b"job");
    let heard = hear(&mut c, Topic::Heartbeats).await;
    assert_eq!((heard.source, &heard.body[..]), (w.id(), &b"alive"[..]));
    let heard = hear(&mut w, Topic::Announcements).await;
    assert_eq!((heard.source, &heard.body[..]), (c.id(), &b"job"[..]));
    heard.verdict.accept();
    say(&w, Topic::Bids, b"bid");
    assert_eq!(hear(&mut c, Topic::Bids).await.source, w.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_reach_every_worker_and_bids_every_coordinator() {
    let mut a = node(1, coordinator()).await;
    let mut b = node(2, Options { persistent: addresses(&[&a]), ..coordinator() }).await;
    let mut c = node(3, Options { persistent: addresses(&[&a, &b]), ..coordinator() }).await;
    // More workers than gossipsub's usual mesh holds, each with one coordinator only.
    let mut workers = Vec::new();
    for n in 0..16 {
        workers.push(node(20 + n, worker(&[[&a, &b, &c][usize::from(n) % 3]])).await);
    }
    for (n, worker) in workers.iter().enumerate() {
        worker.connected_to(id(1 + (n % 3) as u8)).await;
    }
    c.connected_to(a.id()).await;
    c.connected_to(b.id()).await;
    b.connected_to(a.id()).await;
    for coordinator in [&a, &b, &c] {
        eventually("gossip knows its peers", || {
            count(coordinator, Topic::Announcements, |stats| stats.mesh_peers) >= 7
        })
        .await;
    }
    say(&a, Topic::Announcements, b"jobs");
    // Coordinators pass on only what they accepted.
    for coordinator in [&mut b, &mut c] {
        hear(coordinator, Topic::Announcements).await.verdict.accept();
    }
    for worker in &mut workers {
        let heard = hear(worker, Topic::Announcements).await;
        assert_eq!((heard.source, &heard.body[..]), (id(1), &b"jobs"[..]));
    }
    let bidder = workers[1].id();
    say(&workers[1], Topic::Bids, b"bids");
    let heard = hear(&mut b, Topic::Bids).await;
    assert_eq!(heard.source, bidder);
    heard.verdict.accept();
    for coordinator in [&mut a, &mut c] {
        assert_eq!(hear(coordinator, Topic::Bids).await.source, bidder);
    }
    assert_eq!(count(&workers[2], Topic::Bids, |stats| stats.messages_in), 0, "workers do not hear bids");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_cut_to_its_rate_and_counted() {
    let mut c = node(1, coordinator()).await;
    let w = node(20, worker(&[&c])).await;
    say(&w, Topic::Heartbeats, b"first");
    hear(&mut c, Topic::Heartbeats).await.verdict.accept();
    for n in 0u32..300 {
        let body = Bytes::copy_from_slice(&n.to_be_bytes());
        w.handle.publish(Topic::Heartbeats, body).unwrap();
    }
    let ignored = || count(&c, Topic::Heartbeats, |stats| stats.ignored);
    eventually("messages over the rate are ignored", || ignored() >= 90).await;
    let mut passed = 0;
    while let Ok(gossip) = c.inbox.as_mut().unwrap().gossip.try_recv() {
        gossip.verdict.accept();
        passed += 1;
    }
    assert!((15..=60).contains(&passed), "{passed} passed");
    eventually("the flooder is disconnected", || {
        c.handle.peers().iter().any(|peer| peer.id == w.id() && !peer.connected && peer.offences >= 90)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_of_a_stranger_are_rejected() {
    let mut c = node(1, coordinator()).await;
    let w = node(20, worker(&[&c])).await;
    say(&w, Topic::Announcements, b"fake job");
    eventually("rejected", || count(&c, Topic::Announcements, |stats| stats.rejected) == 1).await;
    assert!(c.inbox.as_mut().unwrap().gossip.try_recv().is_err(), "nobody is bothered with it");
    eventually("the score falls", || {
        c.handle.peers().iter().any(|peer| peer.id == w.id() && peer.gossip_score < 0.0 && peer.offences > 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_what_is_invalid_again_and_again_is_cut_off() {
    let c = node(1, coordinator()).await;
    let w = node(20, worker(&[&c])).await;
    say(&w, Topic::Announcements, b"fake job");
    for n in 0u8..20 {
        w.handle.publish(Topic::Announcements, Bytes::copy_from_slice(&[n])).unwrap();
    }
    let noted = || c.handle.peers().iter().find(|peer| peer.id == w.id()).map(|peer| (peer.connected, peer.offences));
    eventually("the liar is disconnected", || noted().is_some_and(|(connected, _)| !connected)).await;
    assert!(noted().is_some_and(|(_, offences)| (1..100).contains(&offences)), "{:?}", noted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_nobody_reads_drops_and_counts() {
    let c = node(1, coordinator()).await;
    let mut senders = Vec::new();
    for n in 20..50 {
        senders.push(node(n, worker(&[&c])).await);
    }
    for sender in &senders {
        sender.connected_to(c.id()).await;
        for n in 0u32..160 {
            let body = Bytes::from(n.to_be_bytes().to_vec());
            sender.handle.publish(Topic::Bids, body).unwrap();
        }
    }
    eventually("dropped", || count(&c, Topic::Bids, |stats| stats.dropped) > 0).await;
}

#[tokio::test]
async fn what_cannot_be_published_is_said_at_once() {
    let c = node(1, coordinator()).await;
    let error = c.handle.publish(Topic::Announcements, Bytes::from(vec![0; 65_537])).unwrap_err();
    assert!(matches!(error, Error::TooLarge { size: 65_537, limit: 65_536 }), "{error}");
    let silent = node(2, Options { gossip: false, ..coordinator() }).await;
    let error = silent.handle.publish(Topic::Announcements, Bytes::new()).unwrap_err();
    assert!(matches!(error, Error::Setup(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_hears_what_is_for_it_and_one_coordinator_what_is_for_it() {
    let mut a = node(1, Options { members: [1, 2].map(id).into(), ..coordinator() }).await;
    let mut b =
        node(2, Options { members: [1, 2].map(id).into(), persistent: addresses(&[&a]), ..coordinator() }).await;
    let other = (21..).find(|n| wire::group(id(*n)) != wire::group(id(20))).unwrap();
    let mut w = node(20, worker(&[&a, &b])).await;
    let mut v = node(other, worker(&[&a, &b])).await;
    for peer in [&w, &v] {
        eventually("both coordinators are heard", || count(peer, Topic::Announcements, |stats| stats.mesh_peers) == 2)
            .await;
    }
    eventually("all listen", || count(&a, Topic::Announcements, |stats| stats.mesh_peers) == 3).await;

    let few = Audience::Group(wire::group(w.id()));
    a.handle.publish_to(Topic::Announcements, few, Bytes::from_static(b"few")).unwrap();
    say(&a, Topic::Announcements, b"all");
    assert_eq!(hear(&mut w, Topic::Announcements).await.body, "few");
    assert_eq!(hear(&mut w, Topic::Announcements).await.body, "all");
    assert_eq!(hear(&mut v, Topic::Announcements).await.body, "all", "the first that it hears");

    w.handle.publish_to(Topic::Bids, Audience::One(b.id()), Bytes::from_static(b"for b")).unwrap();
    w.handle.publish_to(Topic::Bids, Audience::One(id(99)), Bytes::from_static(b"for one far away")).unwrap();
    assert_eq!(hear(&mut b, Topic::Bids).await.body, "for b");
    assert_eq!(hear(&mut b, Topic::Bids).await.body, "for one far away");
    assert_eq!(hear(&mut a, Topic::Bids).await.body, "for one far away", "the first that it hears");
}
