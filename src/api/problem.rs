//! The one place that says what went wrong, as RFC 9457 problem documents.
//!
//! Every problem has a stable [`Code`]; its title, status and usual hint follow
//! from the code, its detail from the request. `docs/problems.md` lists them
//! all (a test holds that), and `/docs` of every node does too.

use serde::Serialize;
use utoipa::ToSchema;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use crate::consensus;
use crate::domain::Refusal;
use crate::domain::member::Denied;
use crate::submission::{Fault, FieldError, decode};

macro_rules! codes {
    ($($name:ident $status:literal $code:literal $title:literal $hint:literal)*) => {
        /// What kind of problem it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($name),* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Stable, for machines.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }

            pub fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint),* }
            }
        }
    };
}

codes! {
    InvalidJson 400 "invalid_json" "The body is not JSON" "Send one complete JSON document in UTF-8."
    InvalidParameter 400 "invalid_parameter" "A query parameter is not valid" "See the parameters of this route in /docs."
    UnknownParameter 400 "unknown_parameter" "A query parameter is not known" "See the parameters of this route in /docs."
    InvalidHeader 400 "invalid_header" "A request header is not valid" "See the headers of this route in /docs."
    InvalidId 404 "invalid_id" "The id in the path is not an id" "Job ids are UUIDs, worker and node ids are peer ids (12D3KooW…)."
    UnexpectedBody 400 "unexpected_body" "This route takes no body" "Send the request without a body."
    UnreadableBody 400 "unreadable_body" "The body could not be read" "Send the whole body, framed as HTTP demands."
    CrossOrigin 403 "cross_origin" "Another site's page may not write" "Send the request from a program, or from a page of this node that was opened by its address."
    UnknownRoute 404 "unknown_route" "There is no such route" "See /docs for the routes of this node."
    UnknownJob 404 "unknown_job" "There is no such job" "Finished jobs are removed after a while; a read on a node that lags may need ?consistency=linearizable."
    UnknownWorker 404 "unknown_worker" "There is no such worker" "GET /workers?state=all lists the workers that are registered."
    UnknownDeadLetter 404 "unknown_dead_letter" "There is no such dead letter" "GET /kafka/dead-letter-queue lists the entries."
    UnknownMember 404 "unknown_member" "There is no such member" "GET /cluster lists the members."
    UnknownInvitation 404 "unknown_invitation" "There is no such invitation" "GET /cluster/invitations lists those that are known."
    NotFinished 404 "not_finished" "The job has no result yet" "Wait for it: GET /jobs/{id}?wait=terminal&timeout_secs=60."
    NoResult 404 "no_result" "The job ended without a result" "GET /jobs/{id}/explain says why."
    MethodNotAllowed 405 "method_not_allowed" "The route does not take this method" "The Allow header names the methods it takes."
    BodyTimeout 408 "body_timeout" "The body did not arrive in time" "Send the request again over a faster connection, or in smaller batches."
    IdempotencyConflict 409 "idempotency_conflict" "The idempotency key was used with another body" "Use a fresh Idempotency-Key for another job."
    AlreadyFinished 409 "already_finished" "The job has ended" "A job that has ended does not change any more."
    EscrowRefunded 409 "escrow_refunded" "The job's escrow went back on chain" "It can not be paid any more under this id: submit it again as a new job."
    OtherChain 409 "other_chain" "The books are of another contract" "GET /blockchain/status shows which; ciro-coordinator blockchain reset accepts the configured one."
    DeadlinePassed 409 "deadline_passed" "The job's deadline has passed" "It could not be done in time any more; submit a new job with another deadline."
    Conflict 409 "conflict" "The request does not fit the present state" "Read the resource again and decide anew."
    ChangeInFlight 409 "change_in_flight" "Another change of the members is under way" "One change at a time: GET /cluster says when it is done."
    LastVoter 409 "last_voter" "It is the last voter" "Without a voter there is no cluster. Promote another member first, or stop the node."
    QuorumLost 409 "quorum_lost" "The majority would be lost" "Too few of the remaining voters are alive. Bring them back, or remove those that are dead first."
    NeedsForce 409 "needs_force" "It is possible, but unwise" "See the detail; with force it is done."
    MemberUnreachable 409 "member_unreachable" "The member is not heard of" "Bring it back first: a voter that is dead takes part in every majority."
    MembersFull 409 "members_full" "The cluster has as many members as it may have" "Remove one first."
    InvitationUsed 409 "invitation_used" "The invitation was used" "It admits nobody else. The node that used it is a member: DELETE /cluster/members/{node_id} removes it."
    JobForgotten 410 "job_forgotten" "The job ended long ago" "It was accepted and ended, and is not kept any more. Use a fresh Idempotency-Key to have it done again."
    OutputGone 410 "output_gone" "The output is not kept any more" "Workers keep large outputs for a while. Submit the job again, and fetch its output sooner."
    ForeignSession 400 "foreign_session" "The session is of another cluster" "Leave X-Ciro-Session out to begin a new session; what was read before may be gone."
    LeaseReadsOff 400 "lease_reads_off" "Lease reads are switched off" "Set api.lease_reads = true (CIRO__API__LEASE_READS=true) on all nodes, if their clocks can be trusted, and restart them; or use ?consistency=linearizable."
    IndexAhead 409 "index_ahead" "No node has that index" "Take min_index from an answer of this cluster: submitted_index, or X-Ciro-Applied-Index; leave X-Ciro-Session out to begin a new session."
    BodyTooLarge 413 "body_too_large" "The body is too large" "Send less at once, for instance in several batches."
    PayloadTooLarge 413 "payload_too_large" "The inline input is too large" "Send a smaller input, or a reference to it as input."
    UnsupportedMediaType 415 "unsupported_media_type" "The media type is not supported" "Send Content-Type: application/json without a content encoding."
    RangeBeyond 416 "range_beyond" "The range lies beyond the end" "Ask for a part of what is there; HEAD says how much that is."
    InvalidField 422 "invalid_field" "A field is not valid" "See the schema of the body in /docs."
    MissingField 422 "missing_field" "A field is missing" "See the schema of the body in /docs."
    UnknownField 422 "unknown_field" "A field is not known" "See the schema of the body in /docs; nothing was done."
    UnavailableField 422 "not_available" "A feature is not available" "Leave the field out; see the detail."
    InvalidCommand 422 "invalid_command" "The request was refused" "See the detail."
    BacklogFull 429 "backlog_full" "Too many jobs wait" "Wait until some are done, then send the request again."
    WorkersFull 429 "workers_full" "Too many workers are registered" "Unregister workers that are gone."
    InvitationsFull 429 "invitations_full" "Too many invitations are open" "Take back what is not needed: DELETE /cluster/invitations/{id}."
    Overloaded 429 "overloaded" "Too many requests are in flight" "Send the request again a little later."
    ArchiveDamaged 500 "archive_damaged" "A part of the archive can not be read" "The node fetches the segment named in the detail from another member. Ask another node, or again a little later."
    Internal 500 "internal" "The node failed" "The node's log has the cause under the request id."
    NotAvailable 501 "operation_not_available" "The operation is not available" "See the detail."
    OutputDamaged 502 "output_damaged" "The worker's copy of the output is damaged" "It is not what the worker signed, so it is not handed out. Submit the job again."
    OutputUnreachable 503 "output_unreachable" "The worker that keeps the output is not reachable" "Send the request again when the worker is back; GET /workers/{id}/health tells of it."
    NoLeader 503 "no_leader" "No leader is reachable" "Nothing was done; send the request again. An election takes about a second."
    OutcomeUnknown 503 "outcome_unknown" "The outcome is unknown" "It may or may not have taken effect; send it again with the same Idempotency-Key."
    ChainUnreachable 503 "chain_unreachable" "The chain can not be read" "GET /blockchain/status says why; ask another node, or send the request again when the endpoint is back."
    StorageFull 503 "storage_full" "There is no room for new jobs" "Nothing was done. Make room on the disk, then send the request again."
    NotCaughtUp 503 "not_caught_up" "This node has not caught up" "Send the request again, or ask another node."
    TooStale 503 "too_stale" "This node's state is too old" "Send the request again, or ask another node."
    NotReady 503 "not_ready" "This node is not ready" "It catches up or looks for a leader; ask another node."
    Stopping 503 "stopping" "This node is shutting down" "Send the request to another node."
    Unavailable 503 "unavailable" "This node can not serve the request" "Send the request to another node; this one's log has the cause."
}

