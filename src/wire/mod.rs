//! What goes over the wire: generated types, and their way to and from the domain.

/// Generated from `proto/`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    pub mod job {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/ciro.job.v1.rs"));
        }
    }
    pub mod mesh {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/ciro.mesh.v1.rs"));
        }
    }
}
