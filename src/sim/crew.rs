//! Workers: their real bidder and their real desk, with an executor that only takes time.
//!
//! The outbox survives a crash, what runs does not. A result is handed to any
//! coordinator until one has answered for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::oneshot::Receiver;

use super::faults::Defect;
use super::log::Outcome;
use super::world::{NODES, START, World, note};
use crate::domain::chain::Felt;
use crate::domain::command::{Complete, Fail};
use crate::domain::worker::{Capabilities, Location};
use crate::domain::{Command, Digest, JobId, Price, Timestamp, WorkerId};
use crate::leader::sim::Key;
use crate::mesh::{Heard, Identity};
use crate::wire;
use crate::wire::proto::mesh::v1::{self as proto, coordinator_request::Body};
use crate::worker::bidder::{self, Offer, Terms};
use crate::worker::{Desk, Taken};

/// A worker, and what it does.
pub(super) struct Hand {
    identity: Identity,
    pub id: WorkerId,
    pub up: bool,
    life: u32,
    /// When it began.
    started: u64,
    seq: u64,
    registered: bool,
    desk: Desk,
    /// What runs, and who may stop it.
    stops: BTreeMap<Key, Receiver<crate::worker::Cause>>,
    outbox: BTreeMap<Key, Command>,
    /// Of the outbox, what is under way.
    sending: BTreeSet<Key>,
    capabilities: Capabilities,
    terms: BTreeMap<String, Terms>,
    region: &'static str,
}

impl Hand {
    pub fn draw(rng: &mut StdRng) -> Vec<Self> {
        let count = rng.random_range(3..=5_u8);
        (1..=count).map(|n| Self::new(n, rng)).collect()
    }

    fn new(n: u8, rng: &mut StdRng) -> Self {
        let identity = Identity::from_secret([n; 32]);
        let max_parallel_jobs = rng.random_range(1..=3);
        let both = n <= 3 || rng.random_range(0..2) == 0;
        let kinds = if both { vec!["sha256", "wordcount"] } else { vec!["sha256"] };
        let capabilities = Capabilities {
            cpu_cores: 4,
            ram_mb: 8_192,
            job_types: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            max_parallel_jobs,
            payout_address: Some(Felt::from(0xadd_0000 + u64::from(n))),
            ..Capabilities::default()
        };
        let price = Price(rng.random_range(10..=60));
        let terms = Terms { price, max_input_bytes: 10_000, max_run_secs: 3_600, ..Terms::default() };
        Self {
            id: identity.id(),
            identity,
            up: true,
            life: 0,
            started: START,
            seq: 0,
            registered: false,
            desk: Desk::new(max_parallel_jobs),
            stops: BTreeMap::new(),
            outbox: BTreeMap::new(),
            sending: BTreeSet::new(),
            capabilities,
            terms: kinds.iter().map(|kind| ((*kind).to_owned(), terms.clone())).collect(),
            region: ["north", "south"][usize::from(n % 2)],
        }
    }
}

/// What an honest run of a job brings.
fn output(job: JobId) -> Vec<u8> {
    Digest::of(&job.0).0[..8].to_vec()
}

/// In place of a signature: of this worker, for this attempt, over this output.
pub(super) fn seal(job: JobId, attempt: u32, worker: WorkerId, output: Digest) -> Vec<u8> {
    let parts = [&job.0[..], &attempt.to_be_bytes(), &worker.0, &output.0];
    Digest::of(&parts.concat()).0.to_vec()
}

impl World {
    pub(super) fn begin_crew(&mut self) {
        for worker in 0..self.crew.len() {
            let at = self.between(1, 1_500);
            self.after(at, "register", move |world| world.register(worker));
            self.after(at + 10, "beat", move |world| world.beat(worker));
            self.after(at + 20, "work", move |world| world.work(worker));
        }
    }

    fn register(&mut self, worker: usize) {
        let hand = &self.crew[worker];
        if hand.up && !hand.registered {
            let (node, life) = (self.rng.random_range(0..NODES), self.crew[worker].life);
            let hand = &self.crew[worker];
            let location = Location { region: hand.region.to_owned(), ..Location::default() };
            let command = Command::RegisterWorker {
                worker: hand.id,
                capabilities: Box::new(hand.capabilities.clone()),
                location,
                version: "1.0.0".to_owned(),
            };
            self.submit(node, None, vec![command], move |world, outcome| {
                let done = matches!(outcome, Outcome::Done(ref replies) if replies[0].is_ok());
                let hand = &mut world.crew[worker];
                hand.registered |= done && hand.life == life;
            });
        }
        let next = self.between(600, 1_500);
        self.after(next, "register", move |world| world.register(worker));
    }

