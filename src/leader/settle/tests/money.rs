//! Jobs that can not be paid for, against a real node: they stand in nobody's way.
//! `CIRO_TEST_DEVNET=PATH cargo test --lib settle:: -- --ignored`

use super::bench::Bench;
use super::fixture::{address, assign, complete, job, life, register, spec, submit_as, submit_for, terms};
use crate::chain::calls;
use crate::domain::chain::{Act, Call, ESCROW_LOW, Felt, Parked, Policy, U256};
use crate::domain::job::Source;
use crate::domain::{Command, JobId, Price};

/// Selector of `set_charge_limit`.
const SET_CHARGE_LIMIT: &str = "0x8e91b0b966ffbc980033d94728015564ee9cdb574a5a97d09852bab9972507";

impl Bench {
    /// What the contract may take of our account.
    async fn allow(&self, amount: u128) {
        let contract = self.chain.options().contract;
        self.send(None, vec![calls::approve(self.token, contract, U256 { high: 0, low: amount })]).await;
    }

    fn parked(&self) -> Vec<(JobId, String)> {
        let shown = |parked: &Parked| (parked.item.job, parked.code.to_string());
        self.books(|chain| chain.parked_after(None).map(|parked| shown(parked)).collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn a_job_that_is_too_dear_stops_nobody_and_goes_on_when_there_is_enough() {
    let bench = Bench::new().await;
    bench.allow(1_000).await;
    bench.submit(vec![submit_for(1, 5_000, Policy::RegisterBeforeDistribution)]).await;
    bench.lives(2..6).await;
    let others = async || bench.is_settled() && bench.count("JobCompleted").await == 4;
    bench.run_until("the others", others).await;
    assert_eq!(bench.parked(), [(job(1), ESCROW_LOW.to_owned())]);
    assert!(bench.read(|state| state.job(job(1)).is_some_and(|job| job.awaits_chain && !job.state.is_final())));
    bench.run_until("an alarm", async || bench.alarms().contains("has allowed the contract 600")).await;
    bench.allow(5_000).await;
    let registered = async || bench.is_settled() && bench.read(|state| !state.job(job(1)).unwrap().awaits_chain);
    bench.run_until("its registration", registered).await;
    assert_eq!((bench.parked().len(), bench.count("JobSubmitted").await), (0, 5));
    assert_eq!(bench.books(|chain| chain.totals().reverted), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn as_many_jobs_are_settled_as_can_be_paid_for_and_the_rest_later() {
    let bench = Bench::new().await;
    bench.allow(1_250).await;
    bench.lives(1..31).await;
    let some = async || bench.is_settled() && bench.count("JobCompleted").await == 12;
    bench.run_until("as many as there is for", some).await;
    let waiting: Vec<JobId> =
        bench.parked().into_iter().filter(|(_, code)| code == ESCROW_LOW).map(|(job, _)| job).collect();
    assert_eq!(waiting, (13..31).map(job).collect::<Vec<_>>(), "in order");
    bench.allow(10_000).await;
    let rest = async || bench.is_settled() && bench.count("PaymentReleased").await == 30;
    bench.run_until("the rest", rest).await;
    assert_eq!((bench.parked().len(), bench.books(|chain| chain.totals().reverted)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn clients_that_set_a_limit_and_do_not_pay_are_parked_and_cost_nobody_else_anything() {
    let bench = Bench::new().await;
    let contract = bench.chain.options().contract;
    let client = bench.client().await;
    let limit = vec![Felt::from(1_000_000u64), Felt::ZERO];
    client
        .send(vec![
            calls::approve(bench.token, contract, U256::default()),
            Call { to: contract, selector: SET_CHARGE_LIMIT.parse().unwrap(), calldata: limit },
        ])
        .await;
    // More than our account could pay, which is not to blame.
    bench.allow(90_000).await;
    let charged = |n: u64| {
        let mut spec = spec(terms(Policy::SettleLater));
        (spec.client_address, spec.max_price) = (Some(client.address.to_string().into()), Some(Price(100_000)));
        [submit_as(n, spec, Source::Api), assign(n, 1, 1), complete(n, 1, 1)]
    };
    // Some come while others are in flight, when estimates tell little, and some close to each other.
    let is_charged = |n: u64| n % 100 == 75 || (n > 300 && n.is_multiple_of(20));
    let lives = |n: u64| if is_charged(n) { charged(n) } else { life(n, 1) };
    let first: Vec<Command> = [register(1, Some(address(1)))].into_iter().chain((1..401).flat_map(lives)).collect();
    bench.submit(first).await;
    bench.run_until_settled().await;
    let parked = bench.parked();
    let named = |code: &str| parked.iter().filter(|(_, known)| known == code).map(|(job, _)| *job).collect::<Vec<_>>();
    let culprits: Vec<JobId> = (1..401).filter(|n| is_charged(*n)).map(job).collect();
    assert_eq!(named("allowance_too_low"), culprits);
    assert_eq!((culprits.len(), named("behind").len(), parked.len()), (9, 18, 27));
    let totals = bench.books(|chain| chain.totals().clone());
    println!("391 jobs settled and 9 parked in {} transactions", totals.succeeded);
    assert_eq!((totals.reverted, bench.count("PaymentReleased").await), (0, 391), "{totals:?}");

    // One that allows it, and has too little.
    let allow = calls::approve(bench.token, contract, U256 { high: 0, low: u128::MAX });
    client.send(vec![allow]).await;
    assert!(bench.balance(client.address).await < 100_000, "it still can not pay");
    let first = bench.books(|chain| chain.parked_after(None).next().map(|parked| parked.item.seq).unwrap());
    bench.act(Act::Retry { seq: first }).await;
    bench.run_until_settled().await;
    assert_eq!(bench.parked().first().unwrap().1, "balance_too_low");
}
