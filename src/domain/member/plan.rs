//! From wish to seat, one move at a time.

use std::collections::BTreeSet;

use super::{Known, Members, Seat, Wish};
use crate::domain::ids::NodeId;

/// The next thing a leader does about the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    Admit {
        node: NodeId,
        address: String,
    },
    /// These shall vote: also when Raft is still between two sets.
    SetVoters(BTreeSet<NodeId>),
    /// A learner that shall go.
    Drop(NodeId),
    /// The leader itself shall not vote any more: another one leads first.
    HandOver,
}

impl Members {
    /// What a leader `me` has to do next. `ready`: whether a learner has nearly all of the log, and answers.
    pub fn next_move(&self, me: NodeId, ready: impl Fn(NodeId) -> bool) -> Option<Move> {
        let voters = self.voters();
        let mut target: BTreeSet<NodeId> = BTreeSet::new();
        let mut waiting = false;
        for (node, known) in self.all() {
            match (known.wish, known.seat) {
                (Wish::Voter, Some(Seat::Voter)) => drop(target.insert(node)),
                (Wish::Voter, Some(Seat::Learner)) if ready(node) => drop(target.insert(node)),
                // Whoever it shall replace stays for so long.
                (Wish::Voter, Some(Seat::Learner)) => waiting = true,
                _ => {}
            }
        }
        if self.joint || (target != voters && !waiting) {
            // Raft finishes what it is in the middle of first, whoever waits.
            return if target.contains(&me) {
                Some(Move::SetVoters(target))
            } else {
                (!target.is_empty()).then_some(Move::HandOver)
            };
        }
        let unseated = |known: &Known| known.is_wanted() && known.seat.is_none() && known.incarnation.is_some();
        if let Some((node, known)) = self.all().find(|(_, known)| unseated(known)) {
            return Some(Move::Admit { node, address: known.address.to_string() });
        }
        let leaving = |known: &Known| known.wish == Wish::Gone && known.seat == Some(Seat::Learner);
        self.all().find(|(_, known)| leaving(known)).map(|(node, _)| Move::Drop(node))
    }

    /// The other one of a [`super::Act::Replace`] that has not happened yet.
    pub(super) fn partner(&self, node: NodeId) -> Option<NodeId> {
        let swap = |known: &Known, wish, seat| (known.wish, known.seat) == (wish, Some(seat));
        let goes = self.all().find(|(_, known)| swap(known, Wish::Learner, Seat::Voter))?.0;
        let comes = self.all().find(|(_, known)| swap(known, Wish::Voter, Seat::Learner))?.0;
        match node {
            _ if node == goes => Some(comes),
            _ if node == comes => Some(goes),
            _ => None,
        }
    }

    /// Who may take the place of a voter that is dead: the first learner that is ready, if enough others are alive.
    pub fn stand_in(&self, dead: impl Fn(NodeId) -> bool, ready: impl Fn(NodeId) -> bool) -> Option<(NodeId, NodeId)> {
        if self.in_flight().is_some() {
            return None;
        }
        let voters = self.voters();
        let alive = voters.iter().filter(|voter| !dead(**voter)).count();
        // The change itself needs the majority of today's voters.
        if alive * 2 <= voters.len() {
            return None;
        }
        let gone = voters.into_iter().find(|voter| dead(*voter))?;
        let learner = |known: &Known| known.seat == Some(Seat::Learner) && known.is_wanted();
        let by = self.seated().find(|(node, known)| learner(known) && ready(*node))?;
        Some((gone, by.0))
    }
}
