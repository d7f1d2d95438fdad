//! Starts a worker and stops it: what is opened in which order, and closed.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::agent::{Agent, Intake, Parts};
use super::attempt::{Workshop, interrupted};
use super::coordinators::Coordinators;
use super::courier::Courier;
use super::desk::{Desk, Key};
use super::executor::{self, Executor, Keeping, Workspace};
use super::inputs::Inputs;
use super::keeper::Keeper;
use super::machine::Gauge;
use super::outbox::Outbox;
use super::registrar::{Registrar, Standing};
use super::reporter::Reporter;
use super::shelf::{self, Shelf};
use super::{Error, Settings, files};
use crate::domain::{Digest, WorkerId};
use crate::mesh::{self, Handle, Identity, Inbox, Role};
use crate::tasks::Tasks;
use crate::wire;
use crate::wire::proto::mesh::v1::worker_request::Body;
use crate::wire::proto::mesh::v1::{Leave, Register, Report, report};

/// Ended attempts the agent has not noted yet. Beyond this they wait.
const DONE_MAX: usize = 1_024;

/// How often what is too old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

const STOP_LIMIT: Duration = Duration::from_secs(5);

const CONNECTIONS_MAX: u32 = 256;
const FRAME_MAX: usize = 1 << 20;

/// Runs a worker until `stop`, then winds down: no new jobs, time for running
/// ones to finish, delivery of what there is to report.
///
/// # Errors
///
/// What kept it from starting. Once it runs, only `stop` ends it.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), Error> {
    let _lock = lock(&settings.data_dir)?;
    let tasks = Tasks::new();
    open(settings, &tasks).await?.live(&stop, &tasks).await;
    info!("stopped");
    Ok(())
}

/// A worker that was started.
pub(super) struct Life {
    agent: Agent,
    intake: Intake,
    courier: Courier,
    standing: watch::Receiver<Standing>,
    leave: bool,
    grace: Duration,
}

impl Life {
    /// Completes when a coordinator has registered the worker.
    pub fn registered(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut standing = self.standing.clone();
        async move {
            // An error means that the worker is gone: nobody waits for it then.
            let _ = standing.wait_for(|standing| *standing == Standing::Registered).await;
        }
    }

    /// Works until `stop`, then winds down and ends `tasks`.
    pub async fn live(mut self, stop: &CancellationToken, tasks: &Tasks) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.agent.step(&mut self.intake) => {}
                () = stop.cancelled() => {}
            }
        }
        self.agent.wind_down(&mut self.intake, self.grace).await;
        if self.leave
            && let Err(error) = self.courier.ask(Body::Leave(Leave {}), 1).await
        {
            warn!(%error, "could not leave");
        }
        tasks.cancel();
        tasks.join(STOP_LIMIT).await;
    }
}

/// Kills at once every command of the worker on `data_dir`, for the moment before the process ends.
pub fn kill_commands(data_dir: &Path) {
    executor::kill_everything(&work_directory(data_dir));
}

pub(super) fn work_directory(data_dir: &Path) -> PathBuf {
    data_dir.join("work")
}

