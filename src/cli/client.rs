//! Talking to whichever node answers.
//!
//! Several nodes may be named. A call goes to one of them; when that one is not
//! reachable or can not serve now (503, 429), the next is tried, round and
//! round with growing pauses, until the patience is used up. Whether a call
//! whose fate is unknown may be sent again is the caller's to say: a read, a
//! submission under an idempotency key, and what is idempotent by nature may.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Url};
use serde_json::Value;

use super::failure::{Failure, Kind, chain};
use crate::api::is_older_session;
use crate::clock;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// For the head of a stream.
const STREAM_LIMIT: Duration = Duration::from_secs(15);

/// Names what a client has seen; nodes give it and take it.
const SESSION: &str = "X-Ciro-Session";

/// Largest answer read into memory: a batch's or a full page's.
const ANSWER_MAX: usize = 256 << 20;

/// Talks to a cluster by any of its nodes.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    nodes: Vec<Url>,
    /// The node that answered last; the next call begins there.
    current: AtomicUsize,
    patience: Duration,
    /// What has been seen so far, so that no later call, to whatever node, shows less.
    session: Mutex<Option<HeaderValue>>,
}

/// One request, as often as it takes.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    body: Option<Value>,
    key: Option<String>,
    repeatable: bool,
    /// Time for one attempt's answer.
    limit: Duration,
    /// A 503 is an answer too: ask the first node that is there, once.
    any_status: bool,
}

/// What a node answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    /// The node that answered.
    pub node: String,
}

/// What one attempt came to.
enum Attempt {
    Done(Answer),
    /// Certainly without effect, or safe to send again.
    Again(Failure),
    Final(Failure),
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path.into(), true)
    }

    /// Deleting twice is deleting.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path.into(), true)
    }

    /// Sent again only when it certainly had no effect; see [`Self::idempotent`].
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path.into(), false)
    }

    fn new(method: Method, path: String, repeatable: bool) -> Self {
        let limit = Duration::from_secs(15);
        Self { method, path, query: vec![], body: None, key: None, repeatable, limit, any_status: false }
    }

    #[must_use]
    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Sends `Idempotency-Key`, which makes the call safe to repeat.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self.repeatable = true;
        self
    }

    /// Safe to repeat by nature.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.repeatable = true;
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    #[must_use]
    pub fn any_status(mut self) -> Self {
        self.any_status = true;
        self
    }
}

