//! The joint clearing of a round against the best assignment there is.
//!
//! Needs no cluster: it calls what the leader calls. The optimum comes from
//! another algorithm that shares no code with it, the Hungarian method on jobs ×
//! slots, where the n-th slot of a worker costs n steps more. How jobs would fare
//! one by one, each taking the best offer left, is shown beside it.
//!
//! Instances are random and the seed is a parameter. Those in which not every
//! job finds a place are not compared: who is served then is a matter of order,
//! not of cost.

use std::time::Duration;

use anyhow::bail;
use rand::rngs::StdRng;
use rand::seq::index;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::ClearingArgs;
use super::histogram::Histogram;
use super::report::Report;
use crate::clock;
use crate::domain::clearing::{Offer, Slots, clear};

/// Jobs, workers and bids per job of the rounds that are timed.
const TIMED: [(&str, usize, usize, usize); 4] = [
    ("clear_32_jobs_100_workers", 32, 100, 100),
    ("clear_128_jobs_300_workers", 128, 300, 300),
    ("clear_512_jobs_1000_workers_64_bids_each", 512, 1_000, 64),
    ("clear_512_jobs_1000_workers_all_bid", 512, 1_000, 1_000),
];

/// Jobs, workers and bids per job of the rounds whose cost is compared.
const COMPARED: [(usize, usize, usize); 4] = [(8, 6, 4), (40, 20, 20), (64, 100, 16), (128, 60, 60)];

/// A worker's offer costs at most this, in units of the clearing.
const COST_MAX: i64 = 1_000_000 * 256;

/// What no assignment costs: for slots that were not offered.
const NEVER: i64 = 1 << 50;

pub(super) fn run(args: &ClearingArgs) -> anyhow::Result<Report> {
    let mut rng = StdRng::seed_from_u64(args.seed);
    let compared = compare(&mut rng, args.rounds)?;
    let mut report = Report::new("clearing", parameters(args))
        .seconds("cost_over_optimum_percent", compared.joint_excess())
        .seconds("worst_round_over_optimum_percent", compared.worst)
        .seconds("job_by_job_over_optimum_percent", compared.greedy_excess())
        .count("rounds_compared", compared.rounds)
        .count("rounds_without_place_for_all", compared.left_out);
    for (name, jobs, workers, bids) in TIMED {
        let mut took = Histogram::new();
        for _ in 0..args.rounds {
            let (offers, slots) = instance(&mut rng, jobs, workers, bids);
            took.add(time(&offers, &slots));
        }
        report = report.latency(name, took.summary());
    }
    Ok(report)
}

fn time(offers: &[Vec<Offer>], slots: &[Slots]) -> Duration {
    let began = clock::instant();
    let cleared = clear(offers, slots);
    let took = began.elapsed();
    debug_assert_eq!(cleared.len(), offers.len());
    took
}

/// Every worker has room for 1 to 4; every job has offers of so many of them.
fn instance(rng: &mut StdRng, jobs: usize, workers: usize, bids: usize) -> (Vec<Vec<Offer>>, Vec<Slots>) {
    let slots = (0..workers).map(|_| Slots { room: rng.random_range(1..=4), step: rng.random_range(0..COST_MAX / 8) });
    let slots = slots.collect();
    let offers = (0..jobs).map(|_| {
        let who = index::sample(rng, workers, bids.min(workers));
        who.into_iter().map(|worker| (worker, rng.random_range(0..COST_MAX))).collect()
    });
    (offers.collect(), slots)
}

#[derive(Default)]
struct Compared {
    rounds: u64,
    left_out: u64,
    joint: i128,
    greedy: i128,
    best: i128,
    worst: f64,
}

impl Compared {
    fn joint_excess(&self) -> f64 {
        percent_over(self.joint, self.best)
    }

    fn greedy_excess(&self) -> f64 {
        percent_over(self.greedy, self.best)
    }
}

fn percent_over(cost: i128, best: i128) -> f64 {
    if best == 0 { 0.0 } else { (cost as f64 / best as f64 - 1.0) * 100.0 }
}

fn compare(rng: &mut StdRng, rounds: u32) -> anyhow::Result<Compared> {
    let mut compared = Compared::default();
    for (jobs, workers, bids) in COMPARED {
        for _ in 0..rounds {
            let (offers, slots) = instance(rng, jobs, workers, bids);
            let joint = cost(&clear(&offers, &slots), &offers, &slots)?;
            let greedy = cost(&one_by_one(&offers, &slots), &offers, &slots)?;
            let (Some(joint), Some(greedy)) = (joint, greedy) else {
                compared.left_out += 1;
                continue;
            };
            let best = optimum(&offers, &slots);
            if joint < best {
                bail!("the clearing costs {joint}, less than the optimum {best}: the bench is wrong");
            }
            compared.rounds += 1;
            compared.worst = compared.worst.max(percent_over(joint.into(), best.into()));
            compared.joint += i128::from(joint);
            compared.greedy += i128::from(greedy);
            compared.best += i128::from(best);
        }
    }
    Ok(compared)
}

