//! `cluster backup` and `cluster inspect`: a file with the whole state, taken and checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::client::Client;
use super::failure::{Failure, Kind};
use super::{Remote, output};
use crate::backup::read::{Backup, read};
use crate::backup::{Error, file};
use crate::clock;
use crate::submission::text::time;

/// Without a byte for so long, the backup is given up.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct TakeArgs {
    /// Where to; the file has this name only when it is whole, checked and durable
    file: PathBuf,
    /// stale: the node's own state; linearizable: with everything committed before
    #[arg(long, value_name = "HOW", default_value = "linearizable", value_parser = ["stale", "linearizable"])]
    consistency: String,
}

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    file: PathBuf,
}

pub async fn take(args: &TakeArgs, remote: &Remote) -> Result<(), Failure> {
    let client = remote.client()?;
    let name = args.file.file_name().ok_or_else(|| Failure::usage("the path does not end in a file's name"))?;
    // Beside it: a rename must not cross disks.
    let part = args.file.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), clock::uuid()));
    let taken = fetch(&client, &args.consistency, &part).await.and_then(|()| {
        let backup = open(&part)?;
        let cannot = |error: std::io::Error| cannot("write", &args.file, &error);
        std::fs::rename(&part, &args.file).map_err(cannot)?;
        let parent = args.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(cannot)?;
        Ok(backup)
    });
    if taken.is_err() {
        // Perhaps it was never made.
        let _ = std::fs::remove_file(&part);
    }
    show(&taken?, remote)
}

async fn fetch(client: &Client, consistency: &str, part: &Path) -> Result<(), Failure> {
    let mut response = client.open(&format!("/cluster/backup?consistency={consistency}"), &[]).await?;
    let mut file = tokio::fs::File::create_new(part).await.map_err(|error| cannot("write", part, &error))?;
    let bar = output::progress(0, "taking the backup");
    let mut bytes = 0u64;
    let broken = |reason: String| {
        Failure::new(Kind::Unreachable, format!("the backup broke off: {reason}"))
            .hint("the node's log says why; try again, or at another node")
    };
    loop {
        match tokio::time::timeout(IDLE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                file.write_all(&chunk).await.map_err(|error| cannot("write", part, &error))?;
                bytes += chunk.len() as u64;
                bar.set_message(format!("taking the backup: {:.1} MiB", bytes as f64 / f64::from(1 << 20)));
            }
            Ok(Ok(None)) => break,
            Ok(Err(_)) => return Err(broken(format!("the connection was lost after {bytes} bytes"))),
            Err(_) => return Err(broken(format!("nothing came for {} s", IDLE.as_secs()))),
        }
    }
    bar.finish_and_clear();
    file.sync_all().await.map_err(|error| cannot("write", part, &error))
}

pub fn inspect(args: &InspectArgs, remote: &Remote) -> Result<(), Failure> {
    let backup = open(&args.file)?;
    show(&backup, remote)?;
    // It was shown; what can not be restored is a failure all the same.
    backup.restorable().map_err(|error| refused(&args.file, &error))
}

/// Reads a backup; what is wrong with it decides on the exit code.
pub(super) fn open(path: &Path) -> Result<Backup, Failure> {
    read(path).map_err(|error| refused(path, &error))
}

pub(super) fn refused(path: &Path, error: &Error) -> Failure {
    let message = format!("{}: {error}", path.display());
    match error {
        Error::Io(error) => cannot("read", path, error),
        Error::CutShort(_) | Error::Damaged(_) => {
            Failure::new(Kind::Untrue, message).hint("use another backup; nothing of this one is used")
        }
        Error::Foreign | Error::Format { .. } | Error::StateFormat { .. } | Error::Section(_) => {
            Failure::new(Kind::Refused, message)
        }
    }
}

pub(super) fn cannot(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Failed, format!("{action} {}: {error}", path.display()))
}

fn show(backup: &Backup, remote: &Remote) -> Result<(), Failure> {
    let told = told(backup);
    if remote.json { output::json(&told) } else { output::thing(&told) }
}

fn told(backup: &Backup) -> Value {
    let header = &backup.header;
    let section = |section: &file::Section| {
        json!({
            "name": section.name,
            "codec": section.codec.as_str(),
            "bytes": section.packed,
            "raw_bytes": section.raw,
            "raw_sha256": hex::encode(section.sha256.0),
        })
    };
    let sections: Vec<Value> = backup.written.sections.iter().map(section).collect();
    let journal = backup.state.journal();
    let waiting = journal
        .cursors()
        .map(|(sink, cursor)| (crate::backup::header::name(sink).to_owned(), json!(journal.waiting_after(cursor))));
    json!({
        "format": file::FORMAT,
        "state_format": header.state_format,
        "software": header.software,
        "network": header.network,
        "node_id": header.node_id,
        "index": header.index,
        "term": header.term,
        "at": time(crate::domain::Timestamp(header.at_ms)),
        "taken_at": time(crate::domain::Timestamp(header.taken_at_ms)),
        "state_hash": header.state_hash,
        "jobs": header.jobs,
        "workers": header.workers,
        "journal_seq": header.journal_seq,
        "cursors": header.cursors,
        "undelivered": waiting.collect::<serde_json::Map<_, _>>(),
        "chain_epoch": header.chain_epoch,
        "bytes": backup.written.bytes,
        "sha256": hex::encode(backup.written.sha256.0),
        "members": header.members,
        "sections": sections,
    })
}
