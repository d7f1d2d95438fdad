//! Every key there is: its name, kind, meaning and defaults.

use toml::Value;

use super::defaults::{data_dir, log_level, network_name, rpc_url};
use super::text;
use super::{Environment, joining, keeping};

/// What a value must be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Bool,
    Integer { min: i64, max: i64 },
    Text(Rule),
    List(Rule),
}

/// Checks one text; the error says what would be right.
pub(super) type Rule = fn(&str) -> Result<(), &'static str>;

/// A default that can stand in a table.
#[derive(Clone, Copy)]
pub(super) enum Plain {
    Bool(bool),
    Integer(i64),
    Text(&'static str),
    List(&'static [&'static str]),
}

#[derive(Clone, Copy)]
pub(super) enum Default {
    Always(Plain),
    By(fn(Environment) -> Plain),
}

pub(super) struct Key {
    /// `section.key`, or `key` at the top.
    pub path: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// May hold credentials: never shown whole.
    pub secret: bool,
    pub doc: &'static str,
}

impl Key {
    pub fn default_in(&self, environment: Environment) -> Value {
        let plain = match self.default {
            Default::Always(plain) => plain,
            Default::By(choose) => choose(environment),
        };
        match plain {
            Plain::Bool(value) => Value::Boolean(value),
            Plain::Integer(value) => Value::Integer(value),
            Plain::Text(value) => Value::String(value.to_owned()),
            Plain::List(values) => {
                Value::Array(values.iter().map(|value| Value::String((*value).to_owned())).collect())
            }
        }
    }

    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }
}

/// Sections in the order of the generated file.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("node", "This node's own files."),
    ("api", "The REST API."),
    ("network", "The peer-to-peer mesh: Raft, gossip and workers share one port."),
    ("cluster", "Raft: who votes, how fast a dead leader is noticed, how much log is kept."),
    ("scheduler", "How the leader gives jobs to workers."),
    ("blockchain", "The Job Manager contract on Starknet."),
    ("kafka", "Intake of jobs from Kafka, and results to it."),
    ("callbacks", "The ends of jobs are posted to the URLs that clients name; see docs/callbacks.md."),
    ("jobs", "What becomes of finished jobs: see docs/operations.md."),
    ("backup", "Copies of the whole state, taken while the node runs; see docs/operations.md."),
    ("logging", "Logs go to standard error. The variable RUST_LOG wins over this section's level."),
    ("metrics", "Counting; shown on /metrics."),
];

pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

pub(super) const fn integer(path: &'static str, min: i64, max: i64, default: i64, doc: &'static str) -> Key {
    Key { path, kind: Kind::Integer { min, max }, default: always(Plain::Integer(default)), secret: false, doc }
}

pub(super) const fn flag(path: &'static str, default: Default, doc: &'static str) -> Key {
    Key { path, kind: Kind::Bool, default, secret: false, doc }
}

pub(super) const fn word(path: &'static str, rule: Rule, default: Default, doc: &'static str) -> Key {
    Key { path, kind: Kind::Text(rule), default, secret: false, doc }
}

