//! Jobs: submitting, reading, cancelling, and why they are where they are.

mod body;
mod callback;
mod cold;
mod explain;
mod output;
pub(in crate::api) mod progress;
pub(in crate::api) mod read;
pub mod receipt;
mod runs;
mod submit;

use warp::http::Method;

use super::Limits;
use super::page;
use super::params::{Kind, Param};
use super::problem::Code;
use super::route::{Header, Route};
use crate::submission::Submission;

const IDEMPOTENCY_KEY: Header = Header {
    name: "Idempotency-Key",
    pattern: "^[!-~]{1,255}$",
    about: "A retry with the same key is the same job, and gets the first outcome.",
};

pub fn routes(limits: &Limits) -> Vec<Route> {
    [writes(limits), lists(), parts()].concat()
}

fn writes(limits: &Limits) -> Vec<Route> {
    let accepted = [
        Code::IdempotencyConflict,
        Code::JobForgotten,
        Code::BacklogFull,
        Code::PayloadTooLarge,
        Code::StorageFull,
        Code::NotCaughtUp,
        Code::ArchiveDamaged,
    ];
    let items = serde_json::json!({
        "type": "array",
        "minItems": 1,
        "maxItems": limits.batch_items,
        "items": {"description": "A Submission. What is not one is refused alone."},
        "example": [{"type": "sha256", "payload": "aGVsbG8="}]
    });
    let lines = serde_json::json!({"type": "string", "description": "One Submission per line."});
    vec![
        Route::post("/jobs", "Submit a job", submit::one)
            .header(IDEMPOTENCY_KEY)
            .takes::<Submission>(true, limits.body_bytes)
            .answers::<body::JobBody>(201, "Accepted: durable on a majority")
            .answers::<body::JobBody>(200, "Accepted before, with the same key and body")
            .located()
            .write()
            .problems(&accepted),
        Route::post("/jobs/batch", "Submit many jobs; each is accepted or refused by itself", submit::batch)
            .header(IDEMPOTENCY_KEY)
            .takes_raw(limits.batch_bytes, &["application/json", "application/x-ndjson"], vec![items, lines])
            .answers::<body::BatchBody>(200, "One answer per item, in order")
            .write()
            .problems(&accepted),
        Route::new(Method::DELETE, "/jobs/{id}", "Cancel a job, in every state that is not final", submit::cancel)
            .param(Param::new("reason", Kind::Text(256), "Kept in the job's history."))
            .answers::<body::JobBody>(200, "Cancelled")
            .write()
            .problems(&[Code::UnknownJob, Code::AlreadyFinished]),
        Route::post("/jobs/{id}/retry", "Give a failed job a fresh budget of attempts", submit::retry)
            .answers::<body::JobBody>(200, "It is pending again, or was under way already")
            .write()
            .problems(&[
                Code::UnknownJob,
                Code::AlreadyFinished,
                Code::DeadlinePassed,
                Code::EscrowRefunded,
                Code::BacklogFull,
            ]),
    ]
}

fn lists() -> Vec<Route> {
    let states = vec!["active", "all", "pending", "assigned", "running", "completed", "failed", "cancelled"];
    vec![
        Route::get("/jobs", "Jobs, by default those that have not ended", read::list)
            .params(page::params(16))
            .param(Param::new("state", Kind::Choice(states), "active (the default), all, or one state."))
            .param(Param::new(
                "dead",
                Kind::Choice(vec!["true", "false"]),
                "true: only failed jobs that may be retried, which is all but those whose deadline passed.",
            ))
            .param(Param::new("type", Kind::Name, "Of this job type."))
            .param(Param::new("worker", Kind::PeerId, "Run, or last run, by this worker."))
            .param(Param::new("client", Kind::Text(66), "Of this client address."))
            .param(Param::new("tag", Kind::Text(64), "With this tag."))
            .param(Param::new("since", Kind::Time, "Submitted at this time or later."))
            .fresh()
            .answers::<body::JobList>(
                200,
                "A page of jobs, in the order of their ids. Over the archive it may be short, or empty, with a next_cursor: go on",
            )
            .problems(&[Code::ArchiveDamaged]),
    ]
}

/// Of any text: HTTP wants what a server does not understand here to be ignored, not refused (RFC 9110, 14.2).
const RANGE: Header = Header {
    name: "Range",
    pattern: "^.*$",
    about: "One part of the bytes: `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH`; anything else is ignored.",
};
const IF_NONE_MATCH: Header =
    Header { name: "If-None-Match", pattern: "^.*$", about: "304 if it names the ETag, which is the SHA-256." };
const IF_RANGE: Header = Header { name: "If-Range", pattern: "^.*$", about: "The ETag that Range is about." };

fn output() -> Route {
    let bytes = || vec![("application/octet-stream", serde_json::json!({"type": "string", "format": "binary"}))];
    Route::get("/jobs/{id}/output", "The bytes of a result, from wherever they are", output::get)
        .header(RANGE)
        .header(IF_NONE_MATCH)
        .header(IF_RANGE)
        .fresh()
        .answers_raw(200, "All of them. Cut short if they turn out not to have the signed digest", bytes())
        .answers_raw(206, "The part. Only the whole has a digest to compare it with", bytes())
        .answers_raw(304, "The client has them", vec![])
        .problems(&[
            Code::UnknownJob,
            Code::NotFinished,
            Code::NoResult,
            Code::RangeBeyond,
            Code::OutputGone,
            Code::OutputDamaged,
            Code::OutputUnreachable,
            Code::ArchiveDamaged,
            Code::Overloaded,
        ])
}

fn parts() -> Vec<Route> {
    vec![
        Route::get("/jobs/{id}", "Everything known of a job", read::get)
            .param(Param::new("wait", Kind::Choice(vec!["terminal"]), "Hold the answer until the job has ended."))
            .param(Param::new(
                "timeout_secs",
                Kind::Integer { min: 0, max: 300 },
                "Hold it no longer than this; 30 by default.",
            ))
            .fresh()
            .answers::<body::JobBody>(200, "The job")
            .problems(&[Code::UnknownJob, Code::ArchiveDamaged, Code::Overloaded, Code::Stopping]),
        Route::get("/jobs/{id}/status", "Where a job is", read::status)
            .fresh()
            .answers::<body::JobStatus>(200, "Its state, attempt, worker and lease")
            .problems(&[Code::UnknownJob, Code::ArchiveDamaged]),
        Route::get("/jobs/{id}/result", "The result of a completed job", read::result)
            .fresh()
            .answers::<body::ResultBody>(200, "The output, its digest and the worker's signature")
            .problems(&[Code::UnknownJob, Code::NotFinished, Code::NoResult, Code::ArchiveDamaged]),
        Route::get("/jobs/{id}/receipt", "A result that can be judged without a node", receipt::get)
            .fresh()
            .answers::<receipt::SignedReceipt>(200, "What was asked, brought, signed and owed; signed by this node")
            .problems(&[Code::UnknownJob, Code::NotFinished, Code::NoResult, Code::ArchiveDamaged]),
        output(),
        Route::get("/jobs/{id}/events", "The history of a job", read::events)
            .fresh()
            .answers::<body::JobEvents>(200, "One item per transition, oldest first")
            .problems(&[Code::UnknownJob, Code::ArchiveDamaged]),
        Route::get("/jobs/{id}/explain", "Why a job is where it is", explain::get)
            .fresh()
            .answers::<explain::Explanation>(200, "The reason, and what it follows from")
            .problems(&[Code::UnknownJob, Code::ArchiveDamaged]),
    ]
}
