//! Many workers in one process: what a cluster of a thousand workers does, seen on one machine.
//!
//! Each is the worker it claims to be: a key of its own, a mesh peer with
//! connections of its own to every coordinator, real registrations, signed bids,
//! heartbeats, leases and signed results, by the code that every worker runs.
//! What they share is the process: one runtime, one lock on the data directory,
//! one measurement of the machine. They run the built-in `noop` only.
//!
//! Absent on purpose: an outbox on disk and a list of coordinators that outlives
//! the process. They have no next life, and a thousand writer threads would
//! measure this process instead of the coordinators.

mod dishonest;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::args;
use super::coordinators::Coordinators;
use super::desk::Desk;
use super::executor::{Action, Keeping, Workspace};
use super::inputs::Inputs;
use super::machine::Gauge;
use super::outbox::Outbox;
use super::start::{Belongings, lock, mesh_options, shelves, work_directory};
use super::{Error, Settings};
use crate::domain::Digest;
use crate::mesh::{self, Identity};
use crate::tasks::Tasks;

pub use args::Dishonest;

/// Workers that join at once. More of them would not be faster: their handshakes outlast their time limits, and
/// begin again.
const JOINING_MAX: usize = 8;

/// One that has not joined by then does not hold up the others.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// A dishonest one says nothing of when it has.
const JOIN_DISHONEST: Duration = Duration::from_millis(200);

/// How often each worker looks at leases and heartbeats.
const TICK: Duration = Duration::from_millis(200);

/// How long all of them may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub workers: u32,
    /// Where the keys come from; without one, from the data directory's key.
    pub seed: Option<u64>,
    /// Prices are up to this much above the configured one.
    pub price_spread: u64,
    pub dishonest: Option<Dishonest>,
}

impl Plan {
    /// `None`: nothing is to be simulated.
    pub fn of(args: &args::Simulate) -> Option<Self> {
        let args::Simulate { workers, seed, price_spread, dishonest } = *args;
        Some(Self { workers: workers?, seed, price_spread, dishonest })
    }
}

/// Runs `plan.workers` workers until `stop`, each as `settings` say.
///
/// # Errors
///
/// What kept the first of them that failed from starting; then none runs.
pub async fn run(settings: Settings, plan: Plan, stop: CancellationToken) -> Result<(), Error> {
    let _lock = lock(&settings.data_dir)?;
    let tasks = Tasks::new();
    let crowd = Crowd::gather(settings, plan, &tasks)?;
    let started = crowd.start(&stop, &tasks).await;
    if started.is_err() {
        stop.cancel();
    }
    stop.cancelled().await;
    tasks.cancel();
    tasks.join(STOP_LIMIT).await;
    info!("stopped");
    started
}

/// What the workers have in common.
struct Crowd {
    settings: Settings,
    plan: Plan,
    secret: Digest,
    workspace: Workspace,
    shelves: (Arc<Inputs>, Keeping),
    gauge: Gauge,
}

impl Crowd {
    fn gather(mut settings: Settings, plan: Plan, tasks: &Tasks) -> Result<Self, Error> {
        settings.tick = TICK;
        settings.recipes.retain(|_, recipe| matches!(recipe.action, Action::Noop));
        settings.terms.retain(|kind, _| settings.recipes.contains_key(kind));
        settings.capabilities.job_types.retain(|kind| settings.recipes.contains_key(kind));
        let secret = match plan.seed {
            Some(seed) => Digest::of(&[b"ciro simulated workers ".as_slice(), &seed.to_be_bytes()].concat()),
            None => {
                let key = Identity::load_or_create(&settings.data_dir.join("worker.key"))?;
                Digest::of(&key.sign(b"ciro simulated workers"))
            }
        };
        let path = work_directory(&settings.data_dir);
        let opened = Workspace::open(&path);
        let (workspace, _) = opened.map_err(|source| Error::File { path, action: "open workspace", source })?;
        let (shelves, gauge) = (shelves(&settings, tasks)?, Gauge::new(settings.data_dir.clone()));
        Ok(Self { settings, plan, secret, workspace, shelves, gauge })
    }

    async fn start(&self, stop: &CancellationToken, tasks: &Tasks) -> Result<(), Error> {
        let joining = Arc::new(Semaphore::new(JOINING_MAX));
        for number in 0..self.plan.workers {
            let Some(Ok(place)) = stop.run_until_cancelled(joining.clone().acquire_owned()).await else {
                return Ok(());
            };
            let joined = self.start_one(number, stop, tasks).await?;
            tasks.spawn("join", async move {
                // Whether it has joined or not, others may begin.
                let _ = tokio::time::timeout(JOIN_LIMIT, joined).await;
                drop(place);
            });
        }
        info!(workers = self.plan.workers, "all simulated workers have started");
        Ok(())
    }

