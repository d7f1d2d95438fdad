//! The chain's numbers: a field element, and 256 bits in two halves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::domain::ids::JobId;

/// The field's prime, 2^251 + 17·2^192 + 1, big-endian.
const PRIME: [u8; 32] = {
    let mut prime = [0; 32];
    prime[0] = 0x08;
    prime[7] = 0x11;
    prime[31] = 0x01;
    prime
};

/// A field element, big-endian; shown as `0x` and hex digits without leading zeros.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Felt([u8; 32]);

/// 256 bits; two felts in calldata, low half first. Shown as `0x` and hex digits without leading zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct U256 {
    pub high: u128,
    pub low: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a field element: expected 0x and 1 to 64 hex digits, below the field's prime")]
pub struct NotAFelt;

impl Felt {
    pub const ZERO: Self = Self([0; 32]);

    /// `None` if the number is not below the prime.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        (bytes < PRIME).then_some(Self(bytes))
    }

    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Up to 31 bytes as one number, the first the highest: Cairo's short strings. `None` if there are more.
    pub fn short(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        let begin = 32usize.checked_sub(text.len()).filter(|begin| *begin > 0)?;
        bytes.get_mut(begin..)?.copy_from_slice(text);
        Some(Self(bytes))
    }

    /// The bytes of a short string.
    pub fn text(&self) -> &[u8] {
        let begin = self.0.iter().position(|byte| *byte != 0).unwrap_or(32);
        self.0.get(begin..).unwrap_or_default()
    }

    /// `None` if it does not fit.
    pub fn to_u128(self) -> Option<u128> {
        let (high, low) = self.0.split_at(16);
        (high.iter().all(|byte| *byte == 0)).then(|| u128::from_be_bytes(low.try_into().unwrap_or_default()))
    }

    pub fn to_u64(self) -> Option<u64> {
        self.to_u128().and_then(|number| number.try_into().ok())
    }
}

impl From<u128> for Felt {
    fn from(number: u128) -> Self {
        let mut bytes = [0; 32];
        bytes[16..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }
}

impl From<u64> for Felt {
    fn from(number: u64) -> Self {
        Self::from(u128::from(number))
    }
}

impl fmt::Display for Felt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = hex::encode(self.0);
        let digits = digits.trim_start_matches('0');
        write!(f, "0x{}", if digits.is_empty() { "0" } else { digits })
    }
}

impl fmt::Debug for Felt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Felt {
    type Err = NotAFelt;

    fn from_str(text: &str) -> Result<Self, NotAFelt> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).ok_or(NotAFelt)?;
        if digits.is_empty() || digits.len() > 64 {
            return Err(NotAFelt);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(format!("{digits:0>64}"), &mut bytes).map_err(|_| NotAFelt)?;
        Self::from_bytes(bytes).ok_or(NotAFelt)
    }
}

impl U256 {
    /// How our own contract names a job of ours.
    pub fn of(job: JobId) -> Self {
        Self { high: 0, low: u128::from_be_bytes(job.0) }
    }
}

impl fmt::Display for U256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.high {
            0 => write!(f, "{:#x}", self.low),
            high => write!(f, "{high:#x}{:032x}", self.low),
        }
    }
}

impl Serialize for Felt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Felt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            return text.parse().map_err(de::Error::custom);
        }
        let bytes = <[u8; 32]>::deserialize(deserializer)?;
        Self::from_bytes(bytes).ok_or_else(|| de::Error::custom(NotAFelt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_felt_is_read_as_it_is_shown() {
        for text in ["0x0", "0x1", "0xabc", "0x800000000000011000000000000000000000000000000000000000000000000"] {
            assert_eq!(text.parse::<Felt>().unwrap().to_string(), text);
        }
        assert_eq!("0x00ff".parse::<Felt>().unwrap(), Felt::from(255u64));
    }

    #[test]
    fn what_is_no_felt_is_refused() {
        let prime = "0x800000000000011000000000000000000000000000000000000000000000001";
        let long = format!("0x{}", "0".repeat(65));
        for text in [
            "",
            "0x",
            "12",
            "0xg",
            prime,
            &long,
            "0x-1",
            "0xffffffffffffffffffffffffffffffffffffffffffffffffffff".repeat(2).as_str(),
        ] {
            assert_eq!(text.parse::<Felt>(), Err(NotAFelt), "{text}");
        }
    }

    #[test]
    fn short_strings_have_at_most_31_bytes() {
        assert_eq!(Felt::short(b"ciro").unwrap().to_string(), "0x6369726f");
        assert_eq!(Felt::short(b"ciro").unwrap().text(), b"ciro");
        assert!(Felt::short(&[b'a'; 31]).is_some());
        assert!(Felt::short(&[b'a'; 32]).is_none());
    }

    #[test]
    fn a_job_id_is_the_low_half() {
        let id: JobId = "018f0000-0000-7000-8000-0000000000ff".parse().unwrap();
        assert_eq!(U256::of(id), U256 { high: 0, low: 0x018f_0000_0000_7000_8000_0000_0000_00ff });
        assert_eq!(U256 { high: 1, low: 2 }.to_string(), format!("0x1{:032x}", 2));
    }
}
