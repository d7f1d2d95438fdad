//! What calls cost, as far as estimates have told.
//!
//! While other transactions are in flight an estimate says little: it may not
//! see what they will have done. Then bounds are taken from what was learnt a
//! moment ago. What is too low is found out by a transaction that reverts and is
//! planned again; what is too high costs nothing.

use std::time::{Duration, Instant};

use crate::chain::GasPrices;
use crate::clock;
use crate::domain::chain::{Bounds, Item, Stage};

/// What was learnt is not used longer.
const LASTS: Duration = Duration::from_secs(60);

/// Per unit of weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    l1_gas: u64,
    l2_gas: u64,
    l1_data_gas: u64,
    /// Its prices, as they were bounded.
    last: Bounds,
    at: Instant,
}

/// How much work an item is, in parts of an assignment. What goes before all items is one.
fn weight(items: &[Item]) -> u64 {
    let of = |item: &Item| {
        let stage = match item.stage {
            Stage::Register => 3,
            Stage::Assign => 1,
            Stage::Settle => 5,
            Stage::Refund => 2,
        };
        stage + item.calls.len().saturating_sub(1) as u64
    };
    items.iter().map(of).sum::<u64>() + 1
}

impl Rates {
    /// Learns from the bounds that an estimate of these items came to. What is dearer than before counts at once,
    /// what is cheaper bit by bit.
    pub fn learn(before: Option<Self>, items: &[Item], bounds: &Bounds) -> Self {
        let weight = weight(items);
        let rate = |gas: u64, before: Option<u64>| gas.div_ceil(weight).max(before.unwrap_or(0) / 8 * 7);
        Self {
            l1_gas: rate(bounds.l1_gas, before.map(|before| before.l1_gas)),
            l2_gas: rate(bounds.l2_gas, before.map(|before| before.l2_gas)),
            l1_data_gas: rate(bounds.l1_data_gas, before.map(|before| before.l1_data_gas)),
            last: *bounds,
            at: clock::instant(),
        }
    }

    pub fn are_fresh(&self) -> bool {
        self.at.elapsed() < LASTS
    }

    /// Bounds for these items, at these prices if they are higher.
    pub fn bounds(&self, items: &[Item], now: Option<GasPrices>) -> Bounds {
        let weight = weight(items);
        let gas = |rate: u64| rate.saturating_mul(weight).saturating_add(rate.saturating_mul(weight) / 4);
        let raw = Bounds {
            l1_gas: gas(self.l1_gas),
            l2_gas: gas(self.l2_gas),
            l1_data_gas: gas(self.l1_data_gas),
            ..self.last
        };
        at_prices(&raw, now)
    }
}

/// The same gas, at twice these prices where they are higher.
pub(super) fn at_prices(bounds: &Bounds, now: Option<GasPrices>) -> Bounds {
    let Some(now) = now else { return *bounds };
    Bounds {
        l1_gas_price: bounds.l1_gas_price.max(now.l1.saturating_mul(2)),
        l2_gas_price: bounds.l2_gas_price.max(now.l2.saturating_mul(2)),
        l1_data_gas_price: bounds.l1_data_gas_price.max(now.l1_data.saturating_mul(2)),
        ..*bounds
    }
}
