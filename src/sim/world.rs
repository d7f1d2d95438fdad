//! Virtual time, chance, and the order of events: what a seed decides.
//!
//! One queue of events by time; those of one moment in the order they were put
//! there. Chance comes from one generator. There is no other source of either, and
//! nothing here iterates over hash maps, so a seed gives one history.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::broker::Broker;
use super::checks::Checks;
use super::clients::Clients;
use super::contract::Contract;
use super::crew::Hand;
use super::faults::{Defect, Faults};
use super::log::Log;
use super::node::Node;
use crate::clock;
use crate::domain::Timestamp;
use crate::wire::proto::mesh::v1 as proto;

/// 2025-11-24T16:00:00Z: when a simulation begins.
pub(super) const START: u64 = 1_764_000_000_000;

pub(super) const NODES: usize = 3;

type Deed = Box<dyn FnOnce(&mut World)>;
type Requested = Box<dyn FnOnce(&mut World, Option<Vec<proto::ItemReply>>)>;

pub(super) struct World {
    pub rng: StdRng,
    /// Milliseconds since the beginning.
    pub now: u64,
    /// Where monotonic time begins: only differences matter.
    base: Instant,
    queue: BTreeMap<(u64, u64), (&'static str, Deed)>,
    serial: u64,
    pub faults: Faults,
    pub defect: Option<Defect>,
    pub log: Log,
    pub nodes: Vec<Node>,
    pub crew: Vec<Hand>,
    pub clients: Clients,
    pub broker: Broker,
    pub contract: Contract,
    pub checks: Checks,
    pub trace: Trace,
    pub(super) requests: BTreeMap<u64, Requested>,
}

/// What happened: always as a hash, in words if somebody wants to read it.
#[derive(Default)]
pub(super) struct Trace {
    pub hash: u64,
    pub events: u64,
    pub lines: Option<Vec<String>>,
}

/// Notes what happened, for who reads a trace.
macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if let Some(lines) = $world.trace.lines.as_mut() {
            lines.push(format!("{:>7} ms  {}", $world.now, format_args!($($text)*)));
        }
    };
}
pub(super) use note;

impl Trace {
    /// FNV-1a.
    pub fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl World {
    pub fn new(seed: u64, defect: Option<Defect>, verbose: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let faults = Faults::draw(&mut rng);
        let mut world = Self {
            now: 0,
            base: clock::instant(),
            queue: BTreeMap::new(),
            serial: 0,
            faults,
            defect,
            log: Log::default(),
            nodes: (0..NODES).map(Node::new).collect(),
            crew: Hand::draw(&mut rng),
            clients: Clients::draw(&mut rng),
            broker: Broker::default(),
            contract: Contract::default(),
            checks: Checks::default(),
            trace: Trace { lines: verbose.then(Vec::new), ..Trace::default() },
            requests: BTreeMap::new(),
            rng,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.begin_faults();
        self.watch();
        self.begin_nodes();
        self.begin_crew();
        self.begin_clients();
        self.begin_contract();
    }

    /// Runs the next event; false if it is later than `end`.
    pub fn turn(&mut self, end: u64) -> bool {
        let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
        let ((now, _), (label, deed)) = entry.remove_entry();
        self.now = now;
        self.trace.events += 1;
        self.trace.mix(&now.to_be_bytes());
        self.trace.mix(label.as_bytes());
        deed(self);
        true
    }

    pub fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    pub fn wall(&self) -> Timestamp {
        Timestamp(START + self.now)
    }

    pub fn after(&mut self, delay: u64, label: &'static str, deed: impl FnOnce(&mut Self) + 'static) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), (label, Box::new(deed)));
    }

    /// Something that goes over a network: it may be lost, late, come twice, and overtake.
    pub fn post(&mut self, label: &'static str, deed: impl FnOnce(&mut Self) + Clone + 'static) {
        if self.chance(self.faults.loss) {
            return;
        }
        if self.chance(self.faults.twice) {
            let (delay, again) = (self.delay(), deed.clone());
            self.after(delay, label, again);
        }
        let delay = self.delay();
        self.after(delay, label, deed);
    }

    pub fn delay(&mut self) -> u64 {
        let most = if self.chance(20) { self.faults.delay * 5 } else { self.faults.delay };
        self.rng.random_range(1..=most)
    }

    /// In thousandths.
    pub fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && self.rng.random_range(0..1_000) < permille
    }

    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        self.rng.random_range(least..=most)
    }

    pub fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}
