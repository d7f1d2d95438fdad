//! Requests and answers between whole nodes.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_gets_its_answer_on_every_lane_over_tcp_and_quic() {
    for (listen, transport) in [(TCP, "tcp"), (QUIC, "quic")] {
        let b = node(2, Options { listen: vec![listen.to_owned()], ..coordinator() }).await.echo();
        let a = node(1, Options { persistent: addresses(&[&b]), listen: vec![], ..coordinator() }).await;
        for lane in Lane::ALL {
            assert_eq!(a.ask(b.id(), lane, b"hello").await.unwrap(), "hello");
        }
        let view = a.handle.peers().into_iter().find(|peer| peer.id == b.id()).unwrap();
        assert!(view.connected && view.member && !view.inbound);
        assert_eq!(view.transport, transport);
        let append = a.handle.stats().lanes.into_iter().find(|lane| lane.lane == "append").unwrap();
        assert_eq!((append.requests_out, append.bytes_out, append.bytes_in), (1, 5, 5));
        eventually("identified", || {
            a.handle.peers().iter().any(|peer| peer.agent.as_deref().is_some_and(|agent| agent.starts_with("ciro/")))
        })
        .await;
        eventually("pinged", || a.handle.peers().iter().any(|peer| peer.rtt_us.is_some_and(|rtt| rtt > 0))).await;
        a.stop().await;
        b.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_and_quic_share_one_port_number() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = vec![format!("/ip4/127.0.0.1/tcp/{port}"), format!("/ip4/127.0.0.1/udp/{port}/quic-v1")];
    let b = node(2, Options { listen: listen.clone(), ..coordinator() }).await.echo();
    let mut shown = b.handle.addresses();
    shown.sort();
    assert_eq!(shown, listen.iter().map(|address| format!("{address}/p2p/{}", b.id())).collect::<Vec<_>>());
    let a = node(1, Options { persistent: shown, ..coordinator() }).await;
    assert_eq!(a.ask(b.id(), Lane::Control, b"hi").await.unwrap(), "hi");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_in_flight_are_answered_in_any_order() {
    let mut b = node(2, coordinator()).await;
    let mut requests = b.inbox.take().unwrap().requests;
    b.tasks.spawn_until_stopped("reverse", async move {
        let mut held = Vec::new();
        while let Some(request) = requests.recv().await {
            held.push(request);
            // As many as one stream lets in, answered last first.
            if held.len() == 200 {
                for request in held.drain(..).rev() {
                    request.reply.send(request.body);
                }
            }
        }
    });
    let a = node(1, Options { persistent: addresses(&[&b]), ..coordinator() }).await;
    let (handle, peer) = (&a.handle, b.id());
    let asked = (0u32..1_000).map(|n| async move {
        let body = Bytes::copy_from_slice(&n.to_be_bytes());
        assert_eq!(handle.request(peer, Lane::Forward, body.clone(), PATIENCE).await.unwrap(), body);
    });
    futures::future::join_all(asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_over_the_limit_are_refused_both_ways_and_the_largest_passes() {
    let mut b = node(2, Options { max_frame: 1 << 20, ..coordinator() }).await;
    let mut requests = b.inbox.take().unwrap().requests;
    b.tasks.spawn_until_stopped("inflate", async move {
        while let Some(request) = requests.recv().await {
            let body = if request.body == "more" { Bytes::from(vec![0; (1 << 20) + 1]) } else { request.body };
            request.reply.send(body);
        }
    });
    let a = node(1, Options { persistent: addresses(&[&b]), max_frame: 1 << 20, ..coordinator() }).await;
    let largest = Bytes::from(vec![7; 1 << 20]);
    let answer = a.handle.request(b.id(), Lane::Append, largest.clone(), PATIENCE).await.unwrap();
    assert_eq!(answer, largest);
    let over = Bytes::from(vec![7; (1 << 20) + 1]);
    let error = a.handle.request(b.id(), Lane::Append, over, PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { size: 1_048_577, limit: 1_048_576 }), "{error}");
    let error = a.ask(b.id(), Lane::Append, b"more").await.unwrap_err();
    assert!(matches!(error, Error::Lost(peer) if peer == b.id()), "it was carried out: {error}");
    assert_eq!(a.ask(b.id(), Lane::Append, b"still here").await.unwrap(), "still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_lanes_refuse_strangers_until_they_are_members() {
    let b = node(2, coordinator()).await.echo();
    let stranger = node(9, Options { persistent: addresses(&[&b]), ..coordinator() }).await;
    for lane in [Lane::Append, Lane::Control, Lane::Snapshot, Lane::Forward, Lane::Fetch] {
        let error = stranger.ask(b.id(), lane, b"let me in").await.unwrap_err();
        assert!(matches!(&error, Error::Refused { reason, .. } if reason.contains("not a member")), "{error}");
    }
    let view = b.handle.peers().into_iter().find(|peer| peer.id == stranger.id()).unwrap();
    assert_eq!((view.offences, view.member), (5, false));
    assert_eq!(stranger.ask(b.id(), Lane::Worker, b"work").await.unwrap(), "work");
    b.handle.set_members([1, 2, 9].map(id).into());
    assert_eq!(stranger.ask(b.id(), Lane::Append, b"now").await.unwrap(), "now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_reaches_a_worker_that_only_dialled() {
    let c = node(1, coordinator()).await;
    let w = node(20, worker(&[&c])).await.echo();
    c.connected_to(w.id()).await;
    assert_eq!(c.ask(w.id(), Lane::Worker, b"assign").await.unwrap(), "assign");
    let error = c.ask(w.id(), Lane::Append, b"replicate").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.contains("does not serve")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_is_dropped_or_refused_fails_the_caller_at_once() {
    let (a, mut b) = {
        let b = node(2, coordinator()).await;
        (node(1, Options { persistent: addresses(&[&b]), ..coordinator() }).await, b)
    };
    let mut requests = b.inbox.take().unwrap().requests;
    b.tasks.spawn_until_stopped("fail", async move {
        while let Some(request) = requests.recv().await {
            if request.body == "refuse" {
                request.reply.refuse("é".repeat(1_000));
            }
        }
    });
    let error = a.ask(b.id(), Lane::Forward, b"drop").await.unwrap_err();
    assert!(matches!(error, Error::Lost(peer) if peer == b.id()), "{error}");
    let error = a.ask(b.id(), Lane::Forward, b"refuse").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.starts_with('é')), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_told_busy_while_members_still_get_through() {
    let mut b = node(2, coordinator()).await;
    let w = node(20, worker(&[&b])).await;
    let a = node(1, Options { persistent: addresses(&[&b]), ..coordinator() }).await;
    let mut requests = b.inbox.take().unwrap().requests;
    // Nobody reads: 32 are handed out, 256 wait, and one stream has 64 in flight, so five workers fill it.
    let mut workers = vec![w];
    for n in 21..26 {
        workers.push(node(n, worker(&[&b])).await);
    }
    let peer = b.id();
    let flood = workers.iter().flat_map(|worker| {
        (0..64).map(move |_| worker.handle.request(peer, Lane::Worker, Bytes::new(), Duration::from_secs(5)))
    });
    let flood = futures::future::join_all(flood);
    let refused = async {
        eventually("a worker is refused", || {
            b.handle.stats().lanes.iter().any(|lane| lane.lane == "worker" && lane.refused > 0)
        })
        .await;
        let asked = a.ask(peer, Lane::Control, b"heartbeat");
        let served = async {
            // The member's request comes before the workers' that still wait.
            for n in 0.. {
                let request = requests.recv().await.unwrap();
                if request.lane == Lane::Control {
                    request.reply.send(request.body);
                    return n;
                }
                if n == 31 {
                    eventually("the heartbeat waits", || {
                        b.handle.stats().lanes.iter().any(|lane| lane.lane == "control" && lane.requests_in > 0)
                    })
                    .await;
                }
            }
            unreachable!()
        };
        let (answer, before) = tokio::join!(asked, served);
        assert_eq!(answer.unwrap(), "heartbeat");
        assert!(before <= 100, "{before} requests of workers came first");
    };
    let (answers, ()) = tokio::join!(flood, refused);
    let busy = answers.iter().filter(|answer| matches!(answer, Err(Error::Refused { reason, .. }) if reason == "busy"));
    assert!(busy.count() > 0);
}
