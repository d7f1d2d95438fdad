//! How Raft reaches the other members.
//!
//! [`Transport`] is all that is asked of the mesh, so that tests can cut, delay
//! and pause it. Entries go on the append lane; votes, heartbeats and
//! transfers on the control lane, so they never wait behind entries; snapshots
//! on a lane of their own. Nothing is sent to a member before both sides know
//! whom they talk to, see [`super::identity`].

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use crate::clock;
use crate::domain::NodeId;
use crate::mesh::{self, Lane};

use super::abdicate::Snapshots;
use super::frames::{self, Append, Ballot, Frame, PreBallot, Transfer};
use super::identity::Peers;
use super::types::{RpcError, Snapshot, TypeConfig, Vote};
use super::{snapshot, transfer};

/// What consensus needs of the mesh.
pub(super) trait Transport: Send + Sync + 'static {
    fn id(&self) -> NodeId;

    fn request(
        &self,
        peer: NodeId,
        lane: Lane,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, mesh::Error>>;

    /// Replaces who may use the member lanes.
    fn set_members(&self, members: BTreeSet<NodeId>);

    /// Where this node listens: multiaddrs with `/p2p/…`.
    fn addresses(&self) -> Vec<String>;

    /// Notes where members are said to be.
    fn learn(&self, addresses: Vec<(NodeId, String)>);

    /// Notes that a peer asked for what it has no right to.
    fn penalise(&self, peer: NodeId, reason: &'static str);
}

impl Transport for mesh::Handle {
    fn id(&self) -> NodeId {
        mesh::Handle::id(self)
    }

    fn request(
        &self,
        peer: NodeId,
        lane: Lane,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, mesh::Error>> {
        Box::pin(mesh::Handle::request(self, peer, lane, body, timeout))
    }

    fn set_members(&self, members: BTreeSet<NodeId>) {
        mesh::Handle::set_members(self, members);
    }

    fn addresses(&self) -> Vec<String> {
        mesh::Handle::addresses(self)
    }

    fn learn(&self, addresses: Vec<(NodeId, String)>) {
        mesh::Handle::learn(self, &addresses);
    }

    fn penalise(&self, peer: NodeId, reason: &'static str) {
        mesh::Handle::penalise(self, peer, reason);
    }
}

/// What became of a request, as far as the sender can tell.
#[derive(Debug)]
pub(super) enum Failure {
    /// The other side certainly did nothing.
    NotSent(String),
    /// The other side may have acted.
    Timeout,
    /// The other side may have acted.
    Lost(String),
}

impl From<mesh::Error> for Failure {
    fn from(error: mesh::Error) -> Self {
        match error {
            mesh::Error::Timeout(_) => Self::Timeout,
            mesh::Error::Lost(_) => Self::Lost(error.to_string()),
            _ => Self::NotSent(error.to_string()),
        }
    }
}

/// Sends frames to members. Cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    transport: Arc<dyn Transport>,
    peers: Arc<Peers>,
    /// Told whether snapshots can be served.
    pub snapshots: Arc<Snapshots>,
}

impl Link {
    pub fn new(transport: Arc<dyn Transport>, peers: Arc<Peers>, snapshots: Arc<Snapshots>) -> Self {
        Self { transport, peers, snapshots }
    }

    /// Sends one frame, after a hello if this member has not heard ours yet.
    pub async fn send<F: Frame>(
        &self,
        peer: NodeId,
        lane: Lane,
        frame: &F,
        limit: Duration,
    ) -> Result<F::Answer, Failure> {
        let begun = clock::instant();
        self.peers.greet(&*self.transport, peer, limit).await?;
        let body = frames::request(frame).map_err(not_sent)?;
        let sent = self.transport.request(peer, lane, body, limit.saturating_sub(begun.elapsed())).await;
        if let Err(mesh::Error::Refused { .. }) = sent {
            // It may have restarted and forgotten us: say hello again next time.
            self.peers.forget(peer);
        }
        frames::read_answer::<F>(&sent?).map_err(|error| Failure::Lost(error.to_string()))
    }
}

fn not_sent(error: io::Error) -> Failure {
    Failure::NotSent(error.to_string())
}

/// Makes one client for each member and purpose.
pub(super) struct Factory {
    pub link: Link,
    /// How long entries may take to be durable on a member before they are sent again.
    pub append_limit: Duration,
}

impl Factory {
    fn client(&self, target: NodeId, lane: Lane) -> Client {
        Client { link: self.link.clone(), target, lane, append_limit: self.append_limit }
    }
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &String) -> Client {
        self.client(target, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &String) -> Client {
        self.client(target, Lane::Control)
    }
}

pub(super) struct Client {
    link: Link,
    target: NodeId,
    /// Where entries and heartbeats go.
    lane: Lane,
    append_limit: Duration,
}

impl Client {
    /// On the control lane, which is for what must not wait.
    async fn control<F: Frame>(&self, frame: &F, option: &RPCOption, action: RPCTypes) -> Result<F::Answer, RpcError> {
        let limit = option.soft_ttl();
        let sent = self.link.send(self.target, Lane::Control, frame, limit).await;
        sent.map_err(|failure| self.rpc_error(failure, action, limit))
    }

    fn rpc_error(&self, failure: Failure, action: RPCTypes, timeout: Duration) -> RpcError {
        match failure {
            Failure::NotSent(why) => RpcError::Unreachable(Unreachable::from_string(why)),
            Failure::Lost(why) => RpcError::Network(NetworkError::from_string(why)),
            Failure::Timeout => {
                RpcError::Timeout(Timeout { action, id: self.link.transport.id(), target: self.target, timeout })
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = snapshot::File;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        // Raft's limit is one heartbeat. A disk may need longer, and sending the same entries again would not help it.
        let limit =
            if self.lane == Lane::Control { option.soft_ttl() } else { self.append_limit.max(option.soft_ttl()) };
        let sent = self.link.send(self.target, self.lane, &Append(rpc), limit).await;
        sent.map_err(|failure| self.rpc_error(failure, RPCTypes::AppendEntries, limit))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.control(&Ballot(rpc), &option, RPCTypes::Vote).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.control(&PreBallot(rpc), &option, RPCTypes::Vote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = transfer::send(&self.link, self.target, vote, &snapshot) => {
                sent.map_err(|failure| self.rpc_error(failure, RPCTypes::InstallSnapshot, transfer::FRAME_LIMIT).into())
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.control(&Transfer::from_raft(&request), &option, RPCTypes::TransferLeader).await
    }
}
