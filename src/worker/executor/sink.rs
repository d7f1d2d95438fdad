//! Where an output goes: into memory while it is small, onto the shelf beyond that.

use tokio::io::{AsyncRead, AsyncReadExt};

use super::pipes;
use super::{Ended, Failure};
use crate::worker::shelf::{self, Draft, Shelf};

const CHUNK: usize = 64 * 1024;

/// Where outputs go that are too large for the log.
#[derive(Clone, Debug)]
pub struct Keeping {
    pub shelf: Shelf,
    /// Bytes of an output that still go with its report.
    pub inline_max: u64,
}

impl Keeping {
    /// Puts the output of an attempt on the shelf if it is too large for its report.
    pub async fn settle(&self, ended: Ended) -> Ended {
        match ended {
            Ended::Output { bytes, exit_code } if bytes.len() as u64 > self.inline_max => {
                let shelved = async {
                    let mut draft = self.shelf.draft().await?;
                    draft.write(&bytes).await?;
                    draft.keep().await
                };
                kept(shelved.await, exit_code)
            }
            ended => ended,
        }
    }
}

/// What an attempt may say, and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sink<'a> {
    /// In bytes.
    pub max: u64,
    pub keeping: Option<&'a Keeping>,
}

/// What an attempt said.
#[derive(Debug)]
pub(super) enum Taken {
    Small(Vec<u8>),
    Large(Box<Draft>),
    /// More than it may.
    TooLarge,
    /// There is no place for it.
    NoPlace(shelf::Error),
    /// It could not be read to its end: a part of it is no output.
    Unread(std::io::Error),
}

impl Sink<'_> {
    /// Reads to the end, unless that is too far away.
    pub async fn take(&self, mut source: impl AsyncRead + Unpin) -> Taken {
        let Some(keeping) = self.keeping else {
            return match pipes::read_bounded(source, self.max).await {
                Ok(Some(bytes)) => Taken::Small(bytes),
                Ok(None) => Taken::TooLarge,
                Err(error) => Taken::Unread(error),
            };
        };
        let inline = self.max.min(keeping.inline_max);
        let mut head = Vec::new();
        if let Err(error) = (&mut source).take(inline.saturating_add(1)).read_to_end(&mut head).await {
            return Taken::Unread(error);
        }
        match head.len() as u64 {
            size if size <= inline => Taken::Small(head),
            size if size > self.max => Taken::TooLarge,
            _ => self.shelve(keeping, &head, source).await.unwrap_or_else(Taken::NoPlace),
        }
    }

    async fn shelve(
        &self,
        keeping: &Keeping,
        head: &[u8],
        mut source: impl AsyncRead + Unpin,
    ) -> Result<Taken, shelf::Error> {
        let mut draft = Box::new(keeping.shelf.draft().await?);
        draft.write(head).await?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match source.read(&mut chunk).await {
                Ok(0) => return Ok(Taken::Large(draft)),
                Ok(size) if draft.size() + size as u64 > self.max => return Ok(Taken::TooLarge),
                Ok(size) => draft.write(&chunk[..size]).await?,
                Err(error) => return Ok(Taken::Unread(error)),
            }
        }
    }

    pub fn too_large(&self) -> Failure {
        Failure::permanent("output_too_large", format!("more than {} bytes", self.max))
    }

    /// What a good end with this output is.
    pub async fn end(&self, taken: Taken) -> Ended {
        match taken {
            Taken::Small(bytes) => Ended::Output { bytes: bytes.into(), exit_code: 0 },
            Taken::Large(draft) => kept(draft.keep().await, 0),
            Taken::TooLarge => Ended::Failed(self.too_large()),
            Taken::NoPlace(error) => Ended::Failed(no_place(&error)),
            Taken::Unread(error) => Ended::Failed(Failure::ill("workspace", format!("read output: {error}"))),
        }
    }
}

fn kept(shelved: Result<(crate::domain::Digest, u64), shelf::Error>, exit_code: i32) -> Ended {
    match shelved {
        Ok((sha256, size)) => Ended::Kept { sha256, size, exit_code },
        Err(error) => Ended::Failed(no_place(&error)),
    }
}

fn no_place(error: &shelf::Error) -> Failure {
    match error {
        shelf::Error::Full(_) => Failure::retryable("output_no_room", error.to_string()),
        shelf::Error::File(_) => Failure::ill("output_no_room", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tokio::io::ReadBuf;

    use super::*;

    /// A disk that gives no more.
    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("broken")))
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_to_its_end_is_no_output() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path(), 1 << 20, Duration::from_secs(60)).unwrap();
        let keeping = Keeping { shelf, inline_max: 10 };
        for keeping in [None, Some(&keeping)] {
            for before in [&b""[..], b"a part", b"more than fits into a report"] {
                let sink = Sink { max: 1_000, keeping };
                let ended = sink.end(sink.take(before.chain(Broken)).await).await;
                assert_eq!(ended, Ended::Failed(Failure::ill("workspace", "read output: broken")));
            }
        }
    }
}
