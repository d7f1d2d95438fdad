//! The leader's decisions without a mesh and a log, for `crate::sim`.
//!
//! What is decided is the duties' own code. Around it they wait, send and commit,
//! which the simulation does in their place, in virtual time; so the order of the
//! steps within a round of the market is said once more here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dispatch::{self, Landed, Sent};
use super::flights::Flights;
use super::leases::{self, Leases};
use super::looks::{Closed, Looks, Sight as MarketSight};
pub(crate) use super::publish::sim::{Parcel as Records, Publisher};
use super::round::{Round, open_job, parse};
pub(crate) use super::settle::sim as settle;
use super::verdicts::{Need, Verdicts};
use super::{Offer, asking, reconcile};
use crate::domain::auction::{Bid, Sealed, Win};
use crate::domain::{Command, Job, JobId, State, Timestamp, WorkerId};
use crate::mesh::Roster;
use crate::wire::proto::mesh::v1 as proto;

pub(crate) type Key = (JobId, u32);

pub(crate) const WINDOW: Duration = Duration::from_millis(200);
pub(crate) const LEASE: Duration = Duration::from_secs(6);
pub(crate) const OFFLINE_AFTER: Duration = Duration::from_secs(4);
const FRESH: Duration = Duration::from_millis(2_500);
const ANNOUNCED_MAX: usize = 64;

/// What a duty looks at.
pub(crate) struct Sight<'a> {
    pub state: &'a State,
    pub roster: &'a Roster,
    /// The log's clock.
    pub at: Timestamp,
    pub now: Instant,
}

// ---------------------------------------------------------------- the market

/// A round that is open.
struct Open {
    round: Round,
    announced: BTreeMap<JobId, u32>,
    missing: BTreeSet<WorkerId>,
    asked: usize,
    bids: Vec<Bid>,
    answers: BTreeMap<WorkerId, proto::Bids>,
    since: Instant,
    /// Places of each worker when it was opened.
    rooms: BTreeMap<WorkerId, u32>,
}

pub(crate) struct Market {
    term: u64,
    seq: u64,
    looks: Looks,
    flights: Flights,
    open: Option<Open>,
    /// A planted defect: places are counted twice.
    pub careless: bool,
}

impl Market {
    pub fn new(term: u64) -> Self {
        Self { term, seq: 0, looks: Looks::default(), flights: Flights::default(), open: None, careless: false }
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Opens a round, if there is something to ask for and somebody to ask.
    pub fn open(&mut self, sight: &Sight<'_>) -> Option<proto::Announcement> {
        let fresh = sight.roster.fresher_than(sight.now, FRESH);
        let fresh: BTreeSet<WorkerId> =
            fresh.into_iter().filter(|(_, heard)| !heard.stopping).map(|(w, _)| w).collect();
        let market = MarketSight {
            now: sight.now,
            at: sight.at,
            fresh: &fresh,
            flights: &self.flights,
            offline_after: OFFLINE_AFTER,
            announced_max: ANNOUNCED_MAX,
            connected: &|_| true,
        };
        let mut round = self.looks.look(sight.state, &market);
        let rooms = round.seats.iter().map(|(worker, seat)| (*worker, seat.room)).collect();
        if self.careless {
            round.seats.values_mut().for_each(|seat| seat.room += 1);
        }
        if round.jobs.is_empty() || !(self.flights.is_empty() || round.is_worthwhile()) {
            return None;
        }
        self.seq += 1;
        self.looks.announced(&round.asked);
        let missing = round.awaited(self.term, self.seq);
        let message = proto::Announcement {
            term: self.term,
            seq: self.seq,
            window_ms: 200,
            jobs: round.jobs.iter().map(|job| open_job(job, round.at)).collect(),
            coordinators: vec![],
            asked_permille: round.asked.permille,
            uptime_ms: 0,
        };
        let announced = round.jobs.iter().map(|job| (job.id, job.attempt + 1)).collect();
        let (asked, bids, answers, since) = (missing.len(), Vec::new(), BTreeMap::new(), sight.now);
        self.open = Some(Open { round, announced, missing, asked, bids, answers, since, rooms });
        Some(message)
    }

    pub fn hear(&mut self, worker: WorkerId, bids: proto::Bids) {
        let current = (bids.term, bids.seq) == (self.term, self.seq);
        let Some(open) = self.open.as_mut().filter(|_| current) else { return };
        if !open.missing.remove(&worker) {
            return;
        }
        let offer = Offer { worker, bids };
        let parsed = parse(&offer, &open.announced, None).expect("honest workers bid for what is announced");
        open.bids.extend(parsed);
        if let Some(seat) = open.round.seats.get_mut(&worker) {
            seat.room = seat.room.min(offer.bids.room);
        }
        open.answers.insert(worker, offer.bids);
    }

    /// Awards, if everyone has answered or the window is over; the number of their flight, and the commands.
    pub fn close(&mut self, now: Instant) -> Option<(u64, Vec<Command>)> {
        let open = self.open.as_ref()?;
        let patience = asking::patience(WINDOW, open.asked, open.missing.len());
        if !open.missing.is_empty() && now < open.since + patience {
            return None;
        }
        let Open { round, bids, answers, rooms, .. } = self.open.take()?;
        let Closed { wins, .. } = self.looks.close(&round, bids, &answers, now, &mut |_| {});
        audit(&round, &wins, &rooms);
        if wins.is_empty() {
            return None;
        }
        let flight = self.flights.take_off(&wins);
        let lease_ms = leases::millis(LEASE);
        let assign = |Win { job, attempt, worker, price, evidence }| {
            let evidence = Sealed::of(evidence);
            Command::Assign { job, attempt, worker, price, lease_ms, evidence }
        };
        Some((flight, wins.into_iter().map(assign).collect()))
    }

    /// A commit of awards was answered, or will not be.
    pub fn land(&mut self, flight: u64) {
        self.flights.land(flight);
    }
}

/// Nobody wins more than it has room for, no job is awarded twice, none above its ceiling.
fn audit(round: &Round, wins: &[Win], rooms: &BTreeMap<WorkerId, u32>) {
    let mut taken: BTreeMap<WorkerId, u32> = BTreeMap::new();
    let mut jobs = BTreeSet::new();
    for win in wins {
        *taken.entry(win.worker).or_default() += 1;
        assert!(jobs.insert(win.job), "a round awarded job {} twice", win.job);
        let job = round.jobs.iter().find(|job| job.id == win.job).expect("what was announced");
        assert!(job.ceiling(round.at).is_none_or(|most| win.price <= most), "job {} was awarded too dear", win.job);
        assert_eq!(win.attempt, job.attempt + 1);
    }
    for (worker, taken) in taken {
        let room = rooms.get(&worker).copied().unwrap_or(0);
        assert!(taken <= room, "a round gave {worker} {taken} jobs, it has room for {room}");
    }
}

// ------------------------------------------------------------ what is held

/// An order to a worker, and what it is about.
pub(crate) struct Order {
    pub worker: WorkerId,
    pub body: proto::coordinator_request::Body,
    pub keys: Vec<Key>,
    doubtful: bool,
}

#[derive(Default)]
pub(crate) struct Held {
    leases: Leases,
    verdicts: Verdicts,
    sent: Sent,
}

impl Held {
    /// Renews leases and ends them.
    pub fn leases(&mut self, sight: &Sight<'_>) -> Vec<Command> {
        let held: Vec<(Arc<Job>, u32)> = leases::held(sight.state);
        let claims = leases::claims(sight.roster, sight.now, OFFLINE_AFTER);
        self.leases.judge(&held, &claims, leases::Sight { at: sight.at, instant: sight.now, lease: LEASE })
    }

