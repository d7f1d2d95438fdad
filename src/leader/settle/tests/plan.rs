//! What is settled next, of states that things happened to.

use std::collections::BTreeMap;

use super::fixture::{
    ROOMY, World, address, assign, cancel, complete, fail, job, life, place, register, shown, spec, stages, submit,
    submit_as, terms, unsettled, worker,
};
use crate::chain::calls::{self, Outcome};
use crate::chain::{Generation, Share, gas};
use crate::domain::chain::{Act, Felt, Item, Policy, Stage, U256};
use crate::domain::job::Source;
use crate::domain::journal::Sink;
use crate::domain::{Command, Digest, Price};
use crate::leader::settle::items::{NO_PAYOUT_ADDRESS, Place, can_be_paid};
use crate::leader::settle::plan::{Plan, Room, TRIES};
use proptest::prelude::*;

fn codes(plan: &Plan) -> Vec<(u64, &str)> {
    plan.parked.iter().map(|(item, code, _)| (item.seq, &**code)).collect()
}

#[test]
fn a_life_is_registered_assigned_and_settled_in_one_go() {
    let world = World::after([vec![register(1, Some(address(1)))], life(1, 1).to_vec()].concat());
    let plan = world.plan(ROOMY);
    assert_eq!(stages(&plan), [Stage::Register, Stage::Assign, Stage::Settle]);
    assert_eq!(plan.through, world.state.journal().last_seq());
    let (contract, id) = (place().contract, U256::of(job(1)));
    let record = world.state.job(job(1)).unwrap();
    assert_eq!(plan.items[0].calls, [calls::submit_ai_job(contract, record, 100, place().account)]);
    assert_eq!(plan.items[1].calls, [calls::assign_job_to_worker(contract, id, worker(1))]);
    let outcome = Outcome { worker: worker(1), output: Digest::of(b"out"), seconds: 1 };
    let share = Share { worker: worker(1), amount: 70 };
    let settle = calls::settle_job(contract, id, &outcome, &[share]);
    assert_eq!(plan.items[2].calls, [calls::register_worker(contract, worker(1), address(1)), settle]);
    assert_eq!(plan.items[2].payees, [(worker(1), address(1))]);
    assert_eq!(plan.calls(), 4);
}

#[test]
fn what_the_contract_knows_of_a_worker_is_not_told_again() {
    let mut world = World::after([vec![register(1, Some(address(1)))], life(1, 1).to_vec()].concat());
    world.settle();
    life(2, 1).into_iter().for_each(|command| world.apply(command));
    assert_eq!(shown(&world.plan(ROOMY).items)[2], "7 settle j2 1");
    // It moves.
    world.apply(register(1, Some(address(9))));
    let plan = world.plan(ROOMY);
    assert_eq!(plan.items[2].payees, [(worker(1), address(9))]);
    // It does not say any more: what was said before holds.
    assert_eq!(plan.items[2].calls.len(), 2);
}

#[test]
fn jobs_that_are_not_settled_are_passed_over_with_one_word() {
    let mut world = World::after((1..=600).map(unsettled));
    let plan = world.plan(ROOMY);
    assert!(plan.is_empty());
    assert_eq!((plan.through, plan.idle_through()), (600, 600));
    world.apply(submit(700));
    let plan = world.plan(ROOMY);
    assert_eq!((plan.items[0].seq, plan.idle_through(), plan.through), (601, 600, 601));
}

#[test]
fn redundant_runs_share_by_whose_result_it_is() {
    let mut spec = spec(terms(Policy::SettleLater));
    spec.redundancy = 3;
    let mut commands: Vec<Command> = (1..=3).map(|n| register(n, Some(address(n)))).collect();
    commands.push(submit_as(1, spec, Source::Api));
    commands.extend((1..=3).map(|n| assign(1, u32::from(n), n)));
    commands.extend([complete(1, 1, 1), complete(1, 2, 2)]);
    let world = World::after(commands);
    let plan = world.plan(ROOMY);
    assert_eq!(stages(&plan), [Stage::Register, Stage::Assign, Stage::Assign, Stage::Assign, Stage::Settle]);
    let record = world.state.job(job(1)).unwrap();
    assert_eq!(plan.items[0].calls, [calls::submit_ai_job(place().contract, record, 300, place().account)]);
    let settle = plan.items.last().unwrap();
    assert_eq!(settle.payees, [(worker(1), address(1)), (worker(2), address(2))], "the third brought nothing");
    assert_eq!(settle.calls.len(), 3);
}

