//! Requests from peers.
//!
//! Each stream a peer opens has a task that reads requests and writes answers
//! as they come. What a stream may have in the works is bounded: at the bound
//! we stop reading, and the peer's own flow control does the rest.
//!
//! Requests go to the one reader of [`super::Inbox`] through a queue per lane,
//! emptied in order of urgency. A full queue makes members wait; workers are
//! told that we are busy.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{Either, select};
use libp2p::Stream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Lane;
use super::admission::Bucket;
use super::event_loop::Command;
use super::frame::{self, Head, Kind};
use super::shared::{Shared, count};
use super::streams::Inbound;
use crate::clock;
use crate::domain::PeerId;
use crate::tasks::Tasks;

/// Requests of one lane that wait for the reader of the inbox.
const LANE_QUEUE: usize = 256;

/// Requests handed out ahead of the reader. Small, so that urgency still counts.
pub(super) const INBOX_QUEUE: usize = 32;

/// Streams one peer may have open on one lane. A newer one ends the oldest,
/// which is what a peer that lost its connection needs.
const STREAMS_PER_PEER: usize = 2;

/// A worker's requests per second and stream; beyond this we read more slowly. Reports come hundreds to a request.
const WORKER_RATE: f64 = 500.0;
const WORKER_BURST: f64 = 1_000.0;

/// The same for nodes that want to be members.
const JOIN_RATE: f64 = 5.0;
const JOIN_BURST: f64 = 10.0;

/// The refusal of a request for which the queue has no room: asking again later may help.
pub const BUSY: &str = "busy";

/// Longest reason given with a refusal, in bytes.
const REASON_MAX: usize = 512;

const BUFFER: usize = 64 * 1024;

/// A request from an authenticated peer. Dropping `reply` answers with an error.
pub struct Request {
    pub peer: PeerId,
    pub lane: Lane,
    pub body: Bytes,
    pub reply: Reply,
}

/// The way back. Dropped unused, the caller gets [`super::Error::Lost`] at once.
pub struct Reply {
    route: Option<Route>,
}

struct Route {
    id: u64,
    limit: usize,
    answers: mpsc::Sender<Answer>,
    permit: OwnedSemaphorePermit,
}

