//! What members say to each other: one byte for the kind, then bincode.
//!
//! An answer is bincode alone: who asked knows what answers it. On the Raft
//! lanes a fault is a refusal by the mesh; on the forward lane it must tell what
//! certainly did not happen from what may have happened, so it is in the answer.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::command::Reply;
use crate::domain::member::Denied;
use crate::domain::{Digest, NodeId};
use crate::storage;

use super::Error;
use super::abdicate::Condition;
use super::codec::{Blob, Encoded, decode, encode};
use super::members::{Change, Changed};
use super::types::{SnapshotMeta, TypeConfig, Vote};

/// Grows when members of different builds could misunderstand each other.
pub(super) const VERSION: u32 = 3;

/// A request and what answers it.
pub(super) trait Frame: Serialize + DeserializeOwned + Send {
    const KIND: u8;
    type Answer: Serialize + DeserializeOwned + Send;
}

macro_rules! frames {
    ($($kind:literal $name:ty => $answer:ty;)*) => {
        $(impl Frame for $name {
            const KIND: u8 = $kind;
            type Answer = $answer;
        })*
    };
}

frames! {
    1 Hello => Hello;
    2 Append => AppendEntriesResponse<TypeConfig>;
    3 Ballot => VoteResponse<TypeConfig>;
    4 PreBallot => VoteResponse<TypeConfig>;
    5 Transfer => TransferLeaderResponse<TypeConfig>;
    6 SnapshotBegin => u64;
    7 SnapshotChunk => ();
    8 SnapshotEnd => SnapshotResponse<TypeConfig>;
    9 Submit => Result<Submitted, Fault>;
    10 ReadIndex => Result<u64, Fault>;
    11 HandOver => Result<NodeId, Fault>;
    12 ChangeMembers => Result<Result<Changed, Denied>, Fault>;
    13 Knock => Answer;
    14 Knocked => Answer;
    30 SegmentRead => Option<Blob>;
    20 LeaseIndex => Result<u64, Fault>;
    21 AskCondition => Condition;
}

/// Who I am, and who I think you are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub version: u32,
    pub node: NodeId,
    pub incarnation: u128,
    /// The incarnation of yours that I have on record.
    pub known: Option<u128>,
    /// The newest feature level that I know.
    pub newest_level: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Append(pub AppendEntriesRequest<TypeConfig>);

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ballot(pub VoteRequest<TypeConfig>);

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct PreBallot(pub VoteRequest<TypeConfig>);

/// Raft's request, in parts that can be serialised.
#[derive(Serialize, Deserialize)]
pub(super) struct Transfer {
    pub from: Vote,
    pub to: NodeId,
    pub last: Option<super::types::LogId>,
}

impl Transfer {
    pub fn from_raft(request: &TransferLeaderRequest<TypeConfig>) -> Self {
        Self { from: *request.from_leader(), to: *request.to_node_id(), last: request.last_log_id().copied() }
    }

    pub fn into_raft(self) -> TransferLeaderRequest<TypeConfig> {
        TransferLeaderRequest::new(self.from, self.to, self.last)
    }
}

/// Asks for a part of a segment of the archive; `None`: it is not there.
#[derive(Serialize, Deserialize)]
pub(super) struct SegmentRead {
    pub number: u64,
    pub sha256: Digest,
    pub offset: u64,
}

