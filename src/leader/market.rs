//! The market: announces open jobs, hears bids, awards.
//!
//! One announcement names all open jobs of a round. Workers that are
//! asked answer with one message, also when they offer nothing, so a round ends
//! when everyone who could win has answered, at the latest when its window is
//! over. Awards are committed as one batch, and while they commit the next round
//! is open ([`super::flights`]); `dispatch` brings them to the workers. Nothing of
//! a round is logged but its awards: a new leader announces again and hears the
//! bids again. One round is open at a time; when leadership ends, it and the
//! commits under way are dropped, and the log alone says which awards hold.
//!
//! A round names no more jobs than there is room for, in serving order. A job
//! that nobody wanted rests for a moment before it is announced again, so that
//! it does not keep the market busy; a change among the workers wakes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::asking::{self, Asked, Waits};
use super::audition::Auditions;
use super::flights::{Commits, Flights, Landed};
use super::leases::millis;
use super::quorum::Quorums;
use super::round::{Round, Seat, able, open_job, parse, seat};
use super::signed::Signed;
use super::{Offer, Reign};
use crate::clock;
use crate::domain::auction::{Bid, Sealed, Win};
use crate::domain::matching::{Class, fits};
use crate::domain::worker::Worker;
use crate::domain::{Command, Job, JobId, Price, State, Timestamp, WorkerId};
use crate::mesh::{Audience, Topic};
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

/// Pairs of class and worker, and jobs, looked at in one round. Classes that no worker fits rest, and so do jobs that
/// nobody wanted, so the next round sees others.
const LOOKS_MAX: usize = 20_000;

/// Classes known to rest. Beyond it they are looked at again in every round.
const CLASSES_MAX: usize = 10_000;

/// Jobs at rest beyond which looking for others takes long.
const RESTS_MANY: usize = 10_000;

/// Rest of a class that no worker with room fits; a worker that gets room wakes it.
const REST_UNFIT: Duration = Duration::from_secs(1);

/// Shortest time from one look to the next after a look that found nothing to announce: every applied record is a reason for another.
const PACE_QUIET: Duration = Duration::from_millis(10);

/// Longest lease that an award comes with: one that its worker never acknowledges is soon free again. The first
/// heartbeat that claims the attempt renews it to the full lease.
const FIRST_LEASE: Duration = Duration::from_secs(15);

pub(super) async fn run(reign: Reign, mut offers: mpsc::Receiver<Offer>) {
    let mut applied = reign.context.client.applied();
    reign.context.roster.lost_bids.clear();
    let mut market = Market::new(reign);
    let mut commits = Commits::default();
    loop {
        applied.borrow_and_update();
        while commits.is_full() {
            market.land(commits.landed().await);
        }
        let begun = clock::instant();
        let (outcome, landed) = commits.alongside(market.round(&mut offers)).await;
        landed.into_iter().for_each(|commit| market.land(commit));
        let quiet = matches!(outcome, Outcome::Quiet) && market.flights.is_empty();
        let pace = if quiet { PACE_QUIET } else { asking::pace(market.hearing) };
        let awarded = matches!(outcome, Outcome::Awarded(_));
        if let Outcome::Awarded(wins) = outcome {
            commits.push(market.settle(wins));
        }
        let ((), landed) = commits.alongside(tokio::time::sleep(pace.saturating_sub(begun.elapsed()))).await;
        landed.into_iter().for_each(|commit| market.land(commit));
        if awarded {
            continue;
        }
        let tick = market.reign.context.options.tick;
        tokio::select! {
            commit = commits.landed() => market.land(commit),
            _ = applied.changed() => {}
            () = tokio::time::sleep(tick) => {}
        }
    }
}

