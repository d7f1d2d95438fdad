//! What each node says of itself in the headers of its answers.
//!
//! * Within a life of its process, `X-Ciro-Applied-Index` does not go back from
//!   one answer to a request that was made after it.
//! * `X-Ciro-Staleness-Ms` is true: the answer's state has all that was shown to
//!   any client before the request was made, less that time, less [`SLACK`].

use std::collections::BTreeMap;

use super::order::shown;
use super::{History, Micros, Violation};

/// What a follower that hears its leader may be behind: a heartbeat, which tells what is committed, and the time to
/// apply it on a machine under load.
pub const SLACK: Micros = 1_000_000;

type Span = (Micros, Micros, u64);

/// How stale reads were, beyond what they said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Late {
    /// Answers that said how stale they were.
    pub told: usize,
    /// Those that were behind their word by more than a tenth of a second.
    pub behind: usize,
    /// The most that one was behind its word.
    pub worst: Micros,
}

pub fn check(history: &History) -> (Vec<Violation>, Late) {
    let (mut found, late) = staleness(history);
    found.extend(applied(history));
    (found, late)
}

fn applied(history: &History) -> Vec<Violation> {
    // By node and life: when it was asked and answered, and from which index.
    let mut lives: BTreeMap<(usize, u64), Vec<Span>> = BTreeMap::new();
    for request in &history.requests {
        if let (Some(life), Some(applied)) = (request.life, request.applied) {
            lives.entry((request.node, life)).or_default().push((request.start, request.end, applied));
        }
    }
    let mut found = Vec::new();
    for ((node, life), mut answers) in lives {
        let mut ended: Vec<(Micros, u64)> = answers.iter().map(|(_, end, applied)| (*end, *applied)).collect();
        ended.sort_unstable();
        answers.sort_unstable();
        let (mut next, mut highest) = (0, 0);
        for (start, _, applied) in answers {
            while next < ended.len() && ended[next].0 < start {
                highest = highest.max(ended[next].1);
                next += 1;
            }
            if applied < highest {
                let detail = format!(
                    "node {node} in its life {life} showed index {highest}, and {applied} to a request made later, at {} ms",
                    start / 1_000
                );
                found.push(Violation { rule: "applied index", detail });
            }
        }
    }
    found
}

fn staleness(history: &History) -> (Vec<Violation>, Late) {
    let shown = shown(history);
    let (mut found, mut late) = (Vec::new(), Late::default());
    for request in &history.requests {
        let (Some(staleness), Some(applied)) = (request.staleness, request.applied) else { continue };
        late.told += 1;
        // The first time that anybody was shown more than this answer has.
        let missed = shown.partition_point(|(_, highest)| *highest <= applied);
        let Some((at, highest)) = shown.get(missed) else { continue };
        let behind = request.start.saturating_sub(staleness.saturating_mul(1_000)).saturating_sub(*at);
        late.worst = late.worst.max(behind);
        late.behind += usize::from(behind > 100_000);
        if behind > SLACK {
            let detail = format!(
                "node {} answered at {} ms from index {applied}, {staleness} ms stale by its word; index {highest} had been \
                 shown at {} ms",
                request.node,
                request.start / 1_000,
                at / 1_000
            );
            found.push(Violation { rule: "staleness", detail });
        }
    }
    (found, late)
}
