//! A thousand seeds hold; a seed is one history; planted mistakes are found.

use super::faults::Defect;
use super::{Report, play};
use crate::clock;

/// What `.ci/run` plays.
const SEEDS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Plays a seed that broke once more, and says all that happened.
fn tell(seed: u64, defect: Option<Defect>) -> String {
    let Report { lines, broken, .. } = play(seed, defect, true);
    let replay = format!("CIRO_SIM_SEED={seed} cargo test --lib sim::tests::seeds -- --nocapture");
    let last = lines[lines.len().saturating_sub(400)..].join("\n");
    format!("{last}\nseed {seed}: {}\nreplay: {replay}", broken.unwrap_or_else(|| "holds".to_owned()))
}

/// The second half, so that two cores have something to do.
#[test]
fn more_seeds() {
    if number("CIRO_SIM_SEED").is_none() && number("CIRO_SIM_SEEDS").is_none() {
        hold(SEEDS / 2, SEEDS / 2);
    }
}

#[test]
fn seeds() {
    if let Some(seed) = number("CIRO_SIM_SEED") {
        let Report { lines, broken, hash, events, end, seen, .. } = play(seed, None, true);
        println!("{}", lines.join("\n"));
        println!("seed {seed}: {events} events, {end} ms, hash {hash:016x}\n{seen:?}");
        assert!(broken.is_none(), "seed {seed}: {}", broken.unwrap_or_default());
        return;
    }
    hold(number("CIRO_SIM_FROM").unwrap_or(0), number("CIRO_SIM_SEEDS").unwrap_or(SEEDS / 2));
}

fn hold(first: u64, count: u64) {
    let begun = clock::instant();
    let (mut completed, mut records, mut events) = (0, 0, 0);
    for seed in first..first + count {
        let report = play(seed, None, false);
        assert!(report.broken.is_none(), "{}", tell(seed, None));
        completed += report.seen.completed;
        records += report.seen.records;
        events += report.events;
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{count} seeds from {first}: {records} records, {events} events, {completed} jobs completed");
    println!("{took:.1} s, {:.1} seeds/s", count as f64 / took);
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [1, 2, 3] {
        let (one, other) = (play(seed, None, false), play(seed, None, true));
        assert_eq!((one.hash, one.events, one.end), (other.hash, other.events, other.end), "seed {seed}");
    }
    assert_ne!(play(1, None, false).hash, play(2, None, false).hash);
}

/// That a simulation meets what it is for.
#[test]
fn a_few_seeds_meet_most_of_what_can_happen() {
    let mut sum = super::Seen::default();
    for seed in 0..40 {
        let seen = play(seed, None, false).seen;
        sum.expired += seen.expired;
        sum.lost += seen.lost;
        sum.stale += seen.stale;
        sum.voted += seen.voted;
        sum.repeats += seen.repeats;
        sum.reopened += seen.reopened;
    }
    let counts = [sum.expired, sum.lost, sum.stale, sum.voted, sum.repeats, sum.reopened];
    assert!(counts.iter().all(|count| *count > 0), "{sum:?}");
}

/// The first of so many seeds that shows a planted mistake, and what it says.
fn found(defect: Defect, within: u64, word: &str) {
    let shown = (0..within).map(|seed| (seed, play(seed, Some(defect), false).broken));
    let Some((seed, Some(broken))) = shown.into_iter().find(|(_, broken)| broken.is_some()) else {
        panic!("{defect:?} was not found in {within} seeds");
    };
    println!("{defect:?}: seed {seed}: {broken}");
    assert!(broken.contains(word), "{defect:?} was found by something else: {}", tell(seed, Some(defect)));
}

#[test]
fn an_attempt_that_is_not_checked_is_found() {
    found(Defect::AttemptUnchecked, 60, "is of another");
}

#[test]
fn a_cursor_that_moves_before_the_acknowledgement_is_found() {
    found(Defect::CursorEarly, 20, "Kafka lacks it");
}

#[test]
fn a_payment_that_is_made_twice_is_found() {
    found(Defect::PaidTwice, 20, "came about 2 times");
}

#[test]
fn an_acknowledgement_before_a_majority_is_found() {
    found(Defect::AcknowledgedEarly, 20, "no record has it");
}

#[test]
fn what_a_deposed_leader_proposes_is_found_if_it_is_committed() {
    found(Defect::TermUnchecked, 60, "was committed in term");
}

#[test]
fn a_record_that_a_node_leaves_out_is_found() {
    found(Defect::RecordSkipped, 20, "differs at index");
}

#[test]
fn a_node_that_applies_by_its_own_clock_is_found() {
    found(Defect::OwnClock, 5, "differs at index");
}

#[test]
fn a_market_that_gives_more_than_there_is_room_for_is_found() {
    found(Defect::Overcommitted, 20, "it has room for");
}

#[test]
fn leases_that_never_end_are_found() {
    found(Defect::LeasesForgotten, 12, "not everything has come to its end");
}
