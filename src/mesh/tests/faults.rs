//! What breaks, and what a caller is told.

use libp2p::futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{Multiaddr, StreamProtocol, SwarmBuilder, noise, tcp, yamux};

use super::super::identity::to_libp2p;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeout_lost_and_unreachable_are_told_apart() {
    let mut b = node(2, coordinator()).await;
    let mut requests = b.inbox.take().unwrap().requests;
    let a = node(1, Options { persistent: addresses(&[&b]), ..coordinator() }).await;
    let peer = b.id();
    let ask = |limit| a.handle.request(peer, Lane::Append, Bytes::from_static(b"?"), limit);

    let (error, held) = tokio::join!(ask(Duration::from_millis(300)), requests.recv());
    assert!(matches!(error, Err(Error::Timeout(p)) if p == peer), "{error:?}");
    drop(held);

    let stop = async {
        let held = requests.recv().await.unwrap();
        b.tasks.cancel();
        held
    };
    let (error, _held) = tokio::join!(ask(PATIENCE), stop);
    assert!(matches!(error, Err(Error::Lost(p)) if p == peer), "{error:?}");

    eventually("disconnected", || !a.handle.is_connected(peer)).await;
    let start = clock::instant();
    let error = ask(PATIENCE).await;
    assert!(matches!(error, Err(Error::Unreachable(p)) if p == peer), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(4), "a failed dial is not waited out: {:?}", start.elapsed());

    let stranger = id(77);
    let error = a.ask(stranger, Lane::Append, b"?").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(p) if p == stranger), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_restarts_is_connected_again_within_three_seconds() {
    for listen in [TCP, QUIC] {
        let b = node(2, Options { listen: vec![listen.to_owned()], ..coordinator() }).await.echo();
        let address = addresses(&[&b]);
        let a = node(1, Options { persistent: address.clone(), ..coordinator() }).await;
        let peer = b.id();
        assert_eq!(a.ask(peer, Lane::Append, b"one").await.unwrap(), "one");
        b.stop().await;
        eventually("disconnected", || !a.handle.is_connected(peer)).await;
        let bare = address[0].split("/p2p/").next().unwrap().to_owned();
        let b = restarted(2, Options { listen: vec![bare], ..coordinator() }).await.echo();
        let start = clock::instant();
        a.connected_to(peer).await;
        assert!(start.elapsed() < Duration::from_secs(3), "{listen}: {:?}", start.elapsed());
        assert_eq!(a.ask(peer, Lane::Append, b"two").await.unwrap(), "two");
        a.stop().await;
        b.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_older_than_its_peers_process_is_closed_and_made_again() {
    let c = node(1, Options { listen: vec![QUIC.to_owned()], ..coordinator() }).await;
    let w = node(20, worker(&[&c])).await;
    w.connected_to(c.id()).await;
    let since = || w.handle.peers().into_iter().find(|peer| peer.id == c.id()).and_then(|peer| peer.connected_since);
    let first = since();
    let start = clock::instant();
    while start.elapsed() < Duration::from_secs(2) {
        w.handle.reborn(c.id(), Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((w.handle.is_connected(c.id()), since()), (true, first), "the process is older than that");
    w.handle.reborn(c.id(), Duration::from_millis(500));
    eventually("connected anew", || since().is_some_and(|since| Some(since) != first)).await;
    w.handle.reborn(c.id(), Duration::from_millis(500));
    w.connected_to(c.id()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_connects_to_an_earlier_life_of_a_peer_is_left_as_soon_as_there_is_a_new_one() {
    let a = node(1, coordinator()).await.echo();
    let options = || Options { persistent: addresses(&[&a]), ..coordinator() };
    let before = node(2, options()).await;
    before.connected_to(a.id()).await;
    let since = |node: &Node| node.handle.peers().into_iter().find(|peer| peer.id == a.id())?.connected_since;
    let first = since(&before);
    // Two processes of one peer at once: to the other side the first one looks as one does that was killed.
    let after = node(2, options()).await;
    eventually("what connected to the first one is closed", || since(&before) != first).await;
    before.stop().await;
    after.connected_to(a.id()).await;
    assert_eq!(after.ask(a.id(), Lane::Append, b"?").await.unwrap(), "?");
}

/// A node on the port of one that just stopped: within one process, QUIC lets
/// go of its socket in the background.
async fn restarted(n: u8, options: Options) -> Node {
    let start = clock::instant();
    loop {
        let tasks = Tasks::new();
        match super::start(identity(n), options.clone(), &tasks).await {
            Ok((handle, inbox)) => return Node { handle, inbox: Some(inbox), tasks },
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_dial_each_other_at_once_talk_both_ways() {
    let ports: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |n: usize| format!("/ip4/127.0.0.1/tcp/{}", ports[n].local_addr().unwrap().port());
    let listen = [address(0), address(1)];
    drop(ports);
    let options = |n: usize| Options {
        listen: vec![listen[n].clone()],
        persistent: vec![format!("{}/p2p/{}", listen[0], id(1)), format!("{}/p2p/{}", listen[1], id(2))],
        ..coordinator()
    };
    let (a, b) = tokio::join!(node(1, options(0)), node(2, options(1)));
    let (a, b) = (a.echo(), b.echo());
    a.connected_to(b.id()).await;
    b.connected_to(a.id()).await;
    for _ in 0..20 {
        let (there, back) = tokio::join!(a.ask(b.id(), Lane::Append, b"x"), b.ask(a.id(), Lane::Append, b"y"));
        assert_eq!((there.unwrap(), back.unwrap()), (Bytes::from("x"), Bytes::from("y")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_an_error_that_names_the_address() {
    let a = node(1, coordinator()).await;
    let taken = addresses(&[&a])[0].split("/p2p/").next().unwrap().to_owned();
    let tasks = Tasks::new();
    let error = start(identity(2), Options { listen: vec![taken.clone()], ..coordinator() }, &tasks).await;
    let error = error.err().unwrap().to_string();
    assert!(error.contains(&taken), "{error}");
    for bad in ["127.0.0.1:1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/1"] {
        let options = Options { persistent: vec![bad.to_owned()], ..coordinator() };
        let error = start(identity(2), options, &tasks).await.err().unwrap().to_string();
        assert!(error.contains(bad), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_a_lane_ends_the_stream_and_enough_of_it_the_connection() {
    let b = node(2, coordinator()).await.echo();
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::new(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .build();
    let address: Multiaddr = addresses(&[&b])[0].parse().unwrap();
    swarm.dial(address).unwrap();
    let mut control = swarm.behaviour().new_control();
    let attacker = *swarm.local_peer_id();
    let tasks = Tasks::new();
    tasks.spawn_until_stopped("attacker", async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let lane = StreamProtocol::new("/ciro/test/append/1");
    let offences =
        || b.handle.peers().iter().find(|p| p.id.to_string() == attacker.to_string()).map_or(0, |peer| peer.offences);
    while offences() < 100 {
        let Ok(Ok(mut stream)) =
            tokio::time::timeout(PATIENCE, control.open_stream(to_libp2p(b.id()), lane.clone())).await
        else {
            break;
        };
        // A length of four gigabytes, of which nothing will come; then bytes without sense.
        let _ = stream.write_all(&[0xff; 64]).await;
        let _ = stream.flush().await;
        let _ = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 16])).await;
    }
    eventually("blocked", || b.handle.peers().iter().all(|peer| !peer.connected)).await;
    assert!(offences() >= 100);
    let a = node(1, Options { persistent: addresses(&[&b]), ..coordinator() }).await;
    assert_eq!(a.ask(b.id(), Lane::Append, b"alive").await.unwrap(), "alive");
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_network_is_not_talked_to() {
    let b = node(2, coordinator()).await.echo();
    let other = Options { network: "other".to_owned(), persistent: addresses(&[&b]), ..coordinator() };
    let a = node(1, other).await;
    let error = a.handle.request(b.id(), Lane::Append, Bytes::new(), PATIENCE).await.unwrap_err();
    assert!(!matches!(error, Error::Timeout(_)), "{error}");
    eventually("disconnected", || !b.handle.is_connected(a.id())).await;
    assert_eq!(b.handle.stats().lanes.iter().map(|lane| lane.requests_in).sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_keeps_coordinators_it_learns_of() {
    let (a, b) = (node(1, coordinator()).await, node(2, coordinator()).await);
    let w = node(20, worker(&[&a])).await;
    w.connected_to(a.id()).await;
    assert!(!w.handle.is_connected(b.id()));
    w.handle.keep(vec!["nonsense".to_owned(), addresses(&[&b])[0].clone()]);
    w.connected_to(b.id()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_find_each_other_through_one_they_share() {
    let b = node(2, coordinator()).await;
    let a = node(1, Options { persistent: addresses(&[&b]), ..coordinator() }).await;
    let c = node(3, Options { persistent: addresses(&[&b]), ..coordinator() }).await.echo();
    a.connected_to(c.id()).await;
    assert_eq!(a.ask(c.id(), Lane::Append, b"found").await.unwrap(), "found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_workers_does_not_lock_a_member_out() {
    let b = node(2, Options { max_connections: 3, ..coordinator() }).await.echo();
    let mut crowd = Vec::new();
    for n in 20..26 {
        crowd.push(node(n, worker(&[&b])).await);
    }
    eventually("full", || b.handle.stats().peers_connected == 3).await;
    let a = node(1, Options { persistent: addresses(&[&b]), ..coordinator() }).await;
    assert_eq!(a.ask(b.id(), Lane::Append, b"vote").await.unwrap(), "vote");
    assert!(b.handle.stats().peers_connected <= 4);
}

#[cfg(feature = "metrics")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libp2p_counts_into_our_registry() {
    let tasks = Tasks::new();
    let (handle, inbox) = super::super::start_with_metrics(identity(1), coordinator(), &tasks).await.unwrap();
    let a = Node { handle, inbox: Some(inbox), tasks };
    let w = node(20, worker(&[&a])).await;
    a.connected_to(w.id()).await;
    let text = || {
        let mut text = String::new();
        crate::telemetry::metrics::with_registry(|registry| {
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        });
        text
    };
    eventually("a ping is counted", || {
        text().lines().any(|line| line.starts_with("libp2p_ping_rtt_seconds_count") && !line.ends_with(" 0"))
    })
    .await;
    for name in ["libp2p_bandwidth_bytes_total", "libp2p_swarm_connections_incoming", "libp2p_gossip_"] {
        assert!(text().contains(name), "{name}");
    }
}