#[test]
fn a_refund_follows_only_what_was_registered() {
    let world = World::after([submit(1), cancel(1), unsettled(2), cancel(2)]);
    let plan = world.plan(ROOMY);
    assert_eq!(shown(&plan.items), ["1 register j1 1", "2 refund j1 1"]);
    assert_eq!(plan.items[1].calls, [calls::cancel_job(place().contract, U256::of(job(1)))]);
    // Registered by an earlier transaction.
    let mut world = World::after([submit(1)]);
    world.settle();
    world.apply(cancel(1));
    assert_eq!(shown(&world.plan(ROOMY).items), ["2 refund j1 1"]);
    // Its registration is parked.
    let mut world = World::after([submit(1)]);
    let item = world.plan(ROOMY).items.remove(0);
    world.act(Act::Park { parked: vec![(item, "spec_mismatch".into(), "".into())], through: 1 });
    world.apply(cancel(1));
    let plan = world.plan(ROOMY);
    assert!(plan.is_empty());
    assert_eq!(plan.through, 2);
}

#[test]
fn no_escrow_goes_back_of_a_job_that_was_given_another_chance() {
    let failed = [submit(1), register(1, Some(address(1))), assign(1, 1, 1), fail(1, 1, 1)];
    let mut world = World::after(failed);
    assert_eq!(stages(&world.plan(ROOMY)), [Stage::Register, Stage::Assign, Stage::Refund]);
    world.apply(Command::Retry { job: job(1) });
    assert_eq!(stages(&world.plan(ROOMY)), [Stage::Register, Stage::Assign]);
    world.apply(assign(1, 2, 1));
    world.apply(complete(1, 2, 1));
    assert_eq!(stages(&world.plan(ROOMY)), [Stage::Register, Stage::Assign, Stage::Assign, Stage::Settle]);
}

#[test]
fn a_job_from_the_chain_is_there_already() {
    let mut world = World::new();
    let Command::Submit(submit) = submit_as(1, spec(terms(Policy::SettleLater)), Source::Chain) else { panic!() };
    let id = U256 { high: 0, low: 5 };
    let arrivals = vec![crate::domain::chain::Arrival { job: id, submit: Some(submit) }];
    let to = crate::domain::chain::Block { number: 3, hash: Felt::from(3u64) };
    world.act(Act::Followed { from: 3, to, arrivals, payments: vec![] });
    world.apply(register(1, None));
    world.apply(assign(1, 1, 1));
    let plan = world.plan(ROOMY);
    assert_eq!(stages(&plan), [Stage::Assign]);
    assert_eq!(plan.items[0].calls, [calls::assign_job_to_worker(place().contract, id, worker(1))]);
}

#[test]
fn a_contract_that_only_takes_submissions_gets_nothing_else() {
    let world = World::after([vec![register(1, Some(address(1)))], life(1, 1).to_vec(), life(2, 1).to_vec()].concat());
    let only = Place { generation: Generation::SubmissionOnly, ..place() };
    let plan = world.plan_at(&only, ROOMY);
    assert_eq!(stages(&plan), [Stage::Register, Stage::Register]);
    assert_eq!(plan.through, world.state.journal().last_seq());
}

#[test]
fn a_transaction_holds_so_many_calls_and_felts() {
    let world = World::after((1..=10).map(submit));
    let plan = world.plan(Room { calls: 4, ..ROOMY });
    assert_eq!((plan.items.len(), plan.through, plan.full), (4, 4, true));
    let each = plan.items[0].calls[0].calldata.len() + 3;
    let plan = world.plan(Room { felts: 3 * each, ..ROOMY });
    assert_eq!((plan.items.len(), plan.through, plan.full), (3, 3, true));
    let plan = world.plan(Room { felts: 1, ..ROOMY });
    assert_eq!(plan.items.len(), 1, "one goes whatever its length");
    let gas = 3 * gas::of(&plan.items[0].calls[0]);
    let plan = world.plan(Room { gas, ..ROOMY });
    assert_eq!((plan.items.len(), plan.through, plan.full), (3, 3, true));
    assert_eq!(world.plan(Room { gas: 1, ..ROOMY }).items.len(), 1, "one goes whatever it takes");
    let mut plan = world.plan(ROOMY);
    assert!(!plan.full);
    plan.keep(7);
    assert_eq!((plan.items.len(), plan.through, plan.calls(), plan.full), (7, 7, 7, true));
}

