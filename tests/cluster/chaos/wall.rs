//! Wall clocks that jump, in real processes.
//!
//! Nodes are started with a small library before them (`wall.c`, compiled here),
//! which adds to the wall clock what stands in a file of the node's directory.
//! Their monotonic clocks do not move.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::cluster::{Cluster, Node};
use crate::programs::run;

/// The library, until this is dropped.
pub struct Wall {
    library: PathBuf,
    _dir: TempDir,
}

impl Wall {
    pub fn build() -> Self {
        let dir = tempfile::Builder::new().prefix("ciro-wall-").tempdir().unwrap();
        let library = dir.path().join("wall.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/chaos/wall.c");
        run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source));
        Self { library, _dir: dir }
    }

    /// What the nodes' environment needs.
    pub fn setting(&self) -> (String, String) {
        ("LD_PRELOAD".to_owned(), self.library.to_str().unwrap().to_owned())
    }
}

/// From now on the node's wall clock is wrong by `ms`. It must have a file from its start on, see [`Wall`].
pub fn set(node: &Node, ms: i64) {
    // In place: the process has it mapped.
    let file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(node.dir.join("wall")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &ms.to_ne_bytes(), 0).unwrap();
}

/// Starts a cluster whose nodes have clocks that can be set.
pub async fn start(wall: &Wall, nodes: usize, workers: usize, mut settings: Vec<(String, String)>) -> Cluster {
    settings.push(wall.setting());
    let mut cluster = Cluster::start_with_links_and(nodes, 0, settings).await;
    // The file comes before the process that maps it.
    for node in 0..nodes {
        set(&cluster.nodes[node], 0);
        cluster.stop(node).await;
        cluster.restart(node).await;
    }
    for _ in 0..workers {
        cluster.add_worker();
    }
    cluster.workers_online(workers).await;
    cluster
}
