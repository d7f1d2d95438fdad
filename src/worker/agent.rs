//! The task that owns what runs here.
//!
//! It reads what comes in from the mesh, takes assignments, keeps leases, sends
//! heartbeats and bids. It never waits for a disk, a process or a coordinator;
//! those who do are tasks of their own (`attempt`, `reporter`, `registrar`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use super::Settings;
use super::appraiser::Appraiser;
use super::attempt::{Done, Workshop};
use super::bidder::{self, Offer};
use super::coordinators::Coordinators;
use super::desk::{Cause, Desk, Key};
use super::heartbeat::{Pulse, Status};
use super::keeper::Keeper;
use super::machine::Gauge;
use super::orders;
use super::registrar::Standing;
use crate::clock;
use crate::domain::PeerId;
use crate::mesh::{Audience, Gossip, Handle, Inbox, Lane, Request, Topic};
use crate::tasks::Tasks;
use crate::wire;
use crate::wire::proto::mesh::v1::{Announcement, Bids, CoordinatorReply};

/// How long no job is taken after one could not be run here at all. Such a worker fails jobs
/// faster than any other does them, and would win all of them.
const REST: Duration = Duration::from_secs(10);

/// How long killed attempts and undelivered reports may hold up the end.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const DELIVERY_LIMIT: Duration = Duration::from_secs(5);

/// Between the last word and the end of the mesh.
const FAREWELL: Duration = Duration::from_millis(200);

pub(super) struct Parts {
    pub desk: Desk,
    pub workshop: Arc<Workshop>,
    pub coordinators: Coordinators,
    pub keeper: Keeper,
    pub standing: watch::Sender<Standing>,
    pub mesh: Handle,
    pub gauge: Gauge,
    pub tasks: Tasks,
}

pub(super) struct Agent {
    pub(super) parts: Parts,
    pub(super) stopping: bool,
    settings: Settings,
    pulse: Pulse,
    appraiser: Option<Appraiser>,
    rests_until: Option<Instant>,
    /// How long jobs of a type take, in milliseconds: a moving average.
    expected_ms: BTreeMap<String, u32>,
}

/// What the agent reads from.
pub(super) struct Intake {
    inbox: Inbox,
    done: mpsc::Receiver<Done>,
    tick: tokio::time::Interval,
}

impl Intake {
    pub fn new(inbox: Inbox, done: mpsc::Receiver<Done>, tick: Duration) -> Self {
        let mut tick = tokio::time::interval(tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { inbox, done, tick }
    }
}

impl Agent {
    pub fn new(settings: Settings, parts: Parts) -> Self {
        let pulse = Pulse::new(settings.heartbeat, parts.gauge.clone());
        let appraiser = settings.appraisal.clone().map(Appraiser::new);
        Self { parts, stopping: false, settings, pulse, appraiser, rests_until: None, expected_ms: BTreeMap::new() }
    }

    /// Handles the next thing that happens. May be dropped while it waits.
    pub async fn step(&mut self, intake: &mut Intake) {
        tokio::select! {
            Some(request) = intake.inbox.requests.recv() => self.answer(request),
            Some(gossip) = intake.inbox.gossip.recv() => self.hear(gossip),
            Some(done) = intake.done.recv() => self.finish(done),
            _ = intake.tick.tick() => self.look(),
        }
    }

    /// Takes no more jobs, lets running ones finish within `grace`, hands the
    /// others back, and delivers what there is to report. Without grace it
    /// waits for no coordinator either.
    pub async fn wind_down(&mut self, intake: &mut Intake, grace: Duration) {
        info!(running = self.parts.desk.running().len(), "stopping");
        self.stopping = true;
        self.beat();
        if !self.steps_until(intake, grace, |agent| agent.parts.desk.is_idle()).await {
            self.parts.desk.stop_all(Cause::Stopping);
            self.steps_until(intake, KILL_LIMIT, |agent| agent.parts.desk.is_idle()).await;
        }
        let limit = DELIVERY_LIMIT.min(grace);
        let delivered = self.steps_until(intake, limit, |agent| agent.parts.workshop.outbox.is_empty()).await;
        if !delivered {
            warn!("reports not delivered: they will be at the next start");
        }
        // Gossip has no acknowledgement: what was said last needs a moment to leave.
        self.steps_until(intake, FAREWELL, |_| false).await;
    }

    /// False if `limit` passed first.
    async fn steps_until(&mut self, intake: &mut Intake, limit: Duration, is_done: impl Fn(&Self) -> bool) -> bool {
        let until = clock::instant() + limit;
        while !is_done(self) {
            if clock::instant() >= until {
                return false;
            }
            self.step(intake).await;
        }
        true
    }

    /// Takes an order, if it is from a coordinator.
    fn answer(&mut self, request: Request) {
        let Request { peer, lane, body, reply } = request;
        if !matches!(lane, Lane::Worker | Lane::Fetch) || !self.parts.coordinators.knows(peer) {
            debug!(%peer, "order from a stranger");
            return reply.refuse("not a coordinator of this worker");
        }
        if lane == Lane::Fetch {
            if !self.parts.keeper.answer(body, reply, &self.parts.tasks) {
                self.parts.mesh.penalise(peer, "malformed_order");
            }
            return;
        }
        match wire::decode(body).and_then(|order| orders::obey(self, order)) {
            Some(items) => reply.send(wire::encode(&CoordinatorReply { items })),
            None => {
                self.parts.mesh.penalise(peer, "malformed_order");
                reply.refuse("malformed order");
            }
        }
    }

