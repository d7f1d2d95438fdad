//! Who runs when: two stories at a time, since a story nearly always waits for something.

use tokio::sync::{Semaphore, SemaphorePermit};

const ROOM: u32 = 2;

static STAGE: Semaphore = Semaphore::const_new(ROOM as usize);

/// The modules whose stories run alone: under load all the time, strict about time, or stopping a broker that others share.
const ALONE: &[&str] = &[
    "backup",
    "chain_crash",
    "chain_storm",
    "chaos",
    "handover",
    "kafka_crash",
    "kafka_fenced",
    "kafka_outage",
    "kafka_storm",
    "members",
    "paused",
    "reads",
    "slow",
    "storm",
    "upgrade",
];

/// Waits until there is room for this story.
pub async fn enter() -> SemaphorePermit<'static> {
    STAGE.acquire_many(if alone() { ROOM } else { 1 }).await.expect("nobody closes it")
}

/// The test runner calls a thread by its test: `module::story`.
fn alone() -> bool {
    let thread = std::thread::current();
    thread.name().and_then(|name| name.split("::").next()).is_none_or(|module| ALONE.contains(&module))
}
