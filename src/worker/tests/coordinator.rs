//! A coordinator that only follows a script: no log, no leader.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::domain::{Digest, JobId, PeerId};
use crate::mesh::{self, Gossip, Handle, Identity, Inbox, Lane, Options, Request, Role, Topic};
use crate::tasks::Tasks;
use crate::wire;
use crate::wire::proto::job::v1::Input;
use crate::wire::proto::mesh::v1::coordinator_request::Body as Order;
use crate::wire::proto::mesh::v1::report::Outcome;
use crate::wire::proto::mesh::v1::worker_request::Body;
use crate::wire::proto::mesh::v1::{
    Announcement, Assign, Assignment, Bids, CoordinatorReply, CoordinatorRequest, Heartbeat, ItemReply, OpenJob,
    Output, Register, Renew, Renewal, Report, Stop, WorkerReply, WorkerRequest,
};

const DEADLINE: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

pub type Key = (JobId, u32);

pub fn attempt(job: u8, attempt: u32) -> Key {
    (JobId([job; 16]), attempt)
}

#[derive(Debug)]
pub enum Heard {
    Registered(Register),
    Report(Key, Report),
    Bids(Bids),
    Beat(Heartbeat),
}

/// What it does with reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    Accepting,
    /// Nothing was decided.
    Undecided,
    /// Never answers.
    Silent,
    /// Refuses with `unknown_worker` until the worker registers.
    UnknownUntilRegistered,
}

struct State {
    temper: Temper,
    accepted: BTreeSet<Key>,
}

pub struct Coordinator {
    mesh: Handle,
    tasks: Tasks,
    heard: mpsc::Receiver<Heard>,
    state: Arc<Mutex<State>>,
    others: Vec<String>,
    seq: u64,
}

impl Coordinator {
    pub async fn start(n: u8) -> Self {
        let tasks = Tasks::new();
        let identity = Identity::from_secret([n; 32]);
        let options = Options {
            network: "worker-test".to_owned(),
            role: Role::Coordinator,
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            external: vec![],
            persistent: vec![],
            members: [identity.id()].into(),
            gossip: true,
            discovery: false,
            mdns: false,
            max_connections: 32,
            max_frame: 1 << 20,
        };
        let (mesh, inbox) = mesh::start(identity, options, &tasks).await.unwrap();
        let (events, heard) = mpsc::channel(4_096);
        let state = Arc::new(Mutex::new(State { temper: Temper::Accepting, accepted: BTreeSet::new() }));
        tasks.spawn_until_stopped("coordinator", serve(inbox, events, state.clone()));
        Self { mesh, tasks, heard, state, others: vec![], seq: 0 }
    }

    pub fn id(&self) -> PeerId {
        self.mesh.id()
    }

    pub fn address(&self) -> String {
        self.mesh.addresses()[0].clone()
    }

    /// Names `other` in announcements.
    pub fn introduce(&mut self, other: &Self) {
        self.others.push(other.address());
    }

    pub fn set_temper(&self, temper: Temper) {
        self.state.lock().unwrap().temper = temper;
    }

    /// Forgets what was heard so far.
    pub fn forget(&mut self) {
        while self.heard.try_recv().is_ok() {}
    }

    pub async fn die(self) {
        self.tasks.cancel();
        assert!(self.tasks.join(DEADLINE).await);
    }

    pub async fn await_connection(&self, worker: PeerId) {
        until(|| self.mesh.is_connected(worker), "worker does not connect").await;
    }

    pub async fn await_disconnection(&self, worker: PeerId) {
        until(|| !self.mesh.is_connected(worker), "worker does not go").await;
    }

    pub async fn await_accepted(&self, key: Key) {
        until(|| self.state.lock().unwrap().accepted.contains(&key), "report is not delivered").await;
    }

    /// The next thing heard that is wanted; others are dropped.
    pub async fn hear(&mut self, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let next = async {
            loop {
                let heard = self.heard.recv().await.expect("coordinator lives");
                if wanted(&heard) {
                    return heard;
                }
            }
        };
        tokio::time::timeout(DEADLINE, next).await.expect("heard in time")
    }

