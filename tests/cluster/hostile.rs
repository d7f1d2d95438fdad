//! What must be refused: a node without its memory, and noise on the wire.

use std::fs;
use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use rand::{Rng as _, RngCore as _};

use crate::cluster::Cluster;
use crate::secs;

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
    assert!(end.contains("data") && end.contains("key"), "the message says what to do: {end}");
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
