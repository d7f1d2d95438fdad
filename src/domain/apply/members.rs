//! Changes of the membership's books, and Raft's own entries about it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Position, Step, Touched};
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::NodeId;
use crate::domain::member::{Act, Members};
use crate::domain::state::State;
use crate::domain::time::Timestamp;

impl State {
    /// Records that Raft's membership is another: each set of voters (two while it changes), and all nodes with the
    /// addresses they were admitted with.
    /// Another cluster begins with this state: who belonged to the old one is nobody in the new.
    pub fn forget_members(&mut self) {
        self.members = Members::default();
    }

    /// The members of a cluster that begins with this state.
    pub fn reseat(&mut self, voters: &BTreeSet<NodeId>, nodes: &BTreeMap<NodeId, String>) {
        self.members.seat(std::slice::from_ref(voters), nodes, self.now);
    }

    pub fn seat(&mut self, position: Position, configs: &[BTreeSet<NodeId>], nodes: &BTreeMap<NodeId, String>) {
        self.members.seat(configs, nodes, self.now);
        let touched = Touched { members: true, ..Touched::default() };
        self.advance(position, Timestamp::default(), &touched, &[]);
    }
}

impl Step<'_> {
    pub(super) fn member(&mut self, act: &Act) -> Reply {
        let changed = self.state.members.act(act, self.state.now).map_err(Refusal::Member)?;
        self.touched.members |= changed;
        Ok(if changed { Done::Member } else { Done::Unchanged })
    }
}
