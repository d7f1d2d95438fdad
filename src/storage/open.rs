//! Opening a directory: every check before the first byte is changed.
//!
//! Order: lock, whose data, room on the disk, sled, is it the same data inside,
//! and all of it, names durable. Only the holder of the lock touches anything.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tracing::{debug, warn};

use super::ballast::{self, Ballast};
use super::identity::Identity;
use super::mark::{self, Mark};
use super::seal::Ledger;
use super::sync::{Syncer, Thread};
use super::{Error, Inner, Store, WAY_OUT, dirs};
use crate::clock;
use crate::domain::NodeId;

/// Bytes kept in reserve by a node in service.
pub const BALLAST_DEFAULT: u64 = 64 << 20;

/// Bytes kept in reserve where disks are small and stores many.
pub(super) const BALLAST_SMALL: u64 = 16 << 20;

/// sled's own directory. Its log is the file `db` in it.
pub(super) const DB: &str = "db";

/// Makes a leaf of 17 chunks (see `tree.rs`) stay below the quarter of a segment
/// at which sled turns it into a file of its own. Fixed for the life of a store.
const SEGMENT_BYTES: usize = 4 << 20;

const CACHE_BYTES: u64 = 32 << 20;

/// How long sled may take to let go of a store this process has just closed.
const CLOSING: Duration = Duration::from_secs(5);

thread_local! {
    static OPENING: Cell<bool> = const { Cell::new(false) };
}

static OPENS: AtomicUsize = AtomicUsize::new(0);

/// True on a thread where sled is opening a store, and on sled's own threads
/// meanwhile. A panic there is caught and becomes [`Error::Damaged`], so a panic
/// hook that ends the process must let it pass.
pub fn is_opening() -> bool {
    OPENING.get() || (OPENS.load(Ordering::SeqCst) > 0 && on_sled_thread())
}

fn on_sled_thread() -> bool {
    std::thread::current().name().is_some_and(|name| name.starts_with("sled-io-"))
}

/// Refuses to make a new key beside a store that belongs to the one that is gone.
///
/// # Errors
///
/// [`Error::Refused`] if there is a store in `dir` and no file `key`.
pub fn check_key(dir: &Path, key: &Path) -> Result<(), Error> {
    let Ok(Some(identity)) = Identity::read(dir) else { return Ok(()) };
    if fs::exists(key).unwrap_or(true) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the key file {key} is missing, but {dir} belongs to node {}: put the key back. If it is lost: {WAY_OUT}",
        identity.owner,
        key = key.display(),
        dir = dir.display(),
    )))
}

/// How to open a [`Store`].
#[must_use]
pub struct OpenOptions {
    ballast_bytes: u64,
    #[cfg(test)]
    syncer: Option<Syncer>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// As a node in service opens it, with a ballast of [`BALLAST_DEFAULT`].
    pub fn new() -> Self {
        Self {
            ballast_bytes: BALLAST_DEFAULT,
            #[cfg(test)]
            syncer: None,
        }
    }

    /// Bytes to keep in reserve for a full disk; 0 for none.
    pub fn ballast_bytes(mut self, bytes: u64) -> Self {
        self.ballast_bytes = bytes;
        self
    }

    #[cfg(test)]
    pub(super) fn syncer(mut self, syncer: Syncer) -> Self {
        self.syncer = Some(syncer);
        self
    }