    pub async fn hear_report(&mut self, wanted: Key) -> Report {
        match self.hear(|heard| matches!(heard, Heard::Report(key, _) if *key == wanted)).await {
            Heard::Report(_, report) => report,
            other => panic!("not a report: {other:?}"),
        }
    }

    /// Announces an open job until the worker bids; it may not be subscribed yet.
    pub async fn announce_until_answered(&mut self, kind: &str, (job, attempt): Key) -> Bids {
        for _ in 0..100 {
            self.seq += 1;
            let open = OpenJob {
                id: Bytes::copy_from_slice(&job.0),
                r#type: kind.to_owned(),
                attempt,
                any_price: true,
                timeout_secs: 60,
                ..OpenJob::default()
            };
            let coordinators = self.others.clone();
            let message = Announcement {
                term: 1,
                seq: self.seq,
                window_ms: 100,
                jobs: vec![open],
                coordinators,
                ..Default::default()
            };
            // Before anyone has subscribed there is nobody to publish to.
            let _ = self.mesh.publish(Topic::Announcements, wire::encode(&message));
            let answer = async {
                loop {
                    match self.heard.recv().await.expect("coordinator lives") {
                        Heard::Bids(bids) if (bids.term, bids.seq) == (1, self.seq) => return bids,
                        _ => {}
                    }
                }
            };
            if let Ok(bids) = tokio::time::timeout(Duration::from_millis(200), answer).await {
                return bids;
            }
        }
        panic!("no bids");
    }

    pub async fn assign(
        &self,
        worker: PeerId,
        kind: &str,
        (job, attempt): Key,
        script: &str,
        lease_ms: u32,
    ) -> Vec<ItemReply> {
        let inline = Bytes::copy_from_slice(script.as_bytes());
        let sha256 = Bytes::copy_from_slice(&Digest::of(&inline).0);
        let assignment = Assignment {
            attempt: Some(wire::attempt_ref(job, attempt)),
            r#type: kind.to_owned(),
            input: Some(Input { sha256, size: inline.len() as u64, uri: String::new(), inline }),
            timeout_secs: 60,
            lease_ms,
            request_id: "test".to_owned(),
        };
        self.order(worker, Order::Assign(Assign { assignments: vec![assignment] })).await
    }

    /// Assigns a job whose input, `bytes`, is where `uri` says.
    pub async fn refer(&self, worker: PeerId, kind: &str, (job, attempt): Key, uri: &str, bytes: &[u8]) {
        let sha256 = Bytes::copy_from_slice(&Digest::of(bytes).0);
        let assignment = Assignment {
            attempt: Some(wire::attempt_ref(job, attempt)),
            r#type: kind.to_owned(),
            input: Some(Input { sha256, size: bytes.len() as u64, uri: uri.to_owned(), inline: Bytes::new() }),
            timeout_secs: 60,
            lease_ms: 60_000,
            request_id: "test".to_owned(),
        };
        let items = self.order(worker, Order::Assign(Assign { assignments: vec![assignment] })).await;
        assert!(items[0].accepted, "{items:?}");
    }

    /// Asks as a coordinator does, on any lane.
    pub async fn ask(&self, worker: PeerId, lane: Lane, body: Bytes) -> Result<Bytes, mesh::Error> {
        self.mesh.request(worker, lane, body, ANSWER_LIMIT).await
    }

    pub async fn renew(&self, worker: PeerId, keys: &[Key], lease_ms: u32) -> Vec<ItemReply> {
        let renewals =
            keys.iter().map(|(job, attempt)| Renewal { attempt: Some(wire::attempt_ref(*job, *attempt)), lease_ms });
        self.order(worker, Order::Renew(Renew { renewals: renewals.collect() })).await
    }

    pub async fn stop(&self, worker: PeerId, keys: &[Key], reason: &str) -> Vec<ItemReply> {
        let attempts = keys.iter().map(|(job, attempt)| wire::attempt_ref(*job, *attempt)).collect();
        self.order(worker, Order::Stop(Stop { attempts, reason: reason.to_owned() })).await
    }

