//! Which strangers are given a job.
//!
//! Anybody can make a key and offer everything for nothing. A worker that has
//! never completed a job is a stranger: it gets what proven workers do not bid for
//! or have no room for, and now and then a job that one would have, its audition.
//! So what strangers can spoil while there is room is bounded by time, whatever they
//! bid and however many they are, and an honest one is proven by its first job. They
//! take turns, one job at a time, those last that have broken one. A job that was
//! attempted before is nobody's audition.
//!
//! Jobs with redundancy are not held back from strangers: their results are compared.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::round::{Round, Seat};
use crate::domain::auction::Bid;
use crate::domain::{JobId, WorkerId};

/// Time from one audition to the next.
const EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Auditions {
    last: Option<(Instant, WorkerId)>,
}

impl Auditions {
    /// Splits off what strangers bid for jobs that proven workers bid for: it counts only if these have no room. One
    /// of the jobs is perhaps an audition: of the bids for it only a stranger's is left.
    pub fn split(&mut self, round: &Round, bids: &mut Vec<Bid>, now: Instant) -> Vec<Bid> {
        let is_proven = |bid: &Bid| round.seats.get(&bid.worker).is_some_and(|seat| seat.worker.completed > 0);
        let single: BTreeSet<JobId> = round.jobs.iter().filter(|job| job.redundancy() == 1).map(|job| job.id).collect();
        let wanted: BTreeSet<JobId> = bids.iter().filter(|bid| is_proven(bid)).map(|bid| bid.job).collect();
        let is_held = |bid: &Bid| single.contains(&bid.job) && wanted.contains(&bid.job) && !is_proven(bid);
        let fresh: BTreeSet<JobId> = round.jobs.iter().filter(|job| job.attempt == 0).map(|job| job.id).collect();
        let is_idle = |seat: &&Seat| seat.room == seat.worker.capabilities.max_parallel_jobs;
        let candidate = |bid: &Bid| {
            let worker = &round.seats.get(&bid.worker).filter(is_idle)?.worker;
            let broken = worker.failed.saturating_add(worker.lost);
            fresh.contains(&bid.job).then_some((broken, bid.worker, bid.job))
        };
        let audition = self.choose(bids.iter().filter(|bid| is_held(bid)).filter_map(candidate), now);
        let (later, first): (Vec<Bid>, Vec<Bid>) = std::mem::take(bids).into_iter().partition(is_held);
        *bids = first;
        let Some((worker, job)) = audition else { return later };
        bids.retain(|bid| bid.job != job);
        let (given, later): (Vec<Bid>, Vec<Bid>) = later.into_iter().partition(|bid| bid.worker == worker);
        bids.extend(given.into_iter().filter(|bid| bid.job == job));
        later
    }

    /// Of those that broke the fewest jobs the first after the one that had the last audition, if it is time for one.
    fn choose(
        &mut self,
        strangers: impl Iterator<Item = (u64, WorkerId, JobId)>,
        now: Instant,
    ) -> Option<(WorkerId, JobId)> {
        if self.last.is_some_and(|(at, _)| now.saturating_duration_since(at) < EVERY) {
            return None;
        }
        let after = self.last.map(|(_, worker)| worker);
        let turn = |(broken, worker, job): &(u64, WorkerId, JobId)| {
            (*broken, after.is_some_and(|last| *worker <= last), *worker, *job)
        };
        let (_, worker, job) = strangers.min_by_key(turn)?;
        self.last = Some((now, worker));
        Some((worker, job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::domain::PeerId;

    #[test]
    fn strangers_have_auditions_in_turn_and_not_too_often() {
        let (mut auditions, now) = (Auditions::default(), clock::instant());
        let worker = |n: u8| PeerId([n; 32]);
        let bids = [3, 1, 4, 2].map(|n| (u64::from(n == 4), worker(n), JobId([n; 16])));
        let mut chosen = |after| auditions.choose(bids.into_iter(), now + after).map(|(worker, _)| worker.0[0]);
        assert_eq!(chosen(Duration::ZERO), Some(1));
        assert_eq!(chosen(EVERY / 2), None, "too soon");
        assert_eq!([1, 2, 3, 4].map(|turn| chosen(EVERY * turn)), [Some(2), Some(3), Some(1), Some(2)]);
    }
}
