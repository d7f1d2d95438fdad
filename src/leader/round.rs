//! One round of the market: what is announced, who could win, and what was heard.
//!
//! Nothing here waits or sends; [`super::market`] does, and asks this.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Offer;
use super::asking::Asked;
use crate::domain::auction::{self, Bid, Bidder, Win};
use crate::domain::lost::{LostRound, lost};
use crate::domain::reputation::is_banned;
use crate::domain::worker::{Verdict, Worker};
use crate::domain::{Job, JobId, Price, State, Timestamp, WorkerId};
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// While awards are under way, a round is opened if this part of the places of workers with room is free, or this
/// many.
const WORTH: u32 = 8;
const WORTH_MAX: u32 = 64;

/// What one round is about.
pub(super) struct Round {
    /// The log's clock when it was opened: prices are judged by it.
    pub at: Timestamp,
    pub jobs: Vec<Arc<Job>>,
    pub seats: BTreeMap<WorkerId, Seat>,
    pub asked: Asked,
}

/// A worker that could win now, and how much more it can take.
pub(super) struct Seat {
    pub worker: Arc<Worker>,
    pub room: u32,
}

impl Seat {
    fn kinds(&self) -> impl Iterator<Item = &str> {
        self.worker.capabilities.job_types.iter().map(String::as_str)
    }
}

impl Round {
    /// `before`: what was won already in this round; it takes room.
    pub(super) fn award(&self, bids: &[Bid], before: &[Win]) -> Vec<Win> {
        let jobs: Vec<&Job> = self.jobs.iter().map(AsRef::as_ref).collect();
        let mut bidders = self.bidders();
        for win in before {
            if let Some(bidder) = bidders.get_mut(&win.worker) {
                bidder.room = bidder.room.saturating_sub(1);
            }
        }
        auction::award(&jobs, bids, &bidders)
    }

    /// Whether it pays to ask everyone while awards are under way: when they have landed, more places may be free.
    pub(super) fn is_worthwhile(&self) -> bool {
        let room: u32 = self.seats.values().map(|seat| seat.room).sum();
        let all: u32 = self.seats.values().map(|seat| seat.worker.capabilities.max_parallel_jobs).sum();
        room >= (all / WORTH).min(WORTH_MAX)
    }

    pub(super) fn bidders(&self) -> BTreeMap<WorkerId, Bidder<'_>> {
        self.seats.iter().map(|(id, seat)| (*id, Bidder { worker: &seat.worker, room: seat.room })).collect()
    }

    /// Takes out the bids above what their jobs offer now.
    pub(super) fn split_dear(&self, bids: &mut Vec<Bid>) -> Vec<Bid> {
        let ceilings: BTreeMap<JobId, Price> =
            self.jobs.iter().filter_map(|job| Some((job.id, job.ceiling(self.at)?))).collect();
        let (dear, others) = std::mem::take(bids)
            .into_iter()
            .partition(|bid| ceilings.get(&bid.job).is_some_and(|ceiling| bid.price > *ceiling));
        *bids = others;
        dear
    }

    /// Who will answer: the others are not asked, or run none of the types.
    pub(super) fn awaited(&self, term: u64, seq: u64) -> BTreeSet<WorkerId> {
        let kinds: BTreeSet<&str> = self.jobs.iter().map(|job| job.spec.kind.as_str()).collect();
        let asked = |worker| self.asked.includes(worker, term, seq);
        let awaited =
            self.seats.iter().filter(|(id, seat)| asked(**id) && seat.kinds().any(|kind| kinds.contains(kind)));
        awaited.map(|(id, _)| *id).collect()
    }

    /// What was heard for the jobs that stayed open, for who asks why.
    pub(super) fn lost<'a>(
        &self,
        wins: &[Win],
        bids: impl Iterator<Item = &'a Bid>,
        answers: usize,
    ) -> Vec<(JobId, LostRound)> {
        let mut open: BTreeMap<JobId, Vec<&Bid>> = self.jobs.iter().map(|job| (job.id, Vec::new())).collect();
        for win in wins {
            open.remove(&win.job);
        }
        for bid in bids {
            if let Some(bids) = open.get_mut(&bid.job) {
                bids.push(bid);
            }
        }
        let bidders = self.bidders();
        let noted = |(job, bids): (&Arc<Job>, &Vec<&Bid>)| {
            let ceiling = job.ceiling(self.at);
            let (attempt, cheapest) = (job.attempt.saturating_add(1), lost(job, ceiling, bids, &bidders));
            let note = LostRound { at: self.at, attempt, ceiling, answers, bids: bids.len(), cheapest };
            (job.id, note)
        };
        self.jobs.iter().filter_map(|job| Some((job, open.get(&job.id)?))).map(noted).collect()
    }
}

