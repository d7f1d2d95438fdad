//! Backups that a node takes by itself, into a directory.
//!
//! Each node that has a directory configured does it for itself, whether it leads
//! or not: what a node backs up is its own view. A file has its name only when it
//! is whole and durable. The oldest beyond the number that is kept are removed, of
//! this node and no other. The time of the newest one counts across restarts.
//!
//! What goes wrong is said in `/health` and counted; the next try comes after
//! [`AGAIN`], or after the period if that is shorter. A backup that would leave
//! the disk too full is not begun, and given up on its way. One that is not even
//! tried, or does not come to an end, has gone wrong after another period.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{debug, info, warn};

use super::file::Written;
use super::header::Header;
use super::take::{self, Pace};
use super::{Desk, Done, Schedule};
use crate::clock;
use crate::consensus::Client;
use crate::domain::Timestamp;
use crate::tasks::Tasks;

/// After a failure.
const AGAIN: Duration = Duration::from_secs(60);

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Bytes written between two looks at the disk.
const LOOK_BYTES: u64 = 4 << 20;

const SUFFIX: &str = ".ciro-backup";

/// Takes backups until the group stops. Does nothing without a schedule.
pub async fn run(desk: Desk, client: Client, network: String, tasks: Tasks) {
    let Some(schedule) = desk.options.schedule.clone() else { return };
    let prefix = format!("{network}-{}-", client.status().node);
    let found = newest(&schedule.directory, &prefix);
    let mut due = found.as_ref().map_or(0, |done| done.at.after_ms(ms(schedule.every)).0);
    desk.note(|view| view.last = found);
    // Since when one is due and not tried.
    let mut waiting = clock::instant();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // A clock that was set back must not put them off for long.
        let now = clock::now();
        due = due.min(now.after_ms(ms(schedule.every)).0);
        if now.0 < due {
            waiting = clock::instant();
            continue;
        }
        if !client.status().ready {
            if waiting.elapsed() > schedule.every {
                waiting = clock::instant();
                note(&desk, Err(io::Error::other("one is overdue: this node has not been ready for long")));
            }
            continue;
        }
        let taking = take(&desk, &client, &network, &prefix, &tasks);
        let taken = ended(&desk, schedule.every.max(take::LONGEST), taking).await;
        waiting = clock::instant();
        let wait = if taken.is_ok() { schedule.every } else { AGAIN.min(schedule.every) };
        due = now.after_ms(ms(wait)).0;
        note(&desk, taken);
    }
}

/// Waits for one to end, and says so when it does not: a disk may never answer.
pub(super) async fn ended(
    desk: &Desk,
    limit: Duration,
    taking: impl Future<Output = io::Result<Done>>,
) -> io::Result<Done> {
    let mut taking = std::pin::pin!(taking);
    loop {
        match tokio::time::timeout(limit, &mut taking).await {
            Ok(taken) => return taken,
            Err(_) => note(desk, Err(io::Error::new(io::ErrorKind::TimedOut, "the one under way does not end"))),
        }
    }
}

fn note(desk: &Desk, taken: io::Result<Done>) {
    match taken {
        Ok(done) => {
            info!(index = done.index, bytes = done.bytes, "backup taken");
            desk.note(|view| {
                view.taken += 1;
                view.error = None;
                view.last = Some(done);
            });
        }
        Err(error) => {
            let first = desk.view().error.is_none();
            if first {
                warn!(%error, "backup not taken, will be tried again");
            } else {
                debug!(%error, "backup not taken");
            }
            desk.note(|view| {
                view.failed += 1;
                view.error = Some(error.to_string());
            });
        }
    }
}