struct Market {
    reign: Reign,
    seq: u64,
    /// Jobs that nobody wanted.
    rests: BTreeMap<JobId, Rest>,
    /// Classes that no worker with room fitted, and until when they rest.
    unfit: BTreeMap<Class, Instant>,
    /// The worker that fitted a class last: it is looked at first, so classes that none fits are not in the way.
    fitted: BTreeMap<Class, WorkerId>,
    /// Workers that got room since all classes were looked at: those that rest are tested against them alone.
    newcomers: BTreeSet<WorkerId>,
    /// The class at which the next look begins; above 0 if the last one did not get through.
    from: Class,
    /// Workers that could have won a short while ago if they had had room, and when last.
    seen: BTreeMap<WorkerId, Instant>,
    /// Those among them that had room.
    seated: BTreeSet<WorkerId>,
    flights: Flights,
    waits: Waits,
    auditions: Auditions,
    /// The group of workers that the next round begins with.
    turn: u8,
    /// Workers that heard the last one.
    hearing: usize,
}

/// The rest of a job that nobody wanted.
struct Rest {
    until: Instant,
    /// The next one is twice as long.
    length: Duration,
    /// What it offered at most. When it offers more it rests no longer.
    ceiling: Option<Price>,
}

impl Rest {
    fn is_over(&self, job: &Job, now: Instant, at: Timestamp) -> bool {
        self.until <= now || job.ceiling(at) > self.ceiling
    }
}

/// What came of a round.
enum Outcome {
    /// Nothing was announced.
    Quiet,
    /// It was announced, and nobody won.
    Announced,
    Awarded(Vec<Win>),
}

impl Market {
    fn new(reign: Reign) -> Self {
        Self {
            reign,
            seq: 0,
            rests: BTreeMap::new(),
            unfit: BTreeMap::new(),
            fitted: BTreeMap::new(),
            newcomers: BTreeSet::new(),
            from: 0,
            seen: BTreeMap::new(),
            seated: BTreeSet::new(),
            flights: Flights::default(),
            waits: Waits::default(),
            auditions: Auditions::default(),
            turn: 0,
            hearing: 0,
        }
    }

    async fn round(&mut self, offers: &mut mpsc::Receiver<Offer>) -> Outcome {
        let Some(mut round) = self.open() else { return Outcome::Quiet };
        let started = clock::instant();
        self.seq += 1;
        while offers.try_recv().is_ok() {}
        if let Err(error) = self.announce(&mut round) {
            debug!(%error, "announcement not published");
            return Outcome::Quiet;
        }
        self.turn = round.asked.next(self.turn);
        self.hearing = round.asked.hearing(self.seen.len());
        self.waits.announced(round.jobs.iter().map(|job| job.id), started);
        let (mut bids, answers) = self.collect(&mut round, offers, started).await;
        let dear = round.split_dear(&mut bids);
        let mut later = self.auditions.split(&round, &mut bids, clock::instant());
        let mut wins = self.award(&round, &mut bids, &answers);
        let won: BTreeSet<JobId> = wins.iter().map(|win| win.job).collect();
        later.retain(|bid| !won.contains(&bid.job));
        wins.extend(self.award(&round, &mut later, &answers));
        bids.extend(later);
        metrics::auction_closed(started.elapsed(), round.jobs.len(), bids.len(), wins.len());
        self.rest(&round, &wins);
        for (job, note) in round.lost(&wins, bids.iter().chain(&dear), answers.len()) {
            self.reign.context.roster.lost_bids.note(job, note);
        }
        if wins.is_empty() { Outcome::Announced } else { Outcome::Awarded(wins) }
    }

    /// Picks the jobs and the workers of a round. `None` if either is missing.
    fn open(&mut self) -> Option<Round> {
        let now = clock::instant();
        let context = self.reign.context.clone();
        let at = context.client.log_now();
        let idle = |state: &State| state.open_count() == 0 && state.open_jobs(at).next().is_none();
        if context.client.read(idle) {
            return None;
        }
        let fresh: BTreeSet<WorkerId> =
            context.roster.fresher_than(now, FRESH).into_iter().filter(|(_, h)| !h.stopping).map(|(w, _)| w).collect();
        // `apply` waits for a read, so a look that will take long has a frozen view, which costs memory.
        let round = if self.rests.len() > RESTS_MANY {
            self.look(&context.client.view(), &fresh, now)
        } else {
            context.client.read(|state| self.look(state, &fresh, now))
        };
        (!round.jobs.is_empty() && (self.flights.is_empty() || round.is_worthwhile())).then_some(round)
    }

