//! Shows at open whether sled has everything it was given, and nothing else.
//!
//! sled checks each piece of its log, but a piece that is bad, or gone with the
//! head of its segment, is passed over in silence: an older value, or none,
//! stands in its place. So all values of all trees together have a sum: of one
//! number for each, made from tree, key and checksum, in no order. Each batch
//! first writes a seal into sled, and then itself:
//!
//! ```text
//! seal: number of the batch | sum before it | sum after it | crc-32
//! ```
//!
//! sled's log keeps the order, so wherever an honest crash ends it, the sum of
//! what is there is the one before or the one after the newest seal; what was
//! acknowledged, see [`super::mark`], must be after it. Anything else is damage.
//!
//! The sum finds damage, it does not stop a forger.
//!
//! Deliberately absent: knowing which value it was. Wrong bytes in a value are
//! found when the value is read, and named then.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Error;
use super::tree::Scan;

/// The tree of the seal. No tree of a user has a name that begins so.
const TREE: &[u8] = b"\0seal";
const KEY: &[u8] = b"seal";
const BYTES: usize = 28;

/// The writers' turn, and the sum of what is written.
pub(super) struct Ledger {
    tree: sled::Tree,
    totals: Mutex<Totals>,
    /// The last batch that sled has taken whole.
    taken: Arc<AtomicU64>,
}

struct Totals {
    number: u64,
    sum: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seal {
    number: u64,
    before: u64,
    after: u64,
}

impl Ledger {
    /// Adds up what is there and compares. `promised`: the last batch that was acknowledged as durable.
    pub(super) fn open(db: &sled::Db, promised: u64, dir: &Path) -> Result<Self, Error> {
        let read = |e| Error::sled("read seal", dir, e);
        let tree = db.open_tree(TREE).map_err(read)?;
        let seal = match tree.get(KEY).map_err(read)? {
            Some(bytes) => decode(&bytes).ok_or_else(|| Error::damaged("the seal of the trees is not whole".into()))?,
            None => Seal { number: 0, before: 0, after: 0 },
        };
        if seal.number < promised {
            return Err(Error::damaged(format!(
                "the log in {dir} ends at write {}, but {promised} were acknowledged: its end is lost",
                seal.number,
                dir = dir.display()
            )));
        }
        let sum = sum_of(db, dir)?;
        let undone = sum == seal.before && seal.number > promised;
        if sum != seal.after && !undone {
            return Err(Error::damaged(format!(
                "what is in {dir} is not what was written there: some of it is missing or older",
                dir = dir.display()
            )));
        }
        let taken = Arc::new(AtomicU64::new(seal.number));
        Ok(Self { tree, totals: Mutex::new(Totals { number: seal.number, sum }), taken })
    }

    /// Keeps other writers of all trees out until it is dropped.
    pub(super) fn turn(&self) -> Turn<'_> {
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { sum: totals.sum, totals, ledger: self }
    }

    /// True if nothing was ever written.
    pub(super) fn is_empty(&self) -> bool {
        self.taken.load(Ordering::Acquire) == 0
    }

    /// Number of the last batch that a flush begun now covers.
    pub(super) fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }
}

pub(super) fn is_seal(tree: &[u8]) -> bool {
    tree == TREE
}

/// One batch on its way.
pub(super) struct Turn<'a> {
    ledger: &'a Ledger,
    totals: MutexGuard<'a, Totals>,
    sum: u64,
}

impl Turn<'_> {
    pub(super) fn add(&mut self, print: u64) {
        self.sum = self.sum.wrapping_add(print);
    }

    pub(super) fn remove(&mut self, print: u64) {
        self.sum = self.sum.wrapping_sub(print);
    }

    /// Writes the seal, then lets `commit` write the batch.
    pub(super) fn seal(mut self, commit: impl FnOnce() -> Result<(), sled::Error>) -> Result<(), sled::Error> {
        self.totals.number += 1;
        let seal = Seal { number: self.totals.number, before: self.totals.sum, after: self.sum };
        self.ledger.tree.insert(KEY, encode(seal).as_slice())?;
        commit()?;
        self.totals.sum = self.sum;
        self.ledger.taken.store(seal.number, Ordering::Release);
        Ok(())
    }
}

/// The number that stands for one value in the sum. `name` and `value` are checksums.
pub(super) fn print(name: u32, value: u32, length: usize) -> u64 {
    mix(mix(u64::from(name) << 32 | u64::from(value)).wrapping_add(length as u64))
}

/// The finalizer of splitmix64: every bit depends on every bit.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// Reads and checks every value of every tree.
fn sum_of(db: &sled::Db, dir: &Path) -> Result<u64, Error> {
    let mut sum = 0u64;
    for name in db.tree_names() {
        if is_seal(&name) || name == db.name() {
            continue;
        }
        let tree = db.open_tree(&name).map_err(|e| Error::sled("read", dir, e))?;
        sum = sum.wrapping_add(Scan::new(&tree, dir).sum()?);
    }
    Ok(sum)
}

fn encode(seal: Seal) -> Vec<u8> {
    let mut bytes = [seal.number, seal.before, seal.after].map(u64::to_be_bytes).concat();
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Seal> {
    if bytes.len() != BYTES {
        return None;
    }
    let (body, crc) = bytes.split_at(BYTES - 4);
    if crc != crc32fast::hash(body).to_be_bytes() {
        return None;
    }
    let number = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
    Some(Seal { number: number(0)?, before: number(8)?, after: number(16)? })
}
