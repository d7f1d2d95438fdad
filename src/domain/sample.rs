//! A job for tests: what everybody fills in, so that each names only what it is about.

use super::ids::Digest;
use super::job::{Input, JobSpec};
use super::score::Policy;

/// The input of [`spec`].
pub(crate) const INPUT: &[u8] = b"in";

/// A job of two bytes with every default of the contract but for its timeout, a minute.
pub(crate) fn spec() -> JobSpec {
    JobSpec {
        kind: "sha256".to_owned(),
        input: Input { sha256: Digest::of(INPUT), size: INPUT.len() as u64, uri: None },
        priority: 5,
        max_price: None,
        price_escalation: None,
        deadline: None,
        timeout_secs: 60,
        requirements: Default::default(),
        policy: Policy::default(),
        weights: None,
        retry: Default::default(),
        redundancy: 1,
        tags: vec![],
        client_address: None,
        callback_url: None,
        settlement: None,
    }
}
