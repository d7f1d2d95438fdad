//! Dead letters on their way out, and on their way back.
//!
//! A letter goes to the dead-letter topic as it came, byte for byte, with headers
//! that say where it is from and what is wrong with it. A replay puts it back with
//! its own key, value and headers, so that it has the identity it had. A record
//! that had none but its place gets that place as `idempotency-key`: a replay
//! that is sent twice is one job.
//!
//! Both go to the topics of today's configuration, which a letter's own is unless
//! that was changed since: one that is gone must not stand in the way of results.
//!
//! Headers of ours that a record brought along, because someone copied it from a
//! dead-letter topic, are replaced, not repeated.

use super::headers::{cut, text, why};
use super::record::{Form, Outlet, Refused};
use crate::domain::kafka::{Dead, Header, Letter};
use crate::domain::{JobId, Timestamp};
use crate::kafka::Message;
use crate::submission::record::{Parts, job_id, place};
use crate::submission::text::time;

/// The one partition of a dead-letter topic.
const PARTITION: u32 = 0;

const ATTEMPTS: &str = "dlq.attempts";
const FIRST_FAILED_AT: &str = "dlq.first_failed_at";
const LEFT_OUT: &str = "dlq.value.left_out";
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The record for the dead-letter topic.
pub(super) fn buried(dead: &Dead, outlet: &Outlet, form: &Form) -> Message {
    let letter = &*dead.letter;
    let mut ours = about(dead, &outlet.cluster);
    let (key, value, theirs) = match form {
        Form::Whole => (letter.key.clone(), letter.value.clone(), letter.headers.as_slice()),
        Form::Lean => (letter.key.clone(), None, letter.headers.as_slice()),
        Form::Stub(refused) | Form::Aside(refused) => {
            ours.extend(why(refused));
            (None, None, [].as_slice())
        }
        Form::Left => (None, None, [].as_slice()),
    };
    let left_out = if value.is_some() { 0 } else { letter.value.as_ref().map_or(0, Vec::len) as u64 };
    if left_out.max(letter.left_out) > 0 {
        ours.push(text(LEFT_OUT, &left_out.max(letter.left_out).to_string()));
    }
    Message {
        topic: outlet.topics.dead_letters(),
        partition: Some(PARTITION),
        key,
        value,
        headers: without(theirs, &ours).cloned().chain(ours.iter().cloned()).collect(),
    }
}

/// The record that goes back where the letter came from. One that the broker does not take even without what we
/// add goes to the dead-letter topic as a stub that says so.
pub(super) fn replayed(dead: &Dead, outlet: &Outlet, form: &Form) -> Message {
    let letter = &*dead.letter;
    let ours = match form {
        Form::Stub(_) | Form::Aside(_) | Form::Left => return buried(dead, outlet, form),
        Form::Whole => back(letter, dead.failed_at),
        Form::Lean => identity(letter).into_iter().collect(),
    };
    Message {
        topic: outlet.topics.jobs.clone(),
        partition: None,
        key: letter.key.clone(),
        value: letter.value.clone(),
        headers: without(&letter.headers, &ours).cloned().chain(ours.iter().cloned()).collect(),
    }
}

/// A record of ours that its topic does not take, for the dead-letter topic.
pub(super) fn aside(stub: Message, outlet: &Outlet, refused: &Refused) -> Message {
    let ours: Vec<Header> = [text("dlq.original.topic", &stub.topic), text("dlq.error.code", refused.code)]
        .into_iter()
        .chain(why(refused))
        .collect();
    Message {
        topic: outlet.topics.dead_letters(),
        partition: Some(PARTITION),
        headers: without(&stub.headers, &ours).cloned().chain(ours.iter().cloned()).collect(),
        ..stub
    }
}

/// What is said about a letter.
fn about(dead: &Dead, cluster: &str) -> Vec<Header> {
    let letter = &*dead.letter;
    let (topic, number) = (&*letter.partition.topic, letter.partition.number.to_string());
    let (offset, message) = (letter.offset.to_string(), cut(&letter.message));
    let mut headers = vec![
        text("dlq.cluster", cluster),
        text("dlq.id", &dead.id.to_string()),
        text("dlq.original.topic", topic),
        text("dlq.original.partition", &number),
        text("dlq.original.offset", &offset),
    ];
    headers.extend(letter.timestamp_ms.map(|ms| text("dlq.original.timestamp", &ms.to_string())));
    headers.extend([
        text("dlq.error.code", &letter.code),
        text("dlq.error.message", &message),
        text(ATTEMPTS, &letter.attempts.to_string()),
        text(FIRST_FAILED_AT, &time(dead.failed_at)),
        text("__connect.errors.topic", topic),
        text("__connect.errors.partition", &number),
        text("__connect.errors.offset", &offset),
        text("__connect.errors.exception.message", &message),
    ]);
    headers
}

/// What a replay adds.
fn back(letter: &Letter, first_failed_at: Timestamp) -> Vec<Header> {
    let mut headers = vec![text(ATTEMPTS, &letter.attempts.to_string()), text(FIRST_FAILED_AT, &time(first_failed_at))];
    headers.extend(identity(letter));
    headers
}

/// The identity of a record that has none but its place.
fn identity(letter: &Letter) -> Option<Header> {
    let (topic, number) = (&*letter.partition.topic, letter.partition.number);
    let parts = Parts {
        topic,
        partition: number,
        offset: letter.offset,
        key: letter.key.as_deref(),
        value: letter.value.as_deref(),
        headers: &letter.headers,
    };
    let place = place(topic, number, letter.offset);
    let by_place = job_id(&parts).is_ok_and(|id| id == JobId::from_key("kafka", &place));
    by_place.then(|| text(IDEMPOTENCY_KEY, &place))
}

/// Those of `headers` whose names are not among `others`.
fn without<'a>(headers: &'a [Header], others: &'a [Header]) -> impl Iterator<Item = &'a Header> {
    headers.iter().filter(|header| others.iter().all(|other| !other.name.eq_ignore_ascii_case(&header.name)))
}
