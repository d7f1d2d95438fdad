//! The one order there is: the log's.
//!
//! Some answers say at which index their state was read. Sorted by it, what they
//! show must be the life of one job, whichever node was asked and whenever: the
//! same at the same index, only forward, nowhere before its submission and
//! everywhere after it. And a job ends by a client's hand, or begins anew, only
//! after a client asked for that.
//!
//! Across all jobs: an index that anybody was shown is committed, so a
//! linearizable read that was invoked later is at that index or above.

use std::collections::BTreeMap;

use super::model::{Answer, Call, Phase, Sight};
use super::{Fresh, History, Micros, Violation};

const LOG: &str = "log order";
const THIN_AIR: &str = "out of thin air";
const READ_INDEX: &str = "read index";

/// What the operations `ops` on one key show at which index.
pub fn check_key(history: &History, ops: &[usize]) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(one_submission(history, ops));
    found.extend(forward(history, ops));
    found.extend(asked_for(history, ops));
    found
}

fn violation(history: &History, rule: &'static str, what: &str, ops: &[usize]) -> Violation {
    let lines: Vec<String> = ops.iter().map(|op| history.line(*op)).collect();
    let name = history.names.get(history.ops[ops[0]].key).map_or("?", String::as_str);
    Violation { rule, detail: format!("{name}: {what}\n    {}", lines.join("\n    ")) }
}

/// Every answer names the same index of submission, and one client at most was told that it submitted the job.
fn one_submission(history: &History, ops: &[usize]) -> Option<Violation> {
    let named = |op: &&usize| history.ops[**op].submitted.is_some();
    let first = ops.iter().find(named)?;
    let other = ops.iter().filter(named).find(|op| history.ops[**op].submitted != history.ops[*first].submitted);
    other.map(|other| violation(history, LOG, "submitted at two indexes", &[*first, *other]))
}

fn forward(history: &History, ops: &[usize]) -> Option<Violation> {
    let submitted = ops.iter().find_map(|op| history.ops[*op].submitted);
    let mut shown: BTreeMap<u64, (Option<Sight>, usize)> = BTreeMap::new();
    for number in ops {
        let op = &history.ops[*number];
        let sight = match op.answer {
            Answer::Seen(sight) => Some(sight),
            Answer::Absent => None,
            _ => continue,
        };
        let Some(index) = op.index else { continue };
        if submitted.is_some_and(|submitted| sight.is_some() != (index >= submitted)) {
            let what = format!("submitted at index {}", submitted.unwrap_or(0));
            return Some(violation(history, LOG, &what, &[*number]));
        }
        let (known, by) = *shown.entry(index).or_insert((sight, *number));
        if known != sight {
            return Some(violation(history, LOG, "two states at one index", &[by, *number]));
        }
    }
    let mut last: Option<(Sight, usize)> = None;
    for (sight, number) in shown.into_values() {
        match (last, sight) {
            (Some((before, by)), Some(now)) if !before.may_become(now) => {
                return Some(violation(history, LOG, "back with a higher index", &[by, number]));
            }
            (Some((_, by)), None) => return Some(violation(history, LOG, "gone with a higher index", &[by, number])),
            (_, Some(now)) => last = Some((now, number)),
            (None, None) => {}
        }
    }
    None
}

/// What only a client can bring about is seen only after a client asked for it.
fn asked_for(history: &History, ops: &[usize]) -> Option<Violation> {
    let first = |wanted: fn(&Call) -> bool| {
        let asked = ops.iter().filter(|op| wanted(&history.ops[**op].call));
        // A refused request is one that did nothing.
        asked.filter(|op| history.ops[**op].answer != Answer::Refused).map(|op| history.request(*op).start).min()
    };
    let submit = first(|call| matches!(call, Call::Submit { .. }));
    let cancel = first(|call| *call == Call::Cancel);
    let again = first(|call| *call == Call::Retry);
    let failed = |op: &&usize| {
        let op = &history.ops[**op];
        op.index.is_some() && matches!(op.answer, Answer::Seen(sight) if sight.phase == Phase::Failed)
    };
    let ended = ops.iter().filter(failed).min_by_key(|op| history.ops[**op].index).copied();
    let before = |asked: Option<Micros>, end: Micros| asked.is_some_and(|asked| asked <= end);
    for number in ops {
        let (op, end) = (&history.ops[*number], history.request(*number).end);
        let Answer::Seen(sight) = op.answer else { continue };
        if !before(submit, end) {
            return Some(violation(history, THIN_AIR, "nobody submitted it", &[*number]));
        }
        if sight.phase == Phase::Cancelled && !before(cancel, end) {
            return Some(violation(history, THIN_AIR, "nobody cancelled it", &[*number]));
        }
        let by = ended.filter(|by| !sight.phase.is_final() && op.index > history.ops[*by].index);
        if let Some(by) = by.filter(|_| !before(again, end)) {
            return Some(violation(history, THIN_AIR, "nobody asked for another try", &[by, *number]));
        }
    }
    None
}

/// Linearizable reads miss no index that was shown before they were invoked.
pub fn check_reads(history: &History) -> Vec<Violation> {
    let shown = shown(history);
    let mut found = Vec::new();
    let mut last = None;
    for (number, op) in history.ops.iter().enumerate() {
        let request = history.request(number);
        let read = op.call == Call::Look && request.fresh == Fresh::Linearizable;
        // All that one list shows is at one index.
        let (true, Some(index), true) = (read, op.index, last != Some(op.request)) else { continue };
        last = Some(op.request);
        let before = shown.partition_point(|(end, _)| *end < request.start);
        if let Some((end, highest)) = before.checked_sub(1).map(|at| shown[at])
            && highest > index
        {
            let what = format!("index {highest} was shown to a client at {} ms", end / 1_000);
            found.push(violation(history, READ_INDEX, &what, &[number]));
        }
    }
    found
}

/// When which index had been shown at the highest, in the order of time.
pub fn shown(history: &History) -> Vec<(Micros, u64)> {
    let answered = history.requests.iter().filter(|request| request.answered());
    let mut shown: Vec<(Micros, u64)> = answered.filter_map(|request| Some((request.end, request.applied?))).collect();
    shown.sort_unstable();
    let mut highest = 0;
    for (_, applied) in &mut shown {
        highest = highest.max(*applied);
        *applied = highest;
    }
    shown
}
