//! REST on every node.
//!
//! A request passes one place in each direction: [`router`] finds the route,
//! checks parameters, media type and body against what the route declares,
//! waits for the freshness that was asked for, and calls the handler; on the
//! way back it turns a [`Problem`] into a problem document and stamps the
//! headers that every response carries. A handler therefore sees valid
//! parameters only, and returns a value or a problem.
//!
//! Routes are data ([`route::Route`]), and `/openapi.json` is made from the same
//! data, so the document can not tell of another node than the one that runs.
//!
//! Invariants
//!
//! * Writes go through [`crate::consensus::Client`] and are answered when committed and applied here.
//! * Nothing from a client is read without a bound, in bytes and in time.
//! * No error shows a library's own text.
//!
//! Deliberately absent: authentication (the node binds loopback unless told
//! otherwise), TLS, and any knowledge of who leads beyond what the client says.

mod backup;
mod blockchain;
mod cluster;
mod consistency;
mod events;
mod health;
mod jobs;
mod kafka;
pub mod market;
mod members;
mod metrics;
mod network;
mod openapi;
mod page;
mod params;
mod problem;
mod request;
mod respond;
mod route;
mod router;
mod server;
mod session;
mod settlement;
mod status;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use jobs::receipt;
pub use problem::{Code, Problem};
pub use server::serve;
pub use session::is_older as is_older_session;

use crate::consensus;
use crate::domain::Timestamp;
use crate::mesh;
use crate::submission::{Callbacks, Door, decode, text};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Gauges;

/// What the handlers know of the node. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub client: consensus::Client,
    pub mesh: mesh::Handle,
    pub roster: mesh::Roster,
    /// Signs receipts.
    pub identity: mesh::Identity,
    pub info: NodeInfo,
    pub limits: Limits,
    pub backup: crate::backup::Desk,
    /// Name of the network, and with that of the cluster.
    pub network: String,
    /// `None`: disabled.
    pub kafka: Option<crate::kafka::Handle>,
    /// `None`: disabled.
    pub chain: Option<crate::chain::Handle>,
}

impl Context {
    /// Values of the node at this moment, for a scrape.
    pub fn gauges(&self) -> Gauges {
        metrics::gauges(self)
    }
}

#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub version: String,
    pub environment: String,
    pub started: Timestamp,
}

/// The bounds of the API, and what happens there.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections served at once. Beyond it new ones wait in the kernel's queue.
    pub connections: usize,
    /// Time for a request's head, which is also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// Time for a request's body. Beyond it: 408.
    pub body_timeout: Duration,
    /// Time for a client to take what was sent to it. Beyond it the connection is cut.
    pub stall: Duration,
    /// Bytes of a body. Beyond it: 413.
    pub body_bytes: usize,
    /// Bytes of the body of a batch. Beyond it: 413.
    pub batch_bytes: usize,
    /// Items of a batch. Beyond it: 422.
    pub batch_items: usize,
    /// What submissions are held to. Beyond it: 413 for the input, 422 for the rest.
    pub door: Door,
    /// Time for a write to be committed and applied. Beyond it: 503.
    pub write_deadline: Duration,
    /// Time for a read to become as fresh as asked. Beyond it: 503.
    pub read_deadline: Duration,
    /// Open event streams. Beyond it: 429.
    pub streams: usize,
    /// Requests waiting for a job to end. Beyond it: 429.
    pub waits: usize,
    /// Outputs on their way from workers to clients; each holds 1 MiB. Beyond it: 429.
    pub downloads: usize,
    /// Reads of the chain that requests wait for. Beyond it: 429.
    pub chain_reads: usize,
    /// Time for requests in flight when the node stops. Beyond it they are cut.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2_048,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            body_bytes: 1 << 20,
            batch_bytes: 64 << 20,
            batch_items: 10_000,
            door: Door { callbacks: Some(Callbacks { allow_private: false }), ..Door::from(256 << 10) },
            write_deadline: Duration::from_secs(10),
            read_deadline: Duration::from_secs(5),
            streams: 256,
            waits: 4_096,
            downloads: 32,
            chain_reads: 4,
            drain: Duration::from_millis(2_500),
        }
    }
}

/// What a handler gets: the context, and what the running server adds to it.
#[derive(Clone)]
struct Api {
    context: Arc<Context>,
    tasks: Tasks,
    streams: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    #[cfg_attr(not(feature = "chain"), expect(dead_code, reason = "without a client nothing is read"))]
    chain_reads: Arc<Semaphore>,
    contract: Arc<openapi::Contract>,
}

impl Api {
    fn new(context: Context, tasks: Tasks, routes: &[route::Route]) -> Self {
        Self {
            streams: Arc::new(Semaphore::new(context.limits.streams)),
            waits: Arc::new(Semaphore::new(context.limits.waits)),
            downloads: Arc::new(Semaphore::new(context.limits.downloads)),
            chain_reads: Arc::new(Semaphore::new(context.limits.chain_reads)),
            contract: Arc::new(openapi::Contract::of(routes, &context.info.version, &context.limits)),
            context: Arc::new(context),
            tasks,
        }
    }

    fn client(&self) -> &consensus::Client {
        &self.context.client
    }

    fn limits(&self) -> &Limits {
        &self.context.limits
    }

    /// Runs what takes long away from the threads that carry Raft.
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let working = self.tasks.spawn_blocking(work);
        working.await.map_err(|_| Problem::new(Code::Stopping, "this node takes no more requests"))
    }
}

/// Every route of the node.
fn routes(limits: &Limits) -> Vec<route::Route> {
    [
        health::routes(),
        status::routes(),
        metrics::routes(),
        jobs::routes(limits),
        workers::routes(),
        network::routes(),
        blockchain::routes(),
        kafka::routes(),
        cluster::routes(),
        members::routes(),
        backup::routes(),
        events::routes(),
        openapi::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
