//! Finished jobs that have left memory.
//!
//! The newest finished jobs are in the state. When there are a batch more than
//! it is to hold, the oldest batch that every sink has heard of is *sealed*: it
//! becomes a segment, a string of bytes with a number, which never changes and
//! is the same on every node. The state keeps what identifies each segment; who
//! applies takes the bytes out ([`State::take_sealed`]) and puts them on disk
//! before the log that made them goes. Replaying the log makes them again.
//!
//! A job that the chain has yet to say something of is passed by: what is in a
//! segment is never added to. There are only so many of them, and if they are
//! all that is left of too many bytes, they go as they are.
//!
//! Retention removes whole segments, the oldest first ([`Retain::Drop`]), and
//! what is too old but still in memory ([`Retain::Expire`]).
//!
//! Invariants
//!
//! * Segments are numbered from 1 without a gap; those kept are the last of them.
//! * A segment is full when it is sealed, or what it has is very large: small ones would be many.
//! * Nothing here is read back: `apply` knows of an archived job that it was
//!   there, and with which fingerprint, if it can be sent again at all.

mod segment;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(super) use segment::seal;
pub use segment::{Archived, Damage, Entry, HEAD, Head, head, index, record};

use super::chain::Settlement;
use super::cow::Map;
use super::ids::{Digest, JobId};
use super::job::{Job, JobState};
use super::state::State;
use super::time::Timestamp;

/// The final states, in the order in which they are counted.
pub const FINAL: [JobState; 3] = [JobState::Completed, JobState::Failed, JobState::Cancelled];

/// Bytes of a segment. More than this is none: whoever reads one holds all of it.
pub const LENGTH_MAX: u64 = 64 << 20;

/// What is done about finished jobs, as the leader decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retain {
    /// How many finished jobs stay in memory, and how many leave it together. At most what every node can hold.
    Hold { hot: u32, batch: u32 },
    /// Removes the segments up to and with this number.
    Drop { through: u64 },
    /// Removes jobs in memory that ended before this time, the oldest first, some at a time.
    Expire { before: Timestamp },
}

/// What identifies a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub number: u64,
    /// Of all its bytes.
    pub sha256: Digest,
    pub bytes: u64,
    /// By final state, see [`FINAL`].
    pub jobs: [u64; 3],
    /// When the first and the last of its jobs ended.
    pub first: Timestamp,
    pub last: Timestamp,
}

impl Segment {
    pub fn count(&self) -> u64 {
        self.jobs.iter().sum()
    }

    /// The file's name, the same everywhere.
    pub fn name(&self) -> String {
        let digest = self.sha256.to_string();
        format!("{:010}-{}.seg", self.number, digest.get(2..18).unwrap_or_default())
    }
}

/// A segment with its bytes, on its way to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub segment: Arc<Segment>,
    pub bytes: Arc<[u8]>,
}

/// What the state knows of jobs that left it.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// See [`Retain::Hold`]; `None`: as [`super::state::Limits`] say.
    pub(super) hold: Option<(u32, u32)>,
    segments: Map<u64, Arc<Segment>>,
    jobs: [u64; 3],
    bytes: u64,
    /// Number of the newest segment ever.
    last: u64,
    /// Segments up to this number were removed.
    dropped: u64,
    /// Jobs removed from segments and from memory.
    pub(super) removed_total: u64,
    /// Sealed and not taken out yet. Who it is for takes it after every record, so no snapshot has it.
    fresh: Vec<Sealed>,
}

impl Archive {
    /// `None` if the parts do not fit each other.
    pub(super) fn from_parts(
        hold: Option<(u32, u32)>,
        [last, dropped, removed_total]: [u64; 3],
        segments: Map<u64, Arc<Segment>>,
    ) -> Option<Self> {
        let count = u64::try_from(segments.len()).ok()?;
        let contiguous = last.checked_sub(dropped)? == count && last < u64::from(u32::MAX);
        let numbers = segments.iter().map(|(number, _)| *number);
        if !contiguous || !numbers.eq(dropped + 1..=last) {
            return None;
        }
        let mut archive = Self { hold, last, dropped, removed_total, ..Self::default() };
        for (_, segment) in segments.iter() {
            if segment.bytes > LENGTH_MAX {
                return None;
            }
            archive.count(segment, true)?;
        }
        archive.segments = segments;
        Some(archive)
    }

    fn count(&mut self, segment: &Segment, add: bool) -> Option<()> {
        let change = |sum: u64, by: u64| if add { sum.checked_add(by) } else { sum.checked_sub(by) };
        for (sum, by) in self.jobs.iter_mut().zip(segment.jobs) {
            *sum = change(*sum, by)?;
        }
        self.bytes = change(self.bytes, segment.bytes)?;
        Some(())
    }

