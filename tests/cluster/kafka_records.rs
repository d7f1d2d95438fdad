//! What clients put on the job topic: jobs in every accepted form, and poison.
//!
//! The protobuf message is declared here once more, by hand: so the stories also
//! hold that its field numbers stay what clients compiled in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciro::domain::kafka::Header;
use ciro::kafka::Message;
use prost::Message as _;
use serde_json::json;

use crate::kafka_desk::{Desk, with_headers};

#[derive(Clone, PartialEq, prost::Message)]
struct Job {
    #[prost(string, tag = "1")]
    r#type: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    payload: Option<Vec<u8>>,
    #[prost(string, repeated, tag = "14")]
    tags: Vec<String>,
}

/// The ways to name a job and to write it down.
const FORMS: usize = 4;

/// A job that does nothing, tagged with its name. `number` chooses among the forms.
pub fn job(desk: &Desk, name: &str, number: usize) -> Message {
    match number % FORMS {
        0 => with_headers(plain(desk, name, protobuf(name)), &[("content-type", "application/protobuf")]),
        1 => plain(desk, name, protobuf(name)),
        2 => with_headers(plain(desk, "", json_of(name)), &[("idempotency-key", name)]),
        _ => {
            let headers = [("content-type", "application/json"), ("ce_source", "stories"), ("ce_id", name)];
            with_headers(plain(desk, "", json_of(name)), &headers)
        }
    }
}

/// A record that is no job, and what is wrong with it.
pub fn poison(desk: &Desk, name: &str, number: usize) -> Message {
    let json = [("content-type", "application/json")];
    match number % 6 {
        0 => {
            let whole = protobuf(name);
            let cut = whole[..whole.len() - 3].to_vec();
            with_headers(plain(desk, name, cut), &[("content-type", "application/protobuf")])
        }
        1 => with_headers(plain(desk, name, json!({"type": 7}).to_string().into_bytes()), &json),
        2 => with_headers(plain(desk, name, protobuf(name)), &[("content-type", "application/protobuf; version=99")]),
        3 => {
            let large = Job { r#type: "noop".to_owned(), payload: Some(vec![7; 300_000]), tags: vec![] };
            plain(desk, name, large.encode_to_vec())
        }
        4 => plain(desk, name, vec![]),
        _ => Message { value: None, ..plain(desk, name, vec![]) },
    }
}

/// A record with this key, or with none.
fn plain(desk: &Desk, key: &str, value: Vec<u8>) -> Message {
    Message {
        topic: desk.topics.jobs.clone(),
        partition: None,
        key: (!key.is_empty()).then(|| key.as_bytes().to_vec()),
        value: Some(value),
        headers: Vec::<Header>::new(),
    }
}

fn protobuf(name: &str) -> Vec<u8> {
    Job { r#type: "noop".to_owned(), payload: Some(name.as_bytes().to_vec()), tags: vec![name.to_owned()] }
        .encode_to_vec()
}

fn json_of(name: &str) -> Vec<u8> {
    json!({"type": "noop", "payload": STANDARD.encode(name), "tags": [name]}).to_string().into_bytes()
}
