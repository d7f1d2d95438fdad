//! The replicated state in memory, and how it follows the log.
//!
//! Entries change [`State`] under a lock held for one entry at a time. A
//! snapshot clones the state (its records are shared) and writes the clone on a
//! thread of its own, so `apply` never waits for the disk. What `apply` seals goes
//! to the archive; a snapshot is written when all of that is on disk. After a restart the
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

use super::abdicate::Snapshots;
use super::archive::{self, Archive};
use super::codec::way_out;
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

/// A state of a level that this build does not know must not be followed: it would be misread.
fn check_level(state: &State, newest: u32) -> io::Result<()> {
    if state.level() <= newest {
        return Ok(());
    }
    let what = format!("the cluster is at feature level {}; {}", state.level(), way_out(newest));
    Err(io::Error::new(io::ErrorKind::Unsupported, what))
}

/// The state as Raft drives it.
pub(super) struct Machine {
    applied: Applied,
    last: Option<LogId>,
    membership: Membership,
    directory: Directory,
    archive: Archive,
    /// Snapshots that are being written.
    checkpoints: Arc<AtomicU64>,
    store: Store,
    /// The newest feature level that this node takes part in.
    newest_level: u32,
    /// Told whether snapshots can be written.
    noted: Arc<Snapshots>,
    tasks: Tasks,
}

impl Machine {
    /// Loads the newest snapshot. Blocking.
    pub fn open(
        directory: Directory,
        store: &Store,
        newest_level: u32,
        noted: Arc<Snapshots>,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let (meta, state) = directory.load_newest()?.unwrap_or_default();
        check_level(&state, newest_level)?;
        let archive = Archive::open(store.file_dir().join(archive::DIR))?;
        archive.follow(&state);
        Ok(Self {
            newest_level,
            applied: Applied::new(state),
            last: meta.last_log_id,
            membership: meta.last_membership,
            directory,
            archive,
            checkpoints: Arc::default(),
            store: store.clone(),
            noted,
            tasks: tasks.clone(),
        })
    }

    /// The last entry in the state.
    pub fn last(&self) -> Option<LogId> {
        self.last
    }

    pub fn applied(&self) -> Applied {
        self.applied.clone()
    }

    pub fn archive(&self) -> Archive {
        self.archive.clone()
    }

    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Whether nothing was ever applied.
    pub fn is_blank(&self) -> bool {
        self.last.is_none()
    }

    /// Whether a snapshot twice as long as the last one leaves something of the disk.
    fn has_room(&self) -> io::Result<bool> {
        let wanted = self.directory.newest_len()?.saturating_mul(2).saturating_add(SNAPSHOT_ROOM);
        Ok(self.store.free_bytes().map_err(io::Error::other)? >= wanted)
    }

    pub fn apply_one(&mut self, entry: Entry) -> io::Result<Vec<Reply>> {
        let position = Position { index: entry.log_id.index, term: entry.log_id.leader_id.term };
        let replies = match entry.payload {
            EntryPayload::Normal(proposal) => {
                let record = proposal.record(self.newest_level)?;
                let begun = clock::instant();
                let archive = &self.archive;
                let replies = self.applied.change(position.index, |state| {
                    let replies = state.apply(position, &record);
                    archive.adopt(state);
                    replies
                });
                metrics::apply_took(begun.elapsed(), record.commands.len());
                self.applied.read(|state| check_level(state, self.newest_level))?;
                if self.checkpoints.load(Ordering::Relaxed) > 0 {
                    metrics::apply_paused(begun.elapsed());
                }
                replies
            }
            EntryPayload::Blank => {
                self.applied.change(position.index, |state| state.skip(position));
                Vec::new()
            }
            EntryPayload::Membership(membership) => {
                let nodes = membership.nodes().map(|(node, address)| (*node, address.clone())).collect();
                let configs = membership.get_joint_config().clone();
                self.membership = Membership::new(Some(entry.log_id), membership);
                self.applied.change(position.index, |state| state.seat(position, &configs, &nodes));
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
            self.archive.make_way(&self.tasks).await?;
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
                self.noted.fail("the disk has no room for a snapshot");
                tracing::warn!("snapshot put off: the disk has no room for it, and the log grows");
                return None;
            }
            Err(error) => tracing::warn!(%error, "look for room for a snapshot"),
            Ok(_) => {}
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let begun = clock::instant();
        let state = self.applied.view();
        metrics::apply_paused(begun.elapsed());
        Builder {
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
            state,
            directory: self.directory.clone(),
            archive: self.archive.clone(),
            checkpoints: self.checkpoints.clone(),
            noted: self.noted.clone(),
            tasks: self.tasks.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: snapshot::File) -> io::Result<()> {
        let directory = self.directory.clone();
        let (wanted, newest, archive) = (meta.clone(), self.newest_level, self.archive.clone());
        let load = move || {
            let (found, state) = snapshot::load(&file.path)?;
            check_level(&state, newest)?;
            if found != wanted {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is not the one announced"));
            }
            // The snapshot names what the log has sealed here so far, and the log goes.
            archive.flush()?;
            directory.keep(file, &wanted)?;
            archive.follow(&state);
            archive.snapshotted(state.archive().dropped());
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
    archive: Archive,
    checkpoints: Arc<AtomicU64>,
    noted: Arc<Snapshots>,
    tasks: Tasks,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = snapshot::File;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let begun = clock::instant();
        let (directory, meta, state) = (self.directory.clone(), self.meta.clone(), self.state.clone());
        let (archive, running) = (self.archive.clone(), self.checkpoints.clone());
        let write = move || {
            running.fetch_add(1, Ordering::Relaxed);
            let written = archive.flush().and_then(|()| directory.write(&meta, &state));
            if written.is_ok() {
                archive.snapshotted(state.archive().dropped());
            }
            drop(state);
            running.fetch_sub(1, Ordering::Relaxed);
            written
        };
        let snapshot = self.tasks.spawn_blocking(write).await.map_err(io::Error::other)??;
        self.noted.succeed();
        let index = self.meta.last_log_id.map_or(0, |id| id.index);
        tracing::info!(index, took_ms = begun.elapsed().as_millis(), "snapshot written");
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}
