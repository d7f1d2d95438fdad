//! Opening, forming a cluster, and stopping.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::clock;
use crate::domain::NodeId;
use crate::storage::{self, Store};
use crate::tasks::Tasks;

use super::abdicate::Snapshots;
use super::archive::fetch;
use super::attention::Attention;
use super::core::{Core, Trusted};
use super::identity::Peers;
use super::knock::KNOCKS_MAX;
use super::log_store::LogStore;
use super::network::{Factory, Link, Transport};
use super::snapshot::Directory;
use super::state_machine::Machine;
use super::transfer::Receiver;
use super::types::{LogId, Node};
use super::{Error, Leadership, Options, abdicate, attention, handover, leadership, offline};

/// How long a new node looks for others that know its identity before it helps to form a cluster.
const MEET_LIMIT: Duration = Duration::from_millis(1500);

/// Between two tries to reach a member that does not answer yet.
const MEET_EVERY: Duration = Duration::from_millis(50);

/// New members form the cluster one after the other, so that they do not compete for the first term.
const STAGGER: Duration = Duration::from_millis(200);

/// Opens everything and starts Raft.
pub(super) async fn open(
    store: Store,
    transport: Arc<dyn Transport>,
    options: Options,
    tasks: &Tasks,
) -> Result<Arc<Core>, Error> {
    let node = transport.id();
    let initial = initial_members(&options.initial_members)?;
    if offline::is_recovering(&store)? {
        return Err(half_recovered());
    }
    let failure = Arc::new(watch::Sender::new(None));
    let newest_level = options.newest_level;
    let peers = Arc::new(Peers::open(&store, node, newest_level, failure.clone())?);
    let snapshots = Arc::new(Snapshots::default());
    let link = Link::new(transport.clone(), peers.clone(), snapshots.clone());

    let (opened, noted, group) = (store.clone(), snapshots.clone(), tasks.clone());
    let open = move || open_files(&opened, newest_level, noted, &group);
    let opened = tasks.spawn_blocking(open).await.map_err(|error| Error::Setup(error.to_string()))?;
    let (log, machine, directory) = opened.map_err(unopened)?;
    let unreadable = |error: std::io::Error| Error::Setup(format!("read the log: {error}"));
    let pristine = log.is_pristine().map_err(unreadable)?;
    if pristine && !initial.is_empty() && !initial.contains_key(&node) {
        return Err(not_listed(node, &initial));
    }
    transport.set_members(initial.keys().copied().collect());

    if options.lease_reads && !pristine {
        // What this node acknowledged before it stopped is forgotten, and a leader may count on it for a lease.
        tokio::time::sleep(options.lease()).await;
    }
    let (applied, archive) = (machine.applied(), machine.archive());
    let factory = Factory { link: link.clone(), append_limit: options.election_max };
    let config = Arc::new(config(&options)?);
    let raft = Node::new(node, config, factory, log.clone(), machine).await;
    let attention = Attention::new(clock::instant(), options.election_min);
    let core = Arc::new(Core {
        node,
        raft: raft.map_err(|fatal| Error::Setup(format!("recover the state: {fatal}")))?,
        applied,
        archive,
        store,
        log,
        link,
        transport,
        peers,
        receiver: Receiver::new(directory, tasks),
        options,
        trusted: Trusted::new(initial.keys().copied().collect()),
        heard_of: Default::default(),
        moved: Default::default(),
        removed: false.into(),
        knocks: Semaphore::new(KNOCKS_MAX),
        leadership: watch::Sender::new(Leadership::Following),
        failure,
        recovered: false.into(),
        tasks: tasks.clone(),
        heard: Default::default(),
        fresh: Default::default(),
        log_clock: Default::default(),
        attention,
        snapshots,
        transfer: Default::default(),
        handed_over: Default::default(),
        disk: Default::default(),
        used: Default::default(),
    });
    run(&core, pristine.then_some(initial), tasks);
    Ok(core)
}

/// The log, and the state as the newest snapshot has it. Blocking.
pub(super) fn open_files(
    store: &Store,
    newest_level: u32,
    noted: Arc<Snapshots>,
    tasks: &Tasks,
) -> std::io::Result<(LogStore, Machine, Directory)> {
    let directory = Directory::open(&store.file_dir().join("snapshots"))?;
    let machine = Machine::open(directory.clone(), store, newest_level, noted, tasks)?;
    let log = LogStore::open(store, tasks)?;
    check_reach(&log, &machine, &directory)?;
    Ok((log, machine, directory))
}

/// A snapshot and the log after it are the state. Without the one the other is of no use.
fn check_reach(log: &LogStore, machine: &Machine, directory: &Directory) -> std::io::Result<()> {
    let (purged, snapshot) = (log.purged(), machine.last());
    if purged <= snapshot {
        return Ok(());
    }
    let text = |id: Option<LogId>| id.map_or("none".to_owned(), |id| format!("up to entry {}", id.index));
    let what = format!(
        "{}: the log begins after entry {}, but the newest snapshot that is whole is: {}{}",
        directory.path().display(),
        purged.map_or(0, |id| id.index),
        text(snapshot),
        directory.set_aside()?
    );
    Err(std::io::Error::new(std::io::ErrorKind::InvalidData, storage::Error::damaged(what)))
}

fn half_recovered() -> Error {
    let what = "a recovery of this node was begun and did not come to its end: finish it with `ciro-coordinator \
                cluster recover`, then start";
    Error::Setup(what.to_owned())
}

