//! The nodes, over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

/// For one request. A node answers for itself after less.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(super) struct Cluster {
    http: reqwest::Client,
    nodes: Vec<String>,
}

/// What a bench needs of `GET /status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub version: String,
    pub environment: String,
    pub role: String,
    pub jobs: BTreeMap<String, u64>,
    pub workers: BTreeMap<String, u64>,
    pub members: Vec<Value>,
    jobs_submitted_total: u64,
}

impl Status {
    pub(super) fn pending(&self) -> u64 {
        self.count("pending")
    }

    /// Jobs that came to an end, ever. Nodes forget finished jobs after a while,
    /// so the counts by state would not do.
    pub(super) fn ended(&self) -> u64 {
        self.jobs_submitted_total.saturating_sub(self.open())
    }

    pub(super) fn open(&self) -> u64 {
        self.pending() + self.count("assigned") + self.count("running")
    }

    /// Finished jobs that are kept.
    pub(super) fn finished(&self) -> u64 {
        ["completed", "failed", "cancelled"].into_iter().map(|state| self.count(state)).sum()
    }

    pub(super) fn workers_online(&self) -> u64 {
        ["online", "busy"].into_iter().filter_map(|state| self.workers.get(state)).sum()
    }

    fn count(&self, state: &str) -> u64 {
        self.jobs.get(state).copied().unwrap_or(0)
    }
}

/// What a bench needs of a job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Job {
    pub id: String,
    pub state: String,
    pub attempt: u32,
    pub submitted_at: Option<String>,
    pub finished_at: Option<String>,
}

/// How a submission was answered.
#[derive(Debug)]
pub(super) enum Submitted {
    Accepted(Vec<Job>),
    /// 429: the backlog is full.
    Full(String),
    Refused(String),
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<BatchItem>,
}

#[derive(Deserialize)]
struct BatchItem {
    status: u16,
    #[serde(default)]
    job: Option<Job>,
    #[serde(default)]
    problem: Option<Value>,
}

impl Cluster {
    pub(super) fn new(nodes: &[String]) -> anyhow::Result<Self> {
        let nodes: Vec<String> = nodes.iter().map(|node| node.trim_end_matches('/').to_owned()).collect();
        for node in &nodes {
            reqwest::Url::parse(node).with_context(|| format!("{node} is no URL, expected http://host:port"))?;
        }
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(4096)
            .no_proxy()
            .build()
            .context("make an HTTP client")?;
        if nodes.is_empty() {
            bail!("no node was named: --node http://127.0.0.1:8080");
        }
        Ok(Self { http, nodes })
    }

    /// The same client, for other nodes.
    pub(super) fn with_nodes(&self, nodes: Vec<String>) -> Self {
        Self { http: self.http.clone(), nodes }
    }

    pub(super) fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// The node of a client: they take turns.
    pub(super) fn node(&self, client: usize) -> &str {
        &self.nodes[client % self.nodes.len()]
    }

    pub(super) async fn status(&self, node: &str) -> anyhow::Result<Status> {
        self.get_json(&format!("{node}/status")).await
    }

    /// What a node counts, in OpenMetrics text.
    pub(super) async fn metrics(&self, node: &str) -> anyhow::Result<String> {
        let url = format!("{node}/metrics?format=openmetrics");
        let (status, body) = bytes(self.http.get(&url)).await.map_err(|e| anyhow::anyhow!("{url}: {e}"))?;
        if !status.is_success() {
            bail!("{url}: {}", problem(status, &body));
        }
        String::from_utf8(body).with_context(|| format!("{url}: no text"))
    }

