//! Files in one directory, known by the SHA-256 of what is in them, bounded in bytes.
//!
//! Two of these are kept: outputs that are too large for the log, and inputs
//! that were fetched. A file is written as a [`Draft`], synced, and only then
//! gets its name, so what has a name is whole, also after a crash. Beside it lie
//! the digests of its blocks: a part that is read is compared with them, so what
//! the disk spoiled is refused, not handed out.
//!
//! At the bound the oldest files go, drafts count as they grow, and what is
//! pinned stays. A file counts for what it takes of the disk ([`footprint`]), so
//! that many tiny ones are bounded, too. If that frees too little, the draft fails. Files older than the
//! shelf's age go as well.
//!
//! A file gets its name, and loses it, under the lock of the index: what the index knows is there.
//!
//! Absent: protection from whoever may write into the directory.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, SeekFrom};
use std::ops::Bound::{Excluded, Unbounded};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::clock;
use crate::domain::{Digest, Timestamp};
use crate::tasks::Tasks;

/// Bytes that have a digest of their own.
const BLOCK: u64 = 256 * 1024;

/// Bytes the smallest file takes of a disk.
const DISK_BLOCK: u64 = 4 * 1024;

const DRAFT: &str = "draft";
const BLOCKS: &str = "blocks";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no room for it: files here may take {0} bytes")]
    Full(u64),
    #[error("{0}")]
    File(#[from] io::Error),
}

/// Why a part of a file is not handed out.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("it is not here")]
    Gone,
    #[error("the file is not what was stored")]
    Damaged,
    #[error("the file is not that long")]
    Range,
    #[error("the file cannot be read")]
    File(#[from] io::Error),
}

/// Bytes that a file of `size` bytes counts for: itself, and the digests of its blocks.
pub fn footprint(size: u64) -> u64 {
    let digests = size.div_ceil(BLOCK) * 32;
    size.max(DISK_BLOCK).saturating_add(digests + DISK_BLOCK)
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shelf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    max_bytes: u64,
    max_age: Duration,
    drafts: AtomicU64,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    files: BTreeMap<Digest, Entry>,
    by_age: BTreeSet<(Timestamp, Digest)>,
    /// By the footprint of files and drafts.
    used: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    since: Timestamp,
    pins: u32,
}

impl Index {
    fn insert(&mut self, digest: Digest, size: u64, since: Timestamp) {
        let pins = self.remove(&digest).map_or(0, |known| known.pins);
        self.files.insert(digest, Entry { size, since, pins });
        self.by_age.insert((since, digest));
        self.used += footprint(size);
    }

    fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let entry = self.files.remove(digest)?;
        self.by_age.remove(&(entry.since, *digest));
        self.used -= footprint(entry.size);
        Some(entry)
    }

    /// Forgets the oldest files that are not pinned, as long as `wanted` says so.
    fn forget(&mut self, wanted: impl Fn(&Self, Timestamp) -> bool) -> Vec<Digest> {
        let mut gone = Vec::new();
        let mut next = self.by_age.first().copied();
        while let Some((since, digest)) = next.filter(|(since, _)| wanted(self, *since)) {
            next = self.by_age.range((Excluded((since, digest)), Unbounded)).next().copied();
            if self.files.get(&digest).is_some_and(|entry| entry.pins == 0) {
                self.remove(&digest);
                gone.push(digest);
            }
        }
        gone
    }
}

