//! The Raft log, vote and positions, on [`Store`].
//!
//! Trees: `raft_log` (key: index, big-endian; value: entry) and `raft_meta`
//! (`vote`, `purged`, `committed`). All trees share the store's one write
//! order, so what became durable is always a prefix of what was written.
//!
//! Invariants
//!
//! * A vote is durable before [`RaftLogStorage::save_vote`] returns.
//! * Appended entries are readable on return; the callback runs only after
//!   they are durable. Nothing here waits for the disk but the vote.
//! * No holes. Truncation removes from the end in one batch. Purging writes
//!   the position first; what lies before it is invisible at once and swept in
//!   the background, or at the next open.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::watch;

use crate::storage::{self, Batch, Store, Tree};
use crate::tasks::Tasks;

use super::codec::{decode, encode};
use super::types::{Entry, LogId, TypeConfig, Vote};

/// Bytes of entries that one replication request carries. At least one entry, whatever its size.
const READ_MAX: usize = 1 << 20;

/// Bytes of the newest entries kept in memory, for followers that keep up and for `apply`.
const TAIL_MAX: usize = 4 << 20;

/// Keys deleted in one go behind a purge, so that nobody waits long for the tree.
const SWEEP: usize = 256;

/// The tree of entries.
const LOG: &str = "raft_log";
/// The tree of these.
pub(super) const META: &str = "raft_meta";
pub(super) const VOTE: &[u8] = b"vote";
pub(super) const PURGED: &[u8] = b"purged";
pub(super) const COMMITTED: &[u8] = b"committed";
/// There while the node is recovered alone.
pub(super) const RECOVERING: &[u8] = b"recovering";

#[derive(Clone)]
pub(super) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    log: Tree,
    meta: Tree,
    memory: Mutex<Memory>,
    /// First index that still counts.
    first: watch::Sender<u64>,
    appended: AtomicU64,
    /// Bytes of all entries on disk, purged ones until they are swept.
    stored: AtomicU64,
}

#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    purged: Option<LogId>,
    tail: Tail,
}

/// The newest entries, without holes, up to the last.
#[derive(Default)]
struct Tail {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

/// True for a store that has never voted nor logged. Blocking.
pub(super) fn is_new(store: &Store) -> io::Result<bool> {
    is_pristine(&store.tree(LOG).map_err(io::Error::other)?, &store.tree(META).map_err(io::Error::other)?)
}

fn is_pristine(log: &Tree, meta: &Tree) -> io::Result<bool> {
    let (vote, purged): (Option<Vote>, Option<LogId>) = (read(meta, VOTE)?, read(meta, PURGED)?);
    Ok(vote.is_none() && purged.is_none() && log.last().map_err(io::Error::other)?.is_none())
}

impl LogStore {
    /// Reads the positions, and removes what a purge left behind.
    pub fn open(store: &Store, tasks: &Tasks) -> io::Result<Self> {
        let log = store.tree(LOG).map_err(io::Error::other)?;
        let meta = store.tree(META).map_err(io::Error::other)?;
        let purged: Option<LogId> = read(&meta, PURGED)?;
        let memory = Memory { vote: read(&meta, VOTE)?, purged, tail: Tail::default() };
        let (first, swept) = watch::channel(purged.map_or(0, |id| id.index + 1));
        let end = *first.borrow();
        while sweep(&log, end)?.0 {}
        let bytes = logged_bytes(&log, end)?;
        let shared = Arc::new(Shared {
            store: store.clone(),
            log,
            meta,
            memory: Mutex::new(memory),
            first,
            appended: bytes.into(),
            stored: bytes.into(),
        });
        tasks.spawn_until_stopped("log-sweep", sweep_behind(Arc::downgrade(&shared), swept, tasks.clone()));
        Ok(Self { shared })
    }

    /// True on a store that has never voted nor logged.
    pub fn is_pristine(&self) -> io::Result<bool> {
        is_pristine(&self.shared.log, &self.shared.meta)
    }

    /// The last entry that only a snapshot has.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.memory().purged
    }

    /// Bytes logged since the last [`Self::forget_appended`]: since the last snapshot.
    pub fn appended_bytes(&self) -> u64 {
        self.shared.appended.load(Ordering::Relaxed)
    }

    pub fn forget_appended(&self) {
        self.shared.appended.store(0, Ordering::Relaxed);
    }

    /// Bytes that the log takes up.
    pub fn stored_bytes(&self) -> u64 {
        self.shared.stored.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let from = from.max(*self.first.borrow());
        if from >= to {
            return Ok(Vec::new());
        }
        // Bound first: the disk is not read with the lock held.
        let recent = self.memory().tail.slice(from, to, bytes_max);
        recent.map_or_else(|| self.on_disk(from, to, bytes_max), Ok)
    }