/// A problem document.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Body {
    /// A stable link to what this kind of problem means.
    #[schema(example = "/docs#invalid_field")]
    pub r#type: String,
    #[schema(example = "A field is not valid")]
    pub title: &'static str,
    #[schema(minimum = 400, maximum = 599, example = 422)]
    pub status: u16,
    /// What was wrong with this request.
    #[schema(example = "priority must be from 1 to 10, not 999")]
    pub detail: String,
    /// Stable, for machines.
    #[schema(example = "invalid_field")]
    pub code: &'static str,
    /// Path of the field, or name of the parameter or header, that was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "priority")]
    pub field: Option<String>,
    /// What to do next.
    pub hint: String,
    pub request_id: String,
}

/// Why a request was not served.
#[derive(Clone, Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: String,
    pub field: Option<String>,
    pub hint: Option<String>,
    /// Methods, for 405.
    pub allow: Option<String>,
    /// Bytes there are, for 416.
    pub size: Option<u64>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), field: None, hint: None, allow: None, size: None }
    }

    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn body(self, request_id: &str) -> Body {
        Body {
            r#type: format!("/docs#{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status(),
            detail: self.detail,
            code: self.code.as_str(),
            field: self.field,
            hint: self.hint.unwrap_or_else(|| self.code.hint().to_owned()),
            request_id: request_id.to_owned(),
        }
    }

    pub fn into_response(self, request_id: &str) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let allow = self.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok());
        let size = self.size.and_then(|size| HeaderValue::from_str(&format!("bytes */{size}")).ok());
        let body = serde_json::to_vec(&self.body(request_id)).unwrap_or_default();
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(status.as_u16(), 429 | 503) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(allow) = allow {
            headers.insert(header::ALLOW, allow);
        }
        if let Some(size) = size {
            headers.insert(header::CONTENT_RANGE, size);
        }
        response
    }
}

