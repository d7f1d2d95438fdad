//! Requests to Starknet's JSON-RPC, over HTTP, at several endpoints.
//!
//! An endpoint that fails is asked again last, one that asks to be left alone is
//! not asked before its time. Before an endpoint's first answer counts, and after
//! each failure, it is asked which chain it is of: one of another chain is not
//! used.
//!
//! A question may be asked anywhere, several times. A transaction is sent once:
//! to the next endpoint only if nothing of it reached the one before.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use starknet::providers::ProviderRequestData;
use starknet::providers::jsonrpc::{JsonRpcMethod, JsonRpcResponse, JsonRpcTransport};
use tokio_util::sync::CancellationToken;

use crate::chain::{Error, Hidden, Options};
use crate::clock;
use crate::domain::chain::Felt;

/// Bytes of an answer. Beyond it the answer is refused.
const ANSWER_MAX: usize = 16 << 20;

/// Shortest and longest pause of an endpoint that failed, or that was asked too often and did not say how long.
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(15);

/// The longest pause an endpoint can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// How long an endpoint of another chain is left alone.
const OTHER_CHAIN_REST: Duration = Duration::from_secs(5);

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Nothing of it was taken in.
    #[error("{0}")]
    NotSent(String),
    /// It may have been taken in.
    #[error("{0}")]
    Lost(String),
    #[error("asked to wait {} ms", .0.as_millis())]
    Busy(Duration),
    #[error("{found} is another chain than {expected}")]
    OtherChain { expected: String, found: String },
    #[error("the node stops")]
    Stopping,
}

impl Fault {
    /// Whether a transaction may be sent elsewhere.
    fn is_harmless(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Busy(_) | Self::OtherChain { .. })
    }
}

#[derive(Clone)]
pub(super) struct Transport(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    endpoints: Vec<Endpoint>,
    request: Duration,
    /// As configured, or as the first endpoint said.
    chain: OnceLock<Felt>,
    /// The endpoint that answered last.
    last: AtomicUsize,
    stopping: CancellationToken,
}

struct Endpoint {
    url: Hidden,
    shown: String,
    condition: Mutex<Condition>,
}

#[derive(Debug, Default)]
struct Condition {
    failures: u32,
    /// Asked last before this, or not at all if it asked for that itself.
    rest_until: Option<Instant>,
    left_alone: bool,
    /// Since its last failure it said that it is of our chain.
    verified: bool,
}

#[derive(Serialize)]
struct Request<P> {
    id: u64,
    jsonrpc: &'static str,
    method: JsonRpcMethod,
    params: P,
}

#[derive(Deserialize)]
struct ChainId {
    result: String,
}

impl Transport {
    pub(super) fn new(options: &Options, stopping: CancellationToken) -> Result<Self, Error> {
        let request = options.timing.request;
        // A redirect would carry what is in the URL elsewhere.
        let http = reqwest::Client::builder()
            .connect_timeout(request / 2)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::Refused(format!("make an HTTP client: {}", error.without_url())))?;
        let endpoint = |rpc: &crate::chain::Rpc| Endpoint {
            url: rpc.url.clone(),
            shown: rpc.shown.clone(),
            condition: Mutex::default(),
        };
        let chain = OnceLock::new();
        if let Some(expected) = options.chain_id {
            chain.get_or_init(|| expected);
        }
        let endpoints = options.rpc.iter().map(endpoint).collect();
        Ok(Self(Arc::new(Inner { http, endpoints, request, chain, last: AtomicUsize::new(0), stopping })))
    }

    pub(super) fn chain_id(&self) -> Option<Felt> {
        self.0.chain.get().copied()
    }

    /// The endpoint that answered last, without credentials.
    pub(super) fn shown(&self) -> Option<String> {
        let last = self.0.last.load(Ordering::Relaxed);
        self.0.endpoints.get(last).map(|endpoint| endpoint.shown.clone())
    }

    async fn request<P: Serialize>(&self, method: JsonRpcMethod, params: P) -> Result<Bytes, Fault> {
        let repeatable = !matches!(
            method,
            JsonRpcMethod::AddInvokeTransaction
                | JsonRpcMethod::AddDeclareTransaction
                | JsonRpcMethod::AddDeployAccountTransaction
        );
        let body = encode(method, params)?;
        let mut last = None;
        for endpoint in self.in_order()? {
            let asked = async {
                self.verify(endpoint).await?;
                self.exchange(endpoint, body.clone()).await
            };
            let Some(answer) = self.0.stopping.run_until_cancelled(asked).await else { return Err(Fault::Stopping) };
            match answer {
                Ok(answer) => {
                    self.note_answer(endpoint);
                    return Ok(answer);
                }
                Err(fault) => {
                    endpoint.note_fault(&fault);
                    if !repeatable && !fault.is_harmless() {
                        return Err(fault);
                    }
                    last = Some(fault);
                }
            }
        }
        Err(last.unwrap_or_else(|| Fault::NotSent("no endpoint is configured".to_owned())))
    }

    /// Those that may be asked: first those that are well, in the order they were configured.
    fn in_order(&self) -> Result<Vec<&Endpoint>, Fault> {
        let now = clock::instant();
        let mut usable: Vec<(Option<Instant>, &Endpoint)> = vec![];
        let mut shortest: Option<Duration> = None;
        for endpoint in &self.0.endpoints {
            let condition = endpoint.condition();
            let rest = condition.rest_until.filter(|until| *until > now);
            match rest {
                Some(until) if condition.left_alone => {
                    let wait = until - now;
                    shortest = Some(shortest.map_or(wait, |known| known.min(wait)));
                }
                rest => usable.push((rest, endpoint)),
            }
        }
        if let (true, Some(wait)) = (usable.is_empty(), shortest) {
            return Err(Fault::Busy(wait));
        }
        usable.sort_by_key(|(rest, _)| *rest);
        Ok(usable.into_iter().map(|(_, endpoint)| endpoint).collect())
    }

    fn note_answer(&self, endpoint: &Endpoint) {
        *endpoint.condition() = Condition { verified: true, ..Condition::default() };
        let index = self.0.endpoints.iter().position(|known| std::ptr::eq(known, endpoint)).unwrap_or_default();
        self.0.last.store(index, Ordering::Relaxed);
    }

    /// Makes sure that the endpoint is of our chain.
    async fn verify(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        if endpoint.condition().verified {
            return Ok(());
        }
        // Whatever goes wrong here, nothing was sent yet.
        let unsent = |fault: Fault| match fault {
            Fault::Lost(text) => Fault::NotSent(text),
            other => other,
        };
        let answer = self.exchange(endpoint, encode(JsonRpcMethod::ChainId, [(); 0])?).await.map_err(unsent)?;
        let found = serde_json::from_slice::<ChainId>(&answer).ok().and_then(|chain| chain.result.parse::<Felt>().ok());
        let found = found.ok_or_else(|| Fault::NotSent("it does not say which chain it is of".to_owned()))?;
        let expected = *self.0.chain.get_or_init(|| found);
        if found != expected {
            return Err(Fault::OtherChain { expected: name(expected), found: name(found) });
        }
        endpoint.condition().verified = true;
        Ok(())
    }

    async fn exchange(&self, endpoint: &Endpoint, body: Bytes) -> Result<Bytes, Fault> {
        let limit = self.0.request;
        match tokio::time::timeout(limit, self.post(endpoint, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::Lost(format!("no answer within {} ms", limit.as_millis()))),
        }
    }

    async fn post(&self, endpoint: &Endpoint, body: Bytes) -> Result<Bytes, Fault> {
        let request = self.0.http.post(endpoint.url.expose()).header(CONTENT_TYPE, "application/json").body(body);
        let mut response = request.send().await.map_err(fault)?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Fault::Busy(retry_after(&response).unwrap_or_else(|| endpoint.next_rest())));
        }
        if !status.is_success() {
            return Err(Fault::Lost(format!("HTTP status {}", status.as_u16())));
        }
        let mut answer = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(fault)? {
            if answer.len() + chunk.len() > ANSWER_MAX {
                return Err(Fault::Lost(format!("the answer is longer than {ANSWER_MAX} bytes")));
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(answer.freeze())
    }
}

