//! One ordered map, with values larger than sled should see.
//!
//! In sled a tree has two regions:
//!
//! ```text
//! 0x00 key                        → 0x00 value                     small: the value itself
//!                                   0x01 length u32, chunks u32    large: where to look
//! 0x01 key length u16, key, n u32 → the n-th chunk of a large value
//! ```
//!
//! Keys of the first region sort as the user's keys do and are seen by scans;
//! chunks are not in the way of scans, of `first` or of `last`. The length
//! before the key makes chunk keys prefix-free: those of one key never lie
//! among those of another.
//!
//! Writers of a tree take turns, so that the old chunks a writer finds are the
//! ones it replaces, and whoever puts chunks together keeps writers out. A
//! reader therefore sees every value whole.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Error, Inner};

/// Bytes of a key. Longer ones are refused.
pub const KEY_MAX: usize = 4096;

/// Bytes of a value. Longer ones are refused.
pub const VALUE_MAX: usize = 64 << 20;

/// Bytes of a value under one sled key.
const CHUNK: usize = 48 << 10;

const HEADS: u8 = 0;
const CHUNKS: u8 = 1;
const SMALL: u8 = 0;
const LARGE: u8 = 1;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// One ordered map of bytes. Keys up to 4 KiB; values of any size up to 64 MiB:
/// large ones are split over several keys underneath, because sled must not see
/// a value above 64 KiB (it would become a blob file that is never synced).
#[derive(Clone)]
pub struct Tree {
    sled: sled::Tree,
    shared: Arc<Shared>,
    store: Arc<Inner>,
}

/// What all handles to one tree have in common.
pub(super) struct Shared {
    turn: RwLock<()>,
    /// Whether there ever was a large value; if not, none needs looking for.
    chunked: AtomicBool,
}

impl Shared {
    pub(super) fn of(sled: &sled::Tree) -> Result<Self, sled::Error> {
        let chunked = sled.range([CHUNKS].as_slice()..).next().transpose()?.is_some();
        Ok(Self { turn: RwLock::default(), chunked: AtomicBool::new(chunked) })
    }
}

