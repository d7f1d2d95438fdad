//! Which parked stages are taken up again, and which never will be.

use super::*;
use crate::domain::chain::Policy;
use crate::domain::job::{JobSpec, Source};
use crate::domain::{Command, Price, Timestamp};
use crate::leader::settle::items::Place;
use crate::leader::settle::tests::fixture::{
    ROOMY, START, World, address, assign, cancel, complete, fail, job, place, register, spec, submit_as, submit_for,
    terms,
};

fn broke() -> Place {
    Place { purse: 0, ..place() }
}

#[test]
fn a_client_that_may_be_charged_does_not_let_its_job_go_on_before_there_is_enough() {
    let mut spec = JobSpec { max_price: Some(Price(60)), ..spec(terms(Policy::SettleLater)) };
    spec.client_address = Some("0xc1".into());
    let mut world = World::after([submit_as(1, spec, Source::Api)]);
    // An estimate told that the contract would have our account pay.
    let item = world.plan_at(&broke(), ROOMY).items.remove(0);
    world.act(Act::Park { parked: vec![(item, ESCROW_LOW.into(), "".into())], through: 1 });
    assert_eq!((look(&world, 59).due.len(), look(&world, 60).due), (0, vec![1]));
}

/// Parks the registrations of so many jobs that nobody can run, and of one that has run; nothing is registered.
fn crowded(jobs: u64) -> World {
    let mut world = World::after([register(1, Some(address(1)))]);
    for n in 0..jobs {
        world.apply(later(n + 1_000, 100));
    }
    loop {
        let plan = world.plan_at(&broke(), ROOMY);
        if plan.parked.is_empty() {
            return world;
        }
        let parked = plan.parked.into_iter().map(|(item, _, _)| (item, "spec_mismatch".into(), "".into())).collect();
        world.act(Act::Park { parked, through: plan.through });
    }
}

/// The bound is the real one: what comes behind it waits in the journal, and an operator makes room.
#[test]
fn at_the_bound_nothing_is_lost_and_only_what_concerns_no_money_makes_room() {
    let most = crate::domain::state::LIMITS.letters;
    let mut world = crowded(most as u64);
    assert_eq!((world.state.chain().parked_len(), resolved(&world.state, 9)), (most, vec![]), "all may be run yet");
    world.apply(later(1, 100));
    let next = world.plan_at(&broke(), ROOMY);
    let cursor = world.state.journal().cursor(crate::domain::journal::Sink::Chain);
    let position = crate::domain::apply::Position { index: world.state.applied() + 1, term: 1 };
    let park = Command::Chain(Act::Park { parked: next.parked.clone(), through: next.through });
    let record = crate::domain::command::Record { at: Timestamp(START), commands: vec![park] };
    let reply = world.state.apply(position, &record).remove(0);
    assert_eq!(reply, Err(Refusal::LettersFull { limit: most as u64 }));
    assert_eq!(world.state.journal().cursor(crate::domain::journal::Sink::Chain), cursor, "it is still to be planned");

    // A client gives two jobs up, one of which was run and is to be paid for. The other concerns nobody any more.
    world.apply(assign(1_001, 1, 1));
    world.apply(complete(1_001, 1, 1));
    world.apply(cancel(1_000));
    let idle = resolved(&world.state, 9);
    assert_eq!(idle.len(), 1);
    let item = world.state.chain().parked(idle[0]).unwrap().item.clone();
    assert_eq!((item.job, item.stage), (job(1_000), Stage::Register));
    world.act(Act::Drop { seq: idle[0] });
    world.park(&next);
    assert_eq!(world.state.chain().parked_len(), most);
    assert!(world.state.chain().is_parked(job(1)));
}

/// With all parked that follows, as if the account had nothing.
fn parked(commands: Vec<Command>) -> World {
    let mut world = World::after(commands);
    loop {
        let plan = world.plan_at(&broke(), ROOMY);
        if plan.parked.is_empty() {
            assert!(plan.items.is_empty(), "{:?}", plan.items);
            return world;
        }
        world.park(&plan);
    }
}

fn look(world: &World, left: u128) -> Look {
    let mut look = Look { left, ..Look::default() };
    while look.go_on(&world.state) {}
    look
}

fn later(n: u64, price: u128) -> Command {
    submit_for(n, price, Policy::SettleLater)
}

#[test]
fn registrations_go_on_as_far_as_there_is_for_them_and_a_cheap_one_waits_for_no_dear_one() {
    let world = parked(vec![later(1, 50), later(2, 500), later(3, 40), later(4, 30)]);
    let seen = look(&world, 100);
    assert_eq!((seen.due, seen.short, seen.cheapest, seen.left), (vec![1, 3], 2, 30, 10));
    let seen = look(&world, 9);
    assert_eq!((seen.due.len(), seen.short, seen.cheapest), (0, 4, 30));
    let seen = look(&world, 620);
    assert_eq!((seen.due, seen.short), (vec![1, 2, 3, 4], 0));
}

#[test]
fn a_job_that_was_taken_back_is_not_paid_for_and_one_that_failed_only_when_it_is_tried_again() {
    let overdue = JobSpec {
        deadline: Some(Timestamp(START + 9)),
        max_price: Some(Price(40)),
        ..spec(terms(Policy::SettleLater))
    };
    let mut world = parked(vec![
        register(1, Some(address(1))),
        later(1, 80),
        later(2, 80),
        submit_as(3, overdue, Source::Api),
        assign(1, 1, 1),
        assign(2, 1, 1),
    ]);
    world.apply(cancel(1));
    world.apply(fail(2, 1, 1));
    world.apply(Command::PassDeadline { job: job(3) });
    let seen = look(&world, 1_000);
    assert_eq!((seen.due.len(), seen.short), (0, 0));
    // With what is parked behind it.
    assert_eq!(seen.dropped, [2, 4, 5]);
    world.apply(Command::Retry { job: job(2) });
    assert_eq!(look(&world, 1_000).due, [3]);
    for act in look(&world, 0).acts() {
        world.act(act);
    }
    assert_eq!(world.state.chain().parked_len(), 2, "job 2, and its assignment");
}

#[test]
fn a_job_that_was_completed_is_paid_for_when_there_is_enough() {
    let world = parked(vec![register(1, Some(address(1))), later(1, 100), assign(1, 1, 1), complete(1, 1, 1)]);
    assert_eq!(world.state.chain().parked_len(), 3);
    let seen = look(&world, 100);
    assert_eq!((seen.due, seen.dropped.len()), (vec![2], 0));
    let mut world = world;
    world.act(Act::Retry { seq: 2 });
    assert_eq!(again_for_escrow(world.state.chain()), 100);
    assert_eq!(world.again().items.len(), 3, "all of its life");
}