    /// The future completes when the worker has joined.
    async fn start_one(
        &self,
        number: u32,
        stop: &CancellationToken,
        tasks: &Tasks,
    ) -> Result<BoxFuture<'static, ()>, Error> {
        let identity = self.identity(number);
        let own = Tasks::new();
        let coordinators = Coordinators::new(&self.settings.coordinators, PathBuf::new());
        let options = mesh_options(&self.settings, &coordinators);
        let mesh = mesh::start_light(identity.clone(), options, &own).await?;
        let stop = stop.clone();
        if let Some(kind) = self.plan.dishonest {
            let liar = dishonest::Liar::new(kind, identity, mesh, self.settings.clone());
            tasks.spawn("dishonest worker", async move {
                stop.run_until_cancelled(liar.live()).await;
                own.cancel();
                own.join(STOP_LIMIT).await;
            });
            return Ok(tokio::time::sleep(JOIN_DISHONEST).boxed());
        }
        let settings = self.settings_of(number);
        let belongings = Belongings {
            identity,
            outbox: Outbox::in_memory(),
            desk: Desk::new(settings.capabilities.max_parallel_jobs),
            workspace: self.workspace.clone(),
            coordinators,
            shelves: self.shelves.clone(),
            card: None,
            gauge: self.gauge.clone(),
        };
        let life = belongings.start(settings, mesh, &own);
        let registered = life.registered().boxed();
        tasks.spawn("simulated worker", async move { life.live(&stop, &own).await });
        Ok(registered)
    }

    /// The same for the same secret.
    fn identity(&self, number: u32) -> Identity {
        Identity::from_secret(self.draw(b"key", number).0)
    }

    fn settings_of(&self, number: u32) -> Settings {
        let mut settings = self.settings.clone();
        let extra = self.extra(number);
        for terms in settings.terms.values_mut() {
            terms.price.0 = terms.price.0.saturating_add(extra);
        }
        settings
    }

    fn extra(&self, number: u32) -> u128 {
        let [drawn, ..] = self.draw(b"price", number).0;
        u128::from(self.plan.price_spread) * u128::from(drawn) / 255
    }

    fn draw(&self, what: &[u8], number: u32) -> Digest {
        Digest::of(&[&self.secret.0, what, &number.to_be_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(seed: Option<u64>) -> (tempfile::TempDir, Crowd) {
        let directory = tempfile::tempdir().unwrap();
        let layered = crate::worker::config::Layered::read(
            None,
            [],
            vec![
                crate::worker::config::Flag {
                    name: "--coordinator",
                    key: "network.coordinators",
                    value: toml::Value::Array(vec![
                        format!("/ip4/127.0.0.1/tcp/1/p2p/{}", Identity::from_secret([1; 32]).id()).into(),
                    ]),
                },
                crate::worker::config::Flag { name: "--noop", key: "jobs.noop.builtin", value: "noop".into() },
            ],
        );
        let settings = Settings::check(&layered.unwrap()).unwrap();
        let settings = Settings { data_dir: directory.path().to_owned(), ..settings };
        let plan = Plan { workers: 3, seed, price_spread: 100, dishonest: None };
        (directory, Crowd::gather(settings, plan, &Tasks::new()).unwrap())
    }

    #[tokio::test]
    async fn every_worker_has_a_key_of_its_own_and_the_same_one_next_time() {
        let ((_kept, one), (_also, other)) = (crowd(Some(7)), crowd(Some(7)));
        assert_ne!(one.identity(0).id(), one.identity(1).id());
        assert_eq!(one.identity(2).id(), other.identity(2).id());
        let (_kept, stranger) = crowd(None);
        assert_ne!(stranger.identity(2).id(), one.identity(2).id());
        let again = Crowd::gather(stranger.settings.clone(), stranger.plan, &Tasks::new()).unwrap();
        assert_eq!(stranger.identity(2).id(), again.identity(2).id(), "the key in the directory is kept");
    }

    #[tokio::test]
    async fn they_run_noop_and_nothing_else_at_prices_of_their_own() {
        let (_kept, crowd) = crowd(Some(1));
        let settings = crowd.settings_of(0);
        assert_eq!(settings.capabilities.job_types, ["noop"]);
        assert_eq!(settings.recipes.keys().collect::<Vec<_>>(), ["noop"]);
        let prices: std::collections::BTreeSet<u128> = (0..50).map(|number| crowd.extra(number)).collect();
        assert!(prices.len() > 20 && prices.iter().all(|price| *price <= 100), "{prices:?}");
    }
}