    /// What is kept, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter().map(|(_, segment)| segment)
    }

    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Archived jobs that ended in a final state; 0 for one that is not.
    pub fn jobs_in(&self, state: JobState) -> u64 {
        FINAL.iter().zip(self.jobs).find(|(of, _)| **of == state).map_or(0, |(_, count)| count)
    }

    /// Archived jobs.
    pub fn jobs(&self) -> u64 {
        self.jobs.iter().sum()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Segments up to this number are gone.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Number of the newest segment ever; 0 if there never was one.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Jobs that retention has removed.
    pub fn removed_total(&self) -> u64 {
        self.removed_total
    }

    pub(super) fn keeps(&self, number: u64) -> bool {
        number > self.dropped && number <= self.last
    }

    pub(super) fn add(&mut self, sealed: Sealed) {
        self.last = sealed.segment.number;
        let _ = self.count(&sealed.segment, true);
        self.segments.insert(self.last, Arc::clone(&sealed.segment));
        self.fresh.push(sealed);
    }

    /// Removes the oldest segment; `None` if there is none.
    pub(super) fn drop_oldest(&mut self) -> Option<()> {
        let (&number, segment) = self.segments.first()?;
        let segment = Arc::clone(segment);
        self.segments.remove(&number);
        self.count(&segment, false)?;
        self.dropped = number;
        self.removed_total = self.removed_total.saturating_add(segment.count());
        self.fresh.retain(|sealed| sealed.segment.number > number);
        Some(())
    }

    /// What stands for all of it, and the newest segment's digest.
    pub(super) fn summary(&self) -> (Option<(u32, u32)>, [u64; 3], Option<Digest>) {
        let newest = self.segments.get(&self.last).map(|segment| segment.sha256);
        (self.hold, [self.last, self.dropped, self.removed_total], newest)
    }
}

impl State {
    /// Finished jobs that have left memory.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// How many finished jobs stay in memory, and how many leave it together.
    pub fn hold(&self) -> (usize, usize) {
        let (hot, batch) = (self.limits.finished, self.limits.segment_jobs);
        match self.archive.hold {
            Some((hold, size)) => (to_usize(hold).min(hot), to_usize(size).min(batch)),
            None => (hot, batch),
        }
    }

    /// Finished jobs in memory.
    pub fn hot_jobs(&self) -> usize {
        self.index.finished.len()
    }

    /// Whether [`Retain::Expire`] would remove something: what ended before that, and every sink has heard of.
    pub fn expires(&self, before: Timestamp) -> bool {
        let undelivered = self.journal.undelivered_since();
        let oldest = self.index.finished.first().map(|(&(at, _), ())| at);
        oldest.is_some_and(|at| at < before && undelivered.is_none_or(|since| at < since))
    }

    /// Segments sealed since the last call.
    pub fn take_sealed(&mut self) -> Vec<Sealed> {
        std::mem::take(&mut self.archive.fresh)
    }

    /// What is to be told of an archived job: a state of the same moment that has this job, and hardly more.
    pub fn beside(&self, archived: Archived) -> Self {
        let mut beside = Self::within(self.limits);
        let Archived { job, payload, output, settlement } = archived;
        let id = job.id;
        (beside.now, beside.applied, beside.applied_term, beside.hash) =
            (self.now, self.applied, self.applied_term, self.hash);
        beside.chain.books = self.chain.books.clone();
        beside.index.open = self.index.open;
        beside.jobs.insert(id, job);
        if let Some(payload) = payload {
            beside.payloads.insert(id, payload);
        }
        if let Some(output) = output {
            beside.outputs.insert(id, output);
        }
        if let Some(settlement) = settlement {
            beside.chain.settlements.insert(id, settlement);
        }
        beside
    }

    /// The oldest jobs that may leave memory together; `None`: too few of them.
    pub(super) fn batch(&self) -> Option<Vec<JobId>> {
        let (hot, batch) = self.hold();
        let too_large = self.index.finished_bytes > self.limits.finished_bytes;
        let full = self.index.finished.len() >= self.limits.finished.saturating_mul(2);
        // Where more are passed by than stay anyway, those are what stays.
        let stay = hot.max(self.settling_most());
        if self.index.finished.len() < stay.saturating_add(batch) && !too_large && !full {
            return None;
        }
        let settling = self.settling();
        let settled = self.oldest(batch, too_large, settling);
        // Memory is bounded, whatever the chain has yet to say.
        settled.or_else(|| if too_large || full { self.oldest(batch, too_large, |_| false) } else { None })
    }

    /// Of which jobs the chain has yet to say what became of something, or an operator what is to.
    fn settling(&self) -> impl Fn(JobId) -> bool {
        let chain = &self.chain;
        let again: BTreeSet<JobId> = chain.again().map(|again| again.item.job).collect();
        let sent = |of: &Arc<Settlement>| of.links.iter().any(|link| chain.slot(link.nonce).is_some());
        move |id| again.contains(&id) || chain.is_parked(id) || chain.settlement(id).is_some_and(sent)
    }

    /// No more jobs than this are settling.
    pub(super) fn settling_most(&self) -> usize {
        let sent: usize = self.chain.lane().map(|(_, slot)| slot.items().len()).sum();
        sent + self.chain.again_len() + self.chain.parked_len()
    }

    /// The oldest that are not to stay: as many as a segment has, or `few` if that is all.
    fn oldest(&self, batch: usize, few: bool, stays: impl Fn(JobId) -> bool) -> Option<Vec<JobId>> {
        let undelivered = self.journal.undelivered_since();
        let (mut ids, mut bytes) = (Vec::with_capacity(batch), 0usize);
        for &(ended, id) in self.index.finished.keys() {
            // A sink that has not told of its end will ask for its output.
            if undelivered.is_some_and(|since| ended >= since) {
                return None;
            }
            if stays(id) {
                continue;
            }
            ids.push(id);
            bytes = bytes.saturating_add(self.jobs.get(&id).map_or(0, |job| self.size_of(job)));
            if ids.len() >= batch || bytes >= self.limits.segment_bytes {
                return Some(ids);
            }
        }
        // A few that are very large: bytes are bounded, whatever becomes of the segment.
        (few && !ids.is_empty()).then_some(ids)
    }

    fn size_of(&self, job: &Job) -> usize {
        let bytes = self.outputs.get(&job.id).map_or(0, |output| output.len());
        bytes + self.payloads.get(&job.id).map_or(0, |payload| payload.len())
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
