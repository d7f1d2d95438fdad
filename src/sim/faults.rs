//! What goes wrong, and how often: drawn once for each seed, so that some seeds
//! have much of one kind and nothing of another. After [`QUIET`] nothing new goes wrong.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::world::{NODES, World, note};

/// When faults stop, in milliseconds.
pub(super) const QUIET: u64 = 25_000;

/// A mistake that is planted, to prove that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// What is said of a past attempt is taken for the one in force.
    AttemptUnchecked,
    /// The cursor moves when a batch is sent, not when it is acknowledged.
    CursorEarly,
    /// What waits for an answer is sent under another nonce as well.
    PaidTwice,
    /// A submission is acknowledged before a majority has it.
    AcknowledgedEarly,
    /// What a deposed leader proposes is committed.
    TermUnchecked,
    /// A restarted node leaves out a record.
    RecordSkipped,
    /// A node applies with a clock of its own.
    OwnClock,
    /// The market gives workers more than they have room for.
    Overcommitted,
    /// Leases are never ended.
    LeasesForgotten,
}

/// In thousandths where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub loss: u32,
    pub twice: u32,
    /// Longest usual delay of a message, in milliseconds.
    pub delay: u64,
    /// A leader dies between two lines.
    pub step: u32,
    /// Of what a broker or a chain is asked.
    pub sink: u32,
    pub reorg: u32,
    /// Calls that revert, of jobs.
    pub poison: u32,
    /// Of each second: a node crashes, is cut off, is paused, is deposed.
    pub crash: u32,
    pub cut: u32,
    pub pause: u32,
    pub depose: u32,
    /// Of each second: a worker crashes.
    pub worker: u32,
    /// Followers apply so late, in milliseconds.
    pub lag: u64,
    /// Runs that fail, and wrong results.
    pub failure: u32,
    pub wrong: u32,
}

impl Faults {
    pub fn draw(rng: &mut StdRng) -> Self {
        let mut some = |most: u32| if rng.random_range(0..3) == 0 { 0 } else { rng.random_range(0..=most) };
        Self {
            loss: some(200),
            twice: some(250),
            delay: u64::from(some(300)) + 5,
            step: some(12),
            sink: some(400),
            reorg: some(150),
            poison: some(250),
            crash: some(200),
            cut: some(150),
            pause: some(100),
            depose: some(300),
            worker: some(120),
            lag: u64::from(some(1_500)) + 10,
            failure: some(250),
            wrong: some(200),
        }
    }

    /// All is well from now on.
    fn quiet() -> Self {
        Self {
            loss: 0,
            twice: 0,
            delay: 20,
            step: 0,
            sink: 0,
            reorg: 0,
            poison: 0,
            crash: 0,
            cut: 0,
            pause: 0,
            depose: 0,
            worker: 0,
            lag: 20,
            failure: 0,
            wrong: 0,
        }
    }
}

impl World {
    pub(super) fn begin_faults(&mut self) {
        self.after(1_000, "faults", Self::strike);
        self.after(QUIET, "quiet", Self::calm);
        self.after(QUIET + 60_000, "a day", Self::pass);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.now >= QUIET
    }

    fn strike(&mut self) {
        if self.is_quiet() {
            return;
        }
        let node = self.rng.random_range(0..NODES);
        let victim = if self.chance(600) { self.log.leader.unwrap_or(node) } else { node };
        if self.chance(self.faults.crash) {
            self.crash(victim);
        }
        if self.chance(self.faults.cut) && self.nodes[victim].up && !self.nodes[victim].cut {
            note!(self, "node {victim} is cut off");
            self.nodes[victim].cut = true;
            let (heal, life) = (self.between(300, 6_000), self.nodes[victim].life);
            self.after(heal, "heal", move |world| world.heal(victim, life));
        }
        if self.chance(self.faults.pause) && self.nodes[victim].up {
            let until = self.now + self.between(200, 5_000);
            note!(self, "node {victim} does not run until {until}");
            self.nodes[victim].paused_until = until;
        }
        if self.chance(self.faults.depose) {
            self.depose();
        }
        if self.chance(100) {
            let skew = self.rng.random_range(-3_600_000..=3_600_000);
            note!(self, "the clock of node {victim} jumps by {skew} ms");
            self.nodes[victim].skew = skew;
        }
        let worker = self.rng.random_range(0..self.crew.len());
        if self.chance(self.faults.worker) {
            self.worker_crashes(worker);
        }
        let next = self.between(500, 1_500);
        self.after(next, "faults", Self::strike);
    }

    /// A day passes: bans end, reputations are drawn back.
    fn pass(&mut self) {
        note!(self, "a day passes");
        self.nodes.iter_mut().for_each(|node| node.skew = 26 * 3_600_000);
    }

    fn calm(&mut self) {
        note!(self, "nothing goes wrong from now on");
        self.faults = Faults::quiet();
        for node in 0..NODES {
            self.nodes[node].paused_until = 0;
            self.nodes[node].skew = 0;
            let life = self.nodes[node].life;
            self.heal(node, life);
        }
        self.contract.poisoned.clear();
        self.rest_of_clients();
    }
}
