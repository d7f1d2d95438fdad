//! Bytes that only our own binaries read: serde through bincode, bounded.
//!
//! Commands are encoded once, where they enter; from there to `apply` they
//! travel as bytes. That rests on one fact of the format, held by a test: a
//! sequence is its length followed by its elements, so encoded commands can be
//! joined into an encoded [`Record`] without decoding them.
//!
//! A record's first byte says how the rest is laid out, so that a build which
//! does not know a layout says so; see [`crate::domain::level`].

use std::fmt;
use std::io;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[cfg(any(test, debug_assertions))]
use crate::domain::level::TRIAL;
use crate::domain::{Command, Record, Timestamp};

/// Most that decoding one value may allocate, whatever its bytes claim.
const DECODE_MAX: usize = 64 << 20;

pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).map_err(io::Error::other)
}

/// Decodes a value that takes up all of `bytes`.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let config = bincode::config::standard().with_limit::<DECODE_MAX>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    if used == bytes.len() { Ok(value) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "bytes are left over")) }
}

/// Bytes that are copied, not walked one by one.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Blob(pub Bytes);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytewise;

        impl Visitor<'_> for Bytewise {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
        }

        deserializer.deserialize_byte_buf(Bytewise)
    }
}

/// Commands as bytes, one after the other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Encoded {
    pub count: u32,
    pub bytes: Blob,
}

impl Encoded {
    /// Decodes every command: what is not a command must not enter the log.
    pub fn decode(&self) -> io::Result<Vec<Command>> {
        let mut bytes = encode(&u64::from(self.count))?;
        bytes.extend_from_slice(&self.bytes.0);
        decode(&bytes)
    }
}

/// Layout of a record at the first feature level: time, commands.
const PLAIN: u8 = 1;

/// At the level for tests: time, a number, commands; and there is one command more.
#[cfg(any(test, debug_assertions))]
const MARKED: u8 = 2;

/// The encoded [`Record`] of these commands, in this order, in the layout of feature level `level`.
pub(super) fn record<'a>(
    level: u32,
    at: Timestamp,
    parts: impl Iterator<Item = &'a Encoded> + Clone,
) -> io::Result<Bytes> {
    let count: u64 = parts.clone().map(|part| u64::from(part.count)).sum();
    #[cfg(any(test, debug_assertions))]
    if level >= TRIAL {
        return marked(at, count, parts);
    }
    // Every level so far writes the same.
    let _ = level;
    let mut bytes = vec![PLAIN];
    bytes.extend(encode(&(at, count))?);
    bytes.reserve(parts.clone().map(|part| part.bytes.0.len()).sum());
    for part in parts {
        bytes.extend_from_slice(&part.bytes.0);
    }
    Ok(bytes.into())
}

#[cfg(any(test, debug_assertions))]
fn marked<'a>(at: Timestamp, count: u64, parts: impl Iterator<Item = &'a Encoded>) -> io::Result<Bytes> {
    let mut bytes = vec![MARKED];
    bytes.extend(encode(&(at, count, count + 1))?);
    for part in parts {
        bytes.extend_from_slice(&part.bytes.0);
    }
    bytes.extend(encode(&Command::Trial { add: count })?);
    Ok(bytes.into())
}

/// One log entry's data: an encoded [`Record`], decoded once, at `apply`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Proposal(pub Blob);

impl Proposal {
    /// # Errors
    ///
    /// `Unsupported` if a build that knows more than feature level `newest` wrote it, `InvalidData` if it is damaged.
    pub fn record(&self, newest: u32) -> io::Result<Record> {
        match self.0.0.split_first() {
            Some((&PLAIN, rest)) => decode(rest),
            #[cfg(any(test, debug_assertions))]
            Some((&MARKED, rest)) if newest >= TRIAL => {
                let (at, _, commands): (_, u64, _) = decode(rest)?;
                Ok(Record { at, commands })
            }
            Some((layout, _)) => {
                let what = format!("a log record has layout {layout}: it is of a newer build");
                Err(io::Error::new(io::ErrorKind::Unsupported, format!("{what}; {}", way_out(newest))))
            }
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "an empty log record")),
        }
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record of {} bytes", self.0.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What to do about a level that is too new.
pub(super) fn way_out(newest: u32) -> String {
    format!("this build knows feature levels up to {newest}: start the newer build on this data directory again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::level::FIRST;
    use crate::domain::{JobId, PeerId};

    fn commands() -> Vec<Command> {
        let drain = |n| Command::Drain { worker: PeerId([n; 32]) };
        let cancel = Command::Cancel { job: JobId([7; 16]), reason: "no longer needed".into() };
        (0..200).map(drain).chain([cancel]).collect()
    }

    fn encoded(commands: &[Command]) -> Encoded {
        let bytes = commands.iter().flat_map(|command| encode(command).unwrap()).collect::<Vec<_>>();
        Encoded { count: commands.len() as u32, bytes: Blob(bytes.into()) }
    }

    #[test]
    fn joined_commands_are_an_encoded_record() {
        let commands = commands();
        let parts = [encoded(&commands[..3]), encoded(&[]), encoded(&commands[3..])];
        let proposal = Proposal(Blob(record(FIRST, Timestamp(1_234_567), parts.iter()).unwrap()));

        assert_eq!(proposal.record(FIRST).unwrap(), Record { at: Timestamp(1_234_567), commands });
    }

    #[test]
    fn a_layout_of_a_newer_build_is_named_and_an_older_one_is_read() {
        let (at, parts) = (Timestamp(7), [encoded(&commands())]);
        let newer = Proposal(Blob(record(TRIAL, at, parts.iter()).unwrap()));
        let refused = newer.record(FIRST).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        assert!(refused.to_string().contains("start the newer build"), "{refused}");

        let read = newer.record(TRIAL).unwrap();
        let count = commands().len();
        assert_eq!((read.at, &read.commands[..count]), (at, &commands()[..]));
        assert_eq!(read.commands[count..], [Command::Trial { add: count as u64 }]);

        let older = Proposal(Blob(record(FIRST, at, parts.iter()).unwrap()));
        assert_eq!(older.record(TRIAL).unwrap(), Record { at, commands: commands() });
        for unknown in [&b""[..], b"\x00\x01\x02", b"\xff"] {
            assert!(Proposal(Blob(Bytes::from_static(unknown))).record(TRIAL).is_err());
        }
    }

    #[test]
    fn encoded_commands_come_back() {
        let commands = commands();
        assert_eq!(encoded(&commands).decode().unwrap(), commands);
    }

    #[test]
    fn garbage_is_refused() {
        let lie = Encoded { count: u32::MAX, bytes: Blob(Bytes::from_static(b"\xff\xff\xff\xff")) };
        assert!(lie.decode().is_err());
        assert!(decode::<Vec<u64>>(&[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(decode::<u8>(&[1, 2]).is_err());
    }
}
