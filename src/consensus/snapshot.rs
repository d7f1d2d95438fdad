//! Snapshot files: the state as it was at one log position.
//!
//! A file is `magic | length | metadata | state | sha-256 of all before`,
//! written beside its final name, synced, renamed, and the directory synced.
//! What has the final name is whole. The newest two are kept; a damaged newest
//! one is passed over for the older only if the log still reaches back to it.
//! One that is whole, but that this build can not read, is left alone: it is
//! for the build that wrote it, and the start fails.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::domain::State;

use super::codec::{decode, encode};
use super::types::{LogId, SnapshotMeta};

const MAGIC: &[u8; 8] = b"ciroSNP1";
const KEPT: usize = 2;
/// A membership is small. More than this is damage.
const META_MAX: u32 = 1 << 20;
const HASH: u64 = 32;

/// Where the files live.
#[derive(Clone, Debug)]
pub(super) struct Directory(Arc<Path>);

/// A snapshot on disk. A received one is removed when dropped, unless it was kept.
#[derive(Debug)]
pub(super) struct File {
    pub path: PathBuf,
    /// Not yet under its final name.
    received: bool,
}

impl File {
    pub fn received(path: PathBuf) -> Self {
        Self { path, received: true }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.received {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Directory {
    /// Removes what an interrupted write or transfer left.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        // Or all snapshots may be gone with their directory when the power fails, and the log before them is.
        path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())?;
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self(path.into()))
    }

    /// A name for a file that is not whole yet.
    pub fn part(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.part"))
    }

    /// The newest snapshot that is whole. A damaged one is set aside under another name, for whoever wants to look at it.
    pub fn load_newest(&self) -> io::Result<Option<(SnapshotMeta, State)>> {
        for path in self.list()?.into_iter().rev() {
            match load(&path) {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(path = %path.display(), %error, "snapshot is damaged, trying an older one");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Names the damaged files that were set aside, for a message.
    pub fn set_aside(&self) -> io::Result<String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".damaged") {
                names.push(name);
            }
        }
        names.sort();
        Ok(if names.is_empty() { String::new() } else { format!("; damaged and set aside: {}", names.join(", ")) })
    }

    /// The newest snapshot's metadata and file.
    pub fn newest(&self) -> io::Result<Option<(SnapshotMeta, File)>> {
        let Some(path) = self.list()?.pop() else {
            return Ok(None);
        };
        let (meta, _) = read_head(&mut fs::File::open(&path)?)?;
        Ok(Some((meta, File { path, received: false })))
    }

    /// Writes a snapshot of `state`. Blocking.
    pub fn write(&self, meta: &SnapshotMeta, state: &State) -> io::Result<File> {
        let part = File::received(self.part(&format!("build-{}", name(meta.last_log_id.as_ref()))));
        let mut out = Hashing { inner: BufWriter::new(fs::File::create(&part.path)?), hash: Sha256::new() };
        let head = encode(meta)?;
        out.write_all(MAGIC)?;
        out.write_all(&u32::try_from(head.len()).map_err(io::Error::other)?.to_be_bytes())?;
        out.write_all(&head)?;
        state.write_to(&mut out).map_err(io::Error::other)?;
        let Hashing { mut inner, hash } = out;
        inner.write_all(&hash.finalize())?;
        inner.into_inner()?.sync_all()?;
        self.keep(part, meta)
    }

    /// Gives a whole, checked file its final name, durably, and removes the oldest. Blocking.
    pub fn keep(&self, mut file: File, meta: &SnapshotMeta) -> io::Result<File> {
        let path = self.0.join(format!("{}.snapshot", name(meta.last_log_id.as_ref())));
        if file.path != path {
            if file.received {
                fs::rename(&file.path, &path)?;
            } else {
                fs::copy(&file.path, &path)?;
                fs::File::open(&path)?.sync_all()?;
            }
        }
        fs::File::open(&self.0)?.sync_all()?;
        file.received = false;
        file.path = path;
        self.prune()?;
        Ok(file)
    }

    fn prune(&self) -> io::Result<()> {
        let mut paths = self.list()?;
        let old = paths.len().saturating_sub(KEPT);
        for path in paths.drain(..old) {
            // An installed snapshot and one just built may prune at once.
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes of the newest snapshot; 0 if there is none.
    pub fn newest_len(&self) -> io::Result<u64> {
        self.list()?.pop().map_or(Ok(0), |path| fs::metadata(path).map(|meta| meta.len()))
    }

    /// Snapshots, oldest first.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "snapshot") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}

/// Reads and checks a whole file. Blocking.
///
/// # Errors
///
/// `InvalidData` if the bytes are not the ones that were written; `Unsupported`
/// if they are, but make no sense to this build.
pub(super) fn load(path: &Path) -> io::Result<(SnapshotMeta, State)> {
    let mut file = fs::File::open(path)?;
    let body = check(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    parse(file, body).map_err(|error| {
        let what = format!("{}: intact, but not readable by this build: {error}", path.display());
        io::Error::new(io::ErrorKind::Unsupported, what)
    })
}

fn parse(mut file: fs::File, body: u64) -> io::Result<(SnapshotMeta, State)> {
    let (meta, used) = read_head(&mut file)?;
    let mut input = BufReader::new(file).take(body.saturating_sub(used));
    let state = State::read_from(&mut input).map_err(io::Error::other)?;
    Ok((meta, state))
}

/// Checks the hash, returns the length before it.
fn check(file: &mut fs::File) -> io::Result<u64> {
    let body = file.metadata()?.len().checked_sub(HASH).ok_or_else(|| damaged("too short".into()))?;
    let mut hash = Sha256::new();
    let mut input = BufReader::with_capacity(256 << 10, &*file);
    let copied = io::copy(&mut (&mut input).take(body), &mut hash)?;
    let mut expected = [0; 32];
    input.read_exact(&mut expected)?;
    if copied == body && hash.finalize().as_slice() == expected {
        Ok(body)
    } else {
        Err(damaged("the checksum does not match".into()))
    }
}

/// The metadata, and how many bytes it took.
fn read_head(file: &mut fs::File) -> io::Result<(SnapshotMeta, u64)> {
    let mut head = [0; 12];
    file.read_exact(&mut head)?;
    let (magic, length) = head.split_at(8);
    if magic != MAGIC {
        return Err(damaged("not a snapshot of a format this build knows".into()));
    }
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    if length > META_MAX {
        return Err(damaged("the metadata is too long".into()));
    }
    let mut meta = vec![0; length as usize];
    file.read_exact(&mut meta)?;
    Ok((decode(&meta)?, 12 + u64::from(length)))
}

/// Sorts by log position.
fn name(last: Option<&LogId>) -> String {
    let (index, term) = last.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{index:020}-{term:020}")
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
