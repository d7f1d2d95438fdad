//! Segments from another member: for a snapshot that names them, or in place of damaged ones.
//!
//! A segment comes in parts, each a request with an answer, and is taken only
//! with the digest that the replicated state names. What arrived whole stays,
//! so a fetch that breaks off goes on with the next segment.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::domain::archive::{LENGTH_MAX, Segment};
use crate::domain::{Digest, NodeId};
use crate::mesh::Lane;
use crate::tasks::Tasks;

use super::super::core::Core;
use super::super::frames::SegmentRead;
use super::super::network::Link;
use super::super::pace::Pace;
use super::super::transfer::FRAME_LIMIT;
use super::Archive;

/// Bytes of one part.
pub(in crate::consensus) const PART: usize = 512 << 10;

/// Segments on their way at once.
const AT_ONCE: usize = 4;

/// Between two looks for what is missing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Fetches segments into the archive, each from the first of `sources` that gives it.
///
/// # Errors
///
/// Says which segment nobody gave, or could not be written.
pub(in crate::consensus) async fn fetch(
    archive: &Archive,
    link: &Link,
    tasks: &Tasks,
    sources: &[NodeId],
    segments: Vec<Arc<Segment>>,
) -> Result<(), String> {
    let pace = Pace::new();
    let one = |segment: Arc<Segment>| {
        let pace = &pace;
        async move { fetch_one(archive, link, tasks, sources, &segment, pace).await }
    };
    stream::iter(segments.into_iter().map(one)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

async fn fetch_one(
    archive: &Archive,
    link: &Link,
    tasks: &Tasks,
    sources: &[NodeId],
    segment: &Arc<Segment>,
    pace: &Pace,
) -> Result<(), String> {
    for source in sources {
        match take(link, *source, segment, pace).await {
            Ok(bytes) => {
                let (archive, wanted) = (archive.clone(), Arc::clone(segment));
                let stored = tasks.spawn_blocking(move || archive.restore(&wanted, &bytes)).await;
                let stored = stored.map_err(|error| error.to_string())?;
                return stored.map_err(|error| format!("write segment {}: {error}", segment.name()));
            }
            Err(why) => tracing::debug!(segment = segment.name(), from = %source, why, "segment not fetched"),
        }
    }
    Err(format!("no member gave segment {}", segment.name()))
}

async fn take(link: &Link, source: NodeId, segment: &Segment, pace: &Pace) -> Result<Vec<u8>, String> {
    if segment.bytes > LENGTH_MAX {
        return Err("it is too long".to_owned());
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < segment.bytes {
        let ask = SegmentRead { number: segment.number, sha256: segment.sha256, offset: bytes.len() as u64 };
        let part = link.send(source, Lane::Snapshot, &ask, FRAME_LIMIT).await;
        let part = part.map_err(|failure| format!("{failure:?}"))?.ok_or("it does not have it")?;
        let fits = !part.0.is_empty() && (bytes.len() + part.0.len()) as u64 <= segment.bytes;
        if !fits {
            return Err("a part does not fit".to_owned());
        }
        bytes.extend_from_slice(&part.0);
        pace.passed(part.0.len()).await;
    }
    if Digest::of(&bytes) == segment.sha256 { Ok(bytes) } else { Err("its bytes are not those named".to_owned()) }
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
            let sources: Vec<NodeId> = core.sources(core.metrics().current_leader);
            match fetch(archive, &core.link, &core.tasks, &sources, vec![Arc::clone(&segment)]).await {
                Ok(()) => tracing::info!(segment = segment.name(), "segment of the archive repaired"),
                Err(why) => tracing::debug!(segment = segment.name(), why, "segment of the archive not repaired yet"),
            }
        }
    }
}
