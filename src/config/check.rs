//! What single keys can not tell: combinations that can not work, and those
//! that work but are likely not meant.

use std::collections::BTreeSet;

use super::layers::{Layered, Origin};
use super::{Config, backup, blockchain, callbacks, jobs, kafka, text};

/// Below this one late heartbeat of a worker, or the slowest pace it may have, is silence.
const TWO_HEARTBEATS_MS: u64 = 2_500;

/// Combinations that can not work.
pub(super) fn problems(config: &Config, layered: &Layered) -> Vec<String> {
    let mut problems = vec![];
    let mut refuse = |path: &str, reason: String| {
        problems.push(format!("{}: {path}: {reason}", layered.origin(path)));
    };
    ports(config, &mut refuse);
    timing(config, &mut refuse);
    members(config, &mut refuse);
    discovery(config, layered, &mut refuse);
    missing_parts(config, layered, &mut refuse);
    blockchain::problems(config, &mut refuse);
    kafka::problems(config, &mut refuse);
    callbacks::problems(config, &mut refuse);
    backup::problems(config, &mut refuse);
    problems
}

fn ports(config: &Config, refuse: &mut impl FnMut(&str, String)) {
    let (api, p2p) = (config.api.bind.port(), config.network.p2p_port);
    if api == p2p && api != 0 {
        refuse(
            "network.p2p_port",
            format!("is {p2p}, and so is the port of api.bind; they must differ (defaults: API 8080, p2p 4001)"),
        );
    }
    if !config.environment.is_local() {
        let any = "port 0 (any free one) is for development and test; here others must know it";
        if api == 0 {
            refuse("api.bind", any.to_owned());
        }
        if p2p == 0 {
            refuse("network.p2p_port", any.to_owned());
        }
    }
    if config.api.max_body_bytes < config.api.max_payload_bytes * 4 / 3 + 1_024 {
        refuse(
            "api.max_body_bytes",
            "too small for a payload of api.max_payload_bytes in base64; allow at least 4/3 of it and 1024 more"
                .to_owned(),
        );
    }
}

fn timing(config: &Config, refuse: &mut impl FnMut(&str, String)) {
    let cluster = &config.cluster;
    if cluster.election_min_ms < cluster.heartbeat_ms * 2 {
        refuse(
            "cluster.election_min_ms",
            format!(
                "is {}, with heartbeats every {} ms one late heartbeat would cost the leader its office; \
                 at least twice cluster.heartbeat_ms",
                cluster.election_min_ms, cluster.heartbeat_ms
            ),
        );
    }
    if cluster.election_max_ms <= cluster.election_min_ms {
        refuse(
            "cluster.election_max_ms",
            format!("must be greater than election_min_ms ({})", cluster.election_min_ms),
        );
    }
    if config.scheduler.lease_secs * 1_000 <= config.scheduler.offline_after_ms {
        refuse(
            "scheduler.lease_secs",
            format!(
                "a lease must outlast the silence after which a worker is offline ({} ms)",
                config.scheduler.offline_after_ms
            ),
        );
    }
}

fn members(config: &Config, refuse: &mut impl FnMut(&str, String)) {
    if !config.cluster.join.is_empty() && !config.cluster.initial_members.is_empty() {
        refuse(
            "cluster.join",
            "a node joins a cluster that runs, or forms one with cluster.initial_members".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    for member in &config.cluster.initial_members {
        if let Some(peer) = text::peer_of(member)
            && !seen.insert(peer)
        {
            refuse("cluster.initial_members", format!("{peer} is there twice; one address for each member"));
        }
    }
}

fn discovery(config: &Config, layered: &Layered, refuse: &mut impl FnMut(&str, String)) {
    // mdns_enabled is already off here when discovery is: ask what was said.
    let wanted = layered.to_table()["network"]["mdns_enabled"].as_bool() == Some(true);
    if !wanted || layered.origin("network.mdns_enabled") == Origin::Default {
        return;
    }
    if !config.environment.is_local() {
        refuse("network.mdns_enabled", "is for development and test; name peers in network.bootstrap_peers".to_owned());
    } else if !config.network.discovery_enabled {
        refuse("network.mdns_enabled", "needs network.discovery_enabled = true".to_owned());
    }
}

fn missing_parts(config: &Config, layered: &Layered, refuse: &mut impl FnMut(&str, String)) {
    let asked = layered.origin("metrics.enabled") != Origin::Default;
    if config.metrics.enabled && asked && !cfg!(feature = "metrics") {
        refuse("metrics.enabled", "this build has no metrics; build with --features metrics".to_owned());
    }
}

/// What works but is likely not meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = vec![];
    if !config.api.bind.ip().is_loopback() {
        warnings.push(format!(
            "the API on {} is reachable from other machines and has no authentication: \
             anyone who reaches it can submit and cancel jobs",
            config.api.bind
        ));
    }
    if !config.network.gossip_enabled {
        warnings.push("network.gossip_enabled is false: this node awards no jobs while it leads".to_owned());
    }
    if config.scheduler.offline_after_ms < TWO_HEARTBEATS_MS {
        warnings.push(format!(
            "scheduler.offline_after_ms is {}: workers may be told to send a heartbeat every 2 s only, \
             and lose their jobs when one is late; at least {TWO_HEARTBEATS_MS}",
            config.scheduler.offline_after_ms
        ));
    }
    if config.database_url.is_some() {
        warnings.push("database_url is set, but this build writes no history to PostgreSQL yet".to_owned());
    }
    if config.metrics.enabled && !cfg!(feature = "metrics") {
        warnings.push("this build has no metrics: nothing is counted".to_owned());
    }
    warnings.extend(blockchain::warnings(config));
    warnings.extend(kafka::warnings(config));
    warnings.extend(callbacks::warnings(config));
    warnings.extend(jobs::warnings(config));
    warnings
}
