//! Segments on one disk.

use std::fs;
use std::path::Path;

use crate::consensus::archive::{Archive, ArchiveView};
use crate::consensus::tests::cluster::{job, submission};
use crate::domain::apply::Position;
use crate::domain::archive::Retain;
use crate::domain::{Command, JobState, Record, State, Timestamp};
use crate::tasks::Tasks;

fn open(dir: &Path) -> Archive {
    Archive::open(dir.to_owned()).unwrap()
}

fn apply(archive: &Archive, state: &mut State, commands: Vec<Command>) {
    let index = state.applied() + 1;
    let replies = state.apply(Position { index, term: 1 }, &Record { at: Timestamp(index), commands });
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    archive.adopt(state);
}

/// Cancels so many jobs; two stay in memory, two make a segment.
fn ended(archive: &Archive, jobs: u64) -> State {
    let mut state = State::default();
    apply(archive, &mut state, vec![Command::Retain(Retain::Hold { hot: 2, batch: 2 })]);
    for n in 0..jobs {
        let cancel = Command::Cancel { job: job(n), reason: String::new() };
        apply(archive, &mut state, vec![submission(n), cancel]);
    }
    state
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn jobs_are_read_before_they_are_written_after_it_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let archive = open(dir.path());
    let state = ended(&archive, 9);
    assert_eq!(archive.view(), ArchiveView { waiting: 3, missing: 0 });
    let read = |archive: &Archive, n| archive.get(job(n)).unwrap();
    let all: Vec<_> = (0..9).map(|n| read(&archive, n)).collect();
    assert!(all[..6].iter().all(Option::is_some) && all[6..].iter().all(Option::is_none));

    archive.flush().unwrap();
    assert_eq!((archive.view(), names(dir.path()).len()), (ArchiveView::default(), 3));
    let again = open(dir.path());
    assert_eq!(read(&again, 0), None, "nothing is known before the state says so");
    again.follow(&state);
    for archive in [&archive, &again] {
        assert!((0..9).all(|n| read(archive, n) == all[n as usize]));
        assert_eq!(archive.state_of(job(0)), Some(JobState::Cancelled));
        let mut ids: Vec<_> = (0..6).map(job).collect();
        ids.sort();
        let listed: Vec<_> = archive.after(None, 100).into_iter().map(|(id, _)| id).collect();
        assert_eq!(listed, ids);
        assert_eq!(archive.after(Some(ids[3]), 1), [(ids[4], JobState::Cancelled)]);
    }
    assert_eq!(again.files_of(&state).unwrap().len(), 3);
}

#[test]
fn the_log_makes_a_segment_again_that_was_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let archive = open(dir.path());
    ended(&archive, 9);
    archive.flush().unwrap();
    let written = names(dir.path());
    fs::remove_file(dir.path().join(&written[1])).unwrap();
    fs::write(dir.path().join("0000000009-x.0badcafe.part"), b"half").unwrap();

    let replayed = open(dir.path());
    ended(&replayed, 9);
    replayed.flush().unwrap();
    assert_eq!(names(dir.path()), written);
    assert!((0..6).all(|n| replayed.get(job(n)).unwrap().is_some()));
}

#[test]
fn damage_is_found_named_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let archive = open(dir.path());
    let state = ended(&archive, 9);
    archive.flush().unwrap();
    let path = dir.path().join(&names(dir.path())[1]);
    let good = fs::read(&path).unwrap();
    let segment = state.archive().segments().nth(1).unwrap().clone();

    // In a record: found when it is read, by the first of the two jobs.
    let mut bad = good.clone();
    bad[60] ^= 1;
    fs::write(&path, &bad).unwrap();
    let error = archive.get(job(2)).unwrap_err();
    assert_eq!(error.segment, segment.name());
    assert_eq!(archive.missing(), std::slice::from_ref(&segment));
    assert!(archive.get(job(3)).is_err(), "a segment that is damaged anywhere is not believed");
    assert!(archive.get(job(0)).unwrap().is_some() && archive.get(job(8)).unwrap().is_none());
    assert_eq!(archive.part(2, &segment.sha256, 0, 10), None, "and not passed on");
    archive.restore(&segment, &good).unwrap();
    assert!(archive.get(job(2)).unwrap().is_some() && archive.missing().is_empty());

    // In the index, in its length, or gone: found at open.
    let mut index = good.clone();
    let end = index.len() - 40;
    index[end] ^= 1;
    for damage in [Some(index), Some(good[..good.len() - 1].to_vec()), None] {
        match &damage {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let opened = open(dir.path());
        opened.follow(&state);
        assert_eq!(opened.missing(), std::slice::from_ref(&segment));
        assert!(opened.get(job(2)).is_err() && opened.get(job(0)).unwrap().is_some());
        assert!(opened.files_of(&state).is_err(), "no backup without it");
        opened.restore(&segment, &good).unwrap();
        assert!(opened.get(job(2)).unwrap().is_some() && opened.missing().is_empty());
    }
}

