//! Who belongs to the cluster, who shall, and who may ask to.
//!
//! Raft's membership says who votes at an entry of the log. Beside it the state
//! keeps what Raft does not: what is wished of every node, which data directory
//! it came with, where it was last, and the invitations. A leader compares wish
//! and seat and takes the next [`Move`]; so whoever leads continues from the
//! state alone, whatever its predecessor was in the middle of.
//!
//! Invariants
//!
//! * One change at a time: while a wish and a seat differ, other changes are
//!   refused, and the refusal says what is under way.
//! * A node that left is remembered with its data directory. The same key with
//!   another directory is refused, then and later: it has forgotten its votes.
//! * An invitation is known by the digest of its secret, admits one node, and
//!   that node as often as it asks.
//! * Everything is bounded, and the oldest that matter least go first.

mod plan;
mod token;

pub use plan::Move;
pub use token::{Secret, Token};

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ids::{Digest, NodeId};
use super::time::Timestamp;

/// Members, those that only follow included. Beyond it nobody is admitted.
pub const MEMBERS_MAX: usize = 31;

/// Nodes remembered, those that left included. Beyond it the one that left first is forgotten.
pub const KNOWN_MAX: usize = 4_096;

/// Invitations remembered. Beyond it the oldest that is of no use any more goes; if all are, a new one is refused.
pub const INVITATIONS_MAX: usize = 256;

/// Longest address, in bytes.
pub const ADDRESS_MAX: usize = 256;

/// How long an invitation may hold, in milliseconds.
pub const TTL_MAX_MS: u64 = 30 * 86_400_000;

/// What may be asked of the membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// A new invitation, by the digest of its secret.
    Invite {
        id: Digest,
        voter: bool,
        ttl_ms: u64,
    },
    Revoke {
        id: Digest,
    },
    /// A node shows the secret behind an invitation.
    Redeem {
        id: Digest,
        node: NodeId,
        incarnation: u128,
        address: String,
    },
    /// An operator names a node that may come without an invitation.
    Add {
        node: NodeId,
        address: String,
        voter: bool,
    },
    /// Which data directory a node came with; the first one stands.
    Met {
        node: NodeId,
        incarnation: u128,
    },
    /// Where a member is now.
    Moved {
        node: NodeId,
        address: String,
    },
    SetVoter {
        node: NodeId,
        voter: bool,
    },
    /// A learner votes in place of a voter that is dead, which becomes a learner: one change.
    Replace {
        dead: NodeId,
        by: NodeId,
    },
    Remove {
        node: NodeId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Denied {
    #[error("{0} is not a member")]
    NotAMember(NodeId),
    #[error("a change is under way: {what} {node}")]
    InFlight { node: NodeId, what: String },
    #[error("{0} is the last voter")]
    LastVoter(NodeId),
    #[error("the cluster has {limit} members, which is its limit")]
    Full { limit: u64 },
    #[error("{limit} invitations are open, which is the limit")]
    InvitationsFull { limit: u64 },
    #[error("the invitation is not known")]
    UnknownInvitation,
    #[error("the invitation has expired")]
    Expired,
    #[error("the invitation was used")]
    Used,
    #[error("{0} was here with another data directory")]
    OtherStore(NodeId),
    #[error("{0} is not heard of")]
    Unreachable(NodeId),
    /// Nothing would be committed any more: no force helps.
    #[error("without {node} {live} of {voters} voters would be alive, and {needed} are needed")]
    QuorumLost { node: NodeId, live: u64, voters: u64, needed: u64 },
    /// Possible, but likely not meant.
    #[error("{0}")]
    Risky(String),
}

impl Denied {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAMember(_) => "unknown_member",
            Self::InFlight { .. } => "change_in_flight",
            Self::LastVoter(_) => "last_voter",
            Self::Full { .. } => "members_full",
            Self::InvitationsFull { .. } => "invitations_full",
            Self::UnknownInvitation => "unknown_invitation",
            Self::Expired => "invitation_expired",
            Self::Used => "invitation_used",
            Self::OtherStore(_) => "other_data_directory",
            Self::Unreachable(_) => "member_unreachable",
            Self::QuorumLost { .. } => "quorum_lost",
            Self::Risky(_) => "needs_force",
        }
    }
}

/// What a node shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    Voter,
    Learner,
    Gone,
}

