//! `GET /cluster/backup`: the whole replicated state as a file, from any node.
//!
//! A frozen view is compressed as it is sent: nothing waits for the reader, and the
//! node never holds more than a few parts of the file. A reader that takes nothing
//! for long is cut off. What came whole ends with the SHA-256 of all of it; an
//! answer that breaks off has no such end, and `cluster inspect` says so.

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use warp::Reply;
use warp::http::HeaderValue;
use warp::reply::Response;

use super::Api;
use super::problem::{Code, Problem};
use super::request::Request;
use super::route::Route;
use crate::backup::header::Header;
use crate::backup::take::{self, Pace};
use crate::backup::{TOGETHER, file};
use crate::clock;

/// Parts that wait for the client.
const WAITING: usize = 4;

const MEDIA: &str = "application/vnd.ciro.backup";

pub fn routes() -> Vec<Route> {
    let bytes = serde_json::json!({"type": "string", "format": "binary"});
    vec![
        Route::get("/cluster/backup", "A backup: the whole state at one index, as a file", get)
            .fresh()
            .answers_raw(
                200,
                "The file; X-Ciro-Backup-Index, -Term and -State-Hash say what is in it",
                vec![(MEDIA, bytes)],
            )
            .problems(&[Code::Overloaded, Code::ArchiveDamaged]),
    ]
}

async fn get(api: Api, _request: Request) -> Result<Response, Problem> {
    let crowded = || Problem::new(Code::Overloaded, format!("{TOGETHER} backups are under way on this node"));
    let place = api.context.backup.try_place().ok_or_else(crowded)?;
    let state = api.client().view();
    let header = Header::of(&state, &api.client().status(), &api.context.network, clock::now());
    let pace = Pace::new(api.context.backup.options.bytes_per_sec, api.tasks.token().clone());
    let (client, view) = (api.client().clone(), state.clone());
    let segments = api.aside(move || client.segment_files(&view)).await??;
    let (out, parts) = mpsc::channel::<io::Result<Bytes>>(WAITING);
    let mut response = warp::reply::stream(ReceiverStream::new(parts)).into_response();
    describe(&mut response, &header);
    let runtime = tokio::runtime::Handle::current();
    // Not waited for: it ends with the reader, or with the node.
    drop(api.tasks.spawn_blocking(move || {
        take::send(&state, &header, &segments, &pace, out, runtime);
        drop(place);
    }));
    Ok(response)
}

fn describe(response: &mut Response, of: &Header) {
    let mut set = |name: &'static str, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(name, value);
        }
    };
    let name = format!("{}-{}-{}.ciro-backup", of.network, of.index, of.taken_at_ms);
    set("content-type", MEDIA.to_owned());
    set("content-disposition", format!("attachment; filename=\"{name}\""));
    set("cache-control", "no-store".to_owned());
    set("x-ciro-backup-format", file::FORMAT.to_string());
    set("x-ciro-backup-index", of.index.to_string());
    set("x-ciro-backup-term", of.term.to_string());
    set("x-ciro-backup-state-hash", of.state_hash.clone());
    set("x-ciro-backup-taken-at-ms", of.taken_at_ms.to_string());
}
