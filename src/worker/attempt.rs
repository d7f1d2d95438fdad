//! One attempt from assignment to report.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::desk::{Cause, Key};
use super::executor::{Ended, Executor, Failure, Keeping, Work};
use super::inputs::{self, Inputs};
use super::outbox::Outbox;
use crate::clock;
use crate::domain::Digest;
use crate::mesh::Identity;
use crate::wire;
use crate::wire::proto::mesh::v1::{self as proto, Report, report};

/// Longest detail of a failure that is reported, in bytes: its end, after the exit code.
const DETAIL_MAX: usize = 3 * 1024;

/// What attempts need; shared by all of them.
pub(super) struct Workshop {
    pub executor: Executor,
    pub inputs: std::sync::Arc<Inputs>,
    pub keeping: Keeping,
    pub outbox: Outbox,
    pub identity: Identity,
    pub done: mpsc::Sender<Done>,
}

/// An attempt has ended, and its report is in the outbox.
pub(super) struct Done {
    pub key: Key,
    pub kind: String,
    /// How long it took, if it came out well.
    pub took: Option<Duration>,
    /// It could not be run, and neither could another.
    pub ill: bool,
}

impl Workshop {
    pub async fn run(&self, work: Work, stop: oneshot::Receiver<Cause>) {
        let started = clock::instant();
        let (key, kind) = (work.key, work.kind.clone());
        let ended = self.keeping.settle(self.execute(work, stop).await).await;
        let took = started.elapsed();
        let done = Done {
            key,
            kind,
            took: matches!(ended, Ended::Output { .. } | Ended::Kept { .. }).then_some(took),
            ill: matches!(&ended, Ended::Failed(failure) if failure.ill),
        };
        if let Some(report) = self.report(key, ended, took) {
            self.outbox.put(report).await;
        }
        // The agent outlives its attempts, except when the process ends.
        let _ = self.done.send(done).await;
    }

    /// Fetches the input if it is elsewhere, then runs.
    async fn execute(&self, work: Work, mut stop: oneshot::Receiver<Cause>) -> Ended {
        let loads = self.executor.loads_input(&work.kind);
        if let Some(Err(failure)) = work.input_uri.as_ref().filter(|_| loads).map(inputs::check_loadable) {
            return Ended::Failed(failure);
        }
        let mut work = match self.inputs.bring(work, &mut stop).await {
            Ok(work) => work,
            Err(ended) => return ended,
        };
        let fetched = work.input_uri.as_ref().and_then(|reference| reference.file.clone());
        if let Some(pin) = fetched.filter(|_| loads) {
            let started = clock::instant();
            let loaded = tokio::select! {
                loaded = inputs::load(&pin) => loaded,
                () = tokio::time::sleep(work.timeout) => Err(Failure::retryable("timeout", "while its input was read")),
                Ok(cause) = &mut stop => return Ended::stopped(cause),
            };
            match loaded {
                Ok(bytes) => work.input = bytes,
                Err(failure) => return Ended::Failed(failure),
            }
            work.timeout = work.timeout.saturating_sub(started.elapsed());
        }
        self.executor.run(&work, stop).await
    }

    fn report(&self, key: Key, ended: Ended, took: Duration) -> Option<Report> {
        let (job, attempt) = key;
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let outcome = match ended {
            Ended::Abandoned => {
                info!(%job, attempt, "abandoned");
                return None;
            }
            Ended::Failed(failure) => {
                if failure.ill {
                    warn!(%job, attempt, code = failure.code, reason = failure.detail, "not run");
                } else {
                    info!(%job, attempt, code = failure.code, exit_code = failure.exit_code, "failed");
                }
                report::Outcome::Failure(failure_to_proto(failure, duration_ms))
            }
            Ended::Output { bytes, exit_code } => {
                info!(%job, attempt, bytes = bytes.len(), duration_ms, "done");
                let sha256 = Digest::of(&bytes);
                let output = proto::Output { inline: bytes, exit_code, duration_ms, ..proto::Output::default() };
                report::Outcome::Output(self.signed(key, sha256, output))
            }
            Ended::Kept { sha256, size, exit_code } => {
                info!(%job, attempt, bytes = size, duration_ms, "done, the output stays here");
                let output = proto::Output { kept_size: size, exit_code, duration_ms, ..proto::Output::default() };
                report::Outcome::Output(self.signed(key, sha256, output))
            }
        };
        Some(Report { attempt: Some(wire::attempt_ref(job, attempt)), outcome: Some(outcome) })
    }

    fn signed(&self, (job, attempt): Key, sha256: Digest, output: proto::Output) -> proto::Output {
        let signature = self.identity.sign(&wire::signed_result(job, attempt, &sha256)).into();
        proto::Output { sha256: Bytes::copy_from_slice(&sha256.0), signature, ..output }
    }
}

/// The report of an attempt that an earlier life of this worker did not finish.
pub(super) fn interrupted((job, attempt): Key) -> Report {
    let failure = Failure::retryable("worker_restarted", "");
    let outcome = Some(report::Outcome::Failure(failure_to_proto(failure, 0)));
    Report { attempt: Some(wire::attempt_ref(job, attempt)), outcome }
}

fn failure_to_proto(failure: Failure, duration_ms: u64) -> proto::Failure {
    let mut detail = end_of(&failure.detail, DETAIL_MAX).to_owned();
    if failure.exit_code != 0 {
        detail.insert_str(0, &format!("exit code {}\n", failure.exit_code));
        detail.truncate(detail.trim_end().len());
    }
    proto::Failure {
        code: failure.code.to_owned(),
        detail,
        exit_code: failure.exit_code,
        retryable: failure.retryable,
        duration_ms,
    }
}

/// The last `most` bytes of `text`, or a little less: whole characters.
fn end_of(text: &str, most: usize) -> &str {
    let earliest = text.len().saturating_sub(most);
    (earliest..=text.len()).find_map(|start| text.get(start..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_of_a_failure_is_told_however_long_its_detail() {
        let said = |detail: String| {
            let failure = Failure { exit_code: 3, ..Failure::retryable("exit_code", detail) };
            failure_to_proto(failure, 0).detail
        };
        assert_eq!(said(String::new()), "exit code 3");
        let long = said("x".repeat(DETAIL_MAX + 1));
        assert!(long.starts_with("exit code 3\nx") && long.len() < DETAIL_MAX + 64, "{long}");
        assert_eq!(failure_to_proto(Failure::retryable("timeout", "after 1 s"), 0).detail, "after 1 s");
    }

    #[test]
    fn the_end_of_a_text_is_whole_characters() {
        assert_eq!(end_of("short", 10), "short");
        assert_eq!(end_of("\u{fffd}\u{fffd}", 4), "\u{fffd}");
        assert_eq!(end_of("\u{fffd}", 0), "");
    }
}
