//! The duty against a real node. `CIRO_TEST_DEVNET=PATH cargo test --lib settle:: -- --ignored`

use std::time::Duration;

use serde_json::json;

use super::bench::{Bench, TRANSFER, until};
use super::fixture::{ROOMY, address, assign, complete, job, life, place, register, spec, submit_as, terms};
use crate::chain::{JobStatus, calls};
use crate::clock;
use crate::domain::chain::{Act, Call, Felt, Ledger, Policy, U256};
use crate::domain::job::Source;
use crate::domain::journal::Sink;
use crate::domain::{JobId, Price};
use crate::leader::settle::items::Place;
use crate::leader::settle::plan::Plan;

/// The fee token.
const STRK: &str = "0x4718f5a0fc34cc1af16a1cdee98ffb20c31f5cd61d6ab07201858f4287c938d";

/// What the fixture's jobs cost, and what of it comes to the worker: 1 % goes to the contract.
const PRICE: u128 = 70;

impl Bench {
    /// All that is to be settled next, in one plan.
    fn plan(&self) -> Plan {
        let options = self.chain.options();
        let place = Place { contract: options.contract, account: options.account, ..place() };
        let mut plan = Plan::after(self.read(|state| state.journal().cursor(Sink::Chain).unwrap()));
        while self.read(|state| plan.extend(state, &place, ROOMY)) {}
        plan
    }

    async fn claim(&self) {
        until("a look at the chain", async || self.chain.site().is_some()).await;
        self.act(Act::Claim { site: self.chain.site().unwrap(), least: 1 }).await;
    }