    fn look(&mut self, state: &State, fresh: &BTreeSet<WorkerId>, now: Instant) -> Round {
        let able: Vec<&Arc<Worker>> = able(state, fresh).collect();
        let quorums = Quorums::among(&able);
        self.wake(able.iter().map(|worker| worker.id), now);
        let at = self.reign.context.client.log_now();
        let taken = self.flights.taken(state);
        let seat = |worker: &Arc<Worker>| seat(state, worker, taken.get(&worker.id).copied().unwrap_or(0));
        let seats: BTreeMap<WorkerId, Seat> = able.iter().copied().filter_map(seat).collect();
        self.wake_classes(seats.keys().copied().collect());
        let jobs = self.pick(state, &seats, quorums, now, at);
        let times = |job: &Arc<Job>| self.rests.get(&job.id).map_or(0, |rest| doublings(rest.length) + 1);
        let passed_over = jobs.iter().map(times).max().unwrap_or(0);
        let connected = |worker: &WorkerId| self.reign.context.mesh.is_connected(*worker);
        let connected: Vec<WorkerId> = seats.keys().copied().filter(connected).collect();
        let asked = Asked::among(seats.len(), &connected, self.turn, jobs.len(), passed_over);
        Round { at, jobs, seats, asked }
    }

    /// A worker that was not there for a while may want what the others did not.
    fn wake(&mut self, able: impl Iterator<Item = WorkerId>, now: Instant) {
        let forgotten = self.reign.context.options.offline_after;
        self.seen.retain(|_, at| now.saturating_duration_since(*at) <= forgotten);
        for worker in able {
            if self.seen.insert(worker, now).is_none() {
                self.rests.clear();
            }
        }
    }

    /// A worker that had no room before may fit what the others do not.
    fn wake_classes(&mut self, seated: BTreeSet<WorkerId>) {
        self.newcomers.extend(seated.difference(&self.seated));
        self.seated = seated;
    }

