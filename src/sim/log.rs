//! A model of the log, with the contract of `consensus::Client`.
//!
//! One order of records, each with its term. What is committed stays, whoever
//! crashes. Of what was proposed and not committed a new leader commits a
//! beginning, in its old term, and the rest is gone; nobody is told which. A node
//! that believes to lead and does not, proposes in vain. An answer comes when the
//! node that was asked has applied the record; if it does not come, the outcome is
//! unknown. Followers apply late, each in its own time.

use std::collections::{BTreeMap, VecDeque};

use rand::Rng as _;

use super::faults::Defect;
use super::world::{NODES, World, note};
use crate::domain::apply::Position;
use crate::domain::command::{Done, Reply};
use crate::domain::{Command, Digest, Record, Timestamp};

pub(super) enum Outcome {
    /// Committed, and applied by the node that was asked.
    Done(Vec<Reply>),
    /// Certainly without effect.
    NoLeader,
    Unknown,
}

type Answer = Box<dyn FnOnce(&mut World, Outcome)>;

/// Looks for a leader every so often, and elects one after so many looks in vain.
const WATCH: u64 = 150;
const PATIENCE: u32 = 3;

/// How long an answer is waited for.
const LIMIT: u64 = 5_000;

struct Proposal {
    id: u64,
    origin: (usize, u32),
    at: Timestamp,
    /// The term its sender led in, if it named one.
    scope: Option<u64>,
    commands: Vec<Command>,
    /// Its leader was cut off: no other node can have it.
    alone: bool,
}

pub(super) struct Entry {
    pub term: u64,
    /// `None`: a leader's blank.
    pub record: Option<Record>,
    /// Who is answered with which replies.
    parts: Vec<(u64, (usize, u32), usize)>,
    replies: Vec<Reply>,
    hash: Option<Digest>,
}

#[derive(Default)]
pub(super) struct Log {
    pub entries: Vec<Entry>,
    pub term: u64,
    pub leader: Option<usize>,
    pending: VecDeque<Proposal>,
    answers: BTreeMap<u64, Answer>,
    committing: bool,
    missed: u32,
}

impl Log {
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn hash_at(&self, index: u64) -> Option<Digest> {
        self.entries.get(usize::try_from(index).ok()?.checked_sub(1)?)?.hash
    }
}

impl World {
    // ------------------------------------------------------------ the door

    /// Asks `node` to commit. `scope`: in this term of its own, or not at all.
    pub(super) fn submit(
        &mut self,
        node: usize,
        scope: Option<u64>,
        commands: Vec<Command>,
        answer: impl FnOnce(&mut Self, Outcome) + 'static,
    ) {
        let id = self.serial();
        self.log.answers.insert(id, Box::new(answer));
        self.after(LIMIT, "limit", move |world| world.answer(id, Outcome::Unknown));
        let lost = self.chance(self.faults.loss) || self.nodes[node].cut;
        let asked = &self.nodes[node];
        let refused = !asked.up || (scope.is_some() && asked.leads != scope);
        let origin = (node, asked.life);
        match asked.hint {
            _ if refused => self.after(1, "refuse", move |world| world.answer(id, Outcome::NoLeader)),
            _ if asked.leads.is_some() => self.propose(node, id, origin, scope, commands),
            None => self.after(5, "refuse", move |world| world.answer(id, Outcome::NoLeader)),
            // The one hop. Lost, nobody is told.
            Some(_) if lost => {}
            Some(leader) => {
                let delay = self.delay();
                self.after(delay, "hop", move |world| {
                    if world.nodes[leader].up && !world.nodes[leader].cut {
                        world.propose(leader, id, origin, None, commands);
                    }
                });
            }
        }
    }

    fn propose(&mut self, at: usize, id: u64, origin: (usize, u32), scope: Option<u64>, commands: Vec<Command>) {
        let Some(term) = self.nodes[at].leads else {
            return self.after(1, "refuse", move |world| world.answer(id, Outcome::NoLeader));
        };
        let deposed = self.log.leader != Some(at) || self.log.term != term;
        if deposed && self.defect != Some(Defect::TermUnchecked) {
            // It goes into a log that nobody follows.
            return;
        }
        if self.defect == Some(Defect::AcknowledgedEarly) {
            self.acknowledge(id, &commands);
        }
        let instant = self.instant();
        let stamp = self.nodes[at].log_now(self.now, instant);
        let alone = self.nodes[at].cut;
        self.log.pending.push_back(Proposal { id, origin, at: stamp, scope, commands, alone });
        self.commit_later();
    }

