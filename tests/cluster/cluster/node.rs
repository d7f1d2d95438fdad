//! A node's directory, key and ports, before it runs.

use std::fs;
use std::path::Path;

use super::Node;
use crate::machine::Machine;
use crate::ports;
use crate::programs::{clean, coordinator, run};

impl Node {
    pub(super) fn prepare(root: &Path, index: usize) -> Self {
        let dir = root.join(format!("node-{index}"));
        fs::create_dir_all(dir.join("data")).unwrap();
        let (p2p, api) = (ports::free(), ports::free());
        Self {
            id: identity(&dir.join("data")),
            machine: Machine::new(&dir),
            dir,
            p2p,
            relay: None,
            invitation: None,
            absent: false,
            api,
            process: None,
        }
    }

    /// Another node in its place: with another key, and nothing in its directory.
    pub(super) fn wipe(&mut self) {
        let data = self.dir.join("data");
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir_all(&data).unwrap();
        self.id = identity(&data);
    }

    pub fn address(&self) -> String {
        match self.relay {
            Some(port) => format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", self.id),
            None => format!("/ip4/127.0.0.1/udp/{}/quic-v1/p2p/{}", self.p2p, self.id),
        }
    }
}

/// The id of the node whose data these are, or will be.
fn identity(data: &Path) -> String {
    run(clean(coordinator()).args(["identity", "--data-dir"]).arg(data)).trim().to_owned()
}
