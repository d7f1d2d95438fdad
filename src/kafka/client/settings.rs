//! Our options as the library's settings.

use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::kafka::{Options, Security};

/// Longest message that is handed to the library; what Kafka takes is the topic's `max.message.bytes`.
pub(super) const MESSAGE_MAX: usize = 4 << 20;

/// KiB that a reader holds ready. Full: it fetches no more until some are taken.
const READ_AHEAD_KIB: u32 = 16 << 10;

/// KiB of messages that wait in a writer. Full: sending waits.
const WRITE_QUEUE_KIB: u32 = 32 << 10;

/// Messages that wait in a writer.
const WRITE_QUEUE_MESSAGES: u32 = 20_000;

/// For an answer on a connection. Beyond it the connection is given up.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// What all clients have in common.
pub(super) fn common(options: &Options) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", options.bootstrap_servers.join(","))
        .set("client.id", &options.client_id)
        .set("broker.address.family", if is_loopback(&options.bootstrap_servers) { "v4" } else { "any" })
        // Back-off with jitter (±20 %) is the library's own.
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "5000")
        .set("retry.backoff.ms", "100")
        .set("retry.backoff.max.ms", "2000")
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("socket.timeout.ms", SOCKET_TIMEOUT.as_millis().to_string())
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("log.connection.close", "false")
        .set("topic.metadata.refresh.interval.ms", "30000")
        // A topic that was made a moment ago may not be known everywhere.
        .set("topic.metadata.propagation.max.ms", "5000")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    secure(&mut config, &options.security);
    config
}

/// Assigned, never subscribed, committing nothing by itself.
pub(super) fn consumer(options: &Options, group: Option<&str>) -> ClientConfig {
    let mut config = common(options);
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "false")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "200")
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.max.bytes", "8388608")
        .set("max.partition.fetch.bytes", "1048576")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", READ_AHEAD_KIB.to_string());
    if let Some(group) = group {
        config.set("group.id", group);
    }
    config
}

/// Idempotent; acknowledged by all replicas in sync.
pub(super) fn producer(options: &Options) -> ClientConfig {
    let mut config = common(options);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("compression.type", "lz4")
        // As Java clients choose: a key is in the same partition, whoever wrote it.
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", MESSAGE_MAX.to_string())
        .set("message.timeout.ms", options.timing.send.as_millis().to_string())
        .set("request.timeout.ms", "10000")
        .set("queue.buffering.max.messages", WRITE_QUEUE_MESSAGES.to_string())
        .set("queue.buffering.max.kbytes", WRITE_QUEUE_KIB.to_string());
    config
}

/// One id for all leaders there will be, so that the last one fences those before.
pub(super) fn transactional(options: &Options) -> ClientConfig {
    let mut config = producer(options);
    // The library wants no step of a transaction to outlast it.
    let longest = options.timing.transaction.max(options.timing.send).max(SOCKET_TIMEOUT);
    config
        .set("transactional.id", options.transactional_id())
        .set("transaction.timeout.ms", longest.as_millis().to_string());
    config
}

fn secure(config: &mut ClientConfig, security: &Security) {
    config.set("security.protocol", security.protocol.as_str());
    if let Some(mechanism) = &security.mechanism {
        config.set("sasl.mechanism", mechanism);
    }
    for (key, secret) in [("sasl.username", &security.username), ("sasl.password", &security.password)] {
        if let Some(secret) = secret {
            config.set(key, secret.expose());
        }
    }
    let files = [
        ("ssl.ca.location", &security.ca_file),
        ("ssl.certificate.location", &security.certificate_file),
        ("ssl.key.location", &security.key_file),
    ];
    for (key, file) in files {
        if let Some(path) = file.as_deref().and_then(Path::to_str) {
            config.set(key, path);
        }
    }
}

/// A listener on the loopback interface is often there for IPv4 only, while `localhost` is both.
fn is_loopback(servers: &[String]) -> bool {
    servers.iter().all(|server| server.starts_with("localhost:") || server.starts_with("127."))
}
