//! Fetches inputs that are given by reference.
//!
//! A client names a URI, a digest and a size. The worker fetches the bytes
//! before the job runs, and runs it only with bytes of that digest and size.
//! They land on a [`Shelf`], which is a cache too: what came from the same URI
//! in this life of the worker and is still there is compared again and not
//! fetched. The digest alone gives nobody what came for another.
//!
//! A URI is a stranger's wish about where this machine connects to. So each
//! scheme is off until the operator turns it on; addresses that only a machine
//! in the operator's network reaches are refused, judged after the name was
//! resolved, for every redirect anew; files must lie below the operator's roots
//! after links are followed. Bytes, times and redirects are bounded.
//!
//! Failures say whose fault they are by their code: those that follow from the
//! reference (`input_not_found`, `input_refused`, `input_mismatch`,
//! `input_unreachable`, `input_forbidden`) do not count against the worker.

mod file;
mod http;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;
use tracing::{debug, info};

use super::desk::Cause;
use super::executor::{Ended, Failure, Reference, Work};
use super::shelf::{self, Draft, Pin, Shelf};
use crate::clock;
use crate::domain::Digest;
use crate::egress::Authority;

/// Origins remembered. What came from others is fetched again.
const ORIGINS_MAX: usize = 1_024;

/// Bytes of a fetched input of a type that needs it in memory, as a payload is.
pub const LOADED_MAX: u64 = 16 << 20;

const CHUNK: usize = 64 * 1024;

/// What the operator allows.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Some of [`super::freight::SCHEMES`].
    pub schemes: Vec<String>,
    /// Where `file:` references may point to: real paths.
    pub roots: Vec<PathBuf>,
    /// The same as the operator wrote them, perhaps with links: references may, too.
    pub roots_named: Vec<PathBuf>,
    /// Fetch from loopback, link-local and private addresses, too.
    pub allow_private: bool,
    /// Trusted beside the well-known ones.
    pub authorities: Vec<Authority>,
    pub max_bytes: u64,
    /// To connect.
    pub connect: Duration,
    /// Without a byte.
    pub idle: Duration,
    /// For all of it.
    pub total: Duration,
}

impl Policy {
    /// Whether a path reads as one below a root. Where it leads is seen once it was opened.
    fn names_a_root(&self, path: &Path) -> bool {
        let climbs = path.components().any(|part| part == Component::ParentDir);
        !climbs && self.roots.iter().chain(&self.roots_named).any(|root| path.starts_with(root))
    }

    fn allows(&self, url: &Url) -> Result<(), Failure> {
        if self.schemes.iter().any(|scheme| scheme == url.scheme()) {
            return Ok(());
        }
        Err(forbidden(format!("this worker does not fetch {} references", url.scheme())))
    }
}

#[derive(Debug)]
pub struct Inputs {
    policy: Policy,
    shelf: Shelf,
    http: reqwest::Client,
    /// What came from where, by the digest of the URI; oldest first.
    origins: Mutex<VecDeque<(Digest, Digest)>>,
}

impl Inputs {
    /// # Errors
    ///
    /// The HTTP client cannot be made.
    pub fn new(policy: Policy, shelf: Shelf) -> Result<Self, reqwest::Error> {
        let http = http::client(&policy).build()?;
        Ok(Self { policy, shelf, http, origins: Mutex::default() })
    }

    /// Fetches the input, if the work has a reference; until then it waits for `stop`, too.
    ///
    /// # Errors
    ///
    /// How the attempt has ended.
    pub async fn bring(&self, mut work: Work, stop: &mut oneshot::Receiver<Cause>) -> Result<Work, Ended> {
        let Some(reference) = work.input_uri.clone() else { return Ok(work) };
        let started = clock::instant();
        let limit = self.policy.total.min(work.timeout);
        let late = || unreachable(format!("not fetched within {} s", limit.as_secs_f32()));
        let fetch = async {
            let fetched = self.fetch(&reference, work.input_sha256);
            tokio::time::timeout(limit, fetched).await.unwrap_or_else(|_| Err(late()))
        };
        let pin = tokio::select! {
            pin = fetch => pin.map_err(Ended::Failed)?,
            Ok(cause) = stop => return Err(Ended::stopped(cause)),
        };
        let size = tokio::fs::metadata(pin.path()).await.map_or(reference.size, |about| about.len());
        info!(job = %work.key.0, bytes = size, took_ms = started.elapsed().as_millis(), "input is here");
        work.timeout = work.timeout.saturating_sub(started.elapsed());
        work.input_uri = Some(Reference { file: Some(Arc::new(pin)), size, ..reference });
        Ok(work)
    }

    async fn fetch(&self, reference: &Reference, wanted: Option<Digest>) -> Result<Pin, Failure> {
        let wanted = wanted.ok_or_else(|| Failure::permanent("input_refused", "the reference has no digest"))?;
        if reference.size > self.policy.max_bytes {
            let detail = format!("{} bytes, this worker fetches {}", reference.size, self.policy.max_bytes);
            return Err(Failure::retryable("input_too_large", detail));
        }
        let url = Url::parse(&reference.uri).map_err(|error| refused(format!("not a URI: {error}")))?;
        self.policy.allows(&url)?;
        let origin = (Digest::of(reference.uri.as_bytes()), wanted);
        let size = told_size(reference, wanted);
        if let Some(pin) = self.cached(origin, size).await {
            debug!(sha256 = %wanted, "input was here already");
            return Ok(pin);
        }
        let mut sink = Sink { draft: self.shelf.draft().await.map_err(trouble)?, size, most: self.policy.max_bytes };
        match url.scheme() {
            "file" => file::read(&self.policy, &url, &mut sink).await?,
            _ => http::read(&self.policy, &self.http, url, &mut sink).await?,
        }
        let pin = sink.keep(&self.shelf, &wanted).await?;
        self.note(origin);
        Ok(pin)
    }

