//! Who gets which job, for all jobs and workers of a round together.
//!
//! Job by job, the first takes the machine that the second alone could use.
//! Here each job that is served may push others to their second choice, as long
//! as the sum gets better and nobody loses a place: shortest augmenting paths,
//! one per job in serving order. So a job is left out only if no arrangement
//! could place it beside all before it, and those placed cost the least there is.
//!
//! Costs are integers; `step` makes each further win of a worker dearer, so that
//! equal offers spread. Invariants, kept between jobs with a potential per job
//! and per worker: no edge of the residual graph has a negative reduced cost.
//!
//! Time: for every job at most one walk over the offers of the jobs placed so
//! far; far less while there is room, since a walk ends at the first free slot.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A worker's offer for a job: the place of the worker, and what it would cost.
pub type Offer = (usize, i64);

/// How much a worker can take.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    pub room: u32,
    /// By how much each win makes the next one dearer. Not negative.
    pub step: i64,
}

/// The place of the worker that gets each job, in the order of `offers`.
///
/// A job may name a worker once. Offers of workers that do not exist are ignored.
pub fn clear(offers: &[Vec<Offer>], slots: &[Slots]) -> Vec<Option<usize>> {
    let mut round = Round {
        offers,
        slots,
        holders: vec![None; offers.len()],
        held: vec![Vec::new(); slots.len()],
        job_potential: vec![0; offers.len()],
        worker_potential: vec![0; slots.len()],
        walk: Walk { jobs: vec![None; offers.len()], workers: vec![None; slots.len()], heap: BinaryHeap::new() },
    };
    for job in 0..offers.len() {
        round.place(job);
    }
    round.holders
}

struct Round<'a> {
    offers: &'a [Vec<Offer>],
    slots: &'a [Slots],
    holders: Vec<Option<usize>>,
    held: Vec<Vec<usize>>,
    job_potential: Vec<i64>,
    worker_potential: Vec<i64>,
    walk: Walk,
}

/// One search for a free slot: how far it is to each job and worker reached.
struct Walk {
    jobs: Vec<Option<i64>>,
    workers: Vec<Option<Step>>,
    heap: BinaryHeap<Reverse<(i64, Node)>>,
}

/// How a worker was reached.
#[derive(Clone, Copy)]
struct Step {
    distance: i64,
    /// The job whose offer led here.
    from: usize,
    done: bool,
}

/// Ends come first: of two ways of equal length the one that is complete.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    /// A free slot of this worker.
    Free(usize),
    Worker(usize),
}

impl Round<'_> {
    /// Finds a place for `job`, moving others if need be.
    fn place(&mut self, job: usize) {
        let dearest = self.offers_of(job).map(|(worker, cost)| self.worker_potential[worker] - cost).max();
        let Some(potential) = dearest else { return };
        self.job_potential[job] = potential;
        self.walk.reset();
        self.leave(job, 0);
        while let Some(Reverse((distance, node))) = self.walk.heap.pop() {
            match node {
                Node::Free(worker) => return self.settle(job, worker, distance),
                Node::Worker(worker) => self.visit(worker, distance),
            }
        }
    }

    fn offers_of(&self, job: usize) -> impl Iterator<Item = Offer> + '_ {
        let known = |(worker, _): &Offer| self.slots.get(*worker).is_some_and(|slots| slots.room > 0);
        self.offers[job].iter().copied().filter(known)
    }

    /// `job`, reached at `distance`, may go to any worker that offered.
    fn leave(&mut self, job: usize, distance: i64) {
        self.walk.jobs[job] = Some(distance);
        for (worker, cost) in self.offers[job].iter().copied() {
            if self.slots.get(worker).is_none_or(|slots| slots.room == 0) || self.holders[job] == Some(worker) {
                continue;
            }
            let reduced = cost + self.job_potential[job] - self.worker_potential[worker];
            self.walk.reach(worker, distance + reduced, job);
        }
    }

    /// A worker gives a free slot, or the slot of a job that then must go elsewhere.
    fn visit(&mut self, worker: usize, distance: i64) {
        match &mut self.walk.workers[worker] {
            Some(step) if !step.done && step.distance == distance => step.done = true,
            _ => return,
        }
        let (used, slots) = (self.held[worker].len(), self.slots[worker]);
        if used < slots.room as usize {
            let wins = i64::try_from(used).unwrap_or(i64::MAX);
            let reduced = slots.step.saturating_mul(wins) + self.worker_potential[worker];
            self.walk.heap.push(Reverse((distance + reduced, Node::Free(worker))));
        }
        for place in 0..used {
            let job = self.held[worker][place];
            // A job lies at no distance from its holder.
            if self.walk.jobs[job].is_none() {
                self.leave(job, distance);
            }
        }
    }

    /// Takes the way that was found: every job on it moves one worker on.
    fn settle(&mut self, job: usize, end: usize, distance: i64) {
        for (potential, reached) in self.job_potential.iter_mut().zip(&self.walk.jobs) {
            *potential += reached.map_or(0, |at| (at - distance).min(0));
        }
        for (potential, step) in self.worker_potential.iter_mut().zip(&self.walk.workers) {
            *potential += step.map_or(0, |step| (step.distance - distance).min(0));
        }
        let mut worker = end;
        while let Some(step) = self.walk.workers[worker] {
            let before = self.holders[step.from].replace(worker);
            self.held[worker].push(step.from);
            let Some(before) = before else { break };
            self.held[before].retain(|held| *held != step.from);
            worker = before;
        }
        debug_assert!(self.holders[job].is_some());
    }
}

impl Walk {
    fn reset(&mut self) {
        self.jobs.fill(None);
        self.workers.fill(None);
        self.heap.clear();
    }

    fn reach(&mut self, worker: usize, distance: i64, from: usize) {
        if self.workers[worker].is_some_and(|step| step.distance <= distance) {
            return;
        }
        self.workers[worker] = Some(Step { distance, from, done: false });
        self.heap.push(Reverse((distance, Node::Worker(worker))));
    }
}