    /// Every one of these jobs was registered, assigned, completed and paid once, and nothing is left in escrow.
    async fn check_settled(&self, jobs: std::ops::Range<u64>) {
        let count = usize::try_from(jobs.end - jobs.start).unwrap();
        for name in ["JobSubmitted", "JobAssigned", "JobCompleted", "PaymentReleased"] {
            assert_eq!(self.count(name).await, count, "{name}");
        }
        let ids: Vec<JobId> = jobs.map(job).collect();
        for chunk in ids.chunks(100) {
            assert!(self.details(chunk).await.iter().all(|details| details.state == JobStatus::Completed));
        }
        assert_eq!(self.chain.escrow().await.unwrap(), U256::default());
        let fee = PRICE / 100;
        assert_eq!(self.balance(address(1)).await, (PRICE - fee) * count as u128);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn many_jobs_are_settled_once_in_few_transactions() {
    let bench = Bench::new().await;
    bench.lives(1..401).await;
    let begun = clock::instant();
    bench.run_until_settled().await;
    let took = begun.elapsed();
    bench.check_settled(1..401).await;
    let totals = bench.books(|chain| chain.totals().clone());
    println!("1600 calls in {} transactions and {took:?}: {:?}", totals.succeeded, totals);
    assert_eq!(totals.reverted, 0);
    assert!(totals.succeeded <= 20, "{totals:?}");
    let paid = bench.books(|chain| chain.settlement(job(1)).unwrap().links.len());
    assert_eq!(paid, 3);
    bench
        .run_until("payments to be seen", async || {
            (1..401).all(|n| bench.books(|chain| chain.settlement(job(n)).unwrap().paid()) > 0)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn a_leader_that_dies_at_any_point_pays_once() {
    for point in ["before it sent", "after it sent", "after it landed"] {
        // Blocks are closed by hand: what was sent is not in one.
        let bench = Bench::with(&["--block-generation-on", "demand"], |_| {}).await;
        bench.lives(1..11).await;
        bench.claim().await;
        let plan = bench.plan();
        let transaction = bench.prepare(plan.items, plan.through).await;
        if point != "before it sent" {
            bench.chain.send(&transaction).await.unwrap();
        }
        if point == "after it landed" {
            bench.devnet("devnet_createBlock", json!({})).await;
        }
        bench.run_until(point, async || bench.is_settled()).await;
        let slot = bench.books(|chain| chain.slot(transaction.nonce).unwrap().landed.clone().unwrap());
        assert_eq!(slot.hash, transaction.hash, "{point}: the very same");
        bench.devnet("devnet_createBlock", json!({})).await;
        bench.check_settled(1..11).await;
        let epoch = bench.books(Ledger::epoch);
        bench.lives(11..12).await;
        bench.run_until("the next", async || bench.is_settled()).await;
        assert!(bench.books(Ledger::epoch) > epoch);
        assert_eq!(bench.chain.epoch().await.unwrap(), bench.books(Ledger::epoch));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn a_deposed_leader_sends_nothing_and_what_it_would_send_reverts() {
    let bench = Bench::new().await;
    bench.lives(1..4).await;
    bench.claim().await;
    let nonce = bench.chain.nonce().await.unwrap();
    let begun = clock::instant();
    bench.run_as(&bench.deposed(), "a while", async || begun.elapsed() > Duration::from_secs(2)).await;
    assert_eq!(bench.chain.nonce().await.unwrap(), nonce);

    bench.run_until_settled().await;
    // It holds the same key, so the node takes it; the contract does not.
    let contract = bench.chain.options().contract;
    let stale = bench.send(Some(1), vec![calls::cancel_job(contract, U256::of(job(1)))]).await;
    let landed = bench.chain.status(&stale).await.unwrap().unwrap();
    assert!(landed.reverted.unwrap().contains("STALE_EPOCH"));
    // It took a nonce: the next one is another.
    bench.lives(4..8).await;
    bench.run_until_settled().await;
    bench.check_settled(1..8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn a_nonce_that_somebody_else_used_is_given_up() {
    let bench = Bench::new().await;
    bench.lives(1..4).await;
    bench.claim().await;
    let plan = bench.plan();
    let lost = bench.prepare(plan.items, plan.through).await;
    let other = bench.send(None, vec![calls::approve(bench.token, Felt::from(9u64), U256::default())]).await;
    assert_eq!(lost.nonce, other.nonce);
    bench.run_until_settled().await;
    bench.check_settled(1..4).await;
    assert_eq!(bench.books(|chain| chain.totals().abandoned), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn poisoned_calls_are_parked_and_the_others_go_on() {
    let bench = Bench::new().await;
    bench.lives(1..31).await;
    // Jobs of ours, but with other terms.
    let contract = bench.chain.options().contract;
    for n in [7, 20] {
        let record = bench.read(|state| state.job(job(n)).unwrap().clone());
        bench.send(None, vec![calls::submit_ai_job(contract, &record, 5, bench.chain.options().account)]).await;
    }
    bench.run_until_settled().await;
    let parked: Vec<(JobId, String)> = bench
        .books(|chain| chain.parked_after(None).map(|parked| (parked.item.job, parked.code.to_string())).collect());
    let first: Vec<_> = parked.iter().filter(|(_, code)| code == "spec_mismatch").map(|(job, _)| *job).collect();
    assert_eq!(first, [job(7), job(20)]);
    assert_eq!(parked.len(), 6, "and what is behind them: {parked:?}");
    assert_eq!(bench.books(|chain| chain.totals().reverted), 0, "found by estimates, at no cost");
    assert_eq!(bench.count("JobCompleted").await, 28);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn what_reverts_on_chain_is_taken_apart() {
    let bench = Bench::new().await;
    bench.lives(1..11).await;
    bench.claim().await;
    let plan = bench.plan();
    // With less gas than it takes, as when what was learnt of calls does not hold any more.
    let transaction =
        bench.prepare_with(plan.items, plan.through, |bounds| bounds.l2_gas = bounds.l2_gas / 9 * 4).await;
    bench.run_until_settled().await;
    bench.check_settled(1..11).await;
    let (totals, nonce) = (bench.books(|chain| chain.totals().clone()), transaction.nonce);
    assert_eq!((totals.reverted, totals.succeeded), (1, 1), "{totals:?}");
    assert!(bench.books(|chain| chain.slot(nonce).unwrap().given_back));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn an_empty_account_pauses_and_goes_on_when_it_is_funded() {
    let bench = Bench::new().await;
    let account = bench.chain.options().account;
    let strk: Felt = STRK.parse().unwrap();
    let balance = bench.chain.balance(strk, account).await.unwrap();
    let amount = Felt::from(balance.low - 50_000_000_000_000_000);
    let calldata = vec![Felt::from(9u64), amount, Felt::ZERO];
    bench.send(None, vec![Call { to: strk, selector: TRANSFER.parse().unwrap(), calldata }]).await;
    bench.lives(1..4).await;
    bench.run_until("an alarm", async || bench.alarms().contains("Send STRK")).await;
    assert_eq!(bench.alarms(), "", "a duty that ended complains of nothing");
    let funded = async || {
        if bench.alarms().contains("Send STRK") {
            bench.mint(account, 1_000_000_000_000_000_000).await;
        }
        bench.is_settled()
    };
    bench.run_until("settlement", funded).await;
    bench.check_settled(1..4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn nothing_is_sent_above_the_ceiling() {
    let bench = Bench::with(&[], |options| options.max_fee = Some(1)).await;
    bench.lives(1..4).await;
    bench.run_until("an alarm", async || bench.alarms().contains("max_fee is 1")).await;
    assert_eq!(bench.count("JobSubmitted").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn blocks_that_are_given_up_are_settled_again() {
    let bench = Bench::with(&["--state-archive-capacity", "full"], |options| options.follow_from = Some(0)).await;
    bench.lives(1..6).await;
    let head = bench.chain.head().await.unwrap();
    let paid = || bench.books(|chain| chain.settlement(job(1)).map_or(0, |known| known.paid()));
    bench.run_until("payments", async || bench.is_settled() && paid() == PRICE - PRICE / 100).await;
    bench.devnet("devnet_abortBlocks", json!({"starting_block_id": {"block_number": head.number + 1}})).await;
    assert_eq!(bench.count("JobSubmitted").await, 0);
    let back = async || bench.is_settled() && bench.count("PaymentReleased").await == 5;
    bench.run_until("settlement", back).await;
    bench.check_settled(1..6).await;
    // What is read again counts once.
    let newest = bench.chain.head().await.unwrap().number;
    let read = async || bench.books(Ledger::next_block).is_some_and(|next| next > newest) && paid() > 0;
    bench.run_until("its events", read).await;
    assert_eq!(paid(), PRICE - PRICE / 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn while_the_node_is_frozen_what_has_nothing_to_settle_is_passed_over() {
    use nix::sys::signal::Signal;
    let bench = Bench::with(&[], |options| options.timing.request = Duration::from_secs(1)).await;
    bench.lives(1..3).await;
    bench.run_until_settled().await;
    bench.devnet.signal(Signal::SIGSTOP);
    bench.submit((100..110).map(super::fixture::unsettled).collect()).await;
    bench
        .run_until("the journal to go on", async || {
            bench.read(|state| state.journal().cursor(Sink::Chain) == Some(state.journal().last_seq()))
        })
        .await;
    bench.lives(3..6).await;
    bench.run_until("an alarm", async || bench.alarms().contains("Jobs go on")).await;
    bench.devnet.signal(Signal::SIGCONT);
    bench.run_until_settled().await;
    bench.check_settled(1..6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn a_job_that_waits_for_its_registration_waits_not_long() {
    let bench = Bench::with(&[], |options| options.batch_wait = Duration::from_secs(30)).await;
    bench.lives(1..2).await;
    let mut first = spec(terms(Policy::RegisterBeforeDistribution));
    first.max_price = Some(Price(100));
    bench
        .run_until("a first look", async || {
            bench.books(|chain| chain.site().is_some()) && !bench.alarms().contains("not")
        })
        .await;
    let mut begun = None;
    let runs = async || {
        let now = clock::instant();
        if begun.is_none() {
            bench.submit(vec![submit_as(50, first.clone(), Source::Api)]).await;
            begun = Some(now);
        }
        bench.read(|state| !state.job(job(50)).unwrap().awaits_chain)
    };
    bench.run_until("its registration", runs).await;
    let took = begun.unwrap().elapsed();
    println!("registered after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(bench.books(|chain| chain.settlement(job(50)).unwrap().links[0].confirmation.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn a_payment_waits_for_its_worker_to_say_where() {
    let bench = Bench::new().await;
    bench.submit([vec![register(1, None)], life(1, 1).to_vec()].concat()).await;
    bench.run_until("a parked payment", async || bench.books(|chain| chain.parked_len() == 1)).await;
    bench.submit(vec![register(1, Some(address(1)))]).await;
    bench.run_until("settlement", async || bench.books(|chain| chain.parked_len() == 0) && bench.is_settled()).await;
    bench.check_settled(1..2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs starknet-devnet"]
async fn jobs_that_others_submit_on_chain_are_taken_run_and_paid() {
    let bench = Bench::with(&["--state-archive-capacity", "full"], |options| options.follow_from = Some(0)).await;
    let contract = bench.chain.options().contract;
    let client = bench.client().await;
    let submitted = client.submit(b"https://files.example/input.bin").await;
    client.submit(b"gopher://files.example/").await;
    let id = JobId::from_key("chain", &format!("{contract}:{submitted}"));
    let taken =
        async || bench.read(|state| state.job(id).is_some()) && bench.books(|chain| chain.totals().refused) == 1;
    bench.run_until("a job from the chain", taken).await;
    let job = bench.read(|state| state.job(id).unwrap().clone());
    assert_eq!((job.source, job.spec.max_price, job.awaits_chain), (Source::Chain, Some(Price(500)), false));

    bench.submit(vec![register(1, Some(address(1)))]).await;
    let mut award = assign(1, 1, 1);
    let mut result = complete(1, 1, 1);
    if let crate::domain::Command::Assign { job, .. } = &mut award {
        *job = id;
    }
    if let crate::domain::Command::Complete(complete) = &mut result {
        complete.job = id;
    }
    bench.submit(vec![award, result]).await;
    let paid = || bench.books(|chain| chain.settlement(id).map_or(0, |known| known.paid()));
    bench.run_until("its payment", async || bench.is_settled() && paid() > 0).await;
    assert_eq!(paid(), PRICE - PRICE / 100);
    assert_eq!(bench.balance(address(1)).await, PRICE - PRICE / 100);
    assert_eq!(bench.balance(client.address).await, 10_000 - 500 - PRICE, "what was not needed came back");

    // One that its client takes back is not run here.
    let other = client.submit(b"https://files.example/other.bin").await;
    let id = JobId::from_key("chain", &format!("{contract}:{other}"));
    bench.run_until("another job", async || bench.read(|state| state.job(id).is_some())).await;
    client.send(vec![calls::cancel_job(contract, U256 { high: 0, low: 3 })]).await;
    bench
        .run_until("its end", async || {
            bench.read(|state| state.job(id).unwrap().state.is_final()) && bench.is_settled()
        })
        .await;
    assert_eq!(bench.books(|chain| chain.parked_len()), 0);
}
