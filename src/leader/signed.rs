//! Answers to announcements, and that their senders signed them.
//!
//! Gossip is signed for the way; what is signed here lasts: an award keeps the
//! winner's signature, so that anyone can see later what it offered.

use std::collections::BTreeMap;

use crate::domain::auction::Win;
use crate::domain::{WorkerId, bid_proof};
use crate::mesh;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// A worker's answer whose signature holds.
pub(super) struct Signed<'a> {
    answer: &'a proto::Bids,
    tree: bid_proof::Tree,
}

impl<'a> Signed<'a> {
    /// `None`: there is no answer, or it is not signed by `worker`.
    pub fn check(worker: WorkerId, answers: &'a BTreeMap<WorkerId, proto::Bids>) -> Option<Self> {
        let answer = answers.get(&worker)?;
        let tree = wire::bids_tree(answer)?;
        let statement = wire::bids_head(answer).statement(&tree.root());
        mesh::verify(worker, &statement, &answer.signature).then_some(Self { answer, tree })
    }

    /// That the bid which won is among those signed.
    pub fn proof(&self, win: &Win) -> Option<bid_proof::Proof> {
        let won = |bid: &proto::Bid| *bid.job == win.job.0 && bid.attempt == win.attempt;
        let place = self.answer.bids.iter().position(won)?;
        Some(bid_proof::Proof {
            head: wire::bids_head(self.answer),
            place: u32::try_from(place).ok()?,
            path: self.tree.path(place),
            signature: self.answer.signature.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::auction::Evidence;
    use crate::domain::{JobId, Price};
    use crate::mesh::Identity;

    fn answer(signer: &Identity) -> proto::Bids {
        let bid = |n: u8| proto::Bid {
            job: bytes::Bytes::copy_from_slice(&[n; 16]),
            attempt: 1,
            price: wire::price_to_bytes(Price(n.into())),
            expected_ms: 3,
        };
        let mut bids = proto::Bids { term: 1, seq: 2, room: 9, bids: (0..5).map(bid).collect(), ..Default::default() };
        bids.signature = signer.sign(&wire::signed_bids(&bids).unwrap()).into();
        bids
    }

    #[test]
    fn the_proof_of_a_win_is_what_its_worker_signed() {
        let worker = Identity::from_secret([1; 32]);
        let answers = BTreeMap::from([(worker.id(), answer(&worker))]);
        let signed = Signed::check(worker.id(), &answers).expect("it is signed");
        let evidence = Evidence { scale: Default::default(), bids: 1, offers: Box::new([]), proof: None };
        let win = Win { job: JobId([3; 16]), attempt: 1, worker: worker.id(), price: Price(3), evidence };
        let proof = signed.proof(&win).expect("it is among the bids");
        let leaf = bid_proof::Leaf { job: win.job, attempt: 1, price: Price(3), expected_ms: 3 };
        let holds = |leaf| mesh::verify(worker.id(), &proof.statement(leaf).unwrap(), &proof.signature);
        assert!(holds(&leaf));
        assert!(!holds(&bid_proof::Leaf { price: Price(2), ..leaf }), "another price");
    }

    #[test]
    fn an_answer_that_another_signed_is_none() {
        let (worker, other) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        assert!(Signed::check(worker.id(), &BTreeMap::from([(worker.id(), answer(&other))])).is_none());
        assert!(Signed::check(worker.id(), &BTreeMap::new()).is_none());
    }
}
