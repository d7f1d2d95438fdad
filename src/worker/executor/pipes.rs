//! What goes through a command's pipes, bounded.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::process::ChildStdin;

/// Bytes of standard error kept for the report: its end.
pub(super) const STDERR_TAIL: usize = 2 * 1024;

/// Tells whether bytes that were read are still being dealt with: nobody waits for more of them then.
pub(super) struct Watched<'a, R> {
    pub source: R,
    pub busy: &'a AtomicBool,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<'_, R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        self.busy.store(false, Ordering::Relaxed);
        let read = ready!(Pin::new(&mut self.source).poll_read(context, into));
        self.busy.store(read.is_ok() && into.filled().len() > before, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

/// Writes the payload. A command that does not read all of it is within its rights.
pub(super) async fn feed(stdin: Option<ChildStdin>, input: &Bytes) {
    if let Some(mut stdin) = stdin
        && let Err(error) = stdin.write_all(input).await
    {
        tracing::debug!(%error, "command did not read all of its input");
    }
}

/// Reads to the end; `None` if that is more than `limit` bytes away.
pub(super) async fn read_bounded(source: impl AsyncRead + Unpin, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(limit.saturating_add(1)).read_to_end(&mut bytes).await?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Reads to the end into `tail`, keeping the last [`STDERR_TAIL`] bytes.
pub(super) async fn read_tail(mut source: impl AsyncRead + Unpin, tail: &mut Vec<u8>) {
    let mut chunk = [0; 4_096];
    while let Ok(size @ 1..) = source.read(&mut chunk).await {
        tail.extend_from_slice(&chunk[..size]);
        let surplus = tail.len().saturating_sub(STDERR_TAIL);
        tail.drain(..surplus);
    }
}

/// The end of standard error as text.
pub(super) fn tail_text(tail: &[u8]) -> String {
    String::from_utf8_lossy(tail).trim_end().to_owned()
}
