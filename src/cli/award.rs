//! `job verify-award`: judges an award again, here, from what any node shows of it.
//!
//! Nothing is taken on the node's word but the terms themselves: costs are
//! computed again, the winner is compared with the others, and the winner's
//! signature is checked against the bid that it is said to be on.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::client::Client;
use super::failure::{Failure, Kind};
use super::job::{fresh, job_path};
use super::{Remote, output};
use crate::api::market::score;
use crate::domain::auction::{self, Evidence, Fate, Offer};
use crate::domain::bid_proof::{Head, Leaf, Proof};
use crate::domain::ceiling::Escalation;
use crate::domain::score::{Nearness, Policy, Scale, Terms, Weights};
use crate::domain::state::LIMITS;
use crate::domain::{JobId, Price, WorkerId};
use crate::mesh;

const COLUMNS: &[(&str, &str)] = &[
    ("worker", "worker_id"),
    ("fate", "fate"),
    ("score", "score"),
    ("price", "price"),
    ("expected ms", "expected_ms"),
    ("load", "load_permille"),
    ("reputation", "reputation"),
    ("rtt us", "rtt_us"),
];

pub(super) async fn verify(client: &Client, id: &str, remote: &Remote) -> Result<(), Failure> {
    let job = client.call(&fresh(&job_path(id))).await?.body;
    let explained = client.call(&fresh(&format!("{}/explain", job_path(id)))).await?.body;
    let awards = explained["awards"].as_array().cloned().unwrap_or_else(|| vec![explained["award"].clone()]);
    if awards.iter().all(|award| award["evidence"].is_null()) {
        return Err(Failure::new(
            Kind::Failed,
            format!(
                "there is no evidence of an award of job {id}: it has none, or ended too long ago (the newest {} \
                 finished jobs keep it)",
                LIMITS.evidence
            ),
        ));
    }
    let judged = awards.iter().filter(|award| !award["evidence"].is_null()).try_for_each(|award| shown(&job, award));
    if remote.json {
        let verdict = judged.as_ref().err();
        let (award, awards) = (&explained["award"], &explained["awards"]);
        let verified = verdict.is_none();
        let said = json!({ "job_id": id, "verified": verified, "reason": verdict, "award": award, "awards": awards });
        output::json(&said)?;
    } else {
        for award in &awards {
            output::list(award["evidence"]["offers"].as_array().map_or(&[], Vec::as_slice), COLUMNS)?;
        }
    }
    match judged {
        Ok(()) if remote.json => Ok(()),
        Ok(()) => output::line("the award holds: costs, winner and the winner's signature"),
        Err(reason) => Err(Failure::new(Kind::Failed, format!("the award of job {id} does not hold: {reason}"))),
    }
}

/// What an award is judged by, beside what it says itself.
pub(super) struct Deal {
    pub job: JobId,
    pub attempt: u32,
    /// What the job offered at most then.
    pub max_price: Option<Price>,
    pub weights: Weights,
}

fn shown(job: &Value, award: &Value) -> Result<(), String> {
    let unusable = |what: &str| format!("the node shows no usable {what}");
    let deal = Deal {
        job: read(&job["id"]).ok_or_else(|| unusable("id"))?,
        attempt: number(&award["attempt"]).ok_or_else(|| unusable("attempt"))?,
        max_price: ceiling(job, award).ok_or_else(|| unusable("price_escalation"))?,
        weights: weights(job).ok_or_else(|| unusable("policy"))?,
    };
    judge(&deal, award)
}

/// Whether an award follows from what is shown, and its winner signed it.
pub(super) fn judge(deal: &Deal, award: &Value) -> Result<(), String> {
    let shown = |what: &str| format!("the node shows no usable {what}");
    let worker: WorkerId = read(&award["worker_id"]).ok_or_else(|| shown("worker_id"))?;
    let price: Price = read(&award["price"]).ok_or_else(|| shown("price"))?;
    let evidence = evidence(&award["evidence"]).ok_or_else(|| shown("evidence"))?;
    auction::verify(deal.max_price, &deal.weights, worker, price, &evidence)?;
    scores(&award["evidence"])?;
    let terms = evidence.offers.first().map(|offer| offer.terms).ok_or_else(|| shown("terms"))?;
    let leaf = Leaf { job: deal.job, attempt: deal.attempt, price: terms.price, expected_ms: terms.expected_ms };
    let proof = evidence.proof.ok_or("it is not shown that the winner signed its bid")?;
    let statement = proof.statement(&leaf).ok_or("the proof does not fit the winner's answer")?;
    if mesh::verify(worker, &statement, &proof.signature) {
        return Ok(());
    }
    Err("the winner did not sign this bid".to_owned())
}

