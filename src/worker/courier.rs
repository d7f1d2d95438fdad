//! Asks a coordinator, any coordinator.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tokio::time::timeout;

use super::coordinators::Coordinators;
use crate::clock;
use crate::domain::PeerId;
use crate::mesh::{self, Error as MeshError, Handle, Lane};
use crate::tasks::Tasks;
use crate::wire;
use crate::wire::proto::mesh::v1::worker_request::Body;
use crate::wire::proto::mesh::v1::{ItemReply, WorkerReply, WorkerRequest};

/// Longer than a coordinator waits for its log.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// After so long another one is asked as well. One that was killed leaves its connections open, for all one sees.
const PATIENCE: Duration = Duration::from_secs(1);

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// After so many the pause no longer grows.
const FAILURES_MAX: u32 = 8;

#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no coordinator is connected")]
    Alone,
    #[error("coordinator {0} was not reached")]
    Failed(PeerId, #[source] MeshError),
    /// It does not want this request, or does not serve yet.
    #[error("coordinator {0} refused: {1}")]
    Refused(PeerId, String),
    #[error("coordinator {0} decided nothing: {1}")]
    Undecided(PeerId, String),
    #[error("coordinator {0} answered something else")]
    Malformed(PeerId),
}

#[derive(Clone)]
pub(super) struct Courier {
    pub mesh: Handle,
    pub coordinators: Coordinators,
    pub tasks: Tasks,
}

impl Courier {
    /// Asks one coordinator, which answers for each of `items`, and another one
    /// if that takes long: all that is asked may be asked twice. One that does
    /// not answer is avoided for a while, so asking again asks another.
    pub async fn ask(&self, body: Body, items: usize) -> Result<Vec<ItemReply>, NoAnswer> {
        let request = wire::encode(&WorkerRequest { body: Some(body) });
        let peer = self.next().ok_or(NoAnswer::Alone)?;
        let mut first = pin!(self.ask_peer(peer, request.clone(), items));
        if let Ok(answer) = timeout(PATIENCE, &mut first).await {
            return answer;
        }
        self.coordinators.avoid(peer, clock::instant());
        let Some(other) = self.next().filter(|other| *other != peer) else { return first.await };
        let mut second = pin!(self.ask_peer(other, request, items));
        tokio::select! {
            answer = &mut first => if answer.is_ok() { answer } else { second.await },
            answer = &mut second => if answer.is_ok() { answer } else { first.await },
        }
    }

    fn next(&self) -> Option<PeerId> {
        self.coordinators.choose(clock::instant(), |peer| self.mesh.is_connected(peer))
    }

    /// On a task of its own, to the end of its time: the mesh must learn that this peer does not answer, also when
    /// another one did meanwhile.
    async fn ask_peer(&self, peer: PeerId, request: Bytes, items: usize) -> Result<Vec<ItemReply>, NoAnswer> {
        let (courier, stopped) = (self.clone(), self.tasks.token().clone());
        let asked = self.tasks.spawn("ask", async move {
            let answer = tokio::select! {
                answer = courier.ask_once(peer, request, items) => answer,
                () = stopped.cancelled() => Err(NoAnswer::Alone),
            };
            if answer.is_err() {
                courier.coordinators.avoid(peer, clock::instant());
            }
            answer
        });
        asked.await.unwrap_or(Err(NoAnswer::Alone))
    }

    async fn ask_once(&self, peer: PeerId, request: Bytes, items: usize) -> Result<Vec<ItemReply>, NoAnswer> {
        let answer = match self.mesh.request(peer, Lane::Worker, request, ANSWER_LIMIT).await {
            Ok(answer) => answer,
            Err(MeshError::Refused { reason, .. }) if reason == mesh::BUSY => {
                return Err(NoAnswer::Undecided(peer, reason));
            }
            Err(MeshError::Refused { reason, .. }) => return Err(NoAnswer::Refused(peer, reason)),
            Err(error) => return Err(NoAnswer::Failed(peer, error)),
        };
        let reply: WorkerReply = wire::decode(answer).ok_or(NoAnswer::Malformed(peer))?;
        if !reply.error.is_empty() {
            return Err(NoAnswer::Undecided(peer, reply.error));
        }
        if reply.items.len() == items { Ok(reply.items) } else { Err(NoAnswer::Malformed(peer)) }
    }
}

/// Growing pauses, each somewhere between half and all of its length.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// It has been tried for some seconds.
    pub fn is_long(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    fn next(&mut self) -> Duration {
        let length = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(FAILURES_MAX)).min(BACKOFF_MAX);
        self.failures += 1;
        length.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}
