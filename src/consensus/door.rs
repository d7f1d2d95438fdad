//! The one way into the log: a bounded queue and a pipeline of batches.
//!
//! Commands that wait together leave together: on the leader as one record, on
//! a follower as one request to the leader. Several batches are in flight, so
//! that disk and network overlap; what arrives meanwhile makes the next batch.
//!
//! Invariants
//!
//! * A job is answered `NoLeader` or `Overloaded` only if it certainly had no
//!   effect, and is sent again only then. Everything else is `Unknown`.
//! * At the bound ([`super::Options::inflight`] commands, or [`BYTES_MAX`]) new
//!   jobs are refused at once; a job keeps its share until its outcome is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::clock;
use crate::tasks::Tasks;
use crate::telemetry::request;

use super::codec::Encoded;
use super::core::{Core, Route};
use super::deliver;
use super::{Committed, Error};

/// Bytes of commands in one record. A single larger command goes alone.
pub(super) const RECORD_BYTES: usize = 1 << 20;

/// Commands in one record.
pub(super) const RECORD_COMMANDS: usize = 8192;

/// Bytes of commands waiting or in flight: what the queue may cost in memory.
const BYTES_MAX: usize = 256 << 20;

/// Batches in flight. More overlap fsync and round trips better, fewer make larger records.
const PIPELINE: usize = 8;

/// Waited beyond a job's limit, so that who delivers it can still say what became of it.
const GRACE: Duration = Duration::from_millis(100);

/// Where a job may be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Anywhere,
    /// By this node, if it leads: the job has made its one hop.
    Here,
    /// By this node, if it leads in this term.
    Term(u64),
}

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;

/// Commands to propose together.
pub(super) struct Load {
    pub commands: Encoded,
    /// New jobs are among them: these are what a full disk refuses.
    pub submits: bool,
}

/// Commands on their way, and who waits for the outcome.
pub(super) struct Job {
    pub commands: Encoded,
    pub submits: bool,
    /// The client's request that they came with.
    pub request: Option<Arc<str>>,
    pub scope: Scope,
    pub deadline: Instant,
    state: Arc<AtomicU8>,
    reply: oneshot::Sender<Result<Committed, Error>>,
    _share: Share,
}

/// Of the commands and of the bytes that may be on their way.
type Share = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Job {
    /// From here on the job may take effect. False if nobody waits for it any more.
    pub fn claim(&self) -> bool {
        self.state.compare_exchange(QUEUED, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// It certainly took no effect, and may be sent again.
    pub fn release(&self) {
        let _ = self.state.compare_exchange(SENT, QUEUED, Ordering::AcqRel, Ordering::Acquire);
    }

    pub fn answer(self, result: Result<Committed, Error>) {
        // Nobody listens if the caller's time is up.
        let _ = self.reply.send(result);
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Door {
    core: Arc<Core>,
    queue: mpsc::Sender<Job>,
    shares: Arc<Semaphore>,
    /// KiB.
    room: Arc<Semaphore>,
    capacity: usize,
}

impl Door {
    pub fn open(core: Arc<Core>, tasks: &Tasks) -> Self {
        let capacity = core.options.inflight.clamp(1, 1 << 20);
        let (queue, jobs) = mpsc::channel(capacity);
        tasks.spawn_until_stopped("door", batch(core.clone(), jobs, tasks.clone()));
        let room = Arc::new(Semaphore::new(BYTES_MAX >> 10));
        Self { core, queue, shares: Arc::new(Semaphore::new(capacity)), room, capacity }
    }

    /// The most commands that one job may hold.
    pub fn job_commands_max(&self) -> usize {
        self.capacity.min(RECORD_COMMANDS)
    }

    /// Queues a job and waits for its outcome. With `patient`, waits for room too.
    pub async fn submit(&self, load: Load, scope: Scope, limit: Duration, patient: bool) -> Result<Committed, Error> {
        let begun = clock::instant();
        let Load { commands, submits } = load;
        let share = self.share(&commands, limit, patient).await?;
        let (reply, answer) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(QUEUED));
        let deadline = begun + limit;
        let request = request::current();
        let job = Job { commands, submits, request, scope, deadline, state: state.clone(), reply, _share: share };
        self.queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Error::Stopping,
        })?;
        match timeout(limit.saturating_sub(begun.elapsed()) + GRACE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) if cancel(&state) => Err(Error::Stopping),
            Ok(Err(_)) => Err(Error::Unknown("the node is stopping".into())),
            Err(_) if cancel(&state) => Err(self.not_reached()),
            Err(_) => Err(Error::Unknown(format!("no outcome within {} ms", limit.as_millis()))),
        }
    }

    async fn share(&self, commands: &Encoded, limit: Duration, patient: bool) -> Result<Share, Error> {
        let (shares, room) = (self.shares.clone(), self.room.clone());
        let kib = u32::try_from(commands.bytes.0.len() >> 10).unwrap_or(u32::MAX) + 1;
        if patient {
            let both = async {
                let share = shares.acquire_many_owned(commands.count).await?;
                Ok((share, room.acquire_many_owned(kib).await?))
            };
            let both: Result<Share, AcquireError> = timeout(limit, both).await.map_err(|_| Error::Overloaded)?;
            return both.map_err(|_| Error::Stopping);
        }
        let share = shares.try_acquire_many_owned(commands.count).map_err(|_| Error::Overloaded)?;
        Ok((share, room.try_acquire_many_owned(kib).map_err(|_| Error::Overloaded)?))
    }

    /// Why a job never left the queue.
    fn not_reached(&self) -> Error {
        if self.core.has_leader() { Error::Overloaded } else { Error::NoLeader }
    }

    /// Whether this node could propose for `scope` now.
    pub fn admits(&self, scope: Scope) -> bool {
        scope.allows(self.core.route())
    }
}

impl Scope {
    pub fn allows(self, route: Route) -> bool {
        match (self, route) {
            (Self::Anywhere, _) | (Self::Here, Route::Here { .. }) => true,
            (Self::Term(wanted), Route::Here { term }) => wanted == term,
            _ => false,
        }
    }
}

fn cancel(state: &AtomicU8) -> bool {
    state.compare_exchange(QUEUED, CANCELLED, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Packs what waits, and sends it off.
async fn batch(core: Arc<Core>, mut jobs: mpsc::Receiver<Job>, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(PIPELINE));
    let mut next = jobs.recv().await;
    while let Some(first) = next.take() {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (mut commands, mut bytes) = (first.commands.count as usize, first.commands.bytes.0.len());
        let mut batch = vec![first];
        while let Ok(job) = jobs.try_recv() {
            commands += job.commands.count as usize;
            bytes += job.commands.bytes.0.len();
            if commands > RECORD_COMMANDS || bytes > RECORD_BYTES {
                next = Some(job);
                break;
            }
            batch.push(job);
        }
        let core = core.clone();
        tasks.spawn_until_stopped("deliver", async move {
            deliver::deliver(&core, batch).await;
            drop(slot);
        });
        if next.is_none() {
            next = jobs.recv().await;
        }
    }
}