/// `None` if a job has no place. Fails if a worker has more than it has room for, or a job it did not offer to take.
fn cost(holders: &[Option<usize>], offers: &[Vec<Offer>], slots: &[Slots]) -> anyhow::Result<Option<i64>> {
    let mut wins = vec![0u32; slots.len()];
    let mut sum = Some(0);
    for (job, holder) in holders.iter().enumerate() {
        let Some(worker) = *holder else {
            sum = None;
            continue;
        };
        let Some((_, price)) = offers[job].iter().find(|(offering, _)| *offering == worker) else {
            bail!("job {job} went to worker {worker}, which had not offered")
        };
        sum = sum.map(|sum| sum + price + slots[worker].step * i64::from(wins[worker]));
        wins[worker] += 1;
        if wins[worker] > slots[worker].room {
            bail!("worker {worker} was given more than it has room for");
        }
    }
    Ok(sum)
}

/// Each job takes the best offer left.
fn one_by_one(offers: &[Vec<Offer>], slots: &[Slots]) -> Vec<Option<usize>> {
    let mut wins = vec![0u32; slots.len()];
    let mut take = |offers: &Vec<Offer>| {
        let free = offers.iter().filter(|(worker, _)| wins[*worker] < slots[*worker].room);
        let (best, _) = free.min_by_key(|(worker, price)| price + slots[*worker].step * i64::from(wins[*worker]))?;
        wins[*best] += 1;
        Some(*best)
    };
    offers.iter().map(&mut take).collect()
}

/// The least that any assignment of all jobs costs.
fn optimum(offers: &[Vec<Offer>], slots: &[Slots]) -> i64 {
    let first = |worker: usize| slots[..worker].iter().map(|slots| slots.room as usize).sum::<usize>();
    let columns = first(slots.len());
    let mut costs = vec![vec![NEVER; columns]; offers.len()];
    for (row, offers) in costs.iter_mut().zip(offers) {
        for (worker, price) in offers {
            let start = first(*worker);
            for place in 0..slots[*worker].room {
                row[start + place as usize] = price + slots[*worker].step * i64::from(place);
            }
        }
    }
    hungarian(&costs)
}

/// Cost of the cheapest assignment of every row to a column of its own; there are no fewer columns than rows.
///
/// Row and column 0 are the algorithm's own.
fn hungarian(costs: &[Vec<i64>]) -> i64 {
    let (rows, columns) = (costs.len(), costs.first().map_or(0, Vec::len));
    let (mut of_row, mut of_column) = (vec![0i64; rows + 1], vec![0i64; columns + 1]);
    let mut holder = vec![0usize; columns + 1];
    for row in 1..=rows {
        holder[0] = row;
        let mut least = vec![i64::MAX; columns + 1];
        let mut before = vec![0usize; columns + 1];
        let mut done = vec![false; columns + 1];
        let mut at = 0;
        while holder[at] != 0 {
            done[at] = true;
            let (current, mut delta, mut next) = (holder[at], i64::MAX, 0);
            for column in (1..=columns).filter(|column| !done[*column]) {
                let reduced = costs[current - 1][column - 1] - of_row[current] - of_column[column];
                if reduced < least[column] {
                    (least[column], before[column]) = (reduced, at);
                }
                if least[column] < delta {
                    (delta, next) = (least[column], column);
                }
            }
            for column in 0..=columns {
                if done[column] {
                    of_row[holder[column]] += delta;
                    of_column[column] -= delta;
                } else if least[column] < i64::MAX {
                    least[column] -= delta;
                }
            }
            at = next;
        }
        while at != 0 {
            holder[at] = holder[before[at]];
            at = before[at];
        }
    }
    (1..=columns).filter(|column| holder[*column] != 0).map(|column| costs[holder[column] - 1][column - 1]).sum()
}

fn parameters(args: &ClearingArgs) -> Value {
    json!({ "rounds_per_size": args.rounds, "seed": args.seed })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every arrangement there is.
    fn brute_force(costs: &[Vec<i64>], taken: &mut Vec<bool>) -> i64 {
        let Some((row, others)) = costs.split_first() else { return 0 };
        let mut best = i64::MAX;
        for column in 0..row.len() {
            if !taken[column] {
                taken[column] = true;
                best = best.min(row[column] + brute_force(others, taken));
                taken[column] = false;
            }
        }
        best
    }

    #[test]
    fn the_hungarian_method_finds_what_trying_everything_finds() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..200 {
            let (rows, more) = (rng.random_range(1..=5), rng.random_range(0..=2));
            let mut row = || (0..rows + more).map(|_| rng.random_range(-20..50)).collect::<Vec<i64>>();
            let costs: Vec<Vec<i64>> = (0..rows).map(|_| row()).collect();
            assert_eq!(hungarian(&costs), brute_force(&costs, &mut vec![false; rows + more]), "{costs:?}");
        }
    }

    #[test]
    fn the_clearing_costs_no_more_than_the_optimum() {
        let seed = rand::random();
        println!("seed {seed}");
        let compared = compare(&mut StdRng::seed_from_u64(seed), 5).unwrap();
        assert!(compared.rounds >= 10, "{} rounds, {} left out", compared.rounds, compared.left_out);
        assert_eq!((compared.joint, compared.worst), (compared.best, 0.0));
        assert!(compared.greedy >= compared.best);
    }

    #[test]
    fn an_assignment_beyond_a_workers_room_is_no_measurement() {
        let (offers, slots) = (vec![vec![(0, 1)], vec![(0, 1)]], [Slots { room: 1, step: 0 }]);
        assert!(cost(&[Some(0), Some(0)], &offers, &slots).is_err());
        assert_eq!(cost(&[Some(0), None], &offers, &slots).unwrap(), None);
        assert_eq!(one_by_one(&offers, &slots), [Some(0), None]);
    }
}