/// What the job offered at most when it was awarded; `Some(None)`: any price.
pub(super) fn ceiling(job: &Value, award: &Value) -> Option<Option<Price>> {
    let Some(most) = read(&job["max_price"]) else { return Some(None) };
    let shown = &job["price_escalation"];
    if shown.is_null() {
        return Some(Some(most));
    }
    let (start, step, every_secs) = (read(&shown["start"])?, read(&shown["step"])?, number(&shown["every_secs"])?);
    let at =
        |time: &Value| time::OffsetDateTime::parse(time.as_str()?, &time::format_description::well_known::Rfc3339).ok();
    let waited = at(&award["assigned_at"])? - at(&job["queued_at"])?;
    let waited_ms = u64::try_from(waited.whole_milliseconds()).ok()?;
    Some(Some(Escalation { start, step, every_secs }.ceiling(most, waited_ms)))
}

/// A score is a cost, told the other way round.
fn scores(evidence: &Value) -> Result<(), String> {
    let told = |offer: &Value| {
        let cost: u32 = number(&offer["cost"])?;
        Some(offer["score"].as_f64()? == score(cost))
    };
    let offers = evidence["offers"].as_array().map_or(&[][..], Vec::as_slice);
    if offers.iter().all(|offer| told(offer) == Some(true)) {
        Ok(())
    } else {
        Err("a score is not its cost's".to_owned())
    }
}

pub(super) fn weights(job: &Value) -> Option<Weights> {
    let own = &job["weights"];
    if own.is_null() {
        let name = job["policy"].as_str()?;
        return Policy::ALL.into_iter().find(|policy| policy.as_str() == name).map(Policy::weights);
    }
    Some(Weights {
        price: number(&own["price"])?,
        time: number(&own["time"])?,
        reputation: number(&own["reputation"])?,
        load: number(&own["load"])?,
        distance: number(&own["distance"])?,
    })
}

fn evidence(shown: &Value) -> Option<Evidence> {
    let offers = shown["offers"].as_array()?.iter().map(offer).collect::<Option<Vec<_>>>()?;
    Some(Evidence {
        scale: Scale { price: read(&shown["scale"]["price"])?, expected_ms: number(&shown["scale"]["expected_ms"])? },
        bids: number(&shown["bids"])?,
        offers: offers.into(),
        proof: proof(&shown["proof"]).map(Box::new),
    })
}

fn offer(shown: &Value) -> Option<Offer> {
    let fate = shown["fate"].as_str()?;
    Some(Offer {
        worker: read(&shown["worker_id"])?,
        terms: Terms {
            price: read(&shown["price"])?,
            expected_ms: number(&shown["expected_ms"])?,
            load_permille: number(&shown["load_permille"])?,
            reputation: number(&shown["reputation"])?,
            rtt_us: number(&shown["rtt_us"]),
            preferred: shown["preferred"].as_bool()?,
            near: Nearness::ALL.into_iter().find(|known| shown["near"] == known.as_str())?,
        },
        cost: number(&shown["cost"])?,
        fate: Fate::ALL.into_iter().find(|known| known.as_str() == fate)?,
    })
}

fn proof(shown: &Value) -> Option<Proof> {
    let hash = |text: &Value| hex::decode(text.as_str()?.strip_prefix("0x")?).ok()?.try_into().ok();
    Some(Proof {
        head: Head {
            term: shown["term"].as_u64()?,
            seq: shown["seq"].as_u64()?,
            room: number(&shown["room"])?,
            load_permille: number(&shown["load_permille"])?,
            nonce: read(&shown["nonce"])?,
            count: number(&shown["count"])?,
        },
        place: number(&shown["place"])?,
        path: shown["path"].as_array()?.iter().map(hash).collect::<Option<Vec<_>>>()?,
        signature: BASE64.decode(shown["signature"].as_str()?).ok()?,
    })
}

pub(super) fn read<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

pub(super) fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    T::try_from(value.as_u64()?).ok()
}
