//! What clients do while the nemesis is at work.
//!
//! A pool of jobs that grows; every client takes any of them at any node, so that
//! each job has many clients. Most jobs end at once, some fail and are retried,
//! some take a while, and some are of a type that nobody runs and wait until they
//! are cancelled. Ids come from idempotency keys, so jobs are asked for before
//! they exist.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ciro::domain::JobId;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::recorder::{Ask, Recorder, Session, Told, certain, sight};
use crate::client::Answer as Reply;
use crate::history::model::{Answer, Call, Phase, Sight};
use crate::history::{Fresh, phase};

/// Jobs of one batch.
const BATCH: usize = 8;

/// Most clients take one of the jobs that came last.
const RECENT: usize = 40;

/// Jobs in one list.
const PAGE: usize = 100;

/// A client gives up on a read, and on a write: a little after the node has.
const READ: Duration = Duration::from_secs(6);
const WRITE: Duration = Duration::from_secs(11);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Ends at once.
    Noop,
    /// Fails at once.
    Flop,
    /// Takes a part of a second.
    Nap,
    /// No worker runs it.
    Orphan,
}

pub struct Key {
    pub number: usize,
    pub id: String,
    /// Its idempotency key, or its batch's.
    name: String,
    /// The batch it is part of: the number of its first job.
    batch: Option<usize>,
    pub sort: Sort,
}

#[derive(Default)]
struct Pool {
    keys: Vec<Arc<Key>>,
    by_id: BTreeMap<String, usize>,
}

#[derive(Clone)]
pub struct Load {
    pub recorder: Recorder,
    pool: Arc<Mutex<Pool>>,
    /// What sets this run's idempotency keys apart.
    name: String,
    nodes: usize,
    calm: Arc<AtomicBool>,
    pub requests: Arc<AtomicU64>,
}

impl Load {
    /// Asks the first `nodes` nodes.
    pub fn new(recorder: Recorder, name: String, nodes: usize) -> Self {
        Self { recorder, pool: Arc::default(), name, nodes, calm: Arc::default(), requests: Arc::default() }
    }

