//! Records for people: what a record is, decoded as far as it can be.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::{Map, Value, json};

use crate::cli::output;
use crate::domain::Timestamp;
use crate::kafka::Record;
use crate::submission::text::time;
use crate::wire::proto::kafka::v1 as proto;

/// Everything of a record as JSON. A value of ours is decoded; text is text; the rest is base64.
pub fn shown(record: &Record, job_topic: &str) -> Value {
    let headers: Map<String, Value> =
        record.headers.iter().map(|header| (header.name.to_string(), bytes(header.value.as_deref()))).collect();
    json!({
        "topic": record.partition.topic,
        "partition": record.partition.number,
        "offset": record.offset,
        "timestamp": record.timestamp_ms.map(|ms| time(Timestamp(ms))),
        "key": bytes(record.key.as_deref()),
        "headers": headers,
        "value": value(record, job_topic),
    })
}

/// The same in one line.
pub fn line(shown: &Value) -> String {
    let cell = |key: &str| output::cell(&shown[key]);
    format!(
        "{}/{}@{}  {}  key={}  [{}]  {}",
        cell("topic"),
        cell("partition"),
        cell("offset"),
        cell("timestamp"),
        cell("key"),
        cell("headers"),
        output::cell(&shown["value"])
    )
}

/// Text, or base64 under a name that says so.
fn bytes(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => json!(text),
        Some((bytes, Err(_))) => json!({ "base64": BASE64.encode(bytes) }),
    }
}

