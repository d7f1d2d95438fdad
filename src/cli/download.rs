//! `job result`: the bytes of an output, compared with its digest.
//!
//! A large output comes from the worker through whichever node answers. What
//! breaks off goes on where it stopped, at another node if need be. The file
//! gets its name only when all of it has the digest that the worker signed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::client::Client;
use super::failure::{Failure, Kind};
use super::{Remote, job, output};
use crate::clock;

/// Without a byte for so long, the download goes on elsewhere.
const IDLE: Duration = Duration::from_secs(30);

/// Downloads in a row that brought nothing.
const FRUITLESS_MAX: u32 = 3;

pub async fn result(client: &Client, id: &str, to: Option<PathBuf>, remote: &Remote) -> Result<(), Failure> {
    let answer = client.call(&job::fresh(&format!("{}/result", job::job_path(id)))).await?;
    if remote.json && to.is_none() {
        return output::json(&answer.body);
    }
    let wanted = Wanted::of(id, &answer.body)?;
    match &to {
        Some(path) => wanted.save(client, path).await?,
        None => {
            let mut out = tokio::io::stdout();
            wanted.copy(client, &mut out).await?;
        }
    }
    if remote.json { output::json(&answer.body) } else { Ok(()) }
}

/// An output, and what it must be.
struct Wanted {
    path: String,
    sha256: String,
    /// The bytes, if the result brought them.
    inline: Option<Vec<u8>>,
    size: u64,
}

impl Wanted {
    fn of(id: &str, result: &Value) -> Result<Self, Failure> {
        let nonsense = || Failure::new(Kind::Failed, "the node's answer has neither an output nor a reference to one");
        let sha256 = result["output_sha256"].as_str().ok_or_else(nonsense)?.to_owned();
        let path = format!("{}/output", job::job_path(id));
        if let Some(encoded) = result["output"].as_str() {
            let bytes = BASE64.decode(encoded).map_err(|error| Failure::because("decode output", &error))?;
            return Ok(Self { path, sha256, size: bytes.len() as u64, inline: Some(bytes) });
        }
        let size = result["output_ref"]["size"].as_u64().ok_or_else(nonsense)?;
        Ok(Self { path, sha256, inline: None, size })
    }

    /// Writes it beside `path`, and gives it that name when it is whole.
    async fn save(&self, client: &Client, path: &Path) -> Result<(), Failure> {
        let part = beside(path)?;
        let cannot = |error: &std::io::Error| Failure::new(Kind::Failed, format!("write {}: {error}", path.display()));
        let written = async {
            let mut file = tokio::fs::File::create_new(&part).await.map_err(|error| cannot(&error))?;
            self.copy(client, &mut file).await?;
            file.sync_all().await.map_err(|error| cannot(&error))?;
            tokio::fs::rename(&part, path).await.map_err(|error| cannot(&error))
        };
        let written = written.await;
        if written.is_err() {
            // Perhaps it was never made.
            let _ = tokio::fs::remove_file(&part).await;
        }
        written
    }

    /// Copies it, and says at the end whether it was right.
    async fn copy(&self, client: &Client, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), Failure> {
        let mut sink = Sink { to, hash: Sha256::new(), written: 0, size: self.size };
        match &self.inline {
            Some(bytes) => sink.write(bytes).await?,
            None => self.fetch(client, &mut sink).await?,
        }
        sink.to.flush().await.map_err(|error| cannot_write(&error))?;
        let found = format!("0x{}", hex::encode(sink.hash.finalize()));
        if found == self.sha256 {
            return Ok(());
        }
        let message = format!("the bytes that came have the digest {found}, the worker signed {}", self.sha256);
        Err(Failure::new(Kind::Failed, message).hint("do not use them; try another node, or submit the job again"))
    }

    async fn fetch<W: AsyncWrite + Unpin>(&self, client: &Client, sink: &mut Sink<'_, W>) -> Result<(), Failure> {
        let bar = output::progress(self.size, "fetching");
        let mut fruitless = 0;
        while sink.written < self.size {
            let before = sink.written;
            let broken = self.fetch_on(client, sink, &bar).await?;
            fruitless = if sink.written > before { 0 } else { fruitless + 1 };
            if let Some(reason) = broken.filter(|_| fruitless >= FRUITLESS_MAX) {
                bar.finish_and_clear();
                let message = format!("the output broke off after {} of {} bytes: {reason}", sink.written, self.size);
                return Err(Failure::new(Kind::Unreachable, message)
                    .hint("a node breaks off what does not have the signed digest; its log says why"));
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Goes on where it stopped, with one answer of one node. Says why it broke off, if it did.
    async fn fetch_on<W: AsyncWrite + Unpin>(
        &self,
        client: &Client,
        sink: &mut Sink<'_, W>,
        bar: &indicatif::ProgressBar,
    ) -> Result<Option<String>, Failure> {
        let range = format!("bytes={}-", sink.written);
        let from_start = sink.written == 0;
        let headers = [("Range", range.as_str())];
        let mut response = client.open(&self.path, if from_start { &[] } else { &headers }).await?;
        if !from_start && response.status().as_u16() != 206 {
            return Err(Failure::new(Kind::Failed, "the node does not go on where the output broke off"));
        }
        loop {
            let reason = match tokio::time::timeout(IDLE, response.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    bar.inc(bytes.len() as u64);
                    sink.write(&bytes).await?;
                    continue;
                }
                Ok(Ok(None)) if sink.written == self.size => return Ok(None),
                Ok(Ok(None)) => "the answer was too short".to_owned(),
                Ok(Err(_)) => "the connection was lost".to_owned(),
                Err(_) => format!("nothing came for {} s", IDLE.as_secs()),
            };
            client.pass_over();
            return Ok(Some(reason));
        }
    }
}

/// Where the bytes go, and what they were.
struct Sink<'a, W> {
    to: &'a mut W,
    hash: Sha256,
    written: u64,
    size: u64,
}

impl<W: AsyncWrite + Unpin> Sink<'_, W> {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.written + bytes.len() as u64 > self.size {
            return Err(Failure::new(Kind::Failed, format!("more than {} bytes came", self.size)));
        }
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        self.to.write_all(bytes).await.map_err(|error| cannot_write(&error))
    }
}

fn cannot_write(error: &std::io::Error) -> Failure {
    let silent = error.kind() == std::io::ErrorKind::BrokenPipe;
    Failure { silent, ..Failure::new(Kind::Failed, format!("write output: {error}")) }
}

/// A name nobody has in the directory of `path`: a rename must not cross disks.
fn beside(path: &Path) -> Result<PathBuf, Failure> {
    let name = path.file_name().ok_or_else(|| Failure::usage(format!("{} is not a file's name", path.display())))?;
    Ok(path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), clock::uuid())))
}
