//! Jobs that others submitted to the contract, as jobs here.
//!
//! The metadata names the type, the input's place and its digest; the payment in
//! escrow is the highest price. They are judged by the rules for all submissions,
//! and no further: whoever pays may ask. What can not be run is counted, and left
//! to its client, who gets the escrow back when it cancels or the job expires.
//!
//! Invariants
//!
//! * The same job on chain is the same job here, however often it is read.
//! * Ours are not among them: they have ids of their own, 2^64 and above.

use futures::future::try_join_all;
use serde_json::json;
use tracing::debug;

use crate::chain::{self, Event, Generation, Handle, JobStatus, Spec, What};
use crate::domain::chain::{Arrival, Felt, Policy, Terms, U256};
use crate::domain::command::Submit;
use crate::domain::job::Source;
use crate::domain::{JobId, Price, Timestamp};
use crate::leader::Reign;
use crate::submission::{Submission, text};

/// The contract's own ids are below, those of coordinators above.
const COUNTED: u128 = 1 << 64;

/// Jobs asked for at once.
const ASKED: usize = 16;

/// Jobs among these events that are new here.
pub(super) async fn taken(reign: &Reign, chain: &Handle, events: &[Event]) -> Result<Vec<Arrival>, chain::Error> {
    if chain.view().generation() != Some(Generation::Full) {
        return Ok(vec![]);
    }
    let mut arrivals = vec![];
    for jobs in unknown(reign, events).chunks(ASKED) {
        let ids: Vec<U256> = jobs.iter().map(|job| job.id).collect();
        let details = chain.details(&ids).await?;
        let mut questions = Vec::with_capacity(jobs.len());
        for (job, details) in jobs.iter().zip(details) {
            questions.push(spec(chain.clone(), job.id, details.state == JobStatus::Queued));
        }
        let now = reign.context.client.log_now();
        for (job, spec) in jobs.iter().zip(try_join_all(questions).await?) {
            let submit = spec.and_then(|spec| submit(chain, job, &spec, now));
            arrivals.push(Arrival { job: job.id, submit: submit.map(Box::new) });
        }
    }
    Ok(arrivals)
}

/// A job as its event tells it.
#[derive(Clone, Copy, Debug)]
struct Told {
    id: U256,
    client: Felt,
    payment: U256,
}

fn unknown(reign: &Reign, events: &[Event]) -> Vec<Told> {
    let told = events.iter().filter_map(|event| match event.what {
        What::Submitted { job, client, payment } => Some(Told { id: job, client, payment }),
        _ => None,
    });
    let theirs: Vec<Told> = told.filter(|job| job.id.high > 0 || job.id.low < COUNTED).collect();
    reign
        .context
        .client
        .read(|state| theirs.into_iter().filter(|job| state.chain().arrived(job.id).is_none()).collect())
}

/// `None`: the contract keeps none, so it is not for us; or it is not `open` any more.
async fn spec(chain: Handle, job: U256, open: bool) -> Result<Option<Spec>, chain::Error> {
    if !open {
        return Ok(None);
    }
    match chain.spec_of(job).await {
        Ok(spec) => Ok(Some(spec)),
        Err(chain::Error::Reverted { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The job here; `None`: it can not be run.
fn submit(chain: &Handle, job: &Told, spec: &Spec, now: Timestamp) -> Option<Submit> {
    let options = chain.options();
    match made(options.contract, job, spec, now) {
        Ok(mut submit) => {
            submit.spec.settlement = Some(Terms { policy: Policy::SettleLater, confirmation: options.confirmation });
            Some(submit)
        }
        Err(why) => {
            debug!(chain_job = %job.id, why, "a job on chain can not be run here");
            None
        }
    }
}

fn made(contract: Felt, job: &Told, spec: &Spec, now: Timestamp) -> Result<Submit, String> {
    let reference = spec.reference().ok_or("its metadata names no input")?;
    let deadline = (spec.sla_deadline > 0).then(|| Timestamp(spec.sla_deadline.saturating_mul(1_000)));
    // Beyond what the calendar of the texts holds there is none.
    let deadline = deadline.filter(|deadline| deadline.0 < 253_402_300_799_000);
    let asked = json!({
        "type": reference.kind,
        // How long it is, nobody says on chain: the digest tells what it must be.
        "input": {"uri": reference.uri, "sha256": hex::encode(reference.sha256.0), "size": 0},
        "deadline": deadline.map(text::time),
        "client_address": job.client.to_string(),
        "tags": ["chain"],
    });
    let asked: Submission = serde_json::from_value(asked).map_err(|error| error.to_string())?;
    let mut checked = asked.check(0).map_err(|error| error.detail)?;
    checked.deadline_ahead(now).map_err(|error| error.detail)?;
    checked.spec.max_price = Some(Price(if job.payment.high == 0 { job.payment.low } else { u128::MAX }));
    let id = JobId::from_key("chain", &format!("{contract}:{}", job.id));
    let fingerprint = checked.fingerprint();
    Ok(Submit { id, spec: checked.spec, payload: None, fingerprint, source: Source::Chain })
}

#[cfg(test)]
#[path = "tests/arrivals.rs"]
mod tests;
