//! The joint assignment against every arrangement there is.

use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

use crate::domain::clearing::{Offer, Slots, clear};

/// Whom each job goes to; the measure is: who is served, in order, then the cost.
type Arrangement = Vec<Option<usize>>;

fn cost_of(arrangement: &Arrangement, offers: &[Vec<Offer>], slots: &[Slots]) -> Option<(Vec<bool>, i64)> {
    let mut wins = vec![0i64; slots.len()];
    let mut cost = 0;
    for (job, worker) in arrangement.iter().enumerate() {
        let Some(worker) = worker else { continue };
        let (_, price) = offers[job].iter().find(|(offering, _)| offering == worker)?;
        cost += price + slots[*worker].step * wins[*worker];
        wins[*worker] += 1;
    }
    let fits = wins.iter().zip(slots).all(|(wins, slots)| *wins <= i64::from(slots.room));
    // Served first sorts first.
    fits.then(|| (arrangement.iter().map(Option::is_none).collect(), cost))
}

fn best(offers: &[Vec<Offer>], slots: &[Slots]) -> (Vec<bool>, i64) {
    let mut all: Vec<Arrangement> = vec![vec![]];
    for job in offers {
        let choices: Vec<Option<usize>> = job.iter().map(|(worker, _)| Some(*worker)).chain([None]).collect();
        all =
            all.iter().flat_map(|begun| choices.iter().map(|choice| [begun.as_slice(), &[*choice]].concat())).collect();
    }
    all.iter().filter_map(|arrangement| cost_of(arrangement, offers, slots)).min().unwrap()
}

fn instances() -> impl Strategy<Value = (Vec<Vec<Offer>>, Vec<Slots>)> {
    let slots = prop::collection::vec((0u32..4, 0i64..6), 1..5);
    slots.prop_flat_map(|slots| {
        let workers = slots.len();
        let offer = prop::collection::btree_map(0..workers, -5i64..20, 0..=workers);
        let job = offer.prop_map(|offers| offers.into_iter().collect::<Vec<_>>());
        let slots: Vec<Slots> = slots.into_iter().map(|(room, step)| Slots { room, step }).collect();
        (prop::collection::vec(job, 0..6), proptest::strategy::Just(slots))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_arrangement_serves_more_or_costs_less((offers, slots) in instances()) {
        let found = clear(&offers, &slots);
        let measured = cost_of(&found, &offers, &slots);
        prop_assert!(measured.is_some(), "{found:?} gives a worker more than it has room for");
        prop_assert_eq!(measured, Some(best(&offers, &slots)), "{:?}", found);
    }

    #[test]
    fn the_order_of_offers_changes_nothing_that_counts((offers, slots) in instances(), seed in any::<u64>()) {
        let mut shuffled = offers.clone();
        for (job, offers) in shuffled.iter_mut().enumerate() {
            let turn = (seed as usize).wrapping_add(job) % offers.len().max(1);
            offers.rotate_left(turn);
        }
        let (one, other) = (clear(&offers, &slots), clear(&shuffled, &slots));
        prop_assert_eq!(cost_of(&one, &offers, &slots), cost_of(&other, &offers, &slots));
    }
}

#[test]
fn the_only_worker_for_a_job_is_left_to_it() {
    let slots = [Slots { room: 1, step: 0 }, Slots { room: 1, step: 0 }];
    let offers = [vec![(0, 1), (1, 2)], vec![(0, 1)]];
    assert_eq!(clear(&offers, &slots), [Some(1), Some(0)]);
}

#[test]
fn who_is_served_first_keeps_a_place() {
    let slots = [Slots { room: 1, step: 0 }];
    assert_eq!(clear(&[vec![(0, 900)], vec![(0, 1)]], &slots), [Some(0), None]);
}

#[test]
fn equal_offers_spread() {
    let slots = [Slots { room: 4, step: 10 }, Slots { room: 4, step: 10 }];
    let offers = vec![vec![(0, 5), (1, 5)]; 6];
    let found = clear(&offers, &slots);
    assert_eq!(found.iter().filter(|worker| **worker == Some(0)).count(), 3, "{found:?}");
}

#[test]
fn offers_of_nobody_are_ignored() {
    assert_eq!(clear(&[vec![(7, 1)], vec![]], &[Slots { room: 1, step: 0 }]), [None, None]);
}
