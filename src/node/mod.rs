//! Composition root: opens the layers, wires them, stops them. Decides nothing.
//!
//! Start order: storage, ports, mesh, consensus, API, leadership watch. Stop
//! order: leadership is handed over while everything still runs, so that what is
//! under way finds the next leader; the API drains, duties stop, Raft, mesh,
//! storage. One deadline for all of it; a second signal exits at once. The disk
//! is the recovery path: `kill -9` is as good a stop as any.

mod callbacks;
mod greeting;
mod join;
mod options;
mod ready;
mod reign;
mod route;

#[cfg(feature = "chain")]
pub(crate) use options::PASSWORD_VARIABLE;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{error, info, warn};

use crate::api;
use crate::backup;
use crate::chain;
use crate::clock;
use crate::config::Config;
use crate::consensus;
use crate::domain::NodeId;
use crate::kafka;
use crate::leader;
use crate::mesh::{self, Roster};
use crate::storage;
use crate::tasks::Tasks;
use crate::telemetry;

/// Everything must be down within this after the first signal.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The API's share of it: requests under way may finish.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// For another member to take leadership over. The API serves meanwhile.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(3);

/// A pause of this process longer than a second is noticed.
const ATTEND_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open identity")]
    Identity(#[source] mesh::Error),
    #[error("open storage")]
    Storage(#[from] storage::Error),
    #[error("bind API to {address}")]
    Bind {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("join a cluster")]
    Join(#[source] join::Trouble),
    #[error("start mesh")]
    Mesh(#[source] mesh::Error),
    #[error("start consensus")]
    Consensus(#[source] consensus::Error),
    #[error("consensus stopped")]
    Failed(#[source] consensus::Error),
    #[error("write {what}")]
    Write {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("start kafka")]
    Kafka(#[source] kafka::Error),
    #[error("start blockchain")]
    Chain(#[source] chain::Error),
    #[error("start callbacks")]
    Callbacks(#[source] callbacks::Error),
    #[error("run start-up task")]
    Task(#[from] tokio::task::JoinError),
}

/// Task groups, in the order in which they stop.
struct Groups {
    api: Tasks,
    duties: Tasks,
    mesh: Tasks,
}

/// Runs the node until a signal or a failure that it must not survive. `joins`: the command line says that it joins.
pub async fn run(config: Config, joins: bool) -> Result<(), Error> {
    let groups = Groups { api: Tasks::new(), duties: Tasks::new(), mesh: Tasks::new() };
    storage::check_key(&config.node.data_dir.join("store"), &config.key_file())?;
    let identity = mesh::Identity::load_or_create(&config.key_file()).map_err(Error::Identity)?;
    let id = identity.id();
    info!(node = %id, version = env!("CARGO_PKG_VERSION"), environment = config.environment.as_str(), "starting");

    let callbacks = callbacks::open(&config).map_err(Error::Callbacks)?;
    let (store, new) = groups.mesh.spawn_blocking(store_opener(&config, id)).await??;
    let plan = join::plan(&config, joins, new).map_err(Error::Join)?;
    let bind = config.api.bind;
    let listener = TcpListener::bind(bind).await.map_err(|source| Error::Bind { address: bind.to_string(), source })?;
    let api_address = listener.local_addr().map_err(|source| Error::Bind { address: bind.to_string(), source })?;

    let mesh_options = config.mesh_options(plan.as_ref());
    let (mesh, inbox) = start_mesh(identity.clone(), mesh_options, &groups.mesh).await.map_err(Error::Mesh)?;
    greeting::start(&mesh, &groups.mesh);
    let options = config.consensus_options(&mesh.addresses(), plan);
    let raft = consensus::start(store, mesh.clone(), options, &groups.mesh).await;
    let raft = Arc::new(raft.map_err(Error::Consensus)?);
    let roster = Roster::default();
    attend(&roster, &groups.mesh);
    let desk = reign::Desk::default();
    route::start(inbox, &raft, &mesh, &roster, &desk, &groups.mesh);

    let kafka = start_kafka(&config, id, &groups.mesh).map_err(Error::Kafka)?;
    let chain = start_chain(&config, &groups.mesh).await?;
    let leader = leader::Context {
        client: raft.client(),
        mesh: mesh.clone(),
        roster: roster.clone(),
        options: config.leader_options(),
        coordinators: config.coordinator_addresses(&mesh.addresses()),
        kafka: kafka.clone(),
        chain: chain.clone(),
        callbacks,
    };
    groups.duties.spawn("reign", reign::watch(leader, desk, groups.duties.clone()));

    let context = api::Context {
        client: raft.client(),
        mesh: mesh.clone(),
        roster,
        identity,
        info: api::NodeInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            environment: config.environment.as_str().to_owned(),
            started: clock::now(),
        },
        limits: config.api_limits(),
        backup: start_backups(&config, raft.client(), &groups.api),
        network: config.network.name.clone(),
        kafka,
        chain,
    };
    let sampled = context.clone();
    groups.api.spawn_until_stopped("history", async move {
        loop {
            telemetry::history::record(&sampled.gauges());
            tokio::time::sleep(telemetry::history::INTERVAL).await;
        }
    });
    groups.api.spawn("api", api::serve(listener, context, groups.api.clone()));
    let card = ready::Card::new(id, api_address, mesh.addresses());
    groups.api.spawn_until_stopped("ready", ready::announce(card, config.node.data_dir.clone(), raft.client()));

    let end = wait_for_end(&raft).await;
    stop(&groups, &raft).await;
    ready::withdraw(&config.node.data_dir);
    end
}

/// Where backups are asked for; takes those that are scheduled.
fn start_backups(config: &Config, client: consensus::Client, tasks: &Tasks) -> backup::Desk {
    let desk = backup::Desk::new(config.backup_options());
    let scheduled = backup::schedule::run(desk.clone(), client, config.network.name.clone(), tasks.clone());
    tasks.spawn_until_stopped("backup", scheduled);
    desk
}

/// Notices when this process did not run, whether it leads or not.
fn attend(roster: &Roster, tasks: &Tasks) {
    let roster = roster.clone();
    tasks.spawn_until_stopped("attention", async move {
        loop {
            roster.attend(clock::instant());
            tokio::time::sleep(ATTEND_EVERY).await;
        }
    });
}

/// Opens the store, and says whether it is new. A development machine's disk is not asked for the full ballast.
fn store_opener(config: &Config, id: NodeId) -> impl FnOnce() -> Result<(storage::Store, bool), Error> + use<> {
    let dir = config.node.data_dir.join("store");
    let local = config.environment.is_local();
    move || {
        let store = if local { storage::Store::open(&dir, id) } else { storage::OpenOptions::new().open(&dir, id) };
        let store = store?;
        let new = consensus::is_new(&store).map_err(Error::Consensus)?;
        Ok((store, new))
    }
}

#[cfg(feature = "metrics")]
async fn start_mesh(
    identity: mesh::Identity,
    options: mesh::Options,
    tasks: &Tasks,
) -> Result<(mesh::Handle, mesh::Inbox), mesh::Error> {
    mesh::start_with_metrics(identity, options, tasks).await
}

#[cfg(not(feature = "metrics"))]
async fn start_mesh(
    identity: mesh::Identity,
    options: mesh::Options,
    tasks: &Tasks,
) -> Result<(mesh::Handle, mesh::Inbox), mesh::Error> {
    mesh::start(identity, options, tasks).await
}

/// A node looks at Kafka whether it leads or not. `None`: disabled.
#[cfg(feature = "kafka")]
fn start_kafka(config: &Config, id: NodeId, tasks: &Tasks) -> Result<Option<kafka::Handle>, kafka::Error> {
    config.kafka_options(id).map(|options| kafka::Handle::start(options, tasks)).transpose()
}

/// Without Kafka in the build no configuration enables it.
#[cfg(not(feature = "kafka"))]
fn start_kafka(config: &Config, id: NodeId, _: &Tasks) -> Result<Option<kafka::Handle>, kafka::Error> {
    match config.kafka_options(id) {
        None => Ok(None),
        Some(_) => Err(kafka::Error::Refused("this build has no Kafka support".to_owned())),
    }
}

/// A node looks at the chain whether it leads or not. `None`: disabled. Opening the keystore takes a moment.
#[cfg(feature = "chain")]
async fn start_chain(config: &Config, tasks: &Tasks) -> Result<Option<chain::Handle>, Error> {
    let Some(options) = config.chain_options() else { return Ok(None) };
    let group = tasks.clone();
    let started = tasks.spawn_blocking(move || chain::Handle::start(options, &group)).await?;
    started.map(Some).map_err(Error::Chain)
}

/// Without the chain in the build no configuration enables it.
#[cfg(not(feature = "chain"))]
async fn start_chain(config: &Config, _: &Tasks) -> Result<Option<chain::Handle>, Error> {
    match config.chain_options() {
        None => Ok(None),
        Some(_) => Err(Error::Chain(chain::Error::Refused("this build has no blockchain support".to_owned()))),
    }
}

/// Completes on a signal, or when Raft can not go on.
async fn wait_for_end(raft: &consensus::Raft) -> Result<(), Error> {
    tokio::select! {
        () = signal() => Ok(()),
        failure = raft.failed() => {
            error!(error = %failure, "this node must stop");
            Err(Error::Failed(failure))
        }
    }
}

async fn stop(groups: &Groups, raft: &consensus::Raft) {
    let orderly = async {
        raft.hand_over(HAND_OVER_LIMIT).await;
        groups.api.cancel();
        if !groups.api.join(DRAIN_LIMIT).await {
            warn!("requests were cut off");
        }
        groups.duties.cancel();
        groups.duties.join(DRAIN_LIMIT).await;
        raft.stop(DRAIN_LIMIT).await;
        groups.mesh.cancel();
        groups.mesh.join(DRAIN_LIMIT).await;
        info!("stopped");
    };
    tokio::select! {
        done = tokio::time::timeout(STOP_LIMIT, orderly) => {
            if done.is_err() {
                warn!("not everything stopped in time");
            }
        }
        () = signal() => warn!("second signal, exiting at once"),
    }
}

/// Completes on SIGINT or SIGTERM.
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM, stopping"),
        _ = interrupt.recv() => info!("SIGINT, stopping"),
    }
}
