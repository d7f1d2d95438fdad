//! The market: announces open jobs, hears bids, awards.
//!
//! One announcement names all open jobs of a round. Workers that are
//! asked answer with one message, also when they offer nothing, so a round ends
//! when everyone who could win has answered, at the latest when its window is
//! over. Awards are committed as one batch; `dispatch` brings them to the
//! workers. Nothing of a round is logged but its awards: a new leader announces
//! again and hears the bids again.
//!
//! A round names no more jobs than there is room for, in serving order. A job
//! that nobody wanted rests for a moment before it is announced again, so that
//! it does not keep the market busy; a change among the workers wakes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{debug, info};

use super::asking::{self, Waits};
use super::leases::millis;
use super::signed::Signed;
use super::{Offer, Reign};
use crate::clock;
use crate::domain::auction::{self, Bid, Bidder, Sealed, Win};
use crate::domain::matching::fits;
use crate::domain::reputation::is_banned;
use crate::domain::worker::{Verdict, Worker};
use crate::domain::{Command, Job, JobId, State, WorkerId};
use crate::mesh::Topic;
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// Bytes of one announcement: gossip takes 64 KiB.
const ANNOUNCEMENT_BYTES: usize = 56 * 1024;

/// Rest of a job that nobody wanted, doubled each time up to the longest.
const REST_FIRST: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(2);

/// A worker that was silent longer than this is not waited for.
const FRESH: Duration = Duration::from_millis(2_500);

/// Jobs a worker bids for beyond its room; more to choose from makes better matches.
const CHOICE: usize = 2;

/// Pairs of job and worker looked at in one round. Jobs that no worker fits rest, so the next round sees others.
const LOOKS_MAX: usize = 20_000;

/// Jobs at rest beyond which looking for others takes long.
const RESTS_MANY: usize = 10_000;

/// Rest of a job that no worker with room fits.
const REST_UNFIT: Duration = Duration::from_secs(5);

/// Shortest time from one announcement to the next: each asks every worker for an answer,
/// and who answers more often than the mesh allows is taken for a flooder.
const PACE: Duration = Duration::from_millis(5);

pub(super) async fn run(reign: Reign, mut offers: mpsc::Receiver<Offer>) {
    let mut market = Market { reign, seq: 0, rests: BTreeMap::new(), seen: BTreeSet::new(), waits: Waits::default() };
    let mut applied = market.reign.context.client.applied();
    loop {
        applied.borrow_and_update();
        let begun = clock::instant();
        let outcome = market.round(&mut offers).await;
        if outcome != Outcome::Quiet {
            tokio::time::sleep(PACE.saturating_sub(begun.elapsed())).await;
        }
        if outcome == Outcome::Awarded {
            continue;
        }
        let tick = market.reign.context.options.tick;
        tokio::select! {
            _ = applied.changed() => {}
            () = tokio::time::sleep(tick) => {}
        }
    }
}

struct Market {
    reign: Reign,
    seq: u64,
    /// Jobs that nobody wanted: until when they rest, and how long the next rest is.
    rests: BTreeMap<JobId, (Instant, Duration)>,
    /// Workers that could have won in the last round if they had had room.
    seen: BTreeSet<WorkerId>,
    waits: Waits,
}

/// What came of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing was announced.
    Quiet,
    /// It was announced, and nobody won.
    Announced,
    Awarded,
}

/// What one round is about.
struct Round {
    jobs: Vec<Arc<Job>>,
    seats: BTreeMap<WorkerId, Seat>,
    /// How many of the workers are asked, see [`asking`].
    asked_permille: u32,
}

/// A worker that could win now, and how much more it can take.
struct Seat {
    worker: Arc<Worker>,
    room: u32,
}

impl Seat {
    fn kinds(&self) -> impl Iterator<Item = &str> {
        self.worker.capabilities.job_types.iter().map(String::as_str)
    }
}