    /// Tells workers how long they may go on.
    pub fn renewals(&mut self, sight: &Sight<'_>) -> Vec<Order> {
        let told = self.leases.renewals(sight.state, sight.at);
        let order = |(worker, renewals): (WorkerId, Vec<(Key, proto::Renewal)>)| {
            let (keys, renewals): (Vec<Key>, Vec<_>) = renewals.into_iter().unzip();
            self.leases.untold.retain(|key| !keys.contains(key));
            let body = proto::coordinator_request::Body::Renew(proto::Renew { renewals });
            Order { worker, body, keys, doubtful: false }
        };
        told.into_iter().map(order).collect()
    }

    /// A renewal was not answered.
    pub fn untold(&mut self, keys: Vec<Key>) {
        self.leases.untold.extend(keys);
    }

    /// Judges who lives; who is to be asked comes second.
    pub fn verdicts(&mut self, sight: &Sight<'_>) -> (Vec<Command>, Vec<WorkerId>) {
        sight.roster.attend(sight.now);
        let (mut commands, mut asked) = (Vec::new(), Vec::new());
        for worker in sight.state.workers() {
            let heard = sight.roster.silence(worker.id, sight.now);
            match self.verdicts.judge(heard, OFFLINE_AFTER, sight.now, worker.id, worker.verdict) {
                Need::Nothing => {}
                Need::Ask => asked.push(worker.id),
                Need::Tell(verdict) => commands.push(Command::SetVerdict { worker: worker.id, verdict }),
            }
        }
        (commands, asked)
    }

    /// A question was not answered.
    pub fn in_vain(&mut self, worker: WorkerId) {
        self.verdicts.in_vain.insert(worker);
    }

    /// What each worker must stop.
    pub fn stops(sight: &Sight<'_>) -> Vec<(WorkerId, proto::Stop)> {
        let fresh = sight.roster.fresher_than(sight.now, OFFLINE_AFTER);
        let stop = |(worker, heard)| Some((worker, reconcile::unwanted(sight.state, worker, &heard)?));
        fresh.into_iter().filter_map(stop).collect()
    }

    /// Assignments that are to be sent now.
    pub fn assignments(&mut self, sight: &Sight<'_>) -> Vec<Order> {
        let parcels = dispatch::choose(sight.state, &mut self.sent, sight.at, sight.now, 16);
        self.sent.take_off(&parcels);
        let order = |parcel: dispatch::Parcel| {
            let assignments = parcel.items.iter().map(dispatch::assignment).collect();
            let body = proto::coordinator_request::Body::Assign(proto::Assign { assignments });
            let keys = parcel.items.iter().map(|item| (item.job.id, item.attempt)).collect();
            Order { worker: parcel.worker, body, keys, doubtful: parcel.doubtful }
        };
        parcels.into_iter().map(order).collect()
    }

    /// A delivery has come to its end.
    pub fn landed(&mut self, order: Order, answered: bool, now: Instant) {
        let Order { worker, keys, doubtful, .. } = order;
        self.sent.landed(Landed { worker, keys, doubtful, answered }, now);
    }

    /// The commands that record a worker's answers.
    pub fn outcomes(state: &State, order: &Order, items: &[proto::ItemReply]) -> Vec<Command> {
        dispatch::outcomes(state, order.worker, &order.keys, items)
    }
}

/// Jobs whose time is over.
pub(crate) fn overdue(state: &State, at: Timestamp) -> Vec<Command> {
    state.overdue(at).chain(state.stalled(at)).map(|job| Command::PassDeadline { job }).collect()
}
