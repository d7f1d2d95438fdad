//! Requests of the leader to a worker, by whatever way there is.
//!
//! A worker may be connected to some coordinators and not to the leader: it is
//! behind a broken link, or the leader is new. Its gossip arrives all the same,
//! so it bids and wins. What it is told goes directly if it can, else through
//! a member that has it. A request may arrive twice by two ways; all requests
//! to workers can bear that.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Reign;
use crate::domain::WorkerId;
use crate::mesh::{Error, Lane};

impl Reign {
    /// Asks `worker`, for at most `limit` each way.
    pub(super) async fn ask(&self, worker: WorkerId, body: Bytes, limit: Duration) -> Result<Bytes, Error> {
        let mesh = &self.context.mesh;
        let direct = match mesh.request(worker, Lane::Worker, body.clone(), limit).await {
            Err(error @ (Error::Unreachable(_) | Error::Timeout(_) | Error::Lost(_))) => error,
            answered => return answered,
        };
        let mut errand = BytesMut::with_capacity(worker.0.len() + body.len());
        errand.extend_from_slice(&worker.0);
        errand.extend_from_slice(&body);
        let errand = errand.freeze();
        for member in mesh.members().iter().filter(|member| **member != mesh.id() && mesh.is_connected(**member)) {
            if let Ok(answer) = mesh.request(*member, Lane::Relay, errand.clone(), limit).await {
                return Ok(answer);
            }
        }
        Err(direct)
    }
}
