//! What a worker signs when it bids, and how one bid is shown to be among them.
//!
//! A worker answers an announcement with one message of many bids and one
//! signature. The signature is over the message's head and the root of a Merkle
//! tree of its bids, so an award can keep the one bid that won, the way from it
//! to the root, and the signature: enough for anyone to see, later and off line,
//! that this worker offered these terms.
//!
//! Hashes are SHA-256 cut to 16 bytes. A leaf and a node are hashed with
//! different first bytes, so none passes for the other. Without a partner a hash
//! moves up as it is.
//!
//! Absent: the signature itself is made and checked by who knows keys.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::bytes;
use super::ids::{JobId, Price};

pub type Hash = [u8; 16];

/// Levels of the largest tree we look at.
pub const LEVELS_MAX: usize = 16;

/// The terms of one bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub job: JobId,
    pub attempt: u32,
    pub price: Price,
    pub expected_ms: u32,
}

/// What is said once for all bids of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub term: u64,
    pub seq: u64,
    pub room: u32,
    pub load_permille: u32,
    /// Chosen by the worker, so that no two messages are the same.
    pub nonce: u64,
    pub count: u32,
}

/// That a worker signed a bid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub head: Head,
    /// The bid's place in the message.
    pub place: u32,
    /// The partners on the way to the root.
    pub path: Vec<Hash>,
    #[serde(with = "bytes::whole")]
    pub signature: Vec<u8>,
}

impl Leaf {
    pub fn hash(&self) -> Hash {
        let mut bytes = vec![0];
        bytes.extend(self.job.0);
        bytes.extend(self.attempt.to_be_bytes());
        bytes.extend(self.price.0.to_be_bytes());
        bytes.extend(self.expected_ms.to_be_bytes());
        cut(&bytes)
    }
}

impl Head {
    /// What is signed for bids with this root.
    pub fn statement(&self, root: &Hash) -> Vec<u8> {
        let mut bytes = b"ciro-bids-v1\0".to_vec();
        bytes.extend(self.term.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.room.to_be_bytes());
        bytes.extend(self.load_permille.to_be_bytes());
        bytes.extend(self.nonce.to_be_bytes());
        bytes.extend(self.count.to_be_bytes());
        bytes.extend(root);
        bytes
    }
}

impl Proof {
    /// What the signature must be over if `leaf` was among the bids. `None`: the way does not fit the tree.
    pub fn statement(&self, leaf: &Leaf) -> Option<Vec<u8>> {
        let (mut place, mut width) = (self.place, self.head.count);
        let mut path = self.path.iter();
        let mut hash = leaf.hash();
        if place >= width {
            return None;
        }
        while width > 1 {
            let alone = place % 2 == 0 && place + 1 == width;
            if !alone {
                let partner = path.next()?;
                hash = if place % 2 == 0 { node(&hash, partner) } else { node(partner, &hash) };
            }
            (place, width) = (place / 2, width.div_ceil(2));
        }
        path.next().is_none().then(|| self.head.statement(&hash))
    }
}

/// The tree over the bids of one message, kept whole to show the way from any of them.
pub struct Tree {
    /// From the leaves up. The last has one hash, or none if there are no leaves.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    pub fn over(leaves: Vec<Hash>) -> Self {
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            levels.push(above(level));
        }
        Self { levels }
    }

    /// Of no leaves, zeros.
    pub fn root(&self) -> Hash {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or_default()
    }

    /// The partners on the way from the leaf at `place` to the root.
    pub fn path(&self, place: usize) -> Vec<Hash> {
        let partner = |(height, level): (usize, &Vec<Hash>)| level.get((place >> height) ^ 1).copied();
        let below_root = self.levels.len() - 1;
        self.levels.iter().enumerate().take(below_root).filter_map(partner).collect()
    }
}

fn above(level: &[Hash]) -> Vec<Hash> {
    let join = |pair: &[Hash]| match pair {
        [left, right] => node(left, right),
        _ => pair.first().copied().unwrap_or_default(),
    };
    level.chunks(2).map(join).collect()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    cut(&[&[1], left.as_slice(), right].concat())
}

fn cut(bytes: &[u8]) -> Hash {
    let mut hash = [0; 16];
    hash.copy_from_slice(&Sha256::digest(bytes)[..16]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(n: u8) -> Leaf {
        Leaf { job: JobId([n; 16]), attempt: 1, price: Price(u128::from(n)), expected_ms: 7 }
    }

    #[test]
    fn every_bid_of_a_message_of_any_size_leads_to_what_was_signed() {
        for count in 1..=40u8 {
            let leaves: Vec<Hash> = (0..count).map(|n| leaf(n).hash()).collect();
            let head = Head { term: 3, seq: 9, count: count.into(), ..Head::default() };
            let tree = Tree::over(leaves);
            let signed = head.statement(&tree.root());
            for n in 0..count {
                let proof = Proof { head, place: n.into(), path: tree.path(n.into()), signature: vec![] };
                assert!(proof.path.len() <= LEVELS_MAX);
                assert_eq!(proof.statement(&leaf(n)), Some(signed.clone()), "{n} of {count}");
                let cheaper = Leaf { price: Price(1_000), ..leaf(n) };
                assert_ne!(proof.statement(&cheaper), Some(signed.clone()), "other terms");
                let elsewhere = Proof { place: u32::from(n) ^ 1, ..proof.clone() };
                if count > 1 {
                    assert_ne!(elsewhere.statement(&leaf(n)), Some(signed.clone()), "another place");
                }
                let mut longer = proof;
                longer.path.push([0; 16]);
                assert_eq!(longer.statement(&leaf(n)), None, "a way that is too long");
            }
        }
    }

    #[test]
    fn a_node_does_not_pass_for_a_leaf_and_the_head_counts() {
        let root = Tree::over(vec![leaf(1).hash(), leaf(2).hash()]).root();
        assert_ne!(root, Tree::over(vec![root, root]).root());
        let head = Head { count: 2, ..Head::default() };
        let other = Head { nonce: 1, ..head };
        assert_ne!(head.statement(&root), other.statement(&root));
    }
}
