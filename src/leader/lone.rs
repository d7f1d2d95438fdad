//! A leader of one, without duties, for tests: each runs the duty it is about on it.

use std::path::Path;
use std::time::Duration;

use super::{Context, Options, Reign};
use crate::consensus::{self, Leadership, Raft};
use crate::mesh::{self, Identity, Role, Roster};
use crate::tasks::Tasks;

/// Longer than it takes to be elected, on a machine shared with compilers too.
const LIMIT: Duration = Duration::from_secs(60);

/// Its log is in `dir`. Neither Kafka nor chain nor callbacks: whoever wants them puts them into the context.
pub(super) async fn start(dir: &Path, tasks: &Tasks) -> (Reign, Raft) {
    let (mesh, _inbox) = mesh::start(Identity::from_secret([1; 32]), mesh_options(), tasks).await.unwrap();
    let options = raft_options(mesh.addresses());
    let raft = consensus::start_in(&dir.join("store"), mesh.clone(), options, tasks).await.unwrap();
    let client = raft.client();
    let mut leadership = client.leadership();
    let leads = leadership.wait_for(|now| *now != Leadership::Following);
    let Leadership::Leading { term } = *tokio::time::timeout(LIMIT, leads).await.unwrap().unwrap() else {
        unreachable!()
    };
    let options = Options {
        window: Duration::ZERO,
        tick: Duration::ZERO,
        lease: Duration::ZERO,
        offline_after: Duration::ZERO,
        announced_max: 1,
        retention: Default::default(),
        door: 1.into(),
    };
    let (roster, coordinators) = (Roster::default(), vec![]);
    let context = Context { client, mesh, roster, options, coordinators, kafka: None, chain: None, callbacks: None };
    (Reign { number: term, context }, raft)
}

fn mesh_options() -> mesh::Options {
    mesh::Options {
        network: "test".to_owned(),
        role: Role::Coordinator,
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        external: vec![],
        persistent: vec![],
        members: [Identity::from_secret([1; 32]).id()].into(),
        gossip: false,
        discovery: false,
        mdns: false,
        max_connections: 10,
        max_frame: 4 << 20,
    }
}

fn raft_options(initial_members: Vec<String>) -> consensus::Options {
    consensus::Options {
        initial_members,
        join: None,
        external: vec![],
        autopilot: None,
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        snapshot_every: 100_000,
        snapshot_every_bytes: 1 << 30,
        keep_entries: 1_000,
        inflight: 8_192,
        min_free_bytes: 0,
        newest_level: crate::domain::level::FIRST,
        lease_reads: false,
        slow_disk: Duration::ZERO,
        slow_disk_for: Duration::from_secs(10),
    }
}
