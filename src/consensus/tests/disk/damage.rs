//! A bad disk: one bit, one page, one file of a real store, hundreds of times.
//! Either all is there, or the start is refused with the way out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::script::{Logical, Op, models, run, script};
use super::{read_back, seed};

const STEPS: usize = 120;
const CASES: usize = 240;

#[derive(Debug)]
enum Harm {
    Flip { at: u64, bit: u8 },
    Zero { page: u64 },
    Cut { length: u64 },
    Remove,
}

impl Harm {
    /// True if it made a difference.
    fn is_done(&self, path: &Path) -> bool {
        let before = fs::read(path).unwrap();
        let mut after = before.clone();
        match self {
            Self::Flip { at, bit } => after[*at as usize] ^= 1 << bit,
            Self::Zero { page } => {
                let from = *page as usize * 4096;
                let end = (from + 4096).min(after.len());
                after[from..end].fill(0);
            }
            Self::Cut { length } => after.truncate(*length as usize),
            Self::Remove => {
                fs::remove_file(path).unwrap();
                return true;
            }
        }
        fs::write(path, &after).unwrap();
        after != before
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
    fs::create_dir_all(to.join("db/blobs")).unwrap();
}

/// Half of the harm is done to sled's log, the rest to any file, and where there are bytes.
fn harm(dir: &Path, rng: &mut StdRng) -> Option<(PathBuf, Harm)> {
    let all = files(dir);
    let log = dir.join("db/db");
    let path = if rng.random() { log } else { all[rng.random_range(0..all.len())].clone() };
    let length = fs::metadata(&path).unwrap().len();
    let kind = rng.random_range(0..10);
    let harm = match kind {
        _ if length == 0 => Harm::Remove,
        0..5 => Harm::Flip { at: rng.random_range(0..length), bit: rng.random_range(0..8) },
        5..8 => Harm::Zero { page: rng.random_range(0..length.div_ceil(4096)) },
        8 => Harm::Cut { length: rng.random_range(0..length) },
        _ => Harm::Remove,
    };
    harm.is_done(&path).then(|| (path.strip_prefix(dir).unwrap().to_owned(), harm))
}

/// A store as `kill -9` leaves it, every step acknowledged, and what must be in it.
async fn build(seed: u64, dir: &Path) -> (tempfile::TempDir, Logical) {
    let mut ops = script(seed, STEPS, 1 << 20);
    ops.retain(|op| !matches!(op, Op::Restart));
    ops.insert(STEPS / 3, Op::Restart); // sled writes a snapshot of its own
    let expected = models(&ops).pop().unwrap();
    let image = tempfile::tempdir().unwrap();
    let last = ops.len();
    let (from, to) = (dir.to_owned(), image.path().to_owned());
    let acked = move |step: usize| {
        if step == last {
            copy(&from, &to);
        }
    };
    run(dir, &ops, Arc::new(acked)).await;
    (image, expected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_disk_is_refused_or_makes_no_difference() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut refused, mut harmless) = (0, 0);
    for round in 0..4 {
        let home = tempfile::tempdir().unwrap();
        let (killed, expected) = build(seed.wrapping_add(round), &home.path().join("store")).await;
        assert_eq!(read_back(killed.path()).await.as_ref(), Ok(&expected), "before any harm");
        for case in 0..CASES / 4 {
            let image = tempfile::tempdir().unwrap();
            copy(killed.path(), image.path());
            let Some(done) = harm(image.path(), &mut rng) else { continue };
            match read_back(image.path()).await {
                Ok(mut found) => {
                    // A segment of the archive that is bad costs this node nothing: it gets another.
                    found.missing = 0;
                    assert!(found == expected, "round {round}, case {case}, {done:?}: {found:?}, not {expected:?}");
                    harmless += 1;
                }
                Err(why) => {
                    assert!(why.contains("Way out") || why.contains("format"), "{done:?}: {why}");
                    refused += 1;
                }
            }
        }
    }
    println!("{refused} refused, {harmless} without effect");
    // Much of what may be hit is the archive, which is no reason to refuse.
    assert!(refused > CASES / 10 && harmless > 0);
}
