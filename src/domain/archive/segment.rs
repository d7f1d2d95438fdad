//! A segment as bytes.
//!
//! ```text
//! head   = magic "ciroSEG1" · number u64 · jobs u32 · index offset u64
//! record = length u32 · check [16] · the job, its bytes and its settlement
//! index  = (id [16] · final state u8 · record offset u32)*
//! tail   = SHA-256 of head and index                     (numbers big-endian)
//! ```
//!
//! Head, index and tail are read when a segment is opened, a record when its job
//! is asked for: the check is the first half of the SHA-256 over length, id and
//! what follows. So every byte is checked before it is believed, and one job
//! costs one read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{FINAL, Sealed, Segment};
use crate::domain::bytes::{Owned, Slice};
use crate::domain::chain::Settlement;
use crate::domain::ids::{Digest, JobId};
use crate::domain::job::{Job, JobState};

const MAGIC: [u8; 8] = *b"ciroSEG1";

/// Bytes of the head.
pub const HEAD: usize = 28;
const TAIL: usize = 32;
const ENTRY: usize = 21;
const CHECK: usize = 16;
/// Bytes of a record before its contents.
const PREFIX: usize = 4 + CHECK;

/// Most that decoding a record may allocate.
const DECODE_MAX: usize = 64 << 20;

/// A finished job with all that was in the state about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    pub job: Arc<Job>,
    pub payload: Option<Arc<[u8]>>,
    pub output: Option<Arc<[u8]>>,
    pub settlement: Option<Arc<Settlement>>,
}

#[derive(Serialize)]
struct Written<'a> {
    job: &'a Job,
    payload: Option<Slice<'a>>,
    output: Option<Slice<'a>>,
    settlement: Option<&'a Settlement>,
}

#[derive(Deserialize)]
struct Read {
    job: Job,
    payload: Option<Owned>,
    output: Option<Owned>,
    settlement: Option<Settlement>,
}

/// The bytes are not those that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damage(&'static str);

/// What a segment says about itself first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub number: u64,
    pub jobs: u32,
    /// Where the index begins.
    pub index: u64,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: JobId,
    pub state: JobState,
    /// Of its record, from the beginning.
    pub offset: u32,
}

/// Makes a segment. Canonical: the same jobs in the same order give the same bytes.
pub(in crate::domain) fn seal(number: u64, jobs: &[Archived]) -> Sealed {
    let mut bytes = vec![0; HEAD];
    let mut entries = Vec::with_capacity(jobs.len() * ENTRY);
    let mut counts = [0; 3];
    for archived in jobs {
        let place = FINAL.iter().position(|state| *state == archived.job.state).unwrap_or(0);
        counts[place] += 1;
        entries.extend(archived.job.id.0);
        entries.push(u8::try_from(place).unwrap_or(0));
        entries.extend(narrow(bytes.len()).to_be_bytes());
        write_record(&mut bytes, archived);
    }
    let mut head = MAGIC.to_vec();
    head.extend(number.to_be_bytes());
    head.extend(narrow(jobs.len()).to_be_bytes());
    head.extend((bytes.len() as u64).to_be_bytes());
    bytes.splice(..HEAD, head.iter().copied());
    let tail = check_index(&head, &entries);
    bytes.extend(entries);
    bytes.extend(tail);
    let ended =
        |archived: Option<&Archived>| archived.and_then(|archived| archived.job.finished_at).unwrap_or_default();
    let segment = Segment {
        number,
        sha256: Digest::of(&bytes),
        bytes: bytes.len() as u64,
        jobs: counts,
        first: ended(jobs.first()),
        last: ended(jobs.last()),
    };
    Sealed { segment: Arc::new(segment), bytes: bytes.into() }
}

fn write_record(bytes: &mut Vec<u8>, archived: &Archived) {
    let at = bytes.len();
    bytes.extend([0; PREFIX]);
    let written = Written {
        job: &archived.job,
        payload: archived.payload.as_deref().map(Slice),
        output: archived.output.as_deref().map(Slice),
        settlement: archived.settlement.as_deref(),
    };
    if bincode::serde::encode_into_std_write(written, bytes, bincode::config::standard()).is_err() {
        // Writing to memory does not fail, and our types have no failing encoder.
        bytes.push(u8::MAX);
    }
    let length = narrow(bytes.len() - at - PREFIX).to_be_bytes();
    let check = check(length, archived.job.id, bytes.get(at + PREFIX..).unwrap_or_default());
    let prefix = length.into_iter().chain(check);
    bytes.splice(at..at + PREFIX, prefix);
}