impl From<consensus::Error> for Problem {
    fn from(error: consensus::Error) -> Self {
        match error {
            consensus::Error::NoLeader => Self::new(Code::NoLeader, "no leader answered within the time allowed"),
            // Of a read: writes end in `Unknown`.
            consensus::Error::Timeout => {
                Self::new(Code::NotCaughtUp, "this node did not reach what is committed within the time allowed")
            }
            // One line for each request would fill the disk further; the node's health says it.
            error if error.is_full() => {
                Self::new(Code::StorageFull, "the disk of this node or of the leader has no room for new jobs")
            }
            consensus::Error::Unknown(_) => Self::new(Code::OutcomeUnknown, "the leader was lost before it answered"),
            consensus::Error::Overloaded => Self::new(Code::Overloaded, "too many writes are in flight"),
            consensus::Error::TooLarge { size, limit } => {
                Self::new(Code::BodyTooLarge, format!("the request takes {size} bytes, the limit is {limit}"))
            }
            error @ consensus::Error::Behind { .. } => Self::new(Code::Conflict, error.to_string())
                .hint("Wait until it has caught up, or name another one: GET /cluster on the leader shows the lag."),
            consensus::Error::Stopping => Self::new(Code::Stopping, "this node takes no more requests"),
            error => {
                tracing::error!(%error, "consensus can not serve");
                Self::new(Code::Unavailable, "this node's consensus or storage has failed")
            }
        }
    }
}

