//! Frames on their way out and in.
//!
//! What is read is believed only as far as it is checked: nothing here allocates
//! beyond what really arrives plus one frame.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{Error, Head, MAGIC, Section, VERSION, damaged};
use crate::domain::cow::Map;

/// A frame is closed when it has this many bytes.
const FRAME_TARGET: usize = 64 << 10;

/// No frame is longer: one item of the largest kind, and what the frame held before it.
const FRAME_MAX: usize = 24 << 20;

pub(super) struct Writer<'a, W> {
    out: &'a mut W,
    hash: Sha256,
    frame: Vec<u8>,
}

impl<'a, W: Write> Writer<'a, W> {
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, hash: Sha256::new(), frame: Vec::new() }
    }

    pub(super) fn section<T: Serialize>(
        &mut self,
        section: Section,
        items: impl Iterator<Item = T>,
    ) -> Result<(), Error> {
        for item in items {
            bincode::serde::encode_into_std_write(item, &mut self.frame, bincode::config::standard())
                .map_err(|error| io::Error::other(error.to_string()))?;
            if self.frame.len() >= FRAME_TARGET {
                self.close(section)?;
            }
        }
        if self.frame.is_empty() { Ok(()) } else { self.close(section) }
    }

    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.frame = self.hash.clone().finalize().to_vec();
        self.close(Section::End)
    }

    /// Writes the frame and starts the next.
    fn close(&mut self, section: Section) -> Result<(), Error> {
        let mut frame = std::mem::take(&mut self.frame);
        let length = u32::try_from(frame.len()).map_err(|_| io::Error::other("frame is too long"))?;
        self.put(&[section as u8])?;
        self.put(&length.to_be_bytes())?;
        self.put(&frame)?;
        frame.clear();
        self.frame = frame;
        Ok(())
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        Ok(self.out.write_all(bytes)?)
    }
}

pub(super) struct Reader<'a, R> {
    input: &'a mut R,
    hash: Sha256,
    frame: Vec<u8>,
}

impl<'a, R: Read> Reader<'a, R> {
    pub(super) fn new(input: &'a mut R) -> Self {
        Self { input, hash: Sha256::new(), frame: Vec::new() }
    }

    /// The layout of what follows.
    pub(super) fn preamble(&mut self) -> Result<u32, Error> {
        if self.take::<8>()? != MAGIC {
            return Err(damaged("it does not begin like one"));
        }
        match u32::from_be_bytes(self.take()?) {
            VERSION => Ok(VERSION),
            #[cfg(any(test, debug_assertions))]
            super::TRIAL_VERSION => Ok(super::TRIAL_VERSION),
            found => Err(Error::Version { found, known: VERSION }),
        }
    }

    pub(super) fn head(&mut self) -> Result<Head, Error> {
        self.next(Section::Head)?;
        let (head, used) = decode(&self.frame)?;
        if used == self.frame.len() { Ok(head) } else { Err(damaged("head frame is too long")) }
    }

    /// Reads `count` items of a section; their keys must ascend.
    pub(super) fn map<T: DeserializeOwned, K: Ord + Clone, V: Clone>(
        &mut self,
        section: Section,
        count: u64,
        entry: impl Fn(T) -> (K, V),
    ) -> Result<Map<K, V>, Error> {
        let mut map = Map::default();
        let mut last = None;
        let mut left = count;
        while left > 0 {
            self.next(section)?;
            let mut at = 0;
            while at < self.frame.len() {
                let (item, used) = decode(self.frame.get(at..).unwrap_or_default())?;
                at += used;
                let (key, value) = entry(item);
                if used == 0 || left == 0 || last.as_ref().is_some_and(|last| *last >= key) {
                    return Err(damaged(format!("items of section {section:?} are out of order or too many")));
                }
                left -= 1;
                last = Some(key.clone());
                map.insert(key, value);
            }
        }
        Ok(map)
    }

    pub(super) fn end(&mut self) -> Result<(), Error> {
        let want = self.hash.clone().finalize();
        self.next(Section::End)?;
        if *self.frame == *want { Ok(()) } else { Err(damaged("its checksum is wrong")) }
    }

    /// Reads the next frame, which must be of `section`.
    fn next(&mut self, section: Section) -> Result<(), Error> {
        let [found] = self.take()?;
        if found != section as u8 {
            return Err(damaged(format!("section {section:?} is due, found {found}")));
        }
        let length = u32::from_be_bytes(self.take()?);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size == 0 || size > FRAME_MAX {
            return Err(damaged(format!("a frame of {length} bytes")));
        }
        self.frame.clear();
        // Grows with what arrives, not with what was announced.
        let read = self.input.by_ref().take(u64::from(length)).read_to_end(&mut self.frame)?;
        if read < size {
            return Err(damaged("it ends early"));
        }
        self.hash.update(&self.frame);
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends early"),
            _ => Error::Io(error),
        })?;
        self.hash.update(bytes);
        Ok(bytes)
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), Error> {
    let config = bincode::config::standard().with_limit::<FRAME_MAX>();
    bincode::serde::decode_from_slice(bytes, config).map_err(|error| damaged(error.to_string()))
}
