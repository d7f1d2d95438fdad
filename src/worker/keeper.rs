//! Hands out what this worker keeps: outputs that are too large for the log.
//!
//! Coordinators ask for one part at a time. A few are read at once; beyond that
//! they are told to come again, and no more than that is in memory.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::{error, warn};

use super::shelf::{Missing, Shelf};
use crate::domain::Digest;
use crate::mesh::{BUSY, Reply, fetch};
use crate::tasks::Tasks;
use crate::wire;
use crate::wire::proto::mesh::v1::{FetchRange, FetchReply};

/// Parts read at once.
const READS_MAX: usize = 16;

#[derive(Clone, Debug)]
pub(super) struct Keeper {
    pub shelf: Shelf,
    reads: Arc<Semaphore>,
}

impl Keeper {
    pub fn new(shelf: Shelf) -> Self {
        Self { shelf, reads: Arc::new(Semaphore::new(READS_MAX)) }
    }

    /// Answers a coordinator, aside. False if the question makes no sense.
    pub fn answer(&self, question: Bytes, reply: Reply, tasks: &Tasks) -> bool {
        let parsed = wire::decode::<FetchRange>(question).filter(|range| range.length <= fetch::PART_MAX);
        let Some((range, digest)) = parsed.and_then(|range| wire::digest(&range.sha256).map(|digest| (range, digest)))
        else {
            reply.refuse("malformed question");
            return false;
        };
        let Ok(permit) = Arc::clone(&self.reads).try_acquire_owned() else {
            reply.refuse(BUSY);
            return true;
        };
        let shelf = self.shelf.clone();
        tasks.spawn_until_stopped("fetch", async move {
            let read = shelf.read(&digest, range.offset, range.length).await;
            let answer = match read {
                Ok(data) => FetchReply { code: String::new(), data },
                Err(missing) => FetchReply { code: code(&digest, &missing).to_owned(), data: Bytes::new() },
            };
            reply.send(wire::encode(&answer));
            drop(permit);
        });
        true
    }
}

fn code(sha256: &Digest, missing: &Missing) -> &'static str {
    match missing {
        Missing::Gone => "gone",
        Missing::Range => "range",
        Missing::Damaged => {
            warn!(%sha256, "an output on the disk is not what was stored");
            "damaged"
        }
        Missing::File(error) => {
            error!(%sha256, %error, "cannot read an output");
            "failed"
        }
    }
}