impl Endpoint {
    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it rests after one more failure: longer each time, with jitter.
    fn next_rest(&self) -> Duration {
        let doubled = REST_MIN.saturating_mul(1 << self.condition().failures.min(10));
        doubled.min(REST_MAX).mul_f64(rand::random_range(0.75..1.25))
    }

    fn note_fault(&self, fault: &Fault) {
        let (rest, left_alone) = match fault {
            Fault::Busy(wait) => (*wait, true),
            Fault::OtherChain { .. } => (OTHER_CHAIN_REST, true),
            Fault::NotSent(_) | Fault::Lost(_) => (self.next_rest(), false),
            Fault::Stopping => return,
        };
        let mut condition = self.condition();
        condition.failures = condition.failures.saturating_add(1);
        condition.rest_until = Some(clock::instant() + rest);
        condition.left_alone = left_alone;
        condition.verified &= matches!(fault, Fault::Busy(_));
    }
}

fn encode<P: Serialize>(method: JsonRpcMethod, params: P) -> Result<Bytes, Fault> {
    let request = Request { id: 1, jsonrpc: "2.0", method, params };
    let encoded = serde_json::to_vec(&request).map_err(|error| Fault::NotSent(format!("encode a request: {error}")))?;
    Ok(encoded.into())
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    // At least a little: who says 0 was still asked too often.
    Some(Duration::from_secs(seconds).clamp(REST_MIN, RETRY_AFTER_MAX))
}

/// The text of a failed exchange has no URL in it.
fn fault(error: reqwest::Error) -> Fault {
    let sent = !error.is_connect() && !error.is_builder();
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    if sent { Fault::Lost(text) } else { Fault::NotSent(text) }
}

/// `SN_SEPOLIA`, or the number if it is no name.
pub(super) fn name(chain: Felt) -> String {
    let text = String::from_utf8(chain.text().to_vec()).ok();
    text.filter(|text| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()))
        .unwrap_or_else(|| chain.to_string())
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// As the crate's attribute would write it.
impl JsonRpcTransport for Transport {
    type Error = Fault;

    fn send_request<'this, 'answer, P, R>(
        &'this self,
        method: JsonRpcMethod,
        params: P,
    ) -> Answer<'answer, JsonRpcResponse<R>>
    where
        P: Serialize + Send + Sync + 'answer,
        R: DeserializeOwned + Send + 'answer,
        'this: 'answer,
        Self: 'answer,
    {
        Box::pin(async move {
            let answer = self.request(method, params).await?;
            serde_json::from_slice(&answer).map_err(|_| Fault::Lost("the answer is not what was asked for".to_owned()))
        })
    }

    fn send_requests<'this, 'answer, R>(&'this self, _: R) -> Answer<'answer, Vec<JsonRpcResponse<Value>>>
    where
        R: AsRef<[ProviderRequestData]> + Send + Sync + 'answer,
        'this: 'answer,
        Self: 'answer,
    {
        Box::pin(async { Err(Fault::NotSent("several questions in one request are not asked".to_owned())) })
    }
}