impl Round {
    fn award(&self, bids: &[Bid]) -> Vec<Win> {
        let jobs: Vec<&Job> = self.jobs.iter().map(AsRef::as_ref).collect();
        let bidders = self.seats.iter().map(|(id, seat)| (*id, Bidder { worker: &seat.worker, room: seat.room }));
        auction::award(&jobs, bids, &bidders.collect())
    }
}

impl Market {
    async fn round(&mut self, offers: &mut mpsc::Receiver<Offer>) -> Outcome {
        let Some(mut round) = self.open() else { return Outcome::Quiet };
        let started = clock::instant();
        self.seq += 1;
        while offers.try_recv().is_ok() {}
        if let Err(error) = self.announce(&mut round) {
            debug!(%error, "announcement not published");
            return Outcome::Quiet;
        }
        self.waits.announced(round.jobs.iter().map(|job| job.id), started);
        let (mut bids, answers) = self.collect(&mut round, offers, started).await;
        let wins = self.award(&round, &mut bids, &answers);
        metrics::auction_closed(started.elapsed(), round.jobs.len(), bids.len(), wins.len());
        self.rest(&round, &wins);
        let awarded = self.settle(wins).await;
        self.waits.awarded(&awarded, clock::instant()).for_each(metrics::awarded);
        if awarded.is_empty() { Outcome::Announced } else { Outcome::Awarded }
    }

    /// Picks the jobs and the workers of a round. `None` if either is missing.
    fn open(&mut self) -> Option<Round> {
        let now = clock::instant();
        let context = self.reign.context.clone();
        let fresh: BTreeSet<WorkerId> =
            context.roster.fresher_than(now, FRESH).into_iter().filter(|(_, h)| !h.stopping).map(|(w, _)| w).collect();
        // `apply` waits for a read, so a look that will take long has a frozen view, which costs memory.
        let round = if self.rests.len() > RESTS_MANY {
            self.look(&context.client.view(), &fresh, now)
        } else {
            context.client.read(|state| self.look(state, &fresh, now))
        };
        (!round.jobs.is_empty()).then_some(round)
    }

    fn look(&mut self, state: &State, fresh: &BTreeSet<WorkerId>, now: Instant) -> Round {
        let able: Vec<&Arc<Worker>> = able(state, fresh).collect();
        self.wake(able.iter().map(|worker| worker.id).collect());
        let seats: BTreeMap<WorkerId, Seat> = able.into_iter().filter_map(|worker| seat(state, worker)).collect();
        let jobs = self.pick(state, &seats, now);
        let times = |job: &Arc<Job>| self.rests.get(&job.id).map_or(0, |(_, length)| doublings(*length) + 1);
        let passed_over = jobs.iter().map(times).max().unwrap_or(0);
        let asked_permille = asking::share(seats.len(), jobs.len(), passed_over);
        Round { jobs, seats, asked_permille }
    }

    /// A worker that was not there before may want what the others did not.
    fn wake(&mut self, able: BTreeSet<WorkerId>) {
        if !able.is_subset(&self.seen) {
            self.rests.clear();
        }
        self.seen = able;
    }

    /// The first jobs to be served that a worker with room fits. The others that were looked at rest.
    fn pick(&mut self, state: &State, seats: &BTreeMap<WorkerId, Seat>, now: Instant) -> Vec<Arc<Job>> {
        let context = &self.reign.context;
        let kinds: BTreeSet<&str> = seats.values().flat_map(Seat::kinds).collect();
        let room: usize = seats.values().map(|seat| seat.room as usize).sum();
        let limit = (room * CHOICE).min(context.options.announced_max);
        let rests = &self.rests;
        let resting = |job: &Job| rests.get(&job.id).is_some_and(|(until, _)| *until > now);
        let (mut jobs, mut unfit) = (Vec::new(), Vec::new());
        let looks = (LOOKS_MAX / seats.len().max(1)).max(limit);
        for job in state.open_jobs_of(context.client.log_now(), &kinds).filter(|job| !resting(job)).take(looks) {
            if jobs.len() == limit {
                break;
            }
            if seats.values().any(|seat| fits(&job.spec, &seat.worker, None)) {
                jobs.push(job.clone());
            } else {
                unfit.push(job.id);
            }
        }
        self.rests.extend(unfit.into_iter().map(|job| (job, (now + REST_UNFIT, REST_MAX))));
        jobs
    }

