//! A submission as it comes by Kafka: which job it is, and what it asks for.
//!
//! A record says what it is in its headers, and if it does not, by its first
//! byte: JSON begins with `{`, which no job in protobuf does. What is in it is
//! judged by the rules for submissions, whatever its form.
//!
//! Invariants
//!
//! * No bytes make this panic, and what it allocates is a small multiple of them.
//! * The same record is the same job, wherever and however often it is read.
//!
//! Deliberately absent: whether the deadline has passed, as for all submissions.

use prost::Message as _;

use super::rejected::code;
use super::{Checked, Door, Rejected, Submission, decode, mapping, schema};
use crate::domain::JobId;
use crate::domain::kafka::Header;
use crate::wire::proto::kafka::v1 as proto;

/// The version of the schema, and of its package, that is understood here.
const VERSION: &str = "1";

/// Bytes of a record beside its payload.
const BESIDE_PAYLOAD: usize = 64 << 10;

/// Longest idempotency key, in bytes, as for the REST door.
const KEY_MAX: usize = 255;

/// A record as it was read. `None` and empty are told apart.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub topic: &'a str,
    pub partition: u32,
    pub offset: u64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header],
}

enum Form {
    Protobuf,
    Json,
}

/// Reads what a record asks for.
///
/// # Errors
///
/// Why it can not become a job, for its dead letter.
pub fn from_record(parts: &Parts, door: impl Into<Door>) -> Result<Checked, Rejected> {
    let door = door.into();
    let value = parts.value.unwrap_or_default();
    if value.is_empty() {
        let what = if parts.value.is_some() { "the record's value is empty" } else { "the record has no value" };
        return Err(Rejected::new(code::EMPTY, what));
    }
    check_version(parts)?;
    let form = form(parts, value)?;
    let most = match form {
        Form::Protobuf => door.inline_bytes,
        Form::Json => door.inline_bytes.div_ceil(3).saturating_mul(4),
    };
    let most = most.saturating_add(BESIDE_PAYLOAD);
    if value.len() > most {
        let message = format!("the record's value has {} bytes, the limit is {most}", value.len());
        return Err(Rejected::new(code::TOO_LARGE, message));
    }
    match form {
        Form::Protobuf => Ok(schema::check(from_protobuf(value)?, door)?),
        Form::Json => Ok(from_json(value)?.check(door)?),
    }
}

/// The job that a record means: the same for every repeat of it.
///
/// # Errors
///
/// Its idempotency key is none.
pub fn job_id(parts: &Parts) -> Result<JobId, Rejected> {
    if let Some(key) = idempotency_key(parts)? {
        return Ok(JobId::from_key("kafka", key));
    }
    let event = [text(parts, "ce_source"), text(parts, "ce_id")];
    if let [Some(source), Some(id)] = event {
        return Ok(JobId::from_key("kafka", &format!("{source}\n{id}")));
    }
    Ok(match parts.key.filter(|key| !key.is_empty()).map(|key| (key, std::str::from_utf8(key))) {
        Some((_, Ok(key))) => JobId::from_key("kafka", key),
        Some((bytes, Err(_))) => JobId::from_key("kafka bytes", &hex::encode(bytes)),
        None => JobId::from_key("kafka", &place(parts.topic, parts.partition, parts.offset)),
    })
}

/// The idempotency key of a record that has none: with it as a header, its repeat elsewhere is the same job.
pub fn place(topic: &str, partition: u32, offset: u64) -> String {
    format!("{topic}/{partition}/{offset}")
}

fn idempotency_key<'a>(parts: &Parts<'a>) -> Result<Option<&'a str>, Rejected> {
    let refuse = |what: String| Err(Rejected::new(code::INVALID_HEADER, format!("header idempotency-key {what}")));
    let mut found = None;
    for header in parts.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("idempotency-key")) {
        let value = header.value.as_deref().unwrap_or_default();
        if found.is_some_and(|found: &[u8]| found != value) {
            return refuse("is given twice, with different values".to_owned());
        }
        found = Some(value);
    }
    let Some(value) = found else { return Ok(None) };
    if value.is_empty() || value.len() > KEY_MAX {
        return refuse(format!("must have from 1 to {KEY_MAX} characters, not {}", value.len()));
    }
    match std::str::from_utf8(value) {
        Ok(key) if key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(key)),
        _ => refuse("must be visible ASCII characters".to_owned()),
    }
}

