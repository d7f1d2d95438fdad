//! `GET /jobs/{id}/receipt`: what a completed job leaves in its client's hands.
//!
//! A receipt holds what it takes to judge a result without any node: what was
//! asked for, each result with its worker's signature over job, attempt and
//! output digest, each award with the winner's signed bid, and what is owed. The
//! node that issues it signs the whole; what no worker signed is its word. The
//! command line checks all of that: `ciro-coordinator verify`.
//!
//! Absent: that the log contains the job. Only a node can say that.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use warp::reply::Response;

use super::read::look;
use crate::api::market::{AwardBody, WeightsBody};
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::settlement::ReceiptSettlement;
use crate::api::{Api, respond, text};
use crate::domain::job::Outcome;
use crate::domain::run::Run;
use crate::domain::{Job, State};
use crate::mesh::Identity;
use crate::submission::escalation::EscalationBody;

/// Grows with every change of what a receipt says.
pub const FORMAT: u32 = 3;

#[derive(Serialize, ToSchema)]
#[schema(as = SignedReceipt)]
pub struct SignedReceipt {
    receipt: Receipt,
    issuer: Issuer,
}

/// Who says so: the node that was asked.
#[derive(Serialize, ToSchema)]
#[schema(as = ReceiptIssuer)]
struct Issuer {
    /// Also its ed25519 key.
    node_id: String,
    /// ed25519, in base64, over `ciro-receipt-v1`, a zero byte, and the receipt in JSON with sorted keys, without
    /// spaces, with a comma after every field and item.
    #[schema(content_encoding = "base64")]
    signature: String,
}

#[derive(Serialize, ToSchema)]
struct Receipt {
    format: u32,
    #[schema(format = "uuid")]
    job_id: String,
    r#type: String,
    input_sha256: String,
    /// Bytes.
    input_size: u64,
    redundancy: u8,
    /// Of each worker's bid.
    max_price: Option<String>,
    /// How what was offered at most rose to `max_price` while the job waited.
    price_escalation: Option<EscalationBody>,
    #[schema(pattern = "^(balanced|best_match|lowest_cost|fastest_response|highest_reputation)$")]
    policy: &'static str,
    weights: Option<WeightsBody>,
    #[schema(format = DateTime)]
    submitted_at: String,
    /// Since when the offer rises.
    #[schema(format = DateTime)]
    queued_at: String,
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    output_sha256: String,
    /// Bytes.
    output_size: u64,
    /// Awards the job took, those that came to nothing included.
    attempts: u32,
    /// Those that brought a result.
    runs: Vec<ReceiptRun>,
    /// What is owed in all.
    price: String,
    /// How it is settled on chain, as far as that was when this was written; null: it is not. Anyone can look the
    /// transactions up there.
    settlement: Option<ReceiptSettlement>,
}

#[derive(Serialize, ToSchema)]
struct ReceiptRun {
    attempt: u32,
    worker_id: String,
    /// ed25519, in base64.
    #[schema(content_encoding = "base64")]
    worker_public_key: String,
    output_sha256: String,
    /// Bytes.
    output_size: u64,
    exit_code: i32,
    duration_ms: u64,
    /// ed25519 by the worker over `ciro-result-v1`, a zero byte, the job's id, the attempt and the output's digest.
    #[schema(content_encoding = "base64")]
    signature: String,
    /// Whether its output is the job's.
    counts: bool,
    /// The price of its bid if it counts, else 0.
    owed: String,
    award: AwardBody,
}

pub(super) async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.job()?;
    let receipt = look(&api, id, |state, job| {
        super::read::finished(job)?;
        Receipt::of(state, job).ok_or_else(|| Problem::new(Code::NoResult, format!("job {id} has no result")))
    })
    .await??;
    respond::json(&receipt.signed_by(&api.context.identity))
}

/// A receipt for a completed job, as `issuer` gives it out. `None`: the job has no result.
pub fn issue(state: &State, job: &Job, issuer: &Identity) -> Option<SignedReceipt> {
    Receipt::of(state, job).map(|receipt| receipt.signed_by(issuer))
}

impl Receipt {
    fn of(state: &State, job: &Job) -> Option<Self> {
        let outcome = job.outcome.as_ref().filter(|_| job.state.is_final())?;
        Some(Self {
            format: FORMAT,
            job_id: job.id.to_string(),
            r#type: job.spec.kind.clone(),
            input_sha256: job.spec.input.sha256.to_string(),
            input_size: job.spec.input.size,
            redundancy: job.spec.redundancy,
            max_price: job.spec.max_price.map(|price| price.to_string()),
            price_escalation: job.spec.price_escalation.map(EscalationBody::of),
            policy: job.spec.policy.as_str(),
            weights: job.spec.weights.map(WeightsBody::of),
            submitted_at: text::time(job.submitted_at),
            queued_at: text::time(job.queued_at),
            finished_at: job.finished_at.map(text::time),
            output_sha256: outcome.output_sha256.to_string(),
            output_size: outcome.output_size,
            attempts: job.attempt,
            runs: job.runs.iter().filter_map(|run| ReceiptRun::of(job, run)).collect(),
            price: job.price().unwrap_or_default().to_string(),
            settlement: ReceiptSettlement::of(state, job),
        })
    }

    fn signed_by(self, issuer: &Identity) -> SignedReceipt {
        // A struct of plain fields always serialises.
        let shown = serde_json::to_value(&self).unwrap_or_default();
        let signature = text::base64(&issuer.sign(&statement(&shown)));
        SignedReceipt { receipt: self, issuer: Issuer { node_id: issuer.id().to_string(), signature } }
    }
}

impl ReceiptRun {
    fn of(job: &Job, run: &Run) -> Option<Self> {
        let sole = job.outcome.as_ref().filter(|outcome| outcome.attempt == run.attempt);
        let result: &Outcome = run.output().or(sole)?;
        let owed = job.owed(run).unwrap_or_default();
        let accepted = job.outcome.as_ref().map(|outcome| outcome.output_sha256);
        Some(Self {
            attempt: run.attempt,
            worker_id: run.award.worker.to_string(),
            worker_public_key: text::base64(&run.award.worker.0),
            output_sha256: result.output_sha256.to_string(),
            output_size: result.output_size,
            exit_code: result.exit_code,
            duration_ms: result.duration_ms,
            signature: text::base64(&result.signature),
            counts: accepted == Some(result.output_sha256),
            owed: owed.to_string(),
            award: AwardBody::of(run),
        })
    }
}

/// What an issuer signs: the receipt in JSON without spaces, every object's keys in the order of their bytes, a comma
/// after every field and item.
pub fn statement(receipt: &Value) -> Vec<u8> {
    let mut bytes = b"ciro-receipt-v1\0".to_vec();
    canonical(receipt, &mut bytes);
    bytes
}

/// JSON says no more than it must: the parser bounds how deep it nests.
fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            for key in keys {
                out.extend(Value::from(key.as_str()).to_string().into_bytes());
                out.push(b':');
                canonical(&fields[key], out);
                out.push(b',');
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        leaf => out.extend(leaf.to_string().into_bytes()),
    }
}