#[test]
fn a_copy_of_what_is_damaged_fails_and_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let archive = open(dir.path());
    let state = ended(&archive, 9);
    archive.flush().unwrap();
    let path = dir.path().join(&names(dir.path())[1]);
    let (good, segment) = (fs::read(&path).unwrap(), state.archive().segments().nth(1).unwrap().clone());
    let copy = |n: usize| {
        let mut bytes = Vec::new();
        archive.files_of(&state).unwrap()[n].copy(&mut bytes).map(|()| bytes)
    };
    assert_eq!(copy(1).unwrap(), good);

    let mut bad = good.clone();
    bad[60] ^= 1;
    for damage in [&bad[..], &good[..good.len() - 1]] {
        fs::write(&path, damage).unwrap();
        let error = copy(1).unwrap_err();
        assert!(error.to_string().contains(&segment.name()), "{error}");
        assert_eq!(archive.missing(), std::slice::from_ref(&segment));
        assert!(archive.files_of(&state).is_err(), "no other backup is begun");
        archive.restore(&segment, &good).unwrap();
        assert_eq!(copy(1).unwrap(), good);
    }
    assert!(copy(0).is_ok() && copy(2).is_ok());
}

#[test]
fn dropped_jobs_are_gone_at_once_and_their_files_after_two_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let archive = open(dir.path());
    let mut state = ended(&archive, 9);
    archive.flush().unwrap();
    archive.snapshotted(state.archive().dropped());
    apply(&archive, &mut state, vec![Command::Retain(Retain::Drop { through: 2 })]);
    assert!(archive.get(job(0)).unwrap().is_none() && archive.get(job(4)).unwrap().is_some());
    assert_eq!(archive.after(None, 100).len(), 2);
    archive.snapshotted(state.archive().dropped());
    assert_eq!(names(dir.path()).len(), 3, "the older snapshot needs them");
    archive.snapshotted(state.archive().dropped());
    assert_eq!(names(dir.path()).len(), 1);
    assert!(!archive.write().let_go() && archive.read().places.len() == 2);
}

#[test]
fn a_disk_that_fails_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let archive = open(dir.path());
    ended(&archive, 5);
    fs::remove_dir(dir.path()).unwrap();
    assert!(archive.flush().unwrap_err().to_string().contains("write segment 0000000001-"));
    assert!(futures::executor::block_on(archive.make_way(&Tasks::new())).is_err(), "nothing is applied any more");
    fs::create_dir(dir.path()).unwrap();
}

#[test]
fn what_waits_is_written_whatever_lies_between() {
    let dir = tempfile::tempdir().unwrap();
    let ahead = open(dir.path());
    let later = ended(&ahead, 13);
    let archive = open(dir.path());
    let state = ended(&archive, 9);
    assert_eq!((archive.view().waiting, later.archive().segment_count()), (3, 5));
    // A snapshot of later: what it names beyond that is on disk already.
    for sealed in later.archive().segments().skip(3) {
        let bytes = ahead.part(sealed.number, &sealed.sha256, 0, usize::MAX).unwrap();
        archive.restore(sealed, &bytes).unwrap();
    }
    archive.follow(&later);
    archive.flush().unwrap();
    assert_eq!((archive.view(), names(dir.path()).len()), (ArchiveView::default(), 5));
    assert!(state.archive().segments().eq(later.archive().segments().take(3)));
}

#[test]
fn who_is_asked_for_a_damaged_segment_notices() {
    let dir = tempfile::tempdir().unwrap();
    let archive = open(dir.path());
    let state = ended(&archive, 9);
    archive.flush().unwrap();
    for (segment, name) in state.archive().segments().zip(names(dir.path())).take(2) {
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[60] ^= 1;
        if segment.number == 1 { fs::write(&path, &bytes).unwrap() } else { fs::remove_file(&path).unwrap() }
    }
    let segments: Vec<_> = state.archive().segments().cloned().collect();
    let part = |n: usize, from, most| archive.part(segments[n].number, &segments[n].sha256, from, most);
    let half = segments[0].bytes / 2;
    assert!(part(0, 0, half as usize).is_some(), "there is more to come");
    assert_eq!(part(0, half, usize::MAX), None);
    assert_eq!(part(1, 0, 10), None);
    assert!(part(2, 0, usize::MAX).is_some());
    assert_eq!(archive.missing(), &segments[..2], "so they are repaired");
}
