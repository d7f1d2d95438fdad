//! Segments from another member: for a snapshot that names them, or in place of damaged ones.
//!
//! A segment comes in parts, each a request with an answer, and is taken only
//! with the digest that the replicated state names. What arrived whole stays,
//! so a fetch that breaks off goes on with the next segment.
//!
//! Who does not have a segment, or not as it is named, says so or shows it. If
//! the member asked first did, and nobody else helped, the segment is *lost* for
//! now: a member that is down must not hold up what goes on without it.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};

use crate::domain::archive::{LENGTH_MAX, Segment};
use crate::domain::{Digest, NodeId};
use crate::mesh::Lane;
use crate::tasks::Tasks;

use super::super::core::Core;
use super::super::frames::SegmentRead;
use super::super::network::{Failure, Link};
use super::super::pace::Pace;
use super::super::transfer::FRAME_LIMIT;
use super::Archive;

/// Bytes of one part.
pub(in crate::consensus) const PART: usize = 512 << 10;

/// Segments on their way at once.
const AT_ONCE: usize = 4;

/// Between two looks for what is missing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a member did not give a segment.
enum Miss {
    /// It does not have it as it is named.
    Lacks(&'static str),
    Unheard(Failure),
}

/// Fetches segments into the archive, each from the first of `sources` that gives it. Returns those that are lost.
///
/// # Errors
///
/// Says which segment could not be asked for, or written. The others were fetched all the same.
pub(in crate::consensus) async fn fetch(
    archive: &Archive,
    link: &Link,
    tasks: &Tasks,
    sources: &[NodeId],
    segments: Vec<Arc<Segment>>,
) -> Result<Vec<Arc<Segment>>, String> {
    let pace = Pace::new();
    let one = |segment: Arc<Segment>| {
        let pace = &pace;
        async move {
            let here = fetch_one(archive, link, tasks, sources, &segment, pace).await?;
            Ok((!here).then_some(segment))
        }
    };
    let all: Vec<Result<_, String>> =
        stream::iter(segments.into_iter().map(one)).buffer_unordered(AT_ONCE).collect().await;
    all.into_iter().filter_map(Result::transpose).collect()
}

/// Whether it is here now; if not, it is lost.
async fn fetch_one(
    archive: &Archive,
    link: &Link,
    tasks: &Tasks,
    sources: &[NodeId],
    segment: &Arc<Segment>,
    pace: &Pace,
) -> Result<bool, String> {
    let mut asked_first = true;
    for (source, turn) in sources.iter().zip(0..) {
        match take(link, *source, segment, pace).await {
            Ok(bytes) => {
                let (archive, wanted) = (archive.clone(), Arc::clone(segment));
                let stored = tasks.spawn_blocking(move || archive.restore(&wanted, &bytes)).await;
                let stored = stored.map_err(|error| error.to_string())?;
                return stored.map(|()| true).map_err(|error| format!("write segment {}: {error}", segment.name()));
            }
            Err(Miss::Lacks(why)) => {
                tracing::debug!(segment = segment.name(), from = %source, why, "segment not fetched")
            }
            Err(Miss::Unheard(why)) => {
                tracing::debug!(segment = segment.name(), from = %source, ?why, "segment not fetched");
                asked_first &= turn > 0;
            }
        }
    }
    if asked_first { Ok(false) } else { Err(format!("no member gave segment {}", segment.name())) }
}

async fn take(link: &Link, source: NodeId, segment: &Segment, pace: &Pace) -> Result<Vec<u8>, Miss> {
    if segment.bytes > LENGTH_MAX {
        return Err(Miss::Lacks("it is too long"));
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < segment.bytes {
        let ask = SegmentRead { number: segment.number, sha256: segment.sha256, offset: bytes.len() as u64 };
        let part = link.send(source, Lane::Snapshot, &ask, FRAME_LIMIT).await;
        let part = part.map_err(Miss::Unheard)?.ok_or(Miss::Lacks("it does not have it"))?;
        let fits = !part.0.is_empty() && (bytes.len() + part.0.len()) as u64 <= segment.bytes;
        if !fits {
            return Err(Miss::Lacks("a part does not fit"));
        }
        bytes.extend_from_slice(&part.0);
        pace.passed(part.0.len()).await;
    }
    if Digest::of(&bytes) == segment.sha256 { Ok(bytes) } else { Err(Miss::Lacks("its bytes are not those named")) }
}

/// Gets what is missing or damaged here from the other members, for as long as the node runs.
pub(in crate::consensus) async fn repair(core: Arc<Core>) {
    let archive = &core.archive;
    loop {
        tokio::select! {
            () = archive.wants_repair() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        for segment in archive.missing() {
            if core.room().is_ok_and(|room| room < segment.bytes) {
                tracing::warn!(segment = segment.name(), "segment of the archive not repaired: the disk has no room");
                break;
            }
            let sources: Vec<NodeId> = core.sources(core.metrics().current_leader);
            match fetch(archive, &core.link, &core.tasks, &sources, vec![Arc::clone(&segment)]).await {
                Ok(lost) if lost.is_empty() => {
                    tracing::info!(segment = segment.name(), "segment of the archive repaired")
                }
                Ok(_) => tracing::debug!(segment = segment.name(), "no member has this segment of the archive"),
                Err(why) => tracing::debug!(segment = segment.name(), why, "segment of the archive not repaired yet"),
            }
        }
    }
}
