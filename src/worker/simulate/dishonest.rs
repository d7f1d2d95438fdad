//! Workers that lie, for `ciro-coordinator bench hostile`: an honest worker cannot show what a dishonest one costs.
//!
//! Each is a registered peer with a key of its own that speaks the protocol by
//! hand; nothing of the honest worker's code has a branch for it. What it does is
//! no more than anybody with this repository could: the cluster must bear it.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::MissedTickBehavior;
use tracing::debug;

use super::Dishonest;
use crate::clock;
use crate::domain::{Digest, JobId, PeerId};
use crate::mesh::{Gossip, Handle, Identity, Inbox, Lane, Request, Topic};
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;
use crate::wire::proto::mesh::v1::worker_request::Body;
use crate::worker::Settings;
use crate::worker::start::register;

const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);
const BEAT: Duration = Duration::from_secs(1);

/// Between two messages of a flooder.
const FLOOD: Duration = Duration::from_millis(1);

/// Length of a garbage message, in bytes.
const GARBAGE: usize = 512;

/// Room it claims: enough to be given many jobs, and no more than anybody may have.
const ROOM: u32 = 8;

pub(super) struct Liar {
    kind: Dishonest,
    identity: Identity,
    mesh: Handle,
    inbox: Inbox,
    settings: Settings,
    beats: u64,
    started_ms: u64,
    /// Bids of an earlier round.
    old: Option<proto::Bids>,
}

impl Liar {
    pub fn new(kind: Dishonest, identity: Identity, (mesh, inbox): (Handle, Inbox), settings: Settings) -> Self {
        Self { kind, identity, mesh, inbox, settings, beats: 0, started_ms: clock::now().0, old: None }
    }

    /// Lies for ever.
    pub async fn live(mut self) {
        self.join().await;
        let mut beat = tokio::time::interval(BEAT);
        let mut flood = tokio::time::interval(FLOOD);
        flood.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                Some(gossip) = self.inbox.gossip.recv() => self.bid(gossip),
                Some(request) = self.inbox.requests.recv() => self.take(request).await,
                _ = beat.tick() => self.beat(),
                _ = flood.tick(), if self.kind == Dishonest::Flood => self.shout(),
            }
        }
    }

    async fn join(&self) {
        let coordinators: Vec<PeerId> = self.settings.coordinators.iter().map(|(peer, _)| *peer).collect();
        for coordinator in coordinators.iter().cycle() {
            if self.ask(*coordinator, Body::Register(register(&self.settings))).await {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether everything was accepted.
    async fn ask(&self, coordinator: PeerId, body: Body) -> bool {
        let bytes = wire::encode(&proto::WorkerRequest { body: Some(body) });
        let answer = self.mesh.request(coordinator, Lane::Worker, bytes, ANSWER_LIMIT).await;
        let reply = answer.ok().and_then(wire::decode::<proto::WorkerReply>);
        reply.is_some_and(|reply| !reply.items.is_empty() && reply.items.iter().all(|item| item.accepted))
    }

    /// Asks nothing for anything.
    fn bid(&mut self, gossip: Gossip) {
        let announcement = wire::decode::<proto::Announcement>(gossip.body);
        gossip.verdict.ignore();
        let Some(proto::Announcement { term, seq, jobs, .. }) = announcement else { return };
        let bid = |job: proto::OpenJob| proto::Bid { job: job.id, attempt: job.attempt, ..Default::default() };
        let bids = jobs.into_iter().take(wire::ANNOUNCED_MAX).map(bid).collect();
        let mut bids = proto::Bids { term, seq, room: ROOM, bids, nonce: rand::random(), ..Default::default() };
        bids.signature = self.signature(&bids);
        self.publish(Topic::Bids, wire::encode(&bids));
        if self.kind == Dishonest::Forge
            && let Some(old) = self.old.replace(bids)
        {
            // Said again as if it were of this round: the signature is of another.
            self.publish(Topic::Bids, wire::encode(&proto::Bids { term, seq, nonce: rand::random(), ..old }));
        }
    }

    fn signature(&self, bids: &proto::Bids) -> Bytes {
        let statement = wire::signed_bids(bids).unwrap_or_default();
        match self.kind {
            Dishonest::Forge if rand::random() => Identity::from_secret(rand::random()).sign(&statement).into(),
            Dishonest::Forge => Bytes::from_static(&[7; 64]),
            _ => self.identity.sign(&statement).into(),
        }
    }

    /// Accepts all, runs none of it.
    async fn take(&self, request: Request) {
        let Request { peer, body, reply, .. } = request;
        let order = wire::decode::<proto::CoordinatorRequest>(body).and_then(|order| order.body);
        let Some(proto::coordinator_request::Body::Assign(assign)) = order else { return reply.refuse("never") };
        let accepted = proto::ItemReply { accepted: true, ..Default::default() };
        let items = vec![accepted; assign.assignments.len()];
        reply.send(wire::encode(&proto::CoordinatorReply { items }));
        if self.kind == Dishonest::WrongResult {
            let attempts = assign.assignments.iter().filter_map(|one| wire::parse_attempt(one.attempt.as_ref()));
            for (job, attempt) in attempts {
                let taken = self.ask(peer, Body::Finished(proto::Finished { reports: vec![self.wrong(job, attempt)] }));
                if taken.await {
                    debug!(%job, attempt, "a wrong result was accepted");
                }
            }
        }
    }

    /// Signed by a key that is not ours, or a digest of something else.
    fn wrong(&self, job: JobId, attempt: u32) -> proto::Report {
        let output: Bytes = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        let (digest, key) = if rand::random() {
            (Digest::of(&output), Identity::from_secret(rand::random()))
        } else {
            (Digest::of(b"something else"), self.identity.clone())
        };
        let signature = key.sign(&wire::signed_result(job, attempt, &digest)).into();
        let sha256 = Bytes::copy_from_slice(&digest.0);
        let output = proto::Output { inline: output, sha256, exit_code: 0, duration_ms: 1, signature, kept_size: 0 };
        let attempt = Some(wire::attempt_ref(job, attempt));
        proto::Report { attempt, outcome: Some(proto::report::Outcome::Output(output)) }
    }

    fn beat(&mut self) {
        self.beats += 1;
        let (seq, started_ms, sent_ms) = (self.beats, self.started_ms, clock::now().0);
        let beat = proto::Heartbeat { seq, started_ms, sent_ms, room: ROOM, ..Default::default() };
        self.publish(Topic::Heartbeats, wire::encode(&beat));
    }

    fn shout(&self) {
        let mut garbage = vec![0; GARBAGE];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut garbage);
        match rand::random_range(0..4u8) {
            0 => self.publish(Topic::Heartbeats, garbage.into()),
            1 => self.publish(Topic::Bids, garbage.into()),
            _ => {
                let bids = proto::Bids { seq: rand::random(), nonce: rand::random(), ..Default::default() };
                self.publish(Topic::Bids, wire::encode(&bids));
            }
        }
    }

    fn publish(&self, topic: Topic, body: Bytes) {
        if let Err(error) = self.mesh.publish(topic, body) {
            debug!(%error, "a lie was not sent");
        }
    }
}