    async fn order(&self, worker: PeerId, order: Order) -> Vec<ItemReply> {
        let body = wire::encode(&CoordinatorRequest { body: Some(order) });
        let answer = self.mesh.request(worker, Lane::Worker, body, ANSWER_LIMIT).await.expect("worker answers");
        wire::decode::<CoordinatorReply>(answer).expect("an answer to an order").items
    }

    pub async fn refuses_garbage(&self, worker: PeerId) -> bool {
        let garbage = Bytes::from_static(&[0xff; 20]);
        let answer = self.mesh.request(worker, Lane::Worker, garbage, ANSWER_LIMIT).await;
        matches!(answer, Err(mesh::Error::Refused { .. }))
    }

    pub async fn reaches(&self, worker: PeerId) -> bool {
        let body = wire::encode(&CoordinatorRequest { body: Some(Order::Stop(Stop::default())) });
        self.mesh.request(worker, Lane::Worker, body, Duration::from_millis(500)).await.is_ok()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

async fn until(holds: impl Fn() -> bool, otherwise: &str) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect(otherwise);
}

async fn serve(inbox: Inbox, events: mpsc::Sender<Heard>, state: Arc<Mutex<State>>) {
    let Inbox { mut requests, mut gossip } = inbox;
    // Requests that are never answered are kept, so that the worker waits.
    let mut unanswered = Vec::new();
    loop {
        tokio::select! {
            Some(request) = requests.recv() => {
                let Request { body, reply, .. } = request;
                match answer(wire::decode(body).expect("a request"), &events, &state).await {
                    Some(answer) => reply.send(wire::encode(&answer)),
                    None => unanswered.push(reply),
                }
            }
            Some(Gossip { topic, body, verdict, .. }) = gossip.recv() => {
                verdict.accept();
                let heard = match topic {
                    Topic::Bids => Heard::Bids(wire::decode(body).expect("bids")),
                    Topic::Heartbeats => Heard::Beat(wire::decode(body).expect("a heartbeat")),
                    Topic::Announcements => continue,
                };
                events.send(heard).await.ok();
            }
            else => return,
        }
    }
}

async fn answer(request: WorkerRequest, events: &mpsc::Sender<Heard>, state: &Mutex<State>) -> Option<WorkerReply> {
    let ok = || ItemReply { accepted: true, code: String::new() };
    match request.body.expect("a body") {
        Body::Register(register) => {
            registered(state);
            events.send(Heard::Registered(register)).await.ok();
            Some(WorkerReply { items: vec![ok()], error: String::new() })
        }
        Body::Leave(_) => Some(WorkerReply { items: vec![ok()], error: String::new() }),
        Body::Finished(finished) => {
            let keys: Vec<Key> =
                finished.reports.iter().filter_map(|r| wire::parse_attempt(r.attempt.as_ref())).collect();
            for (key, report) in keys.iter().zip(&finished.reports) {
                events.send(Heard::Report(*key, report.clone())).await.ok();
            }
            let mut state = state.lock().unwrap();
            let refused = || wire::refused("unknown_worker");
            match state.temper {
                Temper::Silent => None,
                Temper::Undecided => Some(WorkerReply { items: vec![], error: "no leader".to_owned() }),
                Temper::UnknownUntilRegistered => {
                    Some(WorkerReply { items: keys.iter().map(|_| refused()).collect(), error: String::new() })
                }
                Temper::Accepting => {
                    state.accepted.extend(&keys);
                    Some(WorkerReply { items: keys.iter().map(|_| ok()).collect(), error: String::new() })
                }
            }
        }
    }
}

fn registered(state: &Mutex<State>) {
    let mut state = state.lock().unwrap();
    if state.temper == Temper::UnknownUntilRegistered {
        state.temper = Temper::Accepting;
    }
}

pub fn output_of(report: &Report) -> &Output {
    match report.outcome.as_ref() {
        Some(Outcome::Output(output)) => output,
        other => panic!("no output: {other:?}"),
    }
}

pub fn failure_code(report: &Report) -> (&str, bool) {
    match report.outcome.as_ref() {
        Some(Outcome::Failure(failure)) => (failure.code.as_str(), failure.retryable),
        other => panic!("no failure: {other:?}"),
    }
}
