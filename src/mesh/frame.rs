//! How messages lie on a lane's stream.
//!
//! ```text
//! u32 BE length of body | u64 BE request id | u8 kind | body
//! ```
//!
//! The length is checked before anything is allocated, and memory grows with
//! what has arrived, not with what was promised.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const HEAD: usize = 13;

/// Memory set aside for a body before any of it has arrived, in bytes.
const FIRST_ALLOCATION: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request = 0,
    Answer = 1,
    /// Certainly not carried out; the body says why.
    Refusal = 2,
    /// Nobody will answer; it may have been carried out.
    Dropped = 3,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub len: usize,
    pub id: u64,
    pub kind: Kind,
}

/// The next frame's head, or `None` if the stream ended.
///
/// # Errors
///
/// `InvalidData` for a body over `limit` or an unknown kind: the stream cannot be used further.
pub(super) async fn read_head(reader: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Option<Head>> {
    let mut head = [0u8; HEAD];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [l0, l1, l2, l3, id @ .., kind] = head;
    let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if len > limit {
        return Err(invalid(format!("frame of {len} bytes is over the limit of {limit}")));
    }
    let kind = match kind {
        0 => Kind::Request,
        1 => Kind::Answer,
        2 => Kind::Refusal,
        3 => Kind::Dropped,
        other => return Err(invalid(format!("unknown kind of frame {other}"))),
    };
    Ok(Some(Head { len, id: u64::from_be_bytes(id), kind }))
}

/// The body of a frame whose head was read and checked.
pub(super) async fn read_body(reader: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<Bytes> {
    let mut body = Vec::with_capacity(len.min(FIRST_ALLOCATION));
    reader.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body.into())
}

/// Reads a body and forgets it.
pub(super) async fn skip_body(reader: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<()> {
    tokio::io::copy(&mut reader.take(len as u64), &mut tokio::io::sink()).await.map(drop)
}

/// Writes a frame into `writer`'s buffer. The caller has checked the body's length.
pub(super) async fn write(writer: &mut (impl AsyncWrite + Unpin), id: u64, kind: Kind, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len()).map_err(|_| invalid("body over 4 GiB".to_owned()))?;
    let mut head = [0u8; HEAD];
    head[..4].copy_from_slice(&len.to_be_bytes());
    head[4..12].copy_from_slice(&id.to_be_bytes());
    head[12] = kind as u8;
    writer.write_all(&head).await?;
    writer.write_all(body).await
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read() {
        let mut wire = Vec::new();
        write(&mut wire, 7, Kind::Answer, b"hello").await.unwrap();
        let mut reader = wire.as_slice();
        let head = read_head(&mut reader, 5).await.unwrap().unwrap();
        assert_eq!((head.len, head.id, head.kind), (5, 7, Kind::Answer));
        assert_eq!(&read_body(&mut reader, head.len).await.unwrap()[..], b"hello");
        assert!(read_head(&mut reader, 5).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_length_over_the_limit_or_an_unknown_kind_is_refused_by_the_head_alone() {
        let mut wire = Vec::new();
        write(&mut wire, 7, Kind::Request, b"hello").await.unwrap();
        let error = read_head(&mut wire.as_slice(), 4).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        wire[12] = 9;
        let error = read_head(&mut wire.as_slice(), 5).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_an_error() {
        let error = read_body(&mut b"hel".as_slice(), 5).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
