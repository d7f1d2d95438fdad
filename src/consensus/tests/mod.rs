//! Clusters in one process: real stores, real Raft, a mesh that can be cut.

pub(crate) mod cluster;
mod conformance;
mod faults;
mod hub;
mod membership;
mod mesh;
mod snapshot_files;
mod snapshots;
mod writes;
