//! Clusters in one process: real stores, real Raft, a mesh that can be cut.

mod archive;
pub(crate) mod cluster;
mod conformance;
mod disk;
mod faults;
mod formats;
mod growth;
mod hub;
mod levels;
mod membership;
mod mesh;
mod offline;
mod reads;
mod snapshot_files;
mod snapshots;
mod writes;
