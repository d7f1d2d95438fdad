//! What a transaction may cost.
//!
//! Bounds are amounts of three kinds of gas, and the most paid for a unit of
//! each. They are half more gas and twice the price of an estimate, so that a
//! block later they still do; what is not used is not paid.

use crate::domain::chain::Bounds;

/// Data gas beside that: a cell of storage that another transaction freed or filled meanwhile costs more than half of
/// what a small transaction writes.
const DATA_SLACK: u64 = 512;

/// What an estimate says, and the bounds that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// What it would cost now, in the fee token's smallest unit.
    pub fee: u128,
    pub bounds: Bounds,
}

/// The most that a transaction with these bounds costs, in the fee token's smallest unit.
pub fn most(bounds: &Bounds) -> u128 {
    let part = |amount: u64, price: u128| u128::from(amount).saturating_mul(price);
    part(bounds.l1_gas, bounds.l1_gas_price)
        .saturating_add(part(bounds.l2_gas, bounds.l2_gas_price.saturating_add(u128::from(bounds.tip))))
        .saturating_add(part(bounds.l1_data_gas, bounds.l1_data_gas_price))
}

/// Bounds from what an estimate says is used now, and the tip.
pub fn bounds(used: &Bounds, tip: u64) -> Bounds {
    let amount = |gas: u64| gas.saturating_add(gas.div_ceil(2));
    let price = |price: u128| price.saturating_mul(2);
    Bounds {
        l1_gas: amount(used.l1_gas),
        l1_gas_price: price(used.l1_gas_price),
        l2_gas: amount(used.l2_gas),
        l2_gas_price: price(used.l2_gas_price),
        l1_data_gas: amount(used.l1_data_gas).saturating_add(DATA_SLACK),
        l1_data_gas_price: price(used.l1_data_gas_price),
        tip,
    }
}

/// Bounds of a transaction that takes the place of one with these: a mempool asks for a tenth more tip and price at
/// least. They are not below `now`, what an estimate says today.
pub fn raised(before: &Bounds, now: &Bounds) -> Bounds {
    let price = |before: u128, now: u128| more(before).max(now);
    Bounds {
        l1_gas: before.l1_gas.max(now.l1_gas),
        l1_gas_price: price(before.l1_gas_price, now.l1_gas_price),
        l2_gas: before.l2_gas.max(now.l2_gas),
        l2_gas_price: price(before.l2_gas_price, now.l2_gas_price),
        l1_data_gas: before.l1_data_gas.max(now.l1_data_gas),
        l1_data_gas_price: price(before.l1_data_gas_price, now.l1_data_gas_price),
        tip: u64::try_from(more(u128::from(before.tip))).unwrap_or(u64::MAX).max(now.tip),
    }
}

/// An eighth more, and one at least.
fn more(number: u128) -> u128 {
    number.saturating_add(number.div_ceil(8).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: Bounds = Bounds {
        l1_gas: 0,
        l1_gas_price: 100,
        l2_gas: 1_001,
        l2_gas_price: 7,
        l1_data_gas: 10,
        l1_data_gas_price: 3,
        tip: 0,
    };

    #[test]
    fn bounds_leave_room_and_say_what_is_paid_at_most() {
        let bounds = bounds(&USED, 2);
        assert_eq!((bounds.l1_gas, bounds.l2_gas, bounds.l1_data_gas), (0, 1_502, 15 + DATA_SLACK));
        assert_eq!((bounds.l2_gas_price, bounds.l1_data_gas_price, bounds.tip), (14, 6, 2));
        assert_eq!(most(&bounds), 1_502 * 16 + (15 + 512) * 6);
    }

    #[test]
    fn a_replacement_pays_a_tenth_more_at_least_and_never_less_than_today() {
        let mut before = bounds(&USED, 0);
        for _ in 0..8 {
            let after = raised(&before, &USED);
            assert!(after.tip > before.tip && after.tip * 10 >= before.tip * 11);
            assert!(after.l2_gas_price * 10 >= before.l2_gas_price * 11);
            assert!(after.l1_data_gas_price * 10 >= before.l1_data_gas_price * 11);
            before = after;
        }
        let dear = Bounds { l2_gas_price: 1_000_000, l2_gas: 9_000, ..USED };
        assert_eq!(raised(&USED, &dear).l2_gas_price, 1_000_000);
        assert_eq!(raised(&USED, &dear).l2_gas, 9_000);
    }

    #[test]
    fn numbers_without_sense_do_not_overflow() {
        let huge = Bounds {
            l1_gas: u64::MAX,
            l1_gas_price: u128::MAX,
            l2_gas: u64::MAX,
            l2_gas_price: u128::MAX,
            l1_data_gas: u64::MAX,
            l1_data_gas_price: u128::MAX,
            tip: u64::MAX,
        };
        assert_eq!(most(&raised(&bounds(&huge, u64::MAX), &huge)), u128::MAX);
    }
}
