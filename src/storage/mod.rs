//! Bytes on disk that stay there: sled, and what sled alone does not give.
//!
//! Knows keys and values, nothing of what they mean. One directory, one
//! process, one format version, one owner (the node id), checked at open.
//!
//! Durability: a write is readable when the call returns and durable only when
//! a [`Store::barrier`] begun after it has completed. sled 0.34's `flush` calls
//! `sync_file_range`, which survives `kill -9` but not power loss; a barrier is
//! flush **then** `fdatasync` of the `db` file, group-committed on one thread.
//! A failed barrier is final: every later one fails with the same error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    #[error("the disk under {path} is full", path = .0.display())]
    Full(PathBuf),
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

/// An open store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    _todo: (),
}

/// One ordered map of bytes. Values of any size up to 64 MiB: large ones are
/// split over several keys underneath, because sled must not see a value above
/// 64 KiB (it would become a blob file that is never synced).
#[derive(Clone)]
pub struct Tree {
    _todo: (),
}

/// Writes that happen together or not at all, within one tree.
#[derive(Default)]
pub struct Batch {
    _todo: (),
}

#[allow(unused_variables, clippy::unused_self)]
impl Batch {
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        todo!()
    }

    pub fn delete(&mut self, key: &[u8]) {
        todo!()
    }
}

#[allow(unused_variables, clippy::unused_self)]
impl Store {
    /// Opens or creates the store in `dir` for `owner`. Blocking.
    ///
    /// Refuses a directory of another node, of a newer format, in use by
    /// another process, or damaged, with what to do about it.
    pub fn open(dir: &Path, owner: NodeId) -> Result<Self, Error> {
        todo!()
    }

    /// Random, made once when the directory was created: tells a store from
    /// another one under the same identity.
    pub fn incarnation(&self) -> u128 {
        todo!()
    }

    pub fn tree(&self, name: &str) -> Result<Tree, Error> {
        todo!()
    }

    /// Removes a tree and all in it.
    pub fn drop_tree(&self, name: &str) -> Result<(), Error> {
        todo!()
    }

    pub fn tree_names(&self) -> Vec<String> {
        todo!()
    }

    /// Completes when everything written before this call is durable.
    pub async fn barrier(&self) -> Result<(), Error> {
        todo!()
    }

    /// The same, calling `done` on the storage thread. Callbacks run in order.
    pub fn on_durable(&self, done: impl FnOnce(Result<(), Error>) + Send + 'static) {
        todo!()
    }

    /// The first fatal error, if one happened. Completes when one does.
    pub async fn failed(&self) -> Error {
        todo!()
    }

    /// Bytes free for us on the disk, without the ballast.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        todo!()
    }

    /// Bytes used on disk.
    pub fn used_bytes(&self) -> u64 {
        todo!()
    }

    /// Recent barriers: how long they took, in microseconds (p50, p99, max), and how many there were.
    pub fn sync_stats(&self) -> SyncStats {
        todo!()
    }

    /// Directory for files that do not belong into the tree store (snapshots).
    pub fn file_dir(&self) -> &Path {
        todo!()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SyncStats {
    pub barriers: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

#[allow(unused_variables, clippy::unused_self)]
impl Tree {
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        todo!()
    }

    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        todo!()
    }

    pub fn delete(&self, key: &[u8]) -> Result<(), Error> {
        todo!()
    }

    pub fn apply(&self, batch: Batch) -> Result<(), Error> {
        todo!()
    }

    /// Entries with `from <= key < to` (no `to`: to the end), in key order, lazily.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range {
        todo!()
    }

    pub fn first(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        todo!()
    }

    pub fn last(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        todo!()
    }
}

/// A lazy scan of a tree.
pub struct Range {
    _todo: (),
}

impl Iterator for Range {
    type Item = Result<(Vec<u8>, Vec<u8>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
