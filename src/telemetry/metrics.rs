//! Counting. One registry for the process; without the feature `metrics` every
//! function here does nothing.

use std::collections::BTreeMap;
use std::time::Duration;

/// Values read from the node at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    pub jobs: BTreeMap<&'static str, u64>,
    pub workers: BTreeMap<&'static str, u64>,
    pub jobs_submitted_total: u64,
    pub leader: bool,
    pub term: u64,
    pub applied: u64,
    pub committed: u64,
    pub staleness_ms: Option<u64>,
    pub peers_connected: u64,
    pub journal_seq: u64,
    pub storage_used_bytes: u64,
    pub storage_free_bytes: u64,
    pub sync_p50_us: u64,
    pub sync_p99_us: u64,
    pub uptime_secs: u64,
}

/// A record was committed and applied, `took` after it was proposed.
pub fn commit_took(_took: Duration) {}

/// A record of `commands` commands was applied.
pub fn apply_took(_took: Duration, _commands: usize) {}

/// `route` is the pattern (`/jobs/{id}`), not the path.
pub fn http_served(_method: &str, _route: &'static str, _status: u16, _took: Duration) {}

pub fn auction_closed(_took: Duration, _jobs: usize, _bids: usize, _awards: usize) {}

/// `result`: accepted, declined, unreachable.
pub fn assignments(_result: &'static str, _count: usize) {}

/// `what`: renewed, expired.
pub fn leases(_what: &'static str, _count: usize) {}

pub fn mesh_offence(_reason: &'static str) {}