/// Answered with the offset from which to send: a transfer that broke off goes on.
#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotBegin {
    pub transfer: u64,
    pub meta: SnapshotMeta,
    pub length: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotChunk {
    pub transfer: u64,
    pub offset: u64,
    pub bytes: Blob,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotEnd {
    pub transfer: u64,
    pub vote: Vote,
    pub sha256: [u8; 32],
}

/// Commands from a member that does not lead. Never forwarded again.
#[derive(Serialize, Deserialize)]
pub(super) struct Submit {
    pub commands: Encoded,
    pub limit_ms: u64,
    /// Of the clients' requests that these commands came with.
    pub request_ids: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Submitted {
    pub index: u64,
    pub term: u64,
    pub replies: Vec<Reply>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ReadIndex {
    pub limit_ms: u64,
    pub request_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct HandOver {
    pub to: Option<NodeId>,
    pub limit_ms: u64,
    pub request_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ChangeMembers {
    pub change: Change,
    pub force: bool,
    pub limit_ms: u64,
    pub request_id: Option<String>,
}

/// A node that is not a member, or doubts it, asks what it is. On the join lane.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Knock {
    pub incarnation: u128,
    /// Where it is: a multiaddr with `/p2p/…`.
    pub address: String,
    /// Of its invitation.
    pub secret: Option<[u8; 32]>,
    pub limit_ms: u64,
}

/// A knock that a member passes on to the leader.
#[derive(Serialize, Deserialize)]
pub(super) struct Knocked {
    pub peer: NodeId,
    pub knock: Knock,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is a member or is being admitted: these are the others, and where they are.
    Welcome(Vec<(NodeId, String)>),
    /// It was a member, and was removed.
    Gone,
    /// Nobody knows it, and it has no invitation.
    Stranger,
    Denied(Denied),
    /// Asking again may help.
    Later(String),
}
/// As [`ReadIndex`], but answered at once, under the leader's lease or not at all.
#[derive(Serialize, Deserialize)]
pub(super) struct LeaseIndex {}

/// Would you be a better leader?
#[derive(Serialize, Deserialize)]
pub(super) struct AskCondition {}

/// [`Error`], as far as it concerns another member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Fault {
    NoLeader,
    Overloaded,
    Unknown(String),
    Timeout,
    TooLarge { size: u64, limit: u64 },
    DiskFull,
    Invalid(String),
    Behind { node: NodeId, entries: u64 },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::NoLeader | Error::Stopping | Error::Amnesiac(_) => Self::NoLeader,
            Error::Overloaded => Self::Overloaded,
            Error::Unknown(why) => Self::Unknown(why),
            Error::Timeout => Self::Timeout,
            Error::TooLarge { size, limit } => Self::TooLarge { size: size as u64, limit: limit as u64 },
            Error::Storage(storage::Error::Full(_)) => Self::DiskFull,
            Error::Storage(error) => Self::Unknown(error.to_string()),
            Error::Setup(why) => Self::Invalid(why),
            Error::Behind { node, entries } => Self::Behind { node, entries },
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoLeader => Self::NoLeader,
            Fault::Overloaded => Self::Overloaded,
            Fault::Unknown(why) => Self::Unknown(why),
            Fault::Timeout => Self::Timeout,
            Fault::TooLarge { size, limit } => Self::TooLarge { size: size as usize, limit: limit as usize },
            Fault::DiskFull => Self::Storage(storage::Error::Full(PathBuf::from("the leader"))),
            Fault::Invalid(why) => Self::Setup(why),
            Fault::Behind { node, entries } => Self::Behind { node, entries },
        }
    }
}

/// The bytes of a request.
pub(super) fn request<F: Frame>(frame: &F) -> io::Result<Bytes> {
    let mut bytes = vec![F::KIND];
    bytes.extend(encode(frame)?);
    Ok(bytes.into())
}

/// The bytes of an answer.
pub(super) fn answer<F: Frame>(answer: &F::Answer) -> Result<Bytes, Error> {
    encode(answer).map(Bytes::from).map_err(|error| Error::Setup(format!("encode an answer: {error}")))
}

/// Reads the answer to an `F`.
pub(super) fn read_answer<F: Frame>(bytes: &[u8]) -> io::Result<F::Answer> {
    decode(bytes)
}

/// Reads a request whose kind byte said `F`.
pub(super) fn read_request<F: Frame>(body: &[u8]) -> Result<F, Error> {
    decode(body).map_err(|error| Error::Setup(format!("malformed request of kind {}: {error}", F::KIND)))
}
