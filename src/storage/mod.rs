//! Bytes on disk that stay there: sled, and what sled alone does not give.
//!
//! Knows keys and values, nothing of what they mean. One directory, one
//! process, one format version, one owner (the node id), checked at open.
//!
//! Durability: a write is readable when the call returns and durable only when
//! a [`Store::barrier`] begun after it has completed. sled 0.34's `flush` calls
//! `sync_file_range`, which survives `kill -9` but not power loss; a barrier is
//! flush **then** `fdatasync` of the `db` file, group-committed on one thread.
//! A failed barrier is final: every later one fails with the same error, and so
//! does every later write. Reads go on. The node has to stop.
//!
//! In the directory:
//!
//! ```text
//! store.toml   format version, owner, incarnation (identity.rs)
//! mark         how far was acknowledged (mark.rs)
//! lock         held by the process that has the store open (open.rs)
//! ballast      reserve that is given up when the disk is full (ballast.rs)
//! db/          sled
//! files/       for files beside the trees, such as snapshots
//! ```
//!
//! A bad disk: every value carries a checksum that is looked at when it is read;
//! open reads all of them, and compares what is there with what was written
//! (seal.rs) and with what was acknowledged (mark.rs). What a crash may leave is
//! taken, anything else is refused. So open takes time in proportion to the trees.
//!
//! Deliberately absent: `flush_async` (it deadlocks), transactions across trees
//! (order the writes instead, all trees share one log), and repair: damaged
//! data is refused, and another node's copy takes its place.

mod ballast;
#[cfg(test)]
pub(crate) mod bare;
mod dirs;
mod identity;
mod mark;
mod open;
mod seal;
mod sync;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub use self::open::{OpenOptions, check_key, is_opening};
pub use self::tree::{Batch, KEY_MAX, Pair, Range, Tree, VALUE_MAX};
use crate::domain::NodeId;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
    #[error("{action} in {path}", path = .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("the disk under {path} is full: make room there", path = .0.display())]
    Full(PathBuf),
    #[error("stored data is damaged: {0}. {WAY_OUT}")]
    Damaged(String),
}

/// What can be done about data that is lost. What is left of it, or an older copy, would forget votes and entries that
/// others count on.
pub const WAY_OUT: &str = "This node must not go on with what is left, nor with an older copy: the others go on \
     without it. Way out: on another node run `ciro-coordinator cluster remove` with this node's id and \
     `ciro-coordinator cluster invite`; here move the data directory away, node.key and all, and start with `--join`: \
     the node comes back under a new identity and fetches everything from the others";

impl Error {
    /// Data that can not be used any more. `what` says which file, and what is wrong with it.
    pub fn damaged(what: String) -> Self {
        Self::Damaged(what)
    }

    /// What `action` in `path` failed with; a full disk is told apart.
    fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full(path.to_owned()),
            _ => Self::Io { action, path: path.to_owned(), source: Arc::new(source) },
        }
    }

    fn sled(action: &'static str, path: &Path, source: sled::Error) -> Self {
        match source {
            sled::Error::Io(source) => Self::io(action, path, source),
            sled::Error::CollectionNotFound(_) => Self::Refused(format!("{action}: the tree was dropped")),
            sled::Error::Unsupported(detail) => Self::Refused(format!("{action}: {detail}")),
            sled::Error::ReportableBug(detail) => Self::Damaged(format!("{action}: {detail}")),
            sled::Error::Corruption { at, .. } => Self::Damaged(format!("{action}: bad bytes at {at:?}")),
        }
    }
}

/// An open store. Cheap to clone; closed when the last clone, and the last
/// [`Tree`] of it, are dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    files: PathBuf,
    incarnation: u128,
    trees: Mutex<BTreeMap<String, Arc<tree::Shared>>>,
    /// Ends its thread when dropped, before sled and then the lock are let go.
    sync: sync::Thread,
    ledger: seal::Ledger,
    db: sled::Db,
    _lock: Arc<open::Lock>,
}

impl Store {
    /// Opens or creates the store in `dir` for `owner`, with a ballast of 16 MiB. Blocking.
    ///
    /// Refuses a directory of another node, of a newer format, in use by
    /// another process, or damaged, with what to do about it.
    pub fn open(dir: &Path, owner: NodeId) -> Result<Self, Error> {
        OpenOptions::new().ballast_bytes(open::BALLAST_SMALL).open(dir, owner)
    }

