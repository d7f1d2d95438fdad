//! A peer that lies: it knows the network's name and speaks the protocol, and nobody asked it to.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ciro::domain::{Digest, JobId, PeerId};
use ciro::mesh::{self, Handle, Identity, Lane, Topic};
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
        tasks.spawn_until_stopped("intruder's ears", async move {
            let mut inbox = inbox;
            while inbox.gossip.recv().await.is_some() {}
        });
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
    };
    proto::Report { attempt: Some(wire::attempt_ref(job, attempt)), outcome: Some(Outcome::Output(output)) }
}
