//! Choosing who runs what.
//!
//! Open jobs are announced on gossip; workers answer with bids, which the leader
//! holds in memory. When the window closes it asks this module who won, and
//! proposes the answer with its [`Evidence`]. Bids may be lost at no cost: a new
//! leader finds the jobs still open, announces them again, and hears them again.
//!
//! Invariants
//!
//! * The same bids in any order give the same awards.
//! * A worker wins only on terms it offered, and never more than it has room for.
//! * No job is left out that could be placed beside all before it in the order
//!   of service, and those that are placed cost the least together.
//! * What an award records is enough to judge it again ([`verify`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bid_proof::Proof;
use super::bytes;
use super::clearing::{self, Slots};
use super::ids::{JobId, Price, WorkerId};
use super::job::{Cause, Job};
use super::matching::{Live, fits};
use super::score::{Scale, Terms, Weights, cost, step, weights};
use super::worker::{Verdict, Worker};

/// Offers that an award records, the winner's included.
pub const OFFERS_MAX: usize = 5;

/// What it costs, in millionths, that a worker has let the job down before: more than anything else can.
const LET_DOWN: i64 = 10_000_000;

/// Room below the cost for the lot that decides between equals.
const LOTS: i64 = 256;

/// One worker's offer for one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bid {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    pub price: Price,
    /// What the worker expects the run to take; 0: it does not say.
    pub expected_ms: u32,
    pub load_permille: u32,
    /// Round trip from the leader to the worker, measured by the leader.
    pub rtt_us: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Win {
    pub job: JobId,
    pub attempt: u32,
    pub worker: WorkerId,
    pub price: Price,
    pub evidence: Evidence,
}

/// Why an award went where it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub scale: Scale,
    /// Valid bids in all; only the best are recorded.
    pub bids: u32,
    /// The winner's, then the others from the best on.
    pub offers: Box<[Offer]>,
    /// That the winner signed its bid.
    pub proof: Option<Box<Proof>>,
}

/// [`Evidence`] as the log and the state keep it: small, since every job has one, and read rarely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(#[serde(with = "bytes::boxed")] Box<[u8]>);

/// Longest [`Sealed`], in bytes.
pub(super) const SEALED_MAX: usize = 2 << 10;

/// What is in a [`Sealed`]: all but what the award says anyway.
#[derive(Serialize, Deserialize)]
struct Compact {
    scale: Scale,
    bids: u32,
    won: Terms,
    cost: u32,
    others: Vec<Offer>,
    proof: Option<Box<Proof>>,
}

impl Sealed {
    /// `None` if the first offer is not the winner's.
    pub fn of(evidence: Evidence) -> Option<Self> {
        let Evidence { scale, bids, offers, proof } = evidence;
        let mut offers = offers.into_vec().into_iter();
        let Offer { terms, cost, fate: Fate::Won, .. } = offers.next()? else { return None };
        let won = Terms { price: Price(0), ..terms };
        let compact = Compact { scale, bids, won, cost, others: offers.collect(), proof };
        bincode::serde::encode_to_vec(compact, bincode::config::standard()).ok().map(|bytes| Self(bytes.into()))
    }

    /// The evidence of an award to `worker` for `price`. `None` if these are not the bytes of one.
    pub fn open(&self, worker: WorkerId, price: Price) -> Option<Evidence> {
        let config = bincode::config::standard().with_limit::<SEALED_MAX>();
        let (compact, _): (Compact, _) = bincode::serde::decode_from_slice(&self.0, config).ok()?;
        let Compact { scale, bids, won, cost, others, proof } = compact;
        let won = Offer { worker, terms: Terms { price, ..won }, cost, fate: Fate::Won };
        Some(Evidence { scale, bids, offers: std::iter::once(won).chain(others).collect(), proof })
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the winner expected the run to take, without opening the rest; 0: it did not say.
    pub(super) fn expected_ms(&self) -> u32 {
        let config = bincode::config::standard().with_limit::<SEALED_MAX>();
        let head: Result<((Scale, u32, Terms), usize), _> = bincode::serde::decode_from_slice(&self.0, config);
        head.map_or(0, |((_, _, won), _)| won.expected_ms)
    }
}

/// A valid bid, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub worker: WorkerId,
    pub terms: Terms,
    /// In millionths; the lower the better.
    pub cost: u32,
    pub fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Won,
    /// Another offer was better, or equal and luckier.
    Lost,
    /// It was better, but the worker's room was better used for other jobs of the round.
    Elsewhere,
    /// An attempt of this job has come to nothing on this worker before.
    LetDown,
}

