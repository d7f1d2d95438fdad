//! `GET /jobs/{id}/output`: the bytes of a result, or a part of them.
//!
//! Small outputs are in the replicated state. Larger ones are with the worker
//! that made them and come from there part by part over the mesh, whichever
//! node is asked; this node holds no more than a few parts of each.
//!
//! What a client may rely on: an answer with the whole output (200) that came
//! to its full length was compared with the digest the worker signed. The last
//! part is held back until the comparison; if it fails, the connection breaks
//! off before the announced length. A part (206) of an output that is with the
//! worker was compared by the worker with what it stored, and by nobody with
//! the signed digest: whoever puts parts together compares the whole.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use warp::Reply;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::read::{finished, look};
use crate::api::Api;
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::domain::job::Outcome;
use crate::domain::run::Run;
use crate::domain::{Digest, Job, WorkerId};
use crate::mesh::{self, fetch};

/// Parts asked for ahead of the one that is due.
const AHEAD: usize = 2;

/// Parts that wait for the client. With those ahead, this is what one download holds.
const WAITING: usize = 1;

const PART: u64 = fetch::PART_MAX as u64;

/// An output and where it is.
struct Output {
    sha256: Digest,
    size: u64,
    /// Who has it: the worker whose result counts, then those that brought the same.
    workers: Vec<WorkerId>,
    inline: Option<Arc<[u8]>>,
}

/// Bytes from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u64,
    end: u64,
}

/// What a client asks for of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Span),
    /// It has it.
    Nothing,
    Beyond,
}

pub async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.job()?;
    let output = look(&api, id, |state, job| {
        finished(job).map(|outcome| Output {
            sha256: outcome.output_sha256,
            size: outcome.output_size,
            workers: keepers(job, outcome),
            inline: state.output(id).cloned(),
        })
    })
    .await??;
    let wanted = wanted(&request, &output);
    let mut response = match wanted {
        Wanted::Nothing => Response::default(),
        Wanted::Beyond => {
            let detail = format!("the output has {} bytes", output.size);
            let problem = Problem::new(Code::RangeBeyond, detail).field("Range");
            return Err(Problem { size: Some(output.size), ..problem });
        }
        Wanted::Whole => body(&api, &output, Span { start: 0, end: output.size }, true).await?,
        Wanted::Part(span) => body(&api, &output, span, span.start == 0 && span.end == output.size).await?,
    };
    describe(&mut response, &output, wanted);
    Ok(response)
}

fn keepers(job: &Job, outcome: &Outcome) -> Vec<WorkerId> {
    let same = |run: &&Run| run.output().is_some_and(|vote| vote.output_sha256 == outcome.output_sha256);
    let others = job.runs.iter().filter(same).map(|run| run.award.worker);
    std::iter::once(outcome.worker).chain(others.filter(|worker| *worker != outcome.worker)).collect()
}

fn describe(response: &mut Response, output: &Output, wanted: Wanted) {
    let mut set = |name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            response.headers_mut().insert(name, value);
        }
    };
    set(header::ETAG, &etag(&output.sha256));
    set(header::ACCEPT_RANGES, "bytes");
    // It never changes, but a result is nobody's else.
    set(header::CACHE_CONTROL, "private, max-age=31536000, immutable");
    if wanted != Wanted::Nothing {
        set(header::CONTENT_TYPE, "application/octet-stream");
    }
    let (status, length) = match wanted {
        Wanted::Nothing => (StatusCode::NOT_MODIFIED, None),
        Wanted::Part(Span { start, end }) => {
            set(header::CONTENT_RANGE, &format!("bytes {start}-{}/{}", end - 1, output.size));
            (StatusCode::PARTIAL_CONTENT, Some(end - start))
        }
        _ => (StatusCode::OK, Some(output.size)),
    };
    if let Some(length) = length {
        set(header::CONTENT_LENGTH, &length.to_string());
    }
    *response.status_mut() = status;
}

/// The digest is the one name of these bytes.
fn etag(digest: &Digest) -> String {
    format!("\"{}\"", hex::encode(digest.0))
}

