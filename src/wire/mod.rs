//! What goes over the wire: generated types, and their way to and from the domain.
//!
//! Everything decoded here came from a stranger. Lengths are checked, nothing
//! panics, and what does not decode is `None`: the caller counts it and lowers
//! the sender's score. Size limits are those of the lane or topic it came by.

mod convert;
mod mesh;
#[cfg(test)]
mod released;
pub mod wasm;

pub use convert::{
    capabilities_from_proto, capabilities_to_proto, digest, job_id, location_from_proto, location_to_proto,
    price_from_bytes, price_to_bytes, requirements_to_proto,
};
pub use mesh::{
    GROUPS, attempt_ref, bids_head, bids_tree, decode, encode, group, is_asked, parse_attempt, reach, refused,
    signed_bids, signed_result,
};

/// Generated from `proto/`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    pub mod job {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/ciro.job.v1.rs"));
        }
    }
    pub mod kafka {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/ciro.kafka.v1.rs"));
        }
    }
    pub mod mesh {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/ciro.mesh.v1.rs"));
        }
    }
}

/// Jobs in one announcement. Beyond it the first to be served are announced.
pub const ANNOUNCED_MAX: usize = 512;

/// Attempts named in one heartbeat: those that run, of which there are no more, then as many as fit of those
/// whose report is under way.
pub const RUNNING_MAX: usize = 1_024;

/// Items in one request on a worker stream.
pub const ITEMS_MAX: usize = 512;