impl Client {
    /// # Errors
    ///
    /// No node, or one whose URL can not be used.
    pub fn new(nodes: &[String], patience: Duration) -> Result<Self, Failure> {
        let nodes = nodes.iter().map(|node| parse(node)).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err(Failure::usage("no node was named").hint("--node http://127.0.0.1:8080, or CIRO_NODE"));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .user_agent(concat!("ciro-coordinator/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| Failure::because("start HTTP client", &error))?;
        Ok(Self { http, nodes, current: AtomicUsize::new(0), patience, session: Mutex::default() })
    }

    pub fn nodes(&self) -> impl Iterator<Item = String> {
        self.nodes.iter().map(shown)
    }

    /// Calls the cluster, beginning with the node that answered last.
    ///
    /// # Errors
    ///
    /// What the cluster refused; or that no node could serve within the patience.
    pub async fn call(&self, call: &Call) -> Result<Answer, Failure> {
        self.call_from(self.current.load(Ordering::Relaxed), call).await
    }

    /// The same, beginning with the `first`-th node, to spread many calls.
    pub async fn call_from(&self, first: usize, call: &Call) -> Result<Answer, Failure> {
        let give_up = clock::instant() + self.patience;
        let mut pause = FIRST_PAUSE;
        let mut last: Option<Failure> = None;
        loop {
            for turn in 0..self.nodes.len() {
                let node = (first + turn) % self.nodes.len();
                match self.attempt(node, call).await {
                    Attempt::Done(answer) => {
                        self.current.store(node, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Attempt::Final(failure) => return Err(failure),
                    Attempt::Again(failure) => {
                        // One try that may have had its effect outweighs all that had none.
                        let doubtful = failure.doubtful || last.is_some_and(|last| last.doubtful);
                        last = Some(Failure { doubtful, ..failure });
                    }
                }
            }
            if clock::instant() + pause >= give_up {
                return Err(last.unwrap_or_else(|| Failure::new(Kind::Unreachable, "no node answered")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Calls one node once, whatever it answers.
    pub async fn ask(&self, node: usize, call: &Call) -> Result<Answer, Failure> {
        match self.attempt(node % self.nodes.len(), &call.clone().any_status()).await {
            Attempt::Done(answer) => Ok(answer),
            Attempt::Again(failure) | Attempt::Final(failure) => Err(failure),
        }
    }

    /// Opens a stream of server-sent events on the first node that gives one.
    pub async fn stream(&self, path: &str, last_event: Option<&str>) -> Result<reqwest::Response, Failure> {
        let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", last_event.unwrap_or_default())];
        self.open(path, if last_event.is_some() { &headers } else { &headers[..1] }).await
    }

    /// Asks for something that may be long, and returns the first node's answer that gives it.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Result<reqwest::Response, Failure> {
        let give_up = clock::instant() + self.patience;
        let mut node = self.current.load(Ordering::Relaxed) % self.nodes.len();
        loop {
            let request = self.request(node, Method::GET, path);
            let request = self.in_session(request);
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let failure = match tokio::time::timeout(STREAM_LIMIT, request.send()).await {
                Err(_) => Failure::new(Kind::Unreachable, format!("{} does not answer", shown(&self.nodes[node]))),
                Ok(Ok(response)) if response.status().is_success() => {
                    self.note_session(&response);
                    return Ok(response);
                }
                Ok(Ok(response)) => match self.judge(node, response, &Call::get(path)).await {
                    Attempt::Done(answer) => Failure::problem(answer.status, &answer.body),
                    Attempt::Final(failure) => return Err(failure),
                    Attempt::Again(failure) => failure,
                },
                Ok(Err(error)) => self.unreachable(node, &error),
            };
            if clock::instant() >= give_up {
                return Err(failure);
            }
            self.pass_over();
            node = self.current.load(Ordering::Relaxed);
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }

    /// Begins with another node next time.
    pub fn pass_over(&self) {
        let next = (self.current.load(Ordering::Relaxed) + 1) % self.nodes.len();
        self.current.store(next, Ordering::Relaxed);
    }

    fn request(&self, node: usize, method: Method, path: &str) -> RequestBuilder {
        // `parse` left a base that ends in a slash, and paths are our own.
        let base = &self.nodes[node % self.nodes.len()];
        let url = base.join(path.trim_start_matches('/')).unwrap_or_else(|_| base.clone());
        self.http.request(method, url)
    }

    fn in_session(&self, request: RequestBuilder) -> RequestBuilder {
        match self.session.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(token) => request.header(SESSION, token),
            None => request,
        }
    }

    /// Calls may be under way side by side, and answered in another order.
    fn note_session(&self, response: &reqwest::Response) {
        let Some(token) = response.headers().get(SESSION) else { return };
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let old = session.as_ref().and_then(|old| old.to_str().ok()).unwrap_or_default();
        if !is_older_session(token.to_str().unwrap_or_default(), old) {
            *session = Some(token.clone());
        }
    }

    async fn attempt(&self, node: usize, call: &Call) -> Attempt {
        let mut request = self.request(node, call.method.clone(), &call.path).timeout(call.limit).query(&call.query);
        if !call.any_status {
            // Who asks one node for its own view wants it even if that is old.
            request = self.in_session(request);
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key);
        }
        match request.send().await {
            Ok(response) => self.judge(node, response, call).await,
            Err(error) if error.is_connect() => Attempt::Again(self.unreachable(node, &error)),
            Err(error) if call.repeatable => Attempt::Again(self.unreachable(node, &error).doubtful()),
            Err(error) => {
                let failure = self.unreachable(node, &error).hint("it may or may not have taken effect");
                Attempt::Final(failure.doubtful())
            }
        }
    }

    /// Reads the answer and decides whether it is one.
    async fn judge(&self, node: usize, response: reqwest::Response, call: &Call) -> Attempt {
        let status = response.status().as_u16();
        self.note_session(&response);
        let body = match read(response).await {
            Ok(body) => body,
            Err(reason) if call.repeatable => return Attempt::Again(self.broken(node, &reason)),
            Err(reason) => return Attempt::Final(self.broken(node, &reason)),
        };
        if (200..300).contains(&status) || call.any_status {
            return Attempt::Done(Answer { status, body, node: shown(&self.nodes[node]) });
        }
        let unknown = body["code"] == "outcome_unknown";
        let failure = Failure::problem(status, &body);
        match status {
            503 if unknown && !call.repeatable => Attempt::Final(failure),
            429 | 503 => Attempt::Again(failure),
            502 | 504 if call.repeatable => Attempt::Again(failure),
            _ => Attempt::Final(failure),
        }
    }

    fn unreachable(&self, node: usize, error: &reqwest::Error) -> Failure {
        // The URL is said by us, without what may be secret in it.
        let reason = match error {
            error if error.is_timeout() => "no answer in time".to_owned(),
            error => innermost(error).to_string(),
        };
        let message = format!("{} is not reachable: {reason}", shown(&self.nodes[node]));
        Failure::new(Kind::Unreachable, message).hint("is the node up? name others with --node or CIRO_NODE")
    }

    fn broken(&self, node: usize, reason: &str) -> Failure {
        Failure::new(Kind::Unreachable, format!("{} broke off its answer: {reason}", shown(&self.nodes[node])))
            .doubtful()
    }
}

/// What it comes down to, such as "Connection refused".
fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// The body as JSON; text that is not JSON as a string.
async fn read(mut response: reqwest::Response) -> Result<Value, String> {
    let mut bytes = vec![];
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
        if bytes.len() + chunk.len() > ANSWER_MAX {
            return Err(format!("more than {ANSWER_MAX} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Ok(if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) })
}

fn parse(node: &str) -> Result<Url, Failure> {
    let full = if node.contains("://") { node.to_owned() } else { format!("http://{node}") };
    let url = Url::parse(&format!("{}/", full.trim_end_matches('/')));
    match url {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err(Failure::usage(format!("{node:?} is not the URL of a node")).hint("e.g. http://127.0.0.1:8080")),
    }
}

/// The node's URL without credentials.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_password(None).ok();
    url.set_username("").ok();
    url.as_str().trim_end_matches('/').to_owned()
}

/// One segment of a path, from what a person typed.
pub fn segment(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
