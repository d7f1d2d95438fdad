//! What a client of the cluster does, and the ledger of what it was promised.
//!
//! Every submission carries an idempotency key. One that got no certain answer
//! is tried again with the same key until it is certain, as a careful client
//! would; so at the end the ledger holds exactly the jobs that must exist.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciro::clock;
use serde_json::{Value, json};

use crate::{secs, until};

/// A job the cluster acknowledged.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub key: String,
    pub id: String,
    pub name: String,
    /// How it must end.
    pub ends: &'static str,
    pub submitted_index: u64,
}

/// What a job of type `mark` does: sleeps, after it noted its execution in a file of the story.
#[derive(Clone, Debug)]
pub struct Mark {
    pub name: String,
    /// Seconds the first execution takes.
    pub first: f64,
    /// Seconds a later one takes.
    pub later: f64,
    pub timeout_secs: u32,
    /// Workers that run it side by side.
    pub redundancy: u8,
}

impl Mark {
    fn body(&self) -> Value {
        let line = format!("{} {} {}\n", self.name, self.first, self.later);
        json!({
            "type": "mark",
            "payload": STANDARD.encode(line),
            "tags": [self.name],
            "timeout_secs": self.timeout_secs,
            "redundancy": self.redundancy,
            "retry": {"max_attempts": 10, "initial_delay_ms": 100, "multiplier": 1, "max_delay_ms": 1000},
        })
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// Cheap to clone; all clones share one ledger.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    apis: Arc<Vec<String>>,
    ledger: Arc<Mutex<Vec<Ticket>>>,
    names: Arc<AtomicU64>,
}

impl Client {
    pub fn new(ports: &[u16]) -> Self {
        let http = reqwest::Client::builder().timeout(secs(15)).connect_timeout(secs(2)).no_proxy().build().unwrap();
        let apis = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        Self { http, apis: Arc::new(apis), ledger: Arc::default(), names: Arc::default() }
    }

    pub fn nodes(&self) -> usize {
        self.apis.len()
    }

