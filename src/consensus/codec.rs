//! Bytes that only our own binaries read: serde through bincode, bounded.
//!
//! Commands are encoded once, where they enter; from there to `apply` they
//! travel as bytes. That rests on one fact of the format, held by a test: a
//! sequence is its length followed by its elements, so encoded commands can be
//! joined into an encoded [`Record`] without decoding them.

use std::fmt;
use std::io;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// The encoded [`Record`] of these commands, in this order.
pub(super) fn record<'a>(at: Timestamp, parts: impl Iterator<Item = &'a Encoded> + Clone) -> io::Result<Bytes> {
    let count: u64 = parts.clone().map(|part| u64::from(part.count)).sum();
    let mut bytes = encode(&(at, count))?;
    bytes.reserve(parts.clone().map(|part| part.bytes.0.len()).sum());
    for part in parts {
        bytes.extend_from_slice(&part.bytes.0);
    }
    Ok(bytes.into())
}

/// One log entry's data: an encoded [`Record`], decoded once, at `apply`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Proposal(pub Blob);

impl Proposal {
    pub fn record(&self) -> io::Result<Record> {
        decode(&self.0.0)
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

#[cfg(test)]
mod tests {
    use super::*;
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
        let proposal = Proposal(Blob(record(Timestamp(1_234_567), parts.iter()).unwrap()));

        assert_eq!(proposal.record().unwrap(), Record { at: Timestamp(1_234_567), commands });
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