struct Answer {
    id: u64,
    kind: Kind,
    body: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl Reply {
    /// Answers. With a body over the lane's limit the caller gets [`super::Error::Lost`]: what it asked for is done.
    pub fn send(mut self, body: Bytes) {
        let limit = self.route.as_ref().map_or(0, |route| route.limit);
        if body.len() > limit {
            warn!(bytes = body.len(), limit, "answer is too large to be sent");
            self.answer(Kind::Dropped, Bytes::new());
        } else {
            self.answer(Kind::Answer, body);
        }
    }

    /// The caller gets [`super::Error::Refused`].
    pub fn refuse(mut self, reason: impl Into<String>) {
        let mut reason: String = reason.into();
        let mut end = reason.len().min(REASON_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        self.answer(Kind::Refusal, reason.into());
    }

    fn answer(&mut self, kind: Kind, body: Bytes) {
        if let Some(Route { id, answers, permit, .. }) = self.route.take() {
            // There is a slot per permit; it fails only when the stream has ended.
            let _ = answers.try_send(Answer { id, kind, body, _permit: permit });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Kind::Dropped, Bytes::new());
    }
}

/// The queue of each lane, on its way to the inbox.
pub(super) type Queues = HashMap<Lane, mpsc::Sender<Request>>;

/// Lanes by urgency: a late heartbeat costs an election, a late bid nothing.
const URGENCY: [Lane; 8] =
    [Lane::Control, Lane::Append, Lane::Forward, Lane::Relay, Lane::Snapshot, Lane::Worker, Lane::Fetch, Lane::Join];

/// Makes the queues and starts the task that merges them, most urgent first.
pub(super) fn queues(tasks: &Tasks, inbox: mpsc::Sender<Request>) -> Queues {
    let made = URGENCY.map(|lane| {
        let (sender, receiver) = mpsc::channel(LANE_QUEUE);
        (lane, sender, receiver)
    });
    let senders = made.iter().map(|(lane, sender, _)| (*lane, sender.clone())).collect();
    tasks.spawn_until_stopped("mesh-inbox", merge(made.map(|(_, _, receiver)| receiver), inbox));
    senders
}

async fn merge(lanes: [mpsc::Receiver<Request>; URGENCY.len()], inbox: mpsc::Sender<Request>) {
    let [mut control, mut append, mut forward, mut relay, mut snapshot, mut worker, mut fetch, mut join] = lanes;
    while let Ok(slot) = inbox.reserve().await {
        let request = tokio::select! {
            biased;
            Some(request) = control.recv() => request,
            Some(request) = append.recv() => request,
            Some(request) = forward.recv() => request,
            Some(request) = relay.recv() => request,
            Some(request) = snapshot.recv() => request,
            Some(request) = worker.recv() => request,
            Some(request) = fetch.recv() => request,
            Some(request) = join.recv() => request,
            else => return,
        };
        slot.send(request);
    }
}

/// Accepts streams; it does nothing else, so none waits.
pub(super) struct Acceptor {
    pub shared: Arc<Shared>,
    pub commands: mpsc::Sender<Command>,
    pub tasks: Tasks,
    pub queues: Queues,
    /// Streams in use, oldest first. A cancelled token is a stream that ended.
    pub open: HashMap<(PeerId, Lane), VecDeque<CancellationToken>>,
}

impl Acceptor {
    pub async fn run(mut self, mut accepted: mpsc::Receiver<Inbound>) {
        for n in 1u64.. {
            let Some(inbound) = accepted.recv().await else { return };
            if n.is_multiple_of(256) {
                self.open.retain(|_, tokens| tokens.iter().any(|token| !token.is_cancelled()));
            }
            let ended = self.register(inbound.peer, inbound.lane);
            let Some(queue) = self.queues.get(&inbound.lane).cloned() else { continue };
            let server = Server {
                shared: self.shared.clone(),
                commands: self.commands.clone(),
                queue,
                peer: inbound.peer,
                lane: inbound.lane,
            };
            self.tasks.spawn_until_stopped("mesh-stream", server.run(inbound.stream, ended));
        }
    }

    fn register(&mut self, peer: PeerId, lane: Lane) -> CancellationToken {
        let tokens = self.open.entry((peer, lane)).or_default();
        tokens.retain(|token| !token.is_cancelled());
        if tokens.len() >= STREAMS_PER_PEER
            && let Some(oldest) = tokens.pop_front()
        {
            oldest.cancel();
        }
        let token = CancellationToken::new();
        tokens.push_back(token.clone());
        token
    }
}

/// One inbound stream.
struct Server {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    queue: mpsc::Sender<Request>,
    peer: PeerId,
    lane: Lane,
}

impl Server {
    async fn run(self, stream: Stream, ended: CancellationToken) {
        let _ended = ended.clone().drop_guard();
        let (reader, writer) = tokio::io::split(stream.compat());
        let in_flight = match self.lane {
            Lane::Worker => 64,
            // Small questions with large answers.
            Lane::Fetch => 8,
            // One question at a time, and it is repeated for as long as it takes.
            Lane::Join => 2,
            _ => 256,
        };
        let (answers, answered) = mpsc::channel(in_flight);
        let reading = self.read_requests(BufReader::with_capacity(BUFFER, reader), answers, in_flight);
        let writing = self.write_answers(BufWriter::with_capacity(BUFFER, writer), answered);
        let both = async {
            match select(std::pin::pin!(reading), std::pin::pin!(writing)).await {
                Either::Left((end, _)) | Either::Right((end, _)) => end,
            }
        };
        let Some(end) = ended.run_until_cancelled(both).await else { return };
        debug!(peer = %self.peer, lane = self.lane.name(), ?end, "inbound stream ended");
        if end.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            self.offend("invalid_frame");
        }
    }

    async fn read_requests(
        &self,
        mut reader: BufReader<impl AsyncRead + Unpin>,
        answers: mpsc::Sender<Answer>,
        in_flight: usize,
    ) -> io::Result<()> {
        let permits = Arc::new(Semaphore::new(in_flight));
        let limit = self.shared.frame_max(self.lane);
        let (rate, burst) = if self.lane == Lane::Join { (JOIN_RATE, JOIN_BURST) } else { (WORKER_RATE, WORKER_BURST) };
        let mut bucket = Bucket::full(burst, clock::instant());
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return Ok(()) };
            let Some(head) = frame::read_head(&mut reader, limit).await? else { return Ok(()) };
            if head.kind != Kind::Request {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if matches!(self.lane, Lane::Worker | Lane::Join) {
                tokio::time::sleep(bucket.delay(clock::instant(), rate, burst)).await;
            }
            let route = Route { id: head.id, limit, answers: answers.clone(), permit };
            self.take(&mut reader, head, Reply { route: Some(route) }).await?;
        }
    }

    /// Reads the rest of a request and hands it on, or refuses it.
    async fn take(&self, reader: &mut BufReader<impl AsyncRead + Unpin>, head: Head, reply: Reply) -> io::Result<()> {
        let counters = self.shared.lane(self.lane);
        count(&counters.requests_in, 1);
        count(&counters.bytes_in, head.len);
        if !self.shared.serves(self.peer, self.lane) {
            count(&counters.refused, 1);
            frame::skip_body(reader, head.len).await?;
            reply.refuse("not a member of this cluster");
            self.offend("not_a_member");
            return Ok(());
        }
        let body = frame::read_body(reader, head.len).await?;
        let request = Request { peer: self.peer, lane: self.lane, body, reply };
        if !matches!(self.lane, Lane::Worker | Lane::Join) {
            return self.queue.send(request).await.map_err(|_| io::ErrorKind::BrokenPipe.into());
        }
        match self.queue.try_send(request) {
            Ok(()) => self.shared.note_useful(self.peer),
            Err(error) => {
                count(&counters.refused, 1);
                error.into_inner().reply.refuse(BUSY);
            }
        }
        Ok(())
    }

    async fn write_answers(
        &self,
        mut writer: BufWriter<impl AsyncWrite + Unpin>,
        mut answered: mpsc::Receiver<Answer>,
    ) -> io::Result<()> {
        loop {
            let answer = match answered.try_recv() {
                Ok(answer) => answer,
                Err(_) => {
                    writer.flush().await?;
                    let Some(answer) = answered.recv().await else { return Ok(()) };
                    answer
                }
            };
            count(&self.shared.lane(self.lane).bytes_out, answer.body.len());
            frame::write(&mut writer, answer.id, answer.kind, &answer.body).await?;
        }
    }

    fn offend(&self, reason: &'static str) {
        if self.shared.offend(self.peer, reason) {
            // If the loop is too busy to hear it, the next offence says it again.
            let _ = self.commands.try_send(Command::Block(self.peer));
        }
    }
}
