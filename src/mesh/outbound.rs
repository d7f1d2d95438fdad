//! Requests to peers.
//!
//! Each (peer, lane) has one task with one stream, made by the first request.
//! It writes requests as they come, flushes when none waits, and matches
//! answers, in whatever order they come, by request id.
//!
//! Invariant: a request whose ticket was not drawn was not sent. The writer
//! draws the ticket just before it writes; whoever gives up cancels it. So
//! [`Error::Unreachable`] is certain, and everything after the draw that has no
//! answer is [`Error::Timeout`] or [`Error::Lost`].

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{Either, select};
use libp2p::Stream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tracing::debug;

use super::event_loop::Command;
use super::frame::{self, Kind};
use super::shared::{Shared, count};
use super::streams::{Open, OpenError};
use super::{Error, Lane};
use crate::clock;
use crate::domain::PeerId;
use crate::tasks::Tasks;

/// Requests that wait for their turn on one lane to one peer. Beyond this the caller waits.
const QUEUE: usize = 256;

/// Requests without an answer on one stream. Beyond this no more are sent.
const PENDING_MAX: usize = 4_096;

/// Lanes to peers in use at once. Beyond this a new one is not opened.
const LANES_MAX: usize = 65_536;

/// A lane without a stream and without requests ends after this.
const IDLE: Duration = Duration::from_secs(120);

/// Waiting for a stream, a dial included.
const OPEN_WAIT: Duration = Duration::from_secs(3);

/// A stream that is silent this long while requests time out is given up.
const SILENCE: Duration = Duration::from_secs(2);

/// Pauses between streams that ended at once.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

const BUFFER: usize = 64 * 1024;

type Answer = Result<Bytes, String>;

type Queues = HashMap<(PeerId, Lane), Arc<Queue>>;

#[derive(Clone)]
pub(super) struct Lanes {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    tasks: Tasks,
    open: Arc<Mutex<Queues>>,
}

/// The callers' end of a lane to a peer.
struct Queue {
    sender: mpsc::Sender<Outgoing>,
    /// When anything last came in on the stream.
    heard: Mutex<Instant>,
    /// Asks the task to give its stream up.
    reset: Notify,
}

/// A request on its way. Dropping it fails the caller.
struct Outgoing {
    body: Bytes,
    ticket: Ticket,
    answer: oneshot::Sender<Answer>,
}

/// Decides once whether a request is sent or given up.
#[derive(Clone, Default)]
struct Ticket(Arc<AtomicU8>);

impl Ticket {
    const WAITING: u8 = 0;
    const DRAWN: u8 = 1;
    const CANCELLED: u8 = 2;

