//! A job, for tests.

use crate::domain::chain::{Confirmation, Policy, Terms};
use crate::domain::job::{Input, Job, JobSpec, JobState, Source};
use crate::domain::{Digest, JobId, Price, Timestamp, sample};

/// A pending job of `kind` `ai_inference` with a deadline in 2100.
pub(crate) fn job(id: JobId) -> Job {
    Job {
        id,
        spec: spec(),
        fingerprint: Digest([1; 32]),
        source: Source::Api,
        state: JobState::Pending,
        attempt: 0,
        failures: 0,
        runs: Vec::new(),
        outcome: None,
        error: None,
        submitted_at: Timestamp(1_690_000_000_000),
        queued_at: Timestamp(1_690_000_000_000),
        submitted_index: 1,
        finished_at: None,
        awaits_chain: false,
        next_attempt_at: Timestamp(0),
        callback: None,
        history: Vec::new(),
    }
}

fn spec() -> JobSpec {
    JobSpec {
        kind: "ai_inference".to_owned(),
        input: Input { sha256: Digest([0xab; 32]), size: 3, uri: None },
        max_price: Some(Price(10)),
        deadline: Some(Timestamp(4_102_444_800_001)),
        settlement: Some(Terms { policy: Policy::SettleLater, confirmation: Confirmation::AcceptedL2 }),
        ..sample::spec()
    }
}
