//! Why bids did not win, and what would have to change for a job to be placed.
//!
//! Pure answers for people: [`lost`] judges the bids of a round for a job that
//! stayed open, [`single_changes`] finds the smallest change of one requirement
//! that would let a worker in. Nothing here decides anything.

use std::collections::BTreeMap;

use super::auction::{Bid, Bidder};
use super::ids::{Price, WorkerId};
use super::job::{Job, JobSpec};
use super::matching::{Live, Misfit, misfits};
use super::reputation::FLOOR;
use super::worker::Worker;

/// Bids told of for one job: the cheapest.
pub const BIDS_MAX: usize = 16;

/// Changes told of for one job.
pub const CHANGES_MAX: usize = 8;

/// What the leader heard for a job in the last round in which it stayed open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRound {
    pub at: super::Timestamp,
    pub attempt: u32,
    /// What the job offered at most; `None`: any price.
    pub ceiling: Option<Price>,
    /// Workers that answered the announcement.
    pub answers: usize,
    /// Bids for this job in all; the cheapest are kept.
    pub bids: usize,
    pub cheapest: Vec<LostBid>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBid {
    pub worker: WorkerId,
    pub price: Price,
    pub expected_ms: u32,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Above what the job offered then.
    TooDear,
    /// The worker lacks something, as it does or is now.
    Unfit(Misfit),
    /// All the worker could take went to other jobs of the round.
    NoRoom,
}

impl LostRound {
    /// The lowest price at which a worker that fits would have taken the job.
    pub fn enough(&self) -> Option<Price> {
        self.cheapest.iter().filter(|bid| bid.why == Why::TooDear).map(|bid| bid.price).min()
    }
}

/// The cheapest of `bids` for a job that stayed open, each with why it lost.
pub fn lost(
    job: &Job,
    ceiling: Option<Price>,
    bids: &[&Bid],
    bidders: &BTreeMap<WorkerId, Bidder<'_>>,
) -> Vec<LostBid> {
    let mut bids = bids.to_vec();
    bids.sort_by_key(|bid| (bid.price, bid.worker));
    let judged = bids.into_iter().take(BIDS_MAX).map(|bid| LostBid {
        worker: bid.worker,
        price: bid.price,
        expected_ms: bid.expected_ms,
        why: why(job, ceiling, bid, bidders.get(&bid.worker)),
    });
    judged.collect()
}

fn why(job: &Job, ceiling: Option<Price>, bid: &Bid, bidder: Option<&Bidder<'_>>) -> Why {
    let live = Live { load_permille: bid.load_permille, rtt_us: bid.rtt_us };
    let lack = bidder.and_then(|bidder| misfits(&job.spec, bidder.worker, Some(live)).into_iter().next());
    match lack {
        Some(lack) => Why::Unfit(lack),
        None if ceiling.is_some_and(|most| bid.price > most) => Why::TooDear,
        None => Why::NoRoom,
    }
}

/// A change of one requirement that would let workers in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub requirement: &'static str,
    pub wanted: String,
    /// The nearest value that does, in the unit of the field.
    pub would_do: String,
    /// Workers that would fit then.
    pub workers: usize,
}

/// How far off and what would do; what was wanted, and how many workers it lets in. The nearest first.
type Nearest = BTreeMap<(u64, String), (String, usize)>;

/// For each requirement that alone keeps workers away: the smallest change that lets one in, those that let in most
/// workers first. `workers` are those that take jobs.
pub fn single_changes<'a>(spec: &JobSpec, workers: impl Iterator<Item = (&'a Worker, Option<Live>)>) -> Vec<Change> {
    let mut found: BTreeMap<&'static str, Nearest> = BTreeMap::new();
    for (worker, live) in workers {
        let lacks = misfits(spec, worker, live);
        let [lack] = lacks.as_slice() else { continue };
        let Some((distance, would_do)) = enough(spec, worker, live, lack) else { continue };
        let by_value = found.entry(lack.requirement).or_default();
        by_value.entry((distance, would_do)).or_insert_with(|| (lack.wanted.clone(), 0)).1 += 1;
    }
    let mut changes: Vec<Change> = found
        .into_iter()
        .filter_map(|(requirement, values)| {
            let ((_, would_do), (wanted, workers)) = values.into_iter().next()?;
            Some(Change { requirement, wanted, would_do, workers })
        })
        .collect();
    changes.sort_by(|a, b| b.workers.cmp(&a.workers).then(a.requirement.cmp(b.requirement)));
    changes.truncate(CHANGES_MAX);
    changes
}

/// How far off, and what value would do. `None`: the job can not change that.
fn enough(spec: &JobSpec, worker: &Worker, live: Option<Live>, lack: &Misfit) -> Option<(u64, String)> {
    let (needs, has) = (&spec.requirements, &worker.capabilities);
    match lack.requirement {
        "min_cpu_cores" => Some((u64::from(needs.min_cpu_cores.abs_diff(has.cpu_cores)), has.cpu_cores.to_string())),
        "min_ram_gb" => Some((needs.min_ram_mb.abs_diff(has.ram_mb), gigabytes(has.ram_mb))),
        "min_gpu_memory_gb" => {
            Some((needs.min_gpu_memory_mb.abs_diff(has.gpu_memory_mb), gigabytes(has.gpu_memory_mb)))
        }
        "min_reputation" if worker.reputation >= FLOOR => {
            Some((u64::from(needs.min_reputation.abs_diff(worker.reputation)), worker.reputation.to_string()))
        }
        "required_frameworks" => {
            let missing = |name: &&String| !has.frameworks.contains(*name);
            let count = needs.required_frameworks.iter().filter(missing).count();
            Some((count as u64, format!("without {}", lack.wanted)))
        }
        "max_worker_load" => {
            let load = live?.load_permille;
            Some((u64::from(load), format!("{}.{:03}", load / 1_000, load % 1_000)))
        }
        "max_network_latency_ms" => {
            let ms = live?.rtt_us?.div_ceil(1_000);
            Some((u64::from(ms), ms.to_string()))
        }
        _ => None,
    }
}

/// MB as GB with up to three decimals, never more than there is.
fn gigabytes(mb: u64) -> String {
    let thousandths = mb.saturating_mul(1_000) / 1_024;
    let text = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
