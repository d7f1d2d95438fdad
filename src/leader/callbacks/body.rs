//! What a receiver is sent: one JSON document, and how it can check who sent it.
//!
//! The document of a notice is the same whoever sends it how often: only the
//! time of sending, and the signature that covers it, differ between tries.

use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;

use crate::domain::Timestamp;
use crate::domain::callback::{Brought, Notice};
use crate::domain::job::JobError;
use crate::leader::event_id;
use crate::submission::text::{base64, time};

#[derive(Serialize)]
struct Body<'a> {
    event_id: String,
    event: String,
    job: Job<'a>,
    result: Option<Outcome>,
}

/// Names as in the API.
#[derive(Serialize)]
struct Job<'a> {
    id: String,
    r#type: &'a str,
    state: &'static str,
    attempt: u32,
    worker_id: Option<String>,
    tags: &'a [String],
    submitted_at: String,
    finished_at: String,
    error: Option<Error<'a>>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'a str,
    detail: &'a str,
}

#[derive(Serialize)]
struct Outcome {
    output_sha256: String,
    output_size: u64,
    /// Base64; only of short ones.
    output: Option<String>,
    exit_code: i32,
    duration_ms: u64,
}

/// What happened, such as `job.completed`.
pub(super) fn kind(notice: &Notice) -> String {
    format!("job.{}", notice.state.as_str())
}

/// The document, as bytes. `network` names the cluster.
pub(super) fn document(network: &str, notice: &Notice) -> Vec<u8> {
    let body = Body {
        event_id: event_id(network, notice.event),
        event: kind(notice),
        job: Job {
            id: notice.job.to_string(),
            r#type: &notice.kind,
            state: notice.state.as_str(),
            attempt: notice.attempt,
            worker_id: notice.worker.map(|worker| worker.to_string()),
            tags: &notice.tags,
            submitted_at: time(notice.submitted_at),
            finished_at: time(notice.ended_at),
            error: notice.error.as_ref().map(|JobError { code, detail }| Error { code, detail }),
        },
        result: notice.result.as_ref().map(outcome),
    };
    // A struct of plain fields always serialises.
    serde_json::to_vec(&body).unwrap_or_default()
}

fn outcome(brought: &Brought) -> Outcome {
    Outcome {
        output_sha256: brought.output_sha256.to_string(),
        output_size: brought.output_size,
        output: brought.output.as_deref().map(base64),
        exit_code: brought.exit_code,
        duration_ms: brought.duration_ms,
    }
}

/// The key that bodies are signed with. Never shown.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Key {
    /// `None`: the secret is empty.
    pub fn new(secret: &str) -> Option<Self> {
        (!secret.is_empty()).then_some(())?;
        Hmac::new_from_slice(secret.as_bytes()).ok().map(Self)
    }

    /// `sha256=` and the HMAC-SHA256, in hex, of the time of sending in seconds since 1970, a dot, and the body.
    pub(super) fn sign(&self, seconds: u64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(seconds.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
    }
}

/// In seconds since 1970.
pub(super) fn seconds(at: Timestamp) -> u64 {
    at.0 / 1_000
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::{Digest, JobId, JobState, PeerId};

    fn notice() -> Notice {
        Notice {
            event: 17,
            url: "https://example.org/hook?token=hunter2".into(),
            job: JobId([7; 16]),
            kind: "sha256".to_owned(),
            tags: vec!["nightly".to_owned()],
            state: JobState::Completed,
            attempt: 2,
            worker: Some(PeerId([1; 32])),
            submitted_at: Timestamp(1_764_000_000_000),
            ended_at: Timestamp(1_764_000_001_500),
            result: Some(Brought {
                output_sha256: Digest::of(b"out"),
                output_size: 3,
                output: Some(b"out".to_vec()),
                exit_code: 0,
                duration_ms: 12,
            }),
            error: None,
        }
    }

    #[test]
    fn the_document_says_what_happened_under_the_names_of_the_api() {
        let body: Value = serde_json::from_slice(&document("ciro", &notice())).unwrap();
        let expected = json!({
            "event_id": "ciro-17",
            "event": "job.completed",
            "job": {
                "id": JobId([7; 16]).to_string(), "type": "sha256", "state": "completed", "attempt": 2,
                "worker_id": PeerId([1; 32]).to_string(), "tags": ["nightly"],
                "submitted_at": "2025-11-24T16:00:00.000Z", "finished_at": "2025-11-24T16:00:01.500Z", "error": null,
            },
            "result": {
                "output_sha256": Digest::of(b"out").to_string(), "output_size": 3, "output": "b3V0",
                "exit_code": 0, "duration_ms": 12,
            },
        });
        assert_eq!(body, expected);
        let error = Some(JobError { code: "exit_code".to_owned(), detail: "exited with 1".to_owned() });
        let failed = Notice { state: JobState::Failed, worker: None, result: None, error, ..notice() };
        let body: Value = serde_json::from_slice(&document("ciro", &failed)).unwrap();
        assert_eq!((&body["event"], &body["result"]), (&json!("job.failed"), &Value::Null));
        assert_eq!(body["job"]["error"], json!({"code": "exit_code", "detail": "exited with 1"}));
    }

    /// `printf '1764000001.{}' | openssl dgst -sha256 -hmac <secret>` says the same.
    #[test]
    fn a_signature_is_the_hmac_of_time_and_body_and_the_key_is_never_shown() {
        let key = Key::new("a secret that both sides know").unwrap();
        let signed = key.sign(1_764_000_001, b"{}");
        assert_eq!(signed, "sha256=37fe4abe2a018ce95c7eabce721992d9502044582af895018713c9196811949e");
        assert_ne!(key.sign(1_764_000_002, b"{}"), signed);
        assert_eq!(format!("{key:?}"), "(hidden)");
        assert!(Key::new("").is_none());
    }
}
