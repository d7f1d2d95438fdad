//! How a client brings a WebAssembly module and its input in one payload.
//!
//! ```text
//! "CIROWASM"  8 bytes
//! version     1 byte, 1
//! kind        1 byte: 0 the module itself, 1 the SHA-256 of a module the worker has seen
//! length      4 bytes, big endian: of the module (kind 0), or 32 (kind 1)
//! module      that many bytes
//! input       the rest
//! ```
//!
//! A payload that is a module and nothing else (it begins with `\0asm`) is one without input.

use bytes::{BufMut, Bytes, BytesMut};

use crate::domain::Digest;

const MAGIC: &[u8; 8] = b"CIROWASM";
const VERSION: u8 = 1;
const INLINE: u8 = 0;
const BY_DIGEST: u8 = 1;
const HEAD: usize = MAGIC.len() + 2 + 4;

/// What every module in binary form begins with.
const MODULE_MAGIC: &[u8; 4] = b"\0asm";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Module {
    Inline(Bytes),
    /// One the worker has in its cache.
    Known(Digest),
}

/// A module and what it is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub module: Module,
    pub input: Bytes,
}

impl Call {
    /// The payload. `None` if the module is larger than its length field can say.
    pub fn encode(&self) -> Option<Bytes> {
        let (kind, module) = match &self.module {
            Module::Inline(bytes) => (INLINE, bytes.as_ref()),
            Module::Known(digest) => (BY_DIGEST, digest.0.as_slice()),
        };
        let mut payload = BytesMut::with_capacity(HEAD + module.len() + self.input.len());
        payload.put_slice(MAGIC);
        payload.put_u8(VERSION);
        payload.put_u8(kind);
        payload.put_u32(u32::try_from(module.len()).ok()?);
        payload.put_slice(module);
        payload.put_slice(&self.input);
        Some(payload.freeze())
    }

    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// What it lacks.
    pub fn decode(payload: &Bytes) -> Result<Self, &'static str> {
        if payload.starts_with(MODULE_MAGIC) {
            return Ok(Self { module: Module::Inline(payload.clone()), input: Bytes::new() });
        }
        let (head, rest) = payload.split_at_checked(HEAD).ok_or("shorter than the head of a module call")?;
        let head = head.strip_prefix(MAGIC.as_slice()).ok_or("neither a module nor a module call")?;
        let &[version, kind, a, b, c, d] = head else { return Err("no head of a module call") };
        if version != VERSION {
            return Err("a module call of a version that is not known");
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| "a module of impossible length")?;
        if length > rest.len() {
            return Err("it ends within the module");
        }
        let module = payload.slice(HEAD..HEAD + length);
        let module = match kind {
            INLINE => Module::Inline(module),
            BY_DIGEST => Module::Known(super::digest(&module).ok_or("a digest is 32 bytes")?),
            _ => return Err("a module call of a kind that is not known"),
        };
        Ok(Self { module, input: payload.slice(HEAD + length..) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(module: Vec<u8>, input: Vec<u8>, digest: [u8; 32]) {
            for module in [Module::Inline(Bytes::from(module)), Module::Known(Digest(digest))] {
                let call = Call { module, input: Bytes::from(input.clone()) };
                prop_assert_eq!(Call::decode(&call.encode().unwrap()), Ok(call));
            }
        }

        #[test]
        fn no_payload_makes_it_panic(noise: Vec<u8>, kind: u8, length: u32) {
            let _ = Call::decode(&Bytes::from(noise.clone()));
            let mut forged = [MAGIC.as_slice(), &[VERSION, kind], &length.to_be_bytes(), &noise].concat();
            let _ = Call::decode(&Bytes::from(forged.clone()));
            forged.truncate(HEAD - 1);
            prop_assert!(Call::decode(&Bytes::from(forged)).is_err());
        }
    }

    #[test]
    fn a_bare_module_has_no_input() {
        let payload = Bytes::from_static(b"\0asm\x01\0\0\0");
        let call = Call { module: Module::Inline(payload.clone()), input: Bytes::new() };
        assert_eq!(Call::decode(&payload), Ok(call));
        assert!(Call::decode(&Bytes::from_static(b"hello, I am no module at all")).is_err());
    }
}
