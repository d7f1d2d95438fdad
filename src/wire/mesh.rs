//! What workers and coordinators say, beyond plain fields.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::proto::mesh::v1 as proto;
use crate::domain::{Digest, JobId, PeerId, WorkerId, bid_proof};

pub fn encode(message: &impl Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

/// `None` if the bytes are not such a message.
pub fn decode<M: Message + Default>(bytes: Bytes) -> Option<M> {
    M::decode(bytes).ok()
}

pub fn attempt_ref(job: JobId, attempt: u32) -> proto::AttemptRef {
    proto::AttemptRef { job: Bytes::copy_from_slice(&job.0), attempt }
}

pub fn parse_attempt(from: Option<&proto::AttemptRef>) -> Option<(JobId, u32)> {
    let from = from?;
    Some((super::job_id(&from.job)?, from.attempt))
}

/// What is said once for all bids of an answer.
pub fn bids_head(bids: &proto::Bids) -> bid_proof::Head {
    bid_proof::Head {
        term: bids.term,
        seq: bids.seq,
        room: bids.room,
        load_permille: bids.load_permille,
        nonce: bids.nonce,
        count: u32::try_from(bids.bids.len()).unwrap_or(u32::MAX),
    }
}

/// The tree over the bids. `None` if one is malformed.
pub fn bids_tree(bids: &proto::Bids) -> Option<bid_proof::Tree> {
    let leaf = |bid: &proto::Bid| {
        let (job, price) = (super::job_id(&bid.job)?, super::price_from_bytes(&bid.price)?);
        Some(bid_proof::Leaf { job, attempt: bid.attempt, price, expected_ms: bid.expected_ms }.hash())
    };
    bids.bids.iter().map(leaf).collect::<Option<_>>().map(bid_proof::Tree::over)
}

/// The bytes a worker signs for an answer: [`bid_proof`] says which. `None` if a bid is malformed.
pub fn signed_bids(bids: &proto::Bids) -> Option<Vec<u8>> {
    Some(bids_head(bids).statement(&bids_tree(bids)?.root()))
}

/// Whether `worker` is among those that the announcement asks: a share chosen anew each round, the same for
/// everyone who computes it.
pub fn is_asked(worker: WorkerId, term: u64, seq: u64, asked_permille: u32) -> bool {
    if asked_permille == 0 {
        return true;
    }
    let drawn = Digest::of(&[&worker.0[..], &term.to_be_bytes(), &seq.to_be_bytes()].concat());
    first_u64(&drawn) % 1_000 < u64::from(asked_permille)
}

/// Groups of workers that an announcement may be for. Of a thousand workers each has about thirty.
pub const GROUPS: u8 = 32;

/// The group of `worker`.
pub fn group(worker: WorkerId) -> u8 {
    worker.0[0] % GROUPS
}

/// A name for a set of coordinators, however it is ordered. Never 0.
pub fn reach(coordinators: &BTreeSet<PeerId>) -> u64 {
    let ids: Vec<u8> = coordinators.iter().flat_map(|id| id.0).collect();
    first_u64(&Digest::of(&ids)).max(1)
}

fn first_u64(digest: &Digest) -> u64 {
    digest.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A refused item with a stable code.
pub fn refused(code: &str) -> proto::ItemReply {
    proto::ItemReply { accepted: false, code: code.to_owned() }
}

/// The bytes a worker signs for a result: a domain separator, the job's UUID
/// (16 bytes), the attempt (u32 big endian) and the SHA-256 of the output.
pub fn signed_result(job: JobId, attempt: u32, output_sha256: &Digest) -> Vec<u8> {
    let mut message = b"ciro-result-v1\0".to_vec();
    message.extend_from_slice(&job.0);
    message.extend_from_slice(&attempt.to_be_bytes());
    message.extend_from_slice(&output_sha256.0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_asked_is_about_what_was_said_and_another_each_round() {
        let worker = |n: u32| {
            let mut id = WorkerId::default();
            id.0[..4].copy_from_slice(&n.to_be_bytes());
            id
        };
        let asked = |seq, permille| (0..1_000).filter(|n| is_asked(worker(*n), 3, seq, permille)).collect::<Vec<u32>>();
        assert_eq!(asked(1, 0).len(), 1_000, "0 is everybody");
        assert_eq!(asked(1, 1_000).len(), 1_000);
        for permille in [20, 100, 500] {
            let (some, others) = (asked(1, permille), asked(2, permille));
            let most = permille as usize;
            assert!((most / 2..most * 3 / 2).contains(&some.len()), "{} of 1000 at {permille}", some.len());
            assert_ne!(some, others);
        }
    }

    #[test]
    fn a_reach_names_a_set() {
        let (one, other) = (PeerId([1; 32]), PeerId([2; 32]));
        assert_eq!(reach(&[one, other].into()), reach(&[other, one].into()));
        assert_ne!(reach(&[one].into()), reach(&[one, other].into()));
        assert_ne!(reach(&BTreeSet::new()), 0);
    }

    #[test]
    fn what_is_signed_names_job_attempt_and_output() {
        let (job, output) = (JobId([7; 16]), Digest([9; 32]));
        let message = signed_result(job, 3, &output);
        assert_eq!(message.len(), 15 + 16 + 4 + 32);
        assert_ne!(message, signed_result(job, 4, &output));
        assert_ne!(message, signed_result(JobId([8; 16]), 3, &output));
        assert_ne!(message, signed_result(job, 3, &Digest([1; 32])));
    }

    #[test]
    fn garbage_does_not_decode() {
        assert!(decode::<proto::Heartbeat>(Bytes::from_static(&[0xff; 9])).is_none());
    }
}
