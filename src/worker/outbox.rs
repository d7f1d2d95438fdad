//! Reports on their way to a coordinator, durable until one has answered.
//!
//! A writer thread takes what has gathered, appends it with one write and one
//! fdatasync, and only then lets the reporter see it: what a coordinator was
//! told, a restarted worker still knows. Answers are appended without a sync; if
//! one is lost the report is sent again, which a coordinator refuses harmlessly.
//!
//! At the bound ([`Outbox::is_full`]) the worker takes no more jobs; what is
//! already running still finds a place. If the disk fails, reports are kept in
//! memory and delivered from there. So are all reports of [`Outbox::in_memory`],
//! which simulated workers use: they have no next life.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use tokio::sync::{Notify, mpsc, oneshot};

use super::desk::Key;
use super::outbox_log::{Entry, Log};
use crate::tasks::Tasks;
use crate::wire;
use crate::wire::proto::mesh::v1::Report;

/// Pending bytes and reports beyond which the worker takes no more jobs.
const BYTES_MAX: usize = 64 << 20;
const REPORTS_MAX: usize = 100_000;

/// Writes that may wait for the disk. Beyond it those who finish wait.
const QUEUE_MAX: usize = 4_096;

/// Most that one write and one sync cover.
const BATCH_MAX: usize = 1_024;

const FILE: &str = "reports.log";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {path}")]
    Open { path: String, source: std::io::Error },
}

#[derive(Clone)]
pub struct Outbox {
    pending: Arc<Mutex<Pending>>,
    /// `None`: nothing is written.
    writes: Option<mpsc::Sender<Write>>,
    changed: Arc<Notify>,
}

struct Write {
    entry: Entry,
    /// For reports: told when the report is durable, or cannot be.
    done: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Pending {
    reports: BTreeMap<u64, Report>,
    by_key: HashMap<Key, u64>,
    bytes: usize,
    next: u64,
    #[cfg(test)]
    syncs: usize,
}

impl Outbox {
    /// Opens the outbox in `directory`, with what an earlier life left there.
    ///
    /// # Errors
    ///
    /// The file cannot be read or cut to its last whole record.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let wrap = |source| Error::Open { path: path.display().to_string(), source };
        std::fs::create_dir_all(directory).map_err(wrap)?;
        let (log, left) = Log::open(&path).map_err(wrap)?;
        let (writes, queue) = mpsc::channel(QUEUE_MAX);
        let outbox = Self { pending: Arc::default(), writes: Some(writes), changed: Arc::default() };
        for report in left {
            outbox.lock().add(report);
        }
        let writer = Writer { log, pending: outbox.pending.clone(), changed: outbox.changed.clone() };
        Tasks::thread("outbox", move || writer.run(queue)).map_err(wrap)?;
        Ok(outbox)
    }

    /// An outbox that forgets when the process ends; without file and thread.
    pub fn in_memory() -> Self {
        Self { pending: Arc::default(), writes: None, changed: Arc::default() }
    }

    /// Adds a report; it is durable when this returns, unless the disk failed.
    pub async fn put(&self, report: Report) {
        let Some(writes) = &self.writes else {
            self.lock().add(report);
            return self.changed.notify_one();
        };
        let (done, durable) = oneshot::channel();
        let write = Write { entry: Entry::Report(report), done: Some(done) };
        // The writer lives as long as any sender does.
        if writes.send(write).await.is_ok() {
            let _ = durable.await;
        }
    }

    /// The oldest reports, at most so many and, after the first, so many bytes.
    pub fn pick(&self, reports_max: usize, bytes_max: usize) -> Vec<Report> {
        let pending = self.lock();
        let mut bytes = 0;
        let fits = |report: &&Report| {
            let first = bytes == 0;
            bytes += report.encoded_len();
            first || bytes <= bytes_max
        };
        pending.reports.values().take(reports_max).take_while(fits).cloned().collect()
    }

    /// A coordinator has answered for these: forget them.
    pub async fn answered(&self, keys: &[Key]) {
        for key in keys {
            let known = self.lock().remove(*key).is_some();
            if let Some(writes) = self.writes.as_ref().filter(|_| known) {
                // Only fails when the writer is gone; then a later life sends it again.
                let _ = writes.send(Write { entry: Entry::Answered(*key), done: None }).await;
            }
        }
    }

    /// Puts these behind all others.
    pub fn defer(&self, keys: &[Key]) {
        let mut pending = self.lock();
        for key in keys {
            pending.defer(*key);
        }
    }

    /// Attempts with a pending report.
    pub fn keys(&self) -> HashSet<Key> {
        self.lock().by_key.keys().copied().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().reports.is_empty()
    }

    /// No more work should be taken until something was delivered.
    pub fn is_full(&self) -> bool {
        let pending = self.lock();
        pending.bytes >= BYTES_MAX || pending.reports.len() >= REPORTS_MAX
    }

    /// Completes when reports were added since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn add(&mut self, report: Report) {
        let Some(key) = wire::parse_attempt(report.attempt.as_ref()) else { return };
        self.remove(key);
        self.next += 1;
        self.bytes += report.encoded_len();
        self.by_key.insert(key, self.next);
        self.reports.insert(self.next, report);
    }

    fn remove(&mut self, key: Key) -> Option<Report> {
        let removed = self.by_key.remove(&key).and_then(|place| self.reports.remove(&place))?;
        self.bytes -= removed.encoded_len();
        Some(removed)
    }

    fn defer(&mut self, key: Key) {
        if let Some(report) = self.remove(key) {
            self.add(report);
        }
    }
}