    /// A heartbeat to every coordinator.
    fn beat(&mut self, worker: usize) {
        if self.crew[worker].up {
            self.crew[worker].seq += 1;
            for node in 0..NODES {
                let heard = self.heard(worker);
                self.post("beat", move |world| world.hear(node, worker, heard));
            }
        }
        let next = self.between(900, 1_100);
        self.after(next, "beat", move |world| world.beat(worker));
    }

    fn heard(&self, worker: usize) -> Heard {
        let hand = &self.crew[worker];
        Heard {
            at: self.wall(),
            instant: self.instant(),
            version: "1.0.0".to_owned(),
            started: Timestamp(hand.started),
            seq: hand.seq,
            cpu_permille: 0,
            memory_permille: 0,
            gpu_permille: None,
            disk_permille: 0,
            load_permille: hand.desk.load_permille(),
            room: hand.desk.room(),
            running: hand.desk.running(),
            progress: Arc::default(),
            stopping: false,
        }
    }

    fn hear(&mut self, node: usize, worker: usize, heard: Heard) {
        let now = self.instant();
        let at = self.nodes[node].log_now(self.now, now);
        let (it, id) = (&self.nodes[node], self.crew[worker].id);
        if it.up && it.paused_until <= self.now {
            it.roster.attend(now);
            let registered = it.state.worker(id).is_some();
            it.roster.hear(id, Heard { instant: now, at, ..heard }, registered);
        }
    }

    /// Tells every worker what is open.
    pub(super) fn announce(&mut self, node: usize, life: u32, message: &proto::Announcement) {
        for worker in 0..self.crew.len() {
            let message = message.clone();
            self.post("announce", move |world| {
                let Some(bids) = world.bid(worker, &message) else { return };
                world.post("bid", move |world| {
                    if world.nodes[node].life == life {
                        let id = world.crew[worker].id;
                        world.hear_bids(node, id, bids);
                    }
                });
            });
        }
    }

    fn bid(&mut self, worker: usize, message: &proto::Announcement) -> Option<proto::Bids> {
        let turn = self.between(0, 1_000);
        let hand = &self.crew[worker];
        let offer = Offer {
            capabilities: &hand.capabilities,
            terms: &hand.terms,
            expected_ms: &BTreeMap::new(),
            fetched_max: 0,
            room: hand.desk.room(),
            load_permille: hand.desk.load_permille(),
            turn,
        };
        let in_books = Offer { room: hand.desk.room_in_books(), ..offer };
        if !hand.up || !bidder::is_due(message, hand.id, &in_books) {
            return None;
        }
        let mut bids = bidder::answer(message, &offer);
        bids.signature = hand.identity.sign(&wire::signed_bids(&bids)?).into();
        Some(bids)
    }

    // ------------------------------------------------------------ orders

    /// Asks a worker; what it answers, or nothing, comes to `then`.
    pub(super) fn request(
        &mut self,
        worker: WorkerId,
        body: Body,
        then: impl FnOnce(&mut Self, Option<Vec<proto::ItemReply>>) + 'static,
    ) {
        let id = self.serial();
        self.requests.insert(id, Box::new(then));
        self.after(1_500, "no answer", move |world| world.requested(id, None));
        let Some(worker) = self.crew.iter().position(|hand| hand.id == worker) else { return };
        self.post("order", move |world| {
            if let Some(answer) = world.obey(worker, &body) {
                world.post("reply", move |world| world.requested(id, Some(answer)));
            }
        });
    }

    fn requested(&mut self, id: u64, answer: Option<Vec<proto::ItemReply>>) {
        if let Some(then) = self.requests.remove(&id) {
            then(self, answer);
        }
    }

    fn obey(&mut self, worker: usize, body: &Body) -> Option<Vec<proto::ItemReply>> {
        if !self.crew[worker].up {
            return None;
        }
        let accepted = |accepted: bool| proto::ItemReply { accepted, code: String::new() };
        let now = self.instant();
        Some(match body {
            Body::Assign(assign) => assign.assignments.iter().map(|one| accepted(self.take(worker, one))).collect(),
            Body::Renew(renew) => {
                let desk = &mut self.crew[worker].desk;
                let mut extend = |one: &proto::Renewal| {
                    let key = wire::parse_attempt(one.attempt.as_ref()).unwrap();
                    desk.renew(key, Duration::from_millis(one.lease_ms.into()), now).is_ok()
                };
                renew.renewals.iter().map(|one| accepted(extend(one))).collect()
            }
            Body::Stop(stop) => {
                let hand = &mut self.crew[worker];
                hand.registered &= stop.reason != "unknown_worker";
                let keys = stop.attempts.iter().filter_map(|attempt| wire::parse_attempt(Some(attempt)));
                keys.for_each(|key| hand.desk.stop(key, crate::worker::Cause::Cancelled));
                stop.attempts.iter().map(|_| accepted(true)).collect()
            }
        })
    }

