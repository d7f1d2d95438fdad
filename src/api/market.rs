//! How offers were weighed, as it is shown to clients.
//!
//! An award is shown with all it takes to judge it again: see
//! `ciro-coordinator job verify-award`, which does that from these fields.

use serde::Serialize;
use utoipa::ToSchema;

use super::text;
use crate::domain::auction::{Evidence, Offer};
use crate::domain::bid_proof::Proof;
use crate::domain::run::Run;
use crate::domain::score::Weights;

#[derive(Serialize, ToSchema)]
#[schema(as = Weights)]
pub struct WeightsBody {
    price: u8,
    time: u8,
    reputation: u8,
    load: u8,
    distance: u8,
}

impl WeightsBody {
    pub fn of(weights: Weights) -> Self {
        let Weights { price, time, reputation, load, distance } = weights;
        Self { price, time, reputation, load, distance }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Award)]
pub struct AwardBody {
    attempt: u32,
    worker_id: String,
    price: String,
    #[schema(format = DateTime)]
    assigned_at: String,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    lease_until: String,
    /// Why it went to this worker.
    evidence: Option<EvidenceBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Evidence)]
struct EvidenceBody {
    /// Valid bids in all; the best of them are shown.
    bids: u32,
    scale: ScaleBody,
    /// The winner's first, then from the best on.
    offers: Vec<OfferBody>,
    proof: Option<ProofBody>,
}

/// What counted as the worst price and time: the job's ceiling, or the worst bid.
#[derive(Serialize, ToSchema)]
#[schema(as = Scale)]
struct ScaleBody {
    price: String,
    expected_ms: u32,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Offer)]
struct OfferBody {
    worker_id: String,
    price: String,
    /// 0: the worker did not say.
    expected_ms: u32,
    /// In thousandths.
    load_permille: u32,
    reputation: u32,
    /// Round trip from the leader; null if it was not measured.
    rtt_us: Option<u32>,
    /// In a preferred region, or the job prefers none.
    preferred: bool,
    /// To the workers that run the same job beside it: in the same region costs 200000 more, in the same country
    /// 100000.
    #[schema(pattern = "^(apart|country|region)$")]
    near: &'static str,
    /// 0 to 1000, the higher the better: 1000 less a thousandth of the cost.
    score: f64,
    /// In millionths, the lower the better.
    cost: u32,
    /// Won, lost, elsewhere (its room went to other jobs), or let_down (it failed this job before).
    #[schema(pattern = "^(won|lost|elsewhere|let_down)$")]
    fate: &'static str,
}

/// That the winner signed its bid: the head of its answer, and the way from the bid to the root.
#[derive(Serialize, ToSchema)]
#[schema(as = BidProof)]
struct ProofBody {
    term: u64,
    seq: u64,
    room: u32,
    load_permille: u32,
    nonce: String,
    count: u32,
    place: u32,
    path: Vec<String>,
    signature: String,
}

impl AwardBody {
    pub fn of(run: &Run) -> Self {
        let award = &run.award;
        let sealed = award.evidence.as_ref().and_then(|sealed| sealed.open(award.worker, award.price));
        Self {
            attempt: run.attempt,
            worker_id: award.worker.to_string(),
            price: award.price.to_string(),
            assigned_at: text::time(award.assigned_at),
            started_at: award.started_at.map(text::time),
            lease_until: text::time(award.lease_until),
            evidence: sealed.map(|evidence| EvidenceBody::of(&evidence)),
        }
    }
}

impl EvidenceBody {
    fn of(evidence: &Evidence) -> Self {
        Self {
            bids: evidence.bids,
            scale: ScaleBody { price: evidence.scale.price.to_string(), expected_ms: evidence.scale.expected_ms },
            offers: evidence.offers.iter().map(OfferBody::of).collect(),
            proof: evidence.proof.as_deref().map(ProofBody::of),
        }
    }
}

impl OfferBody {
    fn of(offer: &Offer) -> Self {
        let terms = &offer.terms;
        Self {
            worker_id: offer.worker.to_string(),
            price: terms.price.to_string(),
            expected_ms: terms.expected_ms,
            load_permille: terms.load_permille,
            reputation: terms.reputation,
            rtt_us: terms.rtt_us,
            preferred: terms.preferred,
            near: terms.near.as_str(),
            score: score(offer.cost),
            cost: offer.cost,
            fate: offer.fate.as_str(),
        }
    }
}

/// A cost as it is shown: from 1000, the best, down.
pub fn score(cost: u32) -> f64 {
    f64::from(1_000_000_u32.saturating_sub(cost)) / 1_000.0
}

impl ProofBody {
    fn of(proof: &Proof) -> Self {
        let head = proof.head;
        Self {
            term: head.term,
            seq: head.seq,
            room: head.room,
            load_permille: head.load_permille,
            nonce: head.nonce.to_string(),
            count: head.count,
            place: proof.place,
            path: proof.path.iter().map(|hash| format!("0x{}", hex::encode(hash))).collect(),
            signature: text::base64(&proof.signature),
        }
    }
}