impl Fate {
    pub const ALL: [Self; 4] = [Self::Won, Self::Lost, Self::Elsewhere, Self::LetDown];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Elsewhere => "elsewhere",
            Self::LetDown => "let_down",
        }
    }
}

/// A worker that may win, and how many attempts it can take on in this clearing.
#[derive(Clone, Copy, Debug)]
pub struct Bidder<'a> {
    pub worker: &'a Worker,
    pub room: u32,
}

/// Awards `jobs`, those first in the given order first.
///
/// A bid is valid for the job's next attempt, at no more than its `max_price`, from an
/// online, undrained worker in `bidders` that fits and has room. Equal offers
/// spread over workers by their room, and then by a lot drawn from job and worker.
pub fn award(jobs: &[&Job], bids: &[Bid], bidders: &BTreeMap<WorkerId, Bidder<'_>>) -> Vec<Win> {
    let places: Vec<WorkerId> = bidders.keys().copied().collect();
    let slots: Vec<Slots> = bidders.values().map(slots).collect();
    let mut by_job: BTreeMap<JobId, Vec<&Bid>> = BTreeMap::new();
    for bid in bids {
        by_job.entry(bid.job).or_default().push(bid);
    }
    // Removed, so that a job listed twice is awarded once.
    let markets = jobs.iter().filter_map(|job| Some(Market::of(job, by_job.remove(&job.id)?, bidders)));
    let markets: Vec<Market<'_>> = markets.collect();
    let edges: Vec<Vec<clearing::Offer>> = markets.iter().map(|market| market.edges(&places)).collect();
    let winners = clearing::clear(&edges, &slots);
    markets.iter().zip(winners).filter_map(|(market, winner)| market.win(*places.get(winner?)?)).collect()
}

fn slots(bidder: &Bidder<'_>) -> Slots {
    Slots { room: bidder.room, step: i64::from(step(bidder.room)) * LOTS }
}

/// One job and the valid offers for it.
struct Market<'a> {
    job: &'a Job,
    scale: Scale,
    offers: BTreeMap<WorkerId, Offer>,
}

impl<'a> Market<'a> {
    fn of(job: &'a Job, bids: Vec<&Bid>, bidders: &BTreeMap<WorkerId, Bidder<'_>>) -> Self {
        let offered = bids.into_iter().filter_map(|bid| {
            let bidder = bidders.get(&bid.worker)?;
            is_valid(job, bid, bidder).then(|| (bid.worker, terms(job, bid, bidder.worker)))
        });
        // Of several bids of one worker for one job the cheapest counts, whatever their order.
        let mut best: BTreeMap<WorkerId, Terms> = BTreeMap::new();
        for (worker, terms) in offered {
            let kept = best.entry(worker).or_insert(terms);
            let order = |terms: &Terms| (terms.price, terms.expected_ms, terms.load_permille, terms.rtt_us);
            if order(&terms) < order(kept) {
                *kept = terms;
            }
        }
        let scale = Scale::of(&job.spec, best.values());
        let weights = weights(&job.spec);
        let offers = best.into_iter().map(|(worker, terms)| {
            let fate = if let_down(job, worker) { Fate::LetDown } else { Fate::Lost };
            (worker, Offer { worker, terms, cost: cost(&weights, &scale, &terms), fate })
        });
        Self { job, scale, offers: offers.collect() }
    }

