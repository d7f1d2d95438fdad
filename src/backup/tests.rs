//! What is written comes back, and what is not whole is refused by name.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::file::{self, Codec, Writer, check};
use super::header::Header;
use super::read::read;
use super::take::{self, Pace};
use super::{Desk, Error, HEADER, Options, STATE, Schedule};
use crate::clock;
use crate::consensus::tests::cluster::{self, Cluster, LIMIT, job, submission, submission_of, wait_until};
use crate::domain::apply::Position;
use crate::domain::archive::Retain;
use crate::domain::{Command, Record, State, Timestamp};

fn state() -> State {
    let mut state = State::default();
    for n in 0..20 {
        let record = Record { at: Timestamp(1_000 + n), commands: vec![submission_of(n, 10_000)] };
        assert!(state.apply(Position { index: n + 1, term: 3 }, &record)[0].is_ok());
    }
    state
}

fn pace(bytes_per_sec: u64) -> Pace {
    Pace::new(bytes_per_sec, CancellationToken::new())
}

fn written(state: &State) -> Vec<u8> {
    let header = Header::of_state(state, "ciro-test", Timestamp(9_000));
    take::write(state, &header, &[], &pace(u64::MAX), Vec::new()).unwrap().0
}

fn saved(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("a.ciro-backup");
    fs::write(&path, bytes).unwrap();
    path
}

fn bytes_of(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_backup_holds_the_state_byte_for_byte_and_says_what_it_is() {
    let (dir, state) = (tempfile::tempdir().unwrap(), state());
    let bytes = written(&state);
    let backup = read(&saved(dir.path(), &bytes)).unwrap();
    assert_eq!(bytes_of(&backup.state), bytes_of(&state));
    backup.restorable().unwrap();
    let header = &backup.header;
    assert_eq!((header.index, header.term, header.at_ms, header.taken_at_ms), (20, 3, 1_019, 9_000));
    assert_eq!((header.network.as_str(), header.jobs["pending"]), ("ciro-test", 20));
    assert_eq!(header.state_hash, hex::encode(state.hash().0));
    let section = backup.written.sections.iter().find(|section| section.name == STATE).unwrap();
    assert_eq!(section.raw, bytes_of(&state).len() as u64);
    assert_eq!(section.sha256, crate::domain::Digest::of(&bytes_of(&state)));
    assert!(section.packed < section.raw / 4, "{section:?}");
    assert_eq!(written(&state), bytes, "the same view gives the same file");
}

#[test]
fn any_flipped_bit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = written(&state());
    let step = (bytes.len() / 200).max(1);
    for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1, bytes.len() - 33, 8, 11]) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let error = read(&saved(dir.path(), &bad)).unwrap_err();
        match error {
            Error::Foreign if at < 8 => {}
            Error::Damaged(_) | Error::CutShort(_) if at >= 8 => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn any_truncation_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = written(&state());
    let step = (bytes.len() / 100).max(1);
    for end in (1..bytes.len()).step_by(step).chain([bytes.len() - 1, bytes.len() - 32, bytes.len() - 38]) {
        let error = read(&saved(dir.path(), &bytes[..end])).unwrap_err();
        assert!(matches!(error, Error::CutShort(at) if at == end as u64), "cut at {end}: {error:?}");
    }
    assert!(matches!(read(&saved(dir.path(), b"")).unwrap_err(), Error::Foreign));
    let long = [bytes.as_slice(), b"more"].concat();
    assert!(matches!(read(&saved(dir.path(), &long)).unwrap_err(), Error::Damaged(_)));
}

#[test]
fn what_is_no_backup_or_a_newer_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = read(&saved(dir.path(), b"#!/bin/sh\necho hello\n")).unwrap_err();
    assert!(matches!(error, Error::Foreign));
    let mut bytes = written(&state());
    bytes[11] = 9;
    seal(&mut bytes);
    let error = read(&saved(dir.path(), &bytes)).unwrap_err();
    assert!(error.to_string().contains("format 9, this build reads up to 1: use a newer version"), "{error}");

    let state = state();
    let header = Header { state_format: 99, ..Header::of_state(&state, "ciro-test", Timestamp(1)) };
    let (bytes, _) = take::write(&state, &header, &[], &pace(u64::MAX), Vec::new()).unwrap();
    let error = read(&saved(dir.path(), &bytes)).unwrap_err();
    assert!(matches!(error, Error::StateFormat { found: 99, .. }), "{error}");
}