    /// Random, made once when the directory was created: tells a store from
    /// another one under the same identity.
    pub fn incarnation(&self) -> u128 {
        self.inner.incarnation
    }

    /// Opens or creates a tree.
    pub fn tree(&self, name: &str) -> Result<Tree, Error> {
        let mut trees = self.inner.trees();
        let sled = self.inner.db.open_tree(name).map_err(|e| self.inner.fail("open tree", e))?;
        let shared = match trees.get(name) {
            Some(shared) => Arc::clone(shared),
            None => Arc::default(),
        };
        trees.insert(name.to_owned(), Arc::clone(&shared));
        Ok(Tree::new(sled, shared, Arc::clone(&self.inner)))
    }

    /// Removes a tree and all in it. A tree that does not exist is no error.
    /// Handles to it that are still held are refused from then on.
    pub fn drop_tree(&self, name: &str) -> Result<(), Error> {
        self.inner.check()?;
        let mut trees = self.inner.trees();
        let gone = self.inner.db.open_tree(name).map_err(|e| self.inner.fail("open tree", e))?;
        let mut turn = self.inner.ledger.turn();
        turn.remove(tree::Scan::new(&gone, &self.inner.dir).sum()?);
        turn.seal(|| self.inner.db.drop_tree(name).map(drop)).map_err(|e| self.inner.fail("drop tree", e))?;
        trees.remove(name);
        Ok(())
    }

    /// The names of the trees that exist, in order.
    pub fn tree_names(&self) -> Vec<String> {
        let default = self.inner.db.name();
        let names = self.inner.db.tree_names().into_iter().filter(|name| *name != default && !seal::is_seal(name));
        let mut names: Vec<String> = names.map(|name| String::from_utf8_lossy(&name).into_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Completes when everything written before this call is durable.
    ///
    /// May be dropped: the sync happens all the same.
    pub async fn barrier(&self) -> Result<(), Error> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.on_durable(move |result| {
            let _ = tx.send(result); // the waiter may have gone
        });
        rx.await.unwrap_or_else(|_| Err(sync::ended(&self.inner.dir)))
    }

    /// The same, calling `done` on the storage thread. Callbacks run in order.
    ///
    /// `done` must be short and must not wait for this store. At 16,384 waiting
    /// callbacks the call blocks until the thread has taken some.
    pub fn on_durable(&self, done: impl FnOnce(Result<(), Error>) + Send + 'static) {
        self.inner.sync.submit(Box::new(done));
    }

    /// The first fatal error, if one happened. Completes when one does.
    pub async fn failed(&self) -> Error {
        let failure = Arc::clone(self.inner.sync.failure());
        failure.wait().await
    }

    /// Bytes free for us on the disk, without the ballast.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        dirs::free_bytes(&self.inner.dir)
    }

    /// Bytes used on disk by the trees and by [`Self::file_dir`], without the ballast. Blocking: looks at every file.
    pub fn used_bytes(&self) -> u64 {
        dirs::used_bytes(&self.inner.dir.join(open::DB)) + dirs::used_bytes(&self.inner.files)
    }

    /// Recent barriers: how long they took, in microseconds (p50, p99, max), and how many there were.
    pub fn sync_stats(&self) -> SyncStats {
        self.inner.sync.stats()
    }

    /// The same of those that ended since `begin`, and of one that hangs since before it.
    pub fn sync_stats_since(&self, begin: Instant) -> SyncStats {
        self.inner.sync.stats_since(begin)
    }

    /// Directory for files that do not belong into the tree store (snapshots).
    pub fn file_dir(&self) -> &Path {
        &self.inner.files
    }
}

impl Inner {
    fn trees(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<tree::Shared>>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error that ended the life of this store, if one did.
    fn check(&self) -> Result<(), Error> {
        self.sync.failure().get().map_or(Ok(()), Err)
    }

    /// Turns the error of a write into ours. What the disk did is final.
    fn fail(&self, action: &'static str, source: sled::Error) -> Error {
        let error = Error::sled(action, &self.dir, source);
        match error {
            Error::Refused(_) => error,
            fatal => self.sync.failure().set(fatal),
        }
    }
}

/// How the last syncs went; 1,024 are remembered.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncStats {
    /// Syncs since open, or of those looked at; one of them may have served many barriers.
    pub barriers: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}
