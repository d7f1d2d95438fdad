//! Choosing who runs what.
//!
//! Open jobs are announced on gossip; workers answer with bids, which the leader
//! holds in memory. When the window closes it asks this module who won, and
//! proposes only the answer. Bids may be lost at no cost: a new leader finds the
//! jobs still open, announces them again, and hears them again.
//!
//! Invariants
//!
//! * The same bids in any order give the same awards.
//! * A worker wins only on terms it offered, and never more than it has room for.
//!
//! Absent: `preferred_regions` is a wish, not a requirement, and so never a
//! misfit; `max_network_latency_ms` needs measurements that the replicated state
//! does not have, and is not judged here.

use std::collections::BTreeMap;

use super::ids::{JobId, Price, WorkerId};
use super::job::{Cause, Job, JobSpec, JobState};
use super::worker::{Verdict, Worker};

/// One worker's offer for one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bid {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    pub price: Price,
    pub load_permille: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Win {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    pub price: Price,
}

/// A requirement that a worker does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub requirement: &'static str,
    pub wanted: String,
    pub offered: String,
}

/// A worker that may win, and how many attempts it can take on in this clearing.
#[derive(Clone, Copy, Debug)]
pub struct Bidder<'a> {
    pub worker: &'a Worker,
    pub room: u32,
}

/// Awards `jobs` in the given order, each to its best valid bid.
///
/// Valid: for the job's next attempt, at no more than its `max_price`, from an
/// online, undrained worker in `bidders` that fits and has room left. Best: one
/// that has not let this job down before; then the lowest price; then the least load, which grows with each win in this
/// clearing by the share of the worker's room it takes, so that equal bids
/// spread; then a lot drawn from job and worker, which is arbitrary but the same
/// for everyone, and does not favour one worker.
pub fn award(jobs: &[&Job], bids: &[Bid], bidders: &BTreeMap<WorkerId, Bidder<'_>>) -> Vec<Win> {
    let mut by_job: BTreeMap<JobId, Vec<&Bid>> = BTreeMap::new();
    for bid in bids {
        by_job.entry(bid.job).or_default().push(bid);
    }
    let mut clearing = Clearing { bidders, wins: BTreeMap::new() };
    let mut awarded = Vec::new();
    for job in jobs {
        // Removed, so that a job listed twice is awarded once.
        let Some(offers) = by_job.remove(&job.id) else { continue };
        awarded.extend(clearing.best(job, offers));
    }
    awarded
}

/// Whether an attempt of `job` has already come to nothing on `worker`: a machine that can not run it
/// fails fast, so it is always idle and would win the job again until no attempt is left.
fn let_down(job: &Job, worker: WorkerId) -> bool {
    let failed = |cause| matches!(cause, Cause::Retry | Cause::Declined | Cause::LeaseExpired | Cause::WorkerLost);
    job.history.iter().any(|line| line.worker == Some(worker) && failed(line.cause))
}

/// FNV-1a over job and worker, and MurmurHash3's last mixing: without it the order of two workers' lots
/// depends too little on the job.
fn lot(job: JobId, worker: WorkerId) -> u64 {
    let bytes = job.0.iter().chain(&worker.0);
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

struct Clearing<'a> {
    bidders: &'a BTreeMap<WorkerId, Bidder<'a>>,
    wins: BTreeMap<WorkerId, u32>,
}

