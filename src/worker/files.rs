//! Small files that must be whole or absent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Replaces `path` with `bytes`, durably: a temporary file, synced, renamed.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    exchange(path, bytes)?;
    sync_parent(path)
}

/// The same but for the directory, which the caller must sync. Returns the file that `path` names now, at its end.
pub(super) fn exchange(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let temporary = temporary_name(path);
    let written = create(&temporary, bytes).and_then(|file| fs::rename(&temporary, path).map(|()| file));
    if written.is_err() {
        // Perhaps it was never made.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Makes a rename, a creation or a removal in the directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// The name `path` has while it is being written.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
