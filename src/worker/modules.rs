//! Modules this worker has run before, by the SHA-256 of their bytes.
//!
//! A client that sends the same module again may name it by digest. A file is
//! what its name says or it is not used: what was read is hashed again. When
//! the folder is over its limit, what was used longest ago goes first.
//!
//! Deliberately absent: an index. The folder is small, and is its own.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

use crate::clock;
use crate::domain::Digest;

/// What a file counts at least, so that many empty ones are bounded, too.
const FILE_MIN: u64 = 4 << 10;

/// Largest module that is read back.
const MODULE_MAX: u64 = 64 << 20;

#[derive(Clone, Debug)]
pub struct Modules {
    directory: PathBuf,
    max_bytes: u64,
}

impl Modules {
    /// Nothing is made before there is something to keep.
    pub fn new(directory: PathBuf, max_bytes: u64) -> Self {
        Self { directory, max_bytes }
    }

    /// The module, if it is here and whole. Blocks on the disk.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        let path = self.path(digest);
        let file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        (&file).take(MODULE_MAX).read_to_end(&mut bytes).ok()?;
        if Digest::of(&bytes) != *digest {
            tracing::warn!(path = %path.display(), "module is damaged: removed");
            remove(&path);
            return None;
        }
        // It is younger now. If not, it goes earlier than it should.
        let _ = file.set_times(FileTimes::new().set_modified(now()));
        Some(Bytes::from(bytes))
    }

    /// Keeps a module, and forgets others for it. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// It could not be written; nothing is left of it then.
    pub fn put(&self, module: &[u8]) -> io::Result<()> {
        let path = self.path(&Digest::of(module));
        if count(module.len() as u64) > self.max_bytes || path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.directory)?;
        // Another attempt may bring the same one at the same moment.
        let temporary = path.with_extension(format!("{}.tmp", clock::uuid().simple()));
        let written = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let written = written.and_then(|mut file| file.write_all(module)).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            remove(&temporary);
        }
        self.shrink();
        written
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(hex::encode(digest.0))
    }

    /// Removes the oldest until the rest is within the limit.
    fn shrink(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let about = |entry: fs::DirEntry| {
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((metadata.modified().ok()?, count(metadata.len()), entry.path()))
        };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries.flatten().filter_map(about).collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= self.max_bytes {
                break;
            }
            remove(&path);
            total -= size;
        }
    }
}

fn count(size: u64) -> u64 {
    size.max(FILE_MIN)
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(clock::now().0)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove module");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_module_is_found_by_its_digest_and_only_if_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let modules = Modules::new(directory.path().join("modules"), 1 << 20);
        let digest = Digest::of(b"module");
        assert_eq!(modules.get(&digest), None);
        modules.put(b"module").unwrap();
        modules.put(b"module").unwrap();
        assert_eq!(modules.get(&digest).as_deref(), Some(b"module".as_slice()));
        fs::write(modules.path(&digest), b"another").unwrap();
        assert_eq!(modules.get(&digest), None);
        assert_eq!(names(&modules.directory), 0, "what is damaged is gone, and nothing else was left");
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let modules = Modules::new(directory.path().to_owned(), 3 * FILE_MIN);
        for (age, name) in [(30, b"first"), (20, b"secnd"), (10, b"third")] {
            modules.put(name).unwrap();
            let file = File::open(modules.path(&Digest::of(name))).unwrap();
            file.set_times(FileTimes::new().set_modified(now() - Duration::from_secs(age))).unwrap();
        }
        assert!(modules.get(&Digest::of(b"first")).is_some(), "and is the youngest by that");
        modules.put(b"forth").unwrap();
        let has = |name: &[u8]| modules.path(&Digest::of(name)).exists();
        assert_eq!((has(b"first"), has(b"secnd"), has(b"third"), has(b"forth")), (true, false, true, true));
        modules.put(&vec![0; usize::try_from(4 * FILE_MIN).unwrap()]).unwrap();
        assert_eq!(names(directory.path()), 3, "one that is too large is not kept, and no other goes for it");
    }
}