impl Clearing<'_> {
    fn best(&mut self, job: &Job, offers: Vec<&Bid>) -> Option<Win> {
        if job.state != JobState::Pending {
            return None;
        }
        let attempt = job.attempt.checked_add(1)?;
        let mut ranked: Vec<(bool, Price, u64, u64, WorkerId, u32)> = offers
            .into_iter()
            .filter(|bid| bid.attempt == attempt && job.spec.max_price.is_none_or(|most| bid.price <= most))
            .filter_map(|bid| {
                let failed = let_down(job, bid.worker);
                Some((failed, bid.price, self.load(bid)?, lot(job.id, bid.worker), bid.worker, bid.load_permille))
            })
            .collect();
        ranked.sort_unstable();
        let (_, price, .., worker, _) = ranked.into_iter().find(|(.., worker, load)| self.fits(job, *worker, *load))?;
        *self.wins.entry(worker).or_default() += 1;
        Some(Win { job: job.id, attempt, worker, price })
    }

    /// The bidder's load with what it won so far, in thousandths; `None` if it has no room left or takes no jobs.
    fn load(&self, bid: &Bid) -> Option<u64> {
        let bidder = self.bidders.get(&bid.worker)?;
        let won = self.wins.get(&bid.worker).copied().unwrap_or(0);
        let takes = bidder.worker.verdict == Verdict::Online && !bidder.worker.draining;
        (takes && won < bidder.room)
            .then(|| u64::from(bid.load_permille) + u64::from(won) * 1_000 / u64::from(bidder.room))
    }

    fn fits(&self, job: &Job, worker: WorkerId, load_permille: u32) -> bool {
        self.bidders.get(&worker).is_some_and(|bidder| fits(&job.spec, bidder.worker, load_permille))
    }
}

/// What `worker` lacks for `spec`; empty means it fits. `load_permille` is from its last heartbeat.
///
/// Requirements are named as the REST contract names them; `type` is the job type.
pub fn misfits(spec: &JobSpec, worker: &Worker, load_permille: u32) -> Vec<Misfit> {
    let has = &worker.capabilities;
    let misfit = |requirement, wanted, offered: String| {
        let offered = if offered.is_empty() { "none".to_owned() } else { offered };
        Misfit { requirement, wanted, offered }
    };
    let mut lacking = Vec::new();
    if !has.job_types.contains(&spec.kind) {
        lacking.push(misfit("type", spec.kind.clone(), has.job_types.join(", ")));
    }
    for Shortage { requirement, wanted, offered, unit } in shortages(spec, worker) {
        lacking.push(misfit(requirement, format!("at least {wanted}{unit}"), format!("{offered}{unit}")));
    }
    let missing: Vec<&str> = missing_frameworks(spec, worker).collect();
    if !missing.is_empty() {
        lacking.push(misfit("required_frameworks", missing.join(", "), has.frameworks.join(", ")));
    }
    if overloaded(spec, load_permille) {
        let most = spec.requirements.max_worker_load_permille;
        lacking.push(misfit("max_worker_load", permille(most), permille(load_permille)));
    }
    lacking
}

/// Whether [`misfits`] is empty, without a word about it: this is asked for many jobs times many workers.
pub fn fits(spec: &JobSpec, worker: &Worker, load_permille: u32) -> bool {
    worker.capabilities.job_types.contains(&spec.kind)
        && shortages(spec, worker).next().is_none()
        && missing_frameworks(spec, worker).next().is_none()
        && !overloaded(spec, load_permille)
}

struct Shortage {
    requirement: &'static str,
    wanted: u64,
    offered: u64,
    unit: &'static str,
}

fn shortages(spec: &JobSpec, worker: &Worker) -> impl Iterator<Item = Shortage> {
    let (needs, has) = (&spec.requirements, &worker.capabilities);
    let amounts = [
        ("min_cpu_cores", needs.min_cpu_cores.into(), has.cpu_cores.into(), ""),
        ("min_ram_gb", needs.min_ram_mb, has.ram_mb, " MB"),
        ("min_gpu_memory_gb", needs.min_gpu_memory_mb, has.gpu_memory_mb, " MB"),
        ("min_reputation", needs.min_reputation.into(), worker.reputation.into(), ""),
    ];
    let short = amounts.into_iter().filter(|(_, wanted, offered, _)| offered < wanted);
    short.map(|(requirement, wanted, offered, unit)| Shortage { requirement, wanted, offered, unit })
}

fn missing_frameworks<'a>(spec: &'a JobSpec, worker: &'a Worker) -> impl Iterator<Item = &'a str> {
    let missing = |name: &&String| !worker.capabilities.frameworks.contains(*name);
    spec.requirements.required_frameworks.iter().filter(missing).map(String::as_str)
}

fn overloaded(spec: &JobSpec, load_permille: u32) -> bool {
    let most = spec.requirements.max_worker_load_permille;
    most > 0 && load_permille > most
}

fn permille(value: u32) -> String {
    format!("{}.{:03}", value / 1_000, value % 1_000)
}
