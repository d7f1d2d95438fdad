//! What clients asked and were told, and whether one log could have told it so.
//!
//! Clients write down every operation with the time it was invoked and the time
//! it was answered, by the one monotonic clock of the test process. After a run
//! [`judge`] holds the history against what is promised:
//!
//! * [`wgl`]: for each job, writes and linearizable reads can be put in one order
//!   that respects real time and the life of a job ([`model`]). An operation whose
//!   outcome is unknown may take effect at any time after it was invoked, or never;
//!   one that was refused has no effect.
//! * [`order`]: what is read at a log index is the same everywhere, a job only
//!   moves forward with the index, and a linearizable read is at no index below
//!   one that anybody was shown before.
//! * [`sessions`]: a client that carries its session from node to node reads its
//!   own writes and nothing older than it read before.
//! * [`nodes`]: within a life of its process, a node's applied index never goes
//!   back, and the staleness it tells is no less than the truth.
//!
//! Jobs are independent of each other, so each is checked by itself. Deliberately
//! absent: any knowledge of which faults were at work.

pub mod model;
pub mod nodes;
pub mod order;
pub mod sessions;
pub mod tests;
pub mod wgl;

use std::collections::BTreeMap;
use std::fmt;

use model::{Answer, Call, Phase, Sight};

/// Microseconds since the history began.
pub type Micros = u64;

/// When an operation ended whose outcome nobody knows.
pub const NEVER: Micros = Micros::MAX;

/// How fresh a read was asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// A write, or a read with everything committed before it was asked.
    Linearizable,
    /// With everything that the session was shown.
    Session,
    /// The node's own state.
    Stale,
}

/// What one request did to, or showed of, one job.
#[derive(Clone, Debug)]
pub struct Op {
    /// The request it was part of: an index into [`History::requests`].
    pub request: usize,
    pub key: usize,
    pub call: Call,
    pub answer: Answer,
    /// The log index of the state that was read, where the answer says it exactly.
    pub index: Option<u64>,
    /// The index at which the job says it was submitted.
    pub submitted: Option<u64>,
    /// For a write: how its answer showed the job. Read on that node after the write was applied there.
    pub body: Option<Sight>,
}

/// One request and the headers of its answer.
#[derive(Clone, Debug)]
pub struct Request {
    pub session: usize,
    pub node: usize,
    /// The life of the node's process, if it was the same before and after.
    pub life: Option<u64>,
    pub fresh: Fresh,
    pub start: Micros,
    pub end: Micros,
    /// `X-Ciro-Applied-Index`.
    pub applied: Option<u64>,
    /// `X-Ciro-Staleness-Ms`.
    pub staleness: Option<u64>,
    /// HTTP status; 0 if no answer came.
    pub status: u16,
    /// What a failed one was told.
    pub code: String,
}

impl Request {
    pub fn answered(&self) -> bool {
        self.end != NEVER
    }
}

#[derive(Default)]
pub struct History {
    pub requests: Vec<Request>,
    pub ops: Vec<Op>,
    /// What the keys stand for, for people.
    pub names: Vec<String>,
}

impl History {
    /// The numbers of the operations on each key, in the order of their invocation.
    pub fn by_key(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut keys: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, op) in self.ops.iter().enumerate() {
            keys.entry(op.key).or_default().push(number);
        }
        for ops in keys.values_mut() {
            ops.sort_by_key(|op| self.request(*op).start);
        }
        keys
    }

    pub fn request(&self, op: usize) -> &Request {
        &self.requests[self.ops[op].request]
    }

    /// One line for people.
    pub fn line(&self, number: usize) -> String {
        let (op, request) = (&self.ops[number], self.request(number));
        let ms = |at: Micros| if at == NEVER { "…".to_owned() } else { format!("{}.{:03}", at / 1_000, at % 1_000) };
        let index = op.index.map_or(String::new(), |index| format!(" at index {index}"));
        let body = op.body.map_or(String::new(), |body| format!(", shown as {body}"));
        format!(
            "[{} – {} ms] client {} node {}: {:?} {:?} → {:?}{index}{body} (applied {:?}, staleness {:?}, {} {})",
            ms(request.start),
            ms(request.end),
            request.session,
            request.node,
            request.fresh,
            op.call,
            op.answer,
            request.applied,
            request.staleness,
            request.status,
            request.code,
        )
    }

    /// Every operation, one line each, by key: for a file.
    pub fn dump(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        for (key, ops) in self.by_key() {
            writeln!(out, "# {}", self.names.get(key).map_or("", String::as_str))?;
            for op in ops {
                writeln!(out, "{}", self.line(op))?;
            }
        }
        Ok(())
    }
}

/// Something that was promised and not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: &'static str,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// What a history shows.
#[derive(Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    pub keys: usize,
    /// Operations of a known outcome, those of an unknown one, and those refused, which changed nothing.
    pub known: usize,
    pub unknown: usize,
    pub refused: usize,
    /// Orders that the search of [`wgl`] looked at.
    pub steps: usize,
    /// How far behind its word the worst stale read was.
    pub late: nodes::Late,
}

/// Holds a history against everything that is promised.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    for op in &history.ops {
        match op.answer {
            Answer::Unknown => verdict.unknown += 1,
            Answer::Refused => verdict.refused += 1,
            _ => verdict.known += 1,
        }
    }
    for ops in history.by_key().values() {
        verdict.keys += 1;
        verdict.violations.extend(wgl::check(history, ops, &mut verdict.steps));
        verdict.violations.extend(order::check_key(history, ops));
    }
    verdict.violations.extend(order::check_reads(history));
    verdict.violations.extend(sessions::check(history));
    let (broken, late) = nodes::check(history);
    verdict.violations.extend(broken);
    verdict.late = late;
    verdict
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} violations in {} operations on {} jobs ({} of known outcome, {} unknown, {} refused); \
             {} steps searched; stale reads were behind their word by at most {} ms",
            self.violations.len(),
            self.known + self.unknown + self.refused,
            self.keys,
            self.known,
            self.unknown,
            self.refused,
            self.steps,
            self.late.worst / 1_000,
        )
    }
}

/// A job's phase under the name it has in JSON.
pub fn phase(text: &str) -> Option<Phase> {
    Some(match text {
        "pending" => Phase::Pending,
        "assigned" => Phase::Assigned,
        "running" => Phase::Running,
        "completed" => Phase::Completed,
        "failed" => Phase::Failed,
        "cancelled" => Phase::Cancelled,
        _ => return None,
    })
}