    /// A request to `node`, for what the methods here do not do.
    pub fn request(&self, node: usize, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.apis[node]))
    }

    /// A job that takes `first` seconds, under a name nobody else has.
    pub fn mark(&self, first: f64) -> Mark {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        Mark { name: format!("job-{number:05}"), first, later: 0.1, timeout_secs: 60, redundancy: 1 }
    }

    pub async fn get(&self, node: usize, path: &str) -> Option<Answer> {
        answer(self.http.get(format!("{}{path}", self.apis[node]))).await
    }

    /// Like [`Self::get`], in the session of an earlier answer; empty: in none.
    pub async fn get_in(&self, session: &str, node: usize, path: &str) -> Option<Answer> {
        answer(in_session(self.http.get(format!("{}{path}", self.apis[node])), session)).await
    }

    /// Like [`Self::get`], but gives up after `limit`.
    pub async fn get_within(&self, node: usize, path: &str, limit: Duration) -> Option<Answer> {
        answer(self.http.get(format!("{}{path}", self.apis[node])).timeout(limit)).await
    }

    /// Status and bytes of an output, or of the `range` of it. `None`: not all of what was announced came.
    pub async fn output(&self, node: usize, id: &str, range: Option<&str>) -> Option<(u16, Vec<u8>)> {
        let request = self.http.get(format!("{}/jobs/{id}/output", self.apis[node]));
        let request = range.into_iter().fold(request, |request, range| request.header("Range", range));
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.bytes().await.ok()?.to_vec()))
    }

    pub async fn delete(&self, node: usize, path: &str) -> Option<Answer> {
        answer(self.http.delete(format!("{}{path}", self.apis[node]))).await
    }

    pub async fn post(&self, node: usize, path: &str, key: &str, body: &Value) -> Option<Answer> {
        answer(self.http.post(format!("{}{path}", self.apis[node])).header("Idempotency-Key", key).json(body)).await
    }

    /// Like [`Self::post`], but gives up after `limit`.
    pub async fn post_within(
        &self,
        node: usize,
        path: &str,
        key: &str,
        body: &Value,
        limit: Duration,
    ) -> Option<Answer> {
        let request = self.http.post(format!("{}{path}", self.apis[node])).timeout(limit);
        answer(request.header("Idempotency-Key", key).json(body)).await
    }

    /// One try at one node. Enters the ledger if acknowledged.
    pub async fn try_submit(&self, node: usize, mark: &Mark) -> Option<Answer> {
        let answer = self.post(node, "/jobs", &mark.name, &mark.body()).await?;
        self.note(mark, &answer);
        Some(answer)
    }

    /// Like [`Self::try_submit`], as the request `id`.
    pub async fn try_submit_as(&self, id: &str, node: usize, mark: &Mark) -> Option<Answer> {
        let request = self.http.post(format!("{}/jobs", self.apis[node])).header("X-Request-Id", id);
        let answer = answer(request.header("Idempotency-Key", &mark.name).json(&mark.body())).await?;
        self.note(mark, &answer);
        Some(answer)
    }

    /// Like [`Self::try_submit`], in the session of an earlier answer; empty: in none.
    pub async fn try_submit_in(&self, session: &str, node: usize, mark: &Mark) -> Option<Answer> {
        let request = self.http.post(format!("{}/jobs", self.apis[node])).header("Idempotency-Key", &mark.name);
        let answer = answer(in_session(request, session).json(&mark.body())).await?;
        self.note(mark, &answer);
        Some(answer)
    }

    fn note(&self, mark: &Mark, answer: &Answer) {
        if matches!(answer.status, 200 | 201) {
            self.enter(Ticket {
                key: mark.name.clone(),
                id: answer.body["id"].as_str().expect("a job has an id").to_owned(),
                name: mark.name.clone(),
                ends: "completed",
                submitted_index: answer.body["submitted_index"].as_u64().unwrap_or(0),
            });
        }
    }

    /// Tries node after node, from `node` on, until one acknowledges.
    pub async fn submit(&self, node: usize, mark: &Mark) -> Ticket {
        // Not `until`: this future must be able to move between threads.
        let start = clock::instant();
        for turn in node.. {
            if let Some(answer) = self.try_submit(turn % self.nodes(), mark).await {
                let retry = matches!(answer.status, 429 | 503);
                assert!(retry || matches!(answer.status, 200 | 201), "{} refused: {answer:?}", mark.name);
            }
            if let Some(ticket) = self.ticket(&mark.name) {
                return ticket;
            }
            assert!(start.elapsed() < secs(30), "{} is not accepted anywhere", mark.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("the loop has no end")
    }

    /// The job in a final state, asked on any node that answers.
    pub async fn ended(&self, node: usize, id: &str, limit: Duration) -> Value {
        let mut turn = node;
        until(limit, &format!("{id} ends"), async || {
            let path = format!("/jobs/{id}?wait=terminal&timeout_secs=2");
            let answer = self.get_within(turn % self.nodes(), &path, secs(4)).await;
            turn += 1;
            let job = answer.filter(|answer| answer.status == 200)?.body;
            matches!(job["state"].as_str()?, "completed" | "failed" | "cancelled").then_some(job)
        })
        .await
    }

    /// Waits until `node` shows the job in `state`.
    pub async fn in_state(&self, node: usize, id: &str, state: &str, limit: Duration) -> Value {
        until(limit, &format!("{id} is {state}"), async || {
            let job = self.get(node, &format!("/jobs/{id}")).await?.body;
            (job["state"] == state).then_some(job)
        })
        .await
    }

    /// Enters a job that a story submitted by itself.
    pub fn promise(&self, mark: &Mark, id: &str, ends: &'static str) {
        let (key, name) = (mark.name.clone(), mark.name.clone());
        self.enter(Ticket { key, id: id.to_owned(), name, ends, submitted_index: 0 });
    }

    pub fn expect_end(&self, id: &str, ends: &'static str) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.iter_mut().filter(|ticket| ticket.id == id).for_each(|ticket| ticket.ends = ends);
    }

    pub fn tickets(&self) -> Vec<Ticket> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ticket(&self, key: &str) -> Option<Ticket> {
        self.tickets().into_iter().rev().find(|ticket| ticket.key == key)
    }

    fn enter(&self, ticket: Ticket) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        match ledger.iter().find(|known| known.key == ticket.key) {
            Some(known) => assert_eq!(known.id, ticket.id, "key {} gave two jobs", ticket.key),
            None => ledger.push(ticket),
        }
    }
}

fn in_session(request: reqwest::RequestBuilder, session: &str) -> reqwest::RequestBuilder {
    if session.is_empty() { request } else { request.header("X-Ciro-Session", session) }
}

/// `None`: no answer came, and nobody knows what became of the request.
pub async fn answer(request: reqwest::RequestBuilder) -> Option<Answer> {
    let response = request.send().await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.ok()?;
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Some(Answer { status, headers, body })
}
