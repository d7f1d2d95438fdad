//! Runs of one job side by side, as clients see them.

use serde::Serialize;
use utoipa::ToSchema;

use super::body::ErrorBody;
use crate::api::text;
use crate::domain::Job;
use crate::domain::run::{Run, Vote};

/// One of the runs of a job with redundancy.
#[derive(Serialize, ToSchema)]
#[schema(as = Run)]
pub struct RunBody {
    attempt: u32,
    worker_id: String,
    /// Assigned and running are in force. Voted: it brought a result or failed for good, and waits for the others.
    /// Agreed: its result is the job's. Outvoted: most brought another. Failed: it says that the job can not be
    /// run. Cancelled: the job ended without it.
    #[schema(pattern = "^(assigned|running|voted|agreed|outvoted|failed|cancelled)$")]
    state: &'static str,
    /// Where the worker said it was at the award.
    region: String,
    country: String,
    /// Of its bid, in the smallest unit of the token.
    price: String,
    /// What the worker is owed: the price if its result is the job's, else 0; null until that is decided.
    owed: Option<String>,
    #[schema(format = DateTime)]
    assigned_at: String,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    /// While it is in force.
    #[schema(format = DateTime)]
    lease_until: Option<String>,
    #[schema(format = DateTime)]
    voted_at: Option<String>,
    /// Told when the job has ended: who is still at it could copy what the others say.
    output_sha256: Option<String>,
    /// Likewise.
    error: Option<ErrorBody>,
}

impl RunBody {
    /// `None` for a job without redundancy: it says all there is to say of its one run itself.
    pub fn all(job: &Job) -> Option<Vec<Self>> {
        (job.spec.redundancy > 1).then(|| job.runs.iter().map(|run| Self::of(job, run)).collect())
    }

    fn of(job: &Job, run: &Run) -> Self {
        let (award, ballot) = (&run.award, run.ballot.as_deref());
        let told = run.vote().filter(|_| job.state.is_final());
        let (output, error) = match told {
            Some(Vote::Output(outcome)) => (Some(outcome.output_sha256.to_string()), None),
            Some(Vote::Failure(error)) => (None, Some(ErrorBody::of(error))),
            None => (None, None),
        };
        let in_force = job.run(run.attempt).is_some();
        Self {
            attempt: run.attempt,
            worker_id: award.worker.to_string(),
            state: state(job, run),
            region: ballot.map_or_else(String::new, |ballot| ballot.region.clone()),
            country: ballot.map_or_else(String::new, |ballot| ballot.country.clone()),
            price: award.price.to_string(),
            owed: job.owed(run).map(|price| price.to_string()),
            assigned_at: text::time(award.assigned_at),
            started_at: award.started_at.map(text::time),
            lease_until: in_force.then(|| text::time(award.lease_until)),
            voted_at: ballot.and_then(|ballot| ballot.voted_at).map(text::time),
            output_sha256: output,
            error,
        }
    }
}

fn state(job: &Job, run: &Run) -> &'static str {
    let ended = job.state.is_final();
    match (run.vote(), &job.outcome) {
        (None, _) if ended => "cancelled",
        (None, _) if run.award.started_at.is_some() => "running",
        (None, _) => "assigned",
        (Some(Vote::Failure(_)), _) if ended => "failed",
        (Some(Vote::Output(vote)), Some(accepted)) if vote.output_sha256 == accepted.output_sha256 => "agreed",
        (Some(Vote::Output(_)), Some(_)) => "outvoted",
        (Some(_), _) => "voted",
    }
}

/// How far the runs of a job with redundancy are, for people; nothing for one without.
pub fn progress(job: &Job) -> String {
    if job.spec.redundancy <= 1 || job.state.is_final() {
        return String::new();
    }
    let (asked, quorum) = (job.redundancy(), job.quorum());
    let (votes, going) = (job.runs.iter().filter(|run| run.vote().is_some()).count(), job.runs_in_force().count());
    let missing = asked.saturating_sub(votes + going);
    format!("; of {asked} runs {votes} voted, {going} are going and {missing} wait for a worker, {quorum} must agree")
}