    /// How the cluster sees a worker: `online`, `offline`, …
    pub(super) async fn worker_state(&self, node: &str, id: &str) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct Worker {
            state: String,
        }
        let worker: Worker = self.get_json(&format!("{node}/workers/{id}")).await?;
        Ok(worker.state)
    }

    /// What happened after `since`, up to and with `through`.
    pub(super) async fn events(
        &self,
        node: &str,
        since: u64,
        through: u64,
        limit: Duration,
    ) -> anyhow::Result<Vec<Value>> {
        let mut events = Vec::new();
        if through <= since {
            return Ok(events);
        }
        let mut answer = self.http.get(format!("{node}/events?after={since}")).timeout(limit).send().await?;
        let mut text = String::new();
        while let Some(chunk) = answer.chunk().await.context("the stream of events ended early")? {
            text.push_str(&String::from_utf8_lossy(&chunk));
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            let rest = text.split_off(whole);
            for data in text.lines().filter_map(|line| line.strip_prefix("data:")) {
                let event: Value = serde_json::from_str(data.trim()).context("an event that is no JSON")?;
                let seq = event["seq"].as_u64().unwrap_or(0);
                events.push(event);
                if seq >= through {
                    return Ok(events);
                }
            }
            text = rest;
        }
        bail!("{node}: the stream of events ended before event {through}")
    }

    /// Any answer, as whoever asks needs it.
    pub(super) async fn get<T: serde::de::DeserializeOwned>(&self, node: &str, path: &str) -> anyhow::Result<T> {
        self.get_json(&format!("{node}{path}")).await
    }

    pub(super) async fn is_ready(&self, node: &str) -> bool {
        let answer = self.http.get(format!("{node}/health/ready")).timeout(Duration::from_secs(2)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub(super) async fn job(&self, node: &str, id: &str) -> anyhow::Result<Job> {
        self.get_json(&format!("{node}/jobs/{id}?consistency=linearizable")).await
    }

    /// Reads a job and throws the answer away, whole.
    pub(super) async fn read(&self, node: &str, id: &str, consistency: &str) -> Result<(), String> {
        let answer = self.http.get(format!("{node}/jobs/{id}?consistency={consistency}")).send().await;
        let answer = answer.map_err(|error| describe(&error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| describe(&error))?;
        if status.is_success() { Ok(()) } else { Err(problem(status, &body)) }
    }

    /// Cancels a job by whichever node does it. To tidy up: that none does is no failure of the bench.
    pub(super) async fn cancel(&self, id: &str) {
        for node in &self.nodes {
            let answer = self.http.delete(format!("{node}/jobs/{id}")).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
        }
    }

    /// Submits one job. The same `key` is the same job.
    pub(super) async fn submit(&self, node: &str, key: &str, job: &Value) -> Submitted {
        let request = self.http.post(format!("{node}/jobs")).header("Idempotency-Key", key).json(job);
        match bytes(request).await {
            Ok((status, body)) if status.is_success() => match serde_json::from_slice(&body) {
                Ok(job) => Submitted::Accepted(vec![job]),
                Err(error) => Submitted::Refused(format!("an answer that is no job: {error}")),
            },
            Ok((StatusCode::TOO_MANY_REQUESTS, body)) => Submitted::Full(problem(StatusCode::TOO_MANY_REQUESTS, &body)),
            Ok((status, body)) => Submitted::Refused(problem(status, &body)),
            Err(error) => Submitted::Refused(error),
        }
    }

    /// Submits many jobs as one request; the answer says which were accepted.
    pub(super) async fn submit_batch(&self, node: &str, key: &str, jobs: &[Value]) -> Submitted {
        let request = self.http.post(format!("{node}/jobs/batch")).header("Idempotency-Key", key).json(&jobs);
        match bytes(request).await {
            Ok((StatusCode::TOO_MANY_REQUESTS, body)) => Submitted::Full(problem(StatusCode::TOO_MANY_REQUESTS, &body)),
            Ok((status, body)) if status.is_success() => batch_answer(&body),
            Ok((status, body)) => Submitted::Refused(problem(status, &body)),
            Err(error) => Submitted::Refused(error),
        }
    }

    /// Has leadership handed to the fittest member; who leads then.
    pub(super) async fn hand_over(&self, node: &str) -> anyhow::Result<String> {
        self.transfer(node, &json!({})).await
    }

    /// The same, to the one named.
    pub(super) async fn hand_over_to(&self, node: &str, id: &str) -> anyhow::Result<String> {
        self.transfer(node, &json!({ "to": id })).await
    }

    async fn transfer(&self, node: &str, body: &Value) -> anyhow::Result<String> {
        let url = format!("{node}/cluster/transfer-leadership");
        let answer: Value = answer(&url, self.http.post(&url).json(body)).await?;
        Ok(answer["leader_id"].as_str().unwrap_or_default().to_owned())
    }

    /// An invitation's token.
    pub(super) async fn invite(&self) -> anyhow::Result<String> {
        let url = format!("{}/cluster/invitations", self.node(0));
        let answer: Value = answer(&url, self.http.post(&url)).await?;
        Ok(answer["token"].as_str().with_context(|| format!("{url}: no token in the answer"))?.to_owned())
    }

    /// Begins the removal of a member.
    pub(super) async fn remove(&self, id: &str) -> anyhow::Result<()> {
        let url = format!("{}/cluster/members/{id}", self.node(0));
        answer::<Value>(&url, self.http.delete(&url)).await.map(drop)
    }

    async fn get_json<T: serde::de::DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        answer(url, self.http.get(url)).await
    }
}

async fn answer<T: serde::de::DeserializeOwned>(url: &str, request: reqwest::RequestBuilder) -> anyhow::Result<T> {
    let (status, body) = bytes(request).await.map_err(|e| anyhow::anyhow!("{url}: {e}"))?;
    if !status.is_success() {
        bail!("{url}: {}", problem(status, &body));
    }
    serde_json::from_slice(&body).with_context(|| format!("{url}: unexpected answer"))
}

async fn bytes(request: reqwest::RequestBuilder) -> Result<(StatusCode, Vec<u8>), String> {
    let answer = request.send().await.map_err(|error| describe(&error))?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|error| describe(&error))?;
    Ok((status, body.to_vec()))
}

