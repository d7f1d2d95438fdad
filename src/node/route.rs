//! Routes what comes in from the mesh: one `match` for requests, one for gossip.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use super::reign::Desk;
use crate::clock;
use crate::consensus::Raft;
use crate::domain::{NodeId, PeerId, WorkerId};
use crate::intake;
use crate::leader::Offer;
use crate::mesh::{self, Gossip, Handle, Heard, Inbox, Lane, Request, Roster, Topic};
use crate::tasks::Tasks;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// A worker that takes longer is asked again by the leader.
const RELAY_LIMIT: Duration = Duration::from_secs(2);

/// Bytes of workers' requests that are being answered at once, by all of them. Beyond this they are told to come again.
const WORKER_BYTES_MAX: u32 = 64 << 20;

/// What a request counts at least: an empty one takes memory, too.
const WORKER_BYTES_MIN: u32 = 1 << 10;

/// Pause between two announcements that are passed on, for each peer that they go to, and at most.
const PASS_ON_PER_PEER: Duration = Duration::from_millis(1);
const PASS_ON_MAX: Duration = Duration::from_secs(1);

/// Room for what workers hand in.
#[derive(Clone)]
struct Room(Arc<Semaphore>);

impl Room {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(WORKER_BYTES_MAX as usize)))
    }

    /// Held until the request is answered.
    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(WORKER_BYTES_MIN);
        self.0.clone().try_acquire_many_owned(bytes).ok()
    }
}

pub(super) fn start(inbox: Inbox, raft: &Arc<Raft>, mesh: &Handle, roster: &Roster, desk: &Desk, tasks: &Tasks) {
    let Inbox { mut requests, mut gossip } = inbox;
    let (heard_by, heard_in) = (mesh.clone(), Arc::clone(raft));
    let (raft, mesh, group) = (Arc::clone(raft), mesh.clone(), tasks.clone());
    tasks.spawn_until_stopped("requests", async move {
        let room = Room::new();
        while let Some(request) = requests.recv().await {
            group.spawn_until_stopped("request", answer(Arc::clone(&raft), mesh.clone(), room.clone(), request));
        }
    });
    let (roster, desk) = (roster.clone(), desk.clone());
    let client = heard_in.client();
    let mut everyone = Everyone::new(heard_by);
    tasks.spawn_until_stopped("gossip", async move {
        while let Some(message) = gossip.recv().await {
            let registered = |worker| client.read(|state| state.worker(worker).is_some());
            hear(&roster, &desk, &mut everyone, registered, message);
        }
    });
}

/// Answers one request. How many run at once is bounded by the mesh, per stream; of workers there may be thousands,
/// so they share a [`Room`].
async fn answer(raft: Arc<Raft>, mesh: Handle, room: Room, request: Request) {
    let Request { peer, lane, body, reply } = request;
    match lane {
        Lane::Append | Lane::Control | Lane::Snapshot | Lane::Forward | Lane::Join => {
            match raft.serve(peer, lane, body).await {
                Ok(answer) => reply.send(answer),
                Err(error) => {
                    debug!(peer = %peer, ?lane, %error, "request refused");
                    reply.refuse(error.to_string());
                }
            }
        }
        Lane::Relay => match relay(&mesh, body).await {
            Ok(answer) => reply.send(answer),
            Err(error) => reply.refuse(error),
        },
        Lane::Fetch => match mesh::fetch::relay(&mesh, body).await {
            Ok(answer) => reply.send(answer),
            Err(error) => reply.refuse(error),
        },
        Lane::Worker => {
            let Some(_held) = room.take(body.len()) else {
                return reply.send(wire::encode(&proto::WorkerReply { items: vec![], error: "busy".to_owned() }));
            };
            match intake::serve(&raft.client(), peer, body).await {
                Some(answer) => reply.send(answer),
                None => {
                    mesh.penalise(peer, "malformed_request");
                    reply.refuse("malformed request");
                }
            }
        }
    }
}

/// Hands a member's request on to a worker that only we are connected to.
async fn relay(mesh: &Handle, mut body: Bytes) -> Result<Bytes, String> {
    let worker = PeerId(*body.first_chunk().ok_or("no worker is named")?);
    let request = body.split_off(worker.0.len());
    if !mesh.is_connected(worker) {
        return Err(format!("worker {worker} is not connected here either"));
    }
    mesh.request(worker, Lane::Worker, request, RELAY_LIMIT).await.map_err(|error| error.to_string())
}

