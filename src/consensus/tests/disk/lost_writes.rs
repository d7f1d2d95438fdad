//! Power fails, at hundreds of moments, on the real store.
//!
//! The test runs itself with a recorder preloaded, writes what Raft writes, and
//! notes what was acknowledged. Then, for one moment after the other, the
//! directory is built as a disk would have it, and opened.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::journal::{self, Disk, Event, Mood};
use super::script::{Logical, models, run, script};
use super::{read_back, seed};
use crate::storage::bare;

const SEED: &str = "CIRO_TEST_RECORDED_SEED";
const DIR: &str = "CIRO_RECORD_DIR";
const JOURNAL: &str = "CIRO_RECORD_JOURNAL";
const NOTES: &str = "CIRO_RECORD_NOTES";

const STEPS: usize = 120;
const LARGEST: usize = 9 << 20;
const MOMENTS: usize = 210;

/// The disk of this process, if it is the one that is recorded.
fn recorded() -> Option<(PathBuf, u64, std::fs::File)> {
    let seed = std::env::var(SEED).ok()?.parse().unwrap();
    let notes = std::fs::File::create(std::env::var_os(NOTES).unwrap()).unwrap();
    Some((std::env::var_os(DIR).unwrap().into(), seed, notes))
}

/// Runs the test of this name again, recorded, and returns what it did to the disk.
fn record(name: &str, seed: u64, scratch: &Path) -> (PathBuf, Vec<Event>) {
    let (recorder, dir, journal) = (scratch.join("recorder.so"), scratch.join("store"), scratch.join("journal"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/consensus/tests/disk/recorder.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut compile = Command::new(compiler);
    compile.args(["-O1", "-shared", "-fPIC", "-pthread", "-o"]).arg(&recorder).arg(source);
    let compiled = compile.output().expect("a C compiler; the build needs one as well");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::create_dir(&dir).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("consensus::tests::disk::lost_writes::{name}"), "--nocapture"]);
    child.env("LD_PRELOAD", &recorder).env(SEED, seed.to_string());
    child.env(DIR, &dir).env(JOURNAL, &journal).env(NOTES, scratch.join("notes"));
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = journal::read(&journal);
    same_as(&events, &dir, scratch);
    (dir, events)
}

/// Proves the recorder: with nothing lost, what it noted is what is there.
fn same_as(events: &[Event], dir: &Path, scratch: &Path) {
    let mut disk = Disk::new(dir);
    events.iter().for_each(|event| disk.take(event));
    let copy = scratch.join("copy");
    disk.copy_to(&copy);
    let diff = Command::new("diff").arg("-rq").args([dir, &copy]).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
}

/// Each moment at which the power fails: how, what was acknowledged before it, and the disk after it.
fn moments(dir: &Path, events: &[Event], seed: u64, count: usize, mut look: impl FnMut(usize, Mood, usize, &Path)) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut at: Vec<usize> = (0..count).map(|_| rand::Rng::random_range(&mut rng, 0..=events.len())).collect();
    at.sort_unstable();
    let (mut disk, mut taken, mut acked) = (Disk::new(dir), 0, 0);
    for (moment, end) in at.into_iter().enumerate() {
        for event in &events[taken..end] {
            disk.take(event);
            if let Event::Note(text) = event {
                acked = text.lines().map(|line| line.parse().unwrap()).fold(acked, usize::max);
            }
        }
        taken = end;
        let mood = [Mood::Drop, Mood::Cut, Mood::Scatter][moment % 3];
        let image = tempfile::tempdir().unwrap();
        disk.lose_power(image.path(), mood, &mut rng);
        look(end, mood, acked, image.path());
    }
}

/// Which of the models it is, if it is none before `acked`.
fn reached(found: &Logical, models: &[Logical], acked: usize) -> Option<usize> {
    models.iter().skip(acked).position(|model| model == found).map(|at| at + acked)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn write(dir: &Path, seed: u64, notes: std::fs::File) {
    let notes = Mutex::new(notes);
    let acked = move |step: usize| {
        let line = format!("{step}\n");
        notes.lock().unwrap().write_all(line.as_bytes()).unwrap();
    };
    run(dir, &script(seed, STEPS, LARGEST), Arc::new(acked)).await;
}

/// NATS JetStream 2.12 acknowledges before it syncs, and loses what it acknowledged when the power fails. Here every
/// acknowledged vote and entry is there, whatever its size, and what is there is a state the store was in. Only a disk
/// that keeps no order among what was not synced may leave a log that is refused; it is never served.
#[test]
fn power_loss_takes_nothing_that_was_acknowledged() {
    if let Some((dir, seed, notes)) = recorded() {
        return write(&dir, seed, notes);
    }
    let (seed, scratch) = (seed(), tempfile::tempdir().unwrap());
    let (dir, events) = record("power_loss_takes_nothing_that_was_acknowledged", seed, scratch.path());
    assert!(dir.join("files/archive").read_dir().unwrap().next().is_some(), "no job left memory");
    let models = models(&script(seed, STEPS, LARGEST));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut refused, mut deepest, mut ahead) = (Vec::new(), 0, 0);
    moments(&dir, &events, seed, MOMENTS, |event, mood, acked, image| match runtime.block_on(read_back(image)) {
        Ok(found) => {
            let reached = reached(&found, &models, acked);
            let reached = reached.unwrap_or_else(|| panic!("event {event}, {mood:?}, {acked} acknowledged: {found:?}"));
            ahead += usize::from(reached > acked);
            deepest = deepest.max(acked);
        }
        Err(why) => refused.push((event, mood, acked, why)),
    });
    println!(
        "{MOMENTS} moments of {} events, {deepest} steps acknowledged at the last, {ahead} times more was there",
        events.len()
    );
    println!("{} refused: {refused:#?}", refused.len());
    assert!(deepest > STEPS / 2);
    // Pages that reach the disk in no order may leave what sled takes for a whole log with a gap. It is refused then;
    // and so is a store that is cut down while it is made, before anything was acknowledged.
    assert!(refused.iter().all(|(_, mood, acked, _)| *mood == Mood::Scatter || *acked == 0));
    assert!(refused.len() < MOMENTS / 6, "half of the moments of that kind");
}

/// The test can fail: sled's own flush is not enough.
#[test]
fn power_loss_takes_what_sled_alone_called_flushed() {
    if let Some((dir, _, mut notes)) = recorded() {
        bare::fill(&dir.join("db"), 300, |n| notes.write_all(format!("{n}\n").as_bytes()).unwrap());
        return;
    }
    let (seed, scratch) = (seed(), tempfile::tempdir().unwrap());
    let (dir, events) = record("power_loss_takes_what_sled_alone_called_flushed", seed, scratch.path());
    let mut lost = 0;
    moments(&dir, &events, seed, 30, |_, mood, acked, image| {
        let kept = catch_unwind(AssertUnwindSafe(|| bare::count(&image.join("db")))).unwrap_or(0);
        lost += usize::from(mood == Mood::Drop && kept < acked);
    });
    println!("lost something at {lost} of 10 moments");
    assert!(lost >= 5);
}
