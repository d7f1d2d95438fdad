//! How much L2 gas calls of the contract take, so that what is put together fits a transaction.
//!
//! Rounded up from what was measured ([contracts/README.md], which a test
//! compares). What a transaction really takes an estimate says; this says how
//! many calls are worth estimating, and when no estimate is made.
//!
//! [contracts/README.md]: ../../../contracts/README.md

use crate::domain::chain::{Bounds, Call};

use super::selectors;

/// What a transaction may use: the network takes no bound that is much higher.
pub const TRANSACTION_MAX: u64 = 1_100_000_000;

/// What calls of one transaction may come to: [`super::fees::bounds`] asks for half more.
pub const CALLS_MAX: u64 = TRANSACTION_MAX / 3 * 2;

const _: () = assert!(CALLS_MAX + CALLS_MAX / 2 <= TRANSACTION_MAX);

const SUBMIT: u64 = 5_000_000;
const ASSIGN: u64 = 1_200_000;
const RESULT: u64 = 2_600_000;
const DISTRIBUTE: u64 = 4_500_000;
/// A settlement without shares, and each of them.
const SETTLE: u64 = 5_000_000;
const SHARE: u64 = 2_250_000;
const REGISTER_WORKER: u64 = 900_000;
const CANCEL: u64 = 1_900_000;
/// What nothing is known of is taken for the dearest.
const OTHER: u64 = 7_500_000;

/// Felts of `settle_job` beside its shares, and of each.
const SETTLE_FELTS: usize = 11;
const SHARE_FELTS: usize = 3;

/// About what a call takes among others.
pub fn of(call: &Call) -> u64 {
    match call.selector {
        name if name == selectors::SUBMIT_AI_JOB.felt() => SUBMIT,
        name if name == selectors::ASSIGN_JOB_TO_WORKER.felt() => ASSIGN,
        name if name == selectors::SETTLE_JOB.felt() => {
            let shares = call.calldata.len().saturating_sub(SETTLE_FELTS) / SHARE_FELTS;
            SETTLE.saturating_add(SHARE.saturating_mul(u64::try_from(shares).unwrap_or(u64::MAX)))
        }
        name if name == selectors::CANCEL_JOB.felt() => CANCEL,
        name if name == selectors::REGISTER_WORKER.felt() => REGISTER_WORKER,
        name if name == selectors::SUBMIT_JOB_RESULT.felt() => RESULT,
        name if name == selectors::DISTRIBUTE_REWARDS.felt() => DISTRIBUTE,
        _ => OTHER,
    }
}

/// The same bounds, as far as the network takes them.
pub fn capped(bounds: Bounds) -> Bounds {
    Bounds { l2_gas: bounds.l2_gas.min(TRANSACTION_MAX), ..bounds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::calls::{self, Outcome, Share};
    use crate::chain::sample_job;
    use crate::domain::chain::{Felt, U256};
    use crate::domain::{Digest, JobId, PeerId};

    const README: &str = include_str!("../../contracts/README.md");

    /// L2 gas of a call among others, by its row's name.
    fn measured(row: &str) -> u64 {
        let line = README.lines().find(|line| line.starts_with(&format!("| {row} |")));
        let among = line.unwrap_or_else(|| panic!("no row {row}")).split('|').nth(3).unwrap();
        among.trim().replace(',', "").parse().unwrap()
    }

    #[test]
    fn what_calls_are_taken_to_cost_is_what_was_measured_and_not_much_more() {
        let (at, id, worker) = (Felt::from(1u64), U256::default(), PeerId([1; 32]));
        let outcome = Outcome { worker, output: Digest::of(b""), seconds: 1 };
        let settle = |shares: usize| calls::settle_job(at, id, &outcome, &vec![Share { worker, amount: 1 }; shares]);
        let submit = calls::submit_ai_job(at, &sample_job(JobId::default()), 1, at);
        for (row, call) in [
            ("`submit_ai_job`", submit.clone()),
            ("`submit_ai_job`, charged to the client", submit),
            ("`assign_job_to_worker`", calls::assign_job_to_worker(at, id, worker)),
            ("`submit_job_result`", calls::submit_job_result(at, id, &outcome)),
            ("`distribute_rewards`", calls::distribute_rewards(at, id)),
            ("`settle_job` of one share, never assigned", settle(1)),
            ("`settle_job` of five shares, of 20", settle(5)),
            ("`register_worker`", calls::register_worker(at, worker, at)),
            ("`cancel_job`", calls::cancel_job(at, id)),
        ] {
            let (told, found) = (of(&call), measured(row));
            assert!((found..=found + found / 8).contains(&told), "{row}: {told}, and {found} was measured");
        }
        assert!(of(&calls::assert_epoch(at, 1)) >= measured("`settle_job` of one share, never assigned"));
    }
}