    /// True if the request must be sent now.
    fn draw(&self) -> bool {
        self.0.compare_exchange(Self::WAITING, Self::DRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// True if the request was not sent, and will not be.
    fn cancel(&self) -> bool {
        self.0.compare_exchange(Self::WAITING, Self::CANCELLED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Lanes {
    pub fn new(shared: Arc<Shared>, commands: mpsc::Sender<Command>, tasks: Tasks) -> Self {
        Self { shared, commands, tasks, open: Arc::default() }
    }

    /// See [`super::Handle::request`].
    pub async fn request(&self, peer: PeerId, lane: Lane, body: Bytes, limit: Duration) -> Result<Bytes, Error> {
        let max = self.shared.frame_max(lane);
        if body.len() > max {
            return Err(Error::TooLarge { size: body.len(), limit: max });
        }
        let result = self.exchange(peer, lane, body, limit).await;
        match &result {
            Ok(_) => {}
            Err(Error::Refused { .. }) => count(&self.shared.lane(lane).refused, 1),
            Err(_) => count(&self.shared.lane(lane).errors, 1),
        }
        result
    }

    async fn exchange(&self, peer: PeerId, lane: Lane, body: Bytes, limit: Duration) -> Result<Bytes, Error> {
        let ticket = Ticket::default();
        let (answer, answered) = oneshot::channel();
        let outgoing = Outgoing { body, ticket: ticket.clone(), answer };
        let mut queue = None;
        let exchange = async {
            queue = self.enqueue(peer, lane, outgoing).await;
            answered.await
        };
        let end = timeout(limit, exchange).await;
        match end {
            Ok(Ok(Ok(body))) => Ok(body),
            Ok(Ok(Err(reason))) => Err(Error::Refused { peer, reason }),
            Ok(Err(_)) if ticket.cancel() => Err(Error::Unreachable(peer)),
            Ok(Err(_)) => Err(Error::Lost(peer)),
            Err(_) => {
                // Also of a request that was not even sent: a stream that takes nothing any more is as dead.
                if let Some(queue) = queue {
                    queue.doubt();
                }
                Err(if ticket.cancel() { Error::Unreachable(peer) } else { Error::Timeout(peer) })
            }
        }
    }

    /// Hands the request to the lane's task, or drops it if there can be none.
    async fn enqueue(&self, peer: PeerId, lane: Lane, mut outgoing: Outgoing) -> Option<Arc<Queue>> {
        // A task that ends for idleness may close its queue between our lookup and our send.
        for _ in 0..2 {
            let queue = self.queue(peer, lane)?;
            match queue.sender.send(outgoing).await {
                Ok(()) => return Some(queue),
                Err(mpsc::error::SendError(returned)) => outgoing = returned,
            }
        }
        None
    }

    fn queue(&self, peer: PeerId, lane: Lane) -> Option<Arc<Queue>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = open.get(&(peer, lane)).filter(|queue| !queue.sender.is_closed()) {
            return Some(queue.clone());
        }
        if open.len() >= LANES_MAX || self.tasks.token().is_cancelled() {
            return None;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let queue = Arc::new(Queue { sender, heard: Mutex::new(clock::instant()), reset: Notify::new() });
        open.insert((peer, lane), queue.clone());
        let task = Task { lanes: self.clone(), peer, lane, queue: queue.clone(), receiver };
        self.tasks.spawn_until_stopped("mesh-lane", task.run());
        Some(queue)
    }
}

impl Queue {
    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = clock::instant();
    }

    /// A request timed out: if the stream has been silent for long, it is dead.
    fn doubt(&self) {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if clock::instant().saturating_duration_since(heard) > SILENCE {
            self.reset.notify_one();
        }
    }
}

/// One lane to one peer.
struct Task {
    lanes: Lanes,
    peer: PeerId,
    lane: Lane,
    queue: Arc<Queue>,
    receiver: mpsc::Receiver<Outgoing>,
}

impl Task {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        while let Some(first) = self.first().await {
            let stream = match self.open().await {
                Ok(stream) => stream,
                Err(error) => {
                    self.fail(first, error);
                    continue;
                }
            };
            let opened = clock::instant();
            let end = self.converse(stream, first).await;
            debug!(peer = %self.peer, lane = self.lane.name(), ?end, "stream ended");
            if clock::instant().saturating_duration_since(opened) > Duration::from_secs(1) {
                pause = PAUSE_MIN;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// The next request, or `None` after long idleness, with the lane closed.
    async fn first(&mut self) -> Option<Outgoing> {
        loop {
            match timeout(IDLE, self.receiver.recv()).await {
                Ok(outgoing) => return outgoing,
                Err(_) => {
                    let mut open = self.lanes.open.lock().unwrap_or_else(PoisonError::into_inner);
                    if self.receiver.is_empty() {
                        self.receiver.close();
                        open.remove(&(self.peer, self.lane));
                    }
                }
            }
        }
    }

    async fn open(&self) -> Result<Stream, OpenError> {
        let (reply, opened) = oneshot::channel();
        let open = Command::Open(Open { peer: self.peer, lane: self.lane, reply });
        let attempt = async {
            self.lanes.commands.send(open).await.map_err(|_| OpenError::NotConnected)?;
            opened.await.unwrap_or(Err(OpenError::Broken))
        };
        timeout(OPEN_WAIT, attempt).await.unwrap_or(Err(OpenError::Broken))
    }

    /// Fails what waits, since there is no stream for it.
    fn fail(&mut self, first: Outgoing, error: OpenError) {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            if error == OpenError::Unsupported && outgoing.ticket.draw() {
                let _ = outgoing.answer.send(Err("it does not serve this lane".to_owned()));
            }
            next = self.receiver.try_recv().ok();
        }
    }

    /// Exchanges requests and answers until the stream ends.
    async fn converse(&mut self, stream: Stream, first: Outgoing) -> io::Result<()> {
        let (reader, writer) = tokio::io::split(stream.compat());
        let pending = Pending::default();
        let queue = self.queue.clone();
        queue.hear();
        // A doubt about the stream before this one.
        let _ = queue.reset.notified().now_or_never();
        let shared = self.lanes.shared.clone();
        let limit = shared.frame_max(self.lane);
        let reading =
            read_answers(BufReader::with_capacity(BUFFER, reader), &pending, &shared, self.lane, limit, &queue);
        let writing = write_requests(
            BufWriter::with_capacity(BUFFER, writer),
            &pending,
            &shared,
            self.lane,
            first,
            &mut self.receiver,
        );
        let both = async {
            match select(std::pin::pin!(reading), std::pin::pin!(writing)).await {
                Either::Left((end, _)) | Either::Right((end, _)) => end,
            }
        };
        tokio::select! {
            end = both => end,
            () = queue.reset.notified() => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Requests that were sent and have no answer yet.
#[derive(Default)]
struct Pending {
    answers: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    room: Notify,
}

impl Pending {
    /// Waits until there is room, forgetting requests whose callers gave up.
    async fn wait_for_room(&self) {
        loop {
            {
                let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                if answers.len() < PENDING_MAX {
                    return;
                }
                answers.retain(|_, answer| !answer.is_closed());
                if answers.len() < PENDING_MAX {
                    return;
                }
            }
            let _ = timeout(Duration::from_millis(100), self.room.notified()).await;
        }
    }

    fn insert(&self, id: u64, answer: oneshot::Sender<Answer>) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(id, answer);
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Answer>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= PENDING_MAX {
            self.room.notify_one();
        }
        answers.remove(&id)
    }
}

async fn write_requests(
    mut writer: BufWriter<impl AsyncWrite + Unpin>,
    pending: &Pending,
    shared: &Shared,
    lane: Lane,
    first: Outgoing,
    receiver: &mut mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let counters = shared.lane(lane);
    let mut next = Some(first);
    for id in 1u64.. {
        let outgoing = match next.take() {
            Some(outgoing) => outgoing,
            None => match receiver.try_recv() {
                Ok(outgoing) => outgoing,
                Err(_) => {
                    writer.flush().await?;
                    let Some(outgoing) = receiver.recv().await else { return Ok(()) };
                    outgoing
                }
            },
        };
        pending.wait_for_room().await;
        if outgoing.answer.is_closed() || !outgoing.ticket.draw() {
            continue;
        }
        pending.insert(id, outgoing.answer);
        count(&counters.requests_out, 1);
        count(&counters.bytes_out, outgoing.body.len());
        frame::write(&mut writer, id, Kind::Request, &outgoing.body).await?;
    }
    Ok(())
}

async fn read_answers(
    mut reader: BufReader<impl AsyncRead + Unpin>,
    pending: &Pending,
    shared: &Shared,
    lane: Lane,
    limit: usize,
    queue: &Queue,
) -> io::Result<()> {
    while let Some(head) = frame::read_head(&mut reader, limit).await? {
        let body = frame::read_body(&mut reader, head.len).await?;
        queue.hear();
        count(&shared.lane(lane).bytes_in, body.len());
        // An answer nobody waits for any more is forgotten.
        let Some(answer) = pending.take(head.id) else { continue };
        match head.kind {
            Kind::Answer => drop(answer.send(Ok(body))),
            Kind::Refusal => drop(answer.send(Err(String::from_utf8_lossy(&body).into_owned()))),
            Kind::Dropped => drop(answer),
            Kind::Request => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}
