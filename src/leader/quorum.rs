//! Which jobs with redundancy may be begun.
//!
//! A job of which some runs have voted holds the bytes of these votes until the
//! others have, and what all such jobs may hold is bounded. So none is begun
//! unless as many workers as it asks for are there and fit it, busy or not. Those
//! that were begun go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::matching::{Class, class, fits};
use crate::domain::worker::Worker;
use crate::domain::{Job, JobSpec};

/// The answers of one look at the queue.
pub(super) struct Quorums<'a> {
    able: &'a [&'a Arc<Worker>],
    known: BTreeMap<(Class, u8), bool>,
}

impl<'a> Quorums<'a> {
    /// `able`: workers that take jobs now, also those without room.
    pub(super) fn among(able: &'a [&'a Arc<Worker>]) -> Self {
        Self { able, known: BTreeMap::new() }
    }

    pub(super) fn may_go_on(&mut self, job: &Job) -> bool {
        job.spec.redundancy <= 1 || !job.runs.is_empty() || self.may_begin(&job.spec)
    }

    fn may_begin(&mut self, spec: &JobSpec) -> bool {
        let able = self.able;
        *self.known.entry((class(spec), spec.redundancy)).or_insert_with(|| {
            let wanted = usize::from(spec.redundancy);
            able.iter().filter(|worker| fits(spec, worker, None)).take(wanted).count() == wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::worker::{Capabilities, REPUTATION_START, Verdict};
    use crate::domain::{PeerId, Timestamp};

    fn worker(n: u8, kind: &str) -> Arc<Worker> {
        Arc::new(Worker {
            id: PeerId([n; 32]),
            capabilities: Capabilities { job_types: vec![kind.to_owned()], ..Capabilities::default() },
            location: Default::default(),
            version: String::new(),
            verdict: Verdict::Online,
            draining: false,
            reputation: REPUTATION_START,
            changes: Vec::new(),
            banned_until: None,
            registered_at: Timestamp(0),
            verdict_at: Timestamp(0),
            completed: 0,
            failed: 0,
            lost: 0,
        })
    }

    fn spec(redundancy: u8) -> JobSpec {
        serde_json::from_value(serde_json::json!({
            "kind": "sha256",
            "input": crate::domain::job::Input { sha256: crate::domain::Digest::of(b""), size: 0, uri: None },
            "priority": 5, "max_price": null, "deadline": null, "timeout_secs": 60,
            "requirements": crate::domain::job::Requirements::default(),
            "policy": crate::domain::score::Policy::default(), "weights": null,
            "retry": crate::domain::job::Retry::default(), "redundancy": redundancy, "tags": [],
            "client_address": null, "callback_url": null, "settlement": null,
        }))
        .expect("a spec")
    }

    #[test]
    fn a_job_is_begun_only_if_as_many_workers_as_it_asks_for_fit_it() {
        let workers = [worker(1, "sha256"), worker(2, "video"), worker(3, "sha256")];
        let able: Vec<&Arc<Worker>> = workers.iter().collect();
        let mut quorums = Quorums::among(&able);
        assert!(quorums.may_begin(&spec(2)));
        assert!(!quorums.may_begin(&spec(3)), "one of the three runs something else");
        let mut quorums = Quorums::among(&able[..2]);
        assert!(!quorums.may_begin(&spec(2)));
    }
}
