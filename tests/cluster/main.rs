//! Stories about a whole cluster: real processes, real faults, an oracle at the end.
//!
//! Each story starts its own nodes and workers on free ports in a directory that
//! goes away with it, breaks something by name, and ends with
//! [`cluster::Cluster::finish`], which heals what is broken and asks the
//! [`oracle`] whether anything acknowledged was lost or done twice. A
//! [`observer`] watches all nodes meanwhile.
//!
//! Two stories run at a time, except those that need the machine for themselves.
//! Random choices come from a seed that is printed; `CIRO_TEST_SEED` repeats one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a failed expectation is the message of a test"
)]

mod client;
mod cluster;
mod history;
mod intruder;
mod links;
mod load;
mod machine;
mod observer;
mod oracle;
mod ports;
mod process;
mod programs;
mod receiver;
mod stage;

mod backup;
mod callbacks;
#[cfg(feature = "chain")]
mod chain_crash;
#[cfg(feature = "chain")]
mod chain_desk;
#[cfg(feature = "chain")]
mod chain_door;
#[cfg(feature = "chain")]
mod chain_funds;
#[cfg(feature = "chain")]
mod chain_hand;
#[cfg(feature = "chain")]
mod chain_harness;
#[cfg(feature = "chain")]
mod chain_known;
#[cfg(feature = "chain")]
mod chain_node;
#[cfg(feature = "chain")]
mod chain_oracle;
#[cfg(feature = "chain")]
mod chain_outage;
#[cfg(feature = "chain")]
mod chain_poison;
#[cfg(feature = "chain")]
mod chain_proxy;
#[cfg(feature = "chain")]
mod chain_reorg;
#[cfg(feature = "chain")]
mod chain_site;
#[cfg(feature = "chain")]
mod chain_spend;
#[cfg(feature = "chain")]
mod chain_storm;
mod chaos;
mod cold;
mod cut;
mod damage;
mod executors;
mod failover;
mod handover;
mod hostile;
#[cfg(feature = "kafka")]
mod kafka_broker;
#[cfg(feature = "kafka")]
mod kafka_crash;
#[cfg(feature = "kafka")]
mod kafka_desk;
#[cfg(feature = "kafka")]
mod kafka_fenced;
#[cfg(feature = "kafka")]
mod kafka_intake;
#[cfg(feature = "kafka")]
mod kafka_mock;
#[cfg(feature = "kafka")]
mod kafka_oracle;
#[cfg(feature = "kafka")]
mod kafka_outage;
#[cfg(feature = "kafka")]
mod kafka_records;
#[cfg(feature = "kafka")]
mod kafka_sasl;
#[cfg(feature = "kafka")]
mod kafka_storm;
mod life;
mod members;
mod minority;
mod operations;
mod outputs;
mod paused;
mod reads;
mod scenarios;
#[cfg(all(feature = "kafka", feature = "chain"))]
mod secrets;
mod slow;
mod storm;
mod trust;
mod upgrade;
mod workers;

use std::time::Duration;

use ciro::clock;

/// Asks `probe` until it has an answer.
///
/// # Panics
///
/// After `limit`, naming `what` did not happen.
async fn until<T>(limit: Duration, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = clock::instant();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
