//! Stories of whole nodes in one process, over real sockets on loopback.

mod faults;
mod fetch;
mod gossip;
mod requests;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::{Error, Handle, Identity, Inbox, Lane, Options, Role, start};
use crate::clock;
use crate::domain::PeerId;
use crate::tasks::Tasks;

/// Longer than anything here should take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node under test. Dropping it stops it.
struct Node {
    handle: Handle,
    inbox: Option<Inbox>,
    tasks: Tasks,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

fn id(n: u8) -> PeerId {
    identity(n).id()
}

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// A coordinator listening on TCP, in a cluster of nodes 1, 2 and 3.
fn coordinator() -> Options {
    Options {
        network: "test".to_owned(),
        role: Role::Coordinator,
        listen: vec![TCP.to_owned()],
        external: vec![],
        persistent: vec![],
        members: [1, 2, 3].map(id).into(),
        gossip: true,
        discovery: true,
        mdns: false,
        max_connections: 100,
        max_frame: 4 << 20,
    }
}

/// A worker that listens nowhere.
fn worker(coordinators: &[&Node]) -> Options {
    Options {
        role: Role::Worker,
        listen: vec![],
        members: BTreeSet::new(),
        discovery: false,
        persistent: addresses(coordinators),
        ..coordinator()
    }
}

fn addresses(nodes: &[&Node]) -> Vec<String> {
    nodes.iter().flat_map(|node| node.handle.addresses()).collect()
}

async fn node(n: u8, options: Options) -> Node {
    let tasks = Tasks::new();
    let (handle, inbox) = start(identity(n), options, &tasks).await.unwrap();
    Node { handle, inbox: Some(inbox), tasks }
}

impl Node {
    fn id(&self) -> PeerId {
        self.handle.id()
    }

    /// Answers every request with its body.
    fn echo(mut self) -> Self {
        let mut requests = self.inbox.take().unwrap().requests;
        self.tasks.spawn_until_stopped("echo", async move {
            while let Some(request) = requests.recv().await {
                request.reply.send(request.body);
            }
        });
        self
    }

    async fn ask(&self, peer: PeerId, lane: Lane, body: &'static [u8]) -> Result<Bytes, Error> {
        self.handle.request(peer, lane, Bytes::from_static(body), PATIENCE).await
    }

    async fn connected_to(&self, peer: PeerId) {
        eventually("connected", || self.handle.is_connected(peer)).await;
    }

    async fn stop(self) {
        self.tasks.cancel();
        assert!(self.tasks.join(PATIENCE).await, "every task of the mesh ends");
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = clock::instant();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
