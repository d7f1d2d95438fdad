//! Who may be asked to pay, and what of it there is.

use super::*;
use crate::domain::chain::{Call, ESCROW_LOW, Policy};
use crate::domain::job::Source;
use crate::domain::{Command, JobId, Price};
use crate::leader::settle::plan::{Plan, Room};
use crate::leader::settle::tests::fixture::{
    ROOMY, World, address, assign, cancel, complete, job, place, register, shown, spec, stages, submit, submit_as,
    submit_for, terms,
};

fn codes(plan: &Plan) -> Vec<(u64, &str)> {
    plan.parked.iter().map(|(item, code, _)| (item.seq, &**code)).collect()
}

/// The fixture's jobs take 100 each.
fn with_purse(purse: u128) -> Place {
    Place { purse, ..place() }
}

/// A job that this client may be charged for.
fn charged(n: u64, price: u128) -> Command {
    let mut spec = spec(terms(Policy::SettleLater));
    (spec.client_address, spec.max_price) = (Some("0xc1".into()), Some(Price(price)));
    submit_as(n, spec, Source::Api)
}

#[test]
fn what_is_left_is_what_is_neither_prepared_nor_more_than_is_allowed() {
    let amount = |low| U256 { high: 0, low };
    let have = Token { balance: amount(500), allowance: amount(700) };
    let funds = |have, reserved| Funds { have, reserved, at: clock::instant() };
    assert_eq!((funds(have, 0).purse(), funds(have, 120).left(), funds(have, 900).left()), (500, 380, 0));
    let bounded = Token { allowance: amount(7), ..have };
    assert_eq!(funds(bounded, 0).purse(), 7);
    let huge = Token { balance: U256 { high: 1, low: 0 }, allowance: U256 { high: 9, low: 1 } };
    assert_eq!(funds(huge, 0).purse(), u128::MAX);
    let told = funds(have, 0).worry(3, 501);
    assert!(told.contains("3 registrations wait") && told.contains("500") && told.contains("takes 501"), "{told}");
}

#[test]
fn our_account_pays_unless_a_client_is_named_and_for_registrations_only() {
    let world = World::after(
        [
            vec![register(1, Some(address(1))), submit(1), charged(2, 9), assign(1, 1, 1), complete(1, 1, 1)],
            vec![submit_for(3, 0, Policy::SettleLater)],
        ]
        .concat(),
    );
    let items = world.plan(ROOMY).items;
    assert_eq!(shown(&items).len(), 5);
    let paid: Vec<_> = items.iter().map(|item| (place().escrow(item), place().is_charged(item))).collect();
    assert_eq!(paid, [(100, false), (0, true), (0, false), (0, false), (0, false)]);
    assert!(world.plan(ROOMY).charged);
    assert!(!World::after([submit(1)]).plan(ROOMY).charged);
    let short = Call { calldata: vec![Felt::ZERO; 2], to: Felt::ZERO, selector: Felt::ZERO };
    let odd = Item { seq: 1, job: JobId::default(), stage: Stage::Register, calls: vec![short], payees: vec![] };
    assert_eq!(payment(&odd), None);
}

#[test]
fn a_job_that_is_too_dear_is_put_aside_and_the_others_go_on() {
    let place = with_purse(250);
    let mut world =
        World::after([submit(1), submit_for(2, 251, Policy::SettleLater), submit_for(3, 250, Policy::SettleLater)]);
    // What is before it goes first: what is parked and what is sent are two commands.
    let plan = world.plan_at(&place, ROOMY);
    assert_eq!((shown(&plan.items), plan.through), (vec!["1 register j1 1".to_owned()], 1));
    let nonce = world.prepare(&plan);
    world.land(nonce, None);
    let plan = world.plan_at(&place, ROOMY);
    assert_eq!((codes(&plan), plan.items.len(), plan.through), (vec![(2, ESCROW_LOW)], 0, 2));
    assert!(plan.parked[0].2.contains("takes 251"), "{}", plan.parked[0].2);
    world.park(&plan);
    assert_eq!(shown(&world.plan_at(&place, ROOMY).items), ["3 register j3 1"]);
    // What comes after it of the same job waits behind it.
    world.apply(register(1, Some(address(1))));
    world.apply(assign(2, 1, 1));
    let nonce = world.prepare(&world.plan_at(&place, ROOMY));
    world.land(nonce, None);
    assert_eq!(codes(&world.plan_at(&place, ROOMY)), [(5, "behind")]);
    world.park(&world.plan_at(&place, ROOMY));

    // Funded, both go.
    world.act(crate::domain::chain::Act::Retry { seq: 2 });
    assert_eq!(codes(&world.again_at(&place, ROOMY)), [(2, ESCROW_LOW)], "not yet");
    assert_eq!(shown(&world.again_at(&with_purse(251), ROOMY).items), ["2 register j2 1", "5 assign j2 1"]);
}

#[test]
fn as_many_go_as_there_is_for_and_the_rest_waits() {
    let mut world = World::after((1..=5).map(submit));
    let room = Room { escrow: 250, ..ROOMY };
    let plan = world.plan_at(&with_purse(250), room);
    assert_eq!((plan.items.len(), plan.through, plan.full, plan.parked.len()), (2, 2, true, 0));
    let nonce = world.prepare(&plan);
    // While these are in flight there is too little for the next one, which is not too dear by itself.
    let plan = world.plan_at(&with_purse(250), Room { escrow: 50, ..ROOMY });
    assert_eq!((plan.items.len(), plan.parked.len(), plan.full), (0, 0, true));
    world.land(nonce, Some("OUT_OF_GAS"));
    let again = world.again_at(&with_purse(250), Room { escrow: 199, ..ROOMY });
    assert_eq!((shown(&again.items), again.full), (vec!["1 register j1 1".to_owned()], true));
}

#[test]
fn what_takes_nothing_into_escrow_goes_whatever_there_is() {
    let mut world = World::after([register(1, Some(address(1))), submit(1)]);
    world.settle();
    world.apply(assign(1, 1, 1));
    world.apply(complete(1, 1, 1));
    world.apply(charged(2, 1_000));
    let plan = world.plan_at(&with_purse(0), Room { escrow: 0, ..ROOMY });
    assert_eq!(stages(&plan), [Stage::Assign, Stage::Settle, Stage::Register], "the contract says who pays the last");
}

#[test]
fn a_dear_job_that_is_taken_back_leaves_nothing_to_settle() {
    let mut world = World::after([submit_for(1, 900, Policy::RegisterBeforeDistribution)]);
    let place = with_purse(899);
    world.park(&world.plan_at(&place, ROOMY));
    assert!(world.state.job(job(1)).unwrap().awaits_chain, "it waits for its registration");
    world.apply(cancel(1));
    let plan = world.plan_at(&place, ROOMY);
    assert!(plan.is_empty(), "nothing is in escrow: {plan:?}");
    assert_eq!(plan.through, 2);
}
