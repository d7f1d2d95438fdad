//! What openraft is told about us: the types of ids, entries and answers.
//!
//! Standard Raft terms: at most one leader per term, so a term names a
//! leadership everywhere in the system.

use openraft::alias;

use crate::domain::NodeId;
use crate::domain::command::Reply;

use super::codec::Proposal;
use super::state_machine::Machine;

openraft::declare_raft_types!(
    /// A member's payload is its multiaddr.
    pub(super) TypeConfig:
        D = Proposal,
        R = Vec<Reply>,
        NodeId = NodeId,
        Node = String,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

pub(super) type Node = openraft::Raft<TypeConfig, Machine>;
pub(super) type Entry = alias::EntryOf<TypeConfig>;
pub(super) type LogId = alias::LogIdOf<TypeConfig>;
/// The term of a log position.
pub(super) type LogTerm = alias::CommittedLeaderIdOf<TypeConfig>;
pub(super) type Vote = alias::VoteOf<TypeConfig>;
pub(super) type Membership = alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(super) type Snapshot = alias::SnapshotOf<TypeConfig, super::snapshot::File>;
pub(super) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// What Raft made of a proposal.
pub(super) type Written = openraft::raft::ClientWriteResult<TypeConfig>;
pub(super) type WriteError = openraft::errors::ClientWriteError<TypeConfig>;
pub(super) type RpcError = openraft::errors::RPCError<TypeConfig>;
