//! The format of a backup file, as bytes.
//!
//! ```text
//! magic "ciro-bak" · format u32 · section* · end
//! section = 'S' · length of name u8 · name · codec u8 · chunk* · 0 u32 · raw length u64 · SHA-256 of the raw bytes
//! chunk   = length u32 · bytes
//! end     = 'E' · number of sections u32 · SHA-256 of everything before it
//! ```
//!
//! Numbers are big-endian. Sections have names, so that a later build can add
//! some; a reader can pass over what it does not know. Lengths come behind the
//! bytes, so that a file can be written as a stream. Files of every format end
//! with the SHA-256 of all before it.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Take, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::domain::Digest;

pub const MAGIC: [u8; 8] = *b"ciro-bak";
/// Grows when an older build could not read the file.
pub const FORMAT: u32 = 1;

const SECTION: u8 = b'S';
const END: u8 = b'E';
const HASH: u64 = 32;

/// A chunk is closed when it has this many bytes.
const CHUNK: usize = 64 << 10;
/// No chunk is longer.
const CHUNK_MAX: u32 = 1 << 20;
const NAME_MAX: usize = 200;
/// Sections of one file: one for each archive of old jobs, some day.
const SECTIONS_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Stored = 0,
    Deflate = 1,
}

impl Codec {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Deflate => "deflate",
        }
    }
}

/// A section that was written or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub codec: Codec,
    /// Where its chunks begin.
    pub at: u64,
    /// Bytes before and after they were compressed.
    pub raw: u64,
    pub packed: u64,
    /// Of the bytes before they were compressed.
    pub sha256: Digest,
}

/// A whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// Of everything before the last 32 bytes, which are this.
    pub sha256: Digest,
    pub sections: Vec<Section>,
}

/// Counts and hashes what passes.
struct Tally<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a file, section by section.
pub struct Writer<W: Write> {
    out: Tally<W>,
    sections: Vec<Section>,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> io::Result<Self> {
        let mut out = Tally { out, hash: Sha256::new(), bytes: 0 };
        out.write_all(&MAGIC)?;
        out.write_all(&FORMAT.to_be_bytes())?;
        Ok(Self { out, sections: Vec::new() })
    }

    /// Writes one section: all that `fill` writes.
    pub fn section(
        &mut self,
        name: &str,
        codec: Codec,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let length = u8::try_from(name.len()).ok().filter(|length| usize::from(*length) <= NAME_MAX);
        self.out.write_all(&[SECTION, length.ok_or_else(|| io::Error::other("the section's name is too long"))?])?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[codec as u8])?;
        let at = self.out.bytes;
        let chunks = Chunks { out: &mut self.out, chunk: Vec::with_capacity(CHUNK), bytes: 0 };
        let (raw, sha256, mut chunks) = match codec {
            Codec::Stored => {
                let mut raw = Tally { out: chunks, hash: Sha256::new(), bytes: 0 };
                fill(&mut raw)?;
                (raw.bytes, raw.hash, raw.out)
            }
            Codec::Deflate => {
                let packer = DeflateEncoder::new(chunks, Compression::fast());
                let mut raw = Tally { out: packer, hash: Sha256::new(), bytes: 0 };
                fill(&mut raw)?;
                (raw.bytes, raw.hash, raw.out.finish()?)
            }
        };
        chunks.close()?;
        let packed = chunks.bytes;
        let sha256 = Digest(sha256.finalize().into());
        self.out.write_all(&0u32.to_be_bytes())?;
        self.out.write_all(&raw.to_be_bytes())?;
        self.out.write_all(&sha256.0)?;
        self.sections.push(Section { name: name.to_owned(), codec, at, raw, packed, sha256 });
        Ok(())
    }

    /// Ends the file; what it was written to comes back.
    pub fn finish(mut self) -> io::Result<(W, Written)> {
        let count = u32::try_from(self.sections.len()).map_err(io::Error::other)?;
        self.out.write_all(&[END])?;
        self.out.write_all(&count.to_be_bytes())?;
        let sha256 = Digest(self.out.hash.clone().finalize().into());
        self.out.write_all(&sha256.0)?;
        self.out.flush()?;
        Ok((self.out.out, Written { bytes: self.out.bytes, sha256, sections: self.sections }))
    }
}

/// Puts bytes into chunks.
struct Chunks<'a, W: Write> {
    out: &'a mut Tally<W>,
    chunk: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Chunks<'_, W> {
    fn close(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.chunk.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&self.chunk)?;
        self.bytes += u64::from(length);
        self.chunk.clear();
        Ok(())
    }
}

impl<W: Write> Write for Chunks<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.close()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks the whole of a file, and says what is in it.
///
/// # Errors
///
/// [`Error::Foreign`], [`Error::CutShort`], [`Error::Damaged`] or [`Error::Format`]; else those of the reader.
pub fn check(file: &mut (impl Read + Seek)) -> Result<Written, Error> {
    let bytes = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut magic = Vec::new();
    Read::by_ref(file).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != MAGIC {
        return Err(if bytes > 0 && MAGIC.starts_with(&magic) { Error::CutShort(bytes) } else { Error::Foreign });
    }
    let found = digest(file, bytes)?;
    file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
    let walked = Walk { input: BufReader::with_capacity(256 << 10, file), at: MAGIC.len() as u64, bytes }.run();
    match (found, walked) {
        (Some((sha256, stored)), walked) if sha256 == stored => Ok(Written { bytes, sha256, sections: walked? }),
        (_, Err(Error::CutShort(at))) => Err(Error::CutShort(at)),
        (Some((sha256, stored)), _) => {
            let [sha256, stored] = [sha256, stored].map(|digest| hex::encode(digest.0));
            Err(Error::Damaged(format!("the SHA-256 of its bytes is {sha256}, and should be {stored}")))
        }
        (None, _) => Err(Error::CutShort(bytes)),
    }
}