#[test]
fn a_full_transaction_is_one_that_the_network_takes() {
    let lives = (1..=60).flat_map(|n| life(n, 1));
    let world = World::after([register(1, Some(address(1)))].into_iter().chain(lives).collect::<Vec<_>>());
    let room = Room { calls: 500, gas: gas::CALLS_MAX, ..ROOMY };
    let plan = world.plan(room);
    let gas: u64 = plan.items.iter().flat_map(|item| &item.calls).map(gas::of).sum();
    assert!(plan.full && gas <= gas::CALLS_MAX && gas > gas::CALLS_MAX * 9 / 10, "{gas} of {} calls", plan.calls());
}

#[test]
fn the_oldest_sets_the_time_and_who_waits_for_it_sets_the_pace() {
    let world = World::after([unsettled(1), submit(2), submit(3)]);
    let plan = world.plan(ROOMY);
    assert_eq!(plan.oldest, world.state.journal().after(1, 1).first().map(|entry| entry.at));
    assert!(!plan.urgent);
    let first = submit_as(4, spec(terms(Policy::RegisterBeforeDistribution)), Source::Api);
    let world = World::after([submit(3), first]);
    assert!(world.plan(ROOMY).urgent);
}

#[test]
fn without_an_address_a_payment_waits_for_one() {
    let mut world = World::after([vec![register(1, None)], life(1, 1).to_vec(), vec![submit(2)]].concat());
    // What comes before it goes first.
    let plan = world.plan(ROOMY);
    assert_eq!((stages(&plan), plan.through), (vec![Stage::Register, Stage::Assign], 3));
    let nonce = world.prepare(&plan);
    world.land(nonce, None);
    let plan = world.plan(ROOMY);
    assert_eq!((codes(&plan), plan.items.len(), plan.through), (vec![(4, NO_PAYOUT_ADDRESS)], 0, 4));
    world.park(&plan);
    let parked = world.state.chain().parked(4).unwrap().clone();
    assert!(!can_be_paid(&world.state, &parked.item));
    assert_eq!(shown(&world.plan(ROOMY).items), ["5 register j2 1"], "others go on");

    world.apply(register(1, Some(address(1))));
    assert!(can_be_paid(&world.state, &parked.item));
    world.act(Act::Retry { seq: 4 });
    let plan = world.again();
    assert_eq!(shown(&plan.items), ["4 settle j1 2"]);
    assert_eq!(plan.items[0].payees, [(worker(1), address(1))]);
    // Retried in vain, it waits again.
    let mut world = World::after([vec![register(1, None)], life(1, 1).to_vec()].concat());
    world.settle_what_goes();
    world.park(&world.plan(ROOMY));
    world.act(Act::Retry { seq: 4 });
    assert_eq!(codes(&world.again()), [(4, NO_PAYOUT_ADDRESS)]);
}

#[test]
fn nothing_overtakes_an_item_of_its_job() {
    let mut world = World::after([submit(1), submit(2), register(1, Some(address(1)))]);
    let nonce = world.prepare(&world.plan(ROOMY));
    world.apply(assign(1, 1, 1));
    world.land(nonce, Some("SPEC_MISMATCH"));
    assert_eq!(shown(&world.again().items), ["1 register j1 1", "2 register j2 1"]);
    let plan = world.plan(ROOMY);
    assert!(plan.items.is_empty(), "its registration is to be planned again");
    assert_eq!(Some(plan.through), world.state.journal().cursor(Sink::Chain));

    // The culprit is parked; what was behind it is, too, and the other job goes on.
    let culprit = world.again().items.remove(0);
    let through = world.state.journal().cursor(Sink::Chain).unwrap();
    world.act(Act::Park { parked: vec![(culprit, "spec_mismatch".into(), "".into())], through });
    assert_eq!(shown(&world.again().items), ["2 register j2 1"]);
    let plan = world.plan(ROOMY);
    assert_eq!(codes(&plan), [(4, "behind")]);
    world.park(&plan);
    // An operator retries: both go again, in order.
    world.act(Act::Retry { seq: 1 });
    assert_eq!(shown(&world.again().items), ["1 register j1 1", "2 register j2 1", "4 assign j1 1"]);
}

