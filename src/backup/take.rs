//! Writing a backup of a frozen view.
//!
//! All of it is blocking work for a thread of its own. The state is compressed as
//! fast as the pace allows, chunk by chunk; a reader that does not take what was
//! written is given up, and the view with it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::file::{Codec, Writer, Written};
use super::header::Header;
use super::{ARCHIVE, HEADER, STATE};
use crate::clock;
use crate::consensus::SegmentFile;
use crate::domain::{State, snapshot};

/// No backup is longer on its way: the view it holds costs memory as the state goes on.
pub const LONGEST: Duration = Duration::from_secs(1_800);

/// Time for a reader to take one part.
const STALL: Duration = Duration::from_secs(20);

/// Bytes of one part on its way to a reader.
const PART: usize = 64 << 10;

/// Bytes of state after which the pace is looked at.
const LOOK: u64 = 256 << 10;

/// How fast, how long, and until when.
pub struct Pace {
    pub bytes_per_sec: u64,
    /// For all of it.
    pub longest: Duration,
    pub stop: CancellationToken,
}

impl Pace {
    pub fn new(bytes_per_sec: u64, stop: CancellationToken) -> Self {
        Self { bytes_per_sec, longest: LONGEST, stop }
    }
}

/// Writes a whole backup of `state`, with the files of its `segments`. Blocking.
///
/// # Errors
///
/// Those of `out`; a segment is damaged on this node; `TimedOut` when it takes too long; `Interrupted` never: a node
/// that stops gives `ConnectionAborted`.
pub fn write<W: Write>(
    state: &State,
    header: &Header,
    segments: &[SegmentFile],
    pace: &Pace,
    out: W,
) -> io::Result<(W, Written)> {
    let begun = clock::instant();
    let until = begun + pace.longest;
    let mut writer = Writer::new(out)?;
    let text = serde_json::to_vec_pretty(header)?;
    writer.section(HEADER, Codec::Stored, |out| out.write_all(&text))?;
    writer.section(STATE, Codec::Deflate, |out| {
        let mut paced = Paced { out, pace, until, begun, bytes: 0, looked: 0 };
        state.write_to(&mut paced).map_err(|error| match error {
            snapshot::Error::Io(error) => error,
            other => io::Error::other(other),
        })
    })?;
    if !segments.is_empty() {
        writer.section(ARCHIVE, Codec::Deflate, |out| {
            let mut paced = Paced { out, pace, until, begun: clock::instant(), bytes: 0, looked: 0 };
            paced.look()?;
            segments.iter().try_for_each(|segment| segment.copy(&mut paced))
        })?;
    }
    writer.finish()
}

/// Writes a backup into a channel, as whoever listens takes it. Blocking.
pub fn send(
    state: &Arc<State>,
    header: &Header,
    segments: &[SegmentFile],
    pace: &Pace,
    out: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
) {
    let outlet = Outlet { out: out.clone(), part: Vec::with_capacity(PART), runtime };
    let begun = clock::instant();
    match write(state, header, segments, pace, outlet) {
        Ok((_, written)) => {
            let took_ms = begun.elapsed().as_millis();
            tracing::info!(index = header.index, bytes = written.bytes, took_ms, "backup sent");
        }
        Err(error) => {
            tracing::info!(index = header.index, %error, "backup not sent to its end");
            // The answer breaks off, so that nobody takes it for whole. If there is no room, dropping the channel
            // leaves a file without its end, which is as good.
            let _ = out.try_send(Err(error));
        }
    }
}

struct Paced<'a> {
    out: &'a mut dyn Write,
    pace: &'a Pace,
    /// When all of the backup must be written.
    until: Instant,
    /// When this section was begun.
    begun: Instant,
    bytes: u64,
    looked: u64,
}

impl Paced<'_> {
    fn look(&mut self) -> io::Result<()> {
        self.looked = self.bytes;
        if self.pace.stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the node is stopping"));
        }
        if clock::instant() > self.until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the backup took too long"));
        }
        let due_ms = self.bytes.saturating_mul(1_000) / self.pace.bytes_per_sec.max(1);
        std::thread::sleep(
            Duration::from_millis(due_ms).saturating_sub(self.begun.elapsed()).min(Duration::from_secs(1)),
        );
        Ok(())
    }
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        if self.bytes - self.looked >= LOOK {
            self.look()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The writing end of a channel.
struct Outlet {
    out: mpsc::Sender<io::Result<Bytes>>,
    part: Vec<u8>,
    runtime: Handle,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() == PART {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = Bytes::from(std::mem::replace(&mut self.part, Vec::with_capacity(PART)));
        let sent = self.runtime.block_on(async { tokio::time::timeout(STALL, self.out.send(Ok(part))).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader went away")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")),
        }
    }
}