/// The last header of a name, if it is text and not empty.
fn text<'a>(parts: &Parts<'a>, name: &str) -> Option<&'a str> {
    let value = bytes(parts, name)?;
    std::str::from_utf8(value).ok().map(str::trim).filter(|text| !text.is_empty())
}

fn bytes<'a>(parts: &Parts<'a>, name: &str) -> Option<&'a [u8]> {
    let header = parts.headers.iter().rev().find(|header| header.name.eq_ignore_ascii_case(name))?;
    header.value.as_deref().filter(|value| !value.is_empty())
}

fn form(parts: &Parts, value: &[u8]) -> Result<Form, Rejected> {
    let Some(said) = bytes(parts, "content-type") else {
        return Ok(if value.starts_with(b"{") { Form::Json } else { Form::Protobuf });
    };
    let said = String::from_utf8_lossy(said);
    match said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(Form::Json),
        "application/protobuf" | "application/x-protobuf" => Ok(Form::Protobuf),
        other => {
            let other: String = other.chars().take(80).collect();
            let message = format!("content-type must be application/protobuf or application/json, not {other:?}");
            Err(Rejected::new(code::UNKNOWN_CONTENT_TYPE, message))
        }
    }
}

/// Refuses what says that it is of another version than ours. What says nothing is taken for ours.
fn check_version(parts: &Parts) -> Result<(), Rejected> {
    let said = [
        text(parts, "ciro-version").map(major),
        text(parts, "ce_dataschema").and_then(version_in),
        text(parts, "content-type").and_then(version_of_type),
    ];
    match said.into_iter().flatten().find(|version| *version != VERSION) {
        None => Ok(()),
        Some(version) => {
            let version: String = version.chars().take(40).collect();
            let message = format!("version {version:?} of the schema is not known here, only {VERSION}");
            Err(Rejected::new(code::UNKNOWN_VERSION, message))
        }
    }
}

/// `v2.1` → `2`.
fn major(version: &str) -> &str {
    let version = version.strip_prefix(['v', 'V']).unwrap_or(version);
    version.split('.').next().unwrap_or(version).trim()
}

/// The version in the name of a schema, such as `…/ciro.kafka.v2.Job`, if it has one.
fn version_in(schema: &str) -> Option<&str> {
    let parts = schema.split(|letter: char| !letter.is_ascii_alphanumeric());
    let mut versions = parts.filter_map(|part| part.strip_prefix('v'));
    versions.rfind(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn version_of_type(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut versions = parameters.filter_map(|(name, value)| {
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "version" => Some(major(value)),
            "proto" | "messagetype" | "schema" => version_in(value),
            _ => None,
        }
    });
    versions.next()
}

fn from_protobuf(value: &[u8]) -> Result<proto::Job, Rejected> {
    // The parser's own text names what it is made of; what helps is the name of the message.
    proto::Job::decode(value).map_err(|_| Rejected::new(code::UNDECODABLE, "the record is no ciro.kafka.v1.Job"))
}

/// The REST body, or protobuf's JSON mapping.
fn from_json(value: &[u8]) -> Result<Submission, Rejected> {
    let error = match decode::json::<Submission>(value) {
        Ok(submission) => return Ok(submission),
        Err(error) => error,
    };
    if error.fault == decode::Fault::Syntax {
        return Err(error.into());
    }
    match serde_json::from_slice(value).map(mapping::map) {
        Ok(mapping::Mapped::To(mapped)) => Ok(decode::value(mapped)?),
        Ok(mapping::Mapped::Twice(field)) => {
            Err(Rejected { code: code::INVALID_FIELD, message: format!("{field} is given twice"), field: Some(field) })
        }
        Ok(mapping::Mapped::Same) | Err(_) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