    /// Answers an announcement with bids.
    fn hear(&mut self, gossip: Gossip) {
        let Gossip { topic, source, body, verdict } = gossip;
        if topic != Topic::Announcements {
            return verdict.ignore();
        }
        let Some(announcement) = wire::decode::<Announcement>(body) else { return verdict.reject() };
        if announcement.jobs.len() > wire::ANNOUNCED_MAX {
            return verdict.reject();
        }
        // Not passed on: coordinators reach each other, and every worker here would send it to all of them again.
        verdict.ignore();
        if announcement.uptime_ms > 0 {
            return self.parts.mesh.reborn(source, Duration::from_millis(announcement.uptime_ms.into()));
        }
        let new = self.parts.coordinators.learn(source, &announcement.coordinators);
        if !new.is_empty() {
            self.parts.mesh.keep(new);
        }
        self.bid(source, &announcement);
    }

    fn bid(&self, leader: PeerId, announcement: &Announcement) {
        let offer = Offer {
            capabilities: &self.settings.capabilities,
            terms: &self.settings.terms,
            expected_ms: &self.expected_ms,
            fetched_max: self.settings.freight.inputs.max_bytes,
            room: self.room(),
            load_permille: self.parts.desk.load_permille(),
            turn: rand::random(),
        };
        // One that rests or stops, or whose stopped attempts linger, has room in the leader's book: it is waited for.
        let room = self.parts.desk.room_in_books();
        if !bidder::is_due(announcement, self.parts.mesh.id(), &Offer { room, ..offer }) {
            return;
        }
        let mut bids = bidder::answer(announcement, &offer);
        bids.reach = self.reach();
        let audience = if self.hears(leader) { Audience::One(leader) } else { Audience::Everyone };
        let (mesh, workshop) = (self.parts.mesh.clone(), Arc::clone(&self.parts.workshop));
        let Some(appraiser) = self.appraiser.clone().filter(|_| !bids.bids.is_empty()) else {
            return send_bids(&mesh, audience, &workshop, bids);
        };
        let announcement = announcement.clone();
        self.parts.tasks.spawn_until_stopped("appraisal", async move {
            let bids = appraiser.appraise(&announcement, bids).await;
            send_bids(&mesh, audience, &workshop, bids);
        });
    }

    fn finish(&mut self, done: Done) {
        self.parts.desk.finish(done.key);
        self.pulse.changed(clock::instant());
        if done.ill {
            self.rests_until = Some(clock::instant() + REST);
            warn!(seconds = REST.as_secs(), "jobs cannot be run here: taking none for a while");
        }
        if let Some(took) = done.took {
            let took = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
            let average = self.expected_ms.entry(done.kind).or_insert(took);
            *average = (u64::from(*average) * 7 / 8 + u64::from(took) / 8).try_into().unwrap_or(u32::MAX);
        }
    }

    /// What time brings: lapsed leases, heartbeats.
    fn look(&mut self) {
        let now = clock::instant();
        for (job, attempt) in self.parts.desk.expire(now) {
            warn!(%job, attempt, "lease lost");
        }
        if self.pulse.is_due(now) {
            let status = self.status();
            if self.pulse.is_worth_it(now, &status) {
                self.say(status);
            }
        }
    }

    fn beat(&mut self) {
        let status = self.status();
        self.say(status);
    }

    fn status(&self) -> Status {
        let mut running = self.parts.desk.running();
        // Finished, but not for the log yet: still ours. If not all fit, what runs is named first.
        let on_desk: BTreeSet<Key> = running.iter().copied().collect();
        let reported: BTreeSet<Key> = self.parts.workshop.outbox.keys().into_iter().collect();
        running.extend(reported.difference(&on_desk));
        Status {
            load_permille: self.parts.desk.load_permille(),
            room: self.room(),
            running,
            progress: self.parts.workshop.executor.progress().all(),
            stopping: self.stopping,
        }
    }

    fn say(&mut self, status: Status) {
        let mut heartbeat = self.pulse.beat(clock::instant(), status);
        heartbeat.reach = self.reach();
        if let Err(error) = self.parts.mesh.publish(Topic::Heartbeats, wire::encode(&heartbeat)) {
            debug!(%error, "heartbeat not sent");
        }
    }

    /// What is running changed.
    pub(super) fn changed(&mut self) {
        self.pulse.changed(clock::instant());
    }

    /// The coordinators that hear what is published now, without help. One that does not answer may not.
    fn reach(&self) -> u64 {
        wire::reach(&self.parts.coordinators.all(|peer| self.hears(peer)))
    }

    fn hears(&self, peer: PeerId) -> bool {
        self.parts.mesh.is_connected(peer) && self.parts.coordinators.answers(peer, clock::instant())
    }

    /// How many more jobs this worker takes now.
    pub(super) fn room(&self) -> u32 {
        if self.stopping || self.takes_none() { 0 } else { self.parts.desk.room() }
    }

    /// No job is to be taken, whatever room there is.
    pub(super) fn takes_none(&self) -> bool {
        self.rests_until.is_some_and(|until| clock::instant() < until) || self.parts.workshop.outbox.is_full()
    }
}

/// Signs an answer to an announcement and publishes it.
fn send_bids(mesh: &Handle, audience: Audience, workshop: &Workshop, mut bids: Bids) {
    bids.nonce = rand::random();
    let Some(statement) = wire::signed_bids(&bids) else { return };
    bids.signature = workshop.identity.sign(&statement).into();
    let (seq, offered, room) = (bids.seq, bids.bids.len(), bids.room);
    match mesh.publish_to(Topic::Bids, audience, wire::encode(&bids)) {
        Ok(()) => debug!(seq, bids = offered, room, "answered announcement"),
        Err(error) => debug!(seq, %error, "bids not sent"),
    }
}
