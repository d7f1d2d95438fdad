//! What only the leader does, for as long as it leads.
//!
//! [`Term`] is built on election, after everything committed before it was
//! applied, and stopped and joined on step-down. Its duties look at replicated
//! state, do one step, and record the outcome through the door with the term
//! they were elected in; a deposed leader's commands are refused there. No duty
//! keeps state that its successor would miss: what they remember (what was
//! announced, what was sent a moment ago) only saves repetition.
//!
//! A wake-up is a hint. Every duty also turns on its own period, so a lost hint
//! costs a tick and nothing else.

mod asking;
mod audition;
mod callbacks;
mod deadlines;
mod dispatch;
mod errand;
mod flights;
#[cfg(feature = "chain")]
mod follow;
mod hours;
#[cfg(feature = "kafka")]
mod ingest;
mod leases;
#[cfg(test)]
mod lone;
mod looks;
mod market;
#[cfg(feature = "kafka")]
mod publish;
mod quorum;
mod reconcile;
mod retention;
mod round;
mod sends;
#[cfg(feature = "chain")]
mod settle;
mod signed;
#[cfg(test)]
#[cfg(feature = "chain")]
#[cfg(feature = "kafka")]
pub(crate) mod sim;
mod verdicts;

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::chain;
use crate::consensus::{self, Client, Committed};
use crate::domain::command::Reply;
use crate::domain::{Command, WorkerId};
use crate::kafka;
use crate::mesh::{self, Roster};
use crate::submission::Door;
use crate::tasks::Tasks;
use crate::wire::proto::mesh::v1 as proto;

pub use callbacks::{
    Authority as CallbackAuthority, AuthorityError as CallbackAuthorityError, Callbacks, Key as CallbackKey,
    Settings as CallbackSettings, read_authorities as read_callback_authorities,
};
pub use retention::Retention;

/// Offers waiting for the market. Beyond it they are dropped: the jobs are announced again.
const OFFERS_MAX: usize = 1_024;

/// A commit that takes longer than this is not waited for; the next step looks again.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// How long the duties get to stop, each at its next await, when leadership ends.
const STOP_LIMIT: Duration = Duration::from_secs(6);

/// A duty's pause after an error.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Options {
    /// How long bids are collected when not everyone answers sooner.
    pub window: Duration,
    /// Longest pause between two looks for open jobs.
    pub tick: Duration,
    pub lease: Duration,
    /// Silence after which a worker is offline.
    pub offline_after: Duration,
    /// Jobs in one announcement.
    pub announced_max: usize,
    /// What jobs that come by Kafka are held to.
    pub door: Door,
    pub retention: Retention,
}

/// One worker's answer to an announcement.
#[derive(Clone, Debug)]
pub struct Offer {
    pub worker: WorkerId,
    pub bids: proto::Bids,
}

/// What the duties work with.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub mesh: mesh::Handle,
    pub roster: Roster,
    pub options: Options,
    /// Multiaddrs of the coordinators, told to workers in announcements.
    pub coordinators: Vec<String>,
    /// `None`: disabled.
    pub kafka: Option<kafka::Handle>,
    /// `None`: disabled.
    pub chain: Option<chain::Handle>,
    /// `None`: disabled.
    pub callbacks: Option<Callbacks>,
}

/// One leadership, from election to step-down.
pub struct Term {
    tasks: Tasks,
    offers: mpsc::Sender<Offer>,
    number: u64,
}

impl Term {
    /// Starts the duties.
    pub fn start(number: u64, context: Context, tasks: &Tasks) -> Self {
        let tasks = tasks.child();
        let (offers, inbox) = mpsc::channel(OFFERS_MAX);
        let reign = Reign { number, context };
        info!(term = number, "leading: duties start");
        tasks.spawn_until_stopped("market", market::run(reign.clone(), inbox));
        tasks.spawn_until_stopped("dispatch", dispatch::run(reign.clone()));
        drive(&tasks, &reign, verdicts::Verdicts::default());
        drive(&tasks, &reign, leases::Leases::default());
        drive(&tasks, &reign, deadlines::Deadlines);
        drive(&tasks, &reign, reconcile::Reconcile::default());
        #[cfg(feature = "kafka")]
        tasks.spawn_until_stopped("publish", publish::run(reign.clone()));
        #[cfg(feature = "kafka")]
        tasks.spawn_until_stopped("ingest", ingest::run(reign.clone(), tasks.clone()));
        #[cfg(feature = "chain")]
        tasks.spawn_until_stopped("settle", settle::run(reign.clone()));
        #[cfg(feature = "chain")]
        tasks.spawn_until_stopped("follow", follow::run(reign.clone()));
        tasks.spawn_until_stopped("callbacks", callbacks::run(reign.clone()));
        drive(&tasks, &reign, hours::Hours);
        drive(&tasks, &reign, retention::Keeper);
        Self { tasks, offers, number }
    }

    /// Where bids go while this node leads. Full: the bid is dropped.
    pub fn offers(&self) -> mpsc::Sender<Offer> {
        self.offers.clone()
    }

    /// Ends the duties and waits until they have ended.
    pub async fn stop(self) {
        self.tasks.cancel();
        if !self.tasks.join(STOP_LIMIT).await {
            warn!(term = self.number, "duties did not end in time");
        }
        info!(term = self.number, "no longer leading: duties stopped");
    }
}

/// What every duty is given: the term it acts in, and the world.
#[derive(Clone)]
struct Reign {
    number: u64,
    context: Context,
}

impl Reign {
    /// Commits in this term or not at all.
    async fn submit(&self, commands: Vec<Command>) -> Result<Committed, consensus::Error> {
        self.context.client.submit_as_leader(self.number, commands, COMMIT_LIMIT).await
    }

    /// Commits, and notes the refusals: a refused command lost a race, which is normal.
    async fn record(&self, duty: &'static str, commands: Vec<Command>) -> Result<Vec<Reply>, consensus::Error> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let committed = self.submit(commands).await?;
        for refusal in committed.replies.iter().filter_map(|reply| reply.as_ref().err()) {
            debug!(duty, code = refusal.code(), %refusal, "command refused");
        }
        Ok(committed.replies)
    }
}

/// What a journal entry is called everywhere outside. `network` names the cluster.
fn event_id(network: &str, seq: u64) -> String {
    format!("{network}-{seq}")
}

/// A piece of leader work that is repeated as long as the term lasts.
trait Duty: Send + 'static {
    const NAME: &'static str;

    fn period(&self, options: &Options) -> Duration;

    /// One idempotent step, from replicated state alone.
    fn step(&mut self, reign: &Reign) -> impl Future<Output = Result<(), consensus::Error>> + Send;
}

fn drive<D: Duty>(tasks: &Tasks, reign: &Reign, mut duty: D) {
    let reign = reign.clone();
    tasks.spawn_until_stopped(D::NAME, async move {
        loop {
            if let Err(error) = duty.step(&reign).await {
                debug!(duty = D::NAME, %error, "step failed, will be tried again");
                tokio::time::sleep(PAUSE).await;
            }
            tokio::time::sleep(duty.period(&reign.context.options)).await;
        }
    });
}
