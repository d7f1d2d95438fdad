//! What must be refused: a node without its memory, and noise on the wire.

use std::fs;
use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ciro::domain::{JobId, PeerId};
use ciro::mesh::{Lane, Topic};
use ciro::wire;
use ciro::wire::proto::mesh::v1 as proto;
use rand::{Rng as _, RngCore as _};
use serde_json::Value;

use crate::client::Mark;
use crate::cluster::{Cluster, NETWORK};
use crate::intruder::{Intruder, signed};
use crate::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_data_was_wiped_is_refused_under_its_old_key() {
    let mut cluster = Cluster::start(3, 1).await;
    let node = cluster.follower().await;
    let ticket = cluster.client.submit(node, &cluster.client.mark(0.1)).await;
    cluster.client.ended(node, &ticket.id, secs(20)).await;
    cluster.kill(node);

    let (data, kept) = (cluster.nodes[node].dir.join("data"), cluster.nodes[node].dir.join("data.kept"));
    fs::rename(&data, &kept).unwrap();
    fs::create_dir(&data).unwrap();
    fs::copy(kept.join("node.key"), data.join("node.key")).unwrap();
    cluster.launch(node);
    let process = cluster.nodes[node].process.take().expect("just launched");
    let log = cluster.nodes[node].dir.join("log");
    let status = process.wait(secs(30)).await;
    assert!(!status.success(), "a voter without its memory was let in");
    let said = fs::read_to_string(&log).unwrap();
    let end: String = said.lines().rev().take(5).collect::<Vec<_>>().join("\n").to_lowercase();
    assert!(end.contains("another data directory"), "the message says what is wrong: {end}");
    println!("refused with {status}: {end}");

    // The cluster goes on without it, and takes it back with its memory.
    let running = cluster.running()[0];
    let second = cluster.client.submit(running, &cluster.client.mark(0.1)).await;
    cluster.client.ended(running, &second.id, secs(20)).await;
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_the_p2p_port_disturbs_nobody() {
    let mut cluster = Cluster::start(3, 1).await;
    let pids: Vec<u32> = cluster.nodes.iter().map(|node| node.process.as_ref().unwrap().pid()).collect();
    let mut open = Vec::new();
    for node in 0..3 {
        let address = ("127.0.0.1", cluster.nodes[node].p2p);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..1_000 {
            let mut packet = vec![0; cluster.rng.random_range(1..1_400)];
            cluster.rng.fill_bytes(&mut packet);
            // Every other one looks like the start of a QUIC handshake.
            packet[0] |= if cluster.rng.random() { 0xc0 } else { 0 };
            let _ = socket.send_to(&packet, address);
        }
        for turn in 0..60 {
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            stream.set_write_timeout(Some(secs(1))).unwrap();
            let mut noise = vec![0; 64 * 1024];
            cluster.rng.fill_bytes(&mut noise);
            let greeting: &[u8] = match turn % 3 {
                0 => b"\x13/multistream/1.0.0\n\x07/noise\n",
                1 => b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\x0f",
                _ => b"POST /jobs HTTP/1.1\r\n\r\n",
            };
            let _ = stream.write_all(greeting).and_then(|()| stream.write_all(&noise));
            open.push(stream);
        }
    }
    assert!(open.len() >= 3, "hardly any noise got in: {} connections", open.len());
    let ticket = cluster.client.submit(0, &cluster.client.mark(0.1)).await;
    let job = cluster.client.ended(1, &ticket.id, secs(20)).await;
    assert_eq!(job["state"], "completed", "{job}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (node, pid) in pids.into_iter().enumerate() {
        let process = cluster.nodes[node].process.as_mut().unwrap();
        process.must_run();
        assert_eq!(process.pid(), pid);
    }
    drop(open);
    cluster.finish().await;
}

fn ids(cluster: &Cluster) -> Vec<PeerId> {
    cluster.nodes.iter().map(|node| node.id.parse().expect("a peer id")).collect()
}

/// What a node thinks of a peer.
async fn opinion(cluster: &Cluster, node: usize, peer: PeerId) -> Option<Value> {
    let peers = cluster.client.get(node, "/network/peers?limit=1000").await?.body;
    let peer = peer.to_string();
    peers["peers"].as_array()?.iter().find(|view| view["id"] == peer.as_str()).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_can_hand_in_the_result_of_anothers_job() {
    let cluster = Cluster::start(3, 1).await;
    let nodes = ids(&cluster);
    let intruder = Intruder::join(NETWORK, cluster.addresses(), &cluster.tasks).await;
    let honest = cluster.client.submit(0, &cluster.client.mark(3.0)).await;
    let running = cluster.client.in_state(0, &honest.id, "running", secs(10)).await;
    let job: JobId = honest.id.parse().expect("a job id");
    for node in &nodes {
        intruder.connected(*node).await;
        // Stranger or registered, the job is not its job. Nor is one that nobody knows.
        for attempt in [0, 1, 2, u32::MAX] {
            let forged = [job, JobId(rand::random())].map(|job| intruder.report(job, attempt, b"forged\n")).to_vec();
            let reply = intruder.hand_in(*node, forged).await.expect("it is answered");
            assert!(reply.items.iter().all(|item| !item.accepted), "attempt {attempt}: {reply:?}");
        }
        let stolen = signed(job, 1, b"forged\n", Bytes::from_static(&[7; 64]));
        assert_eq!(intruder.hand_in(*node, vec![stolen]).await, None, "a signature of nobody's");
        let reply = intruder.register(*node, "nothing").await;
        assert!(reply.is_some_and(|reply| reply.items[0].accepted), "anybody may register");
    }
    let ended = cluster.client.ended(1, &honest.id, secs(20)).await;
    assert_eq!((&ended["attempt"], &ended["worker_id"]), (&running["attempt"], &running["worker_id"]), "{ended}");

    // What the worker signed is public. Who repeats it is not the worker.
    let result = cluster.client.get(0, &format!("/jobs/{}/result", honest.id)).await.expect("an answer").body;
    let bytes = |field: &str| STANDARD.decode(result[field].as_str().expect("base64")).unwrap();
    let replay = signed(job, 1, &bytes("output"), bytes("signature").into());
    assert_eq!(intruder.hand_in(nodes[0], vec![replay]).await, None, "a replay");
    for (node, id) in nodes.iter().enumerate() {
        let view = opinion(&cluster, node, intruder.mesh.id()).await.expect("the intruder is known");
        assert!(view["offences"].as_u64() >= Some(1), "{id}: {view}");
    }
    cluster.finish().await;
}

fn invented_bids() -> proto::Bids {
    let bid = |_| proto::Bid {
        job: Bytes::copy_from_slice(&rand::random::<[u8; 16]>()),
        attempt: 1,
        price: Bytes::new(),
        expected_ms: 0,
    };
    proto::Bids {
        term: 1,
        seq: rand::random(),
        room: u32::MAX,
        bids: (0..100).map(bid).collect(),
        ..Default::default()
    }
}

/// Waits until no node talks to the intruder, for at least so many offences.
async fn cut_off(cluster: &mut Cluster, intruder: &Intruder, offences: u64) {
    for (node, id) in ids(cluster).into_iter().enumerate() {
        until(secs(10), &format!("{id} cuts the intruder off"), async || {
            let view = opinion(cluster, node, intruder.mesh.id()).await?;
            (view["offences"].as_u64()? >= offences && view["connected"] == false).then_some(())
        })
        .await;
        assert!(!intruder.mesh.is_connected(id), "it came back at once");
        cluster.nodes[node].process.as_mut().unwrap().must_run();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_floods_is_cut_off_and_nobody_else_notices() {
    let mut cluster = Cluster::start(3, 1).await;
    let nodes = ids(&cluster);
    let intruder = Intruder::join(NETWORK, cluster.addresses(), &cluster.tasks).await;
    for node in &nodes {
        intruder.connected(*node).await;
    }
    let begun = cluster.client.submit(0, &cluster.client.mark(1.0)).await;
    // Garbage, and well-formed bids for rounds and jobs that never were.
    let mut noise = vec![0; 8 * 1024];
    for node in 0..3 {
        until(secs(20), &format!("node {node} thinks less of the intruder"), async || {
            cluster.rng.fill_bytes(&mut noise);
            for topic in Topic::ALL {
                intruder.shout(topic, Bytes::copy_from_slice(&noise[..cluster.rng.random_range(1..noise.len())]));
            }
            intruder.shout(Topic::Bids, wire::encode(&invented_bids()));
            let score = opinion(&cluster, node, intruder.mesh.id()).await?["gossip_score"].as_f64()?;
            (score < 0.0).then_some(())
        })
        .await;
    }
    cut_off(&mut cluster, &intruder, 1).await;

    // Another one, by what members use among themselves.
    let intruder = Intruder::join(NETWORK, cluster.addresses(), &cluster.tasks).await;
    for node in &nodes {
        intruder.connected(*node).await;
    }
    for _ in 0..40 {
        for node in &nodes {
            for lane in Lane::ALL {
                let body = Bytes::copy_from_slice(&noise[..cluster.rng.random_range(0..2_048)]);
                let answer = intruder.mesh.request(*node, lane, body, Duration::from_millis(300)).await;
                assert!(answer.is_err(), "{lane:?} served a stranger: {answer:?}");
            }
        }
    }
    cut_off(&mut cluster, &intruder, 100).await;
    let after = cluster.client.submit(1, &cluster.client.mark(0.1)).await;
    for ticket in [begun, after] {
        let job = cluster.client.ended(2, &ticket.id, secs(20)).await;
        assert_eq!((&job["state"], &job["attempt"]), (&"completed".into(), &1.into()), "{job}");
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_keeps_jobs_for_ever_loses_them_at_their_timeout() {
    let cluster = Cluster::start_with(3, 1, &[("CIRO__SCHEDULER__LEASE_SECS", "5")]).await;
    let nodes = ids(&cluster);
    let intruder = Intruder::join(NETWORK, cluster.addresses(), &cluster.tasks).await;
    for node in &nodes {
        intruder.connected(*node).await;
    }
    let reply = intruder.register(nodes[0], "mark").await.expect("it is answered");
    assert!(reply.items[0].accepted, "anybody may register: {reply:?}");
    let ticket = until(secs(20), "the intruder wins a job", async || {
        let short = Mark { timeout_secs: 1, ..cluster.client.mark(0.1) };
        let ticket = cluster.client.submit(0, &short).await;
        let won = until(secs(5), "the job is awarded", async || {
            let job = cluster.client.get(0, &format!("/jobs/{}", ticket.id)).await?.body;
            Some(job["worker_id"].as_str()?.to_owned())
        });
        (won.await == intruder.mesh.id().to_string()).then_some(ticket)
    })
    .await;
    let job = cluster.client.ended(1, &ticket.id, secs(30)).await;
    assert_eq!((&job["state"], &job["attempt"]), (&"completed".into(), &2.into()), "{job}");
    assert_ne!(job["worker_id"], intruder.mesh.id().to_string(), "{job}");
    cluster.finish().await;
}
