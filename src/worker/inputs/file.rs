//! Inputs that are files of this machine, or of a disk that it shares.
//!
//! What counts is the file that was opened, not the path that named it: its
//! real path, which the kernel tells, must lie below a root. A link that is
//! exchanged meanwhile therefore opens nothing else. A path that does not even
//! read as one below a root is not opened at all: opening can have effects of
//! its own, as on devices and mounts.

use std::os::fd::AsRawFd as _;

use nix::fcntl::OFlag;
use reqwest::Url;
use tokio::io::AsyncReadExt as _;

use super::{CHUNK, Policy, Sink, forbidden, not_found, refused, unreachable};
use crate::worker::executor::Failure;

pub async fn read(policy: &Policy, url: &Url, sink: &mut Sink) -> Result<(), Failure> {
    // Also of a URL with a host, which is not this machine.
    let path = url.to_file_path().map_err(|()| refused("not the URI of a local file"))?;
    if !policy.names_a_root(&path) {
        return Err(outside());
    }
    // A pipe that nobody writes to must not hold us up.
    let opened = tokio::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).await;
    let mut file = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_found("there is no such file"),
        std::io::ErrorKind::PermissionDenied => forbidden("this worker may not read the file"),
        _ => unreachable(format!("cannot open the file: {error}")),
    })?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let real = real.map_err(|error| Failure::ill("workspace", format!("ask where a file is: {error}")))?;
    if !policy.roots.iter().any(|root| real.starts_with(root)) {
        return Err(outside());
    }
    let about = file.metadata().await.map_err(|error| unreachable(format!("cannot look at the file: {error}")))?;
    if !about.is_file() {
        return Err(refused("it is no plain file"));
    }
    sink.expect("the file", about.len())?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = tokio::time::timeout(policy.idle, file.read(&mut chunk)).await;
        match read.map_err(|_| unreachable("the disk does not answer"))? {
            Ok(0) => return Ok(()),
            Ok(size) => sink.write(&chunk[..size]).await?,
            Err(error) => return Err(unreachable(format!("cannot read the file: {error}"))),
        }
    }
}

fn outside() -> Failure {
    forbidden("the file is not below a directory that this worker's operator allows")
}