/// Damage keeps its own message, with the way out in it.
pub(super) fn unopened(error: std::io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<storage::Error>()) {
        Some(storage) => Error::Storage(storage.clone()),
        None => Error::Setup(format!("open the log: {error}")),
    }
}

fn run(core: &Arc<Core>, form: Option<BTreeMap<NodeId, String>>, tasks: &Tasks) {
    tasks.spawn_until_stopped("leadership", leadership::watch(core.clone()));
    tasks.spawn_until_stopped("meet", leadership::meet(core.clone()));
    tasks.spawn_until_stopped("recovery", leadership::recover(core.clone()));
    tasks.spawn_until_stopped("attention", attention::beat(core.clone()));
    tasks.spawn_until_stopped("confirmation", attention::recover(core.clone()));
    tasks.spawn_until_stopped("disk-watch", abdicate::watch(core.clone()));
    tasks.spawn_until_stopped("disk-used", core.clone().measure());
    let disk = core.clone();
    tasks.spawn_until_stopped("disk", async move {
        let error = disk.store.failed().await;
        tracing::error!(%error, "the disk has failed");
        disk.fail(Error::Storage(error));
    });
    let archive = core.clone();
    tasks.spawn_until_stopped("archive", async move {
        let error = archive.archive.clone().run(archive.tasks.clone()).await;
        tracing::error!(%error, "the archive can not be written");
        archive.fail(error);
    });
    tasks.spawn_until_stopped("archive-repair", fetch::repair(core.clone()));
    if let Some(members) = form.filter(|members| !members.is_empty()) {
        tasks.spawn_until_stopped("form-cluster", form_cluster(core.clone(), members));
    }
}

/// `/…/p2p/<id>` addresses, by id.
pub(super) fn initial_members(addresses: &[String]) -> Result<BTreeMap<NodeId, String>, Error> {
    let mut members = BTreeMap::new();
    for address in addresses {
        let id = address.rsplit_once("/p2p/").and_then(|(_, id)| id.parse().ok());
        let id = id.ok_or_else(|| Error::Setup(format!("initial member {address} does not end in /p2p/<peer id>")))?;
        if members.insert(id, address.clone()).is_some() {
            return Err(Error::Setup(format!("initial member {id} is listed twice")));
        }
    }
    Ok(members)
}

fn not_listed(node: NodeId, members: &BTreeMap<NodeId, String>) -> Error {
    let known: Vec<String> = members.keys().map(ToString::to_string).collect();
    Error::Setup(format!(
        "this node {node} is not among the initial members {}: add its address, or let it join a running cluster",
        known.join(", ")
    ))
}

/// Raft waits its lease, then a random time, before an election. Our options say how long both take together.
fn config(options: &Options) -> Result<Config, Error> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = ms(options.heartbeat).max(1);
    let lease = ms(options.lease());
    let shortest = ms(options.election_min).saturating_sub(lease).clamp(heartbeat + 1, lease - 1);
    let snapshot_every = options.snapshot_every.max(1);
    let config = Config {
        cluster_name: "ciro".into(),
        heartbeat_interval: heartbeat,
        election_timeout_min: shortest,
        election_timeout_max: lease,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        // A leader that no quorum answers falls silent: those that still hear it look for another, and do not take
        // what it says for the newest there is.
        quorum_loss_probe_interval: Some(lease * 2),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: options.keep_entries,
        replication_lag_threshold: snapshot_every.saturating_mul(2).saturating_add(options.keep_entries),
        install_snapshot_timeout: 120_000,
        backoff: "50ms 100ms 200ms ...400ms".into(),
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Setup(format!("raft timers: {error}")))
}

/// Meets the others, so that a node that lost its data finds out; then proposes the first membership.
async fn form_cluster(core: Arc<Core>, members: BTreeMap<NodeId, String>) {
    let others: BTreeSet<NodeId> = members.keys().copied().filter(|id| *id != core.node).collect();
    let _ = timeout(MEET_LIMIT, meet(&core, &others)).await;
    if core.failure.borrow().is_some() {
        return;
    }
    let turn = members.keys().position(|id| *id == core.node).unwrap_or(0);
    let joined = core.raft.wait(Some(STAGGER * u32::try_from(turn).unwrap_or(0)));
    if turn > 0 && joined.metrics(|metrics| metrics.last_log_index.is_some(), "cluster formed").await.is_ok() {
        return;
    }
    match core.raft.initialize(members).await {
        Ok(()) => tracing::info!("cluster formed"),
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => core.fail(Error::Setup(format!("form the cluster: {error}"))),
    }
}

async fn meet(core: &Core, others: &BTreeSet<NodeId>) {
    let meetings = others.iter().map(|peer| async {
        while core.peers.greet(&*core.transport, *peer, MEET_LIMIT).await.is_err() {
            tokio::time::sleep(MEET_EVERY).await;
        }
    });
    futures::future::join_all(meetings).await;
}

/// Hands leadership over if this node leads, then stops everything, within `limit`.
pub(super) async fn stop(core: &Core, tasks: &Tasks, limit: Duration) {
    let deadline = clock::instant() + limit;
    handover::before_stop(core, limit / 2).await;
    tasks.cancel();
    let left = deadline.saturating_duration_since(clock::instant());
    if timeout(left, core.raft.shutdown()).await.is_err() {
        tracing::warn!("raft did not stop in time");
    }
    let left = deadline.saturating_duration_since(clock::instant());
    if !tasks.join(left).await {
        tracing::warn!("consensus tasks did not stop in time");
    }
}