impl Shelf {
    /// Opens the shelf in `directory`, with what an earlier life finished there.
    ///
    /// # Errors
    ///
    /// The directory cannot be made, listed or tidied.
    pub fn open(directory: &Path, max_bytes: u64, max_age: Duration) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut index = Index::default();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            match whole(&path) {
                Some((digest, size, since)) => index.insert(digest, size, since),
                None if !is_blocks_of_a_file(&path) => std::fs::remove_file(&path)?,
                None => {}
            }
        }
        let directory = directory.to_owned();
        let inner = Inner { directory, max_bytes, max_age, drafts: AtomicU64::new(0), index: Mutex::new(index) };
        let shelf = Self(Arc::new(inner));
        shelf.sweep();
        Ok(shelf)
    }

    /// Removes what is too old, or too much.
    pub fn sweep(&self) {
        let age = u64::try_from(self.0.max_age.as_millis()).unwrap_or(u64::MAX);
        let oldest = Timestamp(clock::now().0.saturating_sub(age));
        let most = self.0.max_bytes;
        let mut index = self.lock();
        let gone = index.forget(|index, since| since < oldest || index.used > most);
        self.unlink(&index, &gone);
    }

    /// Begins a file. Dropped before [`Draft::keep`], nothing stays of it.
    ///
    /// # Errors
    ///
    /// It cannot be created, or there is no room for the smallest file.
    pub async fn draft(&self) -> Result<Draft, Error> {
        let number = self.0.drafts.fetch_add(1, Ordering::Relaxed);
        let path = self.0.directory.join(format!("{number}.{DRAFT}"));
        let file = File::create(&path).await?;
        let (whole, block) = (Sha256::new(), Sha256::new());
        let blocks = Vec::new();
        let mut draft = Draft { shelf: self.clone(), path, file, size: 0, counted: 0, whole, block, blocks };
        draft.count(0)?;
        Ok(draft)
    }

    /// The file, which stays as long as the pin does.
    pub fn pin(&self, digest: &Digest) -> Option<Pin> {
        self.lock().files.get_mut(digest)?.pins += 1;
        Some(Pin { shelf: self.clone(), digest: *digest })
    }

    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.lock().files.get(digest).map(|entry| entry.size)
    }

    /// Removes a file, unless somebody uses it.
    pub fn discard(&self, digest: &Digest) {
        let mut index = self.lock();
        if index.files.get(digest).is_some_and(|entry| entry.pins == 0) {
            index.remove(digest);
            self.unlink(&index, &[*digest]);
        }
    }

    /// Reads a part, of `length` bytes at `offset`, and compares every block it touches.
    ///
    /// # Errors
    ///
    /// See [`Missing`].
    pub async fn read(&self, digest: &Digest, offset: u64, length: u32) -> Result<Bytes, Missing> {
        let pin = self.pin(digest).ok_or(Missing::Gone)?;
        let size = self.size(digest).ok_or(Missing::Gone)?;
        let end = offset.checked_add(length.into()).filter(|end| *end <= size).ok_or(Missing::Range)?;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let (first, last) = (offset / BLOCK, (end - 1) / BLOCK);
        let start = first * BLOCK;
        let bytes = read_at(&pin.path(), start, ((last + 1) * BLOCK).min(size) - start).await.map_err(spoiled)?;
        let sums = read_at(&pin.path().with_extension(BLOCKS), first * 32, (last - first + 1) * 32).await;
        let sums = sums.map_err(spoiled)?;
        let blocks = bytes.chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX));
        if !blocks.flat_map(Sha256::digest).eq(sums.iter().copied()) {
            return Err(Missing::Damaged);
        }
        let from = usize::try_from(offset - start).map_err(|_| Missing::Range)?;
        Ok(Bytes::from(bytes).slice(from..from + length as usize))
    }

    /// Makes room for `more` bytes of a draft, and counts them.
    fn grow(&self, more: u64) -> Result<(), Error> {
        let most = self.0.max_bytes;
        let mut index = self.lock();
        let fits = |index: &Index| index.used.saturating_add(more) <= most;
        let gone = if fits(&index) { Vec::new() } else { index.forget(|index, _| !fits(index)) };
        let fits = fits(&index);
        if fits {
            index.used += more;
        }
        self.unlink(&index, &gone);
        if fits { Ok(()) } else { Err(Error::Full(most)) }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.directory.join(hex::encode(digest.0))
    }

    /// Under the lock: a draft may be about to take the name.
    fn unlink(&self, _: &MutexGuard<'_, Index>, gone: &[Digest]) {
        for digest in gone {
            let path = self.path(digest);
            for path in [path.with_extension(BLOCKS), path] {
                if let Err(error) = super::files::remove(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot remove file");
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Digest, size and age of a file that was finished.
fn whole(path: &Path) -> Option<(Digest, u64, Timestamp)> {
    let digest = hex::decode(path.file_name()?.to_str()?).ok()?.try_into().ok().map(Digest)?;
    let about = path.symlink_metadata().ok()?;
    let blocks = path.with_extension(BLOCKS).symlink_metadata().ok()?;
    let since = about.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let fits = about.is_file() && blocks.len() == about.len().div_ceil(BLOCK) * 32;
    fits.then_some((digest, about.len(), Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))))
}

fn is_blocks_of_a_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == BLOCKS) && whole(&path.with_extension("")).is_some()
}