/// One worker per directory. The lock is held until it is dropped.
pub(super) fn lock(directory: &Path) -> Result<Flock<File>, Error> {
    let path = directory.join("worker.lock");
    let open = std::fs::create_dir_all(directory)
        .and_then(|()| OpenOptions::new().create(true).truncate(false).write(true).open(&path));
    let file = open.map_err(|source| Error::File { path, action: "open", source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::InUse { path: directory.to_owned() })
}

async fn open(settings: Settings, tasks: &Tasks) -> Result<Life, Error> {
    let directory = settings.data_dir.clone();
    let card = directory.join("worker.json");
    files::remove(&card).map_err(|source| Error::File { path: card.clone(), action: "remove", source })?;
    let identity = Identity::load_or_create(&directory.join("worker.key"))?;
    let outbox = Outbox::open(&directory.join("outbox"))?;
    let (desk, workspace) = recover(&settings, &outbox, identity.id()).await?;
    let coordinators = Coordinators::new(&settings.coordinators, directory.join("coordinators.json"));
    let mesh = mesh::start(identity.clone(), mesh_options(&settings, &coordinators), tasks).await?;
    tasks.spawn_until_stopped("coordinators", coordinators.clone().keep(tasks.clone()));
    let (shelves, gauge) = (shelves(&settings, tasks)?, Gauge::new(directory));
    let belongings = Belongings { identity, outbox, desk, workspace, coordinators, shelves, card: Some(card), gauge };
    Ok(belongings.start(settings, mesh, tasks))
}

/// What a worker owns before anything of it runs.
pub(super) struct Belongings {
    pub identity: Identity,
    pub outbox: Outbox,
    pub desk: Desk,
    pub workspace: Workspace,
    pub coordinators: Coordinators,
    /// Inputs that are fetched, and outputs that stay here.
    pub shelves: (Arc<Inputs>, Keeping),
    /// Written when registered.
    pub card: Option<PathBuf>,
    pub gauge: Gauge,
}

impl Belongings {
    pub fn start(self, settings: Settings, (mesh, inbox): (Handle, Inbox), tasks: &Tasks) -> Life {
        let Self { identity, outbox, desk, workspace, coordinators, shelves, card, gauge } = self;
        info!(worker = %identity.id(), types = ?settings.capabilities.job_types, slots = settings.capabilities.max_parallel_jobs, "started");
        let courier = Courier { mesh: mesh.clone(), coordinators: coordinators.clone(), tasks: tasks.clone() };
        let standing = watch::Sender::new(Standing::Unregistered);
        let registrar = Registrar {
            courier: courier.clone(),
            register: register(&settings),
            worker: identity.id(),
            card,
            standing: standing.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn_until_stopped("registrar", registrar.run());
        let reporter = Reporter { courier: courier.clone(), outbox: outbox.clone(), standing: standing.clone() };
        tasks.spawn_until_stopped("reporter", reporter.run());

        let (done_sender, done) = mpsc::channel(DONE_MAX);
        let (inputs, keeping) = shelves;
        let keeper = Keeper::new(keeping.shelf.clone());
        let executor = Executor::new(settings.recipes.clone(), workspace).keeping(keeping.clone());
        let workshop = Arc::new(Workshop { executor, inputs, keeping, outbox, identity, done: done_sender });
        let registered = standing.subscribe();
        let parts = Parts { desk, workshop, coordinators, keeper, standing, mesh, gauge, tasks: tasks.clone() };
        let (leave, grace) = (settings.leave, settings.shutdown_grace);
        let intake = Intake::new(inbox, done, settings.tick);
        Life { agent: Agent::new(settings, parts), intake, courier, standing: registered, leave, grace }
    }
}

/// Opens what is kept of inputs and outputs.
pub(super) fn shelves(settings: &Settings, tasks: &Tasks) -> Result<(Arc<Inputs>, Keeping), Error> {
    let freight = &settings.freight;
    let open = |name: &str, bytes| {
        let path = settings.data_dir.join(name);
        Shelf::open(&path, bytes, freight.keep).map_err(|source| Error::File { path, action: "open", source })
    };
    // The largest input fits, whatever it takes of the disk beside its bytes.
    let cache_bytes = freight.cache_bytes.max(shelf::footprint(freight.inputs.max_bytes));
    let (cache, store) = (open("inputs", cache_bytes)?, open("outputs", freight.store_bytes)?);
    for shelf in [cache.clone(), store.clone()] {
        tasks.spawn_until_stopped("shelf", async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                shelf.sweep();
            }
        });
    }
    let keeping = Keeping { shelf: store, inline_max: freight.inline_bytes };
    Ok((Arc::new(Inputs::new(freight.inputs.clone(), cache)?), keeping))
}

/// Takes over what an earlier life left: reports to deliver, attempts that ended with it.
async fn recover(settings: &Settings, outbox: &Outbox, id: WorkerId) -> Result<(Desk, Workspace), Error> {
    let path = work_directory(&settings.data_dir);
    let opened = Workspace::open(&path);
    let (workspace, left) = opened.map_err(|source| Error::File { path, action: "open workspace", source })?;
    let mut desk = Desk::new(settings.capabilities.max_parallel_jobs);
    drop_forged(outbox, id).await;
    let reported = outbox.keys();
    for key in left.into_iter().filter(|key| !reported.contains(key)) {
        info!(job = %key.0, attempt = key.1, "interrupted");
        outbox.put(interrupted(key)).await;
    }
    for key in outbox.keys() {
        desk.remember(key);
    }
    Ok((desk, workspace))
}

/// Drops results that no coordinator takes from us: another key than ours has signed them, or none.
async fn drop_forged(outbox: &Outbox, id: WorkerId) {
    let reports = outbox.pick(usize::MAX, usize::MAX);
    let forged: Vec<Key> = reports.iter().filter(|report| !is_ours(report, id)).filter_map(key_of).collect();
    if !forged.is_empty() {
        warn!(reports = forged.len(), worker = %id, "outbox has results that this worker's key has not signed: dropped");
        outbox.answered(&forged).await;
    }
}

fn is_ours(report: &Report, id: WorkerId) -> bool {
    let Some((job, attempt)) = key_of(report) else { return false };
    let Some(report::Outcome::Output(output)) = &report.outcome else { return true };
    let digest = if output.kept_size == 0 { Some(Digest::of(&output.inline)) } else { wire::digest(&output.sha256) };
    let Some(digest) = digest else { return false };
    output.sha256 == digest.0.as_slice()
        && mesh::verify(id, &wire::signed_result(job, attempt, &digest), &output.signature)
}

fn key_of(report: &Report) -> Option<Key> {
    wire::parse_attempt(report.attempt.as_ref())
}

/// A worker listens nowhere: whoever speaks to it is a coordinator it dialled.
pub(super) fn mesh_options(settings: &Settings, coordinators: &Coordinators) -> mesh::Options {
    let configured = settings.coordinators.iter().map(|(_, address)| address.clone());
    mesh::Options {
        network: settings.network.clone(),
        role: Role::Worker,
        listen: vec![],
        external: vec![],
        persistent: configured.chain(coordinators.learned_addresses()).collect(),
        members: Default::default(),
        gossip: true,
        discovery: false,
        mdns: false,
        max_connections: CONNECTIONS_MAX,
        max_frame: FRAME_MAX,
    }
}

pub(super) fn register(settings: &Settings) -> Register {
    Register {
        capabilities: Some(wire::capabilities_to_proto(&settings.capabilities)),
        location: Some(wire::location_to_proto(&settings.location)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
