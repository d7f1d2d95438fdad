//! What each node believes of the machine it runs on: its wall clock, its disk.
//!
//! Nodes are started with a small library before them (`machine.c`, compiled
//! here), which reads these from a file of the node's directory at every call. So
//! they change while the node runs, and a node that is started again finds them
//! as they were.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::programs::run;

pub struct Machine(File);

impl Machine {
    /// An honest one.
    pub fn new(node: &Path) -> Self {
        let file = OpenOptions::new().write(true).create_new(true).open(node.join("machine")).unwrap();
        let machine = Self(file);
        machine.heal();
        machine
    }

    /// It is honest again, and its disk fast.
    pub fn heal(&self) {
        self.wall_clock(0);
        self.free_space(None);
        self.slow_disk(Duration::ZERO);
    }

    /// The wall clock is wrong by `ms`.
    pub fn wall_clock(&self, ms: i64) {
        self.tell(0, ms);
    }

    /// So many bytes are free; `None`: as many as there are.
    pub fn free_space(&self, bytes: Option<u64>) {
        self.tell(1, bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap()));
    }

    /// Each sync takes so much longer.
    pub fn slow_disk(&self, more: Duration) {
        self.tell(2, i64::try_from(more.as_millis()).unwrap());
    }

    // In place: the process has the file mapped.
    fn tell(&self, number: u64, value: i64) {
        self.0.write_all_at(&value.to_ne_bytes(), number * 8).unwrap();
    }
}

/// Makes the library in `dir`.
pub fn build(dir: &Path) -> PathBuf {
    let library = dir.join("machine.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/machine.c");
    // The build of the node needs a C compiler as well.
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"];
    run(Command::new(compiler).args(flags).arg(&library).arg(source));
    library
}
