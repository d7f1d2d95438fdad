//! The keys about what is kept: finished jobs, and copies of the state.

use super::schema::{EMPTY, Key, integer, word};
use super::text;

pub(super) const HOT: Key = integer(
    "jobs.hot",
    16,
    100_000,
    100_000,
    "Finished jobs in memory; older ones are read from disk. On all nodes the same: the leader's counts.",
);

pub(super) const RETENTION_SECS: Key = integer(
    "jobs.retention_secs",
    0,
    10 * 366 * 86_400,
    0,
    "Jobs are removed so long after their end. 0: never for it.",
);

pub(super) const RETENTION_COUNT: Key = integer(
    "jobs.retention_count",
    0,
    100_000_000,
    1_000_000,
    "Finished jobs kept; the oldest beyond it are removed, a segment at a time. 0: any number.",
);

pub(super) const RETENTION_MB: Key =
    integer("jobs.retention_mb", 0, 1 << 24, 16_384, "Disk for them on each node, MiB; as for their number. 0: any.");

pub(super) const BACKUP_DIRECTORY: Key = word(
    "backup.directory",
    text::any,
    EMPTY,
    "Where this node puts a backup every now and then, best on another disk. Empty: none; who asks for one gets it.",
);

pub(super) const BACKUP_EVERY_SECS: Key = integer("backup.every_secs", 1, 31_536_000, 3_600, "From one to the next.");

pub(super) const BACKUP_KEEP: Key =
    integer("backup.keep", 1, 100_000, 24, "How many of this node's are kept; older ones are removed.");

pub(super) const BACKUP_MAX_MB_PER_SEC: Key = integer(
    "backup.max_mb_per_sec",
    1,
    10_000,
    32,
    "State read for backups per second, MiB: more is faster, and felt.",
);