async fn read_at(path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A file that is known and not there, or shorter than it was, is as good as overwritten.
fn spoiled(error: io::Error) -> Missing {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Missing::Damaged,
        _ => Missing::File(error),
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct Draft {
    shelf: Shelf,
    path: PathBuf,
    file: File,
    size: u64,
    /// What the index counts it for.
    counted: u64,
    whole: Sha256,
    block: Sha256,
    blocks: Vec<u8>,
}

impl Draft {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Of what was written so far.
    pub fn digest(&self) -> Digest {
        Digest(self.whole.clone().finalize().into())
    }

    /// # Errors
    ///
    /// The shelf has no room for it, or the disk fails. The draft is of no use then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.count(self.size.saturating_add(more))?;
        self.note(bytes);
        self.file.write_all(bytes).await?;
        Ok(())
    }

    /// Counts it as a file of `size` bytes, if there is room.
    fn count(&mut self, size: u64) -> Result<(), Error> {
        let footprint = footprint(size);
        self.shelf.grow(footprint - self.counted)?;
        self.counted = footprint;
        Ok(())
    }

    fn note(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK - self.size % BLOCK).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.block.update(now);
            self.size += now.len() as u64;
            if self.size.is_multiple_of(BLOCK) {
                self.blocks.extend_from_slice(&self.block.finalize_reset());
            }
            bytes = later;
        }
    }

    /// Makes it durable under its name. Returns digest and size.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub async fn keep(mut self) -> Result<(Digest, u64), Error> {
        if !self.size.is_multiple_of(BLOCK) {
            let last = self.block.finalize_reset();
            self.blocks.extend_from_slice(&last);
        }
        self.file.flush().await?;
        self.file.sync_all().await?;
        let mut blocks = File::create(self.path.with_extension(BLOCKS)).await?;
        blocks.write_all(&self.blocks).await?;
        blocks.flush().await?;
        blocks.sync_all().await?;
        let named = Tasks::new().spawn_blocking(move || self.take_name()).await;
        Ok(named.map_err(io::Error::other)??)
    }

    /// Replaces the same bytes if they are here, for whoever reads them at a stroke.
    fn take_name(mut self) -> io::Result<(Digest, u64)> {
        let (digest, size) = (self.digest(), self.size);
        let path = self.shelf.path(&digest);
        let mut index = self.shelf.lock();
        std::fs::rename(self.path.with_extension(BLOCKS), path.with_extension(BLOCKS))?;
        std::fs::rename(&self.path, &path)?;
        index.used -= self.counted;
        index.insert(digest, size, clock::now());
        drop(index);
        // Nothing is left for the drop to give back.
        self.counted = 0;
        std::fs::File::open(&self.shelf.0.directory)?.sync_all()?;
        Ok((digest, size))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.shelf.lock().used -= self.counted;
        }
        // Gone already if it was kept.
        for path in [&self.path, &self.path.with_extension(BLOCKS)] {
            if let Err(error) = super::files::remove(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove draft");
            }
        }
    }
}

/// Keeps a file from being evicted.
#[derive(Debug)]
pub struct Pin {
    shelf: Shelf,
    digest: Digest,
}

impl Pin {
    pub fn path(&self) -> PathBuf {
        self.shelf.path(&self.digest)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(entry) = self.shelf.lock().files.get_mut(&self.digest) {
            entry.pins -= 1;
        }
    }
}
