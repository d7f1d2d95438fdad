//! Configuration: what the operator said, checked, as typed values.
//!
//! Four layers, a later one wins: the defaults of the environment, the file,
//! `CIRO__SECTION__KEY` variables, flags. One table ([`schema`]) names every key
//! with its meaning, range and defaults; reading, refusing, generating and
//! printing all follow from it, so that they can not disagree.
//!
//! Invariants
//!
//! * What the operator wrote is used or refused, never ignored: unknown keys
//!   (also in variables), values out of range and combinations that can not work
//!   are refused together, each with where it was said and what would be right.
//! * Secrets leave this module only through [`Secret::expose`]. `Debug` and the
//!   printed configuration show them without their credentials.

mod backup;
mod blockchain;
mod callbacks;
mod check;
mod defaults;
mod generate;
mod jobs;
mod joining;
mod kafka;
mod keeping;
mod layers;
mod schema;
mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

pub use backup::Backup;
pub use blockchain::{Blockchain, Settlement};
pub use callbacks::Callbacks;
pub use generate::generate;
pub use jobs::Jobs;
pub use kafka::Kafka;
pub use layers::{Layered, Origin, Sources};

use crate::domain::NodeId;

/// Everything that is wrong with a configuration, one problem a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Error(pub Vec<String>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    #[default]
    Development,
    Staging,
    Production,
    Test,
}

impl Environment {
    pub const ALL: [Self; 4] = [Self::Development, Self::Staging, Self::Production, Self::Test];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
            Self::Test => "test",
        }
    }

    /// On one machine, for trying things out: any free port will do.
    pub fn is_local(self) -> bool {
        matches!(self, Self::Development | Self::Test)
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Environment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|environment| environment.as_str() == text)
            .ok_or_else(|| "expected development, staging, production or test".to_owned())
    }
}

/// How log lines look: for people, or one JSON object each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Text that may hold credentials.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text with its credentials, for whom it is meant.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Without the credentials.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::redacted(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub environment: Environment,
    #[serde(deserialize_with = "unless_empty")]
    pub database_url: Option<Secret>,
    pub node: Node,
    pub api: Api,
    pub network: Network,
    pub cluster: Cluster,
    pub scheduler: Scheduler,
    pub blockchain: Blockchain,
    pub kafka: Kafka,
    pub callbacks: Callbacks,
    pub jobs: Jobs,
    pub backup: Backup,
    pub logging: Logging,
    pub metrics: Metrics,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub data_dir: PathBuf,
    /// Never empty once loaded: `<data_dir>/node.key` when not configured.
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    pub bind: SocketAddr,
    pub max_connections: usize,
    /// Decoded bytes of one job's inline payload.
    pub max_payload_bytes: usize,
    pub max_body_bytes: usize,
    pub max_batch_body_bytes: usize,
    pub max_batch_items: usize,
    /// Whether `?consistency=lease` is served.
    pub lease_reads: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub name: String,
    /// TCP and UDP (QUIC). 0: any free port.
    pub p2p_port: u16,
    pub listen_address: IpAddr,
    pub discovery_enabled: bool,
    pub gossip_enabled: bool,
    /// Off whenever `discovery_enabled` is.
    pub mdns_enabled: bool,
    pub bootstrap_peers: Vec<String>,
    pub persistent_peers: Vec<String>,
    pub external_addresses: Vec<String>,
    pub max_connections: u32,
}

impl Network {
    /// Where to listen, as multiaddrs: QUIC and TCP on the same port.
    pub fn listen(&self) -> Vec<String> {
        let family = if self.listen_address.is_ipv4() { "ip4" } else { "ip6" };
        let (address, port) = (self.listen_address, self.p2p_port);
        vec![format!("/{family}/{address}/udp/{port}/quic-v1"), format!("/{family}/{address}/tcp/{port}")]
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Voters of a new cluster. Empty: this node alone.
    pub initial_members: Vec<String>,
    /// Members to ask for admission.
    pub join: Vec<String>,
    #[serde(deserialize_with = "unless_empty")]
    pub invitation: Option<Secret>,
    /// Empty: none.
    pub invitation_file: PathBuf,
    pub autopilot: bool,
    pub autopilot_after_secs: u64,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    pub snapshot_every_entries: u64,
    pub snapshot_every_mb: u64,
    pub keep_entries: u64,
    pub max_inflight: usize,
    pub min_free_disk_mb: u64,
    /// 0: a slow disk costs no leadership.
    pub slow_disk_ms: u64,
    pub slow_disk_for_secs: u64,
}

impl Cluster {
    /// The peer ids of the initial members.
    pub fn member_ids(&self) -> BTreeSet<NodeId> {
        self.initial_members.iter().filter_map(|member| text::peer_of(member)).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    pub tick_ms: u64,
    pub window_ms: u64,
    pub lease_secs: u64,
    pub offline_after_ms: u64,
    pub max_open_per_announcement: usize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub enabled: bool,
}

impl Config {
    /// The defaults of an environment.
    pub fn defaults(environment: Environment) -> Self {
        let sources = Sources { environment: Some(environment), ..Sources::default() };
        match Self::load(&sources) {
            Ok((config, _)) => config,
            // Every environment's defaults are loaded by a test.
            Err(error) => unreachable!("defaults are valid: {error}"),
        }
    }

    /// Lays the sources over each other and checks the whole.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, at once.
    pub fn load(sources: &Sources) -> Result<(Self, Layered), Error> {
        let layered = Layered::read(sources)?;
        let mut config: Self = layered.to_table().try_into().map_err(|error: toml::de::Error| {
            Error(vec![format!("configuration can not be understood: {}", error.message())])
        })?;
        if config.node.key_file.as_os_str().is_empty() {
            config.node.key_file = config.node.data_dir.join("node.key");
        }
        config.network.mdns_enabled &= config.network.discovery_enabled;
        let problems = check::problems(&config, &layered);
        if problems.is_empty() { Ok((config, layered)) } else { Err(Error(problems)) }
    }

    /// What the operator should hear at every start: legal, but likely not what is wanted.
    pub fn warnings(&self) -> Vec<String> {
        check::warnings(self)
    }
}

fn unless_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then_some(Secret(text)))
}