pub(super) const fn list(path: &'static str, rule: Rule, default: &'static [&'static str], doc: &'static str) -> Key {
    Key { path, kind: Kind::List(rule), default: always(Plain::List(default)), secret: false, doc }
}

pub(super) const fn hidden(mut key: Key) -> Key {
    key.secret = true;
    key
}

const fn always(plain: Plain) -> Default {
    Default::Always(plain)
}

const ON: Default = always(Plain::Bool(true));
pub(super) const OFF: Default = always(Plain::Bool(false));
pub(super) const EMPTY: Default = always(Plain::Text(""));
const JOB_MANAGER: &str = "0x00bf025663b8a7c7e43393f082b10afe66bd9ddb06fb5e521e3adbcf693094bd";

pub(super) const KEYS: &[Key] = &[
    word(
        "environment",
        text::environment,
        Default::By(|environment| Plain::Text(environment.as_str())),
        "development, staging, production or test: chooses the defaults of all other keys.",
    ),
    hidden(word(
        "database_url",
        text::database_url,
        EMPTY,
        "PostgreSQL for the history of jobs, e.g. postgresql://localhost/ciro. Empty: none.\n\
         Keep a password out of the file: set CIRO__DATABASE_URL instead. Nothing is written there yet.",
    )),
    // node
    word("node.data_dir", text::not_empty, Default::By(data_dir), "Log, state and snapshots. One directory per node."),
    word(
        "node.key_file",
        text::any,
        EMPTY,
        "The node's identity, an ed25519 key; made at first start. Empty: node.key in data_dir.",
    ),
    // api
    word(
        "api.bind",
        text::socket_address,
        Default::By(|environment| {
            Plain::Text(if environment == Environment::Test { "127.0.0.1:0" } else { "127.0.0.1:8080" })
        }),
        "Address and port. Anyone who can reach it may use it: there is no authentication yet, so keep it\n\
         on loopback or behind something that authenticates. Port 0 (development and test): any free one.",
    ),
    integer("api.max_connections", 1, 100_000, 2_048, "Connections at once; more wait in the listen queue."),
    integer(
        "api.max_payload_bytes",
        1,
        // It goes to a worker in one message of 1 MiB, with room for the rest of the message.
        1_000 << 10,
        256 << 10,
        "Largest inline payload of one job, decoded. Larger inputs are given by reference.",
    ),
    integer("api.max_body_bytes", 1_024, 64 << 20, 1 << 20, "Largest request body, except for POST /jobs/batch."),
    integer("api.max_batch_body_bytes", 1_024, 1 << 30, 64 << 20, "Largest body of POST /jobs/batch."),
    integer("api.max_batch_items", 1, 10_000, 10_000, "Most jobs in one POST /jobs/batch."),
    flag("api.lease_reads", OFF, "Serve ?consistency=lease, which trusts clocks; on all nodes or none."),
    // network
    word("network.name", text::network_name, Default::By(network_name), "Peers of another name are not talked to."),
    Key {
        path: "network.p2p_port",
        kind: Kind::Integer { min: 0, max: 65_535 },
        default: Default::By(|environment| Plain::Integer(if environment == Environment::Test { 0 } else { 4_001 })),
        secret: false,
        doc: "TCP and UDP (QUIC). Must differ from the API's. 0 (development and test): any free one.",
    },
    word(
        "network.listen_address",
        text::ip_address,
        Default::By(|environment| Plain::Text(if environment.is_local() { "127.0.0.1" } else { "0.0.0.0" })),
        "The address of the interface to listen on.",
    ),
    flag("network.discovery_enabled", ON, "Find further peers through those that are known (Kademlia)."),
    flag("network.gossip_enabled", ON, "Announcements and bids. Without it no job is awarded by this node."),
    flag(
        "network.mdns_enabled",
        Default::By(|environment| Plain::Bool(environment == Environment::Development)),
        "Find peers on the local network. Development and test only; off when discovery is.",
    ),
    list(
        "network.bootstrap_peers",
        text::peer_multiaddr,
        &[],
        "Where to begin: multiaddrs with /p2p/, e.g. \"/ip4/10.0.0.2/tcp/4001/p2p/12D3KooW…\".",
    ),
    list("network.persistent_peers", text::peer_multiaddr, &[], "Dialled at start, and again whenever lost."),
    list(
        "network.external_addresses",
        text::multiaddr,
        &[],
        "What to tell others instead of where this node listens, e.g. behind a port forward: multiaddrs, without /p2p/.",
    ),
    integer("network.max_connections", 8, 100_000, 4_096, "Peers connected at once, workers included."),
    // cluster
    joining::INITIAL_MEMBERS,
    joining::JOIN,
    joining::INVITATION,
    joining::INVITATION_FILE,
    joining::AUTOPILOT,
    joining::AUTOPILOT_AFTER_SECS,
    integer("cluster.heartbeat_ms", 10, 10_000, 100, "How often the leader says that it lives."),
    integer(
        "cluster.election_min_ms",
        50,
        60_000,
        300,
        "Silence before a follower stands for election, at least …\n\
         (half of election_max_ms and a heartbeat, if that is longer)",
    ),
    integer("cluster.election_max_ms", 60, 120_000, 600, "… and at most. Between the two, by chance."),
    integer("cluster.snapshot_every_entries", 100, 10_000_000, 20_000, "Log entries between snapshots."),
    integer("cluster.snapshot_every_mb", 1, 4_096, 64, "Log size between snapshots, MiB."),
    integer("cluster.keep_entries", 0, 10_000_000, 2_000, "Entries kept behind a snapshot for late followers."),
    integer("cluster.max_inflight", 16, 1_000_000, 20_000, "Commands waiting or in flight; beyond it: 429."),
    integer("cluster.min_free_disk_mb", 1, 1 << 20, 256, "Client writes are refused below this, MiB."),
    integer("cluster.slow_disk_ms", 0, 600_000, 1_000, "A leader whose syncs take longer (p99) hands over; 0: never."),
    integer("cluster.slow_disk_for_secs", 1, 3_600, 10, "… if they have for as long as this."),
    // scheduler
    integer("scheduler.tick_ms", 5, 5_000, 50, "How often the leader looks for open jobs."),
    integer("scheduler.window_ms", 10, 60_000, 200, "How long bids are collected before a job is awarded."),
    integer("scheduler.lease_secs", 2, 86_400, 60, "A worker that does not renew for this long loses the job."),
    integer("scheduler.offline_after_ms", 500, 600_000, 4_000, "Silence after which a worker counts as offline."),
    integer("scheduler.max_open_per_announcement", 1, 512, 512, "Jobs in one announcement; more wait a tick."),
    // blockchain
    flag(
        "blockchain.enabled",
        OFF,
        "The leader registers, assigns, completes and pays jobs on chain; every node tells how the chain is. On all\n\
         nodes or none.",
    ),
    hidden(word("blockchain.rpc_url", text::http_url, Default::By(rpc_url), "Starknet JSON-RPC.")),
    hidden(list("blockchain.rpc_urls", text::http_url, &[], "More of them, asked when those before do not answer.")),
    word(
        "blockchain.chain_id",
        text::chain_id,
        EMPTY,
        "The chain that is expected, e.g. SN_SEPOLIA. Empty (development and test): that of whoever answers.",
    ),
    word(
        "blockchain.job_manager_address",
        text::felt,
        Default::By(|environment| Plain::Text(if environment == Environment::Production { "" } else { JOB_MANAGER })),
        "The contract's address, 0x and hex digits.",
    ),
    word(
        "blockchain.generation",
        text::chain_generation,
        always(Plain::Text("auto")),
        "What the contract can do. full: the whole life of a job. submission_only: jobs are registered and nothing\n\
         else. auto: the contract is asked.",
    ),
    word(
        "blockchain.account_address",
        text::felt,
        EMPTY,
        "The account that sends and pays; the same on all nodes, and used by nothing else.",
    ),
    word(
        "blockchain.keystore",
        text::any,
        EMPTY,
        "Its key, encrypted (`ciro-coordinator blockchain account new` writes one). Nobody else may be able to read it.",
    ),
    word(
        "blockchain.keystore_password_file",
        text::any,
        EMPTY,
        "The keystore's password is its first line. Empty: it is in the variable CIRO_KEYSTORE_PASSWORD.",
    ),
    hidden(word(
        "blockchain.insecure_dev_key",
        text::private_key,
        EMPTY,
        "The key itself, in place of a keystore. For development: refused in production. Keep it out of the file: set\n\
         CIRO__BLOCKCHAIN__INSECURE_DEV_KEY instead.",
    )),
    word(
        "blockchain.settlement",
        text::chain_settlement,
        Default::By(|environment| {
            let first = environment == Environment::Production;
            Plain::Text(if first { "register_before_distribution" } else { "settle_later" })
        }),
        "For jobs that do not say. register_before_distribution: no worker is asked before the registration is\n\
         confirmed. settle_later: the chain is told when it can be told. none: it is not told.",
    ),
    word(
        "blockchain.confirmation",
        text::chain_confirmation,
        always(Plain::Text("accepted_l2")),
        "When a transaction counts: preconfirmed, accepted_l2 or accepted_l1. For jobs that do not say.",
    ),
    word(
        "blockchain.default_max_price",
        text::amount,
        EMPTY,
        "What a job that is settled may cost when it does not say, in the payment token's smallest unit; it goes into\n\
         escrow. Empty: such a job must say.",
    ),
    word(
        "blockchain.max_escrow",
        text::amount,
        EMPTY,
        "The most that is put into escrow for one job (max_price × redundancy), in the same unit; a job that asks for more\n\
         is refused. Empty: any, as far as the account is funded.",
    ),
    flag(
        "blockchain.charge_clients",
        OFF,
        "A settled job may name a client_address, who is charged for it up to the limit it set in the contract. Nobody\n\
         checks that it is the client who asks: whoever reaches the API or Kafka can spend that limit.",
    ),
    integer("blockchain.batch_calls", 1, 500, 150, "Most calls in one transaction."),
    integer("blockchain.batch_wait_ms", 0, 60_000, 500, "How long a transaction waits for more calls."),
    word(
        "blockchain.max_fee",
        text::amount,
        always(Plain::Text("10000000000000000000")),
        "The most one transaction may cost, in the fee token's smallest unit (10^-18 STRK). Empty: any.",
    ),
    word(
        "blockchain.max_spend_per_hour",
        text::amount,
        EMPTY,
        "The most that is spent on fees in an hour, in the same unit; beyond it settling waits. Empty: any.",
    ),
    integer("blockchain.tip", 0, 1_000_000_000_000, 0, "For each unit of L2 gas, in the same unit."),
    integer(
        "blockchain.replace_after_secs",
        1,
        86_400,
        60,
        "A transaction that has not landed by then is sent again with higher fees.",
    ),
    integer("blockchain.watch_blocks", 1, 100_000, 20, "A transaction is watched until so many blocks are above it."),
    word(
        "blockchain.follow_from_block",
        text::block_number,
        EMPTY,
        "The first block whose events are read, e.g. the one the contract was deployed in. Empty: the newest one when\n\
         events are first read.",
    ),
    integer("blockchain.request_timeout_ms", 100, 120_000, 10_000, "How long an endpoint may take to answer."),
    // kafka
    flag(
        "kafka.enabled",
        OFF,
        "The leader takes jobs from Kafka and gives results to it; every node tells how Kafka is. On all nodes or none.",
    ),
    list("kafka.bootstrap_servers", text::host_port, &["localhost:9092"], "Brokers, \"host:port\"."),
    word(
        "kafka.mode",
        text::kafka_mode,
        always(Plain::Text("external")),
        "embedded: the brokers are `ciro-coordinator dev-broker`, which keeps nothing. external: they are real.",
    ),
    word(
        "kafka.delivery",
        text::kafka_delivery,
        always(Plain::Text("at_least_once")),
        "at_least_once: repeats after a change of leader, with the same ce_id. exactly_once: none for readers of\n\
         committed records; needs brokers with transactions.",
    ),
    word(
        "kafka.job_topic",
        text::topic,
        always(Plain::Text("ciro.jobs")),
        "Jobs come in here. What can not become a job goes to the topic of this name and .dlq.",
    ),
    word("kafka.worker_topic", text::topic, always(Plain::Text("ciro.workers")), "The life of workers goes out here."),
    word("kafka.result_topic", text::topic, always(Plain::Text("ciro.results")), "Results go out here."),
    flag(
        "kafka.create_topics",
        Default::By(|environment| Plain::Bool(environment.is_local())),
        "Create topics that are missing, with 4 partitions (dead letters: 1) and the brokers' own replication.",
    ),
    word(
        "kafka.intake_from",
        text::kafka_start,
        always(Plain::Text("earliest")),
        "Where a partition that was never read begins: earliest or latest.",
    ),
    integer(
        "kafka.max_in_flight_jobs",
        1,
        1_000_000,
        10_000,
        "Intake pauses while this many jobs have not ended, and goes on at half of it.",
    ),
    integer("kafka.batch_records", 1, 10_000, 500, "Most records that are taken in with one command."),
    integer("kafka.batch_bytes", 1_024, 4 << 20, 1 << 20, "Most bytes of them, give or take one record."),
    word(
        "kafka.security_protocol",
        text::kafka_protocol,
        always(Plain::Text("plaintext")),
        "plaintext, ssl, sasl_plaintext or sasl_ssl. Those with ssl need a build with the feature kafka-tls.",
    ),
    word(
        "kafka.sasl_mechanism",
        text::sasl_mechanism,
        EMPTY,
        "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 (SCRAM: with the feature kafka-tls). Empty: none.",
    ),
    hidden(word("kafka.sasl_username", text::any, EMPTY, "With a sasl protocol.")),
    hidden(word(
        "kafka.sasl_password",
        text::any,
        EMPTY,
        "With a sasl protocol. Keep it out of the file: set CIRO__KAFKA__SASL_PASSWORD instead.",
    )),
    word("kafka.ssl_ca_file", text::any, EMPTY, "PEM: who signed the brokers' certificates. Empty: the system's."),
    word("kafka.ssl_certificate_file", text::any, EMPTY, "PEM: this node's own certificate, if brokers ask for one."),
    word("kafka.ssl_key_file", text::any, EMPTY, "PEM: its key."),
    // callbacks
    flag("callbacks.enabled", ON, "Off: a callback_url is refused, and nothing is posted. On all nodes or none."),
    flag(
        "callbacks.allow_private",
        Default::By(|environment| Plain::Bool(environment.is_local())),
        "Post to loopback, link-local and private addresses, too: for machines that run no other services.",
    ),
    integer(
        "callbacks.max_age_secs",
        1,
        604_800,
        3_600,
        "What was not taken within this time is given up; until then it is tried again, less and less often.",
    ),
    hidden(word(
        "callbacks.secret",
        text::callback_secret,
        EMPTY,
        "Bodies are signed with it, so that receivers can tell who sent them; the same on all nodes. Empty: they are\n\
         not. Keep it out of the file: set CIRO__CALLBACKS__SECRET instead, or secret_file.",
    )),
    word(
        "callbacks.secret_file",
        text::any,
        EMPTY,
        "The secret is its first line. Only its owner and group may be able to read it.",
    ),
    word("callbacks.ca_file", text::any, EMPTY, "PEM: who else may sign receivers' certificates."),
    // jobs, backup
    keeping::HOT,
    keeping::RETENTION_SECS,
    keeping::RETENTION_COUNT,
    keeping::RETENTION_MB,
    keeping::BACKUP_DIRECTORY,
    keeping::BACKUP_EVERY_SECS,
    keeping::BACKUP_KEEP,
    keeping::BACKUP_MAX_MB_PER_SEC,
    // logging
    word(
        "logging.level",
        text::log_level,
        Default::By(log_level),
        "error, warn, info, debug or trace; or directives like \"info,ciro::mesh=debug\".",
    ),
    word(
        "logging.format",
        text::log_format,
        Default::By(|environment| Plain::Text(if environment.is_local() { "text" } else { "json" })),
        "text or json.",
    ),
    // metrics
    flag(
        "metrics.enabled",
        Default::By(|environment| Plain::Bool(environment != Environment::Development)),
        "Off: /metrics shows the state of the node, but nothing is counted or timed.",
    ),
];
