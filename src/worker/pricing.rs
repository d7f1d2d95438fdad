//! What a job costs here.
//!
//! Pure. A price is made of a base, of the time the job is expected to take and
//! of the input's size; it rises while the worker fills up, and is never below
//! the least the operator takes. Whatever is too large to count is the largest
//! price there is, so no overflow ever makes a job cheap.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::Price;
use crate::wire::proto::mesh::v1::OpenJob;

const GB: u128 = 1_000_000_000;

/// What comes on top of the base price, and for whom there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Per second the job is expected to take.
    pub per_second: Price,
    /// Per GB (10^9 bytes) of input.
    pub per_gb: Price,
    pub least: Price,
    /// By how much the price has risen when the last place is taken, in percent.
    pub busy_percent: u32,
    /// How long a job takes of whose type none has run here, in milliseconds.
    pub assumed_ms: u32,
    /// Addresses of clients nothing is run for.
    pub refused_clients: Arc<BTreeSet<String>>,
}

impl Rates {
    /// What `job` costs when such jobs lately took `expected_ms`. `None`: it is not for sale to this client.
    pub fn price(&self, base: Price, job: &OpenJob, expected_ms: Option<u32>, load_permille: u32) -> Option<Price> {
        if !job.client.is_empty() && self.refused_clients.contains(&job.client) {
            return None;
        }
        let longest_ms = u64::from(job.timeout_secs).saturating_mul(1_000);
        let took_ms = expected_ms.unwrap_or(self.assumed_ms);
        let time = share(self.per_second, u128::from(u64::from(took_ms).min(longest_ms)), 1_000);
        let size = share(self.per_gb, u128::from(job.input_size), GB);
        let idle = base.0.saturating_add(time).saturating_add(size);
        let risen = share(Price(idle), u128::from(self.busy_percent) * u128::from(load_permille.min(1_000)), 100_000);
        Some(Price(idle.saturating_add(risen)).max(self.least))
    }
}

/// `rate * amount / unit`, rounded up.
fn share(rate: Price, amount: u128, unit: u128) -> u128 {
    rate.0.checked_mul(amount).map_or(u128::MAX, |product| product.div_ceil(unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates() -> Rates {
        Rates { per_second: Price(20), per_gb: Price(1_000), assumed_ms: 500, ..Rates::default() }
    }

    fn job(input_size: u64) -> OpenJob {
        OpenJob { input_size, timeout_secs: 10, ..OpenJob::default() }
    }

    fn price(rates: &Rates, job: &OpenJob, expected_ms: Option<u32>, load: u32) -> u128 {
        rates.price(Price(100), job, expected_ms, load).unwrap().0
    }

    #[test]
    fn base_time_and_size_add_up_and_are_rounded_up() {
        assert_eq!(price(&Rates::default(), &job(1 << 30), Some(9_000), 1_000), 100, "no rates, no surcharge");
        assert_eq!(price(&rates(), &job(0), Some(2_000), 0), 140);
        assert_eq!(price(&rates(), &job(0), Some(2_001), 0), 141);
        assert_eq!(price(&rates(), &job(1), Some(0), 0), 101);
        assert_eq!(price(&rates(), &job(2_000_000_000), Some(0), 0), 2_100);
    }

    #[test]
    fn without_experience_the_operators_guess_stands_in_and_a_run_is_no_longer_than_allowed() {
        assert_eq!(price(&rates(), &job(0), None, 0), 110);
        assert_eq!(price(&rates(), &job(0), Some(60_000), 0), 300, "10 s at most");
    }

    #[test]
    fn the_price_rises_as_places_fill_and_has_a_floor() {
        let busy = Rates { busy_percent: 50, ..rates() };
        assert_eq!((price(&busy, &job(0), Some(0), 500), price(&busy, &job(0), Some(0), 1_000)), (125, 150));
        let dear = Rates { least: Price(1_000), ..rates() };
        assert_eq!((price(&dear, &job(0), Some(0), 0), price(&dear, &job(2_000_000_000), Some(0), 0)), (1_000, 2_100));
    }

    #[test]
    fn nothing_is_sold_to_a_client_that_is_refused() {
        let picky = Rates { refused_clients: Arc::new(BTreeSet::from(["0xabc".to_owned()])), ..rates() };
        let from = |client: &str| picky.price(Price(1), &OpenJob { client: client.to_owned(), ..job(0) }, None, 0);
        assert_eq!(from("0xabc"), None);
        assert!(from("0xabd").is_some() && from("").is_some());
    }

    proptest! {
        #[test]
        fn no_overflow_makes_a_job_cheaper(
            base: u128, per_second: u128, per_gb: u128, size: u64, ms: u32, load: u32, busy_percent: u32,
        ) {
            let all = Rates { per_second: Price(per_second), per_gb: Price(per_gb), busy_percent, ..Rates::default() };
            let wanted = all.price(Price(base), &job(size), Some(ms), load).unwrap();
            prop_assert!(wanted >= Price(base));
            let less = Rates { per_second: Price(per_second / 2), ..all.clone() };
            prop_assert!(wanted >= less.price(Price(base), &job(size), Some(ms), load).unwrap());
        }
    }
}