fn value(record: &Record, job_topic: &str) -> Value {
    let Some(raw) = record.value.as_deref() else { return Value::Null };
    let header = |name: &str| {
        let header = record.headers.iter().find(|header| &*header.name == name)?;
        std::str::from_utf8(header.value.as_deref()?).ok()
    };
    if header("content-type").is_some_and(|kind| kind.starts_with("application/json")) || raw.first() == Some(&b'{') {
        return serde_json::from_slice(raw).unwrap_or_else(|_| bytes(Some(raw)));
    }
    let kind = header("ce_type").unwrap_or_default();
    let decoded = if kind.starts_with("ciro.job.") {
        proto::JobResult::decode(raw).ok().map(|result| job_result(&result))
    } else if kind.starts_with("ciro.worker.") {
        proto::WorkerEvent::decode(raw).ok().map(|event| worker_event(&event))
    } else if &*record.partition.topic == job_topic {
        proto::Job::decode(raw).ok().filter(|job| !job.r#type.is_empty()).map(|submitted| job(&submitted))
    } else {
        None
    };
    decoded.unwrap_or_else(|| bytes(Some(raw)))
}

/// `JOB_STATE_COMPLETED` as `completed`.
fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

fn moment(at_ms: u64) -> Value {
    if at_ms == 0 { Value::Null } else { json!(time(Timestamp(at_ms))) }
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

fn job_result(result: &proto::JobResult) -> Value {
    json!({
        "seq": result.seq,
        "job_id": result.job_id,
        "state": short(result.state().as_str_name(), "JOB_STATE_"),
        "attempt": result.attempt,
        "type": text(&result.r#type),
        "tags": result.tags,
        "source": text(&result.source),
        "client_address": text(&result.client_address),
        "failures": result.failures,
        "outcome": result.outcome.as_ref().map(outcome),
        "error": result.error.as_ref().map(error),
        "redundancy": result.redundancy,
        "runs": result.runs.iter().map(run).collect::<Vec<_>>(),
        "receipt": result.receipt.as_ref().map(receipt),
        "submitted_at": moment(result.submitted_at_ms),
        "finished_at": moment(result.finished_at_ms),
        "details_missing": result.details_missing,
    })
}

fn outcome(outcome: &proto::Outcome) -> Value {
    json!({
        "worker_id": outcome.worker_id,
        "price": text(&outcome.price),
        "output_sha256": outcome.output_sha256,
        "output_size": outcome.output_size,
        "output": outcome.output.as_ref().map(|output| BASE64.encode(output)),
        "kept": outcome.kept,
        "exit_code": outcome.exit_code,
        "duration_ms": outcome.duration_ms,
    })
}

fn error(error: &proto::Error) -> Value {
    json!({ "code": error.code, "detail": error.detail })
}

fn run(run: &proto::Run) -> Value {
    json!({
        "attempt": run.attempt,
        "worker_id": run.worker_id,
        "price": text(&run.price),
        "assigned_at": moment(run.assigned_at_ms),
        "started_at": moment(run.started_at_ms),
        "vote": short(run.vote().as_str_name(), "VOTE_"),
        "output_sha256": text(&run.output_sha256),
        "signature": BASE64.encode(&run.signature),
        "error": run.error.as_ref().map(error),
    })
}

fn receipt(receipt: &proto::Receipt) -> Value {
    json!({
        "attempt": receipt.attempt,
        "worker_id": receipt.worker_id,
        "worker_public_key": BASE64.encode(&receipt.worker_public_key),
        "signature": BASE64.encode(&receipt.signature),
        "output_sha256": receipt.output_sha256,
        "award": receipt.award.as_ref().map(|award| json!({
            "price": text(&award.price),
            "assigned_at": moment(award.assigned_at_ms),
            "started_at": moment(award.started_at_ms),
            "lease_until": moment(award.lease_until_ms),
            "bids": award.bids,
        })),
    })
}

fn worker_event(event: &proto::WorkerEvent) -> Value {
    json!({
        "seq": event.seq,
        "at": moment(event.at_ms),
        "worker_id": event.worker_id,
        "type": short(event.r#type().as_str_name(), "WORKER_EVENT_TYPE_"),
        "job_id": text(&event.job_id),
        "attempt": event.attempt,
    })
}

/// What most jobs are; the rest is in the record itself.
fn job(job: &proto::Job) -> Value {
    json!({
        "type": job.r#type,
        "payload": job.payload.as_ref().map(|payload| BASE64.encode(payload)),
        "input": job.input.as_ref().map(|input| json!({ "uri": input.uri, "sha256": input.sha256, "size": input.size })),
        "priority": job.priority,
        "max_price": job.max_price,
        "deadline": job.deadline,
        "tags": job.tags,
        "client_address": job.client_address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::kafka::{Header, Partition};

    fn record(topic: &str, headers: &[(&str, &str)], value: Option<Vec<u8>>) -> Record {
        let header =
            |(name, value): &(&str, &str)| Header { name: (*name).into(), value: Some(value.as_bytes().to_vec()) };
        Record {
            partition: Partition { topic: topic.into(), number: 2 },
            offset: 17,
            timestamp_ms: Some(1_764_000_000_123),
            key: Some(b"k".to_vec()),
            value,
            headers: headers.iter().map(header).collect(),
            unreadable_headers: 0,
        }
    }

    #[test]
    fn results_and_workers_lives_are_decoded_by_what_their_headers_say() {
        let result = proto::JobResult {
            seq: 7,
            job_id: "j".to_owned(),
            state: proto::JobState::Completed.into(),
            outcome: Some(proto::Outcome { output: Some(b"hi".to_vec().into()), ..proto::Outcome::default() }),
            ..proto::JobResult::default()
        };
        let headers = [("ce_type", "ciro.job.completed.v1"), ("content-type", "application/protobuf")];
        let result = shown(&record("ciro.results", &headers, Some(result.encode_to_vec())), "ciro.jobs");
        assert_eq!(
            (&result["value"]["state"], &result["value"]["outcome"]["output"]),
            (&json!("completed"), &json!("aGk="))
        );
        assert_eq!((&result["headers"]["ce_type"], &result["key"]), (&json!("ciro.job.completed.v1"), &json!("k")));
        assert!(
            line(&result).starts_with("ciro.results/2@17  2025-11-24T16:00:00.123Z  key=k  ["),
            "{}",
            line(&result)
        );

        let event = proto::WorkerEvent {
            worker_id: "w".to_owned(),
            r#type: proto::WorkerEventType::Online.into(),
            ..proto::WorkerEvent::default()
        };
        let headers = [("ce_type", "ciro.worker.online.v1")];
        let event = shown(&record("ciro.workers", &headers, Some(event.encode_to_vec())), "ciro.jobs");
        assert_eq!(event["value"]["type"], "online");
    }

    #[test]
    fn what_is_not_ours_is_text_or_base64() {
        let of = |topic: &str, value: Option<&[u8]>| shown(&record(topic, &[], value.map(<[u8]>::to_vec)), "ciro.jobs");
        assert_eq!(of("t", Some(br#"{"a": 1}"#))["value"], json!({"a": 1}));
        assert_eq!(of("t", Some(b"{broken"))["value"], "{broken");
        assert_eq!(of("t", Some(b"hello"))["value"], "hello");
        assert_eq!(of("t", Some(&[0xff, 0]))["value"], json!({"base64": "/wA="}));
        assert_eq!(of("t", None)["value"], Value::Null);
        let job = proto::Job { r#type: "sha256".to_owned(), ..proto::Job::default() }.encode_to_vec();
        assert_eq!(of("ciro.jobs", Some(&job))["value"]["type"], "sha256");
        assert_eq!(of("ciro.jobs", Some(&[0xff, 0xff]))["value"], json!({"base64": "//8="}), "poison");
    }
}