impl From<consensus::Unreadable> for Problem {
    fn from(error: consensus::Unreadable) -> Self {
        Self::new(Code::ArchiveDamaged, error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let code = match refusal {
            Refusal::UnknownJob(_) => Code::UnknownJob,
            Refusal::UnknownWorker(_) => Code::UnknownWorker,
            Refusal::Conflict { .. } => Code::IdempotencyConflict,
            Refusal::Finished { job, state } => {
                return Self::new(Code::AlreadyFinished, format!("job {job} is already {}", state.as_str()));
            }
            Refusal::Overdue { .. } => Code::DeadlinePassed,
            Refusal::Forgotten { .. } => Code::JobForgotten,
            Refusal::UnknownLetter(_) => Code::UnknownDeadLetter,
            Refusal::Refunded { .. } => Code::EscrowRefunded,
            Refusal::OtherChain { .. } => Code::OtherChain,
            Refusal::BacklogFull { .. } => Code::BacklogFull,
            Refusal::WorkersFull { .. } => Code::WorkersFull,
            Refusal::Invalid(_) => Code::InvalidCommand,
            Refusal::Member(denied) => return denied.into(),
            _ => Code::Conflict,
        };
        Self::new(code, detail)
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let code = match denied {
            Denied::NotAMember(_) => Code::UnknownMember,
            Denied::UnknownInvitation | Denied::Expired => Code::UnknownInvitation,
            Denied::InFlight { .. } => Code::ChangeInFlight,
            Denied::LastVoter(_) => Code::LastVoter,
            Denied::Full { .. } => Code::MembersFull,
            Denied::InvitationsFull { .. } => Code::InvitationsFull,
            Denied::Used => Code::InvitationUsed,
            Denied::OtherStore(_) => Code::Conflict,
            Denied::Unreachable(_) => Code::MemberUnreachable,
            Denied::QuorumLost { .. } => Code::QuorumLost,
            Denied::Risky(_) => Code::NeedsForce,
        };
        Self::new(code, denied.to_string())
    }
}

impl From<decode::Error> for Problem {
    fn from(error: decode::Error) -> Self {
        let code = match error.fault {
            decode::Fault::Syntax => Code::InvalidJson,
            decode::Fault::Unknown => Code::UnknownField,
            decode::Fault::Missing => Code::MissingField,
            decode::Fault::Invalid => Code::InvalidField,
        };
        Self { field: error.field, ..Self::new(code, error.detail) }
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        let code = match error.fault {
            Fault::Invalid => Code::InvalidField,
            Fault::Missing => Code::MissingField,
            Fault::TooLarge => Code::PayloadTooLarge,
            Fault::NotAvailable => Code::UnavailableField,
        };
        let problem = Self::new(code, error.detail).field(error.field);
        match error.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::Submission;

    #[test]
    fn every_code_is_documented_once() {
        let page = include_str!("../../docs/problems.md");
        for code in Code::ALL {
            let anchor = format!("## `{}`", code.as_str());
            assert_eq!(page.matches(&anchor).count(), 1, "{anchor} in docs/problems.md");
            assert!((400..600).contains(&code.status()));
        }
        assert_eq!(page.matches("\n## `").count(), Code::ALL.len(), "a section for a code that does not exist");
    }

    #[test]
    fn what_consensus_says_is_told_truly() {
        for (error, code) in [
            (consensus::Error::NoLeader, Code::NoLeader),
            (consensus::Error::Timeout, Code::NotCaughtUp),
            (consensus::Error::Unknown("x".to_owned()), Code::OutcomeUnknown),
            (consensus::Error::full(), Code::StorageFull),
            (consensus::Error::Setup("x".to_owned()), Code::Unavailable),
        ] {
            assert_eq!(Problem::from(error).code, code);
        }
    }

    #[test]
    fn what_is_wrong_with_a_body_keeps_its_field_and_words() {
        let problem = |body: &str| match decode::json::<Submission>(body.as_bytes()) {
            Err(error) => Problem::from(error),
            Ok(submission) => Problem::from(submission.check(1).unwrap_err()),
        };
        for (body, code, status, field) in [
            ("{", "invalid_json", 400, None),
            ("[]", "invalid_field", 422, None),
            (r#"{"typ":"a"}"#, "unknown_field", 422, Some("typ")),
            (r#"{"payload":""}"#, "missing_field", 422, Some("type")),
            (r#"{"type":"a","payload":"","priority":11}"#, "invalid_field", 422, Some("priority")),
            (r#"{"type":"a"}"#, "missing_field", 422, Some("payload")),
            (r#"{"type":"a","payload":"aGk="}"#, "payload_too_large", 413, Some("payload")),
            (r#"{"type":"a","payload":"","settlement":"chain"}"#, "not_available", 422, Some("settlement")),
        ] {
            let problem = problem(body);
            assert_eq!((problem.code.as_str(), problem.code.status()), (code, status), "{body}");
            assert_eq!(problem.field.as_deref(), field, "{body}");
        }
        assert_eq!(problem("{").detail, "the body is not JSON: it ends too early at line 1 column 1");
    }

    #[test]
    fn a_range_beyond_the_end_is_answered_with_the_size() {
        let problem = Problem { size: Some(17), ..Problem::new(Code::RangeBeyond, "the output has 17 bytes") };
        let response = problem.into_response("r");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-range"]),
            (416, &HeaderValue::from_static("bytes */17"))
        );
    }

    #[test]
    fn a_problem_tells_when_to_come_back() {
        let response = Problem::from(consensus::Error::NoLeader).into_response("r");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");

        let full = Problem::from(Refusal::BacklogFull { limit: 200_000 });
        assert_eq!(
            (full.code.as_str(), full.detail.as_str()),
            ("backlog_full", "the backlog is full: its limit is 200000")
        );
        let response = full.into_response("r");
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
