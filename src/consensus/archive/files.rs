//! Segments as files: written beside their name, synced, renamed, the directory synced.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::domain::archive::{self, Archived, Damage, Entry, HEAD, LENGTH_MAX, Segment};
use crate::domain::{Digest, JobId};

/// Read at first for one job. Most need no more.
const FIRST_READ: usize = 4 << 10;

/// Why a record was not read.
#[derive(Debug)]
pub(in crate::consensus) enum Trouble {
    /// It is not what was written.
    Damaged(&'static str),
    Disk(io::Error),
}

impl Trouble {
    /// Why a file was not read.
    pub fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Damaged("it is missing"),
            io::ErrorKind::UnexpectedEof => Self::Damaged("it is too short"),
            _ => Self::Disk(error),
        }
    }
}

pub(in crate::consensus) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Removes what an interrupted write left.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        // Or all segments may be gone with their directory when the power fails, and the log that made them is.
        dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { dir })
    }

    pub fn path(&self, segment: &Segment) -> PathBuf {
        self.dir.join(segment.name())
    }

    /// Writes a segment durably. One that is there already, and whole, is left alone.
    pub fn write(&self, segment: &Segment, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(segment);
        if is_whole(&path, segment).unwrap_or(false) {
            // Who wrote it may have been cut off before its name was durable.
            return self.sync();
        }
        // Two may write the same at once: each to a name of its own.
        let part = path.with_extension(format!("{:08x}.part", rand::random::<u32>()));
        let written = write_synced(&part, bytes).and_then(|()| fs::rename(&part, &path));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written?;
        self.sync()
    }

    /// Makes the names durable.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Reads and checks a segment's index.
    pub fn index(&self, segment: &Segment) -> Result<Vec<Entry>, &'static str> {
        let unread = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => "it is missing",
            io::ErrorKind::UnexpectedEof => "it is too short",
            _ => "it can not be read",
        };
        let file = File::open(self.path(segment)).map_err(unread)?;
        if file.metadata().map_err(unread)?.len() != segment.bytes || segment.bytes > LENGTH_MAX {
            return Err("it has another length");
        }
        let mut bytes = [0; HEAD];
        file.read_exact_at(&mut bytes, 0).map_err(unread)?;
        let head = archive::head(&bytes).map_err(|_| "it is not a segment")?;
        let length = segment.bytes.checked_sub(head.index).filter(|_| head.number == segment.number);
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or("its head is damaged")?;
        let mut rest = vec![0; length];
        file.read_exact_at(&mut rest, head.index).map_err(unread)?;
        let entries = archive::index(&bytes, &rest).map_err(|_| "its index is damaged")?;
        if entries.len() as u64 == segment.count() { Ok(entries) } else { Err("it has other jobs") }
    }

    /// Reads the record of one job.
    pub fn record(&self, segment: &Segment, offset: u32, id: JobId) -> Result<Archived, Trouble> {
        let file = File::open(self.path(segment)).map_err(Trouble::of)?;
        let most = segment.bytes.saturating_sub(u64::from(offset));
        let mut wanted = FIRST_READ;
        loop {
            let length = wanted.min(usize::try_from(most).unwrap_or(usize::MAX));
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, u64::from(offset)).map_err(Trouble::of)?;
            match archive::record(&bytes, id).map_err(|_| Trouble::Damaged("a record is damaged"))? {
                Ok(archived) => return Ok(archived),
                Err(needed) if needed > length && needed as u64 <= most => wanted = needed,
                Err(_) => return Err(Trouble::Damaged("a record is cut off")),
            }
        }
    }

    /// At most `most` bytes from `offset`. With the last of them the whole is checked.
    pub fn part(&self, segment: &Segment, offset: u64, most: usize) -> Result<Vec<u8>, Trouble> {
        let left = usize::try_from(segment.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; most.min(left)];
        let path = self.path(segment);
        File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, offset)).map_err(Trouble::of)?;
        if bytes.len() == left && !is_whole(&path, segment).map_err(Trouble::of)? {
            return Err(Trouble::Damaged("its bytes are not those named"));
        }
        Ok(bytes)
    }

    /// Deletes the files of the segments up to `through`; how many.
    pub fn remove_through(&self, through: u64) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.split_once('-').and_then(|(number, _)| number.parse::<u64>().ok());
            if number.is_some_and(|number| number <= through) {
                fs::remove_file(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whether the file has exactly the segment's bytes.
fn is_whole(path: &Path, segment: &Segment) -> io::Result<bool> {
    let mut bytes = Vec::new();
    File::open(path)?.take(segment.bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Digest::of(&bytes) == segment.sha256)
}

/// The index of a segment in memory.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, Damage> {
    let mut first = [0; HEAD];
    let Some(start) = bytes.get(..HEAD) else { return Ok(Vec::new()) };
    first.copy_from_slice(start);
    let at = usize::try_from(archive::head(&first)?.index).unwrap_or(usize::MAX);
    archive::index(&first, bytes.get(at..).unwrap_or_default())
}

/// The record of one job of a segment in memory.
pub(super) fn record_in(bytes: &[u8], offset: u32, id: JobId) -> Result<Archived, &'static str> {
    let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    match archive::record(from, id) {
        Ok(Ok(archived)) => Ok(archived),
        _ => Err("a record is damaged"),
    }
}