/// Workers that take jobs now, if they have room.
pub(super) fn able<'a>(state: &'a State, fresh: &BTreeSet<WorkerId>) -> impl Iterator<Item = &'a Arc<Worker>> {
    let takes = |worker: &&Arc<Worker>| {
        worker.verdict == Verdict::Online && !worker.draining && !is_banned(worker, state.now())
    };
    state.workers().filter(takes).filter(|worker| fresh.contains(&worker.id))
}

/// `taken`: places of the worker that awards under way take.
pub(super) fn seat(state: &State, worker: &Arc<Worker>, taken: u32) -> Option<(WorkerId, Seat)> {
    let room = state.room(worker).saturating_sub(taken);
    (room > 0).then(|| (worker.id, Seat { worker: Arc::clone(worker), room }))
}

/// As it is at `now`: what the job offers at most may rise while it waits.
pub(super) fn open_job(job: &Job, now: Timestamp) -> proto::OpenJob {
    proto::OpenJob {
        id: bytes::Bytes::copy_from_slice(&job.id.0),
        r#type: job.spec.kind.clone(),
        attempt: job.attempt + 1,
        max_price: job.ceiling(now).map(wire::price_to_bytes).unwrap_or_default(),
        any_price: job.spec.max_price.is_none(),
        requirements: Some(wire::requirements_to_proto(&job.spec.requirements)),
        input_size: job.spec.input.size,
        timeout_secs: job.spec.timeout_secs,
        priority: u32::from(job.spec.priority),
        client: job.spec.client_address.as_deref().unwrap_or_default().to_owned(),
        input_scheme: job.spec.input.scheme().unwrap_or_default().to_owned(),
    }
}

/// The bids of one offer. `None` if one names a job or attempt that was not announced, or names it twice.
pub(super) fn parse(offer: &Offer, announced: &BTreeMap<JobId, u32>, rtt_us: Option<u32>) -> Option<Vec<Bid>> {
    let mut named = BTreeSet::new();
    let bids = offer.bids.bids.iter().map(|bid| {
        let job = wire::job_id(&bid.job)?;
        let known = announced.get(&job) == Some(&bid.attempt) && named.insert(job);
        let price = wire::price_from_bytes(&bid.price)?;
        let (attempt, expected_ms, load_permille) = (bid.attempt, bid.expected_ms, offer.bids.load_permille);
        known.then_some(Bid { job, attempt, worker: offer.worker, price, expected_ms, load_permille, rtt_us })
    });
    bids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: JobId = JobId([1; 16]);

    fn offer(bids: &[(JobId, u32)]) -> Offer {
        let bids = bids.iter().map(|(job, attempt)| proto::Bid {
            job: bytes::Bytes::copy_from_slice(&job.0),
            attempt: *attempt,
            price: bytes::Bytes::from_static(&[9]),
            expected_ms: 0,
        });
        Offer { worker: WorkerId::default(), bids: proto::Bids { room: 4, bids: bids.collect(), ..Default::default() } }
    }

    #[test]
    fn a_bid_for_an_announced_attempt_counts() {
        let bids = parse(&offer(&[(OPEN, 3)]), &BTreeMap::from([(OPEN, 3)]), None).expect("a good offer");
        assert_eq!(bids.len(), 1);
        assert_eq!((bids[0].job, bids[0].attempt, bids[0].price.0), (OPEN, 3, 9));
    }

    #[test]
    fn an_offer_that_names_what_was_not_announced_is_no_offer() {
        let announced = BTreeMap::from([(OPEN, 3)]);
        assert_eq!(parse(&offer(&[(OPEN, 2)]), &announced, None), None, "an attempt of long ago");
        assert_eq!(parse(&offer(&[(JobId([2; 16]), 3)]), &announced, None), None, "a job nobody knows");
        assert_eq!(parse(&offer(&[(OPEN, 3), (OPEN, 3)]), &announced, None), None, "twice the same job");
        let mut broken = offer(&[(OPEN, 3)]);
        broken.bids.bids[0].price = bytes::Bytes::from_static(&[1; 17]);
        assert_eq!(parse(&broken, &announced, None), None, "a price that is no amount");
    }

    #[test]
    fn an_empty_offer_is_an_answer() {
        assert_eq!(parse(&offer(&[]), &BTreeMap::new(), None), Some(vec![]));
    }
}