    fn edges(&self, places: &[WorkerId]) -> Vec<clearing::Offer> {
        let edge = |offer: &Offer| {
            let place = places.binary_search(&offer.worker).ok()?;
            let penalty = if offer.fate == Fate::LetDown { LET_DOWN } else { 0 };
            let lot = i64::from(lot(self.job.id, offer.worker).to_be_bytes()[0]);
            Some((place, (i64::from(offer.cost) + penalty) * LOTS + lot))
        };
        self.offers.values().filter_map(edge).collect()
    }

    fn win(&self, worker: WorkerId) -> Option<Win> {
        let won = Offer { fate: Fate::Won, ..self.offers.get(&worker)?.clone() };
        let mut others: Vec<Offer> = self.offers.values().filter(|offer| offer.worker != worker).cloned().collect();
        others.sort_by_key(|offer| (offer.fate == Fate::LetDown, offer.cost, offer.worker));
        for offer in &mut others {
            if offer.fate == Fate::Lost && offer.cost < won.cost {
                offer.fate = Fate::Elsewhere;
            }
        }
        let (price, bids) = (won.terms.price, u32::try_from(self.offers.len()).unwrap_or(u32::MAX));
        let offers = std::iter::once(won).chain(others).take(OFFERS_MAX).collect();
        let evidence = Evidence { scale: self.scale, bids, offers, proof: None };
        Some(Win { job: self.job.id, attempt: self.job.attempt.checked_add(1)?, worker, price, evidence })
    }
}

fn is_valid(job: &Job, bid: &Bid, bidder: &Bidder<'_>) -> bool {
    let live = Live { load_permille: bid.load_permille, rtt_us: bid.rtt_us };
    job.wants_run()
        && !job.involves(bid.worker)
        && job.attempt.checked_add(1) == Some(bid.attempt)
        && job.spec.max_price.is_none_or(|most| bid.price <= most)
        && bidder.room > 0
        && bidder.worker.verdict == Verdict::Online
        && !bidder.worker.draining
        && fits(&job.spec, bidder.worker, Some(live))
}

fn terms(job: &Job, bid: &Bid, worker: &Worker) -> Terms {
    let regions = &job.spec.requirements.preferred_regions;
    Terms {
        price: bid.price,
        expected_ms: bid.expected_ms,
        load_permille: bid.load_permille,
        reputation: worker.reputation,
        rtt_us: bid.rtt_us,
        preferred: regions.is_empty() || regions.contains(&worker.location.region),
        near: job.nearness(&worker.location),
    }
}

/// Whether an attempt of `job` has already come to nothing on `worker`: a machine that can not run it
/// fails fast, so it is always idle and would win the job again until no attempt is left. So has a vote of a
/// round that found no majority.
fn let_down(job: &Job, worker: WorkerId) -> bool {
    let failed = |cause| {
        matches!(cause, Cause::Retry | Cause::Declined | Cause::LeaseExpired | Cause::WorkerLost | Cause::Voted)
    };
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

/// Judges an award again from what it recorded.
///
/// # Errors
///
/// What does not hold, in words.
pub fn verify(
    max_price: Option<Price>,
    weights: &Weights,
    worker: WorkerId,
    price: Price,
    evidence: &Evidence,
) -> Result<(), String> {
    let Some(won) = evidence.offers.first().filter(|offer| offer.fate == Fate::Won) else {
        return Err("the first recorded offer is not the winner's".to_owned());
    };
    if (won.worker, won.terms.price) != (worker, price) {
        return Err("the job was awarded on other terms than the winning offer's".to_owned());
    }
    if max_price.is_some_and(|most| price > most) {
        return Err("the price is above the job's ceiling".to_owned());
    }
    for offer in &evidence.offers {
        let computed = cost(weights, &evidence.scale, &offer.terms);
        if computed != offer.cost {
            return Err(format!("the offer of {} costs {computed}, recorded is {}", offer.worker, offer.cost));
        }
        if offer.fate == Fate::Lost && offer.cost < won.cost {
            return Err(format!("the offer of {} was better and lost", offer.worker));
        }
    }
    Ok(())
}
