//! A worker as the log knows it: what it declared, and the last verdict on it.
//! What it says every second (heartbeats, load) is soft and lives in
//! `mesh::Roster`, not here.

use serde::{Deserialize, Serialize};

use super::chain::Felt;
use super::ids::WorkerId;
use super::reputation::Change;
use super::time::Timestamp;

/// Where reputation starts, and the value it decays to.
pub const REPUTATION_START: u32 = 500;
pub const REPUTATION_MAX: u32 = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub cpu_cores: u32,
    pub ram_mb: u64,
    pub gpu_count: u32,
    pub gpu_model: String,
    pub gpu_memory_mb: u64,
    pub storage_gb: u64,
    pub network_bandwidth_mbps: u64,
    pub job_types: Vec<String>,
    pub frameworks: Vec<String>,
    pub accelerators: Vec<String>,
    pub max_parallel_jobs: u32,
    pub cuda_compute_capability: String,
    pub tee: Tee,
    /// Of references to inputs that it fetches, such as `https`. Empty: inputs must come with their jobs.
    pub input_schemes: Vec<String>,
    /// The account on chain that it is paid to. Registering with `None` leaves what was said before.
    pub payout_address: Option<Felt>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tee {
    #[default]
    None,
    Cpu,
    Full,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    pub region: String,
    pub country: String,
    /// Microdegrees.
    pub latitude_e6: Option<i32>,
    pub longitude_e6: Option<i32>,
}

/// What the log says of a worker's life. `busy` is not a verdict: it follows
/// from the attempts a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Online,
    Unhealthy,
    Offline,
}

/// What users see as a worker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    Online,
    Busy,
    Draining,
    Unhealthy,
    Offline,
    Banned,
}

impl WorkerState {
    pub const ALL: [Self; 6] = [Self::Online, Self::Busy, Self::Draining, Self::Unhealthy, Self::Offline, Self::Banned];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
            Self::Offline => "offline",
            Self::Banned => "banned",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub id: WorkerId,
    pub capabilities: Capabilities,
    pub location: Location,
    pub version: String,
    pub verdict: Verdict,
    pub draining: bool,
    /// 0 to 1000.
    pub reputation: u32,
    /// How the reputation came about lately, oldest first.
    pub changes: Vec<Change>,
    /// Wins nothing until then.
    pub banned_until: Option<Timestamp>,
    pub registered_at: Timestamp,
    pub verdict_at: Timestamp,
    pub completed: u64,
    pub failed: u64,
    pub lost: u64,
}