    /// What came from there, if it still is here and what it should be.
    async fn cached(&self, origin: (Digest, Digest), size: Option<u64>) -> Option<Pin> {
        if !self.origins().contains(&origin) {
            return None;
        }
        let (_, wanted) = origin;
        let pin = self.shelf.pin(&wanted)?;
        let sized = size.is_none_or(|size| self.shelf.size(&wanted) == Some(size));
        if sized && digest_of(&pin).await.is_ok_and(|digest| digest == wanted) {
            return Some(pin);
        }
        drop(pin);
        self.shelf.discard(&wanted);
        None
    }

    fn note(&self, origin: (Digest, Digest)) {
        let mut origins = self.origins();
        origins.retain(|known| *known != origin);
        if origins.len() >= ORIGINS_MAX {
            origins.pop_front();
        }
        origins.push_back(origin);
    }

    fn origins(&self) -> MutexGuard<'_, VecDeque<(Digest, Digest)>> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses an input that [`load`] would not take, before it is fetched.
///
/// # Errors
///
/// It is too large.
pub fn check_loadable(reference: &Reference) -> Result<(), Failure> {
    check_size(reference.size)
}

fn check_size(size: u64) -> Result<(), Failure> {
    if size <= LOADED_MAX {
        return Ok(());
    }
    let detail = format!("{size} bytes, this type takes {LOADED_MAX} by reference");
    Err(Failure::retryable("input_too_large", detail))
}

/// How long an input is said to be; `None`: nobody said. A reference on chain has no size but 0, which only the empty
/// input has.
fn told_size(reference: &Reference, wanted: Digest) -> Option<u64> {
    (reference.size > 0 || wanted == Digest::of(b"")).then_some(reference.size)
}

/// All of a fetched input, for jobs that need it in memory.
///
/// # Errors
///
/// It cannot be read, or is too large although nobody had said so.
pub async fn load(pin: &Pin) -> Result<Bytes, Failure> {
    let ill = |error: std::io::Error| Failure::ill("workspace", format!("read input: {error}"));
    check_size(tokio::fs::metadata(pin.path()).await.map_err(ill)?.len())?;
    tokio::fs::read(pin.path()).await.map(Bytes::from).map_err(ill)
}

async fn digest_of(pin: &Pin) -> std::io::Result<Digest> {
    use sha2::Digest as _;
    let mut file = tokio::fs::File::open(pin.path()).await?;
    let (mut hash, mut chunk) = (sha2::Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk).await? {
            0 => return Ok(Digest(hash.finalize().into())),
            size => hash.update(&chunk[..size]),
        }
    }
}

/// Takes the bytes of an input, no more than there should be.
struct Sink {
    draft: Draft,
    /// `None`: nobody said.
    size: Option<u64>,
    /// What this worker fetches.
    most: u64,
}

impl Sink {
    /// Compares what a source says of its length before it is read.
    fn expect(&self, whose: &str, length: u64) -> Result<(), Failure> {
        match self.size {
            Some(size) if size != length => Err(mismatch(format!("{whose} has {length} bytes, it should be {size}"))),
            None if length > self.most => Err(self.too_large()),
            _ => Ok(()),
        }
    }

    fn too_large(&self) -> Failure {
        Failure::retryable("input_too_large", format!("this worker fetches {} bytes", self.most))
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let size = self.draft.size() + bytes.len() as u64;
        match self.size {
            Some(told) if size > told => return Err(mismatch(format!("more than {told} bytes came"))),
            None if size > self.most => return Err(self.too_large()),
            _ => {}
        }
        self.draft.write(bytes).await.map_err(trouble)
    }

    async fn keep(self, shelf: &Shelf, wanted: &Digest) -> Result<Pin, Failure> {
        let (size, digest) = (self.draft.size(), self.draft.digest());
        if let Some(told) = self.size.filter(|told| *told != size) {
            return Err(mismatch(format!("{size} bytes came, it should be {told}")));
        }
        if digest != *wanted {
            return Err(mismatch(format!("its digest is {digest}, it should be {wanted}")));
        }
        self.draft.keep().await.map_err(trouble)?;
        shelf.pin(wanted).ok_or_else(|| Failure::retryable("input_no_room", "it was evicted at once"))
    }
}

/// It is not where the client says. Nobody will find it there.
fn not_found(detail: impl Into<String>) -> Failure {
    Failure::permanent("input_not_found", detail)
}

/// Who has it does not give it away, or the reference makes no sense.
fn refused(detail: impl Into<String>) -> Failure {
    Failure::permanent("input_refused", detail)
}

/// What came is something else: what is there, or what arrived. Another worker may see better.
fn mismatch(detail: impl Into<String>) -> Failure {
    Failure::retryable("input_mismatch", detail)
}

/// Now, or from here.
fn unreachable(detail: impl Into<String>) -> Failure {
    Failure::retryable("input_unreachable", detail)
}

/// By this operator.
fn forbidden(detail: impl Into<String>) -> Failure {
    Failure::retryable("input_forbidden", detail)
}

fn trouble(error: shelf::Error) -> Failure {
    match error {
        shelf::Error::Full(_) => Failure::retryable("input_no_room", error.to_string()),
        shelf::Error::File(_) => Failure::ill("workspace", format!("store input: {error}")),
    }
}
