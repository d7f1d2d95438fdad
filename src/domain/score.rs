//! What an offer is worth to a job.
//!
//! Five things count: price, expected time, the worker's reputation, its load,
//! and its distance. Each is brought to thousandths, 0 the best and 1000 the
//! worst, and weighed by the job's policy. The result is a cost in millionths:
//! the offer with the lowest is the best. It follows from what an award records,
//! so anyone can compute it again.
//!
//! Price and time have no absolute worst, so they are measured against a
//! [`Scale`]: the job's own ceiling, or the worst offer of the round. What a
//! worker did not say (time) or nobody measured (distance) counts as middling.
//! A job that several workers run adds a sixth: [`Nearness`] to the others.

use serde::{Deserialize, Serialize};

use super::ids::Price;
use super::job::JobSpec;

/// The worst there is, in thousandths.
const WORST: u64 = 1_000;

/// What is not known counts as this.
const MIDDLING: u64 = 500;

/// A round trip this long or longer is the worst, in microseconds: half-way around the Earth.
const FAR_US: u64 = 200_000;

/// How much each thing counts, relative to the sum of all five. Each 0 to [`WEIGHT_MAX`], not all 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    pub price: u8,
    pub time: u8,
    pub reputation: u8,
    pub load: u8,
    pub distance: u8,
}

pub const WEIGHT_MAX: u8 = 100;

impl Weights {
    const fn of(price: u8, time: u8, reputation: u8, load: u8, distance: u8) -> Self {
        Self { price, time, reputation, load, distance }
    }

    pub fn sum(&self) -> u64 {
        [self.price, self.time, self.reputation, self.load, self.distance].into_iter().map(u64::from).sum()
    }

    pub fn are_sane(&self) -> bool {
        let all = [self.price, self.time, self.reputation, self.load, self.distance];
        self.sum() > 0 && all.into_iter().all(|weight| weight <= WEIGHT_MAX)
    }
}

/// Named weights. What a name means is part of the format: all nodes must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    #[default]
    Balanced,
    BestMatch,
    LowestCost,
    FastestResponse,
    HighestReputation,
}

impl Policy {
    pub const ALL: [Self; 5] =
        [Self::Balanced, Self::BestMatch, Self::LowestCost, Self::FastestResponse, Self::HighestReputation];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::BestMatch => "best_match",
            Self::LowestCost => "lowest_cost",
            Self::FastestResponse => "fastest_response",
            Self::HighestReputation => "highest_reputation",
        }
    }

    pub fn weights(self) -> Weights {
        match self {
            Self::Balanced => Weights::of(35, 20, 20, 15, 10),
            Self::BestMatch => Weights::of(20, 25, 25, 15, 15),
            Self::LowestCost => Weights::of(80, 5, 5, 5, 5),
            Self::FastestResponse => Weights::of(10, 45, 10, 10, 25),
            Self::HighestReputation => Weights::of(15, 10, 60, 10, 5),
        }
    }
}

/// How near a worker is to those that run the same job beside it, by what they declare. Workers that share a
/// roof may share a fault, or an operator, so a job that is run for comparison rather goes elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nearness {
    /// Nobody runs the job yet, or all that do are elsewhere.
    #[default]
    Apart,
    Country,
    Region,
}

impl Nearness {
    pub const ALL: [Self; 3] = [Self::Apart, Self::Country, Self::Region];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Country => "country",
            Self::Region => "region",
        }
    }

    /// What it adds to the cost, in millionths.
    fn penalty(self) -> u32 {
        match self {
            Self::Apart => 0,
            Self::Country => 100_000,
            Self::Region => 200_000,
        }
    }
}

/// What counts about one offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub price: Price,
    /// What the worker expects the run to take; 0: it did not say.
    pub expected_ms: u32,
    pub load_permille: u32,
    /// 0 to 1000, when the award was made.
    pub reputation: u32,
    /// Round trip to the leader, as the leader measured it.
    pub rtt_us: Option<u32>,
    /// Whether the worker is in one of the job's preferred regions, if it has any.
    pub preferred: bool,
    /// To the workers that run the job already; only with redundancy.
    pub near: Nearness,
}

/// What price and time are measured against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    pub price: Price,
    pub expected_ms: u32,
}

impl Scale {
    /// The job's ceiling, or the worst of the offers.
    pub fn of<'a>(spec: &JobSpec, offers: impl Iterator<Item = &'a Terms> + Clone) -> Self {
        let dearest = offers.clone().map(|terms| terms.price).max().unwrap_or_default();
        let slowest = offers.map(|terms| terms.expected_ms).max().unwrap_or_default();
        Self { price: spec.max_price.unwrap_or(dearest), expected_ms: slowest }
    }
}

/// The weights that a job's offers are judged with.
pub fn weights(spec: &JobSpec) -> Weights {
    spec.weights.filter(Weights::are_sane).unwrap_or_else(|| spec.policy.weights())
}

/// What an offer costs the job, in millionths; the lower the better.
pub fn cost(weights: &Weights, scale: &Scale, terms: &Terms) -> u32 {
    let parts = [
        (weights.price, share(terms.price.0, scale.price.0)),
        (weights.time, time(terms.expected_ms, scale.expected_ms)),
        (weights.reputation, WORST.saturating_sub(terms.reputation.into())),
        (weights.load, WORST.min(terms.load_permille.into())),
        (weights.distance, distance(terms)),
    ];
    let weighed: u64 = parts.into_iter().map(|(weight, part)| u64::from(weight) * part).sum();
    let weighed = u32::try_from(weighed * 1_000 / weights.sum().max(1)).unwrap_or(u32::MAX);
    weighed.saturating_add(terms.near.penalty())
}

/// What one more job on a worker adds to its load, as cost: a full worker costs as much as its load weighs.
pub fn step(room: u32) -> u32 {
    let weights = Policy::default().weights();
    let full = u64::from(weights.load) * WORST * 1_000 / weights.sum();
    u32::try_from(full / u64::from(room.max(1))).unwrap_or(u32::MAX)
}

/// `part` of `whole` in thousandths.
fn share(part: u128, whole: u128) -> u64 {
    let part = part.min(whole);
    // Where the product would overflow, the whole is so large that its last digits do not count.
    let thousandths = part.checked_mul(WORST.into()).map_or_else(|| part / (whole / 1_000), |p| p / whole.max(1));
    u64::try_from(thousandths).unwrap_or(WORST).min(WORST)
}

fn time(expected_ms: u32, slowest_ms: u32) -> u64 {
    match (expected_ms, slowest_ms) {
        (0, _) | (_, 0) => MIDDLING,
        (expected, slowest) => WORST * u64::from(expected) / u64::from(slowest),
    }
}

fn distance(terms: &Terms) -> u64 {
    if !terms.preferred {
        return WORST;
    }
    terms.rtt_us.map_or(MIDDLING, |rtt| WORST.min(u64::from(rtt) * WORST / FAR_US))
}