fn wanted(request: &Request, output: &Output) -> Wanted {
    let text = |name: header::HeaderName| request.headers.get(name).and_then(|value| value.to_str().ok());
    let etag = etag(&output.sha256);
    let has_it =
        |list: &str| list.split(',').any(|tag| ["*", etag.as_str()].contains(&tag.trim().trim_start_matches("W/")));
    if text(header::IF_NONE_MATCH).is_some_and(has_it) {
        return Wanted::Nothing;
    }
    let same = text(header::IF_RANGE).is_none_or(|tag| tag.trim() == etag);
    match text(header::RANGE).filter(|_| same).and_then(|range| span(range, output.size)) {
        None => Wanted::Whole,
        Some(Some(span)) => Wanted::Part(span),
        Some(None) => Wanted::Beyond,
    }
}

/// The one span of a `Range` header: `None` for what is to be ignored, as several spans are;
/// `Some(None)` if it lies beyond the end.
fn span(range: &str, size: u64) -> Option<Option<Span>> {
    let (first, last) = range.trim().strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    let number =
        |text: &str| if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
    let span = match (first.is_empty(), last.is_empty()) {
        (true, true) => return None,
        (true, false) => Span { start: size.saturating_sub(number(last)?), end: size },
        (false, true) => Span { start: number(first)?, end: size },
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            Span { start: first, end: last.saturating_add(1).min(size) }
        }
    };
    Some((span.start < span.end).then_some(span))
}

/// The bytes of `span`; compared with the digest if that is `whole`.
async fn body(api: &Api, output: &Output, span: Span, whole: bool) -> Result<Response, Problem> {
    if let Some(bytes) = &output.inline {
        let (Ok(start), Ok(end)) = (usize::try_from(span.start), usize::try_from(span.end)) else {
            return Err(Problem::new(Code::Internal, "the output is larger than this node can address"));
        };
        let bytes = bytes.get(start..end).unwrap_or_default();
        return Ok(Response::new(Bytes::copy_from_slice(bytes).into()));
    }
    let crowded = || Problem::new(Code::Overloaded, "too many outputs are on their way through this node");
    let permit = Arc::clone(&api.downloads).try_acquire_owned().map_err(|_| crowded())?;
    // The first part says whether there will be others, while there still can be another answer.
    let (worker, first) = first_part(api, output, span).await.map_err(missed)?;
    let mesh = api.context.mesh.clone();
    let parts = Parts { mesh, worker, sha256: output.sha256, span, check: whole.then(Sha256::new) };
    let (out, bytes) = mpsc::channel(WAITING);
    api.tasks.spawn_until_stopped("output", parts.feed(first, out, permit));
    Ok(warp::reply::stream(ReceiverStream::new(bytes)).into_response())
}

/// The first part, from the first worker that gives it; else why it may come later, or why it will not.
async fn first_part(api: &Api, output: &Output, span: Span) -> Result<(WorkerId, Bytes), fetch::Missed> {
    let mut failed = None;
    for &worker in &output.workers {
        match fetch_part(&api.context.mesh, worker, &output.sha256, span.start, span.end).await {
            Ok(part) => return Ok((worker, part)),
            Err(missed) => {
                failed = Some(match failed {
                    Some(earlier) => rather(earlier, missed),
                    None => missed,
                });
            }
        }
    }
    Err(failed.unwrap_or_else(|| fetch::Missed::Gone(WorkerId::default())))
}

/// Of two reasons the one that may pass, else the earlier.
fn rather(earlier: fetch::Missed, later: fetch::Missed) -> fetch::Missed {
    let passes = |missed: &fetch::Missed| matches!(missed, fetch::Missed::Unreachable(_) | fetch::Missed::Busy(_));
    if passes(&later) && !passes(&earlier) { later } else { earlier }
}

fn missed(missed: fetch::Missed) -> Problem {
    let code = match missed {
        fetch::Missed::Unreachable(_) => Code::OutputUnreachable,
        fetch::Missed::Busy(_) => Code::Overloaded,
        fetch::Missed::Gone(_) => Code::OutputGone,
        fetch::Missed::Damaged(_) | fetch::Missed::Nonsense(_) => Code::OutputDamaged,
    };
    Problem::new(code, missed.to_string())
}

/// Why a download breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("fetch part of output")]
    Missed(#[from] fetch::Missed),
    #[error("the bytes from worker {0} are not those it signed for")]
    Digest(WorkerId),
}