    /// A planted mistake.
    fn acknowledge(&mut self, id: u64, commands: &[Command]) {
        let reply = |command: &Command| match command {
            Command::Submit(submit) => Some(Ok(Done::Submitted { job: submit.id, created: true })),
            _ => None,
        };
        if let Some(replies) = commands.iter().map(reply).collect() {
            self.answer(id, Outcome::Done(replies));
        }
    }

    fn answer(&mut self, id: u64, outcome: Outcome) {
        if let Some(answer) = self.log.answers.remove(&id) {
            answer(self, outcome);
        }
    }

    // ------------------------------------------------------------ committing

    pub(super) fn commit_later(&mut self) {
        if !self.log.committing && !self.log.pending.is_empty() {
            self.log.committing = true;
            let delay = self.between(2, 25);
            self.after(delay, "commit", Self::commit);
        }
    }

    fn commit(&mut self) {
        self.log.committing = false;
        let Some(leader) = self.log.leader else { return };
        let reached = (0..NODES).filter(|node| self.nodes[*node].up && !self.nodes[*node].cut).count();
        if !self.nodes[leader].up || self.nodes[leader].cut || reached * 2 <= NODES {
            return;
        }
        if self.is_paused(leader) {
            self.after(WATCH, "commit", Self::commit_later);
            return;
        }
        let together = self.rng.random_range(1..=4).min(self.log.pending.len());
        let proposals: Vec<Proposal> = self.log.pending.drain(..together).collect();
        self.append(self.log.term, proposals);
        self.apply_to(leader, self.log.len());
        (0..NODES).for_each(|node| self.apply_later(node));
        self.commit_later();
    }

    fn append(&mut self, term: u64, proposals: Vec<Proposal>) {
        let mut record = Record::default();
        let mut parts = Vec::new();
        for proposal in proposals {
            assert!(
                proposal.scope.is_none_or(|scope| scope == term),
                "what a leader of term {:?} proposed was committed in term {term}",
                proposal.scope
            );
            record.at = record.at.max(proposal.at);
            parts.push((proposal.id, proposal.origin, proposal.commands.len()));
            record.commands.extend(proposal.commands);
        }
        self.log.entries.push(Entry { term, record: Some(record), parts, replies: vec![], hash: None });
    }

    // ------------------------------------------------------------ applying

    pub(super) fn apply_later(&mut self, node: usize) {
        if !self.nodes[node].up || self.nodes[node].state.applied() >= self.log.len() {
            return;
        }
        let (lag, life) = (self.between(1, self.faults.lag), self.nodes[node].life);
        self.after(lag, "apply", move |world| {
            let it = &world.nodes[node];
            if it.life == life && world.is_paused(node) {
                return world.apply_later(node);
            }
            if it.life == life && it.up && !it.cut && it.state.applied() < world.log.len() {
                let through = world.between(world.nodes[node].state.applied() + 1, world.log.len());
                world.apply_to(node, through);
                world.apply_later(node);
            }
        });
    }

    fn apply_to(&mut self, node: usize, through: u64) {
        while self.nodes[node].up && self.nodes[node].state.applied() < through {
            self.apply_next(node);
        }
    }

    fn apply_next(&mut self, node: usize) {
        let index = self.nodes[node].state.applied() + 1;
        let place = usize::try_from(index).unwrap() - 1;
        let Self { nodes, log, .. } = self;
        let (entry, state) = (&mut log.entries[place], &mut nodes[node].state);
        let position = Position { index, term: entry.term };
        let was = entry.hash.is_none().then(|| state.clone());
        let mut own = entry.record.clone().unwrap_or_default();
        let skipped = self.defect == Some(Defect::RecordSkipped) && was.is_none() && nodes[node].life > 0;
        if self.defect == Some(Defect::OwnClock) && was.is_none() {
            own.at = own.at.after_ms(1);
        }
        let state = &mut nodes[node].state;
        let replies = match &entry.record {
            Some(_) if !skipped || own.commands.is_empty() => state.apply(position, &own),
            _ => {
                state.skip(position);
                vec![]
            }
        };
        let hash = state.hash();
        if let Some(known) = entry.hash {
            assert_eq!(hash, known, "the state of node {node} differs at index {index}");
            assert_eq!(replies, entry.replies, "node {node} answers differently at index {index}");
        }
        (entry.hash, entry.replies) = (Some(hash), replies);
        self.trace.mix(&hash.0);
        if let Some(was) = was {
            self.applied_first(node, place, &was);
        }
        self.answer_from(node, place);
    }

