//! Our numbers and the crate's.

use starknet::core::types::{Call as Their, Felt as Theirs};

use crate::domain::chain::{Call, Felt};

pub(super) fn theirs(felt: Felt) -> Theirs {
    Theirs::from_bytes_be(&felt.to_bytes())
}

pub(super) fn ours(felt: Theirs) -> Felt {
    // Theirs is below the prime, too.
    Felt::from_bytes(felt.to_bytes_be()).unwrap_or_default()
}

pub(super) fn all_ours(felts: &[Theirs]) -> Vec<Felt> {
    felts.iter().copied().map(ours).collect()
}

pub(super) fn call(call: &Call) -> Their {
    Their {
        to: theirs(call.to),
        selector: theirs(call.selector),
        calldata: call.calldata.iter().copied().map(theirs).collect(),
    }
}
