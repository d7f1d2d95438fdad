//! What a joiner is handed: a secret, and where the cluster was when it was made.
//!
//! `ciro1` and base58 of: four bytes of checksum, the secret, the addresses in
//! lines. The addresses are hints. The cluster keeps only the secret's digest.

use std::fmt;
use std::str::FromStr;

use crate::domain::ids::Digest;

use super::{ADDRESS_MAX, MEMBERS_MAX};

const PREFIX: &str = "ciro1";

/// Longest token, in characters.
const TOKEN_MAX: usize = 8 << 10;

/// Addresses in a token.
const HINTS_MAX: usize = 8;

/// Who shows it is admitted. Never shown by `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl Secret {
    /// What the cluster knows it by.
    pub fn id(&self) -> Digest {
        Digest::of(&[b"ciro-invitation-v1\0".as_slice(), &self.0].concat())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub secret: Secret,
    /// Multiaddrs with `/p2p/…`.
    pub addresses: Vec<String>,
}

impl Token {
    pub fn new(secret: Secret, addresses: impl IntoIterator<Item = String>) -> Self {
        let fits = |address: &String| address.len() <= ADDRESS_MAX && !address.contains('\n');
        const { assert!(HINTS_MAX <= MEMBERS_MAX) };
        Self { secret, addresses: addresses.into_iter().filter(fits).take(HINTS_MAX).collect() }
    }
}

/// With the secret: for the one who asked for it.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = [self.secret.0.as_slice(), self.addresses.join("\n").as_bytes()].concat();
        let sum = Digest::of(&body);
        let whole = [sum.0.get(..4).unwrap_or_default(), &body].concat();
        write!(f, "{PREFIX}{}", bs58::encode(whole).into_string())
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not an invitation: expected what `ciro-coordinator cluster invite` printed, all of it";
        let text = text.trim();
        let text = text.strip_prefix(PREFIX).filter(|rest| rest.len() <= TOKEN_MAX).ok_or(wrong)?;
        let whole = bs58::decode(text).into_vec().map_err(|_| wrong)?;
        let (sum, body) = whole.split_first_chunk::<4>().ok_or(wrong)?;
        if Digest::of(body).0.first_chunk::<4>() != Some(sum) {
            return Err(wrong);
        }
        let (secret, hints) = body.split_first_chunk::<32>().ok_or(wrong)?;
        let hints = std::str::from_utf8(hints).map_err(|_| wrong)?;
        let lines = hints.lines().filter(|line| !line.is_empty()).map(str::to_owned);
        Ok(Self::new(Secret(*secret), lines))
    }
}
