//! What the market remembers from round to round, what the next is about, and who wins it.
//!
//! Nothing here waits, sends, or reads a clock; [`super::market`] does, and asks
//! this. What is remembered only saves repetition: a new leader begins without.
//!
//! A round names no more jobs than there is room for, in serving order. A job
//! that nobody wanted rests for a moment before it is announced again, so that
//! it does not keep the market busy; a change among the workers wakes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asking::Asked;
use super::audition::Auditions;
use super::flights::Flights;
use super::quorum::Quorums;
use super::round::{Round, Seat, able, seat};
use super::signed::Signed;
use crate::domain::auction::{Bid, Win};
use crate::domain::matching::{Class, fits};
use crate::domain::worker::Worker;
use crate::domain::{Job, JobId, Price, State, Timestamp, WorkerId};
use crate::wire::proto::mesh::v1 as proto;

/// Rest of a job that nobody wanted, doubled each time up to the longest.
const REST_FIRST: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(2);

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

/// What a look is made with beside the state.
pub(super) struct Sight<'a> {
    pub now: Instant,
    /// The log's clock.
    pub at: Timestamp,
    /// Workers heard of lately.
    pub fresh: &'a BTreeSet<WorkerId>,
    pub flights: &'a Flights,
    pub offline_after: Duration,
    pub announced_max: usize,
    /// Whether this leader has a connection to a worker.
    pub connected: &'a dyn Fn(WorkerId) -> bool,
}

#[derive(Default)]
pub(super) struct Looks {
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
    auditions: Auditions,
    /// The group of workers that the next round begins with.
    turn: u8,
}

/// How a round came out.
pub(super) struct Closed {
    pub wins: Vec<Win>,
    /// All that were heard, but those above what their jobs offer.
    pub bids: Vec<Bid>,
    pub dear: Vec<Bid>,
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

impl Looks {
    /// Whether so many jobs rest that looking for others takes long.
    pub fn takes_long(&self) -> bool {
        self.rests.len() > RESTS_MANY
    }

    /// Notes that a round was announced. Returns how many workers hear it.
    pub fn announced(&mut self, asked: &Asked) -> usize {
        self.turn = asked.next(self.turn);
        asked.hearing(self.seen.len())
    }

    /// Ends a round: who wins, and what rests. `blame` is told who did not sign what it bid.
    pub fn close(
        &mut self,
        round: &Round,
        mut bids: Vec<Bid>,
        answers: &BTreeMap<WorkerId, proto::Bids>,
        now: Instant,
        blame: &mut dyn FnMut(WorkerId),
    ) -> Closed {
        let dear = round.split_dear(&mut bids);
        let mut later = self.auditions.split(round, &mut bids, now);
        let mut wins = award(round, &mut bids, &[], answers, blame);
        let won: BTreeSet<JobId> = wins.iter().map(|win| win.job).collect();
        later.retain(|bid| !won.contains(&bid.job));
        let given = award(round, &mut later, &wins, answers, blame);
        wins.extend(given);
        bids.extend(later);
        self.rest(round, &wins, now);
        Closed { wins, bids, dear }
    }

    /// What the next round is about, as `state` has it.
    pub fn look(&mut self, state: &State, sight: &Sight<'_>) -> Round {
        let (now, at) = (sight.now, sight.at);
        let able: Vec<&Arc<Worker>> = able(state, sight.fresh).collect();
        let quorums = Quorums::among(&able);
        self.wake(able.iter().map(|worker| worker.id), now, sight.offline_after);
        let taken = sight.flights.taken(state);
        let seat = |worker: &Arc<Worker>| seat(state, worker, taken.get(&worker.id).copied().unwrap_or(0));
        let seats: BTreeMap<WorkerId, Seat> = able.iter().copied().filter_map(seat).collect();
        self.wake_classes(seats.keys().copied().collect());
        let jobs = self.pick(state, &seats, quorums, sight);
        let times = |job: &Arc<Job>| self.rests.get(&job.id).map_or(0, |rest| doublings(rest.length) + 1);
        let passed_over = jobs.iter().map(times).max().unwrap_or(0);
        let connected: Vec<WorkerId> = seats.keys().copied().filter(|worker| (sight.connected)(*worker)).collect();
        let asked = Asked::among(seats.len(), &connected, self.turn, jobs.len(), passed_over);
        Round { at, jobs, seats, asked }
    }

    /// A worker that was not there for a while may want what the others did not.
    fn wake(&mut self, able: impl Iterator<Item = WorkerId>, now: Instant, forgotten: Duration) {
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
        sight: &Sight<'_>,
    ) -> Vec<Arc<Job>> {
        let (now, at, flights) = (sight.now, sight.at, sight.flights);
        let room: usize = seats.values().map(|seat| seat.room as usize).sum();
        let limit = (room * CHOICE).min(sight.announced_max);
        if limit == 0 {
            return Vec::new();
        }
        let rests = &self.rests;
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

    /// Lets jobs that nobody wanted rest, and forgets the rests of the others.
    fn rest(&mut self, round: &Round, wins: &[Win], now: Instant) {
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
}

/// Awards, and keeps with each award that its winner signed the bid. Only winners' signatures are looked
/// at; who has none is out, and the round is awarded again without it.
fn award(
    round: &Round,
    bids: &mut Vec<Bid>,
    before: &[Win],
    answers: &BTreeMap<WorkerId, proto::Bids>,
    blame: &mut dyn FnMut(WorkerId),
) -> Vec<Win> {
    let mut signed = BTreeMap::new();
    loop {
        let mut wins = round.award(bids, before);
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
        forgers.into_iter().for_each(&mut *blame);
    }
}

/// How often a rest was doubled to be so long.
fn doublings(rest: Duration) -> u32 {
    (rest.as_millis() / REST_FIRST.as_millis()).max(1).ilog2()
}
