//! What a backup says of itself: where it comes from, and what is in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::consensus::Status;
use crate::domain::journal::Sink;
use crate::domain::{State, Timestamp, snapshot};

/// In the file as JSON. Fields that a build does not know are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program that wrote it.
    pub software: String,
    /// Of the state's own encoding.
    pub state_format: u32,
    /// Name of the network, and with that of the cluster.
    pub network: String,
    /// Who wrote it.
    pub node_id: String,
    /// The last log entry that is in it.
    pub index: u64,
    pub term: u64,
    /// The log's clock at that entry, in milliseconds since 1970.
    pub at_ms: u64,
    /// The writer's clock when it began.
    pub taken_at_ms: u64,
    /// Rolling hash of everything applied, in hex.
    pub state_hash: String,
    pub members: Vec<Member>,
    /// By state.
    pub jobs: BTreeMap<String, u64>,
    pub workers: u64,
    /// Number of the newest event.
    pub journal_seq: u64,
    /// Through which event each sink has everything.
    pub cursors: BTreeMap<String, u64>,
    /// Of the chain's books; 0: there are none.
    pub chain_epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    pub address: String,
    pub voter: bool,
}

impl Header {
    /// Of `state`, a frozen view of the node whose status is given.
    pub fn of(state: &State, status: &Status, network: &str, now: Timestamp) -> Self {
        let member = |member: &crate::consensus::Member| Member {
            id: member.id.to_string(),
            address: member.address.clone(),
            voter: member.voter,
        };
        Self {
            node_id: status.node.to_string(),
            members: status.members.iter().map(member).collect(),
            ..Self::of_state(state, network, now)
        }
    }

    /// Of a state without a node around it.
    pub fn of_state(state: &State, network: &str, now: Timestamp) -> Self {
        Self {
            software: env!("CARGO_PKG_VERSION").to_owned(),
            state_format: snapshot::FORMAT,
            network: network.to_owned(),
            node_id: String::new(),
            index: state.applied(),
            term: state.applied_term(),
            at_ms: state.now().0,
            taken_at_ms: now.0,
            state_hash: hex::encode(state.hash().0),
            members: Vec::new(),
            jobs: state.job_counts().into_iter().map(|(of, count)| (of.as_str().to_owned(), count)).collect(),
            workers: state.workers().count() as u64,
            journal_seq: state.journal().last_seq(),
            cursors: state.journal().cursors().map(|(sink, cursor)| (name(sink).to_owned(), cursor)).collect(),
            chain_epoch: state.chain().epoch(),
        }
    }

    /// Whether the header is of this state.
    pub fn fits(&self, state: &State) -> bool {
        let found = Self::of_state(state, &self.network, Timestamp(self.taken_at_ms));
        let part = |header: &Self| {
            let Self { index, term, at_ms, state_hash, jobs, workers, journal_seq, cursors, chain_epoch, .. } = header;
            (
                *index,
                *term,
                *at_ms,
                state_hash.clone(),
                jobs.clone(),
                *workers,
                *journal_seq,
                cursors.clone(),
                *chain_epoch,
            )
        };
        part(&found) == part(self)
    }
}

/// How a sink is called.
pub fn name(sink: Sink) -> &'static str {
    match sink {
        Sink::Kafka => "kafka",
        Sink::Chain => "chain",
        Sink::History => "history",
    }
}
