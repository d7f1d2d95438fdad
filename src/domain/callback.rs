//! Who is still to be told that a job has ended.
//!
//! A job that names a URL leaves a [`Notice`] there when it ends: all that the
//! receiver is told, so that the notice outlives the job. Whoever leads posts it
//! and reports what came of it; until then it waits here, across leaders. It is
//! not the journal with a cursor: one receiver that is down for an hour would
//! hold the cursor, and with it the journal, for all of them.
//!
//! Invariants
//!
//! * A notice's number is that of the journal entry of the end it tells of. It
//!   never changes, and a job that is retried and ends again leaves another.
//! * Notices are bounded in number and bytes, for one receiver and in all. Beyond
//!   a bound the oldest gives way: [`OVERFLOW`] is its job's record of it. No
//!   submission is refused, and no job kept, because a receiver is slow.
//!
//! Absent: when a notice is tried next. That is the leader's own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bytes;
use super::cow::{Map, Set};
use super::ids::{Digest, JobId, WorkerId};
use super::job::{JobError, JobState};
use super::time::Timestamp;

/// Bytes of an output that a notice carries. Of a longer one it carries the digest alone.
pub const OUTPUT_MAX: usize = 4 << 10;

/// Bytes of an error's detail that it carries.
pub const DETAIL_MAX: usize = 1 << 10;

/// Why a notice was given up: too many of its receiver, or in all, waited.
pub const OVERFLOW: &str = "too_many_waiting";

/// Bytes a notice is counted with beside its texts.
const NOTICE_BYTES: usize = 512;

/// What a receiver is told about the end of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Number of the journal entry of the end.
    pub event: u64,
    pub url: Box<str>,
    pub job: JobId,
    pub kind: String,
    pub tags: Vec<String>,
    /// Final.
    pub state: JobState,
    pub attempt: u32,
    /// `None`: it ended without one.
    pub worker: Option<WorkerId>,
    pub submitted_at: Timestamp,
    pub ended_at: Timestamp,
    /// Of a completed job.
    pub result: Option<Brought>,
    /// Of one that did not complete.
    pub error: Option<JobError>,
}

/// What a completed job brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    pub output_sha256: Digest,
    pub output_size: u64,
    /// All of it, if it is short and here.
    #[serde(with = "bytes::optional")]
    pub output: Option<Vec<u8>>,
    pub exit_code: i32,
    pub duration_ms: u64,
}

/// What came of a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Called {
    /// The receiver took it.
    Delivered { tries: u32 },
    /// Nobody will try again.
    GivenUp {
        tries: u32,
        /// Why, for machines: of the last try.
        code: Box<str>,
    },
}

/// A job's own record of its callback, from its end on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// The notice's number.
    pub event: u64,
    /// When it was left, delivered or given up.
    pub at: Timestamp,
    /// `None`: it waits.
    pub called: Option<Called>,
}

impl Notice {
    /// Who is to be told: host and port, as the URL names them.
    pub fn receiver(&self) -> &str {
        receiver(&self.url)
    }

    /// Bytes it takes.
    pub fn size(&self) -> usize {
        let output = self.result.as_ref().and_then(|result| result.output.as_ref()).map_or(0, Vec::len);
        let error = self.error.as_ref().map_or(0, |error| error.code.len() + error.detail.len());
        let tags: usize = self.tags.iter().map(|tag| tag.len() + size_of::<String>()).sum();
        NOTICE_BYTES + 2 * self.receiver().len() + self.url.len() + self.kind.len() + tags + output + error
    }
}

/// What stands between the scheme and the path.
fn receiver(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

/// Notices that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    waiting: Map<u64, Arc<Notice>>,
    /// The same by receiver, oldest first.
    lines: Set<(Box<str>, u64)>,
    /// How many wait for each.
    counts: Map<Box<str>, usize>,
    bytes: usize,
}

impl Callbacks {
    pub fn notice(&self, event: u64) -> Option<&Arc<Notice>> {
        self.waiting.get(&event)
    }

    /// Those with a number above `event`, oldest first.
    pub fn after(&self, event: u64) -> impl Iterator<Item = &Arc<Notice>> {
        self.waiting.after(Some(event)).map(|(_, notice)| notice)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Different receivers that something waits for.
    pub fn receivers(&self) -> usize {
        self.counts.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn from_parts(waiting: Map<u64, Arc<Notice>>) -> Self {
        let mut callbacks = Self::default();
        waiting.iter().for_each(|(_, notice)| callbacks.add(Arc::clone(notice)));
        callbacks
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Notice>> {
        self.waiting.iter().map(|(_, notice)| notice)
    }

    pub(super) fn add(&mut self, notice: Arc<Notice>) {
        let receiver: Box<str> = notice.receiver().into();
        self.bytes += notice.size();
        self.lines.add((receiver.clone(), notice.event));
        match self.counts.get_mut(&receiver) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(receiver, 1)),
        }
        self.waiting.insert(notice.event, notice);
    }

    pub(super) fn remove(&mut self, event: u64) -> Option<Arc<Notice>> {
        let notice = self.waiting.remove(&event)?;
        let receiver: Box<str> = notice.receiver().into();
        self.bytes -= notice.size();
        if self.counts.get(&receiver).is_some_and(|count| *count <= 1) {
            self.counts.remove(&receiver);
        } else if let Some(count) = self.counts.get_mut(&receiver) {
            *count -= 1;
        }
        self.lines.remove(&(receiver, event));
        Some(notice)
    }

    /// The oldest that wait for the receiver of `notice`, and how many do.
    pub(super) fn line_of(&self, notice: &Notice) -> (Option<u64>, usize) {
        let receiver: Box<str> = notice.receiver().into();
        let count = self.counts.get(&receiver).copied().unwrap_or(0);
        let oldest = self.lines.keys_after(Some((receiver.clone(), 0))).next();
        (oldest.filter(|(of, _)| *of == receiver).map(|(_, event)| *event), count)
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.waiting.first().map(|(event, _)| *event)
    }
}

#[cfg(test)]
mod tests {
    use super::receiver;

    #[test]
    fn a_receiver_is_host_and_port() {
        for (url, expected) in [
            ("https://example.org/hook", "example.org"),
            ("http://example.org:81/a:b@c", "example.org:81"),
            ("http://[::1]:9?x=/", "[::1]:9"),
            ("https://example.org", "example.org"),
        ] {
            assert_eq!(receiver(url), expected);
        }
    }
}
