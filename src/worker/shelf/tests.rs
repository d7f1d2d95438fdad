//! Real files.

use super::*;

const LONG: Duration = Duration::from_secs(3_600);

async fn put(shelf: &Shelf, bytes: &[u8]) -> Result<Digest, Error> {
    let mut draft = shelf.draft().await?;
    for piece in bytes.chunks(100_000) {
        draft.write(piece).await?;
    }
    Ok(draft.keep().await?.0)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

/// Files beside those of blocks.
fn files(directory: &Path) -> usize {
    let all = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_none_or(|extension| extension != BLOCKS)).count()
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_part_by_part() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = pattern(600_000);
    let digest = put(&Shelf::open(directory.path(), 1 << 20, LONG).unwrap(), &bytes).await.unwrap();
    assert_eq!(digest, Digest::of(&bytes));

    let shelf = Shelf::open(directory.path(), 1 << 20, LONG).unwrap();
    assert_eq!(shelf.size(&digest), Some(600_000));
    for (offset, length) in [(0, 600_000), (0, 1), (262_143, 2), (262_144, 262_144), (599_999, 1), (600_000, 0)] {
        let part = shelf.read(&digest, offset, length).await.unwrap();
        let offset = usize::try_from(offset).unwrap();
        assert_eq!(part, bytes[offset..offset + length as usize], "{length} bytes at {offset}");
    }
    assert!(matches!(shelf.read(&digest, 600_000, 1).await, Err(Missing::Range)));
    assert!(matches!(shelf.read(&digest, u64::MAX, 1).await, Err(Missing::Range)));
    assert!(matches!(shelf.read(&Digest([1; 32]), 0, 1).await, Err(Missing::Gone)));
}

#[tokio::test]
async fn what_the_disk_spoiled_is_not_handed_out() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), 1 << 20, LONG).unwrap();
    let digest = put(&shelf, &pattern(600_000)).await.unwrap();
    let path = shelf.path(&digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[300_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(shelf.read(&digest, 0, 1_000).await.is_ok(), "this block is as it was");
    assert!(matches!(shelf.read(&digest, 299_000, 100).await, Err(Missing::Damaged)));
    std::fs::write(&path, &bytes[..300_000]).unwrap();
    assert!(matches!(shelf.read(&digest, 599_000, 100).await, Err(Missing::Damaged)));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(shelf.read(&digest, 0, 100).await, Err(Missing::Damaged)));
}

#[tokio::test]
async fn at_the_bound_the_oldest_go_and_what_is_pinned_stays() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), 120_000, LONG).unwrap();
    let mut kept = Vec::new();
    for n in 0..3u8 {
        kept.push(put(&shelf, &[n; 30_000]).await.unwrap());
        // The clock counts milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let pin = shelf.pin(&kept[0]).unwrap();
    kept.push(put(&shelf, &[3; 30_000]).await.unwrap());
    let there: Vec<bool> = kept.iter().map(|digest| shelf.size(digest).is_some()).collect();
    assert_eq!(there, [true, false, true, true]);
    assert!(matches!(put(&shelf, &[9; 90_000]).await, Err(Error::Full(120_000))), "the pin is in the way");
    drop(pin);
    assert!(put(&shelf, &[9; 90_000]).await.is_ok());
    assert_eq!((shelf.lock().used, files(directory.path())), (footprint(90_000), 1), "drafts leave nothing behind");
    assert!(matches!(put(&shelf, &[8; 121_000]).await, Err(Error::Full(120_000))));
}

#[tokio::test]
async fn drafts_and_strangers_do_not_survive_a_restart_nor_does_what_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), 1 << 20, LONG).unwrap();
    let digest = put(&shelf, b"whole").await.unwrap();
    for name in ["7.draft", "notes.txt", &hex::encode([5; 32]), &format!("{}.blocks", hex::encode([6; 32]))] {
        std::fs::write(directory.path().join(name), b"x").unwrap();
    }
    let shelf = Shelf::open(directory.path(), 1 << 20, LONG).unwrap();
    assert_eq!((files(directory.path()), shelf.size(&digest)), (1, Some(5)));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "the file and its blocks");

    tokio::time::sleep(Duration::from_millis(5)).await;
    let shelf = Shelf::open(directory.path(), 1 << 20, Duration::from_millis(1)).unwrap();
    assert_eq!((shelf.size(&digest), files(directory.path())), (None, 0));
}

#[tokio::test]
async fn the_same_bytes_twice_are_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), 1 << 20, LONG).unwrap();
    let first = put(&shelf, b"same").await.unwrap();
    let pin = shelf.pin(&first).unwrap();
    assert_eq!(put(&shelf, b"same").await.unwrap(), first);
    assert_eq!((shelf.lock().used, files(directory.path())), (footprint(4), 1));
    drop(pin);
    shelf.discard(&first);
    assert_eq!((shelf.lock().used, files(directory.path())), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_index_knows_is_there_also_while_others_evict_and_keep_it() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), 8 << 20, LONG).unwrap();
    let tasks = Tasks::new();
    let bytes = pattern(300_000);
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (shelf, bytes) = (shelf.clone(), bytes.clone());
            tasks.spawn("writer", async move {
                for _ in 0..50 {
                    let digest = put(&shelf, &bytes).await.unwrap();
                    // Another may have discarded it meanwhile; if it is here, it is whole.
                    let read = shelf.read(&digest, 0, 300_000).await;
                    assert!(
                        read.as_ref().is_ok_and(|read| *read == bytes) || matches!(read, Err(Missing::Gone)),
                        "{read:?}"
                    );
                    shelf.discard(&digest);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!((shelf.lock().used, std::fs::read_dir(directory.path()).unwrap().count()), (0, 0));
}

#[tokio::test]
async fn tiny_files_are_bounded_too() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), 100_000, LONG).unwrap();
    for n in 0..50u8 {
        put(&shelf, &[n]).await.unwrap();
    }
    assert!(files(directory.path()) <= 12, "{} files of a byte", files(directory.path()));
    let nothing = Shelf::open(&directory.path().join("small"), 8_000, LONG).unwrap();
    assert!(matches!(nothing.draft().await, Err(Error::Full(8_000))));
    assert_eq!((nothing.lock().used, files(&directory.path().join("small"))), (0, 0));
}
