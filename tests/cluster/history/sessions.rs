//! What one client sees that carries its session from node to node.
//!
//! It reads its own writes, and nothing it reads is older than what it was shown
//! before, on whichever node and whoever leads. Reads that ask for no session
//! have no such promise and are left out.

use std::collections::BTreeMap;

use super::model::{Answer, Call, Phase, Sight};
use super::{Fresh, History, Op, Violation};

const RULE: &str = "session";

/// What a client knows of a job: that it exists, and what it last saw.
#[derive(Clone, Copy)]
struct Known {
    sight: Option<Sight>,
    /// How it ended for good, the attempt unseen.
    ended: Option<Phase>,
    op: usize,
}

pub fn check(history: &History) -> Vec<Violation> {
    let mut sessions: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, _) in history.ops.iter().enumerate() {
        sessions.entry(history.request(number).session).or_default().push(number);
    }
    let mut found = Vec::new();
    for mut ops in sessions.into_values() {
        ops.sort_by_key(|op| history.request(*op).start);
        found.extend(check_one(history, &ops));
        found.extend(indexes(history, &ops));
    }
    found
}

/// One client's operations, in its order.
fn check_one(history: &History, ops: &[usize]) -> Vec<Violation> {
    let mut known: BTreeMap<usize, Known> = BTreeMap::new();
    let mut found = Vec::new();
    for number in ops {
        let op = &history.ops[*number];
        if history.request(*number).fresh == Fresh::Stale {
            continue;
        }
        if let Some(before) = known.get(&op.key)
            && let Some(what) = contradicts(before, op)
        {
            let name = history.names.get(op.key).map_or("?", String::as_str);
            let detail = format!("{name}: {what}\n    {}\n    {}", history.line(before.op), history.line(*number));
            found.push(Violation { rule: RULE, detail });
        }
        if let Some(now) = learns(known.get(&op.key), op, *number) {
            known.insert(op.key, now);
        }
    }
    found
}

fn contradicts(before: &Known, op: &Op) -> Option<&'static str> {
    if op.call == Call::Look && op.answer == Answer::Absent {
        return Some("the client knew of the job, and then it was not there");
    }
    let seen = match op.answer {
        Answer::Seen(sight) => Some(sight),
        _ => op.body,
    };
    let ended = before.ended.or(before.sight.map(|sight| sight.phase).filter(|phase| for_good(*phase)));
    match (ended, seen, op.answer) {
        (Some(ended), Some(seen), _) if seen.phase != ended => return Some("it had ended otherwise"),
        (Some(_), _, Answer::Open) => return Some("it had ended"),
        (Some(Phase::Completed), _, Answer::NoResult) => return Some("it had a result"),
        _ => {}
    }
    match (before.sight, seen) {
        (Some(before), Some(seen)) if !before.may_become(seen) => Some("older than what the client had seen"),
        _ => None,
    }
}

fn for_good(phase: Phase) -> bool {
    matches!(phase, Phase::Completed | Phase::Cancelled)
}

fn learns(before: Option<&Known>, op: &Op, number: usize) -> Option<Known> {
    let old = before.copied().unwrap_or(Known { sight: None, ended: None, op: number });
    let ended = match (op.call, op.answer) {
        (Call::Cancel, Answer::Done) => Some(Phase::Cancelled),
        (_, Answer::Ended(phase)) if for_good(phase) => Some(phase),
        _ => old.ended,
    };
    let sight = match op.answer {
        Answer::Seen(sight) => Some(sight),
        Answer::Absent | Answer::Unknown | Answer::Refused => return None,
        _ => op.body.or(old.sight),
    };
    Some(Known { sight, ended, op: number })
}

/// A read of the session is answered from no index below one that the session was shown.
fn indexes(history: &History, ops: &[usize]) -> Vec<Violation> {
    let (mut told, mut found) = (0, Vec::new());
    for number in ops {
        let request = history.request(*number);
        if request.code == "index_ahead" {
            let detail = format!("an index that was shown is said not to exist\n    {}", history.line(*number));
            found.push(Violation { rule: RULE, detail });
        }
        let Some(applied) = request.applied else { continue };
        if request.fresh == Fresh::Session && request.status == 200 && applied < told {
            let detail = format!("index {told} had been shown before\n    {}", history.line(*number));
            found.push(Violation { rule: RULE, detail });
        }
        told = told.max(applied);
    }
    found
}
