//! Snapshots from the leader to a member that fell behind the log.
//!
//! A transfer is begin, chunks in order, end with the checksum; each is a
//! request with an answer, so the sender never runs ahead. The receiver takes
//! one transfer at a time: a new one replaces the old. One of the same snapshot
//! that was broken off goes on where it stopped; one that is given up, or whose
//! checksum is wrong, takes its file with it.
//!
//! A snapshot names segments of the archive. Those that are not here are fetched
//! before it is installed; if that takes too long, the sender asks again, and
//! what arrived meanwhile stays. One that is lost everywhere does not hold it up:
//! it is missing here as it is there, and looked for as long as the node runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::raft::SnapshotResponse;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::domain::NodeId;
use crate::domain::archive::Segment;
use crate::mesh::Lane;
use crate::tasks::Tasks;

use super::Error;
use super::archive::fetch::fetch;
use super::codec::Blob;
use super::core::Core;
use super::frames::{SnapshotBegin, SnapshotChunk, SnapshotEnd};
use super::network::{Failure, Link};
use super::pace::Pace;
use super::snapshot::{self, Directory};
use super::types::{Snapshot, SnapshotMeta, TypeConfig, Vote};

const CHUNK: usize = 256 << 10;

/// For one frame to be written and answered.
pub(super) const FRAME_LIMIT: Duration = Duration::from_secs(10);

/// For the receiver to check, load and install the whole.
const INSTALL_LIMIT: Duration = Duration::from_secs(120);

/// A transfer that is silent for longer is given up.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// For segments to be fetched before the sender has to ask again.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// How often it is said that the disk has no room.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Largest snapshot taken in.
const LENGTH_MAX: u64 = 64 << 30;