#[test]
fn what_keeps_reverting_is_parked() {
    let mut world = World::after([submit(1)]);
    let nonce = world.prepare(&world.plan(ROOMY));
    world.land(nonce, Some("Insufficient max L2Gas"));
    let tries = |tries| Plan::again(&world.state, &place(), ROOMY, &[(1, tries)].into());
    assert_eq!(shown(&tries(TRIES - 1).items), ["1 register j1 1"]);
    assert_eq!(codes(&tries(TRIES)), [(1, "keeps_reverting")]);
}

/// A client that takes its allowance back after every estimate: each transaction with its registration reverts.
#[test]
fn what_goes_with_one_that_keeps_reverting_is_settled_all_the_same() {
    let lives = (1..41).flat_map(|n| life(n, 1));
    let mut world = World::after(std::iter::once(register(1, Some(address(1)))).chain(lives));
    let is_culprit = |item: &Item| item.job == job(17) && item.stage == Stage::Register;
    let mut reverts: BTreeMap<u64, u32> = BTreeMap::new();
    let (mut plan, mut reverted) = (world.plan(ROOMY), 0);
    let mut parked = vec![];
    while !plan.is_empty() {
        if !plan.parked.is_empty() {
            parked.extend(plan.parked.iter().map(|(item, code, _)| (item.job, item.stage, code.to_string())));
            world.park(&plan);
        } else {
            let nonce = world.prepare(&plan);
            let bad = plan.items.iter().any(is_culprit);
            world.land(nonce, bad.then_some("ALLOWANCE_TOO_LOW"));
            world.act(Act::Close { nonce });
            if bad {
                reverted += 1;
                plan.items.iter().for_each(|item| *reverts.entry(item.seq).or_default() += 1);
            }
        }
        plan = Plan::again(&world.state, &place(), ROOMY, &reverts);
        if plan.is_empty() {
            plan = world.plan(ROOMY);
        }
    }
    let told: Vec<_> = parked.iter().map(|(of, stage, code)| (*of, *stage, code.as_str())).collect();
    let culprit = job(17);
    assert_eq!(
        told,
        [
            (culprit, Stage::Register, "keeps_reverting"),
            (culprit, Stage::Assign, "behind"),
            (culprit, Stage::Settle, "behind")
        ]
    );
    assert_eq!(reverted, TRIES, "and what that costs is bounded");
    let paid = |n| world.state.chain().settlement(job(n)).unwrap().links.iter().all(|link| link.confirmation.is_some());
    assert!((1..41).filter(|n| *n != 17).all(paid), "all others are settled");
}

#[test]
fn an_assignment_that_its_payment_overtook_is_dropped() {
    let mut world = World::after([vec![register(1, Some(address(1)))], life(1, 1).to_vec()].concat());
    let room = Room { calls: 1, ..ROOMY };
    let first = world.prepare(&world.plan(room));
    world.land(first, None);
    let second = world.prepare(&world.plan(room));
    let third = world.prepare(&world.plan(ROOMY));
    world.land(third, None);
    world.land(second, Some("OUT_OF_GAS"));
    let plan = world.again();
    assert_eq!((plan.items.len(), plan.idle.as_slice()), (0, [3].as_slice()));
    world.park(&plan);
    world.act(Act::Drop { seq: 3 });
    assert_eq!((world.state.chain().parked_len(), world.state.chain().again_len()), (0, 0));
}

#[test]
fn a_refund_of_a_reopened_job_and_a_registration_without_a_refund_are_parked() {
    let mut world = World::after([submit(1), register(1, None), assign(1, 1, 1), fail(1, 1, 1)]);
    let refund = world.plan(ROOMY).items.remove(2);
    let mut begun = world.plan(ROOMY);
    begun.keep(2);
    let nonce = world.prepare(&begun);
    world.land(nonce, None);
    world.act(Act::Park { parked: vec![(refund.clone(), "paused".into(), "".into())], through: refund.seq });
    world.apply(Command::Retry { job: job(1) });
    world.act(Act::Retry { seq: refund.seq });
    let plan = world.again();
    assert_eq!(codes(&plan), [(refund.seq, "reopened")]);
    world.park(&plan);

    let mut world = World::after([submit(1)]);
    let item = world.plan(ROOMY).items.remove(0);
    world.act(Act::Park { parked: vec![(item, "no_reward".into(), "".into())], through: 1 });
    world.apply(cancel(1));
    world.act(Act::Skip { through: 2 });
    world.act(Act::Retry { seq: 1 });
    assert_eq!(codes(&world.again()), [(1, "job_ended")], "nothing would give its escrow back");
}