    /// The first jobs to be served that a worker with room fits. Classes that none fits rest.
    fn pick(
        &mut self,
        state: &State,
        seats: &BTreeMap<WorkerId, Seat>,
        mut quorums: Quorums<'_>,
        now: Instant,
        at: Timestamp,
    ) -> Vec<Arc<Job>> {
        let context = &self.reign.context;
        let room: usize = seats.values().map(|seat| seat.room as usize).sum();
        let limit = (room * CHOICE).min(context.options.announced_max);
        if limit == 0 {
            return Vec::new();
        }
        let (rests, flights) = (&self.rests, &self.flights);
        let (unfit, last, newcomers) = (&mut self.unfit, &mut self.fitted, &self.newcomers);
        let (mut looks, from, mut beyond) = (LOOKS_MAX, self.from, None);
        let fitted = |class, example: &Job| {
            let suits = |seat: &Seat| fits(&example.spec, &seat.worker, None);
            if last.get(&class).and_then(|worker| seats.get(worker)).is_some_and(suits) {
                looks = looks.saturating_sub(1);
                return true;
            }
            let resting = unfit.get(&class).is_some_and(|until| *until > now);
            if class < from || (resting && newcomers.is_empty()) {
                return false;
            }
            if looks == 0 {
                beyond.get_or_insert(class);
                return false;
            }
            let looked = seats.iter().filter(|(worker, _)| !resting || newcomers.contains(worker));
            let mut tried = 0;
            let found = looked.inspect(|_| tried += 1).find(|(_, seat)| suits(seat)).map(|(worker, _)| *worker);
            looks = looks.saturating_sub(tried);
            if let Some(worker) = found {
                unfit.remove(&class);
                if last.len() < CLASSES_MAX || last.contains_key(&class) {
                    last.insert(class, worker);
                }
            } else if !resting && unfit.len() < CLASSES_MAX {
                unfit.insert(class, now + REST_UNFIT);
            }
            found.is_some()
        };
        let rested = |job: &Job| rests.get(&job.id).is_none_or(|rest| rest.is_over(job, now, at));
        let free = |job: &Job| job.spec.redundancy <= 1 || seats.keys().any(|worker| !job.involves(*worker));
        let wanted = |job: &Job| rested(job) && free(job) && !flights.holds(state, job.id) && quorums.may_go_on(job);
        let serving = state.serving(at, fitted, wanted).within(LOOKS_MAX);
        // They were the first of their client, and are so again: others have the other half.
        let mut again = limit.div_ceil(2);
        let share = |job: &&Arc<Job>| {
            let counts = rests.contains_key(&job.id);
            let takes = !counts || again > 0;
            again -= usize::from(counts && takes);
            takes
        };
        let jobs = serving.filter(share).take(limit).cloned().collect();
        if beyond.is_none() && from == 0 {
            self.newcomers.clear();
        }
        if self.fitted.len() >= CLASSES_MAX {
            self.fitted.clear();
        }
        self.from = beyond.unwrap_or_default();
        self.unfit.retain(|_, until| *until > now);
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
            asked_permille: round.asked.permille,
            uptime_ms: 0,
        };
        let mut bytes = prost::Message::encoded_len(&message);
        for job in &round.jobs {
            let open = open_job(job, round.at);
            bytes += prost::Message::encoded_len(&open) + 8;
            if bytes > ANNOUNCEMENT_BYTES {
                break;
            }
            message.jobs.push(open);
        }
        round.jobs.truncate(message.jobs.len());
        let (mesh, body) = (&self.reign.context.mesh, wire::encode(&message));
        let Some((groups, _)) = &round.asked.groups else { return mesh.publish(Topic::Announcements, body) };
        groups.iter().try_for_each(|group| mesh.publish_to(Topic::Announcements, Audience::Group(*group), body.clone()))
    }

    /// Hears bids until everyone answered or the window is over; longer if next to nobody answered in it.
    async fn collect(
        &self,
        round: &mut Round,
        offers: &mut mpsc::Receiver<Offer>,
        started: Instant,
    ) -> (Vec<Bid>, BTreeMap<WorkerId, proto::Bids>) {
        let window = self.reign.context.options.window;
        let announced: BTreeMap<JobId, u32> = round.jobs.iter().map(|job| (job.id, job.attempt + 1)).collect();
        let mut missing = round.awaited(self.reign.number, self.seq);
        let asked = missing.len();
        let (mut bids, mut answers) = (Vec::new(), BTreeMap::new());
        while !missing.is_empty() {
            let until = tokio::time::Instant::from_std(started + asking::patience(window, asked, missing.len()));
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
            let length = self.rests.get(&job.id).map_or(REST_FIRST, |rest| (rest.length * 2).min(REST_MAX));
            let rest = Rest { until: now + length, length, ceiling: job.ceiling(round.at) };
            self.rests.insert(job.id, rest);
        }
        self.rests.retain(|_, rest| rest.until + rest.length > now);
    }

    fn land(&mut self, commit: Landed) {
        self.flights.land(commit.flight);
        self.waits.awarded(&commit.awarded, clock::instant()).for_each(metrics::awarded);
    }

    /// Sends the awards off; what is returned is done when they are in the log, or are known not to be.
    fn settle(&mut self, wins: Vec<Win>) -> BoxFuture<'static, Landed> {
        let flight = self.flights.take_off(&wins);
        let jobs: Vec<JobId> = wins.iter().map(|win| win.job).collect();
        let lease_ms = millis(self.reign.context.options.lease.min(FIRST_LEASE));
        let commands = wins
            .into_iter()
            .map(|Win { job, attempt, worker, price, evidence }| {
                let evidence = Sealed::of(evidence);
                Command::Assign { job, attempt, worker, price, lease_ms, evidence }
            })
            .collect();
        let reign = self.reign.clone();
        Box::pin(async move {
            let awarded = match reign.record("market", commands).await {
                Ok(replies) => {
                    jobs.into_iter().zip(&replies).filter(|(_, reply)| reply.is_ok()).map(|(job, _)| job).collect()
                }
                Err(error) => {
                    info!(%error, "awards not recorded, the jobs stay open");
                    vec![]
                }
            };
            Landed { flight, awarded }
        })
    }
}

/// How often a rest was doubled to be so long.
fn doublings(rest: Duration) -> u32 {
    (rest.as_millis() / REST_FIRST.as_millis()).max(1).ilog2()
}