/// A batch in which nothing was accepted is a refusal.
fn batch_answer(body: &[u8]) -> Submitted {
    let answer: BatchAnswer = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) => return Submitted::Refused(format!("an answer that is no batch: {error}")),
    };
    let refused = answer.results.iter().find(|item| item.status >= 400);
    let why = refused.map(|item| (item.status, detail(item.problem.as_ref())));
    let jobs: Vec<Job> = answer.results.into_iter().filter_map(|item| item.job).collect();
    match why {
        Some((429, why)) if jobs.is_empty() => Submitted::Full(why),
        Some((status, why)) if jobs.is_empty() => Submitted::Refused(format!("{status}: {why}")),
        _ => Submitted::Accepted(jobs),
    }
}

/// `type` with a payload of these bytes.
pub(super) fn submission(kind: &str, payload: &[u8]) -> Value {
    json!({ "type": kind, "payload": base64::engine::general_purpose::STANDARD.encode(payload) })
}

fn problem(status: StatusCode, body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    format!("{}: {}", status.as_u16(), detail(problem.as_ref()))
}

fn detail(problem: Option<&Value>) -> String {
    let field = |name| problem.and_then(|problem| problem.get(name)).and_then(Value::as_str);
    match (field("code"), field("detail")) {
        (Some(code), Some(detail)) => format!("{code}: {detail}"),
        (one, other) => one.or(other).unwrap_or("no problem document").to_owned(),
    }
}

/// reqwest hides the cause in its sources.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_jobs_are_those_no_longer_open() {
        let status: Status = serde_json::from_str(
            r#"{"role":"leader","jobs":{"pending":10,"assigned":2,"running":3,"completed":50,"failed":1},"jobs_submitted_total":1000}"#,
        )
        .unwrap();
        assert_eq!((status.pending(), status.ended()), (10, 985));
    }

    #[test]
    fn a_batch_answer_tells_accepted_from_full() {
        let accepted = br#"{"results":[{"status":201,"job":{"id":"a","state":"pending","attempt":0}},{"status":422,"problem":{"code":"invalid_field"}}]}"#;
        assert!(matches!(batch_answer(accepted), Submitted::Accepted(jobs) if jobs.len() == 1 && jobs[0].id == "a"));
        let full = br#"{"results":[{"status":429,"problem":{"code":"backlog_full","detail":"200000 jobs wait"}}]}"#;
        assert!(matches!(batch_answer(full), Submitted::Full(why) if why == "backlog_full: 200000 jobs wait"));
        let bad = br#"{"results":[{"status":422,"problem":{"code":"invalid_field"}}]}"#;
        assert!(matches!(batch_answer(bad), Submitted::Refused(why) if why == "422: invalid_field"));
        assert!(matches!(batch_answer(b"<html>"), Submitted::Refused(_)));
    }

    #[test]
    fn a_node_that_is_no_url_is_refused() {
        let error = Cluster::new(&["localhost".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("expected http://"), "{error}");
        let cluster = Cluster::new(&["http://a:1/".to_owned(), "http://b:2".to_owned()]).unwrap();
        assert_eq!((cluster.node(0), cluster.node(1), cluster.node(2)), ("http://a:1", "http://b:2", "http://a:1"));
    }
}
