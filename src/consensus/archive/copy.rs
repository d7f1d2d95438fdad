//! Segments for a backup, each compared with its digest as it is copied.
//!
//! Serving jobs reads a segment record by record, so damage where nobody looks
//! stays unseen. Whoever copies all of it sees it: such a copy fails, and the
//! segment is got from another member, so that the next one does not.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::domain::Digest;
use crate::domain::archive::Segment;

use super::files::Trouble;
use super::{Archive, Unreadable};

/// Read at once.
const PART: usize = 64 << 10;

/// A segment's file, as a backup takes it. It may go once two later snapshots do without it.
#[derive(Clone)]
pub struct SegmentFile {
    segment: Arc<Segment>,
    archive: Archive,
}

impl SegmentFile {
    pub(super) fn new(segment: Arc<Segment>, archive: Archive) -> Self {
        Self { segment, archive }
    }

    /// Copies all of it. What was copied is only good if this is. Blocking.
    ///
    /// # Errors
    ///
    /// Those of `out` and of the disk; it is damaged, which the archive then knows.
    pub fn copy(&self, out: &mut dyn Write) -> io::Result<()> {
        let path = self.archive.shared.files.path(&self.segment);
        copy(&path, &self.segment, out).map_err(|trouble| match trouble {
            Trouble::Damaged(why) => io::Error::other(self.archive.note_of(&self.segment, why)),
            Trouble::Disk(error) => error,
        })
    }
}

impl Archive {
    /// A segment was found damaged.
    fn note_of(&self, segment: &Segment, why: &'static str) -> Unreadable {
        let held = self.read().segment(segment.number).filter(|held| *held.segment == *segment).cloned();
        match held {
            Some(held) => self.note(&held, Trouble::Damaged(why)),
            // It was removed meanwhile: nobody needs it.
            None => Unreadable { segment: segment.name(), why: why.to_owned() },
        }
    }
}

fn copy(path: &Path, segment: &Segment, out: &mut dyn Write) -> Result<(), Trouble> {
    let mut file = File::open(path).map_err(Trouble::of)?.take(segment.bytes);
    let (mut hash, mut part) = (Sha256::new(), vec![0; PART]);
    loop {
        let read = file.read(&mut part).map_err(Trouble::of)?;
        let Some(bytes) = part.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        out.write_all(bytes).map_err(Trouble::Disk)?;
    }
    match Digest(hash.finalize().into()) == segment.sha256 {
        true => Ok(()),
        false => Err(Trouble::Damaged("it is not what was written")),
    }
}
