//! The file behind the outbox: an append-only log of reports and answers.
//!
//! A record is `length u32 | check 8 bytes | kind 1 byte | body`, the check being
//! the start of the SHA-256 of kind and body. What a crash tore off at the end
//! is cut away when the log is opened. A log that is mostly answered is replaced
//! by one with what is still pending.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest as _, Sha256};

use super::desk::Key;
use super::files;
use crate::wire;
use crate::wire::proto::mesh::v1::{AttemptRef, Report};

/// A log smaller than this is not rewritten.
const REWRITE_MIN: u64 = 4 << 20;

/// Largest body of a record; anything longer is damage.
const BODY_MAX: usize = 4 << 20;

const HEADER: usize = 4 + 8;
const KIND_REPORT: u8 = 1;
const KIND_ANSWERED: u8 = 2;

pub(super) enum Entry {
    Report(Report),
    Answered(Key),
}

pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Bytes up to the end of the last whole record.
    length: u64,
    /// Something may follow that record: a write or a cut failed.
    torn: bool,
    /// The length from which on it is worth a rewrite.
    rewrite_at: u64,
    /// Pending reports, as encoded records, in order of arrival.
    live: BTreeMap<Key, (u64, Bytes)>,
    live_bytes: u64,
    arrivals: u64,
}

impl Log {
    /// Opens the log and returns what is pending in it, oldest first.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<Report>)> {
        files::remove(&files::temporary_name(path))?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut log = Self {
            path: path.to_owned(),
            file,
            length: 0,
            torn: true,
            rewrite_at: REWRITE_MIN,
            live: BTreeMap::new(),
            live_bytes: 0,
            arrivals: 0,
        };
        log.replay(&Bytes::from(bytes));
        log.cut()?;
        files::sync_parent(path)?;
        let pending = log.pending();
        Ok((log, pending))
    }

    /// Appends `entries` with one write; with `sync`, they are durable on return.
    ///
    /// # Errors
    ///
    /// Nothing of `entries` is in the log then.
    pub fn append(&mut self, entries: &[Entry], sync: bool) -> io::Result<()> {
        let records: Vec<Bytes> = entries.iter().map(record).collect();
        if self.torn {
            self.cut()?;
        }
        self.torn = true;
        self.write(&records.concat(), sync)?;
        self.torn = false;
        for (entry, record) in entries.iter().zip(records) {
            self.length += record.len() as u64;
            self.note(entry, record);
        }
        if self.length > self.rewrite_at && self.length > 4 * self.live_bytes {
            self.rewrite_at = REWRITE_MIN;
            if let Err(error) = self.rewrite() {
                // What was appended is in the log all the same; it is only longer than it need be.
                tracing::warn!(%error, "cannot shorten outbox");
                self.rewrite_at = self.length + REWRITE_MIN;
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if sync { self.file.sync_data() } else { Ok(()) }
    }

    /// Drops whatever follows the last whole record.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.torn = false;
        Ok(())
    }

    fn replay(&mut self, bytes: &Bytes) {
        let mut at = 0;
        while let Some((entry, size)) = parse(bytes, at) {
            self.note(&entry, bytes.slice(at..at + size));
            at += size;
        }
        if at < bytes.len() {
            tracing::warn!(kept = at, torn = bytes.len() - at, "outbox had a torn end");
        }
        self.length = at as u64;
    }

    fn note(&mut self, entry: &Entry, record: Bytes) {
        let key = match entry {
            Entry::Report(report) => wire::parse_attempt(report.attempt.as_ref()),
            Entry::Answered(key) => Some(*key),
        };
        let Some(key) = key else { return };
        if let Some((_, old)) = self.live.remove(&key) {
            self.live_bytes -= old.len() as u64;
        }
        if matches!(entry, Entry::Report(_)) {
            self.live_bytes += record.len() as u64;
            self.arrivals += 1;
            self.live.insert(key, (self.arrivals, record));
        }
    }

    fn live_in_order(&self) -> Vec<Bytes> {
        let mut live: Vec<&(u64, Bytes)> = self.live.values().collect();
        live.sort_by_key(|(arrival, _)| *arrival);
        live.into_iter().map(|(_, record)| record.clone()).collect()
    }

    fn pending(&self) -> Vec<Report> {
        let reports = self.live_in_order().into_iter().filter_map(|record| match parse(&record, 0) {
            Some((Entry::Report(report), _)) => Some(report),
            _ => None,
        });
        reports.collect()
    }

    /// Replaces the file by one that holds only what is pending.
    fn rewrite(&mut self) -> io::Result<()> {
        let bytes = self.live_in_order().concat();
        self.file = files::exchange(&self.path, &bytes)?;
        self.length = bytes.len() as u64;
        files::sync_parent(&self.path)
    }
}