    fn take(&mut self, worker: usize, assignment: &proto::Assignment) -> bool {
        let key = wire::parse_attempt(assignment.attempt.as_ref()).unwrap();
        let (lease, now) = (Duration::from_millis(assignment.lease_ms.into()), self.instant());
        let hand = &mut self.crew[worker];
        match hand.desk.take(key, lease, now) {
            Taken::Known => true,
            Taken::Refused(code) => {
                note!(self, "worker {worker} refuses {} attempt {}: {code}", key.0, key.1);
                false
            }
            Taken::New(stop) => {
                let life = hand.life;
                hand.stops.insert(key, stop);
                note!(self, "worker {worker} runs {} attempt {}", key.0, key.1);
                let took = if self.chance(100) { self.between(3_000, 9_000) } else { self.between(50, 2_000) };
                self.after(took, "ends", move |world| world.run_ends(worker, life, key));
                true
            }
        }
    }

    // ------------------------------------------------------------ running

    /// What must stop, stops; what was brought is handed in.
    fn work(&mut self, worker: usize) {
        let now = self.instant();
        let hand = &mut self.crew[worker];
        hand.desk.expire(now);
        let told = |(key, stop): (&Key, &mut Receiver<_>)| stop.try_recv().is_ok().then_some(*key);
        let stopped: Vec<Key> = hand.stops.iter_mut().filter_map(told).collect();
        for key in stopped {
            hand.stops.remove(&key);
            hand.desk.finish(key);
        }
        if hand.up {
            self.hand_in(worker);
        }
        let next = self.between(150, 400);
        self.after(next, "work", move |world| world.work(worker));
    }

    fn hand_in(&mut self, worker: usize) {
        let hand = &mut self.crew[worker];
        let due: Vec<(Key, Command)> = hand.outbox.iter().map(|(key, report)| (*key, report.clone())).collect();
        for (key, report) in due {
            if !self.crew[worker].sending.insert(key) {
                continue;
            }
            let node = self.rng.random_range(0..NODES);
            let report = self.mistaken(node, report);
            self.submit(node, None, vec![report], move |world, outcome| {
                world.crew[worker].sending.remove(&key);
                // Any word of the log is the last word.
                if let Outcome::Done(_) = outcome {
                    world.crew[worker].outbox.remove(&key);
                }
            });
        }
    }

    /// A planted mistake: what is said of any attempt counts for the one in force.
    fn mistaken(&self, node: usize, report: Command) -> Command {
        let Command::Complete(complete) = &report else { return report };
        let Some(job) = self.nodes[node].state.job(complete.job) else { return report };
        match job.runs_in_force().next() {
            Some(run) if self.defect == Some(Defect::AttemptUnchecked) => {
                let (attempt, worker) = (run.attempt, run.award.worker);
                Command::Complete(Box::new(Complete { attempt, worker, ..(**complete).clone() }))
            }
            _ => report,
        }
    }

    fn run_ends(&mut self, worker: usize, life: u32, key: Key) {
        let (now, fails, retryable) = (self.instant(), self.chance(self.faults.failure), self.chance(800));
        let wrong = self.chance(self.faults.wrong);
        let hand = &mut self.crew[worker];
        if hand.life != life {
            return;
        }
        hand.desk.expire(now);
        let Some(mut stop) = hand.stops.remove(&key) else { return };
        let stopped = stop.try_recv().is_ok();
        hand.desk.finish(key);
        if stopped {
            return;
        }
        let ((job, attempt), by) = (key, hand.id);
        let report = if fails {
            let (code, detail) = ("exit_code".to_owned(), "exited with 1".to_owned());
            Command::Fail(Box::new(Fail { job, attempt, worker: by, code, detail, retryable }))
        } else {
            let output = if wrong { vec![key.1.to_be_bytes()[3], by.0[0]] } else { output(job) };
            let digest = Digest::of(&output);
            Command::Complete(Box::new(Complete {
                job,
                attempt,
                worker: by,
                output,
                kept_size: 0,
                output_sha256: digest,
                exit_code: 0,
                duration_ms: 5,
                signature: seal(job, attempt, by, digest),
            }))
        };
        hand.outbox.insert(key, report);
    }

    pub(super) fn worker_crashes(&mut self, worker: usize) {
        if !self.crew[worker].up {
            return;
        }
        note!(self, "worker {worker} crashes");
        let hand = &mut self.crew[worker];
        hand.up = false;
        hand.life += 1;
        hand.stops.clear();
        let back = self.between(300, 7_000);
        self.after(back, "worker is back", move |world| {
            let now = world.now;
            let hand = &mut world.crew[worker];
            hand.up = true;
            hand.started = START + now;
            hand.seq = 0;
            hand.registered = false;
            hand.desk = Desk::new(hand.capabilities.max_parallel_jobs);
            hand.outbox.keys().for_each(|key| hand.desk.remember(*key));
        });
    }
}
