//! Process groups that outlived the worker that began them.
//!
//! A worker killed with SIGKILL cannot end its children, and tying them to its
//! life needs a hook between fork and exec that we do without. So every group is
//! noted with its leader's start time, and the next life kills the groups that
//! are still the noted ones. A process id is not reused while a group of that id
//! exists, so what has the noted id but neither the start time nor the job's
//! mark in a member's environment is somebody else's and is left alone.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Extension of notes.
pub(super) const EXTENSION: &str = "pgid";

/// Environment variable that marks a job's processes.
pub(super) const MARK: &str = "CIRO_JOB_ID";

/// What tells the group of `pid` from a later one with the same id.
pub(super) fn note(pid: i32) -> String {
    format!("{pid} {}\n", start_time(pid).unwrap_or(0))
}

/// Kills every noted group under `root` that is still the noted one.
pub(super) fn kill_all(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension() == Some(OsStr::new(EXTENSION)) {
            kill_noted(&path);
        }
    }
}

fn kill_noted(note: &Path) {
    let job = note.file_stem().and_then(OsStr::to_str).and_then(|name| name.rsplit_once('-')).map(|(job, _)| job);
    let (Some(job), Some((pid, started))) = (job, read_note(note)) else { return };
    let same = if start_time(pid).is_some_and(|time| time == started) { true } else { has_marked_member(pid, job) };
    if same && killpg(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
        tracing::warn!(job, pgid = pid, "killed process group of an earlier life");
    }
}

/// Process group and start time of its leader.
fn read_note(path: &Path) -> Option<(i32, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    // 0, 1 and negative numbers mean something else to killpg.
    (pid > 1).then_some((pid, started.parse().ok()?))
}

/// Whether a process of group `pgid` carries the mark of `job`.
fn has_marked_member(pgid: i32, job: &str) -> bool {
    let mark = format!("{MARK}={job}");
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| stat_field(*pid, 2) == Some(pgid.unsigned_abs().into())).any(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    })
}

/// When a process started, in clock ticks since boot.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    stat_field(pid, 19)
}

/// A number from `/proc/<pid>/stat`, counted from 0 after the name in parentheses.
fn stat_field(pid: i32, index: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(index)?.parse().ok()
}
