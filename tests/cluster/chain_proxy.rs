//! What stands between the nodes and the chain: a JSON-RPC proxy with faults, by method.
//!
//! It drops, delays, repeats, refuses, holds; it never changes what the node has
//! answered. So whatever a leader is told is true, and what it is not told it has
//! to find out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ciro::tasks::Tasks;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::{secs, until};

pub const SEND: &str = "starknet_addInvokeTransaction";

#[derive(Clone)]
pub enum Fault {
    /// The connection ends, and nothing was passed on.
    Refuse,
    /// Passed on; the connection ends instead of an answer.
    DropAnswer,
    /// Passed on after this time.
    Delay(Duration),
    /// Passed on after up to this time.
    DelayUpTo(Duration),
    /// Passed on twice; the first answer is given.
    Twice,
    /// Not passed on: 429, with so many seconds in Retry-After.
    TooMany(u64),
    /// Not passed on: 503.
    Unavailable,
    /// Waits for the gate, then is passed on.
    HoldRequest(Gate),
    /// Passed on; the answer waits for the gate.
    HoldAnswer(Gate),
}

/// A fault, and which requests meet it.
#[derive(Clone)]
pub struct Rule {
    /// Empty: all.
    methods: &'static [&'static str],
    fault: Fault,
    percent: u32,
    /// How many more requests.
    left: usize,
}

impl Rule {
    /// Every request of these methods; none named: every request.
    pub fn all(methods: &'static [&'static str], fault: Fault) -> Self {
        Self { methods, fault, percent: 100, left: usize::MAX }
    }

    /// The next `left` of them.
    pub fn next(left: usize, methods: &'static [&'static str], fault: Fault) -> Self {
        Self { left, ..Self::all(methods, fault) }
    }

    /// Holds the next request before the node has it.
    pub fn hold_request(methods: &'static [&'static str]) -> Self {
        Self::next(1, methods, Fault::HoldRequest(Gate::default()))
    }

    /// Holds the answer to the next request.
    pub fn hold_answer(methods: &'static [&'static str]) -> Self {
        Self::next(1, methods, Fault::HoldAnswer(Gate::default()))
    }

    /// So many of a hundred.
    pub fn some(percent: u32, methods: &'static [&'static str], fault: Fault) -> Self {
        Self { percent, ..Self::all(methods, fault) }
    }
}

/// Holds requests, or answers, until it is opened or shut for good.
#[derive(Clone, Default)]
pub struct Gate {
    waiting: watch::Sender<usize>,
    /// `Some(false)`: the connection ends.
    verdict: watch::Sender<Option<bool>>,
}

impl Gate {
    /// Waits until something waits at the gate.
    pub async fn reached(&self, limit: Duration, what: &str) {
        until(limit, what, async || (*self.waiting.borrow() > 0).then_some(())).await;
    }

    pub fn open(&self) {
        self.verdict.send_replace(Some(true));
    }

    /// What waits is not passed on, ever.
    pub fn shut(&self) {
        self.verdict.send_replace(Some(false));
    }

    /// Whether it may go on.
    async fn wait(&self) -> bool {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let mut verdict = self.verdict.subscribe();
        verdict.wait_for(Option::is_some).await.ok().and_then(|verdict| *verdict).unwrap_or(false)
    }
}

#[derive(Clone)]
pub struct Proxy {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    rules: Mutex<Vec<Rule>>,
    rng: Mutex<StdRng>,
    /// Requests by method, whatever became of them.
    seen: Mutex<BTreeMap<String, usize>>,
    /// How many met a fault.
    faults: Mutex<usize>,
}

struct Request {
    methods: Vec<String>,
    body: Vec<u8>,
}