/// Whether what a worker said reached all members without our help.
struct Everyone {
    mesh: Handle,
    members: Arc<BTreeSet<NodeId>>,
    reach: u64,
    announced: Option<Instant>,
}

impl Everyone {
    fn new(mesh: Handle) -> Self {
        let members = mesh.members();
        Self { reach: wire::reach(&members), members, mesh, announced: None }
    }

    /// A worker that lies about it harms itself.
    fn heard(&mut self, reach: u64) -> bool {
        let members = self.mesh.members();
        if !Arc::ptr_eq(&members, &self.members) {
            self.reach = wire::reach(&members);
            self.members = members;
        }
        reach == self.reach
    }

    /// Whether an announcement of the leader is to be passed on now. The leader sends it to all of its workers, so
    /// what we send is for those that have lost it. Each copy costs every worker a signature to check: the more
    /// they are, the fewer rounds they get twice.
    fn may_announce(&mut self, now: Instant) -> bool {
        let may = is_due(self.announced, now, || self.mesh.peers_connected());
        if may {
            self.announced = Some(now);
        }
        may
    }
}

fn is_due(last: Option<Instant>, now: Instant, peers: impl Fn() -> u32) -> bool {
    last.is_none_or(|last| {
        let passed = now.saturating_duration_since(last);
        passed >= PASS_ON_MAX || passed >= PASS_ON_PER_PEER * peers()
    })
}

/// Passes on what others may lack. A worker learns only after seconds that one of its connections is dead, and says
/// until then that everyone hears it: it is asked before it is taken for gone.
fn hear(roster: &Roster, desk: &Desk, everyone: &mut Everyone, registered: impl Fn(WorkerId) -> bool, message: Gossip) {
    let Gossip { topic, source, body, verdict } = message;
    match topic {
        Topic::Heartbeats => {
            let beat = wire::decode::<proto::Heartbeat>(body);
            let known = beat.as_ref().is_some_and(|beat| everyone.heard(beat.reach));
            let heard = beat.and_then(|beat| Heard::from_proto(beat, clock::now(), clock::instant()));
            match heard.map(|heard| roster.hear(source, heard, registered(source))) {
                None => verdict.reject(),
                Some(true) if known => verdict.ignore(),
                Some(true) => verdict.accept(),
                Some(false) => verdict.ignore(),
            }
        }
        Topic::Bids => match wire::decode::<proto::Bids>(body) {
            None => verdict.reject(),
            Some(bids) if bids.bids.len() > wire::ANNOUNCED_MAX => verdict.reject(),
            Some(bids) => {
                let known = everyone.heard(bids.reach);
                desk.offer(Offer { worker: source, bids });
                if known { verdict.ignore() } else { verdict.accept() }
            }
        },
        Topic::Announcements => match wire::decode::<proto::Announcement>(body) {
            // Of a node that has just started: few, and workers have lost it.
            Some(greeting) if greeting.uptime_ms > 0 => verdict.accept(),
            Some(_) if everyone.may_announce(clock::instant()) => verdict.accept(),
            Some(_) => verdict.ignore(),
            None => verdict.reject(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_workers_get_every_announcement_twice_and_a_thousand_one_a_second() {
        let start = clock::instant();
        let passed_on = |peers| {
            let mut last = None;
            let due = |ms: &u64| {
                let now = start + Duration::from_millis(*ms);
                let due = is_due(last, now, || peers);
                last = if due { Some(now) } else { last };
                due
            };
            (0..10_000).step_by(10).filter(due).count()
        };
        assert_eq!([0, 5, 100, 1_000, 20_000].map(passed_on), [1_000, 1_000, 100, 10, 10]);
    }

    #[test]
    fn requests_of_workers_share_a_bounded_room() {
        let room = Room::new();
        let held: Vec<_> = std::iter::from_fn(|| room.take(1 << 20)).collect();
        assert_eq!(held.len(), 64);
        assert!(room.take(0).is_none(), "an empty request takes room, too");
        drop(held);
        assert!(room.take(1 << 20).is_some());
    }
}
