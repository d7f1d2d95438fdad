//! What stands beside a record's value: who said it, what it is, about whom.
//!
//! Results and workers' lives are CloudEvents in binary mode, so every header is
//! text that can be read without a schema. `ce_id` is the cluster's name and the
//! journal entry's number: it never changes for an entry, whoever publishes it
//! how often, and it is what consumers drop repeats by.
//!
//! Event types are named after our schemas, not after a domain. The trace that an
//! event of a job belongs to is the job itself: nothing is kept for it, and every
//! attempt and record of a job is found by the id one knows. A trace that a client
//! has begun is not continued.

use super::record::Refused;
use crate::domain::kafka::Header;
use crate::domain::{JobId, Timestamp};
use crate::leader::event_id;
use crate::submission::text::time;

/// Why a record is a stub: for machines, and for people.
const ERROR_CODE: &str = "ciro.error.code";
const ERROR_MESSAGE: &str = "ciro.error.message";

/// Characters of the latter.
const MESSAGE_CHARS: usize = 512;

/// One event's attributes.
pub(super) struct Event<'a> {
    /// Name of the network, and with that of the cluster.
    pub cluster: &'a str,
    pub seq: u64,
    /// Such as `job.completed`.
    pub kind: &'a str,
    pub at: Timestamp,
    pub subject: &'a str,
    pub job: Option<JobId>,
}

impl Event<'_> {
    pub fn headers(&self) -> Vec<Header> {
        let trace = self.job.map(|job| text("traceparent", &traceparent(job, self.seq)));
        let event = [
            text("ce_specversion", "1.0"),
            text("ce_id", &event_id(self.cluster, self.seq)),
            text("ce_source", &format!("/ciro/{}", self.cluster)),
            text("ce_type", &format!("ciro.{}.v1", self.kind)),
            text("ce_time", &time(self.at)),
            text("ce_subject", self.subject),
            text("content-type", "application/protobuf"),
        ];
        event.into_iter().chain(trace).collect()
    }
}

/// W3C Trace Context, version 00: the job is the trace, the journal entry the parent. Not sampled, as nodes record no spans.
fn traceparent(job: JobId, seq: u64) -> String {
    format!("00-{}-{seq:016x}-00", hex::encode(job.0))
}

pub(super) fn text(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: Some(value.as_bytes().to_vec()) }
}

/// Why a record is only a stub.
pub(super) fn why(refused: &Refused) -> [Header; 2] {
    [text(ERROR_CODE, refused.code), text(ERROR_MESSAGE, &cut(&refused.message))]
}

/// The beginning of a text for people.
pub(super) fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS).collect()
}