impl Proxy {
    pub async fn start(upstream: &str, seed: u64, tasks: &Tasks) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            http: reqwest::Client::builder().timeout(secs(60)).no_proxy().build().unwrap(),
            rules: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            seen: Mutex::default(),
            faults: Mutex::default(),
        });
        let (serving, group) = (Arc::clone(&shared), tasks.clone());
        tasks.spawn_until_stopped("chain proxy", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&serving);
                group.spawn_until_stopped("chain link", async move {
                    let _ = shared.serve(stream).await;
                });
            }
        });
        Self { url, shared }
    }

    /// Of several rules that fit, the first is followed.
    pub fn rule(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Before all others; the rule must be one that holds.
    pub fn first(&self, rule: Rule) -> Gate {
        let (Fault::HoldRequest(gate) | Fault::HoldAnswer(gate)) = &rule.fault else {
            panic!("a rule that holds nothing")
        };
        let gate = gate.clone();
        lock(&self.shared.rules).insert(0, rule);
        gate
    }

    /// From now on all is passed on, also what waits at a gate that nobody shut.
    pub fn heal(&self) {
        for rule in lock(&self.shared.rules).drain(..) {
            if let Fault::HoldRequest(gate) | Fault::HoldAnswer(gate) = rule.fault {
                gate.verdict.send_if_modified(|verdict| verdict.replace(verdict.unwrap_or(true)).is_none());
            }
        }
    }

    /// Requests of a method so far, whatever became of them.
    pub fn seen(&self, method: &str) -> usize {
        lock(&self.shared.seen).get(method).copied().unwrap_or(0)
    }

    pub fn seen_in_all(&self) -> usize {
        lock(&self.shared.seen).values().sum()
    }

    /// Requests that met a fault so far.
    pub fn faults(&self) -> usize {
        *lock(&self.shared.faults)
    }
}

impl Shared {
    /// One connection, request by request, until either side has enough.
    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let _ = stream.set_nodelay(true);
        let (from, mut to) = stream.into_split();
        let mut from = BufReader::new(from);
        while let Some(request) = read(&mut from).await? {
            let Some(answer) = self.answer(request).await else { return Ok(()) };
            to.write_all(&answer).await?;
        }
        Ok(())
    }

    /// The bytes of the whole answer; `None`: the connection ends.
    async fn answer(&self, request: Request) -> Option<Vec<u8>> {
        match self.fault(&request.methods) {
            None => self.pass_on(&request).await,
            Some(Fault::Refuse) => None,
            Some(Fault::DropAnswer) => {
                self.pass_on(&request).await;
                None
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                self.pass_on(&request).await
            }
            Some(Fault::DelayUpTo(time)) => {
                let time = time.mul_f64(lock(&self.rng).random());
                tokio::time::sleep(time).await;
                self.pass_on(&request).await
            }
            Some(Fault::Twice) => {
                let first = self.pass_on(&request).await;
                self.pass_on(&request).await;
                first
            }
            Some(Fault::TooMany(secs)) => Some(head("429 Too Many Requests", &format!("retry-after: {secs}\r\n"), b"")),
            Some(Fault::Unavailable) => Some(head("503 Service Unavailable", "", b"")),
            Some(Fault::HoldRequest(gate)) => {
                if !gate.wait().await {
                    return None;
                }
                self.pass_on(&request).await
            }
            Some(Fault::HoldAnswer(gate)) => {
                let answer = self.pass_on(&request).await;
                if gate.wait().await { answer } else { None }
            }
        }
    }

    fn fault(&self, methods: &[String]) -> Option<Fault> {
        for method in methods {
            *lock(&self.seen).entry(method.clone()).or_default() += 1;
        }
        let chance = lock(&self.rng).random_range(0..100);
        let mut rules = lock(&self.rules);
        let fits =
            |rule: &Rule| rule.methods.is_empty() || methods.iter().any(|it| rule.methods.contains(&it.as_str()));
        let at = rules.iter().position(|rule| rule.left > 0 && fits(rule) && chance < rule.percent)?;
        let rule = &mut rules[at];
        if rule.left != usize::MAX {
            rule.left -= 1;
        }
        *lock(&self.faults) += 1;
        Some(rule.fault.clone())
    }

    /// What the node answered, byte for byte; `None`: it did not.
    async fn pass_on(&self, request: &Request) -> Option<Vec<u8>> {
        let sent = self.http.post(&self.upstream).header("content-type", "application/json");
        let answer = sent.body(request.body.clone()).send().await.ok()?;
        let status = answer.status();
        let body = answer.bytes().await.ok()?;
        Some(head(&format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("-")), "", &body))
    }
}

fn head(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// The next request of a connection; `None`: there is none any more.
async fn read(from: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> std::io::Result<Option<Request>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    let named = |call: &Value| call["method"].as_str().unwrap_or_default().to_owned();
    let methods = match serde_json::from_slice(&body) {
        Ok(Value::Array(calls)) => calls.iter().map(named).collect(),
        Ok(call) => vec![named(&call)],
        Err(_) => vec![],
    };
    Ok(Some(Request { methods, body }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
