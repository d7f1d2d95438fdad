//! For tests: the engine with its own flush alone, which is not enough; see [`super::sync`].

use std::path::Path;

fn config(path: &Path) -> sled::Config {
    sled::Config::new().path(path).segment_size(4 << 20).flush_every_ms(None)
}

/// Inserts and flushes one after the other; each is told when it counts as flushed.
pub(crate) fn fill(path: &Path, count: usize, mut flushed: impl FnMut(usize)) {
    let db = config(path).open().unwrap();
    for n in 1..=count {
        db.insert(n.to_be_bytes(), vec![7; 300]).unwrap();
        db.flush().unwrap();
        flushed(n);
    }
    // Closing it would sync.
    std::mem::forget(db);
}

/// How many are there; 0 if it does not open.
pub(crate) fn count(path: &Path) -> usize {
    config(path).open().map_or(0, |db| db.len())
}
