//! How far this node has promised: the number of the last durable write.
//!
//! sled, when it finds bad bytes, ends its log there and goes on without a
//! word. After a power loss that is right, for what had not been synced was
//! never acknowledged. On a bad disk it is a voter that forgets. This file
//! tells the two apart: what is in sled must reach at least this far.
//!
//! ```text
//! slot 0 at 0, slot 1 at 4096, each:
//! magic 8 | incarnation u128 | generation u64 | through u64 | crc-32 of all before
//! ```
//!
//! Invariants
//!
//! * The number is written only after the write it names was synced, so the
//!   mark may lag and never runs ahead.
//! * Slots take turns: a torn write of one leaves the other. The valid one of
//!   the higher generation counts.
//! * It costs one short write for each sync, and a sync of its own at most once
//!   a [`SYNC_EVERY`]. Until then a power loss may set it back, `kill -9` not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Error, dirs};
use crate::clock;

pub(super) const NAME: &str = "mark";

/// How far the mark on the disk may lag behind what was acknowledged.
pub(super) const SYNC_EVERY: Duration = Duration::from_secs(1);

const MAGIC: &[u8; 8] = b"ciroMRK1";
const SLOT_BYTES: u64 = 4096;
const SLOTS: u64 = 2;
const RECORD: usize = 44;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    generation: u64,
    through: u64,
}

#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    incarnation: u128,
    current: Slot,
    /// Since when it has something that is not synced.
    dirty: Option<Instant>,
}

impl Mark {
    /// Makes the file, durable but for its name. Another one may be there from a making that was cut short.
    pub(super) fn create(dir: &Path, incarnation: u128) -> Result<Self, Error> {
        let path = dir.join(NAME);
        let failed = |e| Error::io("create mark", dir, e);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(failed)?;
        // Real blocks, so that a full disk is no obstacle later.
        file.write_all_at(&[0; (SLOT_BYTES * SLOTS) as usize], 0).map_err(failed)?;
        let current = Slot { generation: 0, through: 0 };
        let mut mark = Self { file, path, incarnation, current, dirty: None };
        mark.write(0).and_then(|()| mark.file.sync_all()).map_err(failed)?;
        mark.dirty = None;
        dirs::sync(dir)?;
        Ok(mark)
    }

    /// Reads the file; `None` if there is none.
    pub(super) fn open(dir: &Path, incarnation: u128) -> Result<Option<Self>, Error> {
        let path = dir.join(NAME);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|e| Error::io("open mark", dir, e))?,
        };
        let mut newest: Option<Slot> = None;
        for slot in 0..SLOTS {
            let mut bytes = [0; RECORD];
            match file.read_exact_at(&mut bytes, slot * SLOT_BYTES) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                read => read.map_err(|e| Error::io("read mark", dir, e))?,
            }
            let Some((owner, found)) = decode(&bytes) else { continue };
            if owner != incarnation {
                return Err(Error::damaged(format!("{} is of another store", path.display())));
            }
            newest = newest.filter(|newest| newest.generation > found.generation).or(Some(found));
        }
        let Some(current) = newest else {
            return Err(Error::damaged(format!("{}: neither of its two records is whole", path.display())));
        };
        Ok(Some(Self { file, path, incarnation, current, dirty: None }))
    }

    /// Whether a file of anyone's says that something was acknowledged: then this directory is no new one.
    pub(super) fn holds_promise(dir: &Path) -> Result<bool, Error> {
        let bytes = std::fs::read(dir.join(NAME)).map_err(|e| Error::io("read mark", dir, e))?;
        let slots = bytes.chunks(SLOT_BYTES as usize).filter_map(|slot| decode(slot.first_chunk()?));
        Ok(slots.map(|(_, slot)| slot.through).max().unwrap_or(0) > 0)
    }

    /// The last write that was promised to be durable.
    pub(super) fn through(&self) -> u64 {
        self.current.through
    }

    /// Notes that writes up to `through` are durable. Not synced itself.
    pub(super) fn advance(&mut self, through: u64) -> io::Result<()> {
        if through > self.current.through { self.write(through) } else { Ok(()) }
    }

    /// How long until this mark wants a sync; `None` if there is nothing to sync.
    pub(super) fn due_in(&self) -> Option<Duration> {
        self.dirty.map(|since| SYNC_EVERY.saturating_sub(since.elapsed()))
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty.is_some() {
            self.file.sync_data()?;
            self.dirty = None;
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, through: u64) -> io::Result<()> {
        let next = Slot { generation: self.current.generation + 1, through };
        let bytes = encode(self.incarnation, next);
        self.file.write_all_at(&bytes, next.generation % SLOTS * SLOT_BYTES)?;
        self.current = next;
        self.dirty.get_or_insert_with(clock::instant);
        Ok(())
    }
}

fn encode(incarnation: u128, slot: Slot) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let parts: [&[u8]; 4] =
        [MAGIC, &incarnation.to_be_bytes(), &slot.generation.to_be_bytes(), &slot.through.to_be_bytes()];
    let body = parts.concat();
    bytes[..RECORD - 4].copy_from_slice(&body);
    bytes[RECORD - 4..].copy_from_slice(&crc32fast::hash(&body).to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; RECORD]) -> Option<(u128, Slot)> {
    let (body, crc) = bytes.split_at(RECORD - 4);
    let (magic, fields) = body.split_at(8);
    if magic != MAGIC || crc != crc32fast::hash(body).to_be_bytes() {
        return None;
    }
    let (incarnation, numbers) = fields.split_at(16);
    let (generation, through) = numbers.split_at(8);
    let slot = Slot {
        generation: u64::from_be_bytes(generation.try_into().ok()?),
        through: u64::from_be_bytes(through.try_into().ok()?),
    };
    Some((u128::from_be_bytes(incarnation.try_into().ok()?), slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_survives_a_torn_slot() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Mark::open(dir.path(), 7).unwrap().is_none());
        let mut mark = Mark::create(dir.path(), 7).unwrap();
        for through in [1, 5, 5, 9] {
            mark.advance(through).unwrap();
        }
        mark.sync().unwrap();
        let newest = mark.current.generation % SLOTS * SLOT_BYTES;
        assert_eq!(Mark::open(dir.path(), 7).unwrap().unwrap().through(), 9);

        mark.file.write_all_at(b"torn", newest + 30).unwrap();
        let mut older = Mark::open(dir.path(), 7).unwrap().unwrap();
        assert_eq!(older.through(), 5, "the slot before counts");
        older.advance(10).unwrap();
        assert_eq!(Mark::open(dir.path(), 7).unwrap().unwrap().through(), 10);

        let other = Mark::open(dir.path(), 8).unwrap_err().to_string();
        assert!(other.contains("another store"), "{other}");
        mark.file.set_len(20).unwrap();
        let neither = Mark::open(dir.path(), 7).unwrap_err().to_string();
        assert!(neither.contains("neither") && neither.contains("mark"), "{neither}");
    }
}
