//! The configuration as each layer wants it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::join::Plan;
use crate::config::{Config, Secret};
use crate::domain::{NodeId, level};
use crate::submission::Door;
use crate::submission::settlement::Defaults;
use crate::{api, backup, chain, consensus, kafka, leader, mesh, submission};

/// Largest message between members: a record of Raft with room to spare.
const FRAME_MAX: usize = 8 << 20;

/// Holds the keystore's password where no file does.
pub(crate) const PASSWORD_VARIABLE: &str = "CIRO_KEYSTORE_PASSWORD";

const MIB: u64 = 1 << 20;

/// Tests run this build as the one before it.
#[cfg(debug_assertions)]
fn newest_level() -> u32 {
    let told = std::env::var("CIRO_TEST_NEWEST_LEVEL").ok().and_then(|level| level.parse().ok());
    told.unwrap_or(level::FIRST).min(level::NEWEST)
}

#[cfg(not(debug_assertions))]
fn newest_level() -> u32 {
    level::NEWEST
}

impl Config {
    pub(super) fn key_file(&self) -> PathBuf {
        self.node.key_file.clone()
    }

    pub(super) fn mesh_options(&self, join: Option<&Plan>) -> mesh::Options {
        let network = &self.network;
        let members = &self.cluster.initial_members;
        let kept: BTreeSet<&String> =
            members.iter().chain(&network.persistent_peers).chain(&network.bootstrap_peers).collect();
        let asked = join.into_iter().flat_map(|plan| plan.addresses.iter());
        let kept: BTreeSet<&String> = kept.into_iter().chain(asked).collect();
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
    pub(super) fn consensus_options(&self, own: &[String], join: Option<Plan>) -> consensus::Options {
        let cluster = &self.cluster;
        let external = !self.network.external_addresses.is_empty();
        consensus::Options {
            initial_members: match cluster.initial_members.as_slice() {
                [] if join.is_some() => vec![],
                [] => self.told_addresses(own).into_iter().take(1).collect(),
                members => members.to_vec(),
            },
            join: join.map(|plan| plan.joining),
            external: if external { self.told_addresses(own) } else { vec![] },
            autopilot: cluster.autopilot.then(|| Duration::from_secs(cluster.autopilot_after_secs)),
            heartbeat: Duration::from_millis(cluster.heartbeat_ms),
            election_min: Duration::from_millis(cluster.election_min_ms),
            election_max: Duration::from_millis(cluster.election_max_ms),
            snapshot_every: cluster.snapshot_every_entries,
            snapshot_every_bytes: cluster.snapshot_every_mb * MIB,
            keep_entries: cluster.keep_entries,
            inflight: cluster.max_inflight,
            min_free_bytes: cluster.min_free_disk_mb * MIB,
            newest_level: newest_level(),
            lease_reads: self.api.lease_reads,
            slow_disk: Duration::from_millis(cluster.slow_disk_ms),
            slow_disk_for: Duration::from_secs(cluster.slow_disk_for_secs),
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
            door: self.door(),
            retention: self.retention(),
        }
    }

    /// What becomes of finished jobs.
    fn retention(&self) -> leader::Retention {
        let told = &self.jobs;
        leader::Retention {
            hot: told.hot,
            max_age: Duration::from_secs(told.retention_secs),
            count: told.retention_count,
            bytes: told.retention_mb * MIB,
        }
    }

    /// What submissions are held to, whichever way they come.
    fn door(&self) -> Door {
        let told = &self.blockchain;
        let defaults = || Defaults {
            policy: told.settlement.policy(),
            confirmation: told.confirmation,
            max_price: told.default_max_price,
            max_escrow: told.max_escrow,
            payer: (!told.charge_clients).then(|| told.account_address.unwrap_or_default()),
        };
        let callbacks = &self.callbacks;
        let rules = submission::Callbacks { allow_private: callbacks.allow_private };
        Door {
            inline_bytes: self.api.max_payload_bytes,
            settlement: told.enabled.then(defaults),
            callbacks: callbacks.enabled.then_some(rules),
        }
    }

    pub(super) fn backup_options(&self) -> backup::Options {
        let told = &self.backup;
        let schedule = || backup::Schedule {
            directory: told.directory.clone(),
            every: Duration::from_secs(told.every_secs),
            keep: told.keep,
            // Whoever shares the disk must not come to its own bound by it.
            leave_free: self.cluster.min_free_disk_mb.saturating_mul(2 * MIB),
        };
        backup::Options {
            bytes_per_sec: told.max_mb_per_sec * MIB,
            schedule: (!told.directory.as_os_str().is_empty()).then(schedule),
        }
    }

    /// `None`: disabled. `secret`: what bodies are signed with.
    pub(super) fn callback_settings(
        &self,
        secret: Option<&str>,
        authorities: Vec<leader::CallbackAuthority>,
    ) -> Option<leader::CallbackSettings> {
        let told = &self.callbacks;
        let settings = || leader::CallbackSettings {
            network: self.network.name.clone(),
            allow_private: told.allow_private,
            max_age: Duration::from_secs(told.max_age_secs),
            key: secret.and_then(leader::CallbackKey::new),
            authorities,
        };
        told.enabled.then(settings)
    }

    /// `None`: disabled.
    pub(super) fn kafka_options(&self, id: NodeId) -> Option<kafka::Options> {
        self.kafka.enabled.then(|| self.kafka_client(format!("ciro-{id}")))
    }

    /// How whoever is called `client_id` reaches Kafka, whether intake and delivery are enabled or not.
    pub(crate) fn kafka_client(&self, client_id: String) -> kafka::Options {
        let told = &self.kafka;
        kafka::Options {
            bootstrap_servers: told.bootstrap_servers.clone(),
            mode: told.mode,
            delivery: told.delivery,
            topics: told.topics(),
            cluster_name: self.network.name.clone(),
            client_id,
            create_topics: told.create_topics,
            intake: kafka::Intake {
                from: told.intake_from,
                max_in_flight_jobs: told.max_in_flight_jobs,
                batch_records: told.batch_records,
                batch_bytes: told.batch_bytes,
            },
            security: self.kafka_security(),
            timing: kafka::Timing::default(),
        }
    }

    fn kafka_security(&self) -> kafka::Security {
        let told = &self.kafka;
        let hidden = |secret: &Option<Secret>| secret.as_ref().map(|secret| kafka::Hidden::new(secret.expose()));
        let file = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        kafka::Security {
            protocol: told.security_protocol,
            mechanism: (!told.sasl_mechanism.is_empty()).then(|| told.sasl_mechanism.clone()),
            username: hidden(&told.sasl_username),
            password: hidden(&told.sasl_password),
            ca_file: file(&told.ssl_ca_file),
            certificate_file: file(&told.ssl_certificate_file),
            key_file: file(&told.ssl_key_file),
        }
    }

    /// `None`: disabled.
    pub(super) fn chain_options(&self) -> Option<chain::Options> {
        self.blockchain.enabled.then(|| self.chain_client(std::env::var(PASSWORD_VARIABLE).ok()))
    }

    /// How the chain is reached, whether it is enabled or not. `password`: of the keystore, where no file has it.
    pub(crate) fn chain_client(&self, password: Option<String>) -> chain::Options {
        let told = &self.blockchain;
        let rpc = |url: &&Secret| chain::Rpc { url: chain::Hidden::new(url.expose()), shown: url.to_string() };
        chain::Options {
            rpc: told.endpoints().iter().map(rpc).collect(),
            chain_id: told.chain_id,
            contract: told.job_manager_address.unwrap_or_default(),
            account: told.account_address.unwrap_or_default(),
            signer: self.chain_signer(password),
            generation: told.generation,
            policy: told.settlement.policy(),
            confirmation: told.confirmation,
            default_max_price: told.default_max_price,
            max_escrow: told.max_escrow,
            charge_clients: told.charge_clients,
            batch_calls: told.batch_calls,
            batch_wait: Duration::from_millis(told.batch_wait_ms),
            max_fee: told.max_fee,
            max_spend_per_hour: told.max_spend_per_hour,
            tip: told.tip,
            replace_after: Duration::from_secs(told.replace_after_secs),
            watch_blocks: told.watch_blocks,
            follow_from: told.follow_from_block,
            timing: chain::Timing {
                request: Duration::from_millis(told.request_timeout_ms),
                ..chain::Timing::default()
            },
        }
    }

    fn chain_signer(&self, password: Option<String>) -> chain::Signer {
        let told = &self.blockchain;
        if let Some(key) = &told.insecure_dev_key {
            return chain::Signer::Plain(chain::Hidden::new(key.expose()));
        }
        if !told.has_keystore() {
            return chain::Signer::None;
        }
        let file = &told.keystore_password_file;
        let password = match password {
            _ if !file.as_os_str().is_empty() => Some(chain::Password::File(file.clone())),
            given => given.map(|text| chain::Password::Given(chain::Hidden::new(text))),
        };
        chain::Signer::Keystore { file: told.keystore.clone(), password }
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
            door: self.door(),
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
        assert_eq!(forwarded.consensus_options(&own, None).initial_members, told[..1]);
        assert_eq!(config("").coordinator_addresses(&own), own);
    }

    #[test]
    fn kafka_is_told_what_was_configured_and_shows_no_secret() {
        let id = crate::domain::PeerId([7; 32]);
        assert_eq!(Config::defaults(Environment::Production).kafka_options(id), None);
        let set = [
            ("kafka.enabled", "true"),
            ("kafka.bootstrap_servers", "a:1,b:2"),
            ("kafka.security_protocol", "sasl_plaintext"),
            ("kafka.sasl_mechanism", "PLAIN"),
            ("kafka.sasl_username", "hunter5"),
            ("kafka.sasl_password", "hunter6"),
        ];
        let flags = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut config = Config::defaults(Environment::Development);
        if cfg!(feature = "kafka") {
            config = Config::load(&Sources { flags, ..Sources::default() }).unwrap().0;
            let options = config.kafka_options(id).unwrap();
            assert_eq!(options.bootstrap_servers, ["a:1", "b:2"]);
            assert_eq!(options.transactional_id(), "ciro-development.publish");
            assert_eq!(options.security.password, Some(kafka::Hidden::new("hunter6")));
            assert!(!format!("{options:?}").contains("hunter"), "{options:?}");
        }
        assert_eq!(config.kafka.topics().dead_letters(), "ciro.jobs.dlq");
    }

    #[test]
    fn the_limits_that_tests_run_with_are_those_of_a_default_node() {
        let configured = Config::defaults(Environment::Production).api_limits();
        assert_eq!(format!("{configured:?}"), format!("{:?}", api::Limits::default()));
    }
}
