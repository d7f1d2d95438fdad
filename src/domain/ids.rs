//! Names of things. Identity is a key: a node and a worker are their ed25519
//! public keys, shown as libp2p peer ids (`12D3KooW…`).
//!
//! Every type here is text in JSON and raw bytes in bincode.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// An ed25519 public key; the identity of a coordinator or a worker.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 32]);

pub type NodeId = PeerId;
pub type WorkerId = PeerId;

/// A UUID. Version 7 when we make it, version 8 when an idempotency key does.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub [u8; 16]);

/// A SHA-256 digest, shown as `0x` and 64 lower-case hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// An amount in the smallest unit of the payment token, shown as a decimal string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(pub u128);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("not a peer id: expected base58 like 12D3KooW… of an ed25519 key")]
    PeerId,
    #[error("not a job id: expected a UUID")]
    JobId,
    #[error("not a digest: expected 0x and 64 hex digits")]
    Digest,
    #[error("not an amount: expected a decimal string below 2^128")]
    Price,
}

/// Identity multihash header of a protobuf-encoded ed25519 public key (libp2p peer-id spec).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl PeerId {
    /// The first characters that tell peers apart, for tables and logs.
    pub fn short(&self) -> String {
        let full = self.to_string();
        full[full.len() - 8..].to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; 38];
        bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl FromStr for PeerId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() > 64 {
            return Err(ParseError::PeerId);
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| ParseError::PeerId)?;
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or(ParseError::PeerId)?;
        Ok(Self(key.try_into().map_err(|_| ParseError::PeerId)?))
    }
}

impl JobId {
    /// The id that an idempotency key stands for: a retry is the same job.
    pub fn from_key(scope: &str, key: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update((scope.len() as u64).to_be_bytes());
        hash.update(scope);
        hash.update(key);
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes())
    }

    /// Whether an idempotency key made it: version 8, where ours have version 7.
    pub fn is_from_key(self) -> bool {
        self.0[6] >> 4 == 8
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() != 36 {
            return Err(ParseError::JobId);
        }
        Ok(Self(Uuid::try_parse(text).map_err(|_| ParseError::JobId)?.into_bytes()))
    }
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.strip_prefix("0x").ok_or(ParseError::Digest)?;
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParseError::Digest)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Price {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseError::Price);
        }
        text.parse().map(Self).map_err(|_| ParseError::Price)
    }
}

/// Text for people's formats, bytes for ours.
macro_rules! text_or_bytes {
    ($type:ty, $bytes:ty, $to:expr, $from:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    let to: fn(&$type) -> $bytes = $to;
                    to(self).serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    let from: fn($bytes) -> $type = $from;
                    <$bytes>::deserialize(deserializer).map(from)
                }
            }
        }
    };
}

text_or_bytes!(PeerId, [u8; 32], |id| id.0, PeerId);
text_or_bytes!(JobId, [u8; 16], |id| id.0, JobId);
text_or_bytes!(Digest, [u8; 32], |digest| digest.0, Digest);
text_or_bytes!(Price, u128, |price| price.0, Price);

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
