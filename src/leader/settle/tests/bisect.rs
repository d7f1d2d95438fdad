//! The culprit is found among any others, with few questions.

use futures::executor::block_on;
use proptest::prelude::*;

use super::*;
use crate::chain::{Error, Kind, Refused};
use crate::domain::JobId;
use crate::domain::chain::{Bounds, Stage};

fn items(count: usize) -> Vec<Item> {
    let item = |seq| Item { seq, job: JobId::default(), stage: Stage::Assign, calls: vec![], payees: vec![] };
    (1..=count as u64).map(item).collect()
}

/// Costs as much as there are items.
fn cost(items: &[Item]) -> Estimate {
    Estimate { fee: items.len() as u128, bounds: Bounds::default() }
}

fn reverted(word: &str) -> EstimateError {
    EstimateError::Reverted { word: word.to_owned(), reason: word.to_uppercase() }
}

/// Answers as it is told, and counts the questions.
struct Told<F>(F, usize);

impl<F: FnMut(&[Item], usize) -> Result<Estimate, EstimateError> + Send> Estimator for Told<F> {
    async fn estimate(&mut self, items: &[Item]) -> Result<Estimate, EstimateError> {
        self.1 += 1;
        (self.0)(items, self.1)
    }
}

fn ask(
    count: usize,
    answer: impl FnMut(&[Item], usize) -> Result<Estimate, EstimateError> + Send,
) -> (Result<Found, EstimateError>, usize) {
    let mut told = Told(answer, 0);
    let found = block_on(find(&items(count), &mut told));
    (found, told.1)
}

/// What is found if calls of these entries revert, and how many questions it takes.
fn found(count: usize, poisoned: &[u64]) -> (Found, usize) {
    let (found, asked) = ask(count, |items, _| match items.iter().find(|item| poisoned.contains(&item.seq)) {
        Some(item) => Err(reverted(&format!("bad_{}", item.seq))),
        None => Ok(cost(items)),
    });
    (found.unwrap(), asked)
}

#[test]
fn good_items_go_at_the_first_question() {
    assert_eq!(found(150, &[]), (Found::Fine(cost(&items(150))), 1));
}

#[test]
fn what_comes_before_all_items_may_be_the_culprit() {
    let (Ok(Found::Culprit(culprit)), _) = ask(9, |_, _| Err(reverted("stale_epoch"))) else { panic!() };
    assert_eq!((culprit.fine, culprit.word.as_str()), (None, "stale_epoch"));
}

#[test]
fn an_estimate_that_can_not_be_had_is_no_verdict() {
    let down = || EstimateError::Failed(Error::Down("no answer".to_owned()));
    let (found, asked) = ask(9, |items, asked| match asked {
        1 => Err(reverted("bad")),
        2 => Ok(cost(items)),
        _ => Err(down()),
    });
    assert_eq!((found, asked), (Err(down()), 3));
    let refused = Refused { kind: Kind::InsufficientBalance, detail: String::new() };
    let refused = || EstimateError::Refused(refused.clone());
    assert_eq!(ask(9, |_, _| Err(refused())).0, Err(refused()));
}

proptest! {
    #[test]
    fn the_first_culprit_is_found(count in 1usize..300, seeds in proptest::collection::vec(0usize..300, 1..6)) {
        let poisoned: Vec<u64> = seeds.iter().map(|seed| (seed % count) as u64 + 1).collect();
        let first = *poisoned.iter().min().unwrap();
        let (found, asked) = found(count, &poisoned);
        let Found::Culprit(culprit) = found else { panic!("not found") };
        let (fine, estimate) = culprit.fine.unwrap();
        prop_assert_eq!(fine as u64, first - 1);
        prop_assert_eq!(estimate.fee, fine as u128);
        prop_assert_eq!(culprit.word, format!("bad_{first}"));
        prop_assert!(asked <= 2 + count.next_power_of_two().ilog2() as usize, "{} questions for {}", asked, count);
    }
}
