//! A peer that lies: it knows the network's name and speaks the protocol, and nobody asked it to.
//! Once it has registered it takes every job it can get, and keeps it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ciro::domain::{Digest, JobId, PeerId};
use ciro::mesh::{self, Gossip, Handle, Identity, Inbox, Lane, Request, Topic};
use ciro::tasks::Tasks;
use ciro::wire;
use ciro::wire::proto::job::v1 as job_proto;
use ciro::wire::proto::mesh::v1 as proto;
use proto::report::Outcome;
use proto::worker_request::Body;

use crate::{secs, until};

const ANSWER: Duration = secs(5);

pub struct Intruder {
    pub mesh: Handle,
    identity: Identity,
}

impl Intruder {
    /// Joins as a worker does, knowing only the coordinators' addresses.
    pub async fn join(network: &str, coordinators: Vec<String>, tasks: &Tasks) -> Self {
        let identity = Identity::from_secret(rand::random());
        let options = mesh::Options {
            network: network.to_owned(),
            role: mesh::Role::Worker,
            listen: vec![],
            external: vec![],
            persistent: coordinators,
            members: BTreeSet::new(),
            gossip: true,
            discovery: false,
            mdns: false,
            max_connections: 64,
            max_frame: 8 << 20,
        };
        let (mesh, inbox) = mesh::start(identity.clone(), options, tasks).await.unwrap();
        let freeloader = Freeloader { identity: identity.clone(), mesh: mesh.clone(), inbox, held: vec![], beats: 0 };
        tasks.spawn_until_stopped("intruder", freeloader.run());
        Self { mesh, identity }
    }

    pub async fn connected(&self, node: PeerId) {
        until(secs(20), "the intruder is connected", async || self.mesh.is_connected(node).then_some(())).await;
    }

    /// Claims to have finished an attempt; signs with its own key.
    pub fn report(&self, job: JobId, attempt: u32, output: &[u8]) -> proto::Report {
        let digest = Digest::of(output);
        let signature = self.identity.sign(&wire::signed_result(job, attempt, &digest));
        signed(job, attempt, output, signature.into())
    }

    /// Hands reports in. `None`: refused as malformed, or not answered at all.
    pub async fn hand_in(&self, node: PeerId, reports: Vec<proto::Report>) -> Option<proto::WorkerReply> {
        self.say(node, Body::Finished(proto::Finished { reports })).await
    }

    pub async fn register(&self, node: PeerId, kind: &str) -> Option<proto::WorkerReply> {
        let capabilities = job_proto::Capabilities {
            job_types: vec![kind.to_owned()],
            max_parallel_jobs: 64,
            cpu_cores: 64,
            ..Default::default()
        };
        let location = Some(job_proto::Location::default());
        let register = proto::Register { capabilities: Some(capabilities), location, version: "evil".to_owned() };
        self.say(node, Body::Register(register)).await
    }

    async fn say(&self, node: PeerId, body: Body) -> Option<proto::WorkerReply> {
        let bytes = wire::encode(&proto::WorkerRequest { body: Some(body) });
        wire::decode(self.mesh.request(node, Lane::Worker, bytes, ANSWER).await.ok()?)
    }

    /// Publishes; what does not fit the queue is dropped, as in any flood.
    pub fn shout(&self, topic: Topic, body: Bytes) {
        let _ = self.mesh.publish(topic, body);
    }
}

pub fn signed(job: JobId, attempt: u32, output: &[u8], signature: Bytes) -> proto::Report {
    let output = proto::Output {
        inline: Bytes::copy_from_slice(output),
        sha256: Bytes::copy_from_slice(&Digest::of(output).0),
        exit_code: 0,
        duration_ms: 1,
        signature,
        kept_size: 0,
    };
    proto::Report { attempt: Some(wire::attempt_ref(job, attempt)), outcome: Some(Outcome::Output(output)) }
}

/// Wins every job by asking nothing for it, says for ever that it runs it, and never ends it.
struct Freeloader {
    identity: Identity,
    mesh: Handle,
    inbox: Inbox,
    held: Vec<proto::AttemptRef>,
    beats: u64,
}

impl Freeloader {
    async fn run(mut self) {
        loop {
            tokio::select! {
                Some(gossip) = self.inbox.gossip.recv() => self.bid(gossip),
                Some(request) = self.inbox.requests.recv() => self.accept(request),
                () = tokio::time::sleep(Duration::from_millis(200)) => self.beat(),
            }
        }
    }

    fn bid(&mut self, gossip: Gossip) {
        let announcement: Option<proto::Announcement> = wire::decode(gossip.body);
        gossip.verdict.accept();
        let Some(proto::Announcement { term, seq, jobs, .. }) = announcement else { return };
        let bid = |job: proto::OpenJob| proto::Bid { job: job.id, attempt: job.attempt, ..Default::default() };
        let bids = jobs.into_iter().map(bid).collect();
        let mut bids = proto::Bids { term, seq, room: 64, bids, ..Default::default() };
        bids.signature = self.identity.sign(&wire::signed_bids(&bids).expect("well formed")).into();
        let _ = self.mesh.publish(Topic::Bids, wire::encode(&bids));
        self.beat();
    }

    fn accept(&mut self, request: Request) {
        let order: Option<proto::CoordinatorRequest> = wire::decode(request.body);
        let Some(proto::coordinator_request::Body::Assign(assign)) = order.and_then(|order| order.body) else {
            return request.reply.refuse("never");
        };
        let items = assign.assignments.iter().map(|_| proto::ItemReply { accepted: true, ..Default::default() });
        request.reply.send(wire::encode(&proto::CoordinatorReply { items: items.collect() }));
        self.held.extend(assign.assignments.into_iter().filter_map(|assignment| assignment.attempt));
        self.beat();
    }

    fn beat(&mut self) {
        self.beats += 1;
        let beat = proto::Heartbeat { seq: self.beats, room: 64, running: self.held.clone(), ..Default::default() };
        let _ = self.mesh.publish(Topic::Heartbeats, wire::encode(&beat));
    }
}