/// A segment is a few MiB: see [`super::super::state::Limits::segment_bytes`].
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn check(length: [u8; 4], id: JobId, contents: &[u8]) -> [u8; CHECK] {
    let hash = Sha256::new().chain_update(length).chain_update(id.0).chain_update(contents).finalize();
    let mut check = [0; CHECK];
    check.copy_from_slice(&hash[..CHECK]);
    check
}

fn check_index(head: &[u8], entries: &[u8]) -> [u8; TAIL] {
    Sha256::new().chain_update(head).chain_update(entries).finalize().into()
}

/// Reads the head. It is certain only once [`index`] was read, too.
///
/// # Errors
///
/// It is none.
pub fn head(bytes: &[u8; HEAD]) -> Result<Head, Damage> {
    let (magic, rest) = bytes.split_at(8);
    if magic != MAGIC {
        return Err(Damage("it does not begin like a segment"));
    }
    let (number, rest) = rest.split_at(8);
    let (jobs, index) = rest.split_at(4);
    Ok(Head {
        number: wide(number),
        jobs: narrow(usize::try_from(wide(jobs)).unwrap_or(usize::MAX)),
        index: wide(index),
    })
}

/// A big-endian number of at most eight bytes.
fn wide(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Reads what follows the records, with the head before it.
///
/// # Errors
///
/// The bytes are not those that were written.
pub fn index(head_bytes: &[u8; HEAD], rest: &[u8]) -> Result<Vec<Entry>, Damage> {
    let head = head(head_bytes)?;
    let entries = rest.len().checked_sub(TAIL).and_then(|end| rest.split_at_checked(end));
    let (entries, tail) = entries.ok_or(Damage("its index is too short"))?;
    if check_index(head_bytes, entries) != tail {
        return Err(Damage("the checksum of its index is wrong"));
    }
    if entries.len() != usize::try_from(head.jobs).unwrap_or(usize::MAX).saturating_mul(ENTRY) {
        return Err(Damage("its index is not of its jobs"));
    }
    entries.chunks_exact(ENTRY).map(entry).collect()
}

fn entry(bytes: &[u8]) -> Result<Entry, Damage> {
    let mut id = [0; 16];
    let (name, rest) = bytes.split_at(16);
    id.copy_from_slice(name);
    let (place, offset) = rest.split_at(1);
    let state = place.first().and_then(|place| FINAL.get(usize::from(*place)));
    let state = *state.ok_or(Damage("a job in its index has no final state"))?;
    Ok(Entry { id: JobId(id), state, offset: narrow(usize::try_from(wide(offset)).unwrap_or(usize::MAX)) })
}

/// Reads the record of a job from bytes that begin with it; `Ok(Err(length))`: so many are needed.
///
/// # Errors
///
/// The bytes are not those that were written.
pub fn record(bytes: &[u8], id: JobId) -> Result<Result<Archived, usize>, Damage> {
    let Some((prefix, contents)) = bytes.split_at_checked(PREFIX) else { return Ok(Err(PREFIX)) };
    let mut length = [0; 4];
    length.copy_from_slice(prefix.get(..4).unwrap_or_default());
    let size = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let Some(contents) = contents.get(..size) else { return Ok(Err(PREFIX.saturating_add(size))) };
    if prefix.get(4..) != Some(&check(length, id, contents)[..]) {
        return Err(Damage("the checksum of a record is wrong"));
    }
    let config = bincode::config::standard().with_limit::<DECODE_MAX>();
    let decoded = bincode::serde::decode_from_slice::<Read, _>(contents, config);
    let (read, used) = decoded.map_err(|_| Damage("a record is not one of this build"))?;
    if used != size || read.job.id != id || !read.job.state.is_final() {
        return Err(Damage("a record is not of its job"));
    }
    let shared = |bytes: Option<Owned>| bytes.map(|Owned(bytes)| Arc::from(bytes));
    Ok(Ok(Archived {
        job: Arc::new(read.job),
        payload: shared(read.payload),
        output: shared(read.output),
        settlement: read.settlement.map(Arc::new),
    }))
}