/// Writes that happen together or not at all, within one tree. Of several
/// writes to one key the last counts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Batch {
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.writes.insert(key.to_vec(), Some(value.to_vec()));
    }

    pub fn delete(&mut self, key: &[u8]) {
        self.writes.insert(key.to_vec(), None);
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

impl Tree {
    pub(super) fn new(sled: sled::Tree, shared: Arc<Shared>, store: Arc<Inner>) -> Self {
        Self { sled, shared, store }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.head(key)? {
            Some(Head::Small(value)) => Ok(Some(value)),
            Some(Head::Large { .. }) => self.get_large(key),
            None => Ok(None),
        }
    }

    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.write([(key, Some(value))].into_iter())
    }

    pub fn delete(&self, key: &[u8]) -> Result<(), Error> {
        self.write([(key, None)].into_iter())
    }

    pub fn apply(&self, batch: Batch) -> Result<(), Error> {
        self.write(batch.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())))
    }

    /// Entries with `from <= key < to` (no `to`: to the end), in key order, lazily.
    ///
    /// Not a snapshot: what is written meanwhile may or may not be seen, each
    /// entry whole.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range {
        let empty = to.is_some_and(|to| to <= from);
        let high = to.map_or_else(|| vec![CHUNKS], head_key);
        let iter = self.sled.range(head_key(from)..high);
        Range { iter: (!empty).then_some(iter), tree: self.clone() }
    }

    /// The keys of [`Self::range`], each with the length of its value, which is not read.
    pub fn keys(&self, from: &[u8], to: Option<&[u8]>) -> impl Iterator<Item = Result<(Vec<u8>, usize), Error>> {
        let Range { iter, tree } = self.range(from, to);
        iter.into_iter().flatten().map(move |pair| {
            let (key, head) = pair.map_err(|e| tree.read_error(e))?;
            Ok((key.get(1..).unwrap_or_default().to_vec(), Head::value_len(&head)?))
        })
    }

    pub fn first(&self) -> Result<Option<Pair>, Error> {
        self.range(&[], None).next().transpose()
    }

    pub fn last(&self) -> Result<Option<Pair>, Error> {
        self.range(&[], None).next_back().transpose()
    }

    fn write<'a>(&self, writes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Result<(), Error> {
        self.store.check()?;
        let _turn = self.shared.turn.write().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        for (key, value) in writes {
            check_sizes(key, value)?;
            self.encode(key, value, &mut out)?;
        }
        self.commit(out).map_err(|e| self.store.fail("write", e))
    }

    /// What sled has to do for one write of ours.
    fn encode(&self, key: &[u8], value: Option<&[u8]>, out: &mut Writes) -> Result<(), Error> {
        let mut chunks = 0;
        match value {
            None => out.push((head_key(key), None)),
            Some(value) if value.len() < CHUNK => out.push((head_key(key), Some(small(value)))),
            Some(value) => {
                for (chunk, n) in value.chunks(CHUNK).zip(0..) {
                    out.push((chunk_key(key, n), Some(chunk.into())));
                    chunks = n + 1;
                }
                out.push((head_key(key), Some(large(value.len(), chunks))));
            }
        }
        let stale = self.chunks_of(key)?;
        out.extend((chunks..stale).map(|n| (chunk_key(key, n), None)));
        if chunks > 0 {
            self.shared.chunked.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn commit(&self, mut writes: Writes) -> Result<(), sled::Error> {
        if writes.len() > 1 {
            let mut batch = sled::Batch::default();
            for (key, value) in writes {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            return self.sled.apply_batch(batch);
        }
        match writes.pop() {
            Some((key, Some(value))) => self.sled.insert(key, value).map(drop),
            Some((key, None)) => self.sled.remove(key).map(drop),
            None => Ok(()),
        }
    }

    /// How many chunks a key has now.
    fn chunks_of(&self, key: &[u8]) -> Result<u32, Error> {
        if !self.shared.chunked.load(Ordering::Acquire) {
            return Ok(0);
        }
        match self.head(key)? {
            Some(Head::Large { chunks, .. }) => Ok(chunks),
            _ => Ok(0),
        }
    }

    fn head(&self, key: &[u8]) -> Result<Option<Head>, Error> {
        let bytes = self.sled.get(head_key(key)).map_err(|e| self.read_error(e))?;
        bytes.map(|bytes| Head::decode(&bytes)).transpose()
    }

    /// The value as it is now, with writers kept out while it is put together.
    fn get_large(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let _turn = self.shared.turn.read().unwrap_or_else(PoisonError::into_inner);
        let (length, chunks) = match self.head(key)? {
            None => return Ok(None),
            Some(Head::Small(value)) => return Ok(Some(value)),
            Some(Head::Large { length, chunks }) => (length, chunks),
        };
        let mut value = Vec::with_capacity(length);
        for chunk in self.sled.range(chunk_key(key, 0)..chunk_key(key, chunks)).values() {
            value.extend_from_slice(&chunk.map_err(|e| self.read_error(e))?);
        }
        if value.len() == length {
            return Ok(Some(value));
        }
        Err(Error::Damaged(format!("a value of {length} bytes has only {} of them", value.len())))
    }

    /// Keys in sled, chunks included.
    #[cfg(test)]
    pub(super) fn raw_len(&self) -> usize {
        self.sled.len()
    }

    fn read_error(&self, source: sled::Error) -> Error {
        Error::sled("read", &self.store.dir, source)
    }
}

type Writes = Vec<(Vec<u8>, Option<sled::IVec>)>;

fn check_sizes(key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
    let length = value.map_or(0, <[u8]>::len);
    if key.len() > KEY_MAX {
        return Err(Error::Refused(format!("a key has {} bytes, the limit is {KEY_MAX}", key.len())));
    }
    if length > VALUE_MAX {
        return Err(Error::Refused(format!("a value has {length} bytes, the limit is {VALUE_MAX}")));
    }
    Ok(())
}

/// What is found under a key of the first region.
enum Head {
    Small(Vec<u8>),
    Large { length: usize, chunks: u32 },
}

impl Head {
    /// How long the value is that `bytes` stand for.
    fn value_len(bytes: &[u8]) -> Result<usize, Error> {
        match bytes {
            [SMALL, value @ ..] => Ok(value.len()),
            _ => match Self::decode(bytes)? {
                Self::Small(value) => Ok(value.len()),
                Self::Large { length, .. } => Ok(length),
            },
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match bytes {
            [SMALL, value @ ..] => Ok(Self::Small(value.to_vec())),
            [LARGE, a, b, c, d, e, f, g, h] => {
                let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
                let chunks = u32::from_be_bytes([*e, *f, *g, *h]);
                if length > VALUE_MAX {
                    return Err(Error::Damaged(format!("a value claims {length} bytes")));
                }
                Ok(Self::Large { length, chunks })
            }
            _ => Err(Error::Damaged("a value has no valid header".to_owned())),
        }
    }
}

fn small(value: &[u8]) -> sled::IVec {
    let mut bytes = Vec::with_capacity(value.len() + 1);
    bytes.push(SMALL);
    bytes.extend_from_slice(value);
    bytes.into()
}

fn large(length: usize, chunks: u32) -> sled::IVec {
    let length = u32::try_from(length).unwrap_or(u32::MAX); // checked against VALUE_MAX before
    let mut bytes = vec![LARGE];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&chunks.to_be_bytes());
    bytes.into()
}

fn head_key(key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.push(HEADS);
    bytes.extend_from_slice(key);
    bytes
}

fn chunk_key(key: &[u8], n: u32) -> Vec<u8> {
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX); // checked against KEY_MAX before
    let mut bytes = Vec::with_capacity(key.len() + 7);
    bytes.push(CHUNKS);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&n.to_be_bytes());
    bytes
}

/// A lazy scan of a tree, from either end.
pub struct Range {
    iter: Option<sled::Iter>,
    tree: Tree,
}

impl Range {
    /// The entry a head stands for; `None` if it was deleted since it was seen.
    fn entry(&self, head: Result<(sled::IVec, sled::IVec), sled::Error>) -> Option<Entry> {
        let (key, head) = match head {
            Ok(pair) => pair,
            Err(error) => return Some(Err(self.tree.read_error(error))),
        };
        let key = key.get(1..).unwrap_or_default().to_vec();
        let value = match Head::decode(&head) {
            Ok(Head::Small(value)) => Ok(Some(value)),
            Ok(Head::Large { .. }) => self.tree.get_large(&key),
            Err(error) => Err(error),
        };
        value.map(|value| value.map(|value| (key, value))).transpose()
    }
}

type Entry = Result<Pair, Error>;

impl Iterator for Range {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let head = self.iter.as_mut()?.next()?;
            if let Some(entry) = self.entry(head) {
                return Some(entry);
            }
        }
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Entry> {
        loop {
            let head = self.iter.as_mut()?.next_back()?;
            if let Some(entry) = self.entry(head) {
                return Some(entry);
            }
        }
    }
}