struct Writer {
    log: Log,
    pending: Arc<Mutex<Pending>>,
    changed: Arc<Notify>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX {
                match queue.try_recv() {
                    Ok(write) => batch.push(write),
                    Err(_) => break,
                }
            }
            self.write(batch);
        }
    }

    fn write(&mut self, batch: Vec<Write>) {
        let (entries, done): (Vec<Entry>, Vec<_>) = batch.into_iter().map(|write| (write.entry, write.done)).unzip();
        let reports = entries.iter().any(|entry| matches!(entry, Entry::Report(_)));
        if let Err(error) = self.log.append(&entries, reports) {
            tracing::error!(%error, "cannot write outbox: reports are kept in memory only");
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(test)]
        {
            pending.syncs += usize::from(reports);
        }
        for entry in entries {
            if let Entry::Report(report) = entry {
                pending.add(report);
            }
        }
        drop(pending);
        for done in done.into_iter().flatten() {
            let _ = done.send(());
        }
        if reports {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;

    use bytes::Bytes;

    use super::*;
    use crate::domain::JobId;
    use crate::wire::proto::mesh::v1::{Output, report};

    fn report(job: u32, output: &[u8]) -> Report {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&job.to_be_bytes());
        let output = Output { inline: Bytes::copy_from_slice(output), ..Output::default() };
        Report { attempt: Some(wire::attempt_ref(JobId(id), 1)), outcome: Some(report::Outcome::Output(output)) }
    }

    fn keys(reports: &[Report]) -> Vec<Key> {
        reports.iter().filter_map(|report| wire::parse_attempt(report.attempt.as_ref())).collect()
    }

    /// Waits until the writer thread has done all that was asked before.
    async fn settle(outbox: &Outbox) {
        let marker = report(u32::MAX, b"");
        outbox.put(marker.clone()).await;
        outbox.answered(&keys(&[marker])).await;
    }

    #[tokio::test]
    async fn what_was_not_answered_survives_a_restart_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let reports: Vec<Report> = (0..5).map(|job| report(job, b"output")).collect();
        let outbox = Outbox::open(directory.path()).unwrap();
        for report in &reports {
            outbox.put(report.clone()).await;
        }
        outbox.answered(&keys(&reports[1..3])).await;
        settle(&outbox).await;
        drop(outbox);

        let outbox = Outbox::open(directory.path()).unwrap();
        let left: Vec<Report> = outbox.pick(10, usize::MAX).into_iter().filter(|left| reports.contains(left)).collect();
        assert_eq!(left, [reports[0].clone(), reports[3].clone(), reports[4].clone()]);
    }

    #[tokio::test]
    async fn in_memory_it_does_all_but_last() {
        let outbox = Outbox::in_memory();
        let told = outbox.changed.clone();
        outbox.put(report(1, b"one")).await;
        told.notified().await;
        assert_eq!(outbox.pick(10, usize::MAX), [report(1, b"one")]);
        outbox.answered(&keys(&[report(1, b"")])).await;
        assert!(outbox.is_empty() && outbox.keys().is_empty());
    }

    #[tokio::test]
    async fn a_torn_end_loses_only_what_was_torn() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(directory.path()).unwrap();
        outbox.put(report(1, b"one")).await;
        outbox.put(report(2, b"two")).await;
        drop(outbox);

        let path = directory.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for torn in [1, 7, 20] {
            std::fs::write(&path, &whole[..whole.len() - torn]).unwrap();
            let outbox = Outbox::open(directory.path()).unwrap();
            assert_eq!(outbox.pick(10, usize::MAX), [report(1, b"one")], "cut by {torn}");
            outbox.put(report(3, b"three")).await;
            drop(outbox);
            let outbox = Outbox::open(directory.path()).unwrap();
            assert_eq!(outbox.pick(10, usize::MAX), [report(1, b"one"), report(3, b"three")]);
        }

        std::fs::write(&path, &whole).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[0xff; 100]).unwrap();
        let outbox = Outbox::open(directory.path()).unwrap();
        assert_eq!(outbox.keys().len(), 2, "garbage after the end is cut away");
    }

    #[tokio::test]
    async fn a_batch_is_bounded_by_number_and_bytes_but_never_empty() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(directory.path()).unwrap();
        for job in 0..4 {
            outbox.put(report(job, &[0; 1_000])).await;
        }
        assert_eq!(outbox.pick(2, usize::MAX).len(), 2);
        assert_eq!(outbox.pick(10, 2_500).len(), 2);
        assert_eq!(outbox.pick(10, 1).len(), 1, "one that is too large goes alone");
    }

    #[tokio::test]
    async fn the_file_does_not_grow_with_what_was_answered() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(directory.path()).unwrap();
        outbox.put(report(0, b"stays")).await;
        for job in 1..100 {
            let report = report(job, &[7; 256 << 10]);
            outbox.put(report.clone()).await;
            outbox.answered(&keys(&[report])).await;
        }
        settle(&outbox).await;
        let size = std::fs::metadata(directory.path().join(FILE)).unwrap().len();
        assert!(size < 8 << 20, "{size} bytes for one pending report");
        drop(outbox);
        assert!(Outbox::open(directory.path()).unwrap().pick(10, usize::MAX).contains(&report(0, b"stays")));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_at_once_share_a_sync() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(directory.path()).unwrap();
        let tasks = Tasks::new();
        for lane in 0..64 {
            let outbox = outbox.clone();
            tasks.spawn("put", async move {
                for n in 0..64 {
                    let report = report(lane * 64 + n, b"");
                    outbox.put(report.clone()).await;
                    outbox.answered(&keys(&[report])).await;
                }
            });
        }
        assert!(tasks.join(std::time::Duration::from_secs(60)).await);
        assert!(outbox.is_empty());
        let syncs = outbox.lock().syncs;
        assert!((64..4_096).contains(&syncs), "{syncs} syncs for 4096 reports");
    }
}
