//! Limits a command has of its own.

use std::path::PathBuf;

use super::range;
use crate::worker::config::{self, Layered};
use crate::worker::{limited, wasm};

/// Largest size, in MiB.
const SIZE_MAX_MB: u64 = 1 << 24;

/// The program to start and its arguments: the command, or by way of this program if it has limits.
pub(super) fn wrapped(
    layered: &Layered,
    kind: &str,
    job: &config::Job,
    path: PathBuf,
    arguments: &[String],
) -> Result<(PathBuf, Vec<String>), config::Error> {
    let check = |name: &str, value: Option<u64>, most: u64| {
        value.map_or(Ok(()), |value| range(layered, &format!("jobs.{kind}.{name}"), value, 1..=most))
    };
    check("max_memory_mb", job.max_memory_mb, SIZE_MAX_MB)?;
    check("max_file_mb", job.max_file_mb, SIZE_MAX_MB)?;
    check("max_cpu_secs", job.max_cpu_secs, 86_400 * 1_024)?;
    let bytes = |mb: Option<u64>| mb.map(|mb| mb << 20);
    let limits = limited::Args {
        memory_bytes: bytes(job.max_memory_mb),
        cpu_secs: job.max_cpu_secs,
        file_bytes: bytes(job.max_file_mb),
        command: vec![],
    };
    if !limits.is_limited() {
        return Ok((path, arguments.to_vec()));
    }
    let arguments = limits.wrap(&path, arguments);
    Ok((wasm::runner().to_owned(), arguments))
}
