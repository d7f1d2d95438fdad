//! Byte strings for serde, moved whole instead of byte by byte.
//!
//! In bincode the encoding is the same as that of `Vec<u8>`: a length, then the
//! bytes. What is gained is time: payloads and outputs are most of what the log
//! carries, and a call per byte is most of what encoding them would cost.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes reserved on a sequence's word; what really arrives decides the rest.
const RESERVE_MAX: usize = 4 << 10;

/// Borrowed bytes that serialize whole.
pub(super) struct Slice<'a>(pub(super) &'a [u8]);

impl Serialize for Slice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Owned bytes that deserialize whole.
pub(super) struct Owned(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Owned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(OwnedVisitor)
    }
}

struct OwnedVisitor;

impl<'de> Visitor<'de> for OwnedVisitor {
    type Value = Owned;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Owned, E> {
        Ok(Owned(bytes.to_vec()))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Owned, E> {
        Ok(Owned(bytes))
    }

    /// Formats without byte strings (JSON) have lists of numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Owned, A::Error> {
        let mut bytes = Vec::with_capacity(list.size_hint().unwrap_or(0).min(RESERVE_MAX));
        while let Some(byte) = list.next_element()? {
            bytes.push(byte);
        }
        Ok(Owned(bytes))
    }
}

/// For `#[serde(with)]` on a `Box<[u8]>`.
pub(super) mod boxed {
    use super::{Deserialize, Deserializer, Owned, Serializer};

    pub(in crate::domain) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(in crate::domain) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<[u8]>, D::Error> {
        Owned::deserialize(deserializer).map(|Owned(bytes)| bytes.into_boxed_slice())
    }
}

/// For `#[serde(with)]` on a `Vec<u8>`.
pub(super) mod whole {
    use super::{Deserialize, Deserializer, Owned, Serializer};

    pub(in crate::domain) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(in crate::domain) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Owned::deserialize(deserializer).map(|Owned(bytes)| bytes)
    }
}

/// For `#[serde(with)]` on an `Option<Vec<u8>>`.
pub(super) mod optional {
    use super::{Deserialize, Deserializer, Owned, Serialize, Serializer, Slice};

    pub(in crate::domain) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(Slice).serialize(serializer)
    }

    pub(in crate::domain) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Owned>::deserialize(deserializer)?.map(|Owned(bytes)| bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Plain {
        some: Option<Vec<u8>>,
        none: Option<Vec<u8>>,
        bytes: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Whole {
        #[serde(with = "super::optional")]
        some: Option<Vec<u8>>,
        #[serde(with = "super::optional")]
        none: Option<Vec<u8>>,
        #[serde(with = "super::whole")]
        bytes: Vec<u8>,
    }

    #[test]
    fn whole_bytes_look_like_a_list_of_bytes() {
        let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
        let plain = Plain { some: Some(bytes.clone()), none: None, bytes: bytes.clone() };
        let whole = Whole { some: Some(bytes.clone()), none: None, bytes };
        let config = bincode::config::standard();
        let encoded = bincode::serde::encode_to_vec(&whole, config).unwrap();
        assert_eq!(encoded, bincode::serde::encode_to_vec(&plain, config).unwrap());
        let (decoded, used): (Whole, usize) = bincode::serde::decode_from_slice(&encoded, config).unwrap();
        assert_eq!((decoded, used), (whole, encoded.len()));
        assert!(bincode::serde::decode_from_slice::<Whole, _>(&encoded[..encoded.len() - 1], config).is_err());
    }

    #[test]
    fn formats_without_byte_strings_work_too() {
        let whole = Whole { some: Some(vec![1, 2]), none: None, bytes: vec![3] };
        let json = serde_json::to_string(&whole).unwrap();
        assert_eq!(json, r#"{"some":[1,2],"none":null,"bytes":[3]}"#);
        assert_eq!(serde_json::from_str::<Whole>(&json).unwrap(), whole);
    }
}