    /// Asks every client to stop.
    pub fn stop(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    pub fn stopped(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// One client, until it is asked to stop.
    pub async fn client(self, number: usize, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut session = Session::new(number);
        while !self.stopped() {
            let node = rng.random_range(0..self.nodes);
            self.one(&mut session, node, &mut rng).await;
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn one(&self, session: &mut Session, node: usize, rng: &mut StdRng) {
        let dice = rng.random_range(0..1_000);
        let fresh = match rng.random_range(0..10) {
            0..=2 => Fresh::Linearizable,
            3..=6 => Fresh::Session,
            _ => Fresh::Stale,
        };
        if dice < 25 {
            let key = self.fresh_key(rng);
            return self.submit(session, node, &key, 0).await;
        }
        if dice < 30 {
            let key = self.fresh_batch(rng);
            return self.submit(session, node, &key, 0).await;
        }
        let Some(key) = self.any(rng) else { return };
        match dice {
            30..60 => self.submit(session, node, &key, u8::from(rng.random_range(0..8) == 0)).await,
            60..85 => self.change(session, node, &key, Call::Cancel).await,
            85..115 => self.change(session, node, &key, Call::Retry).await,
            115..150 => self.result(session, node, &key, fresh).await,
            150..155 => self.wait(session, node, &key, fresh).await,
            155..190 => self.list(session, node, rng.random(), fresh).await,
            190..600 => drop(self.look(session, node, &key, "/status", fresh).await),
            _ => drop(self.look(session, node, &key, "", fresh).await),
        }
    }

    // ------------------------------------------------------------------ jobs

    fn with<T>(&self, look: impl FnOnce(&mut Pool) -> T) -> T {
        look(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn keys(&self) -> Vec<Arc<Key>> {
        self.with(|pool| pool.keys.clone())
    }

    fn any(&self, rng: &mut StdRng) -> Option<Arc<Key>> {
        self.with(|pool| {
            let all = pool.keys.len();
            let first = if rng.random_range(0..4) == 0 { 0 } else { all.saturating_sub(RECENT) };
            (all > 0).then(|| Arc::clone(&pool.keys[rng.random_range(first..all)]))
        })
    }

    fn fresh_key(&self, rng: &mut StdRng) -> Arc<Key> {
        let sort = match rng.random_range(0..20) {
            0..12 => Sort::Noop,
            12..14 => Sort::Flop,
            14..15 => Sort::Nap,
            _ => Sort::Orphan,
        };
        self.add(1, false, sort, |number, _| (JobId::from_key("api", &self.key(number)), self.key(number)))
    }

    fn fresh_batch(&self, rng: &mut StdRng) -> Arc<Key> {
        let sort = if rng.random_range(0..4) == 0 { Sort::Orphan } else { Sort::Noop };
        let item = |first: usize, index: usize| {
            let name = self.key(first);
            (JobId::from_key("api batch", &format!("{name}#{index}")), name)
        };
        self.add(BATCH, true, sort, item)
    }

    fn key(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Adds so many keys, one behind the other, and returns the first. `name`: of the first's number, and a place.
    fn add(&self, count: usize, batch: bool, sort: Sort, name: impl Fn(usize, usize) -> (JobId, String)) -> Arc<Key> {
        // The name first: whoever finds the key in the pool may write about it.
        let mut history = self.recorder.lock();
        self.with(|pool| {
            let first = pool.keys.len();
            for place in 0..count {
                let (id, name) = name(first, place);
                let (number, batch) = (first + place, batch.then_some(first));
                let key = Arc::new(Key { number, id: id.to_string(), name, batch, sort });
                history.names.push(format!("job {} ({:?})", key.id, key.sort));
                pool.by_id.insert(key.id.clone(), number);
                pool.keys.push(key);
            }
            Arc::clone(&pool.keys[first])
        })
    }

    // ------------------------------------------------------------ operations

    async fn submit(&self, session: &mut Session, node: usize, key: &Key, body: u8) {
        let Some(first) = key.batch else {
            let ask = Ask::write(reqwest::Method::POST, "/jobs".to_owned(), WRITE);
            let ask = Ask { key: Some(key.name.clone()), body: Some(key.sort.body(body)), ..ask };
            let number = key.number;
            self.recorder
                .ask(session, node, ask, |reply| {
                    vec![submitted(number, body, reply, |reply| (reply.status, reply.code().to_owned(), &reply.body))]
                })
                .await;
            return;
        };
        let ask = Ask::write(reqwest::Method::POST, "/jobs/batch".to_owned(), WRITE);
        let ask = Ask { key: Some(key.name.clone()), body: Some(json!(vec![key.sort.body(body); BATCH])), ..ask };
        let items = |reply: Option<&Reply>| {
            let whole = reply.filter(|reply| reply.status != 200);
            let item = |index: usize| {
                submitted(first + index, body, reply, |reply| match whole {
                    Some(reply) => (reply.status, reply.code().to_owned(), &reply.body),
                    None => {
                        let item = &reply.body["results"][index];
                        let code = item["problem"]["code"].as_str().unwrap_or_default().to_owned();
                        (u16::try_from(item["status"].as_u64().unwrap_or(0)).unwrap_or(0), code, &item["job"])
                    }
                })
            };
            (0..BATCH).map(item).collect()
        };
        self.recorder.ask(session, node, ask, items).await;
    }

    /// Cancels, or retries.
    pub async fn change(&self, session: &mut Session, node: usize, key: &Key, call: Call) {
        let ask = match call {
            Call::Retry => Ask::write(reqwest::Method::POST, format!("/jobs/{}/retry", key.id), WRITE),
            _ => Ask::write(reqwest::Method::DELETE, format!("/jobs/{}", key.id), WRITE),
        };
        self.recorder.ask(session, node, ask, |reply| vec![changed(key.number, call, reply)]).await;
    }

    pub async fn look(&self, session: &mut Session, node: usize, key: &Key, part: &str, fresh: Fresh) -> Option<Reply> {
        let ask = Ask::get(format!("/jobs/{}{part}", key.id), fresh, READ);
        self.recorder.ask(session, node, ask, |reply| vec![looked(key.number, reply)]).await
    }

    async fn wait(&self, session: &mut Session, node: usize, key: &Key, fresh: Fresh) {
        let ask = Ask::get(format!("/jobs/{}?wait=terminal&timeout_secs=1", key.id), fresh, READ);
        self.recorder.ask(session, node, ask, |reply| vec![looked(key.number, reply)]).await;
    }

    async fn result(&self, session: &mut Session, node: usize, key: &Key, fresh: Fresh) {
        let ask = Ask::get(format!("/jobs/{}/result", key.id), fresh, READ);
        self.recorder.ask(session, node, ask, |reply| vec![result(key.number, reply)]).await;
    }

    /// A page of all jobs from anywhere on: shows those on it, and that between them there are no others.
    async fn list(&self, session: &mut Session, node: usize, from: [u8; 16], fresh: Fresh) {
        let cursor = hex::encode(from);
        let from = JobId(from).to_string();
        let known = self.with(|pool| pool.keys.len());
        let ask = Ask::get(format!("/jobs?state=all&limit={PAGE}&cursor={cursor}"), fresh, READ);
        self.recorder
            .ask(session, node, ask, |reply| {
                let Some(reply) = reply.filter(|reply| reply.status == 200) else { return vec![] };
                self.with(|pool| page(pool, known, &from, &reply.body))
            })
            .await;
    }
}

impl Sort {
    /// Another number is another body.
    fn body(self, number: u8) -> Value {
        let (kind, payload) = match self {
            Self::Noop => ("noop", ""),
            Self::Flop => ("flop", ""),
            // "0.3" and a line's end
            Self::Nap => ("nap", "MC4zCg=="),
            Self::Orphan => ("orphan", ""),
        };
        // Neither times out: what is unseen of it is only where it stands.
        let retry = json!({"max_attempts": 10, "initial_delay_ms": 100, "multiplier": 1, "max_delay_ms": 1000});
        let mut body = json!({"type": kind, "payload": payload, "priority": 5 + number, "retry": retry});
        if self == Self::Flop {
            body["retry"]["max_attempts"] = json!(2);
        }
        body
    }
}

/// What of a submission's answer is about one job: status, code, and the job.
fn submitted<'a>(
    key: usize,
    body: u8,
    reply: Option<&'a Reply>,
    part: impl FnOnce(&'a Reply) -> (u16, String, &'a Value),
) -> Told {
    let told = |answer| Told::new(key, Call::Submit { body }, answer);
    let Some(reply) = reply else { return told(Answer::Unknown) };
    let (status, code, job) = part(reply);
    let answer = match (status, code.as_str()) {
        (201, _) => Answer::Created,
        (200, _) => Answer::Existing,
        (_, "idempotency_conflict") => Answer::Conflict,
        (status, code) if status > 0 && certain(status, code) => Answer::Refused,
        _ => Answer::Unknown,
    };
    Told { submitted: job["submitted_index"].as_u64(), body: sight(job), ..told(answer) }
}

fn changed(key: usize, call: Call, reply: Option<&Reply>) -> Told {
    let told = |answer| Told::new(key, call, answer);
    let Some(reply) = reply else { return told(Answer::Unknown) };
    // "job … is already completed", and maybe more about it
    let ended = || reply.body["detail"].as_str()?.split([' ', ',']).find_map(phase);
    let answer = match (reply.status, reply.code()) {
        (200, _) => Answer::Done,
        (_, "unknown_job") => Answer::Absent,
        (_, "already_finished") => ended().map_or(Answer::Refused, Answer::Ended),
        (status, code) if certain(status, code) => Answer::Refused,
        _ => Answer::Unknown,
    };
    Told { submitted: reply.body["submitted_index"].as_u64(), body: sight(&reply.body), ..told(answer) }
}

fn looked(key: usize, reply: Option<&Reply>) -> Told {
    let told = |answer| Told::new(key, Call::Look, answer);
    let Some(reply) = reply else { return told(Answer::Unknown) };
    match (reply.status, reply.code(), sight(&reply.body)) {
        (200, _, Some(sight)) => Told {
            index: reply.body["applied_index"].as_u64(),
            submitted: reply.body["submitted_index"].as_u64(),
            ..told(Answer::Seen(sight))
        },
        (_, "unknown_job", _) => told(Answer::Absent),
        _ => told(Answer::Refused),
    }
}

fn result(key: usize, reply: Option<&Reply>) -> Told {
    let told = |answer| Told::new(key, Call::Look, answer);
    let Some(reply) = reply else { return told(Answer::Unknown) };
    let attempt = reply.body["attempt"].as_u64().and_then(|attempt| u32::try_from(attempt).ok());
    match (reply.status, reply.code(), attempt) {
        (200, _, Some(attempt)) => told(Answer::Seen(Sight::new(Phase::Completed, attempt))),
        (_, "not_finished", _) => told(Answer::Open),
        (_, "no_result", _) => told(Answer::NoResult),
        (_, "unknown_job", _) => told(Answer::Absent),
        _ => told(Answer::Refused),
    }
}

/// Every job of ours on the page, and of the first `known` those that belong on it and are not there.
fn page(pool: &Pool, known: usize, from: &str, body: &Value) -> Vec<Told> {
    let index = body["applied_index"].as_u64();
    let jobs = body["jobs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut told = BTreeMap::new();
    for job in jobs {
        let (Some(id), Some(sight)) = (job["id"].as_str(), sight(job)) else { continue };
        if let Some(key) = pool.by_id.get(id) {
            let seen = Told { index, submitted: job["submitted_index"].as_u64(), ..look(*key, Answer::Seen(sight)) };
            told.insert(*key, seen);
        }
    }
    let last = jobs.last().and_then(|job| job["id"].as_str()).filter(|_| !body["next_cursor"].is_null());
    let after = pool.by_id.range::<str, _>((std::ops::Bound::Excluded(from), std::ops::Bound::Unbounded));
    for (_, key) in after.take_while(|(id, _)| last.is_none_or(|last| id.as_str() <= last)) {
        if *key < known {
            told.entry(*key).or_insert_with(|| Told { index, ..look(*key, Answer::Absent) });
        }
    }
    told.into_values().collect()
}

fn look(key: usize, answer: Answer) -> Told {
    Told::new(key, Call::Look, answer)
}