/// Makes the last 32 bytes right for whatever was changed.
fn seal(bytes: &mut [u8]) {
    let end = bytes.len() - 32;
    let digest = crate::domain::Digest::of(&bytes[..end]);
    bytes[end..].copy_from_slice(&digest.0);
}

#[test]
fn a_section_that_is_not_known_is_shown_and_not_restored() {
    let (dir, state) = (tempfile::tempdir().unwrap(), state());
    let mut writer = Writer::new(Vec::new()).unwrap();
    let header = serde_json::to_vec(&Header::of_state(&state, "ciro-test", Timestamp(1))).unwrap();
    let archive = vec![7; 300_000];
    writer.section(HEADER, Codec::Stored, |out| out.write_all(&header)).unwrap();
    writer.section(STATE, Codec::Deflate, |out| state.write_to(&mut &mut *out).map_err(std::io::Error::other)).unwrap();
    writer.section("archive/0001", Codec::Stored, |out| out.write_all(&archive)).unwrap();
    let (bytes, _) = writer.finish().unwrap();

    let backup = read(&saved(dir.path(), &bytes)).unwrap();
    assert_eq!(backup.written.sections.len(), 3);
    let refused = backup.restorable().unwrap_err();
    assert!(refused.to_string().contains("\"archive/0001\""), "{refused}");
    let mut found = Vec::new();
    let mut raw = file::open(Cursor::new(&bytes), &backup.written.sections[2]).unwrap();
    raw.read_to_end(&mut found).unwrap();
    raw.end().unwrap();
    assert_eq!(found, archive);
}

#[test]
fn a_header_that_is_not_of_the_state_is_damage() {
    let (dir, state) = (tempfile::tempdir().unwrap(), state());
    let header = Header { index: 7, ..Header::of_state(&state, "ciro-test", Timestamp(1)) };
    let (bytes, written) = take::write(&state, &header, &[], &pace(u64::MAX), Vec::new()).unwrap();
    assert_eq!(check(&mut Cursor::new(&bytes)).unwrap(), written);
    let error = read(&saved(dir.path(), &bytes)).unwrap_err();
    assert!(error.to_string().contains("what it says of itself"), "{error}");
}