/// Sends a snapshot file, and waits until it is installed.
pub(super) async fn send(
    link: &Link,
    target: NodeId,
    vote: Vote,
    snapshot: &Snapshot,
) -> Result<SnapshotResponse<TypeConfig>, Failure> {
    let unreadable = |error: std::io::Error| {
        let why = format!("read snapshot: {error}");
        link.snapshots.fail(&why);
        Failure::NotSent(why)
    };
    let mut file = tokio::fs::File::open(&snapshot.snapshot.path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    let transfer = rand::random();
    let begin = SnapshotBegin { transfer, meta: snapshot.meta.clone(), length };
    let from = link.send(target, Lane::Snapshot, &begin, FRAME_LIMIT).await?;
    if from > 0 {
        tracing::info!(%target, from, length, "snapshot transfer goes on where it broke off");
    }

    let (mut hash, pace) = (Sha256::new(), Pace::new());
    let mut offset = 0;
    while offset < length {
        // What is there already is hashed and not sent.
        let stop = if offset < from { from.min(length) } else { length };
        let mut bytes = vec![0; CHUNK.min(usize::try_from(stop - offset).unwrap_or(CHUNK))];
        file.read_exact(&mut bytes).await.map_err(unreadable)?;
        hash.update(&bytes);
        let (at, size) = (offset, bytes.len());
        offset += size as u64;
        if at >= from {
            let chunk = SnapshotChunk { transfer, offset: at, bytes: Blob(Bytes::from(bytes)) };
            link.send(target, Lane::Snapshot, &chunk, FRAME_LIMIT).await?;
            pace.passed(size).await;
        }
    }
    let end = SnapshotEnd { transfer, vote, sha256: hash.finalize().into() };
    link.send(target, Lane::Snapshot, &end, INSTALL_LIMIT).await
}

/// The receiving side of transfers.
pub(super) struct Receiver {
    directory: Directory,
    tasks: Tasks,
    current: Mutex<Option<Receiving>>,
    /// When it was last said that there is no room.
    warned: Mutex<Option<Instant>>,
}

struct Receiving {
    peer: NodeId,
    transfer: u64,
    meta: SnapshotMeta,
    length: u64,
    offset: u64,
    hash: Sha256,
    out: tokio::fs::File,
    file: snapshot::File,
    heard: Instant,
}

impl Receiver {
    pub fn new(directory: Directory, tasks: &Tasks) -> Self {
        Self { directory, tasks: tasks.clone(), current: Mutex::default(), warned: Mutex::default() }
    }

    /// Gives up a transfer whose sender is gone.
    pub fn expire(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|receiving| receiving.heard.elapsed() > IDLE_LIMIT) {
            tracing::warn!("snapshot transfer given up: its sender fell silent");
            *current = None;
        }
    }

    /// Makes ready for a snapshot, if `room` bytes of disk are enough for it. Returns the offset from which it is wanted.
    pub async fn begin(&self, peer: NodeId, begin: SnapshotBegin, room: u64) -> Result<u64, Error> {
        if begin.length > LENGTH_MAX {
            return Err(refused("the snapshot is too long"));
        }
        if let Some(offset) = self.resume(peer, &begin) {
            return Ok(offset);
        }
        self.check_room(begin.length, room)?;
        self.replace(None);
        let path: PathBuf = self.directory.part(&format!("receive-{:016x}", begin.transfer));
        let file = snapshot::File::received(path.clone());
        let out = tokio::fs::File::create(&path).await.map_err(|error| disk(&error))?;
        let SnapshotBegin { transfer, meta, length } = begin;
        let (hash, heard) = (Sha256::new(), clock::instant());
        self.replace(Some(Receiving { peer, transfer, meta, length, offset: 0, hash, out, file, heard }));
        Ok(0)
    }

    /// Goes on with a transfer of the same snapshot that broke off, whoever sends it now: the checksum at the end tells
    /// whether it was the same.
    fn resume(&self, peer: NodeId, begin: &SnapshotBegin) -> Option<u64> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |receiving: &&mut Receiving| receiving.meta == begin.meta && receiving.length == begin.length;
        let receiving = current.as_mut().filter(same)?;
        (receiving.peer, receiving.transfer, receiving.heard) = (peer, begin.transfer, clock::instant());
        Some(receiving.offset)
    }

    pub async fn chunk(&self, peer: NodeId, chunk: SnapshotChunk) -> Result<(), Error> {
        let mut receiving = self.take(peer, chunk.transfer)?;
        let length = chunk.bytes.0.len() as u64;
        if chunk.offset != receiving.offset || receiving.offset + length > receiving.length {
            self.replace(Some(receiving));
            return Err(refused("a chunk does not follow"));
        }
        receiving.out.write_all(&chunk.bytes.0).await.map_err(|error| disk(&error))?;
        receiving.hash.update(&chunk.bytes.0);
        receiving.offset += length;
        receiving.heard = clock::instant();
        self.replace(Some(receiving));
        Ok(())
    }

    pub async fn end(
        &self,
        core: &Core,
        peer: NodeId,
        end: SnapshotEnd,
    ) -> Result<SnapshotResponse<TypeConfig>, Error> {
        let mut receiving = self.take(peer, end.transfer)?;
        let whole = receiving.offset == receiving.length;
        if !whole || receiving.hash.clone().finalize().as_slice() != end.sha256 {
            return Err(refused("the snapshot arrived damaged"));
        }
        receiving.out.flush().await.map_err(|error| disk(&error))?;
        receiving.out.sync_all().await.map_err(|error| disk(&error))?;
        let segments = self.readable(&receiving).await?;
        if let Err(error) = self.complete(core, peer, segments, core.room()?).await {
            receiving.heard = clock::instant();
            self.replace(Some(receiving));
            return Err(error);
        }
        let snapshot = Snapshot { meta: receiving.meta, snapshot: receiving.file };
        core.raft.install_full_snapshot(end.vote, snapshot).await.map_err(|fatal| refused(&fatal.to_string()))
    }

    /// Whether a snapshot can be installed here, and the segments that it names. Raft ends this node over one that can
    /// not, and the leader would send it again after every restart: so it is refused before Raft hears of it.
    async fn readable(&self, receiving: &Receiving) -> Result<Vec<Arc<Segment>>, Error> {
        let (path, meta) = (receiving.file.path.clone(), receiving.meta.clone());
        let load = move || match snapshot::load(&path) {
            Ok((found, state)) if found == meta => Ok(state.archive().segments().cloned().collect()),
            Ok(_) => Err(refused("the snapshot is not the one announced")),
            Err(error) => Err(refused(&error.to_string())),
        };
        let loaded = self.tasks.spawn_blocking(load).await.map_err(|error| refused(&error.to_string()))?;
        loaded.inspect_err(|error| tracing::warn!(%error, "snapshot from the leader not installed"))
    }

    /// Fetches the segments that are not here, from the sender or from any member, if `room` bytes of disk are enough.
    pub async fn complete(
        &self,
        core: &Core,
        peer: NodeId,
        segments: Vec<Arc<Segment>>,
        room: u64,
    ) -> Result<(), Error> {
        let archive = core.archive.clone();
        let lacking = self.tasks.spawn_blocking(move || archive.lacking(segments)).await;
        let lacking = lacking.map_err(|error| refused(&error.to_string()))?;
        if lacking.is_empty() {
            return Ok(());
        }
        self.check_room(lacking.iter().map(|segment| segment.bytes).sum(), room)?;
        let (count, sources) = (lacking.len(), core.sources(Some(peer)));
        tracing::info!(segments = count, from = %peer, "fetching segments that the snapshot names");
        let fetched = fetch(&core.archive, &core.link, &self.tasks, &sources, lacking);
        match tokio::time::timeout(FETCH_LIMIT, fetched).await {
            Ok(Ok(lost)) => {
                if let Some(first) = lost.first() {
                    let (segments, first) = (lost.len(), first.name());
                    tracing::warn!(segments, first, "no member gave these segments: the snapshot goes without them");
                }
                Ok(())
            }
            Ok(Err(why)) => Err(refused(&why)),
            Err(_) => Err(refused("its segments are still on their way")),
        }
    }

    /// The leader asks again several times a second, so it is not said each time.
    fn check_room(&self, length: u64, room: u64) -> Result<(), Error> {
        if length <= room {
            return Ok(());
        }
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
            *warned = Some(clock::instant());
            tracing::warn!(length, room, "snapshot from the leader refused: the disk has no room for it");
        }
        Err(refused("the disk has no room for it"))
    }

    fn replace(&self, receiving: Option<Receiving>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = receiving;
    }

    /// Takes the transfer out while a frame of it is at work. An error then ends it.
    fn take(&self, peer: NodeId, transfer: u64) -> Result<Receiving, Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = current.as_ref().is_some_and(|receiving| receiving.peer == peer && receiving.transfer == transfer);
        if ours { current.take().ok_or_else(|| refused("no such transfer")) } else { Err(refused("no such transfer")) }
    }
}

fn refused(why: &str) -> Error {
    Error::Setup(format!("snapshot transfer: {why}"))
}

fn disk(error: &std::io::Error) -> Error {
    Error::Setup(format!("snapshot transfer: write: {error}"))
}
