//! What open refuses, what it heals, and what it says.

use std::fs;
use std::path::Path;

use super::super::{Error, OpenOptions, Store};
use super::{OWNER, open, value};
use crate::domain::PeerId;

fn refused(result: Result<Store, Error>) -> String {
    match result {
        Err(Error::Refused(why)) => why,
        Err(other) => panic!("refused otherwise: {other:?}"),
        Ok(_) => panic!("opened"),
    }
}

fn damaged(result: Result<Store, Error>) -> String {
    match result {
        Err(error @ Error::Damaged(_)) => error.to_string(),
        Err(other) => panic!("failed otherwise: {other:?}"),
        Ok(_) => panic!("opened"),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_store_keeps_its_data_and_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("deep/er");
    let store = open(&below);
    let incarnation = store.incarnation();
    store.tree("t").unwrap().put(b"k", b"v").unwrap();
    drop(store);

    let store = open(&below);
    assert_eq!(store.incarnation(), incarnation);
    assert_eq!(store.tree("t").unwrap().get(b"k").unwrap().unwrap(), b"v");
    assert!(store.file_dir().is_dir());
    assert!(store.used_bytes() > 0);

    let other = tempfile::tempdir().unwrap();
    assert_ne!(open(other.path()).incarnation(), incarnation);
}

#[test]
fn a_second_open_is_refused_until_the_first_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    let why = refused(Store::open(dir.path(), OWNER));
    assert!(why.contains("in use by another process"), "{why}");

    drop(store);
    refused(Store::open(dir.path(), OWNER)); // the tree holds the store
    drop(tree);
    open(dir.path());
}

#[test]
fn another_nodes_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let why = refused(Store::open(dir.path(), PeerId([8; 32])));
    assert!(why.contains(&OWNER.to_string()) && why.contains(&PeerId([8; 32]).to_string()), "{why}");
    open(dir.path());
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let file = dir.path().join("store.toml");
    let newer = fs::read_to_string(&file).unwrap().replace("format = 3", "format = 4\nshape = \"round\"");
    fs::write(&file, &newer).unwrap();
    let why = refused(Store::open(dir.path(), OWNER));
    assert!(why.contains("format 3") && why.contains("at least as new"), "{why}");
    assert_eq!(fs::read_to_string(&file).unwrap(), newer);
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("holiday.jpg"), b"sun").unwrap();
    let why = refused(Store::open(dir.path(), OWNER));
    assert!(why.contains("holiday.jpg"), "{why}");

    let sled = tempfile::tempdir().unwrap();
    fs::create_dir(sled.path().join("db")).unwrap();
    let config = sled::Config::new().path(sled.path().join("db")).segment_size(4 << 20).flush_every_ms(None);
    config.open().unwrap().open_tree("theirs").unwrap().insert(b"k", b"v").unwrap();
    let why = refused(Store::open(sled.path(), OWNER));
    assert!(why.contains("not ours"), "{why}");
}

#[test]
fn an_emptied_or_exchanged_database_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let other = tempfile::tempdir().unwrap();
    drop(open(other.path()));

    let db = dir.path().join("db");
    fs::remove_dir_all(&db).unwrap();
    assert!(damaged(Store::open(dir.path(), OWNER)).contains("nor with an older copy"));
    assert!(!db.exists(), "a refused open changes nothing");
    copy(&other.path().join("db"), &db);
    assert!(damaged(Store::open(dir.path(), OWNER)).contains("nor with an older copy"));
}

#[test]
fn a_making_that_was_cut_short_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let incarnation = open(dir.path()).incarnation();
    fs::remove_file(dir.path().join("store.toml")).unwrap();
    assert!(refused(Store::open(dir.path(), PeerId([8; 32]))).contains("belongs to"));
    assert_eq!(open(dir.path()).incarnation(), incarnation);
    assert!(dir.path().join("store.toml").exists());

    let early = tempfile::tempdir().unwrap();
    fs::create_dir(early.path().join("db")).unwrap();
    fs::write(early.path().join("store.toml.tmp"), b"forma").unwrap();
    open(early.path());
}

#[test]
fn a_stale_snapshot_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let stale = dir.path().join("db/snap.00000000000001F3.generating");
    fs::write(&stale, b"half").unwrap();
    open(dir.path());
    assert!(!stale.exists());
}

#[test]
fn damage_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    for n in 0..2000u32 {
        tree.put(&n.to_be_bytes(), &value(n as u8, 4000)).unwrap();
    }
    drop((tree, store));
    let log = dir.path().join("db/db");
    let mut bytes = fs::read(&log).unwrap();
    bytes[64..].fill(0xA5); // the first segment's header stays, so that sled looks further
    fs::write(&log, bytes).unwrap();
    for entry in fs::read_dir(dir.path().join("db")).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let what = damaged(Store::open(dir.path(), OWNER));
    assert!(what.contains("nor with an older copy"), "{what}");
}

/// The panic is sled's answer to a blob file that is gone, as after a power loss.
#[test]
fn a_panic_inside_sled_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let db = dir.path().join("db");
    let config = sled::Config::new().path(&db).segment_size(4 << 20).flush_every_ms(None);
    let sled = loop {
        match config.open() {
            Ok(sled) => break sled,
            Err(error) => {
                assert!(error.to_string().contains("lock"), "{error}");
                std::thread::yield_now(); // ours is closing
            }
        }
    };
    for n in 0..40u8 {
        sled.insert([n], vec![n; 3 << 20]).unwrap();
    }
    sled.flush().unwrap();
    drop(sled);
    let mut blobs = 0;
    for blob in fs::read_dir(db.join("blobs")).unwrap().map(Result::unwrap) {
        fs::remove_file(blob.path()).unwrap();
        blobs += 1;
    }
    assert!(blobs > 0, "large pages are blobs");
    let what = damaged(Store::open(dir.path(), OWNER));
    assert!(what.contains("cannot find pid") && what.contains("nor with an older copy"), "{what}");
    assert!(!super::super::is_opening());
}

#[tokio::test]
async fn what_a_barrier_covered_is_in_a_copy_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    for n in 0..300u32 {
        tree.put(&n.to_be_bytes(), &value(n as u8, 700)).unwrap();
    }
    tree.put(b"large", &value(3, 20 << 20)).unwrap();
    store.barrier().await.unwrap();
    let image = tempfile::tempdir().unwrap();
    copy(dir.path(), image.path());

    let copied = open(image.path()).tree("t").unwrap();
    assert!(copied.get(b"large").unwrap().unwrap() == value(3, 20 << 20));
    assert_eq!(copied.range(b"", None).count(), 301);
}

#[test]
fn the_ballast_has_real_blocks() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = OpenOptions::new().ballast_bytes(1 << 20).open(dir.path(), OWNER).unwrap();
    let meta = fs::metadata(dir.path().join("ballast")).unwrap();
    assert!(meta.blocks() * 512 >= 1 << 20);
    assert!(store.free_bytes().unwrap() > 0);
}
