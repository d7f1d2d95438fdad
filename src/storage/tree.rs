//! One ordered map, with values larger than sled should see.
//!
//! In sled a tree has two regions:
//!
//! ```text
//! 0x00 key                        → 0x00 crc u32, value                   small: the value itself
//!                                   0x01 crc u32, length u32, chunks u32  large: where to look
//! 0x01 key length u16, key, n u32 → the n-th chunk of a large value
//! ```
//!
//! The checksum is of key and value, and checked whenever the value is read:
//! sled checks what it reads from the disk, but not what became of it since.
//!
//! Keys of the first region sort as the user's keys do and are seen by scans;
//! chunks are not in the way of scans, of `first` or of `last`. The length
//! before the key makes chunk keys prefix-free: those of one key never lie
//! among those of another.
//!
//! Writers of a tree take turns, so that the old chunks a writer finds are the
//! ones it replaces, and whoever puts chunks together keeps writers out. A
//! reader therefore sees every value whole. Writers of different trees take
//! turns as well, see [`super::seal`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Error, Inner, seal};

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

/// Bytes before a small value: its kind and its checksum.
const SMALL_HEAD: usize = 5;

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
#[derive(Default)]
pub(super) struct Shared {
    turn: RwLock<()>,
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
            Some(Head::Large(_)) => self.get_large(key),
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
            let key = key.get(1..).unwrap_or_default().to_vec();
            let length = Stat::of(&head).ok_or_else(|| tree.damaged(&key))?.length;
            Ok((key, length))
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
        let mut turn = self.store.ledger.turn();
        let mut out = Vec::new();
        for (key, value) in writes {
            check_sizes(key, value)?;
            self.encode(key, value, &mut out, &mut turn)?;
        }
        if out.is_empty() {
            return Ok(());
        }
        turn.seal(|| self.commit(out)).map_err(|e| self.store.fail("write", e))
    }

    /// What sled has to do for one write of ours, and what that does to the sum.
    fn encode(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        out: &mut Writes,
        turn: &mut seal::Turn<'_>,
    ) -> Result<(), Error> {
        let name = name_crc(&self.sled.name(), key);
        let crc = value.map(|value| value_crc(key, value));
        if let (Some(value), Some(crc)) = (value, crc) {
            turn.add(seal::print(name, crc, value.len()));
        }
        let crc = crc.unwrap_or_default();
        let mut chunks = 0;
        match value {
            None => out.push((head_key(key), None)),
            Some(value) if value.len() < CHUNK => out.push((head_key(key), Some(small(crc, value)))),
            Some(value) => {
                for (chunk, n) in value.chunks(CHUNK).zip(0..) {
                    out.push((chunk_key(key, n), Some(chunk.into())));
                    chunks = n + 1;
                }
                out.push((head_key(key), Some(large(crc, value.len(), chunks))));
            }
        }
        let old = self.stat(key)?;
        if let Some(old) = old {
            turn.remove(seal::print(name, old.crc, old.length));
        }
        let stale = old.map_or(0, |old| old.chunks);
        out.extend((chunks..stale).map(|n| (chunk_key(key, n), None)));
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

    /// What is under a key now, without reading all of it.
    fn stat(&self, key: &[u8]) -> Result<Option<Stat>, Error> {
        let bytes = self.sled.get(head_key(key)).map_err(|e| self.read_error(e))?;
        bytes.map(|bytes| Stat::of(&bytes).ok_or_else(|| self.damaged(key))).transpose()
    }

    fn head(&self, key: &[u8]) -> Result<Option<Head>, Error> {
        let bytes = self.sled.get(head_key(key)).map_err(|e| self.read_error(e))?;
        bytes.map(|bytes| Head::decode(key, &bytes).ok_or_else(|| self.damaged(key))).transpose()
    }

    /// The value as it is now, with writers kept out while it is put together.
    fn get_large(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let _turn = self.shared.turn.read().unwrap_or_else(PoisonError::into_inner);
        match self.head(key)? {
            None => Ok(None),
            Some(Head::Small(value)) => Ok(Some(value)),
            Some(Head::Large(stat)) => {
                let value = join(&self.sled, key, stat).map_err(|e| self.read_error(e))?;
                value.map(Some).ok_or_else(|| self.damaged(key))
            }
        }
    }

    /// Keys in sled, chunks included.
    #[cfg(test)]
    pub(super) fn raw_len(&self) -> usize {
        self.sled.len()
    }

    /// A disk that gives back something else ends the life of the store, too.
    fn read_error(&self, source: sled::Error) -> Error {
        self.store.fail("read", source)
    }

    fn damaged(&self, key: &[u8]) -> Error {
        self.store.sync.failure().set(wrong_bytes(&self.sled.name(), key, &self.store.dir))
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
    Large(Stat),
}

/// A value without its bytes.
#[derive(Clone, Copy)]
struct Stat {
    crc: u32,
    length: usize,
    chunks: u32,
}

impl Stat {
    /// `None`: no head that we write.
    fn of(head: &[u8]) -> Option<Self> {
        let (kind, rest) = head.split_first()?;
        let (crc, rest) = rest.split_first_chunk()?;
        let crc = u32::from_be_bytes(*crc);
        match (*kind, rest) {
            (SMALL, value) => Some(Self { crc, length: value.len(), chunks: 0 }),
            (LARGE, [a, b, c, d, e, f, g, h]) => {
                let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
                let chunks = u32::from_be_bytes([*e, *f, *g, *h]);
                (length <= VALUE_MAX).then_some(Self { crc, length, chunks })
            }
            _ => None,
        }
    }
}

impl Head {
    /// `None`: these are not the bytes that were written under `key`.
    fn decode(key: &[u8], bytes: &[u8]) -> Option<Self> {
        let stat = Stat::of(bytes)?;
        if bytes.first() == Some(&LARGE) {
            return Some(Self::Large(stat));
        }
        let value = bytes.get(SMALL_HEAD..)?;
        (value_crc(key, value) == stat.crc).then(|| Self::Small(value.to_vec()))
    }
}

/// Puts a large value together; `None` if it is not the one that was written.
fn join(sled: &sled::Tree, key: &[u8], stat: Stat) -> Result<Option<Vec<u8>>, sled::Error> {
    let mut value = Vec::with_capacity(stat.length);
    for chunk in sled.range(chunk_key(key, 0)..chunk_key(key, stat.chunks)).values() {
        value.extend_from_slice(&chunk?);
    }
    Ok((value.len() == stat.length && value_crc(key, &value) == stat.crc).then_some(value))
}

fn value_crc(key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(value);
    crc.finalize()
}

/// Of a key and the tree it is in.
fn name_crc(tree: &[u8], key: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(tree);
    crc.update(&[0]);
    crc.update(key);
    crc.finalize()
}

fn wrong_bytes(tree: &[u8], key: &[u8], dir: &Path) -> Error {
    let key: String = key.iter().take(40).map(|byte| format!("{byte:02x}")).collect();
    Error::damaged(format!(
        "the value under key {key} of {tree} in {dir} has other bytes than were written",
        tree = String::from_utf8_lossy(tree),
        dir = dir.display()
    ))
}

/// Reads a tree from end to end, for its share of the sum.
pub(super) struct Scan<'a> {
    tree: &'a sled::Tree,
    dir: &'a Path,
}

