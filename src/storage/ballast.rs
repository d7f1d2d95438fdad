//! Space kept for the day the disk is full.
//!
//! sled cannot open on a full disk, not even to delete. So a file of real
//! blocks stands by: when open finds no room it removes the file, and the node
//! comes up far enough to be drained, compacted or read. The file is made again
//! at the next open that finds plenty of room, never at the cost of the data.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use tracing::{info, warn};

use super::{Error, dirs};

/// Bytes that open needs: the segment in use and the next one.
pub(super) const HEADROOM: u64 = 16 << 20;

pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    pub(super) fn new(dir: &Path, bytes: u64) -> Self {
        Self { path: dir.join("ballast"), bytes }
    }

    /// Gives the reserve up if the disk has too little left to open on.
    pub(super) fn release_if_full(&self, dir: &Path) -> Result<(), Error> {
        let free_bytes = dirs::free_bytes(dir)?;
        if free_bytes < HEADROOM && self.release(dir)? {
            warn!(dir = %dir.display(), free_bytes, ballast_bytes = self.bytes, "disk full, released the ballast");
        }
        Ok(())
    }

    /// Puts the reserve back if there is room for it and as much again.
    ///
    /// A disk that cannot take it is a reason to warn, not to stop.
    pub(super) fn restore(&self, dir: &Path) {
        if let Err(error) = self.try_restore(dir) {
            let _ = fs::remove_file(&self.path); // half a ballast is none
            warn!(dir = %dir.display(), error = %error, "cannot reserve a ballast");
        }
    }

    fn release(&self, dir: &Path) -> Result<bool, Error> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove ballast", dir, error)),
            Ok(()) => dirs::sync(dir).map(|()| true),
        }
    }

    fn try_restore(&self, dir: &Path) -> Result<(), Error> {
        let present = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        if present == self.bytes {
            return Ok(());
        }
        self.release(dir)?;
        let free_bytes = dirs::free_bytes(dir)?;
        if self.bytes == 0 || free_bytes < self.bytes * 2 + HEADROOM {
            warn!(dir = %dir.display(), free_bytes, ballast_bytes = self.bytes, "running without a ballast");
            return Ok(());
        }
        reserve(&self.path, self.bytes).map_err(|e| Error::io("reserve ballast", dir, e))?;
        dirs::sync(dir)?;
        info!(dir = %dir.display(), ballast_bytes = self.bytes, "reserved a ballast");
        Ok(())
    }
}

/// A file with `bytes` of real blocks.
fn reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    match fallocate(&file, FallocateFlags::empty(), 0, length) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => fill(&mut file, bytes)?,
        result => result?,
    }
    file.sync_all()
}

/// For file systems that cannot reserve.
fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    let block = vec![0xCB; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(block.len()).min(block.len());
        file.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}
