//! What members of the first feature level say to each other and keep, as bytes: it must be readable for ever.
//!
//! `src/consensus/formats/level1.txt`: a name, the bytes. `UPDATE_GOLDENFILES=1
//! cargo test formats` writes it anew; see [`crate::domain::level`] for when.

use std::fmt::Write as _;

use bytes::Bytes;
use openraft::Membership;
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::vote::RaftLeaderId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::consensus::codec::{Blob, Encoded, Proposal, decode, encode, record};
use crate::consensus::frames::{
    Append, Ballot, Fault, Frame, HandOver, Hello, PreBallot, ReadIndex, SnapshotBegin, SnapshotChunk, SnapshotEnd,
    Submit, Submitted, Transfer,
};
use crate::consensus::types::{Entry, LogId, SnapshotMeta, TypeConfig, Vote};
use crate::domain::level::FIRST;
use crate::domain::{Command, Done, JobId, NodeId, PeerId, Refusal, Timestamp};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/consensus/formats/level1.txt");

/// What is written of each kind, and a check that the stored bytes are read and written the same.
struct Book {
    stored: String,
    written: String,
    names: usize,
}

impl Book {
    fn holds<T: Serialize + DeserializeOwned>(&mut self, name: &str, value: &T) {
        let now = hex::encode(encode(value).unwrap());
        writeln!(self.written, "{name} {now}").unwrap();
        self.names += 1;
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            return;
        }
        let line = self.stored.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        let stored = line.unwrap_or_else(|| panic!("no sample of {name}"));
        assert_eq!(now, stored, "{name} is written otherwise now");
        let read: T = decode(&hex::decode(stored).unwrap()).unwrap();
        assert_eq!(hex::encode(encode(&read).unwrap()), stored, "{name} is read otherwise now");
    }

    fn frame<F: Frame>(&mut self, name: &str, frame: &F, answer: &F::Answer) {
        self.holds(&format!("{name}.{}", F::KIND), frame);
        self.holds(&format!("{name}.answer"), answer);
    }
}

fn node(n: u8) -> NodeId {
    PeerId([n; 32])
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, node(1)).to_committed(), index)
}

fn commands() -> Encoded {
    let cancel = Command::Cancel { job: JobId([7; 16]), reason: "no longer needed".into() };
    Encoded { count: 1, bytes: Blob(encode(&cancel).unwrap().into()) }
}

fn entries() -> Vec<Entry> {
    let data = record(FIRST, Timestamp(1_700_000_000_000), [commands()].iter()).unwrap();
    let nodes = [1, 2].map(|n| (node(n), format!("/ip4/192.0.2.{n}/tcp/4001/p2p/{}", node(n))));
    let voters = std::iter::once(nodes.iter().map(|(id, _)| *id).collect()).collect::<Vec<_>>();
    let membership = Membership::new(voters, nodes.into_iter().collect::<std::collections::BTreeMap<_, _>>()).unwrap();
    vec![
        Entry { log_id: log_id(1, 1), payload: openraft::EntryPayload::Membership(membership) },
        Entry { log_id: log_id(2, 2), payload: openraft::EntryPayload::Blank },
        Entry { log_id: log_id(2, 3), payload: openraft::EntryPayload::Normal(Proposal(Blob(data))) },
    ]
}

#[test]
fn what_the_first_level_said_and_kept_is_read_and_written_the_same() {
    let mut book = Book { stored: std::fs::read_to_string(FILE).unwrap_or_default(), written: String::new(), names: 0 };
    let vote = Vote::new(3, node(1));
    for entry in entries() {
        book.holds(&format!("log.{}", entry.log_id.index), &entry);
    }
    book.holds("vote", &vote);
    book.holds("position", &log_id(2, 3));
    let meta = SnapshotMeta { last_log_id: Some(log_id(2, 3)), ..SnapshotMeta::default() };
    book.holds("snapshot", &meta);

    let hello = Hello { version: 3, node: node(1), incarnation: 7, known: Some(9), newest_level: FIRST };
    book.frame("hello", &hello, &hello);
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: None,
        entries: entries(),
        leader_commit: Some(log_id(2, 2)),
    };
    book.frame("append", &Append(append), &AppendEntriesResponse::Success);
    let ballot = || VoteRequest::<TypeConfig>::new(vote, Some(log_id(2, 3)));
    let granted = VoteResponse::<TypeConfig>::new(vote, Some(log_id(2, 3)), true);
    book.frame("ballot", &Ballot(ballot()), &granted);
    book.frame("pre-ballot", &PreBallot(ballot()), &granted);
    book.holds("transfer", &Transfer { from: vote, to: node(2), last: Some(log_id(2, 3)) });
    book.frame("snapshot-begin", &SnapshotBegin { transfer: 5, meta, length: 1 << 20 }, &65_536);
    let bytes = Blob(Bytes::from_static(b"state"));
    book.frame("snapshot-chunk", &SnapshotChunk { transfer: 5, offset: 65_536, bytes }, &());
    book.holds("snapshot-end", &SnapshotEnd { transfer: 5, vote, sha256: [3; 32] });
    let request = Some("request".to_owned());
    let replies = vec![Ok(Done::Unchanged), Err(Refusal::UnknownJob(JobId([7; 16])))];
    let submit = Submit { commands: commands(), limit_ms: 5_000, request_ids: vec!["request".into()] };
    book.frame("submit", &submit, &Ok(Submitted { index: 3, term: 2, replies }));
    book.frame("read-index", &ReadIndex { limit_ms: 5_000, request_id: request.clone() }, &Ok(3));
    let hand_over = HandOver { to: Some(node(2)), limit_ms: 5_000, request_id: request };
    book.frame("hand-over", &hand_over, &Err(Fault::Unknown("why".into())));

    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(FILE, &book.written).unwrap();
    } else {
        assert_eq!(book.stored.lines().count(), book.names, "a sample is of nothing that is checked");
    }
}