impl<'a> Scan<'a> {
    pub(super) fn new(tree: &'a sled::Tree, dir: &'a Path) -> Self {
        Self { tree, dir }
    }

    /// # Errors
    ///
    /// [`Error::Damaged`] at the first value that is not the one that was written.
    pub(super) fn sum(&self) -> Result<u64, Error> {
        let name = self.tree.name();
        let read = |e| Error::sled("read", self.dir, e);
        let mut sum = 0u64;
        for pair in self.tree.range([HEADS].as_slice()..[CHUNKS].as_slice()) {
            let (key, head) = pair.map_err(read)?;
            let key = key.get(1..).unwrap_or_default();
            let wrong = || wrong_bytes(&name, key, self.dir);
            if let Head::Large(stat) = Head::decode(key, &head).ok_or_else(wrong)? {
                join(self.tree, key, stat).map_err(read)?.ok_or_else(wrong)?;
            }
            let stat = Stat::of(&head).ok_or_else(wrong)?;
            sum = sum.wrapping_add(seal::print(name_crc(&name, key), stat.crc, stat.length));
        }
        Ok(sum)
    }
}

fn small(crc: u32, value: &[u8]) -> sled::IVec {
    let mut bytes = Vec::with_capacity(value.len() + SMALL_HEAD);
    bytes.push(SMALL);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes.extend_from_slice(value);
    bytes.into()
}

fn large(crc: u32, length: usize, chunks: u32) -> sled::IVec {
    let length = u32::try_from(length).unwrap_or(u32::MAX); // checked against VALUE_MAX before
    let mut bytes = vec![LARGE];
    bytes.extend_from_slice(&crc.to_be_bytes());
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
        let value = match Head::decode(&key, &head) {
            Some(Head::Small(value)) => Ok(Some(value)),
            Some(Head::Large(_)) => self.tree.get_large(&key),
            None => Err(self.tree.damaged(&key)),
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
