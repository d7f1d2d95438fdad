//! Stories of one store. `kill -9` belongs to the cluster tests, power loss and
//! bad disks to those of consensus, which see the store as Raft uses it. Here is
//! held that every barrier is an `fdatasync` of sled's log, asked of the kernel
//! and answered by it, see [`durability`].

mod cost;
pub(crate) mod durability;
mod model;
mod opening;

use std::path::Path;

use super::{OpenOptions, Store};
use crate::domain::NodeId;

const OWNER: NodeId = crate::domain::PeerId([7; 32]);

fn open(dir: &Path) -> Store {
    OpenOptions::new().ballast_bytes(0).open(dir, OWNER).unwrap()
}

/// Bytes that differ by `seed` and along the way, so that chunks cannot be mixed up.
fn value(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| seed ^ (i as u8) ^ ((i >> 8) as u8) ^ ((i >> 16) as u8)).collect()
}
