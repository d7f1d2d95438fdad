//! What the figures were measured on.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::cluster::Cluster;
use super::histogram::{Histogram, Summary};
use crate::clock;
use crate::tasks::Tasks;

/// Appends of the disk probe.
const APPENDS: usize = 300;

/// Bytes of one of them.
const APPEND: usize = 512;

#[derive(Clone, Debug, Serialize)]
pub(super) struct Setup {
    pub nodes: Vec<Node>,
    pub members: usize,
    pub workers_online: u64,
    /// How a node of this build makes a write durable before it acknowledges it. Not measured.
    pub fsync: &'static str,
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub disk_dir: PathBuf,
    /// Append of 512 bytes and fdatasync, on this disk, while nothing is measured.
    pub disk_fdatasync: Summary,
    pub bench_version: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Node {
    pub url: String,
    pub version: String,
    pub environment: String,
    pub role: String,
}

impl Setup {
    /// Of this machine and, for benches that ask one, of the cluster.
    pub(super) async fn of(
        cluster: Option<&Cluster>,
        disk_dir: Option<PathBuf>,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let mut nodes = Vec::new();
        let mut members = 0;
        let mut workers_online = 0;
        let asked = cluster.iter().flat_map(|cluster| cluster.nodes().iter().map(move |url| (cluster, url)));
        for (cluster, url) in asked {
            let status = cluster.status(url).await.context("is the cluster up?")?;
            members = members.max(status.members.len());
            let count = |state| status.workers.get(state).copied().unwrap_or(0);
            workers_online = count("online") + count("busy");
            let (version, environment, role) = (status.version, status.environment, status.role);
            nodes.push(Node { url: url.clone(), version, environment, role });
        }
        let disk_dir = disk_dir.unwrap_or_else(std::env::temp_dir);
        let dir = disk_dir.clone();
        let disk_fdatasync = tasks
            .spawn_blocking(move || probe(&dir))
            .await?
            .with_context(|| format!("measure fdatasync in {}", disk_dir.display()))?;
        Ok(Self {
            nodes,
            members,
            workers_online,
            fsync: "as built: flush + fdatasync, group commit",
            cpu: cpu_model(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_mib(&read("/proc/meminfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk_dir,
            disk_fdatasync,
            bench_version: env!("CARGO_PKG_VERSION"),
        })
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn cpu_model(cpuinfo: &str) -> String {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.trim_start().strip_prefix(':'));
    model.map_or_else(|| "unknown".to_owned(), |model| model.trim().to_owned())
}

fn memory_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// What one small durable append costs on the disk of `dir`.
fn probe(dir: &Path) -> io::Result<Summary> {
    let path = dir.join(format!(".ciro-bench-{:016x}", rand::random::<u64>()));
    let file = File::options().create_new(true).append(true).open(&path)?;
    let result = append_all(file);
    std::fs::remove_file(&path)?;
    result
}

fn append_all(mut file: File) -> io::Result<Summary> {
    let mut took = Histogram::new();
    for _ in 0..APPENDS {
        let began = clock::instant();
        file.write_all(&[0x5A; APPEND])?;
        file.sync_data()?;
        took.add(began.elapsed());
    }
    Ok(took.summary())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_measures_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let summary = probe(dir.path()).unwrap();
        assert_eq!(summary.count, APPENDS as u64);
        assert!(summary.max_us >= summary.p50_us);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(probe(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn hardware_is_read_from_proc() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nprocessor\t: 1\n";
        assert_eq!(cpu_model(cpuinfo), "Some CPU @ 2.00GHz");
        assert_eq!(cpu_model(""), "unknown");
        assert_eq!(memory_mib("MemTotal:       24576000 kB\nMemFree: 1 kB\n"), 24_000);
        assert_eq!(memory_mib("nonsense"), 0);
    }
}
