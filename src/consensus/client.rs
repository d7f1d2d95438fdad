//! What the rest of the node calls: submit, read, wait, ask who leads.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::clock;
use crate::domain::archive::Archived;
use crate::domain::chain::Act;
use crate::domain::command::Reply;
use crate::domain::{Command, JobId, JobState, NodeId, State, Timestamp};
use crate::storage;

use super::codec::{Blob, Encoded, encode};
use super::core::Core;
use super::door::{Door, Load, RECORD_BYTES, Scope};
use super::handover::{self, HandedOver};
use super::{ArchiveView, Committed, Error, Headline, Leadership, SegmentFile, Status, StorageView, Unreadable, read};

/// Largest command, encoded. Twice the usual record, so that any one fits the mesh's frames.
const COMMAND_BYTES: usize = 2 << 20;

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(super) core: Arc<Core>,
    pub(super) door: Door,
}

impl Client {
    /// Commits one command: on the leader directly, elsewhere by one hop. Applied here when it returns.
    ///
    /// # Errors
    ///
    /// See [`Error`]: only [`Error::Unknown`] leaves open whether it took effect.
    pub async fn submit(&self, command: Command, limit: Duration) -> Result<(u64, Reply), Error> {
        let committed = self.commit(std::slice::from_ref(&command), Scope::Anywhere, limit).await?;
        let reply = committed.replies.into_iter().next();
        let missing = || Error::Unknown(format!("committed at {}, but the reply is missing", committed.index));
        Ok((committed.index, reply.ok_or_else(missing)?))
    }

    /// Commits many, in order, in as few records as their size allows (not atomically).
    ///
    /// # Errors
    ///
    /// As [`Self::submit`]; [`Error::Unknown`] also if some took effect and others did not.
    pub async fn submit_many(&self, commands: Vec<Command>, limit: Duration) -> Result<Committed, Error> {
        self.commit(&commands, Scope::Anywhere, limit).await
    }

    /// Like [`Self::submit_many`], but refuses to forward, and only in `term`: for leader duties.
    ///
    /// # Errors
    ///
    /// [`Error::NoLeader`] if this node does not lead in exactly that term; else as [`Self::submit_many`].
    pub async fn submit_as_leader(
        &self,
        term: u64,
        commands: Vec<Command>,
        limit: Duration,
    ) -> Result<Committed, Error> {
        let scope = Scope::Term(term);
        if !self.door.admits(scope) {
            return Err(Error::NoLeader);
        }
        self.commit(&commands, scope, limit).await
    }

    /// Writes a record without commands: time passes in the log. In this term or not at all.
    ///
    /// # Errors
    ///
    /// As [`Client::submit_as_leader`].
    pub async fn tick_as_leader(&self, term: u64, limit: Duration) -> Result<(), Error> {
        let nothing = Load { commands: Encoded { count: 0, bytes: Blob(Bytes::new()) }, submits: false };
        self.door.submit(nothing, Scope::Term(term), limit, false).await.map(drop)
    }

    async fn commit(&self, commands: &[Command], scope: Scope, limit: Duration) -> Result<Committed, Error> {
        let deadline = clock::instant() + limit;
        self.check_room(commands.iter().any(is_submit))?;
        let status = self.core.applied.read(State::applied);
        let mut all = Committed { index: status, term: 0, replies: Vec::with_capacity(commands.len()) };
        for (number, job) in pack(commands, self.door.job_commands_max())?.into_iter().enumerate() {
            let left = deadline.saturating_duration_since(clock::instant());
            let committed = self.door.submit(job, scope, left, number > 0).await;
            let committed = committed.map_err(|error| partly(error, all.replies.len()))?;
            (all.index, all.term) = (committed.index, committed.term);
            all.replies.extend(committed.replies);
        }
        Ok(all)
    }

    /// Refuses new jobs while the disk has no room for them.
    pub(super) fn check_room(&self, submits: bool) -> Result<(), Error> {
        if submits && self.core.free_bytes()? < self.core.options.min_free_bytes {
            return Err(storage::Error::Full(self.core.store.file_dir().to_owned()).into());
        }
        Ok(())
    }

    /// The log's clock: what this node would stamp a record with now. Takes no lock on the state.
    pub fn log_now(&self) -> Timestamp {
        self.core.log_now()
    }

