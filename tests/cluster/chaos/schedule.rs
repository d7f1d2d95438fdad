//! Which faults, on whom, when: a function of the seed.
//!
//! First every fault alone, in an order of the seed's choosing, then rounds of two
//! at a time on different nodes. Each round ends with everything mended and a
//! moment of calm, in which the cluster must come back by itself.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// A named fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL, and a start some time later.
    Kill,
    /// SIGSTOP for five seconds.
    Pause,
    /// Cut from both others, both ways.
    Partition,
    /// One link cut, both ways: the third node still hears both.
    HalfPartition,
    /// Says what it likes and hears nothing.
    Deaf,
    /// Hears everything and is not heard.
    Mute,
    /// Every sync takes longer.
    SlowDisk,
    /// Nothing is free any more.
    FullDisk,
    /// Its wall clock is an hour ahead.
    ClockAhead,
    /// Its wall clock is an hour behind.
    ClockBehind,
    /// A worker is killed, and comes back.
    KillWorker,
    /// All nodes are stopped in good order and started again, one by one.
    RollingRestart,
    /// A fourth node joins, leads if it comes to that, and is removed.
    Churn,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::Pause,
        Self::Partition,
        Self::HalfPartition,
        Self::Deaf,
        Self::Mute,
        Self::SlowDisk,
        Self::FullDisk,
        Self::ClockAhead,
        Self::ClockBehind,
        Self::KillWorker,
        Self::RollingRestart,
        Self::Churn,
    ];

    /// Those that leave the others alone.
    fn mixes(self) -> bool {
        self != Self::RollingRestart
    }

    /// How long it lasts, in milliseconds.
    fn length(self, rng: &mut StdRng) -> u64 {
        match self {
            Self::Pause => 5_000,
            Self::Kill | Self::KillWorker => rng.random_range(300..3_000),
            Self::RollingRestart => 0,
            _ => rng.random_range(2_500..5_500),
        }
    }
}

/// Who suffers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Leader,
    Follower,
    Node(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub fault: Fault,
    pub target: Target,
    /// After the round's begin.
    pub after: Duration,
    pub length: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    pub events: Vec<Event>,
    pub calm: Duration,
}

/// Rounds without end.
pub struct Schedule {
    rng: StdRng,
    alone: Vec<Fault>,
}

impl Schedule {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut alone = Fault::ALL.to_vec();
        alone.shuffle(&mut rng);
        Self { rng, alone }
    }

    /// Whether each fault had its turn alone.
    pub fn is_mixing(&self) -> bool {
        self.alone.is_empty()
    }

    fn event(&mut self, fault: Fault) -> Event {
        let target = match self.rng.random_range(0..5) {
            0..2 => Target::Leader,
            2..4 => Target::Follower,
            _ => Target::Node(self.rng.random_range(0..3)),
        };
        let after = Duration::from_millis(self.rng.random_range(0..800));
        Event { fault, target, after, length: Duration::from_millis(fault.length(&mut self.rng)) }
    }
}

impl Iterator for Schedule {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let mut faults: Vec<Fault> = self.alone.pop().into_iter().collect();
        if faults.is_empty() {
            faults.push(Fault::ALL[self.rng.random_range(0..Fault::ALL.len())]);
            while faults[0].mixes() && faults.len() < 2 {
                let other = Fault::ALL[self.rng.random_range(0..Fault::ALL.len())];
                faults.extend(other.mixes().then_some(other));
            }
        }
        let events = faults.into_iter().map(|fault| self.event(fault)).collect();
        Some(Round { events, calm: Duration::from_millis(self.rng.random_range(1_000..2_500)) })
    }
}

#[test]
fn chaos_has_one_schedule_for_a_seed() {
    let rounds = |seed| Schedule::new(seed).take(40).collect::<Vec<_>>();
    assert_eq!(rounds(7), rounds(7));
    assert_ne!(rounds(7), rounds(8));
    for seed in 0..20 {
        let mut alone: Vec<Fault> =
            rounds(seed)[..Fault::ALL.len()].iter().map(|round| round.events[0].fault).collect();
        alone.sort_unstable();
        assert_eq!(alone, Fault::ALL, "each fault has its turn alone");
        let mixed = &rounds(seed)[Fault::ALL.len()..];
        assert!(mixed.iter().any(|round| round.events.len() == 2), "and then two at a time");
    }
}
