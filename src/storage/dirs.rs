//! Directories whose names survive a power loss, and what a disk has left.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Error;

/// Creates `dir` and what is missing above it, each durable in its parent.
pub(super) fn create(dir: &Path) -> Result<(), Error> {
    let parent = parent(dir);
    if dir.is_dir() {
        // A start that was cut off may have made it, and no more.
        return sync_if_ours(parent);
    }
    create(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create directory", dir, error)),
        _ => sync(parent),
    }
}

/// Makes the names in `dir` durable, where we may: in a place that is not ours, who made the names did that.
fn sync_if_ours(dir: &Path) -> Result<(), Error> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match sync(dir) {
        Err(Error::Io { source, .. })
            if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Makes the names in `dir` durable.
pub(super) fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync directory", dir, e))
}

/// Bytes that we may still write under `dir`.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, Error> {
    let stat = nix::sys::statvfs::statvfs(dir).map_err(|e| Error::io("measure free space", dir, e.into()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Bytes of disk under `dir`. What vanishes meanwhile counts as nothing.
pub(super) fn used_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => used_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

fn parent(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