    /// Announces as many jobs of the round as one message takes; the others are not in it.
    fn announce(&self, round: &mut Round) -> Result<(), crate::mesh::Error> {
        let mut message = proto::Announcement {
            term: self.reign.number,
            seq: self.seq,
            window_ms: u32::try_from(self.reign.context.options.window.as_millis()).unwrap_or(u32::MAX),
            jobs: Vec::with_capacity(round.jobs.len()),
            coordinators: self.reign.context.coordinators.clone(),
            asked_permille: round.asked_permille,
        };
        let mut bytes = prost::Message::encoded_len(&message);
        for job in &round.jobs {
            let open = open_job(job);
            bytes += prost::Message::encoded_len(&open) + 8;
            if bytes > ANNOUNCEMENT_BYTES {
                break;
            }
            message.jobs.push(open);
        }
        round.jobs.truncate(message.jobs.len());
        self.reign.context.mesh.publish(Topic::Announcements, wire::encode(&message))
    }

    /// Hears bids until everyone answered or the window is over.
    async fn collect(
        &self,
        round: &mut Round,
        offers: &mut mpsc::Receiver<Offer>,
        started: Instant,
    ) -> (Vec<Bid>, BTreeMap<WorkerId, proto::Bids>) {
        let until = tokio::time::Instant::from_std(started + self.reign.context.options.window);
        let announced: BTreeMap<JobId, u32> = round.jobs.iter().map(|job| (job.id, job.attempt + 1)).collect();
        let mut missing = self.awaited(round);
        let (mut bids, mut answers) = (Vec::new(), BTreeMap::new());
        while !missing.is_empty() {
            let Ok(Some(offer)) = tokio::time::timeout_at(until, offers.recv()).await else { break };
            let current = (offer.bids.term, offer.bids.seq) == (self.reign.number, self.seq);
            if !current || !missing.remove(&offer.worker) {
                continue;
            }
            let rtt_us = self.reign.context.mesh.rtt_us(offer.worker);
            match parse(&offer, &announced, rtt_us) {
                Some(parsed) => {
                    bids.extend(parsed);
                    if let Some(seat) = round.seats.get_mut(&offer.worker) {
                        seat.room = seat.room.min(offer.bids.room);
                    }
                    answers.insert(offer.worker, offer.bids);
                }
                None => self.reign.context.mesh.penalise(offer.worker, "invalid_bid"),
            }
        }
        (bids, answers)
    }

    /// Who will answer: the others are not asked, or run none of the types.
    fn awaited(&self, round: &Round) -> BTreeSet<WorkerId> {
        let kinds: BTreeSet<&str> = round.jobs.iter().map(|job| job.spec.kind.as_str()).collect();
        let asked = |worker| wire::is_asked(worker, self.reign.number, self.seq, round.asked_permille);
        let awaited =
            round.seats.iter().filter(|(id, seat)| asked(**id) && seat.kinds().any(|kind| kinds.contains(kind)));
        awaited.map(|(id, _)| *id).collect()
    }

    /// Awards, and keeps with each award that its winner signed the bid. Only winners' signatures are looked
    /// at; who has none is out, and the round is awarded again without it.
    fn award(&self, round: &Round, bids: &mut Vec<Bid>, answers: &BTreeMap<WorkerId, proto::Bids>) -> Vec<Win> {
        let mut signed = BTreeMap::new();
        loop {
            let mut wins = round.award(bids);
            let mut forgers = BTreeSet::new();
            for win in &mut wins {
                let answer = signed.entry(win.worker).or_insert_with(|| Signed::check(win.worker, answers));
                win.evidence.proof = answer.as_ref().and_then(|answer| answer.proof(win)).map(Box::new);
                if win.evidence.proof.is_none() {
                    forgers.insert(win.worker);
                }
            }
            if forgers.is_empty() {
                return wins;
            }
            bids.retain(|bid| !forgers.contains(&bid.worker));
            for worker in forgers {
                self.reign.context.mesh.penalise(worker, "unsigned_bid");
            }
        }
    }