#[test]
fn a_pace_is_kept_and_a_stop_ends_it() {
    let mut state = State::default();
    for n in 0..8 {
        let record = Record { at: Timestamp(1), commands: vec![submission_of(n, 200_000)] };
        state.apply(Position { index: n + 1, term: 1 }, &record);
    }
    let header = Header::of_state(&state, "ciro-test", Timestamp(1));
    let begun = clock::instant();
    take::write(&state, &header, &[], &pace(4 << 20), std::io::sink()).unwrap();
    // The last part is not waited for.
    assert!(begun.elapsed().as_millis() >= 250, "{:?}", begun.elapsed());
    let stopped = pace(u64::MAX);
    stopped.stop.cancel();
    let error = take::write(&state, &header, &[], &stopped, std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_backup() {
    let tasks = crate::tasks::Tasks::new();
    let state = std::sync::Arc::new(state());
    let header = Header::of_state(&state, "ciro-test", Timestamp(1));
    let (out, parts) = tokio::sync::mpsc::channel(1);
    drop(parts);
    let (view, runtime) = (state.clone(), tokio::runtime::Handle::current());
    tasks.spawn_blocking(move || take::send(&view, &header, &[], &pace(u64::MAX), out, runtime)).await.unwrap();
    assert_eq!(std::sync::Arc::strong_count(&state), 1, "the view is let go");
}

#[test]
fn two_at_a_time_and_no_more() {
    let desk = Desk::new(Options::default());
    let places = (desk.try_place(), desk.try_place());
    assert!(places.0.is_some() && places.1.is_some() && desk.try_place().is_none());
    drop(places);
    assert!(desk.try_place().is_some());
}

#[test]
fn a_file_has_its_name_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b");
    let failed = super::schedule::save(&path, |out| {
        out.write_all(b"half")?;
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
    });
    assert!(failed.unwrap_err().to_string().contains("write "));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

fn only(dir: &Path, suffix: &str) -> PathBuf {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    assert_eq!(paths.len(), 1, "{paths:?}");
    paths.remove(0)
}

fn scheduled(dir: &Path, every: Duration) -> Desk {
    let schedule = Schedule { directory: dir.to_owned(), every, keep: 1, leave_free: 0 };
    Desk::new(Options { schedule: Some(schedule), ..Options::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_the_archive_costs_no_backup_that_was_good() {
    let cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let cancel = |n| Command::Cancel { job: job(n), reason: String::new() };
    let hold = Command::Retain(Retain::Hold { hot: 1, batch: 1 });
    let end_two = vec![hold, submission(0), cancel(0), submission(1), cancel(1), submission_of(2, 800_000)];
    cluster.client(leader).submit_many(end_two, LIMIT).await.unwrap();
    cluster.converge().await;

    let (dir, id, tasks) = (tempfile::tempdir().unwrap(), cluster.follower().await, crate::tasks::Tasks::new());
    let desk = scheduled(dir.path(), Duration::from_secs(1));
    let client = cluster.client(id);
    let take = || super::schedule::take(&desk, &client, "ciro-test", "n-", &tasks);
    take().await.unwrap();
    let good = only(dir.path(), ".ciro-backup");
    assert_eq!(read(&good).unwrap().state.archive().jobs(), 1);

    let segment = only(&cluster.dir(id).join("files/archive"), ".seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[60] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let error = take().await.unwrap_err();
    assert!(error.to_string().contains(segment.file_name().unwrap().to_str().unwrap()), "{error}");
    assert_eq!(only(dir.path(), ".ciro-backup"), good, "the last good one stays");

    // What was found is got from another member, and the next one is good.
    let begun = clock::instant();
    while let Err(error) = take().await {
        assert!(begun.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(read(&only(dir.path(), ".ciro-backup")).unwrap().state.archive().jobs(), 1);

    // State and archive have one deadline together.
    let (state, segments) = (client.view(), client.segment_files(&client.view()).unwrap());
    let header = Header::of_state(&state, "ciro-test", Timestamp(1));
    let write = |ms| {
        let pace = Pace { longest: Duration::from_millis(ms), ..pace(1 << 20) };
        take::write(&state, &header, &segments, &pace, std::io::sink()).map(drop)
    };
    write(30_000).unwrap();
    assert_eq!(write(600).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_do_not_keep_the_schedule_waiting() {
    let cluster = Cluster::new(1).await;
    let (leader, _) = cluster.leader().await;
    let (dir, tasks) = (tempfile::tempdir().unwrap(), crate::tasks::Tasks::new());
    let desk = scheduled(dir.path(), Duration::from_millis(300));
    let _readers = (desk.try_place().unwrap(), desk.try_place().unwrap());
    let client = cluster.client(leader);
    tasks.spawn_until_stopped(
        "backup",
        super::schedule::run(desk.clone(), client, "ciro-test".to_owned(), tasks.clone()),
    );
    wait_until("a backup", || desk.view().taken > 0).await;
    tasks.cancel();
    assert!(tasks.join(LIMIT).await);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_never_tried_or_never_ends_has_failed() {
    // One of three is never ready.
    let mut cluster = Cluster::stopped(3, cluster::options());
    let id = cluster.ids[0];
    cluster.start(id).await.unwrap();
    let (dir, tasks) = (tempfile::tempdir().unwrap(), crate::tasks::Tasks::new());
    let desk = scheduled(dir.path(), Duration::from_millis(300));
    let run = super::schedule::run(desk.clone(), cluster.client(id), "ciro-test".to_owned(), tasks.clone());
    tasks.spawn_until_stopped("backup", run);
    wait_until("a failure", || desk.view().failed > 0).await;
    assert!(desk.view().error.unwrap().contains("overdue"));
    tasks.cancel();
    assert!(tasks.join(LIMIT).await);

    let (desk, done) =
        (scheduled(dir.path(), Duration::from_secs(1)), super::Done { at: Timestamp(1), index: 1, bytes: 1 });
    let slow = async {
        wait_until("a failure", || desk.view().failed > 0).await;
        Ok(done.clone())
    };
    let ended = super::schedule::ended(&desk, Duration::from_millis(20), slow).await;
    assert_eq!(ended.unwrap(), done);
    assert!(desk.view().error.unwrap().contains("does not end"));
    cluster.shutdown().await;
}
