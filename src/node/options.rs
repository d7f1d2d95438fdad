//! The configuration as each layer wants it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;
use crate::{api, consensus, leader, mesh};

/// Largest message between members: a record of Raft with room to spare.
const FRAME_MAX: usize = 8 << 20;

const MIB: u64 = 1 << 20;

impl Config {
    pub(super) fn key_file(&self) -> PathBuf {
        self.node.key_file.clone()
    }

    pub(super) fn mesh_options(&self) -> mesh::Options {
        let network = &self.network;
        let members = &self.cluster.initial_members;
        let kept: BTreeSet<&String> =
            members.iter().chain(&network.persistent_peers).chain(&network.bootstrap_peers).collect();
        mesh::Options {
            network: network.name.clone(),
            role: mesh::Role::Coordinator,
            listen: network.listen(),
            external: network.external_addresses.clone(),
            persistent: kept.into_iter().cloned().collect(),
            members: self.cluster.member_ids(),
            gossip: network.gossip_enabled,
            discovery: network.discovery_enabled,
            mdns: network.mdns_enabled,
            max_connections: network.max_connections,
            max_frame: FRAME_MAX,
        }
    }

    /// `own`: where this node listens. Without members configured it is the only one.
    pub(super) fn consensus_options(&self, own: &[String]) -> consensus::Options {
        let cluster = &self.cluster;
        consensus::Options {
            initial_members: match cluster.initial_members.as_slice() {
                [] => self.told_addresses(own).into_iter().take(1).collect(),
                members => members.to_vec(),
            },
            heartbeat: Duration::from_millis(cluster.heartbeat_ms),
            election_min: Duration::from_millis(cluster.election_min_ms),
            election_max: Duration::from_millis(cluster.election_max_ms),
            snapshot_every: cluster.snapshot_every_entries,
            snapshot_every_bytes: cluster.snapshot_every_mb * MIB,
            keep_entries: cluster.keep_entries,
            inflight: cluster.max_inflight,
            min_free_bytes: cluster.min_free_disk_mb * MIB,
        }
    }

    pub(super) fn leader_options(&self) -> leader::Options {
        let scheduler = &self.scheduler;
        leader::Options {
            window: Duration::from_millis(scheduler.window_ms),
            tick: Duration::from_millis(scheduler.tick_ms),
            lease: Duration::from_secs(scheduler.lease_secs),
            offline_after: Duration::from_millis(scheduler.offline_after_ms),
            announced_max: scheduler.max_open_per_announcement,
            inline_bytes: self.api.max_payload_bytes,
        }
    }

    /// Multiaddrs that workers are told.
    pub(super) fn coordinator_addresses(&self, own: &[String]) -> Vec<String> {
        let members = &self.cluster.initial_members;
        if members.is_empty() { self.told_addresses(own) } else { members.clone() }
    }

    /// Where others find this node: where it listens, unless the configuration knows better.
    fn told_addresses(&self, own: &[String]) -> Vec<String> {
        let external = &self.network.external_addresses;
        let id = own.first().and_then(|address| address.rsplit_once("/p2p/")).map(|(_, id)| id);
        match id {
            Some(id) if !external.is_empty() => external.iter().map(|address| format!("{address}/p2p/{id}")).collect(),
            _ => own.to_vec(),
        }
    }

    pub(super) fn api_limits(&self) -> api::Limits {
        api::Limits {
            connections: self.api.max_connections,
            body_bytes: self.api.max_body_bytes,
            batch_bytes: self.api.max_batch_body_bytes,
            batch_items: self.api.max_batch_items,
            inline_bytes: self.api.max_payload_bytes,
            ..api::Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Sources};

    #[test]
    fn a_node_behind_a_port_forward_tells_where_it_is_found() {
        let own = ["/ip4/10.0.0.1/tcp/4001/p2p/12D3KooWx".to_owned()];
        let config = |external: &str| {
            let flags = vec![("network.external_addresses".to_owned(), external.to_owned())];
            Config::load(&Sources { flags, ..Sources::default() }).unwrap().0
        };
        let forwarded = config("/ip4/203.0.113.7/tcp/9,/dns4/node.example/tcp/9");
        let told = ["/ip4/203.0.113.7/tcp/9/p2p/12D3KooWx", "/dns4/node.example/tcp/9/p2p/12D3KooWx"];
        assert_eq!(forwarded.coordinator_addresses(&own), told);
        assert_eq!(forwarded.consensus_options(&own).initial_members, told[..1]);
        assert_eq!(config("").coordinator_addresses(&own), own);
    }

    #[test]
    fn the_limits_that_tests_run_with_are_those_of_a_default_node() {
        let configured = Config::defaults(Environment::Production).api_limits();
        assert_eq!(format!("{configured:?}"), format!("{:?}", api::Limits::default()));
    }
}