/// The parts of an output, on their way from its worker to a client.
struct Parts {
    mesh: mesh::Handle,
    worker: WorkerId,
    sha256: Digest,
    span: Span,
    check: Option<Sha256>,
}

impl Parts {
    /// Sends all parts in order. Dropped when the node stops, which breaks the download off.
    async fn feed(mut self, first: Bytes, out: mpsc::Sender<Result<Bytes, Broken>>, permit: OwnedSemaphorePermit) {
        let (mesh, worker, sha256, end) = (self.mesh.clone(), self.worker, self.sha256, self.span.end);
        let offsets = (self.span.start + first.len() as u64..end).step_by(fetch::PART_MAX as usize);
        let rest = offsets.map(|offset| fetch_part(&mesh, worker, &sha256, offset, end));
        let mut parts = stream::once(async { Ok(first) }).chain(stream::iter(rest).buffered(AHEAD)).boxed();
        let mut sent = self.span.start;
        while let Some(part) = parts.next().await {
            let part = part.map_err(Broken::from).and_then(|part| {
                sent += part.len() as u64;
                self.compare(&part, sent)?;
                Ok(part)
            });
            let broken = part.as_ref().err().map(ToString::to_string);
            if let Some(error) = &broken {
                tracing::warn!(%worker, sha256 = %sha256, error, "download of an output breaks off");
            }
            if out.send(part).await.is_err() || broken.is_some() {
                break;
            }
        }
        drop(permit);
    }

    /// Notes a part. With the last one, all of them must have the digest.
    fn compare(&mut self, part: &[u8], sent: u64) -> Result<(), Broken> {
        let Some(check) = &mut self.check else { return Ok(()) };
        check.update(part);
        if sent < self.span.end || check.clone().finalize().as_slice() == self.sha256.0 {
            return Ok(());
        }
        Err(Broken::Digest(self.worker))
    }
}

async fn fetch_part(
    mesh: &mesh::Handle,
    worker: WorkerId,
    sha256: &Digest,
    offset: u64,
    end: u64,
) -> Result<Bytes, fetch::Missed> {
    let length = u32::try_from((end - offset).min(PART)).unwrap_or(fetch::PART_MAX);
    fetch::part(mesh, worker, sha256, offset, length).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_understood_ignored_or_refused() {
        let is = |start, end| Some(Some(Span { start, end }));
        for (range, expected) in [
            ("bytes=0-0", is(0, 1)),
            ("bytes=0-99", is(0, 100)),
            ("bytes=10-1000", is(10, 100)),
            ("bytes=90-", is(90, 100)),
            ("bytes=-10", is(90, 100)),
            ("bytes=-1000", is(0, 100)),
            ("bytes=100-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=100-200", Some(None)),
            ("bytes=5-4", None),
            ("bytes=-", None),
            ("bytes=0-1,5-6", None),
            ("bytes=+1-2", None),
            ("lines=0-1", None),
            ("bytes=99999999999999999999-", None),
        ] {
            assert_eq!(span(range, 100), expected, "{range}");
        }
        assert_eq!(span("bytes=0-", 0), Some(None), "nothing is in an empty output");
    }

    #[test]
    fn who_has_it_gets_nothing_and_who_has_another_gets_all() {
        let output = Output { sha256: Digest([7; 32]), size: 100, workers: vec![], inline: None };
        let tag = etag(&output.sha256);
        let asked = |headers: &[(&'static str, &str)]| {
            let mut request = Request::with_query(vec![]);
            for (name, value) in headers {
                request.headers.insert(*name, value.parse().unwrap());
            }
            wanted(&request, &output)
        };
        let part = Wanted::Part(Span { start: 0, end: 10 });
        assert_eq!(asked(&[]), Wanted::Whole);
        assert_eq!(asked(&[("if-none-match", &tag)]), Wanted::Nothing);
        assert_eq!(asked(&[("if-none-match", "\"other\", *")]), Wanted::Nothing);
        assert_eq!(asked(&[("if-none-match", "\"other\"")]), Wanted::Whole);
        assert_eq!(asked(&[("range", "bytes=0-9")]), part);
        assert_eq!(asked(&[("range", "bytes=0-9"), ("if-range", &tag)]), part);
        assert_eq!(asked(&[("range", "bytes=0-9"), ("if-range", "\"other\"")]), Wanted::Whole);
    }
}
