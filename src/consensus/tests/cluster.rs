//! A few nodes over a [`Hub`], each with a directory that outlives it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::consensus::{Client, Error, Joining, Leadership, Options, Raft, Role, start_over};
use crate::domain::command::Submit;
use crate::domain::job::{Input, JobSpec, Source};
use crate::domain::{Command, Digest, JobId, NodeId, PeerId, State, sample};
use crate::storage::{OpenOptions, Store};
use crate::tasks::Tasks;

use super::hub::Hub;

/// Anything these tests wait for takes less, on a machine shared with compilers too.
pub const LIMIT: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub hub: Hub,
    pub ids: Vec<NodeId>,
    pub options: Options,
    nodes: BTreeMap<NodeId, Node>,
    dirs: tempfile::TempDir,
}

struct Node {
    raft: Arc<Raft>,
    tasks: Tasks,
}

pub fn options() -> Options {
    Options {
        initial_members: Vec::new(),
        join: None,
        external: Vec::new(),
        autopilot: None,
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(600),
        election_max: Duration::from_millis(1200),
        snapshot_every: 100_000,
        snapshot_every_bytes: 1 << 30,
        keep_entries: 1_000,
        inflight: 4_096,
        min_free_bytes: 0,
        newest_level: crate::domain::level::FIRST,
        lease_reads: false,
        slow_disk: Duration::ZERO,
        slow_disk_for: Duration::from_secs(10),
    }
}

impl Cluster {
    /// Starts `size` nodes that form a cluster.
    pub async fn new(size: u8) -> Self {
        Self::with(size, options()).await
    }

    pub async fn with(size: u8, options: Options) -> Self {
        let mut cluster = Self::stopped(size, options);
        for id in cluster.ids.clone() {
            cluster.start(id).await.unwrap();
        }
        cluster
    }

    pub fn stopped(size: u8, mut options: Options) -> Self {
        let ids: Vec<NodeId> = (1..=size).map(|n| PeerId([n; 32])).collect();
        options.initial_members = ids.iter().map(|id| format!("/memory/{}/p2p/{id}", id.0[0])).collect();
        let dirs = tempfile::tempdir().unwrap();
        Self { hub: Hub::default(), ids, options, nodes: BTreeMap::new(), dirs }
    }

    pub fn dir(&self, id: NodeId) -> PathBuf {
        self.dirs.path().join(format!("node-{}", id.0[0]))
    }

    pub async fn start(&mut self, id: NodeId) -> Result<(), Error> {
        let options = self.options.clone();
        self.start_with(id, options).await
    }

    /// Starts a node that asks to be admitted.
    pub async fn start_joining(&mut self, id: NodeId, join: Joining) -> Result<(), Error> {
        let options = Options { join: Some(join), initial_members: Vec::new(), ..self.options.clone() };
        self.start_with(id, options).await
    }

    async fn start_with(&mut self, id: NodeId, options: Options) -> Result<(), Error> {
        let store = open_store(&self.dir(id), id).await;
        let tasks = Tasks::new();
        let raft = Arc::new(start_over(store, self.hub.wire(id), options, &tasks).await?);
        self.hub.plug(id, raft.clone());
        self.nodes.insert(id, Node { raft, tasks });
        Ok(())
    }

    /// Ends a node at once: nobody hears of it, nothing is handed over.
    pub async fn kill(&mut self, id: NodeId) {
        self.hub.unplug(id);
        let node = self.nodes.remove(&id).unwrap();
        node.tasks.cancel();
        let _ = node.raft.client.core.raft.shutdown().await;
        assert!(node.tasks.join(LIMIT).await && node.raft.tasks.join(LIMIT).await, "tasks of {id} did not end");
    }

    /// Ends a node in good order.
    pub async fn stop(&mut self, id: NodeId) {
        self.nodes[&id].raft.stop(LIMIT).await;
        self.kill(id).await;
    }

    pub fn raft(&self, id: NodeId) -> &Raft {
        &self.nodes[&id].raft
    }

    pub fn client(&self, id: NodeId) -> Client {
        self.nodes[&id].raft.client()
    }

    pub fn running(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The node whose duties may run, and its term.
    pub async fn leader(&self) -> (NodeId, u64) {
        let find = || {
            self.running().into_iter().find_map(|id| match *self.client(id).leadership().borrow() {
                Leadership::Leading { term } => Some((id, term)),
                Leadership::Following => None,
            })
        };
        wait_until("a leader", || find().is_some()).await;
        find().unwrap()
    }

    pub async fn follower(&self) -> NodeId {
        let (leader, _) = self.leader().await;
        let follows = |id: &NodeId| {
            let status = self.client(*id).status();
            status.leader == Some(leader) && status.role == Role::Follower
        };
        wait_until("a follower", || self.running().iter().any(follows)).await;
        self.running().into_iter().find(follows).unwrap()
    }

    /// All running nodes have applied the same, and agree on the state.
    pub async fn converge(&self) -> u64 {
        let (leader, _) = self.leader().await;
        let index = self.client(leader).linearize(LIMIT).await.unwrap();
        for id in self.running() {
            self.client(id).wait_applied(index, LIMIT).await.unwrap();
        }
        let agree = || {
            let look = |id: NodeId| self.client(id).read(|state| (state.applied(), state.hash()));
            let all: Vec<_> = self.running().into_iter().map(look).collect();
            all.windows(2).all(|pair| pair[0] == pair[1])
        };
        wait_until("equal states", agree).await;
        index
    }

    pub async fn shutdown(mut self) {
        for id in self.running() {
            self.kill(id).await;
        }
    }
}

/// A store is free again only once the last task of its former owner has ended.
pub async fn open_store(dir: &std::path::Path, id: NodeId) -> Store {
    let begun = clock::instant();
    loop {
        match OpenOptions::new().ballast_bytes(0).open(dir, id) {
            Ok(store) => return store,
            Err(error) if begun.elapsed() > LIMIT => panic!("open store: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun: Instant = clock::instant();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn job(n: u64) -> JobId {
    JobId::from_key("test", &n.to_string())
}

pub fn submission(n: u64) -> Command {
    submission_of(n, 16)
}

/// A job whose input is `size` bytes.
pub fn submission_of(n: u64, size: usize) -> Command {
    let payload = vec![n as u8; size];
    let spec =
        JobSpec { input: Input { sha256: Digest::of(&payload), size: size as u64, uri: None }, ..sample::spec() };
    let fingerprint = Digest::of(&n.to_be_bytes());
    Command::Submit(Box::new(Submit { id: job(n), spec, payload: Some(payload), fingerprint, source: Source::Api }))
}

pub fn has(state: &State, n: u64) -> bool {
    state.job(job(n)).is_some()
}