/// What a node is in Raft's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seat {
    Voter,
    Learner,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Multiaddr with `/p2p/…`: a hint.
    pub address: Box<str>,
    /// The data directory it came with; `None`: nobody has met it yet.
    pub incarnation: Option<u128>,
    pub wish: Wish,
    pub seat: Option<Seat>,
    /// When it was last admitted, or left.
    pub at: Timestamp,
}

impl Known {
    /// Whether it is what it shall be.
    pub fn is_settled(&self) -> bool {
        matches!(
            (self.wish, self.seat),
            (Wish::Voter, Some(Seat::Voter)) | (Wish::Learner, Some(Seat::Learner)) | (Wish::Gone, None)
        )
    }

    /// Whether it belongs to the cluster, or is about to.
    pub fn is_wanted(&self) -> bool {
        self.wish != Wish::Gone
    }

    /// What is under way with it.
    pub fn under_way(&self) -> &'static str {
        match (self.wish, self.seat) {
            (Wish::Gone, _) => "removing",
            (Wish::Voter, None) => "admitting, as a voter,",
            (Wish::Learner, None) => "admitting, as a learner,",
            (Wish::Voter, Some(_)) => "promoting",
            (Wish::Learner, Some(_)) => "demoting",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub voter: bool,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub used: Option<(NodeId, Timestamp)>,
}

impl Invitation {
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.used.is_none() && now <= self.expires_at
    }
}

/// The books of the membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    nodes: BTreeMap<NodeId, Known>,
    invitations: BTreeMap<Digest, Invitation>,
    /// Raft is between two sets of voters.
    joint: bool,
}

impl Members {
    pub fn known(&self, node: NodeId) -> Option<&Known> {
        self.nodes.get(&node)
    }

    /// Everybody who is remembered, those that left included.
    pub fn all(&self) -> impl Iterator<Item = (NodeId, &Known)> {
        self.nodes.iter().map(|(node, known)| (*node, known))
    }