/// The digest of all but the last bytes, and those.
fn digest(file: &mut (impl Read + Seek), bytes: u64) -> Result<Option<(Digest, Digest)>, Error> {
    let Some(body) = bytes.checked_sub(HASH) else { return Ok(None) };
    file.seek(SeekFrom::Start(0))?;
    let mut input = BufReader::with_capacity(256 << 10, file);
    let mut hash = Sha256::new();
    io::copy(&mut Read::by_ref(&mut input).take(body), &mut hash)?;
    let mut stored = [0; 32];
    input.read_exact(&mut stored)?;
    Ok(Some((Digest(hash.finalize().into()), Digest(stored))))
}

/// Goes from section to section without looking into them.
struct Walk<R> {
    input: R,
    at: u64,
    bytes: u64,
}

impl<R: Read + Seek> Walk<R> {
    fn run(mut self) -> Result<Vec<Section>, Error> {
        let found = u32::from_be_bytes(self.take()?);
        if found != FORMAT {
            return Err(Error::Format { found, known: FORMAT });
        }
        let mut sections: Vec<Section> = Vec::new();
        loop {
            match self.take()? {
                [SECTION] if sections.len() < SECTIONS_MAX => sections.push(self.section()?),
                [END] => break,
                [other] => return Err(damaged(format!("byte {} begins nothing: {other}", self.at))),
            }
        }
        let count = u32::from_be_bytes(self.take()?);
        if usize::try_from(count).ok() != Some(sections.len()) || self.bytes - self.at > HASH {
            return Err(damaged("it does not end where it should".to_owned()));
        }
        self.take::<32>()?;
        Ok(sections)
    }

    fn section(&mut self) -> Result<Section, Error> {
        let [length] = self.take()?;
        let mut name = vec![0; usize::from(length)];
        self.fill(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| damaged("a section's name is no text".to_owned()))?;
        let codec = match self.take()? {
            [0] => Codec::Stored,
            [1] => Codec::Deflate,
            [other] => return Err(damaged(format!("section {name} is packed in a way that is not known: {other}"))),
        };
        let (at, mut packed) = (self.at, 0);
        loop {
            let length = u32::from_be_bytes(self.take()?);
            if length == 0 {
                break;
            }
            if length > CHUNK_MAX {
                return Err(damaged(format!("a chunk of {length} bytes")));
            }
            if self.at + u64::from(length) > self.bytes {
                return Err(Error::CutShort(self.bytes));
            }
            self.input.seek_relative(i64::from(length))?;
            self.at += u64::from(length);
            packed += u64::from(length);
        }
        let raw = u64::from_be_bytes(self.take()?);
        Ok(Section { name, codec, at, raw, packed, sha256: Digest(self.take()?) })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::CutShort(self.bytes),
            _ => Error::Io(error),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn damaged(what: String) -> Error {
    Error::Damaged(what)
}

/// The raw bytes of a section of a file that was checked.
pub fn open<R: Read + Seek>(file: R, section: &Section) -> Result<Raw<R>, Error> {
    let mut input = BufReader::with_capacity(256 << 10, file);
    input.seek(SeekFrom::Start(section.at))?;
    let packed = Packed { chunk: input.take(0), ended: false };
    let bytes = match section.codec {
        Codec::Stored => Bytes::Stored(packed),
        Codec::Deflate => Bytes::Deflate(Box::new(DeflateDecoder::new(packed))),
    };
    Ok(Raw { bytes, hash: Sha256::new(), left: section.raw, section: section.clone() })
}

enum Bytes<R> {
    Stored(Packed<R>),
    Deflate(Box<DeflateDecoder<Packed<R>>>),
}

/// Reads a section, never more than it says it has.
pub struct Raw<R> {
    bytes: Bytes<R>,
    hash: Sha256,
    left: u64,
    section: Section,
}

impl<R: Read> Raw<R> {
    /// Compares what was read with what the section says of itself. All of it must have been read.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`].
    pub fn end(self) -> Result<(), Error> {
        let name = &self.section.name;
        if self.left > 0 {
            return Err(damaged(format!("section {name} has {} bytes more than were expected", self.left)));
        }
        if self.hash.finalize().as_slice() != self.section.sha256.0 {
            return Err(damaged(format!("section {name} is not what was written")));
        }
        Ok(())
    }
}

impl<R: Read> Read for Raw<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..most) else { return Ok(0) };
        let read = match &mut self.bytes {
            Bytes::Stored(packed) => packed.read(buffer)?,
            Bytes::Deflate(unpacked) => unpacked.read(buffer)?,
        };
        self.hash.update(&buffer[..read]);
        self.left -= read as u64;
        Ok(read)
    }
}

/// The bytes in a section's chunks.
struct Packed<R> {
    chunk: Take<BufReader<R>>,
    ended: bool,
}

impl<R: Read> Read for Packed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.limit() == 0 && !self.ended {
            let mut length = [0; 4];
            self.chunk.get_mut().read_exact(&mut length)?;
            let length = u32::from_be_bytes(length);
            self.ended = length == 0;
            self.chunk.set_limit(u64::from(length));
        }
        self.chunk.read(buffer)
    }
}