    /// Looks at this node's applied state. Keep it short: `apply` waits meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.core.applied.read(look)
    }

    /// A frozen view, for what takes longer.
    pub fn view(&self) -> Arc<State> {
        self.core.applied.view()
    }

    /// A job that left memory, in a state of its own like [`Self::view`]; `None`: there is none.
    ///
    /// Look in the state first: a job is never in neither.
    ///
    /// # Errors
    ///
    /// Its segment is missing or damaged here; another member may have it.
    pub async fn recall(&self, id: JobId) -> Result<Option<State>, Unreadable> {
        let client = self.clone();
        let stopping = |_| Unreadable { segment: String::new(), why: "this node is shutting down".to_owned() };
        self.core.tasks.spawn_blocking(move || client.recall_blocking(id)).await.map_err(stopping)?
    }

    /// The same where blocking is allowed.
    ///
    /// # Errors
    ///
    /// As [`Self::recall`].
    pub fn recall_blocking(&self, id: JobId) -> Result<Option<State>, Unreadable> {
        Ok(self.archived(id)?.map(|archived| self.read(|state| state.beside(archived))))
    }

    /// A job that left memory. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Self::recall`].
    pub fn archived(&self, id: JobId) -> Result<Option<Archived>, Unreadable> {
        self.core.archive.get(id)
    }

    /// The final state of a job that left memory; `None`: there is none.
    pub fn archived_state(&self, id: JobId) -> Option<JobState> {
        self.core.archive.state_of(id)
    }

    /// Jobs that left memory, after `cursor` in id order, with their final states; at most `most`.
    pub fn archived_after(&self, cursor: Option<JobId>, most: usize) -> Vec<(JobId, JobState)> {
        self.core.archive.after(cursor, most)
    }

    /// The files of all the segments that a view names, whole and durable: with them and the view a backup is
    /// complete. Blocking. A new node takes them in by [`super::Segments`].
    ///
    /// # Errors
    ///
    /// One is missing on this node.
    pub fn segment_files(&self, view: &State) -> Result<Vec<SegmentFile>, Unreadable> {
        self.core.archive.files_of(view)
    }

    /// How the archive on this node is.
    pub fn archive(&self) -> ArchiveView {
        self.core.archive.view()
    }

    /// Waits until this node's state has everything committed before the call, wherever it is called. Returns that index.
    ///
    /// # Errors
    ///
    /// [`Error::NoLeader`] or [`Error::Timeout`] if that took longer than `limit`.
    pub async fn linearize(&self, limit: Duration) -> Result<u64, Error> {
        read::linearize(&self.core, limit).await
    }

    /// The same under the leader's lease where it holds one: cheaper, and true as far as clocks are, see
    /// [`super::read`]. As [`Self::linearize`] unless [`super::Options::lease_reads`].
    ///
    /// # Errors
    ///
    /// As [`Self::linearize`].
    pub async fn linearize_by_lease(&self, limit: Duration) -> Result<u64, Error> {
        if self.lease_reads() { read::linearize_by_lease(&self.core, limit).await } else { self.linearize(limit).await }
    }

    pub fn lease_reads(&self) -> bool {
        self.core.options.lease_reads
    }

    /// The leadership that this node gave away last, since it started.
    pub fn handed_over(&self) -> Option<HandedOver> {
        self.core.handed_over.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this node has applied `index`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `limit`.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), Error> {
        self.core.wait_applied(index, limit).await
    }

    /// The applied index, for waiting on changes.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.core.applied.index()
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.subscribe()
    }

    pub fn headline(&self) -> Headline {
        self.core.headline()
    }

    pub fn status(&self) -> Status {
        self.core.status()
    }

    /// What the disk under this node is doing.
    pub fn storage(&self) -> StorageView {
        StorageView {
            used_bytes: self.core.used.load(Ordering::Relaxed),
            free_bytes: self.core.free_bytes().unwrap_or(0),
            min_free_bytes: self.core.options.min_free_bytes,
            sync: self.core.store.sync_stats(),
        }
    }

    /// Moves leadership to `to`, or to the most caught-up member.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] if `to` is not a voter; [`Error::Behind`] if it lacks too much of the log;
    /// [`Error::Timeout`] if the move was not seen within `limit`.
    pub async fn transfer_leadership(&self, to: Option<NodeId>, limit: Duration) -> Result<NodeId, Error> {
        handover::transfer(&self.core, to, limit).await
    }
}

/// Encodes commands and packs them, in order, into jobs that fit a record.
fn pack(commands: &[Command], commands_max: usize) -> Result<Vec<Load>, Error> {
    let mut jobs = Vec::new();
    let mut count = 0;
    let mut bytes = BytesMut::new();
    let mut submits = false;
    for command in commands {
        let encoded = encode(command).map_err(|error| Error::Setup(format!("encode a command: {error}")))?;
        if encoded.len() > COMMAND_BYTES {
            return Err(Error::TooLarge { size: encoded.len(), limit: COMMAND_BYTES });
        }
        let full = bytes.len() + encoded.len() > RECORD_BYTES || count as usize >= commands_max;
        if count > 0 && full {
            jobs.push(close(&mut count, &mut bytes, &mut submits));
        }
        count += 1;
        submits |= is_submit(command);
        bytes.extend_from_slice(&encoded);
    }
    if count > 0 {
        jobs.push(close(&mut count, &mut bytes, &mut submits));
    }
    Ok(jobs)
}

fn close(count: &mut u32, bytes: &mut BytesMut, submits: &mut bool) -> Load {
    let bytes: Bytes = std::mem::take(bytes).freeze();
    let commands = Encoded { count: std::mem::take(count), bytes: Blob(bytes) };
    Load { commands, submits: std::mem::take(submits) }
}

pub(super) fn is_submit(command: &Command) -> bool {
    match command {
        Command::Submit(_) | Command::Ingest(_) => true,
        Command::Chain(Act::Followed { arrivals, .. }) => !arrivals.is_empty(),
        _ => false,
    }
}

/// An error after some of the commands took effect.
fn partly(error: Error, done: usize) -> Error {
    if done == 0 { error } else { Error::Unknown(format!("{done} commands took effect, then: {error}")) }
}
