//! Linearizability of one job: the search of Wing and Gong, with Lowe's memory.
//!
//! Operations are put in order one by one. The next may be any that was invoked
//! before every operation not yet placed had ended; if the job could not have
//! answered so, another is tried, and when none is left the last one is taken
//! back. What was placed and where the job then is, is remembered: the same
//! again leads nowhere. A look that changes nothing is placed as soon as it can
//! be, since that takes nothing from the others.
//!
//! The known crates were no fit: they want every operation to end, and a state
//! that nobody but the clients changes.

use std::collections::HashSet;

use super::model::{Answer, Call, State, step};
use super::{Fresh, History, Micros, NEVER, Violation};

const RULE: &str = "linearizability";

/// Orders looked at for one job before we say that we do not know.
const STEPS_MAX: usize = 2_000_000;

/// What the search needs of an operation.
struct Entry {
    op: usize,
    start: Micros,
    end: Micros,
    call: Call,
    answer: Answer,
    /// It may have had no effect at all.
    optional: bool,
}

/// Which entries are placed: a bit for each.
type Placed = Vec<u64>;

struct Search {
    entries: Vec<Entry>,
    placed: Placed,
    state: State,
    /// What was placed, in order, and the state before it.
    path: Vec<(usize, State)>,
    seen: HashSet<(Placed, State)>,
    /// The longest order that was found.
    best: Vec<(usize, State)>,
}

/// The violation, if the operations `ops` on one key can not be put in order. Adds to `steps`.
pub fn check(history: &History, ops: &[usize], steps: &mut usize) -> Option<Violation> {
    let entries = entries(history, ops);
    let placed = vec![0; entries.len().div_ceil(64)];
    let state = State::Absent;
    let mut search = Search { entries, placed, state, path: vec![], seen: HashSet::new(), best: vec![] };
    let found = search.run();
    *steps += search.seen.len();
    match found {
        Some(true) => None,
        Some(false) => Some(Violation { rule: RULE, detail: search.explain(history, ops) }),
        None => {
            let detail = format!("{} operations and no answer after {STEPS_MAX} steps", search.entries.len());
            Some(Violation { rule: "undecided", detail })
        }
    }
}

/// Writes and linearizable reads that had, or may have had, a place in the order.
fn entries(history: &History, ops: &[usize]) -> Vec<Entry> {
    let entry = |number: &usize| {
        let (op, request) = (&history.ops[*number], history.request(*number));
        let optional = op.answer == Answer::Unknown;
        // A refusal is the promise that nothing happened: as if it had not been asked.
        let silent = op.answer == Answer::Refused || optional && op.call == Call::Look;
        if request.fresh != Fresh::Linearizable || silent {
            return None;
        }
        let end = if optional { NEVER } else { request.end };
        Some(Entry { op: *number, start: request.start, end, call: op.call, answer: op.answer, optional })
    };
    let mut entries: Vec<Entry> = ops.iter().filter_map(entry).collect();
    entries.sort_by_key(|entry| (entry.start, entry.end));
    entries
}

impl Search {
    /// Whether there is an order; `None` if that was too much to find out.
    fn run(&mut self) -> Option<bool> {
        // What is left to try at each place.
        let mut open = vec![self.candidates()];
        loop {
            if self.complete() {
                return Some(true);
            }
            if self.seen.len() > STEPS_MAX {
                return None;
            }
            match open.last_mut().and_then(Vec::pop) {
                Some((entry, after)) => {
                    self.place(entry, after);
                    if self.seen.insert((self.placed.clone(), self.state)) {
                        open.push(self.candidates());
                    } else {
                        self.take_back();
                    }
                }
                None if self.path.is_empty() => return Some(false),
                None => {
                    open.pop();
                    self.take_back();
                }
            }
        }
    }

    /// What may come next, and the state after it. The best guess is last.
    fn candidates(&self) -> Vec<(usize, State)> {
        let mut first_end = NEVER;
        let mut found = Vec::new();
        for number in (0..self.entries.len()).filter(|number| !self.is_placed(*number)) {
            let entry = &self.entries[number];
            // Sorted by start: all that follow were invoked after something had ended.
            if entry.start > first_end {
                break;
            }
            first_end = first_end.min(entry.end);
            let Some(after) = step(self.state, entry.call, entry.answer) else { continue };
            if entry.call == Call::Look && after == self.state {
                return vec![(number, after)];
            }
            found.push((number, after));
        }
        found.sort_by_key(|(number, _)| {
            let entry = &self.entries[*number];
            std::cmp::Reverse((entry.optional, entry.end))
        });
        found
    }

    fn is_placed(&self, entry: usize) -> bool {
        self.placed[entry / 64] >> (entry % 64) & 1 == 1
    }

    fn place(&mut self, entry: usize, after: State) {
        self.placed[entry / 64] |= 1 << (entry % 64);
        self.path.push((entry, self.state));
        self.state = after;
        if self.path.len() > self.best.len() {
            self.best.clone_from(&self.path);
        }
    }

    fn take_back(&mut self) {
        if let Some((entry, before)) = self.path.pop() {
            self.placed[entry / 64] &= !(1 << (entry % 64));
            self.state = before;
        }
    }

    /// Everything that certainly took effect is placed.
    fn complete(&self) -> bool {
        (0..self.entries.len()).all(|number| self.entries[number].optional || self.is_placed(number))
    }

    /// The longest order there was, and what could not follow it.
    fn explain(&self, history: &History, ops: &[usize]) -> String {
        let placed: HashSet<usize> = self.best.iter().map(|(entry, _)| *entry).collect();
        let line = |entry: usize| history.line(self.entries[entry].op);
        let stuck: Vec<String> =
            (0..self.entries.len()).filter(|entry| !placed.contains(entry)).take(5).map(line).collect();
        let last: Vec<String> = self.best.iter().rev().take(8).rev().map(|(entry, _)| line(*entry)).collect();
        let key = history.ops[ops[0]].key;
        format!(
            "{}: of {} operations {} can be put in order, ending with\n    {}\n  and then none of\n    {}",
            history.names.get(key).map_or("?", String::as_str),
            self.entries.len(),
            self.best.len(),
            last.join("\n    "),
            stuck.join("\n    "),
        )
    }
}
