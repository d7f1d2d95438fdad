//! What seals and the mark cost in CPU time, beside sled with a sync of the same file.

use std::fs::File;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use super::super::Batch;
use super::{open, value};

const ROUNDS: u64 = 7;

/// CPU time of this process: what else runs on the machine hardly matters.
fn spent() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn per_round(rounds: &mut [Duration], count: u32) -> Duration {
    rounds.sort_unstable();
    rounds[rounds.len() / 2] / count
}

/// `cargo test --lib cost -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn what_it_costs() {
    for (batch, count, synced) in [(1u64, 400u32, true), (64, 40, true), (1, 4000, false), (64, 100, false)] {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(ours.path());
        let tree = store.tree("t").unwrap();
        let config = sled::Config::new().path(theirs.path()).segment_size(4 << 20).flush_every_ms(None);
        let sled = config.open().unwrap();
        let file = File::options().write(true).open(theirs.path().join("db")).unwrap();
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let key = |n: u32, k: u64| (round << 32 | u64::from(n) << 8 | k).to_be_bytes();
            let begun = spent();
            for n in 0..count {
                let mut writes = Batch::default();
                (0..batch).for_each(|k| writes.put(&key(n, k), &value(n as u8, 512)));
                tree.apply(writes).unwrap();
                if synced {
                    store.barrier().await.unwrap();
                }
            }
            with.push(spent() - begun);
            let begun = spent();
            for n in 0..count {
                let mut writes = sled::Batch::default();
                (0..batch).for_each(|k| writes.insert(key(n, k).as_slice(), value(n as u8, 512)));
                sled.apply_batch(writes).unwrap();
                if synced {
                    sled.flush().unwrap();
                    file.sync_data().unwrap();
                }
            }
            without.push(spent() - begun);
        }
        let (with, without) = (per_round(&mut with, count), per_round(&mut without, count));
        println!("batch of {batch}, synced {synced}: {with:?}, sled alone {without:?}");
    }
}
