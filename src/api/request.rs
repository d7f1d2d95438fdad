//! A request as handlers see it: identified, with parameters checked and the
//! body read within its bounds.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::http::{HeaderMap, header};

use super::Limits;
use super::params::looks_like_peer_id;
use super::problem::{Code, Problem};
use super::route::BodySpec;
use crate::clock;
use crate::domain::{JobId, NodeId, WorkerId};

/// Longest request id and idempotency key, in bytes.
const REQUEST_ID_MAX: usize = 128;
const KEY_MAX: usize = 255;

/// Bytes and time spent on reading what nobody wants, so that the client gets to read our answer.
const DRAIN_BYTES: usize = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Room for bodies, unless a single one may be larger. They take as much again once they are parsed.
const ROOM_BYTES: usize = 256 << 20;

pub struct Request {
    pub id: String,
    pub path: Vec<(&'static str, String)>,
    pub query: BTreeMap<&'static str, String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    pub fn integer(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    pub fn path(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The job named by the path.
    pub fn job(&self) -> Result<JobId, Problem> {
        let text = self.path("id");
        text.parse().map_err(|_| Problem::new(Code::InvalidId, format!("{:?} is not a UUID", clip(text))).field("id"))
    }

    /// The worker named by the path.
    pub fn worker(&self) -> Result<WorkerId, Problem> {
        let text = self.path("id");
        text.parse().map_err(|_| {
            if looks_like_peer_id(text) {
                // Has the form, but is no ed25519 key: nobody can have it.
                Problem::new(Code::UnknownWorker, format!("worker {text} is not known"))
            } else {
                Problem::new(Code::InvalidId, format!("{:?} is not a peer id", clip(text))).field("id")
            }
        })
    }

    /// The member named by the path.
    pub fn node(&self) -> Result<NodeId, Problem> {
        let text = self.path("node_id");
        text.parse().map_err(|_| {
            if looks_like_peer_id(text) {
                Problem::new(Code::UnknownMember, format!("{text} is not a member"))
            } else {
                Problem::new(Code::InvalidId, format!("{:?} is not a peer id", clip(text))).field("node_id")
            }
        })
    }

    /// The dead letter named by the path.
    pub fn letter(&self) -> Result<u64, Problem> {
        let text = self.path("id");
        text.parse().ok().filter(|id: &u64| *id > 0 && id.to_string() == text).ok_or_else(|| {
            let problem = Problem::new(Code::InvalidId, format!("{:?} is not the id of a dead letter", clip(text)));
            problem.field("id").hint("Ids of dead letters are numbers: GET /kafka/dead-letter-queue lists them.")
        })
    }

    /// The worker that a filter names: `Some(None)` is one that can not exist.
    pub fn worker_filter(&self, name: &str) -> Option<Option<WorkerId>> {
        self.text(name).map(|text| text.parse().ok())
    }

    /// Whether the client asks for this media type by name.
    pub fn accepts(&self, media_type: &str) -> bool {
        self.headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(media_type)))
    }

    /// The `Idempotency-Key`, if there is one.
    pub fn idempotency_key(&self) -> Result<Option<String>, Problem> {
        let mut values = self.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        let valid = visible(value.as_bytes(), KEY_MAX) && values.next().is_none();
        let key = value.to_str().ok().filter(|_| valid).ok_or_else(|| {
            let detail = format!("Idempotency-Key must be one value of 1 to {KEY_MAX} visible ASCII characters");
            Problem::new(Code::InvalidHeader, detail).field("Idempotency-Key")
        })?;
        Ok(Some(key.to_owned()))
    }

    #[cfg(test)]
    pub fn with_query(query: Vec<(&'static str, String)>) -> Self {
        Self {
            id: "test".to_owned(),
            path: vec![],
            query: query.into_iter().collect(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

/// The client's request id if it is sane, else a fresh one.
pub fn request_id(headers: &HeaderMap) -> String {
    headers
        .get("x-request-id")
        .filter(|value| visible(value.as_bytes(), REQUEST_ID_MAX))
        .and_then(|value| value.to_str().ok())
        .map_or_else(|| clock::uuid().to_string(), str::to_owned)
}

fn visible(bytes: &[u8], max: usize) -> bool {
    (1..=max).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Room for bodies in memory, in bytes, of one node. Beyond it: 429.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

impl Room {
    /// A single body of the largest size always finds room on a node that is idle.
    pub fn of(limits: &Limits) -> Self {
        Self::bytes(ROOM_BYTES.max(limits.batch_bytes).max(limits.body_bytes))
    }

    fn bytes(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = u32::try_from(bytes).ok();
        let taken = permits.and_then(|permits| Arc::clone(&self.0).try_acquire_many_owned(permits).ok());
        taken.ok_or_else(|| Problem::new(Code::Overloaded, "too many bytes of requests are in flight on this node"))
    }
}

/// A body that was not read yet. What was read takes [`Room`] until this is dropped, after the answer was made.
pub struct Unread {
    stream: Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>,
    ended: bool,
    room: Room,
    taken: Option<OwnedSemaphorePermit>,
}

impl Unread {
    pub fn new(body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static, room: Room) -> Self {
        let stream = body.map(|part| part.map(|mut part| part.copy_to_bytes(part.remaining())));
        Self { stream: Box::pin(stream), ended: false, room, taken: None }
    }

    async fn next(&mut self) -> Option<Result<Bytes, warp::Error>> {
        if self.ended {
            return None;
        }
        let part = self.stream.next().await;
        self.ended = !matches!(part, Some(Ok(_)));
        part
    }

    /// Reads the body that a route declares.
    pub async fn read(&mut self, spec: &BodySpec, headers: &HeaderMap, limit: Duration) -> Result<Bytes, Problem> {
        let announced = content_length(headers);
        if announced.is_some_and(|length| length > spec.limit as u64) {
            return Err(too_large(spec.limit));
        }
        let body = self.within(spec.limit, limit).await?;
        if body.is_empty() && !spec.required && !headers.contains_key(header::CONTENT_TYPE) {
            return Ok(body);
        }
        check_media_type(spec, headers)?;
        Ok(body)
    }

    /// Makes sure that there is no body.
    pub async fn refuse(&mut self, limit: Duration) -> Result<(), Problem> {
        let refused = || Problem::new(Code::UnexpectedBody, "this route takes no body");
        let body = self.within(1, limit).await.map_err(|problem| match problem.code {
            Code::BodyTooLarge => refused(),
            _ => problem,
        })?;
        if body.is_empty() { Ok(()) } else { Err(refused()) }
    }

    async fn within(&mut self, bytes: usize, limit: Duration) -> Result<Bytes, Problem> {
        let late =
            || Problem::new(Code::BodyTimeout, format!("the body was not complete after {} seconds", limit.as_secs()));
        tokio::time::timeout(limit, self.collect(bytes)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn collect(&mut self, bytes: usize) -> Result<Bytes, Problem> {
        let mut body = BytesMut::new();
        while let Some(part) = self.next().await {
            let part = part.map_err(|error| {
                tracing::debug!(%error, "body broke off");
                Problem::new(Code::UnreadableBody, "the body broke off or was framed wrongly")
            })?;
            if body.len() + part.len() > bytes {
                return Err(too_large(bytes));
            }
            self.take_room(part.len())?;
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }

    fn take_room(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = self.room.take(bytes)?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Reads on for a while and throws it away: a client that still sends would not see our answer.
    pub async fn drain(&mut self, headers: &HeaderMap) {
        let announced = content_length(headers);
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let asks_first = headers.contains_key(header::EXPECT);
        let hopeless = announced.is_some_and(|length| length > DRAIN_BYTES as u64);
        if self.ended || asks_first || hopeless || !(chunked || announced.is_some_and(|length| length > 0)) {
            return;
        }
        let rest = async {
            let mut left = DRAIN_BYTES;
            while let Some(Ok(part)) = self.next().await {
                match left.checked_sub(part.len()) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is over the limit of {limit} bytes"))
}

fn check_media_type(spec: &BodySpec, headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |what: String| Err(Problem::new(Code::UnsupportedMediaType, what).field("Content-Type"));
    let identity = |value: &header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get(header::CONTENT_ENCODING).is_some_and(|value| !identity(value)) {
        return refuse("compressed bodies are not taken".to_owned());
    }
    match media_type(headers) {
        Some(name) if spec.media.contains(&name.as_str()) => Ok(()),
        Some(name) => refuse(format!("{:?} is not taken here, but {}", clip(&name), spec.media.join(" or "))),
        None => refuse(format!("Content-Type is required: {}", spec.media.join(" or "))),
    }
}

/// The media type of the body, without parameters, in lower case.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(|name| name.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    const SPEC: BodySpec = BodySpec { required: true, limit: 4, media: &["application/json"], schemas: vec![] };

    fn chunks(parts: &[&'static str]) -> Unread {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        Unread::new(stream::iter(parts), Room::bytes(8))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[tokio::test]
    async fn the_limit_holds_for_chunked_bodies_too() {
        let json = headers(&[("content-type", "application/json; charset=utf-8")]);
        let second = Duration::from_secs(1);
        assert_eq!(chunks(&["ab", "cd"]).read(&SPEC, &json, second).await.unwrap(), "abcd");
        let problem = chunks(&["ab", "cd", "e"]).read(&SPEC, &json, second).await.unwrap_err();
        assert_eq!(problem.code, Code::BodyTooLarge);
        let announced = headers(&[("content-type", "application/json"), ("content-length", "5")]);
        assert_eq!(chunks(&[]).read(&SPEC, &announced, second).await.unwrap_err().code, Code::BodyTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let mut body = Unread::new(stream::pending::<Result<Bytes, warp::Error>>(), Room::bytes(8));
        let problem = body.read(&SPEC, &HeaderMap::new(), Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(problem.code, Code::BodyTimeout);
    }

    #[tokio::test]
    async fn bodies_in_flight_share_one_room() {
        let room = Room::bytes(6);
        let body = |parts: &[&'static str]| {
            let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
            Unread::new(stream::iter(parts), room.clone())
        };
        let (json, second) = (headers(&[("content-type", "application/json")]), Duration::from_secs(1));
        let mut first = body(&["ab", "cd"]);
        assert_eq!(first.read(&SPEC, &json, second).await.unwrap(), "abcd");
        let problem = body(&["ab", "c"]).read(&SPEC, &json, second).await.unwrap_err();
        assert_eq!(problem.code, Code::Overloaded);
        assert!(body(&["ab"]).read(&SPEC, &json, second).await.is_ok(), "what was refused gave its room back");
        drop(first);
        assert!(body(&["abcd"]).read(&SPEC, &json, second).await.is_ok());
    }

    #[tokio::test]
    async fn media_types_are_checked() {
        let second = Duration::from_secs(1);
        for bad in [
            headers(&[]),
            headers(&[("content-type", "text/plain")]),
            headers(&[("content-type", "application/json"), ("content-encoding", "gzip")]),
        ] {
            let problem = chunks(&["{}"]).read(&SPEC, &bad, second).await.unwrap_err();
            assert_eq!(problem.code, Code::UnsupportedMediaType);
        }
        let optional = BodySpec { required: false, ..SPEC };
        assert!(chunks(&[]).read(&optional, &HeaderMap::new(), second).await.unwrap().is_empty());
        assert_eq!(chunks(&["x"]).refuse(second).await.unwrap_err().code, Code::UnexpectedBody);
        assert!(chunks(&[]).refuse(second).await.is_ok());
    }

    #[test]
    fn request_ids_are_taken_when_sane() {
        assert_eq!(request_id(&headers(&[("x-request-id", "abc-1")])), "abc-1");
        for bad in ["", "a b", &"x".repeat(129)] {
            let id = request_id(&headers(&[("x-request-id", bad)]));
            assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 7, "{bad:?}");
        }
    }

    #[test]
    fn idempotency_keys_are_bounded() {
        let mut request = Request::with_query(vec![]);
        assert_eq!(request.idempotency_key().unwrap(), None);
        request.headers = headers(&[("idempotency-key", "k-1")]);
        assert_eq!(request.idempotency_key().unwrap().as_deref(), Some("k-1"));
        for bad in ["", "a b", &"x".repeat(256)] {
            request.headers = headers(&[("idempotency-key", bad)]);
            assert_eq!(request.idempotency_key().unwrap_err().code, Code::InvalidHeader, "{bad:?}");
        }
        request.headers = headers(&[("idempotency-key", "a"), ("idempotency-key", "b")]);
        assert!(request.idempotency_key().is_err());
    }
}
