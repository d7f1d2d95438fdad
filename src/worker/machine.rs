//! What this machine has, and how busy it is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

/// Cores this process may use.
pub(super) fn cores() -> u32 {
    std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1)
}

/// Memory in MiB; 0 if it cannot be told.
pub(super) fn memory_mb() -> u64 {
    meminfo("MemTotal:").unwrap_or(0) / 1_024
}

/// Free disk where `path` is or will be, in GB.
pub(super) fn free_gb(path: &Path) -> u64 {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    statvfs(existing).map_or(0, |disk| disk.blocks_available() * disk.fragment_size() / 1_000_000_000)
}

/// How busy the machine is, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub cpu: u32,
    pub memory: u32,
    pub disk: u32,
}

/// How often usage is measured, whoever asks.
const MEASURE_EVERY: Duration = Duration::from_millis(900);

/// Usage of this machine, measured now and then for all who share the gauge.
#[derive(Clone, Debug)]
pub(super) struct Gauge {
    disk: PathBuf,
    inner: Arc<Mutex<(Meter, Usage, Option<Instant>)>>,
}

impl Gauge {
    /// Of this machine, and of the disk that `disk` is on.
    pub fn new(disk: PathBuf) -> Self {
        Self { disk, inner: Arc::default() }
    }

    pub fn read(&self, now: Instant) -> Usage {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (meter, usage, measured) = &mut *inner;
        if measured.is_none_or(|at| now.saturating_duration_since(at) >= MEASURE_EVERY) {
            *usage = meter.read(&self.disk);
            *measured = Some(now);
        }
        *usage
    }
}

/// Measures usage between calls.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Busy and total CPU time at the last call, in ticks.
    last: (u64, u64),
}

impl Meter {
    pub fn read(&mut self, disk: &Path) -> Usage {
        let now = cpu_times().unwrap_or(self.last);
        let (busy, total) = (now.0.saturating_sub(self.last.0), now.1.saturating_sub(self.last.1));
        self.last = now;
        Usage { cpu: permille(busy, total), memory: memory_usage(), disk: disk_usage(disk) }
    }
}

fn permille(part: u64, whole: u64) -> u32 {
    let permille = part.saturating_mul(1_000).checked_div(whole).unwrap_or(0);
    u32::try_from(permille.min(1_000)).unwrap_or(1_000)
}

/// Busy and total ticks of all CPUs since boot.
fn cpu_times() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guest is in user already.
    let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    let total = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((total - idle, total))
}

fn memory_usage() -> u32 {
    let total = meminfo("MemTotal:").unwrap_or(0);
    permille(total.saturating_sub(meminfo("MemAvailable:").unwrap_or(total)), total)
}

fn disk_usage(path: &Path) -> u32 {
    statvfs(path).map_or(0, |disk| permille(disk.blocks().saturating_sub(disk.blocks_available()), disk.blocks()))
}

/// A field of `/proc/meminfo`, in KiB.
fn meminfo(name: &str) -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_and_usage_is_a_share() {
        assert!(cores() >= 1 && memory_mb() > 0);
        let mut meter = Meter::default();
        meter.read(Path::new("/"));
        let usage = meter.read(Path::new("/"));
        assert!(usage.cpu <= 1_000 && usage.disk <= 1_000 && (1..=1_000).contains(&usage.memory), "{usage:?}");
    }
}
