//! A coordinator: its copy of the state, what it heard, and whether it believes that it leads.
//!
//! A crash takes the state, the roster and the duties. What comes back is a
//! snapshot of some earlier moment and the log behind it.

use std::time::Instant;

use super::leading::Duties;
use super::world::{START, World, note};
use crate::consensus::advance;
use crate::domain::tests::sim as domain;
use crate::domain::{State, Timestamp};
use crate::leader::sim::Sight;
use crate::mesh::Roster;

pub(super) struct Node {
    pub up: bool,
    /// Grows with each crash.
    pub life: u32,
    pub state: State,
    pub roster: Roster,
    /// The term it believes to lead in.
    pub leads: Option<u64>,
    pub duties: Option<Box<Duties>>,
    /// Whom it takes for the leader.
    pub hint: Option<usize>,
    /// From the other nodes; workers and sinks are within reach.
    pub cut: bool,
    pub paused_until: u64,
    /// Of its wall clock, in milliseconds.
    pub skew: i64,
    /// The log's clock: see `consensus::log_clock`.
    anchor: Option<(Timestamp, Instant)>,
    snapshot: Option<Vec<u8>>,
}

impl Node {
    pub fn new(_: usize) -> Self {
        Self {
            up: true,
            life: 0,
            state: domain::empty(),
            roster: Roster::default(),
            leads: None,
            duties: None,
            hint: None,
            cut: false,
            paused_until: 0,
            skew: 0,
            anchor: None,
            snapshot: None,
        }
    }

    /// The log's clock as this node has it.
    pub fn log_now(&mut self, now: u64, instant: Instant) -> Timestamp {
        let wall = Timestamp((START + now).saturating_add_signed(self.skew));
        advance(&mut self.anchor, wall.max(self.state.now()), instant)
    }
}

impl World {
    pub(super) fn begin_nodes(&mut self) {
        for node in 0..self.nodes.len() {
            let at = self.between(3_000, 9_000);
            self.after(at, "snapshot", move |world| world.take_snapshot(node));
        }
    }

    fn take_snapshot(&mut self, node: usize) {
        if self.nodes[node].up {
            self.nodes[node].snapshot = Some(domain::snapshot(&self.nodes[node].state));
        }
        if !self.is_quiet() {
            let at = self.between(6_000, 12_000);
            self.after(at, "snapshot", move |world| world.take_snapshot(node));
        }
    }

    /// Whether what was begun in that life and term goes on.
    pub(super) fn leads(&self, node: usize, life: u32, term: u64) -> bool {
        let node = &self.nodes[node];
        node.up && node.life == life && node.leads == Some(term) && node.duties.is_some()
    }

    pub(super) fn is_paused(&self, node: usize) -> bool {
        self.nodes[node].paused_until > self.now
    }

    pub(super) fn sight(&mut self, node: usize) -> Sight<'_> {
        let now = self.instant();
        let at = self.nodes[node].log_now(self.now, now);
        let node = &self.nodes[node];
        Sight { state: &node.state, roster: &node.roster, at, now }
    }

    pub(super) fn crash(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        note!(
            self,
            "node {node} crashes, leading: {:?}, applied {}",
            self.nodes[node].leads,
            self.nodes[node].state.applied()
        );
        let dead = &mut self.nodes[node];
        dead.up = false;
        dead.life += 1;
        dead.leads = None;
        dead.duties = None;
        dead.hint = None;
        dead.cut = false;
        dead.paused_until = 0;
        if self.log.leader == Some(node) {
            self.log.leader = None;
        }
        let back = self.between(200, 4_000);
        self.after(back, "restart", move |world| world.restart(node));
    }

    fn restart(&mut self, node: usize) {
        let bytes = self.nodes[node].snapshot.take();
        let state = bytes.as_deref().map_or_else(domain::empty, domain::restore);
        note!(self, "node {node} is back, from a snapshot at {}", state.applied());
        if let Some(hash) = self.log.hash_at(state.applied()) {
            assert_eq!(state.hash(), hash, "the snapshot of node {node} at {} differs", state.applied());
        }
        let back = &mut self.nodes[node];
        back.snapshot = bytes;
        back.state = state;
        back.roster = Roster::default();
        back.anchor = None;
        back.up = true;
        self.apply_later(node);
    }

    pub(super) fn heal(&mut self, node: usize, life: u32) {
        if self.nodes[node].life == life {
            self.nodes[node].cut = false;
            self.apply_later(node);
            self.commit_later();
        }
    }

    /// A leader may die between any two lines of a duty; also be deposed there.
    pub(super) fn dies_here(&mut self, node: usize) -> bool {
        if self.chance(self.faults.step) {
            self.crash(node);
            return true;
        }
        if self.chance(self.faults.step / 2) {
            self.depose();
        }
        false
    }
}
