//! The same over the real mesh: sockets, streams, authenticated peers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::consensus::tests::cluster::{LIMIT, has, options, submission, submission_of, wait_until};
use crate::consensus::{Leadership, Options, Raft, start};
use crate::domain::NodeId;
use crate::mesh::{self, Identity, Inbox};
use crate::storage::{OpenOptions, Store};
use crate::tasks::Tasks;

struct Node {
    raft: Arc<Raft>,
    handle: mesh::Handle,
    tasks: Tasks,
}

async fn join(n: u8, listen: &str, persistent: Vec<String>) -> (mesh::Handle, Inbox, Tasks) {
    let tasks = Tasks::new();
    let options = mesh::Options {
        network: "consensus-test".into(),
        role: mesh::Role::Coordinator,
        listen: vec![listen.into()],
        external: Vec::new(),
        persistent,
        members: (1..=3).map(|n| Identity::from_secret([n; 32]).id()).collect(),
        gossip: false,
        discovery: false,
        mdns: false,
        max_connections: 100,
        max_frame: 8 << 20,
    };
    let (handle, inbox) = mesh::start(Identity::from_secret([n; 32]), options, &tasks).await.unwrap();
    (handle, inbox, tasks)
}

/// Passes what comes in to Raft, as the node does.
fn route(mut inbox: Inbox, raft: &Arc<Raft>, tasks: &Tasks) {
    let (raft, group) = (raft.clone(), tasks.clone());
    tasks.spawn_until_stopped("requests", async move {
        while let Some(request) = inbox.requests.recv().await {
            let raft = raft.clone();
            group.spawn_until_stopped("request", async move {
                let mesh::Request { peer, lane, body, reply } = request;
                match raft.serve(peer, lane, body).await {
                    Ok(answer) => reply.send(answer),
                    Err(error) => reply.refuse(error.to_string()),
                }
            });
        }
    });
}

async fn cluster(dirs: &tempfile::TempDir, listen: &str, options: Options) -> BTreeMap<NodeId, Node> {
    let mut meshes = Vec::new();
    let mut known: Vec<String> = Vec::new();
    for n in 1..=3 {
        let (handle, inbox, tasks) = join(n, listen, known.clone()).await;
        known.extend(handle.addresses());
        meshes.push((handle, inbox, tasks));
    }
    let mut nodes = BTreeMap::new();
    for (handle, inbox, tasks) in meshes {
        let id = handle.id();
        let store: Store = OpenOptions::new().ballast_bytes(0).open(&dirs.path().join(id.short()), id).unwrap();
        let options = Options { initial_members: known.clone(), ..options.clone() };
        let raft = Arc::new(start(store, handle.clone(), options, &tasks).await.unwrap());
        route(inbox, &raft, &tasks);
        nodes.insert(id, Node { raft, handle, tasks });
    }
    nodes
}

fn leader(nodes: &BTreeMap<NodeId, Node>) -> Option<NodeId> {
    let leads = |node: &&Node| *node.raft.client().leadership().borrow() != Leadership::Following;
    nodes.values().find(leads).map(|node| node.handle.id())
}

async fn story(listen: &str) {
    let dirs = tempfile::tempdir().unwrap();
    let options = Options { snapshot_every: 60, keep_entries: 10, ..options() };
    let mut nodes = cluster(&dirs, listen, options).await;
    wait_until("a leader", || leader(&nodes).is_some()).await;
    let first = leader(&nodes).unwrap();

    for (n, node) in (0..).zip(nodes.values()) {
        let client = node.raft.client();
        client.submit(submission_of(n, 300 << 10), LIMIT).await.unwrap().1.unwrap();
        client.linearize(LIMIT).await.unwrap();
        assert!(client.read(|state| (0..=n).all(|n| has(state, n))));
    }

    let gone = nodes.remove(&first).unwrap();
    gone.tasks.cancel();
    let client = nodes.values().next().unwrap().raft.client();
    let write = |n| {
        let client = client.clone();
        async move { client.submit(submission(n), Duration::from_secs(5)).await }
    };
    let mut tries = 0;
    while write(100).await.is_err() {
        tries += 1;
        assert!(tries < 10, "no write after the leader went");
    }
    for n in 101..300 {
        write(n).await.unwrap().1.unwrap();
    }
    wait_until("a snapshot, and the log purged", || client.status().purged > 0).await;
    for node in nodes.values() {
        let client = node.raft.client();
        client.linearize(LIMIT).await.unwrap();
        assert!(client.read(|state| (0..3).chain(100..300).all(|n| has(state, n))));
    }
    for node in nodes.into_values() {
        node.raft.stop(LIMIT).await;
        node.tasks.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_over_tcp() {
    story("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_over_quic() {
    story("/ip4/127.0.0.1/udp/0/quic-v1").await;
}