    /// Lets jobs that nobody wanted rest, and forgets the rests of the others.
    fn rest(&mut self, round: &Round, wins: &[Win]) {
        let now = clock::instant();
        let won: BTreeSet<JobId> = wins.iter().map(|win| win.job).collect();
        let room_left = round.seats.values().map(|seat| seat.room as usize).sum::<usize>() > wins.len();
        for job in &round.jobs {
            if won.contains(&job.id) || !room_left {
                self.rests.remove(&job.id);
                continue;
            }
            let length = self.rests.get(&job.id).map_or(REST_FIRST, |(_, length)| (*length * 2).min(REST_MAX));
            self.rests.insert(job.id, (now + length, length));
        }
        self.rests.retain(|_, (until, length)| *until + *length > now);
    }

    /// Commits the awards, and returns those that are.
    async fn settle(&self, wins: Vec<Win>) -> Vec<JobId> {
        if wins.is_empty() {
            return vec![];
        }
        let jobs: Vec<JobId> = wins.iter().map(|win| win.job).collect();
        let lease_ms = millis(self.reign.context.options.lease);
        let commands = wins
            .into_iter()
            .map(|Win { job, attempt, worker, price, evidence }| {
                let evidence = Sealed::of(evidence);
                Command::Assign { job, attempt, worker, price, lease_ms, evidence }
            })
            .collect();
        match self.reign.record("market", commands).await {
            Ok(replies) => {
                jobs.into_iter().zip(&replies).filter(|(_, reply)| reply.is_ok()).map(|(job, _)| job).collect()
            }
            Err(error) => {
                info!(%error, "awards not recorded, the jobs stay open");
                vec![]
            }
        }
    }
}

/// How often a rest was doubled to be so long.
fn doublings(rest: Duration) -> u32 {
    (rest.as_millis() / REST_FIRST.as_millis()).max(1).ilog2()
}

/// Workers that take jobs now, if they have room.
fn able<'a>(state: &'a State, fresh: &BTreeSet<WorkerId>) -> impl Iterator<Item = &'a Arc<Worker>> {
    let takes = |worker: &&Arc<Worker>| {
        worker.verdict == Verdict::Online && !worker.draining && !is_banned(worker, state.now())
    };
    state.workers().filter(takes).filter(|worker| fresh.contains(&worker.id))
}

fn seat(state: &State, worker: &Arc<Worker>) -> Option<(WorkerId, Seat)> {
    let room = state.room(worker);
    (room > 0).then(|| (worker.id, Seat { worker: Arc::clone(worker), room }))
}

fn open_job(job: &Job) -> proto::OpenJob {
    proto::OpenJob {
        id: bytes::Bytes::copy_from_slice(&job.id.0),
        r#type: job.spec.kind.clone(),
        attempt: job.attempt + 1,
        max_price: job.spec.max_price.map(wire::price_to_bytes).unwrap_or_default(),
        any_price: job.spec.max_price.is_none(),
        requirements: Some(wire::requirements_to_proto(&job.spec.requirements)),
        input_size: job.spec.input.size,
        timeout_secs: job.spec.timeout_secs,
        priority: u32::from(job.spec.priority),
    }
}

/// The bids of one offer. `None` if one names a job or attempt that was not announced, or names it twice.
fn parse(offer: &Offer, announced: &BTreeMap<JobId, u32>, rtt_us: Option<u32>) -> Option<Vec<Bid>> {
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
