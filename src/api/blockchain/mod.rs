//! The chain over REST: its status and figures, transactions, jobs, events, and what could not be settled.
//!
//! Every node tells of its own connection and of the replicated books, see
//! [`picture`]. Writes go through the log like all others, so they work on any
//! node, also one that is not connected itself. Only the contract's events are
//! asked of the chain when they are asked for; all else is at hand.

mod alarms;
mod events;
mod jobs;
mod letters;
mod metrics;
mod picture;
mod site;
mod status;
#[cfg(test)]
pub(in crate::api) mod tests;
mod transactions;

pub use self::picture::Picture;

use super::problem::{Code, Problem};
use super::route::Route;
use crate::domain::chain::{Felt, U256};

pub fn routes() -> Vec<Route> {
    let mut routes = status::routes();
    routes.extend(transactions::routes());
    routes.extend(metrics::routes());
    routes.extend(jobs::routes());
    routes.extend(events::routes());
    routes.extend(letters::routes());
    routes.extend(site::routes());
    routes
}

/// A chain's id as people write it: `SN_SEPOLIA`.
pub fn chain_name(id: Felt) -> String {
    match std::str::from_utf8(id.text()) {
        Ok(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => text.to_owned(),
        _ => id.to_string(),
    }
}

/// An amount in decimal digits.
pub fn amount(number: U256) -> String {
    const CHUNK: u128 = 10_000_000_000_000_000_000;
    let mut limbs = [number.high >> 64, number.high & LOW, number.low >> 64, number.low & LOW];
    let mut chunks = vec![];
    while limbs.iter().any(|limb| *limb > 0) {
        let mut rest = 0;
        for limb in &mut limbs {
            let whole = rest << 64 | *limb;
            (*limb, rest) = (whole / CHUNK, whole % CHUNK);
        }
        chunks.push(rest);
    }
    let Some(first) = chunks.pop() else { return "0".to_owned() };
    chunks.into_iter().rev().fold(first.to_string(), |text, chunk| format!("{text}{chunk:019}"))
}

const LOW: u128 = (1 << 64) - 1;

/// Why a node without a chain can not serve.
fn disabled(what: &str) -> Problem {
    let why = if cfg!(feature = "chain") {
        "the chain is not enabled on this node"
    } else {
        "this build has no chain support"
    };
    Problem::new(Code::NotAvailable, format!("{why}, so {what}"))
        .hint("Ask a node on which blockchain.enabled is true.")
}