    /// Opens or creates the store in `dir` for `owner`. Blocking. See [`Store::open`].
    pub fn open(self, dir: &Path, owner: NodeId) -> Result<Store, Error> {
        dirs::create(dir)?;
        let lock = Arc::new(Lock::take(dir)?);
        let found = Identity::read(dir)?;
        check(dir, found.as_ref(), owner)?;

        let ballast = Ballast::new(dir, self.ballast_bytes);
        ballast.release_if_full(dir)?;
        let files = dir.join("files");
        dirs::create(&files)?;
        let (db, Settled { identity, mark, ledger }) = open_settled(dir, found, owner)?;
        ballast.restore(dir);

        let syncer = self.make_syncer(dir)?;
        let sync = Thread::start(db.clone(), dir, syncer, (ledger.taken(), mark), Arc::clone(&lock))?;
        let inner = Inner {
            dir: dir.to_owned(),
            files,
            incarnation: identity.incarnation,
            trees: Mutex::default(),
            sync,
            ledger,
            db,
            _lock: lock,
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    fn make_syncer(self, dir: &Path) -> Result<Syncer, Error> {
        #[cfg(test)]
        if let Some(syncer) = self.syncer {
            return Ok(syncer);
        }
        let file = open_log(dir)?;
        Ok(Box::new(move || file.sync_data()))
    }
}

/// Says that this process has the directory.
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Lock {
    fn take(dir: &Path) -> Result<Self, Error> {
        let open = File::options().create(true).truncate(false).write(true).open(dir.join("lock"));
        let file = open.map_err(|e| Error::io("open lock", dir, e))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(in_use(dir)),
            Err((_, error)) => Err(Error::io("take lock", dir, error.into())),
        }
    }
}

fn in_use(dir: &Path) -> Error {
    Error::Refused(format!(
        "the data directory {} is in use by another process: stop that one first, or give this one its own directory",
        dir.display()
    ))
}

/// Whether we may touch what is there.
fn check(dir: &Path, found: Option<&Identity>, owner: NodeId) -> Result<(), Error> {
    let Some(identity) = found else { return check_ours(dir) };
    identity.check_owner(owner, dir)?;
    if fs::metadata(log_path(dir)).is_ok_and(|meta| meta.len() > 0) {
        return Ok(());
    }
    Err(lost(dir))
}

fn lost(dir: &Path) -> Error {
    Error::damaged(format!(
        "{dir} names an owner but its {DB} directory is missing, empty or of another store",
        dir = dir.display()
    ))
}

/// A directory without an identity must be empty, or one we were cut short in making.
fn check_ours(dir: &Path) -> Result<(), Error> {
    const OURS: [&str; 6] = ["lock", DB, "files", "ballast", mark::NAME, "store.toml.tmp"];
    let entries = fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    for entry in entries {
        let name = entry.map_err(|e| Error::io("list", dir, e))?.file_name();
        if !OURS.iter().any(|ours| name == *ours) {
            return Err(Error::Refused(format!(
                "{dir} holds {name:?} and no store.toml, so it is no data directory of ours: give an empty or a new one",
                dir = dir.display()
            )));
        }
    }
    Ok(())
}

/// What was found to be whole.
struct Settled {
    identity: Identity,
    mark: Mark,
    ledger: Ledger,
}

fn open_settled(dir: &Path, found: Option<Identity>, owner: NodeId) -> Result<(sled::Db, Settled), Error> {
    let db = open_db(dir)?;
    // sled has renamed what it may delete later.
    dirs::sync(&dir.join(DB))?;
    match catch(|| settle(dir, &db, found, owner)) {
        Ok(Ok(settled)) => Ok((db, settled)),
        Ok(Err(error)) => {
            // Closing what is damaged may panic as well.
            let _ = catch(|| drop(db));
            Err(unopened(dir, error))
        }
        Err(panic) => {
            std::mem::forget(db);
            Err(unopened(dir, Error::damaged(in_sled(dir, &panic))))
        }
    }
}

/// Makes file and sled agree on whose data this is, and looks whether it is all there.
fn settle(dir: &Path, db: &sled::Db, found: Option<Identity>, owner: NodeId) -> Result<Settled, Error> {
    let inside = Identity::read_inside(db, dir)?;
    let complete = found.is_some();
    let identity = match (found, inside) {
        (Some(file), Some(inside)) if file == inside => file,
        (Some(_), _) => return Err(lost(dir)),
        (None, Some(inside)) => inside,
        (None, None) if db.was_recovered() && db.tree_names().len() > 1 => return Err(not_ours(dir)),
        (None, None) => return create(dir, db, owner),
    };
    identity.check_owner(owner, dir)?;
    let missing = || Error::damaged(format!("{} is missing", dir.join(mark::NAME).display()));
    let mark = match Mark::open(dir, identity.incarnation) {
        Ok(None) if complete => return Err(missing()),
        // Half a mark is what a making that was cut short leaves.
        Err(error) if complete => return Err(error),
        mark => mark.ok().flatten(),
    };
    let ledger = Ledger::open(db, mark.as_ref().map_or(0, Mark::through), dir)?;
    let mark = match mark {
        Some(mark) => mark,
        None if ledger.is_empty() => Mark::create(dir, identity.incarnation)?,
        None => return Err(missing()),
    };
    if !complete {
        warn!(dir = %dir.display(), "store.toml was missing, wrote it again");
        identity.write(dir)?;
    }
    Ok(Settled { identity, mark, ledger })
}

fn not_ours(dir: &Path) -> Error {
    Error::Refused(format!(
        "{}/{DB} holds a database that is not ours: give an empty or a new directory",
        dir.display()
    ))
}

/// Everything durable, names included, before the identity file says it is there.
fn create(dir: &Path, db: &sled::Db, owner: NodeId) -> Result<Settled, Error> {
    if fs::exists(dir.join(mark::NAME)).is_ok_and(|exists| exists) && Mark::holds_promise(dir)? {
        return Err(lost(dir));
    }
    let identity = Identity::new(owner);
    identity.write_inside(db, dir)?;
    let ledger = Ledger::open(db, 0, dir)?;
    db.flush().map_err(|e| Error::sled("flush", dir, e))?;
    open_log(dir)?.sync_all().map_err(|e| Error::io("sync", dir, e))?;
    let conf = dir.join(DB).join("conf");
    File::open(conf).and_then(|conf| conf.sync_all()).map_err(|e| Error::io("sync", dir, e))?;
    dirs::sync(&dir.join(DB))?;
    let mark = Mark::create(dir, identity.incarnation)?;
    identity.write(dir)?;
    Ok(Settled { identity, mark, ledger })
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join(DB).join(DB)
}

/// A second handle on sled's log, to sync it. sled's lock is advisory.
fn open_log(dir: &Path) -> Result<File, Error> {
    File::options().read(true).write(true).open(log_path(dir)).map_err(|e| Error::io("open log", dir, e))
}

fn open_db(dir: &Path) -> Result<sled::Db, Error> {
    remove_stale(&dir.join(DB))?;
    let deadline = clock::instant() + CLOSING;
    loop {
        match open_sled(dir) {
            // We hold our own lock, so it is a store of ours that is closing.
            Err(Failed::Locked) if clock::instant() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(Failed::Locked) => return Err(in_use(dir)),
            Err(Failed::Other(error)) => return Err(error),
            Ok(db) => return Ok(db),
        }
    }
}

enum Failed {
    Locked,
    Other(Error),
}

/// sled answers damage with a panic as often as with an error.
fn open_sled(dir: &Path) -> Result<sled::Db, Failed> {
    let config = sled::Config::new()
        .path(dir.join(DB))
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    match catch(|| config.open()) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) if is_locked(&error) => Err(Failed::Locked),
        Ok(Err(error)) => Err(Failed::Other(unopened(dir, sled_error(dir, error)))),
        Err(panic) => Err(Failed::Other(unopened(dir, Error::damaged(in_sled(dir, &panic))))),
    }
}

