//! What the kernel says about this process, from `/proc/self`, and what more it allows it.
//!
//! A value that can not be read is left out rather than shown as zero.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The unit of times in `/proc`, fixed for programs on Linux whatever the kernel's own tick.
const TICKS_PER_SEC: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub cpu_secs: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
}

impl Process {
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            cpu_secs: cpu_secs(&stat),
            resident_bytes: kib(&status, "VmRSS:"),
            virtual_bytes: kib(&status, "VmSize:"),
            threads: word_after(&status, "Threads:", 0),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
            max_fds: word_after(&limits, "Max open files", 0),
        }
    }
}

/// Raises the limit of open files towards `wanted`, as far as the system lets us.
pub fn raise_file_limit(wanted: u64) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let soft_wanted = wanted.min(hard);
        if soft < soft_wanted { setrlimit(Resource::RLIMIT_NOFILE, soft_wanted, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "raise the limit of open files");
    }
}

fn kib(status: &str, key: &str) -> Option<u64> {
    word_after(status, key, 0).map(|kib| kib * 1024)
}

/// The `n`-th word behind `key`, as a number.
fn word_after(text: &str, key: &str, n: usize) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().nth(n)?.parse().ok()
}

/// User and system time: fields 14 and 15, counted behind the command's name,
/// which may itself hold spaces and brackets.
fn cpu_secs(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9";
        assert_eq!(cpu_secs(stat), Some(2.0));
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.open_fds.unwrap() >= 3);
        assert!(process.max_fds.unwrap() >= process.open_fds.unwrap());
        assert!(process.cpu_secs.is_some() && process.threads.unwrap() >= 1);
    }
}