pub(super) async fn take(desk: &Desk, client: &Client, network: &str, prefix: &str, tasks: &Tasks) -> io::Result<Done> {
    let Some(schedule) = desk.options.schedule.clone() else { return Err(io::Error::other("no schedule")) };
    let (state, now) = (client.view(), clock::now());
    let header = Header::of(&state, &client.status(), network, now);
    let pace = Pace::new(desk.options.bytes_per_sec, tasks.token().clone());
    let prefix = prefix.to_owned();
    let wanted = desk.view().last.map_or(0, |done| done.bytes);
    let source = client.clone();
    let work = move || {
        let name = format!("{prefix}{:020}-{}{SUFFIX}", header.index, now.0);
        fs::create_dir_all(&schedule.directory).map_err(|error| told("make directory", &schedule.directory, &error))?;
        enough(&schedule, wanted)?;
        let segments = source.segment_files(&state).map_err(io::Error::other)?;
        let written = save(&schedule.directory.join(name), |out| {
            let guarded = Guarded { out, schedule: &schedule, bytes: 0, looked: 0 };
            let (_, written) = take::write(&state, &header, &segments, &pace, guarded)?;
            Ok(written)
        })?;
        // Only now: what failed must not cost one that did not.
        prune(&schedule, &prefix)?;
        Ok(Done { at: now, index: header.index, bytes: written.bytes })
    };
    tasks.spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Writes a file beside its name, makes it durable, and gives it the name. Blocking.
///
/// # Errors
///
/// Those of the disk and of `fill`; nothing is left behind then.
pub fn save(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<Written>) -> io::Result<Written> {
    let name = path.file_name().ok_or_else(|| io::Error::other("not the name of a file"))?;
    let part = path.with_file_name(format!(".{}.part", name.to_string_lossy()));
    let saved = (|| {
        let mut file = File::create(&part)?;
        let written = fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
        Ok(written)
    })();
    saved.map_err(|error: io::Error| {
        // Perhaps it was never made.
        let _ = fs::remove_file(&part);
        told("write", path, &error)
    })
}

fn told(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// Whether the disk has room for so many bytes, and for what others need.
fn enough(schedule: &Schedule, bytes: u64) -> io::Result<()> {
    let stat = nix::sys::statvfs::statvfs(&schedule.directory).map_err(io::Error::from)?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let wanted = schedule.leave_free.saturating_add(bytes);
    if free >= wanted {
        return Ok(());
    }
    let dir = schedule.directory.display();
    let what = format!("the disk under {dir} has {} MiB free, and {} are to be", free >> 20, wanted >> 20);
    Err(io::Error::new(io::ErrorKind::StorageFull, what))
}

/// Gives up before the disk is full.
struct Guarded<'a> {
    out: &'a mut File,
    schedule: &'a Schedule,
    bytes: u64,
    looked: u64,
}

impl Write for Guarded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes - self.looked >= LOOK_BYTES {
            self.looked = self.bytes;
            enough(self.schedule, 0)?;
        }
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The files of this node, oldest first, with index and time.
fn files(directory: &Path, prefix: &str) -> io::Result<Vec<(u64, u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let named = path.file_name().and_then(|name| name.to_str());
        let numbers = named.and_then(|name| name.strip_prefix(prefix)?.strip_suffix(SUFFIX)?.split_once('-'));
        if let Some((Ok(index), Ok(at))) = numbers.map(|(index, at)| (index.parse(), at.parse())) {
            files.push((index, at, path));
        }
    }
    files.sort();
    Ok(files)
}

fn newest(directory: &Path, prefix: &str) -> Option<Done> {
    let (index, at, path) = files(directory, prefix).ok()?.pop()?;
    Some(Done { at: Timestamp(at), index, bytes: fs::metadata(path).ok()?.len() })
}

/// Removes the oldest, and what a node that was killed left half done.
fn prune(schedule: &Schedule, prefix: &str) -> io::Result<()> {
    let mut files = files(&schedule.directory, prefix)?;
    let old = files.len().saturating_sub(schedule.keep.max(1));
    for (_, _, path) in files.drain(..old) {
        fs::remove_file(&path).map_err(|error| told("remove", &path, &error))?;
    }
    for entry in fs::read_dir(&schedule.directory)? {
        let path = entry?.path();
        let ours = |name: &str| name.starts_with(&format!(".{prefix}")) && name.ends_with(".part");
        if path.file_name().and_then(|name| name.to_str()).is_some_and(ours) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
