//! The replicated state in memory, and how it follows the log.
//!
//! Entries change [`State`] under a lock held for one entry at a time. A
//! snapshot clones the state (its records are shared) and writes the clone on a
//! thread of its own, so `apply` never waits for the disk. After a restart the
//! newest snapshot is loaded and the log replays from there.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;

use crate::clock;
use crate::domain::apply::Position;
use crate::domain::command::Reply;
use crate::domain::{State, Timestamp};
use crate::storage::Store;
use crate::tasks::Tasks;
use crate::telemetry::metrics;

use super::snapshot::{self, Directory};
use super::types::{Entry, LogId, Membership, Snapshot, SnapshotMeta, TypeConfig};

/// Left free beside a snapshot that is written.
const SNAPSHOT_ROOM: u64 = 64 << 20;

/// The state as everyone but Raft sees it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Applied {
    shared: Arc<Shared>,
}

struct Shared {
    state: RwLock<State>,
    /// The last frozen view, handed out again while someone holds it and nothing is applied.
    view: Mutex<Weak<State>>,
    index: watch::Sender<u64>,
    /// The state's clock, apart from its lock: it is asked for with that lock held, too.
    now: AtomicU64,
}

impl Applied {
    fn new(state: State) -> Self {
        let index = watch::Sender::new(state.applied());
        let now = state.now().0.into();
        Self { shared: Arc::new(Shared { state: RwLock::new(state), view: Mutex::default(), index, now }) }
    }

    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.shared.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn view(&self) -> Arc<State> {
        let mut cached = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.read(State::applied);
        match cached.upgrade() {
            Some(view) if view.applied() == index => view,
            _ => {
                let view = Arc::new(self.read(State::clone));
                *cached = Arc::downgrade(&view);
                view
            }
        }
    }

    /// The applied index, for waiting on changes.
    pub fn index(&self) -> watch::Receiver<u64> {
        self.shared.index.subscribe()
    }

    /// The state's clock.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.shared.now.load(Ordering::Acquire))
    }

    fn change<R>(&self, index: u64, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        self.shared.now.store(state.now().0, Ordering::Release);
        drop(state);
        self.shared.index.send_replace(index);
        result
    }
}

/// The state as Raft drives it.
pub(super) struct Machine {
    applied: Applied,
    last: Option<LogId>,
    membership: Membership,
    directory: Directory,
    store: Store,
    tasks: Tasks,
}

impl Machine {
    /// Loads the newest snapshot. Blocking.
    pub fn open(directory: Directory, store: &Store, tasks: &Tasks) -> io::Result<Self> {
        let (meta, state) = directory.load_newest()?.unwrap_or_default();
        Ok(Self {
            applied: Applied::new(state),
            last: meta.last_log_id,
            membership: meta.last_membership,
            directory,
            store: store.clone(),
            tasks: tasks.clone(),
        })
    }

    pub fn applied(&self) -> Applied {
        self.applied.clone()
    }

    /// Whether a snapshot twice as long as the last one leaves something of the disk.
    fn has_room(&self) -> io::Result<bool> {
        let wanted = self.directory.newest_len()?.saturating_mul(2).saturating_add(SNAPSHOT_ROOM);
        Ok(self.store.free_bytes().map_err(io::Error::other)? >= wanted)
    }

    fn apply_one(&mut self, entry: Entry) -> io::Result<Vec<Reply>> {
        let position = Position { index: entry.log_id.index, term: entry.log_id.leader_id.term };
        let replies = match entry.payload {
            EntryPayload::Normal(proposal) => {
                let record = proposal.record()?;
                let begun = clock::instant();
                let replies = self.applied.change(position.index, |state| state.apply(position, &record));
                metrics::apply_took(begun.elapsed(), record.commands.len());
                replies
            }
            EntryPayload::Blank => {
                self.applied.change(position.index, |state| state.skip(position));
                Vec::new()
            }
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
                self.applied.change(position.index, |state| state.skip(position));
                Vec::new()
            }
        };
        self.last = Some(entry.log_id);
        Ok(replies)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = snapshot::File;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let replies = self.apply_one(entry)?;
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        Ok(())
    }

    /// A snapshot that fills the disk ends the node, and again after every restart. Without room it is put off:
    /// Raft asks again after as many entries as lie between two snapshots.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        match self.has_room() {
            Ok(false) if !force => {
                tracing::warn!("snapshot put off: the disk has no room for it, and the log grows");
                return None;
            }
            Err(error) => tracing::warn!(%error, "look for room for a snapshot"),
            Ok(_) => {}
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
            state: self.applied.view(),
            directory: self.directory.clone(),
            tasks: self.tasks.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: snapshot::File) -> io::Result<()> {
        let directory = self.directory.clone();
        let wanted = meta.clone();
        let load = move || {
            let (found, state) = snapshot::load(&file.path)?;
            if found != wanted {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is not the one announced"));
            }
            directory.keep(file, &wanted)?;
            Ok(state)
        };
        let state = self.tasks.spawn_blocking(load).await.map_err(io::Error::other)??;
        let index = meta.last_log_id.map_or(0, |id| id.index);
        self.applied.change(index, |current| *current = state);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        tracing::info!(index, "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let newest = self.directory.newest()?;
        Ok(newest.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A frozen state on its way to a file.
pub(super) struct Builder {
    meta: SnapshotMeta,
    state: Arc<State>,
    directory: Directory,
    tasks: Tasks,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = snapshot::File;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let begun = clock::instant();
        let (directory, meta, state) = (self.directory.clone(), self.meta.clone(), self.state.clone());
        let write = move || directory.write(&meta, &state);
        let snapshot = self.tasks.spawn_blocking(write).await.map_err(io::Error::other)??;
        let index = self.meta.last_log_id.map_or(0, |id| id.index);
        tracing::info!(index, took_ms = begun.elapsed().as_millis(), "snapshot written");
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}