    /// Those with a seat.
    pub fn seated(&self) -> impl Iterator<Item = (NodeId, &Known)> {
        self.all().filter(|(_, known)| known.seat.is_some())
    }

    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.seated().filter(|(_, known)| known.seat == Some(Seat::Voter)).map(|(node, _)| node).collect()
    }

    pub fn invitations(&self) -> impl Iterator<Item = (&Digest, &Invitation)> {
        self.invitations.iter()
    }

    pub fn invitation(&self, id: &Digest) -> Option<&Invitation> {
        self.invitations.get(id)
    }

    /// The change under way: about whom, and what.
    pub fn in_flight(&self) -> Option<(NodeId, &'static str)> {
        let odd = self.all().find(|(_, known)| !known.is_settled()).map(|(node, known)| (node, known.under_way()));
        odd.or_else(|| {
            let voter = self.seated().next().filter(|_| self.joint)?;
            Some((voter.0, "settling the voters with"))
        })
    }

    /// Whether nothing is left to do about `node`.
    pub fn is_settled(&self, node: NodeId) -> bool {
        !self.joint && self.known(node).is_none_or(Known::is_settled)
    }

    /// Refuses while a change is under way that is not about `node` alone, or about it and the other of a replacement.
    fn free_but_for(&self, node: Option<NodeId>) -> Result<(), Denied> {
        let pair = [node, node.and_then(|node| self.partner(node))];
        let others = self.all().find(|(id, known)| !pair.contains(&Some(*id)) && !known.is_settled());
        let other = others.map(|(node, known)| (node, known.under_way()));
        match other.or_else(|| self.in_flight().filter(|_| self.joint)) {
            Some((node, what)) => Err(Denied::InFlight { node, what: what.to_owned() }),
            None => Ok(()),
        }
    }

    /// Raft's membership is another. Who had a seat and has none any more has left, whoever decided it.
    pub(super) fn seat(&mut self, configs: &[BTreeSet<NodeId>], nodes: &BTreeMap<NodeId, String>, now: Timestamp) {
        self.joint = configs.len() > 1;
        let votes = |node: &NodeId| configs.iter().any(|voters| voters.contains(node));
        for (node, known) in &mut self.nodes {
            let seat = nodes.contains_key(node).then(|| if votes(node) { Seat::Voter } else { Seat::Learner });
            if known.seat.is_some() && seat.is_none() {
                known.wish = Wish::Gone;
                known.at = now;
            }
            known.seat = seat;
        }
        for (node, address) in nodes {
            let (wish, seat) = if votes(node) { (Wish::Voter, Seat::Voter) } else { (Wish::Learner, Seat::Learner) };
            let address = address.clone().into_boxed_str();
            let fresh = Known { address, incarnation: None, wish, seat: Some(seat), at: now };
            self.nodes.entry(*node).or_insert(fresh);
        }
        self.bound();
    }

    /// What [`Act`] would come to now: whether anything would change.
    ///
    /// # Errors
    ///
    /// Those of applying it.
    pub fn would(&self, act: &Act, now: Timestamp) -> Result<bool, Denied> {
        self.clone().act(act, now)
    }

    /// Returns whether anything changed.
    pub(super) fn act(&mut self, act: &Act, now: Timestamp) -> Result<bool, Denied> {
        match act {
            Act::Invite { id, voter, ttl_ms } => self.invite(*id, *voter, *ttl_ms, now),
            Act::Revoke { id } => match self.invitations.get(id) {
                None => Err(Denied::UnknownInvitation),
                Some(invitation) if invitation.used.is_some() => Err(Denied::Used),
                Some(_) => Ok(self.invitations.remove(id).is_some()),
            },
            Act::Redeem { id, node, incarnation, address } => self.redeem(*id, *node, *incarnation, address, now),
            Act::Add { node, address, voter } => self.add(*node, address, *voter, now),
            Act::Met { node, incarnation } => self.met(*node, *incarnation),
            Act::Moved { node, address } => {
                let known = self.nodes.get_mut(node).filter(|known| known.is_wanted());
                let known = known.ok_or(Denied::NotAMember(*node))?;
                let moved = *known.address != **address;
                known.address = address.as_str().into();
                Ok(moved)
            }
            Act::SetVoter { node, voter } => self.set_voter(*node, *voter),
            Act::Replace { dead, by } => self.replace(*dead, *by),
            Act::Remove { node } => self.remove(*node, now),
        }
    }

    fn invite(&mut self, id: Digest, voter: bool, ttl_ms: u64, now: Timestamp) -> Result<bool, Denied> {
        if self.invitations.contains_key(&id) {
            return Ok(false);
        }
        if self.invitations.len() >= INVITATIONS_MAX {
            let idle = self.invitations.iter().filter(|(_, invitation)| !invitation.is_open(now));
            let oldest = idle.min_by_key(|(id, invitation)| (invitation.issued_at, **id)).map(|(id, _)| *id);
            let oldest = oldest.ok_or(Denied::InvitationsFull { limit: INVITATIONS_MAX as u64 })?;
            self.invitations.remove(&oldest);
        }
        let expires_at = now.after_ms(ttl_ms);
        self.invitations.insert(id, Invitation { voter, issued_at: now, expires_at, used: None });
        Ok(true)
    }

    fn redeem(
        &mut self,
        id: Digest,
        node: NodeId,
        incarnation: u128,
        address: &str,
        now: Timestamp,
    ) -> Result<bool, Denied> {
        self.same_store(node, incarnation)?;
        if self.nodes.get(&node).is_some_and(Known::is_wanted) {
            return self.met(node, incarnation);
        }
        let invitation = self.invitations.get(&id).ok_or(Denied::UnknownInvitation)?;
        if invitation.used.is_some() {
            return Err(Denied::Used);
        }
        if !invitation.is_open(now) {
            return Err(Denied::Expired);
        }
        let voter = invitation.voter;
        self.admit(node, address, voter, now)?;
        self.met(node, incarnation)?;
        if let Some(invitation) = self.invitations.get_mut(&id) {
            invitation.used = Some((node, now));
        }
        Ok(true)
    }

    fn add(&mut self, node: NodeId, address: &str, voter: bool, now: Timestamp) -> Result<bool, Denied> {
        if self.nodes.get(&node).is_some_and(Known::is_wanted) {
            return self.set_voter(node, voter);
        }
        self.admit(node, address, voter, now)?;
        Ok(true)
    }

    fn admit(&mut self, node: NodeId, address: &str, voter: bool, now: Timestamp) -> Result<(), Denied> {
        self.free_but_for(Some(node))?;
        if self.all().filter(|(_, known)| known.is_wanted()).count() >= MEMBERS_MAX {
            return Err(Denied::Full { limit: MEMBERS_MAX as u64 });
        }
        let before = self.nodes.get(&node);
        let (incarnation, seat) = (before.and_then(|known| known.incarnation), before.and_then(|known| known.seat));
        let wish = if voter { Wish::Voter } else { Wish::Learner };
        self.nodes.insert(node, Known { address: address.into(), incarnation, wish, seat, at: now });
        self.bound();
        Ok(())
    }

    fn same_store(&self, node: NodeId, incarnation: u128) -> Result<(), Denied> {
        let known = self.nodes.get(&node).and_then(|known| known.incarnation);
        if known.is_some_and(|known| known != incarnation) { Err(Denied::OtherStore(node)) } else { Ok(()) }
    }

    fn met(&mut self, node: NodeId, incarnation: u128) -> Result<bool, Denied> {
        self.same_store(node, incarnation)?;
        let known = self.nodes.get_mut(&node).ok_or(Denied::NotAMember(node))?;
        Ok(known.incarnation.replace(incarnation).is_none())
    }

    fn set_voter(&mut self, node: NodeId, voter: bool) -> Result<bool, Denied> {
        let wish = if voter { Wish::Voter } else { Wish::Learner };
        // Whoever still votes or follows may be kept.
        let there = |known: &&Known| known.is_wanted() || (voter && known.seat.is_some());
        let known = self.nodes.get(&node).filter(there).ok_or(Denied::NotAMember(node))?;
        if known.wish == wish {
            return Ok(false);
        }
        self.free_but_for(Some(node))?;
        if !voter {
            self.not_the_last(node)?;
        }
        self.part(node);
        self.wish(node, wish);
        Ok(true)
    }

    fn replace(&mut self, dead: NodeId, by: NodeId) -> Result<bool, Denied> {
        self.free_but_for(None)?;
        let is = |node, seat| self.known(node).is_some_and(|known| known.is_wanted() && known.seat == Some(seat));
        for (node, seat) in [(dead, Seat::Voter), (by, Seat::Learner)] {
            if !is(node, seat) {
                return Err(Denied::NotAMember(node));
            }
        }
        self.wish(dead, Wish::Learner);
        self.wish(by, Wish::Voter);
        Ok(true)
    }

    fn remove(&mut self, node: NodeId, now: Timestamp) -> Result<bool, Denied> {
        let known = self.nodes.get(&node).ok_or(Denied::NotAMember(node))?;
        if !known.is_wanted() {
            return Ok(false);
        }
        self.free_but_for(Some(node))?;
        self.not_the_last(node)?;
        self.part(node);
        self.wish(node, Wish::Gone);
        if let Some(known) = self.nodes.get_mut(&node) {
            known.at = now;
        }
        Ok(true)
    }

    /// Ends a replacement that has not happened yet: the other of the two stays what it is.
    fn part(&mut self, node: NodeId) {
        let Some(other) = self.partner(node) else { return };
        let votes = self.known(other).is_some_and(|known| known.seat == Some(Seat::Voter));
        self.wish(other, if votes { Wish::Voter } else { Wish::Learner });
    }

    fn not_the_last(&self, node: NodeId) -> Result<(), Denied> {
        let others = self.voters().into_iter().any(|voter| voter != node);
        let votes = self.known(node).is_some_and(|known| known.seat == Some(Seat::Voter));
        if votes && !others { Err(Denied::LastVoter(node)) } else { Ok(()) }
    }

    fn wish(&mut self, node: NodeId, wish: Wish) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.wish = wish;
        }
    }

    /// Forgets who left first, beyond the bound.
    fn bound(&mut self) {
        while self.nodes.len() > KNOWN_MAX {
            let gone = self.all().filter(|(_, known)| !known.is_wanted() && known.seat.is_none());
            let Some(first) = gone.min_by_key(|(node, known)| (known.at, *node)).map(|(node, _)| node) else { return };
            self.nodes.remove(&first);
        }
    }

    /// What no snapshot of ours says.
    pub(super) fn is_sound(&self) -> bool {
        self.invitations.len() <= INVITATIONS_MAX
            && self.nodes.values().all(|known| known.address.len() <= ADDRESS_MAX)
            && self.invitations.values().all(|invitation| invitation.issued_at <= invitation.expires_at)
    }
}