    fn on_disk(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for pair in self.log.range(&from.to_be_bytes(), Some(&to.to_be_bytes())) {
            let (key, value) = pair.map_err(io::Error::other)?;
            bytes += value.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            let entry: Entry = decode(&value)?;
            let follows = entries.last().is_none_or(|last| last.log_id.index + 1 == entry.log_id.index);
            if !follows || key != entry.log_id.index.to_be_bytes() {
                return Err(damaged(format!("a hole in the log before entry {}", entry.log_id.index)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn last(&self) -> io::Result<Option<LogId>> {
        let purged = self.memory().purged;
        let last = match self.log.last().map_err(io::Error::other)? {
            Some((_, value)) => Some(decode::<Entry>(&value)?.log_id),
            None => None,
        };
        Ok(last.filter(|id| id.index >= *self.first.borrow()).or(purged))
    }
}

impl Tail {
    /// `None` if the range begins before what is kept.
    fn slice(&self, from: u64, to: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.0.log_id.index;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (entry, size) in self.entries.iter().skip(skip).take_while(|(entry, _)| entry.log_id.index < to) {
            bytes += size;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }

    fn push(&mut self, entry: Entry, size: usize) {
        if self.entries.back().is_some_and(|(last, _)| last.log_id.index + 1 != entry.log_id.index) {
            self.clear();
        }
        self.bytes += size;
        self.entries.push_back((entry, size));
        while self.bytes > TAIL_MAX && self.entries.len() > 1 {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, size)) = self.entries.pop_front() {
            self.bytes -= size;
        }
    }

    /// Keeps entries before `end`.
    fn truncate(&mut self, end: u64) {
        while self.entries.back().is_some_and(|(last, _)| last.log_id.index >= end) {
            if let Some((_, size)) = self.entries.pop_back() {
                self.bytes -= size;
            }
        }
    }

    /// Keeps entries from `first`.
    fn purge(&mut self, first: u64) {
        while self.entries.front().is_some_and(|(entry, _)| entry.log_id.index < first) {
            self.drop_first();
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.shared.entries(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.memory().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.shared.entries(start, end, READ_MAX)?;
        // What begins later would be taken for what was asked for.
        let found = entries.first().map(|entry| entry.log_id.index);
        if start < end && found != Some(start) {
            let what = format!("log entries from {start} to {end} begin at {found:?}");
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_log_id = self.shared.last()?;
        Ok(LogState { last_purged_log_id: self.shared.memory().purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.shared.meta.put(VOTE, &encode(vote)?).map_err(io::Error::other)?;
        self.shared.store.barrier().await.map_err(io::Error::other)?;
        self.shared.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        match committed {
            Some(id) => self.shared.meta.put(COMMITTED, &encode(&id)?).map_err(io::Error::other),
            None => self.shared.meta.delete(COMMITTED).map_err(io::Error::other),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        read(&self.shared.meta, COMMITTED)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut batch = Batch::default();
        let mut appended = Vec::new();
        for entry in entries {
            let value = encode(&entry)?;
            batch.put(&entry.log_id.index.to_be_bytes(), &value);
            appended.push((entry, value.len()));
        }
        self.shared.log.apply(batch).map_err(io::Error::other)?;

        let mut memory = self.shared.memory();
        for (entry, size) in appended {
            self.shared.appended.fetch_add(size as u64, Ordering::Relaxed);
            self.shared.stored.fetch_add(size as u64, Ordering::Relaxed);
            memory.tail.push(entry, size);
        }
        drop(memory);

        self.shared.store.on_durable(move |result| callback.io_completed(result.map_err(io::Error::other)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let end = last.map_or(0, |id| id.index + 1);
        let mut batch = Batch::default();
        let mut bytes = 0;
        for pair in self.shared.log.keys(&end.to_be_bytes(), None) {
            let (key, length) = pair.map_err(io::Error::other)?;
            batch.delete(&key);
            bytes += length as u64;
        }
        self.shared.memory().tail.truncate(end);
        self.shared.log.apply(batch).map_err(io::Error::other)?;
        self.shared.stored.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.shared.meta.put(PURGED, &encode(&upto)?).map_err(io::Error::other)?;
        let mut memory = self.shared.memory();
        memory.purged = Some(upto);
        memory.tail.purge(upto.index + 1);
        drop(memory);
        self.shared.first.send_replace(upto.index + 1);
        Ok(())
    }
}

fn read<T: serde::de::DeserializeOwned>(meta: &Tree, key: &[u8]) -> io::Result<Option<T>> {
    match meta.get(key).map_err(io::Error::other)? {
        Some(value) => decode(&value).map(Some),
        None => Ok(None),
    }
}

/// Bytes of the entries, which must follow each other from `first` on.
fn logged_bytes(log: &Tree, first: u64) -> io::Result<u64> {
    let mut bytes = 0;
    for (pair, index) in log.keys(&[], None).zip(first..) {
        let (key, length) = pair.map_err(io::Error::other)?;
        if key != index.to_be_bytes() {
            return Err(damaged(format!("entry {index} of the log is missing")));
        }
        bytes += length as u64;
    }
    Ok(bytes)
}

/// Deletes some entries before `end`, oldest first. Whether there may be more, and how many bytes are gone.
fn sweep(log: &Tree, end: u64) -> io::Result<(bool, u64)> {
    let mut batch = Batch::default();
    let (mut count, mut bytes) = (0, 0);
    for pair in log.keys(&[], Some(&end.to_be_bytes())).take(SWEEP) {
        let (key, length) = pair.map_err(io::Error::other)?;
        batch.delete(&key);
        count += 1;
        bytes += length as u64;
    }
    if count > 0 {
        log.apply(batch).map_err(io::Error::other)?;
    }
    Ok((count == SWEEP, bytes))
}

async fn sweep_behind(shared: Weak<Shared>, mut first: watch::Receiver<u64>, tasks: Tasks) {
    while first.changed().await.is_ok() {
        let end = *first.borrow_and_update();
        while let Some(shared) = shared.upgrade() {
            let swept = tasks.spawn_blocking(move || {
                let (more, bytes) = sweep(&shared.log, end)?;
                shared.stored.fetch_sub(bytes, Ordering::Relaxed);
                io::Result::Ok(more)
            });
            match swept.await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) | Err(_) => break,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "sweep purged log entries; the next start will");
                    break;
                }
            }
        }
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, storage::Error::damaged(what))
}
