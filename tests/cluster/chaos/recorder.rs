//! Clients that write down what they asked and what they were told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ciro::clock;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::client::{Answer as Reply, Client, answer};
use crate::history::model::{Answer, Call, Sight};
use crate::history::{Fresh, History, Micros, NEVER, Op, Request, phase};
use crate::observer::Observer;

/// The answer by which a node passes a session on, and by which a client hands it to another.
const SESSION: &str = "X-Ciro-Session";

/// Cheap to clone; all clones write into one history.
#[derive(Clone)]
pub struct Recorder {
    pub client: Client,
    observer: Observer,
    history: Arc<Mutex<History>>,
    begun: Instant,
}

/// A client that does one thing after another, and remembers what it was shown.
pub struct Session {
    pub number: usize,
    /// The highest index it was shown.
    told: u64,
    /// Its session, if the nodes speak of sessions; else its index does.
    token: Option<String>,
}

/// What a request says of one job; the recorder adds the rest.
pub struct Told {
    pub key: usize,
    pub call: Call,
    pub answer: Answer,
    pub index: Option<u64>,
    pub submitted: Option<u64>,
    pub body: Option<Sight>,
}

impl Told {
    pub fn new(key: usize, call: Call, answer: Answer) -> Self {
        Self { key, call, answer, index: None, submitted: None, body: None }
    }
}

/// A request to make.
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub fresh: Fresh,
    pub limit: Duration,
    pub key: Option<String>,
    pub body: Option<Value>,
}

impl Ask {
    pub fn get(path: String, fresh: Fresh, limit: Duration) -> Self {
        Self { method: Method::GET, path, fresh, limit, key: None, body: None }
    }

    pub fn write(method: Method, path: String, limit: Duration) -> Self {
        Self { method, path, fresh: Fresh::Linearizable, limit, key: None, body: None }
    }
}

impl Session {
    pub fn new(number: usize) -> Self {
        Self { number, told: 0, token: None }
    }

    /// Asks for what the session was shown, by its token where there is one.
    fn carried(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.header(SESSION, token),
            None => request.query(&[("min_index", self.told)]),
        }
    }

    fn learn(&mut self, reply: &Reply) {
        let applied = reply.header("X-Ciro-Applied-Index").parse().unwrap_or(0);
        let token = reply.header(SESSION);
        // Who asked without a token is told of what that node has, which may be less than the session saw.
        if !token.is_empty() && applied >= self.told {
            self.token = Some(token.to_owned());
        }
        self.told = self.told.max(applied);
    }
}

impl Recorder {
    pub fn new(client: &Client, observer: &Observer) -> Self {
        Self { client: client.clone(), observer: observer.clone(), history: Arc::default(), begun: clock::instant() }
    }

    /// Since the history began.
    pub fn now(&self) -> Micros {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(NEVER - 1)
    }

    pub fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks `node`, and writes down what `read` makes of the answer; `None` is no answer.
    pub async fn ask(
        &self,
        session: &mut Session,
        node: usize,
        ask: Ask,
        read: impl FnOnce(Option<&Reply>) -> Vec<Told>,
    ) -> Option<Reply> {
        let mut request = self.client.request(node, ask.method.clone(), &ask.path).timeout(ask.limit);
        if ask.method == Method::GET {
            request = match ask.fresh {
                Fresh::Linearizable => request.query(&[("consistency", "linearizable")]),
                Fresh::Session => session.carried(request),
                Fresh::Stale => request,
            };
        }
        request = ask.key.iter().fold(request, |request, key| request.header("Idempotency-Key", key));
        request = ask.body.iter().fold(request, RequestBuilder::json);
        let (life, start) = (self.observer.life(node), self.now());
        let reply = answer(request).await;
        let end = if reply.is_some() { self.now() } else { NEVER };
        let same = self.observer.life(node) == life && reply.is_some();
        if let Some(reply) = &reply {
            session.learn(reply);
        }
        let header = |name| reply.as_ref().and_then(|reply| reply.header(name).parse().ok());
        let record = Request {
            session: session.number,
            node,
            life: same.then_some(life),
            fresh: ask.fresh,
            start,
            end,
            applied: header("X-Ciro-Applied-Index"),
            staleness: header("X-Ciro-Staleness-Ms"),
            status: reply.as_ref().map_or(0, |reply| reply.status),
            code: reply.as_ref().map_or(String::new(), |reply| reply.code().to_owned()),
        };
        let told = read(reply.as_ref());
        let mut history = self.lock();
        let request = history.requests.len();
        history.requests.push(record);
        history.ops.extend(told.into_iter().map(|told| Op {
            request,
            key: told.key,
            call: told.call,
            answer: told.answer,
            index: told.index,
            submitted: told.submitted,
            body: told.body,
        }));
        drop(history);
        reply
    }
}

/// Where a job is, by any body that says it.
pub fn sight(job: &Value) -> Option<Sight> {
    Some(Sight::new(phase(job["state"].as_str()?)?, u32::try_from(job["attempt"].as_u64()?).ok()?))
}

/// Whether a problem of this status and code is the promise that nothing was done.
pub fn certain(status: u16, code: &str) -> bool {
    status < 500 || matches!(code, "no_leader" | "not_caught_up" | "storage_full" | "not_ready")
}