    /// Whoever asked this node is answered now.
    fn answer_from(&mut self, node: usize, place: usize) {
        let entry = &self.log.entries[place];
        let life = self.nodes[node].life;
        let mut from = 0;
        let mut answers = Vec::new();
        for (id, origin, count) in &entry.parts {
            if *origin == (node, life) {
                answers.push((*id, entry.replies[from..from + count].to_vec()));
            }
            from += count;
        }
        for (id, replies) in answers {
            // By the way that the question came.
            let delay = self.between(1, 5);
            self.after(delay, "answer", move |world| world.answer(id, Outcome::Done(replies)));
        }
    }

    // ------------------------------------------------------------ leaders

    /// Elects a leader where there has been none for a while.
    pub(super) fn watch(&mut self) {
        let leads = |node: usize| self.nodes[node].up && !self.nodes[node].cut && !self.is_paused(node);
        let missed = !self.log.leader.is_some_and(leads);
        self.log.missed = if missed { self.log.missed + 1 } else { 0 };
        if self.log.missed >= PATIENCE {
            self.elect();
        }
        self.commit_later();
        for node in 0..NODES {
            let knows = self.nodes[node].hint == self.log.leader || self.nodes[node].leads.is_some();
            if self.nodes[node].up && !self.nodes[node].cut && !knows && self.chance(300) {
                self.nodes[node].hint = self.log.leader;
            }
        }
        self.after(WATCH, "watch", Self::watch);
    }

    /// The leader is no longer; it does not know yet.
    pub(super) fn depose(&mut self) {
        self.log.leader = None;
    }

    fn elect(&mut self) {
        let fit = |node: &usize| self.nodes[*node].up && !self.nodes[*node].cut && !self.is_paused(*node);
        let candidates: Vec<usize> = (0..NODES).filter(fit).collect();
        if candidates.len() * 2 <= NODES {
            return;
        }
        let new = candidates[self.rng.random_range(0..candidates.len())];
        self.log.missed = 0;
        self.inherit();
        for old in 0..NODES {
            self.learns_later(old, new);
        }
        self.log.term += self.between(1, 2);
        let term = self.log.term;
        self.log.entries.push(Entry { term, record: None, parts: vec![], replies: vec![], hash: None });
        self.log.leader = Some(new);
        note!(self, "node {new} is elected for term {term}, index {}", self.log.len());
        self.nodes[new].leads = None;
        self.nodes[new].duties = None;
        // It acts only when it has applied all that was committed before.
        self.apply_to(new, self.log.len());
        (0..NODES).for_each(|node| self.apply_later(node));
        let (start, life) = (self.between(5, 120), self.nodes[new].life);
        self.after(start, "lead", move |world| world.start_term(new, life, term));
    }

    /// A beginning of what was proposed is committed after all; the rest is gone.
    fn inherit(&mut self) {
        let shared = self.log.pending.iter().take_while(|proposal| !proposal.alone).count();
        let kept = self.rng.random_range(0..=shared);
        let pending: Vec<Proposal> = self.log.pending.drain(..).collect();
        note!(self, "of {} proposals {kept} are kept", pending.len());
        for proposal in pending.into_iter().take(kept) {
            self.append(self.log.term, vec![proposal]);
        }
    }

    /// Who led before finds out in its own time, and the others whom to ask.
    fn learns_later(&mut self, node: usize, new: usize) {
        let (life, led) = (self.nodes[node].life, self.nodes[node].leads);
        let delay = if led.is_some() { self.between(20, 3_000) } else { self.between(5, 300) };
        self.after(delay, "learn", move |world| {
            let it = &mut world.nodes[node];
            if it.life != life || world.log.leader != Some(new) || node == new {
                return;
            }
            it.hint = Some(new);
            if it.leads == led {
                (it.leads, it.duties) = (None, None);
            }
        });
    }
}

impl Entry {
    pub fn replies(&self) -> &[Reply] {
        &self.replies
    }
}
