//! What is on the disk after a power loss, and what of a bad disk is noticed.
//!
//! A script of what Raft does to its store is written from a seed, and a model
//! of it says what must be there after each step.

mod damage;
mod journal;
mod lost_writes;
mod script;

use std::collections::BTreeMap;
use std::path::Path;

use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};

use self::script::{Logical, print_of};
use crate::consensus::boot;
use crate::domain::NodeId;
use crate::storage::{OpenOptions, Store};
use crate::tasks::Tasks;

const OWNER: NodeId = crate::domain::PeerId([1; 32]);

fn open_store(dir: &Path) -> Result<Store, crate::storage::Error> {
    OpenOptions::new().ballast_bytes(0).open(dir, OWNER)
}

fn seed() -> u64 {
    let seed = std::env::var("CIRO_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed: CIRO_TEST_SEED={seed}");
    seed
}

/// What a node that starts on `dir` would go on with, or why it would not.
async fn read_back(dir: &Path) -> Result<Logical, String> {
    let tasks = Tasks::new();
    let found = read_with(dir, &tasks).await;
    tasks.cancel();
    found
}

async fn read_with(dir: &Path, tasks: &Tasks) -> Result<Logical, String> {
    let store = open_store(dir).map_err(|error| error.to_string())?;
    let opened = boot::open_files(&store, crate::domain::level::NEWEST, Default::default(), tasks);
    let (mut log, machine, _) = opened.map_err(|error| chain(&boot::unopened(error)))?;
    let missing = machine.archive().missing().len();
    let vote = log.read_vote().await.unwrap().map(|vote| vote.leader_id.term);
    let purged = log.purged().map(|id| id.index);
    let last = log.get_log_state().await.map_err(|error| error.to_string())?.last_log_id.map(|id| id.index);
    let from = purged.map_or(0, |index| index + 1);
    let mut entries = BTreeMap::new();
    let read = log.try_get_log_entries(from..=last.unwrap_or(0)).await.map_err(|error| error.to_string())?;
    for entry in read {
        entries.insert(entry.log_id.index, print_of(&entry));
    }
    assert_eq!(entries.last_key_value().map(|(index, _)| *index).or(purged), last, "the last entry is the last");
    Ok(Logical { vote, purged, entries, missing })
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