fn record(entry: &Entry) -> Bytes {
    let (kind, body) = match entry {
        Entry::Report(report) => (KIND_REPORT, report.encode_to_vec()),
        Entry::Answered((job, attempt)) => (KIND_ANSWERED, wire::attempt_ref(*job, *attempt).encode_to_vec()),
    };
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut record = Vec::with_capacity(HEADER + 1 + body.len());
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(&check(kind, &body));
    record.push(kind);
    record.extend_from_slice(&body);
    Bytes::from(record)
}

/// The record at `at` and its size; `None` at the end and at damage.
fn parse(bytes: &Bytes, at: usize) -> Option<(Entry, usize)> {
    let header = bytes.get(at..at + HEADER)?;
    let (length, sum) = header.split_at(4);
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    if length > BODY_MAX {
        return None;
    }
    let start = at + HEADER + 1;
    let kind = *bytes.get(at + HEADER)?;
    let body = bytes.get(start..start + length)?;
    if check(kind, body) != sum {
        return None;
    }
    let body = bytes.slice(start..start + length);
    let entry = match kind {
        KIND_REPORT => Entry::Report(wire::decode(body)?),
        KIND_ANSWERED => Entry::Answered(wire::parse_attempt(Some(&wire::decode::<AttemptRef>(body)?))?),
        _ => return None,
    };
    Some((entry, HEADER + 1 + length))
}

fn check(kind: u8, body: &[u8]) -> [u8; 8] {
    let digest = Sha256::new().chain_update([kind]).chain_update(body).finalize();
    let mut sum = [0; 8];
    sum.copy_from_slice(&digest[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JobId;
    use crate::wire::proto::mesh::v1::{Output, report};

    fn report(job: u8, bytes: usize) -> Entry {
        let output = Output { inline: Bytes::from(vec![7; bytes]), ..Output::default() };
        let attempt = Some(wire::attempt_ref(JobId([job; 16]), 1));
        Entry::Report(Report { attempt, outcome: Some(report::Outcome::Output(output)) })
    }

    fn answered(job: u8) -> Entry {
        Entry::Answered((JobId([job; 16]), 1))
    }

    #[test]
    fn what_follows_a_failed_rewrite_and_a_good_one_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut log, _) = Log::open(&path).unwrap();
        let obstacle = files::temporary_name(&path);
        std::fs::create_dir(&obstacle).unwrap();
        for job in 1..=6 {
            log.append(&[report(job, 1 << 20), answered(job)], true).unwrap();
        }
        log.append(&[report(7, 10)], true).unwrap();
        let reopened = |path: &Path| {
            std::fs::copy(path, directory.path().join("copy")).unwrap();
            Log::open(&directory.path().join("copy")).unwrap().1.len()
        };
        assert_eq!(reopened(&path), 1);
        assert!(std::fs::metadata(&path).unwrap().len() > REWRITE_MIN, "it could not be rewritten");

        std::fs::remove_dir(&obstacle).unwrap();
        for job in 11..=16 {
            log.append(&[report(job, 1 << 20), answered(job)], true).unwrap();
        }
        log.append(&[report(17, 10)], true).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < REWRITE_MIN, "it was rewritten");
        assert_eq!(reopened(&path), 2);
    }
}