#[test]
fn a_job_without_a_bound_on_its_price_is_parked() {
    let mut spec = spec(terms(Policy::SettleLater));
    spec.max_price = None;
    let world = World::after([submit_as(1, spec, Source::Api), submit(2)]);
    assert_eq!(codes(&world.plan(ROOMY)), [(1, "no_max_price")]);
}

#[test]
fn a_client_that_has_an_address_is_the_client() {
    let mut spec = spec(terms(Policy::SettleLater));
    spec.client_address = Some("0xc1".into());
    spec.max_price = Some(Price(u128::MAX));
    spec.redundancy = 5;
    let world = World::after([submit_as(1, spec, Source::Api)]);
    let record = world.state.job(job(1)).unwrap();
    let call = calls::submit_ai_job(place().contract, record, u128::MAX, Felt::from(0xc1u64));
    assert_eq!(world.plan(ROOMY).items[0].calls, [call]);
}

impl World {
    fn settle_what_goes(&mut self) {
        let nonce = self.prepare(&self.plan(ROOMY));
        self.land(nonce, None);
    }
}

/// One thing that may happen to one of a few jobs.
fn any_command() -> impl Strategy<Value = Command> {
    let number = || 1u64..5;
    prop_oneof![
        number().prop_map(submit),
        number().prop_map(unsettled),
        number().prop_map(cancel),
        (number(), 1u32..4).prop_map(|(n, attempt)| assign(n, attempt, 1)),
        (number(), 1u32..4).prop_map(|(n, attempt)| complete(n, attempt, 1)),
        (number(), 1u32..4).prop_map(|(n, attempt)| fail(n, attempt, 1)),
        number().prop_map(|n| Command::Retry { job: job(n) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, and however transactions come out: all that is to be settled is, once, in order, and the plan is
    /// always one that the books take.
    #[test]
    fn every_plan_is_taken_and_every_job_keeps_its_order(
        steps in proptest::collection::vec((any_command(), 0u8..8), 1..60), calls in 1usize..6,
    ) {
        let mut world = World::after([register(1, Some(address(1)))]);
        let mut settled: Vec<(crate::domain::JobId, u64)> = vec![];
        let end = std::iter::repeat_n((unsettled(99), 0), 80);
        for (command, dice) in steps.into_iter().chain(end) {
            world.try_apply(command);
            if dice > 5 {
                continue;
            }
            let mut plan = world.again();
            if plan.is_empty() {
                plan = world.plan(Room { calls, ..ROOMY });
            }
            if !plan.parked.is_empty() {
                world.park(&plan);
                for seq in plan.idle {
                    world.act(Act::Drop { seq });
                }
            } else if plan.items.is_empty() {
                world.act(Act::Skip { through: plan.through });
            } else {
                let nonce = world.prepare(&plan);
                // A transaction reverts for its first item only: then the others are planned again.
                let reverted = (dice == 5).then_some("BAD");
                world.land(nonce, reverted);
                if reverted.is_none() {
                    settled.extend(plan.items.iter().map(|item| (item.job, item.seq)));
                }
            }
        }
        let chain = world.state.chain();
        prop_assert_eq!(chain.again_len(), 0);
        prop_assert_eq!(world.state.journal().cursor(Sink::Chain), Some(world.state.journal().last_seq()));
        for (place, (job, seq)) in settled.iter().enumerate() {
            prop_assert!(settled[..place].iter().all(|(other, before)| other != job || before < seq), "{:?}", settled);
        }
    }
}

impl World {
    /// What is refused lost a race, which is normal.
    fn try_apply(&mut self, command: Command) {
        let position = crate::domain::apply::Position { index: self.state.applied() + 1, term: 1 };
        let at = crate::domain::Timestamp(super::fixture::START + position.index);
        drop(self.state.apply(position, &crate::domain::command::Record { at, commands: vec![command] }));
    }
}