/// Runs `work`; if it panics, what the panic said.
fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let _opening = Opening::begin();
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| describe(panic.as_ref()))
}

/// On a full disk sled fails in odd ways; the disk is what is to be fixed.
fn unopened(dir: &Path, error: Error) -> Error {
    match dirs::free_bytes(dir) {
        Ok(free) if free < ballast::HEADROOM / 16 => Error::Full(dir.to_owned()),
        _ => error,
    }
}

fn sled_error(dir: &Path, error: sled::Error) -> Error {
    match error {
        sled::Error::Corruption { .. } => Error::damaged(in_sled(dir, "a file of it has bad bytes")),
        // It was made with our settings: what says otherwise is not what was written.
        sled::Error::Unsupported(why) | sled::Error::ReportableBug(why) => Error::damaged(in_sled(dir, &why)),
        sled::Error::Io(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Error::damaged(in_sled(dir, &error.to_string()))
        }
        other => Error::sled("open", dir, other),
    }
}

fn in_sled(dir: &Path, what: &str) -> String {
    format!("{} can not be opened: {what}", dir.join(DB).display())
}

/// sled gives the lock's error as text.
fn is_locked(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => {
            error.kind() == io::ErrorKind::WouldBlock || error.to_string().starts_with("could not acquire lock")
        }
        _ => false,
    }
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("sled gave up").to_owned()
}

struct Opening;

impl Opening {
    fn begin() -> Self {
        OPENING.set(true);
        OPENS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        OPENS.fetch_sub(1, Ordering::SeqCst);
        OPENING.set(false);
    }
}

/// A snapshot that sled was writing when it was killed keeps it from opening.
fn remove_stale(db: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(db) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io("list", db, e))?,
    };
    for entry in entries {
        let name = entry.map_err(|e| Error::io("list", db, e))?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("snap.") && text.ends_with(".generating") {
            fs::remove_file(db.join(&name)).map_err(|e| Error::io("remove stale snapshot", db, e))?;
            debug!(file = %text, "removed a stale snapshot");
        }
    }
    Ok(())
}
