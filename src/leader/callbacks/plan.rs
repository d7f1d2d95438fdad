//! Which notice is tried when.
//!
//! Each receiver (host and port) has a lane of its own, with room for a few tries
//! at a time. A notice that is not taken waits longer each time. A receiver that
//! does not even answer is asked by one try at a time, and less often; the first
//! answer of any kind ends that, so that one bad path does not slow its host.
//!
//! Slots for tries are few, and a receiver that hangs keeps one for long. So those
//! that have answered, those that nobody knows and those that do not answer have
//! slots of their own: whatever strangers name, who answers is told.
//!
//! Nothing here is replicated. A new leader begins with all that wait, at once.
//!
//! Invariants
//!
//! * A notice is in its lane's `due`, or in the air; never both.
//! * A lane is in `ready` exactly if it has room and something due, now or later.
//! * Notices are in the order of their ends: [`Plan::expired`] looks at the oldest only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::Timestamp;
use crate::domain::callback::Called;

/// Tries of one receiver at a time, while it answers.
const PER_RECEIVER: usize = 8;

/// Tries at a time, by the standing of their receivers: those that answer, new ones, those that do not answer.
const AT_ONCE: [usize; 3] = [96, 64, 32];

/// Pause after the first failure of a notice, doubled each time up to the longest; up to half of it is chance.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// Longest pause of a receiver that does not answer.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Tries of a notice, or silences of its receiver, before it is given up for its age: a clock that jumps must not do it.
const TRIES_MIN: u32 = 3;

/// Receivers that have answered and are remembered although nothing waits for them.
const KNOWN_MAX: usize = 4_096;

/// Notices that are given up in one look.
const EXPIRED_MAX: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Answers = 0,
    New = 1,
    Silent = 2,
}

/// How a try went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    /// It said something else than yes, and perhaps when to come back.
    Refused {
        code: String,
        after: Option<Duration>,
    },
    /// It said nothing: no connection, or not in time.
    Silent {
        code: &'static str,
    },
    /// Trying again would be of no use.
    Never {
        code: &'static str,
    },
}

#[derive(Debug)]
struct Item {
    receiver: Arc<str>,
    ended_at: Timestamp,
    tries: u32,
    due: Instant,
    code: Option<String>,
    /// In the air, under this standing.
    flies: Option<Standing>,
}

#[derive(Debug, Default)]
struct Lane {
    due: BTreeSet<(Instant, u64)>,
    in_flight: usize,
    answered: bool,
    /// Silences in a row, and what the last one was.
    silences: u32,
    code: Option<&'static str>,
    not_before: Option<Instant>,
    /// Where it is in `ready`.
    listed: Option<(Standing, Instant)>,
}

impl Lane {
    fn standing(&self) -> Standing {
        match self {
            Self { silences: 1.., .. } => Standing::Silent,
            Self { answered: true, .. } => Standing::Answers,
            _ => Standing::New,
        }
    }

    /// When its next try may begin; `None`: there is nothing to try, or no room.
    fn next(&self) -> Option<Instant> {
        let room = if self.silences > 0 { 1 } else { PER_RECEIVER };
        let (first, _) = self.due.first().filter(|_| self.in_flight < room)?;
        Some(self.not_before.map_or(*first, |pause| pause.max(*first)))
    }
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    items: BTreeMap<u64, Item>,
    lanes: BTreeMap<Arc<str>, Lane>,
    ready: [BTreeSet<(Instant, Arc<str>)>; 3],
    flying: [usize; 3],
    /// Lanes without notices.
    idle: usize,
    seen: u64,
}

impl Plan {
    /// The newest notice that was ever added.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Notices that wait or are in the air.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn add(&mut self, event: u64, receiver: &str, ended_at: Timestamp, now: Instant) {
        self.seen = self.seen.max(event);
        let known = self.lanes.get_key_value(receiver).map(|(known, _)| Arc::clone(known));
        let receiver = known.unwrap_or_else(|| Arc::from(receiver));
        let item = Item { receiver: Arc::clone(&receiver), ended_at, tries: 0, due: now, code: None, flies: None };
        if self.items.insert(event, item).is_some() {
            return;
        }
        let lane = self.lanes.entry(Arc::clone(&receiver)).or_default();
        if lane.answered && lane.due.is_empty() && lane.in_flight == 0 {
            self.idle -= 1;
        }
        lane.due.insert((now, event));
        self.list(&receiver);
    }

    /// Begins a try, if one is due and there is a slot for it.
    pub fn next(&mut self, now: Instant) -> Option<u64> {
        for standing in [Standing::Answers, Standing::New, Standing::Silent] {
            let class = standing as usize;
            if self.flying[class] >= AT_ONCE[class] {
                continue;
            }
            let Some((_, receiver)) = self.ready[class].first().filter(|(at, _)| *at <= now).cloned() else { continue };
            let lane = self.lanes.get_mut(&receiver)?;
            let (_, event) = lane.due.pop_first()?;
            lane.in_flight += 1;
            self.flying[class] += 1;
            if let Some(item) = self.items.get_mut(&event) {
                item.tries = item.tries.saturating_add(1);
                item.flies = Some(standing);
            }
            self.list(&receiver);
            return Some(event);
        }
        None
    }

    /// When something may be tried next, slots permitting.
    pub fn wakes_at(&self) -> Option<Instant> {
        let open = |class: &usize| self.flying[*class] < AT_ONCE[*class];
        (0..3).filter(open).filter_map(|class| self.ready[class].first().map(|(at, _)| *at)).min()
    }

    /// Takes in how a try went. `chance`: from 0 to 1. Returns what to report, if it was the last one.
    pub fn landed(&mut self, event: u64, answer: &Answer, now: Instant, chance: f64) -> Option<Called> {
        let item = self.items.get_mut(&event)?;
        if let Some(standing) = item.flies.take() {
            self.flying[standing as usize] -= 1;
        }
        let (receiver, tries) = (Arc::clone(&item.receiver), item.tries);
        if let Some(lane) = self.lanes.get_mut(&receiver) {
            lane.in_flight -= 1;
            lane.heard(answer, now);
        }
        let called = match answer {
            Answer::Taken => Some(Called::Delivered { tries }),
            Answer::Never { code } => Some(Called::GivenUp { tries, code: (*code).into() }),
            Answer::Refused { code, after } => self.again(event, code.clone(), *after, now, chance),
            Answer::Silent { code } => self.again(event, (*code).to_owned(), None, now, chance),
        };
        if called.is_some() {
            self.items.remove(&event);
        }
        self.list(&receiver);
        called
    }

    fn again(
        &mut self,
        event: u64,
        code: String,
        after: Option<Duration>,
        now: Instant,
        chance: f64,
    ) -> Option<Called> {
        let item = self.items.get_mut(&event)?;
        item.due = now + again_after(item.tries, chance).max(asked(after));
        item.code = Some(code);
        self.lanes.get_mut(&item.receiver)?.due.insert((item.due, event));
        None
    }

    /// Forgets a notice that waits and is not to be tried any more.
    pub fn forget(&mut self, event: u64) {
        let Some(item) = self.items.remove(&event) else { return };
        if let Some(lane) = self.lanes.get_mut(&item.receiver) {
            lane.due.remove(&(item.due, event));
            if let Some(standing) = item.flies {
                lane.in_flight -= 1;
                self.flying[standing as usize] -= 1;
            }
        }
        self.list(&item.receiver);
    }

    /// Forgets those that wait and are not `wanted`. Returns how many.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) -> usize {
        let waiting = self.items.iter().filter(|(_, item)| item.flies.is_none());
        let gone: Vec<u64> = waiting.map(|(event, _)| *event).filter(|event| !wanted(*event)).collect();
        gone.iter().for_each(|event| self.forget(*event));
        gone.len()
    }

    /// Takes out notices of ends before `oldest` that were tried in vain.
    pub fn expired(&mut self, oldest: Timestamp) -> Vec<(u64, Called)> {
        let old = self.items.iter().take_while(|(_, item)| item.ended_at < oldest);
        let vain = old.filter_map(|(event, item)| {
            let lane = self.lanes.get(&item.receiver)?;
            let hopeless = item.flies.is_none() && item.tries.max(lane.silences) >= TRIES_MIN;
            let code = item.code.as_deref().or(lane.code).unwrap_or("unreachable");
            hopeless.then(|| (*event, Called::GivenUp { tries: item.tries, code: code.into() }))
        });
        let expired: Vec<(u64, Called)> = vain.take(EXPIRED_MAX).collect();
        expired.iter().for_each(|(event, _)| self.forget(*event));
        expired
    }

    /// Silences in a row of a notice's receiver.
    pub fn silences(&self, receiver: &str) -> u32 {
        self.lanes.get(receiver).map_or(0, |lane| lane.silences)
    }

    /// Puts a lane where it belongs in `ready`, or away.
    fn list(&mut self, receiver: &Arc<str>) {
        let Some(lane) = self.lanes.get_mut(receiver) else { return };
        if let Some((standing, at)) = lane.listed.take() {
            self.ready[standing as usize].remove(&(at, Arc::clone(receiver)));
        }
        if let Some(at) = lane.next() {
            let standing = lane.standing();
            lane.listed = Some((standing, at));
            self.ready[standing as usize].insert((at, Arc::clone(receiver)));
        }
        if !lane.due.is_empty() || lane.in_flight > 0 {
            return;
        }
        if lane.answered && self.idle < KNOWN_MAX {
            self.idle += 1;
        } else {
            self.lanes.remove(receiver);
        }
    }
}

impl Lane {
    fn heard(&mut self, answer: &Answer, now: Instant) {
        match answer {
            Answer::Taken => (self.answered, self.silences, self.code, self.not_before) = (true, 0, None, None),
            // What it says of one notice it says of itself.
            Answer::Refused { after, .. } => {
                let not_before = after.map(|_| now + asked(*after));
                (self.answered, self.silences, self.code, self.not_before) = (true, 0, None, not_before);
            }
            Answer::Silent { code } => {
                self.silences = self.silences.saturating_add(1);
                self.code = Some(code);
                self.not_before = Some(now + doubled(self.silences).min(SILENT_MAX));
            }
            Answer::Never { .. } => {}
        }
    }
}

/// How long a notice waits after that many tries in vain.
fn again_after(tries: u32, chance: f64) -> Duration {
    doubled(tries).min(AGAIN_MAX).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

/// How long a receiver is left alone at its own wish: not longer than it would be without.
fn asked(after: Option<Duration>) -> Duration {
    after.unwrap_or_default().min(AGAIN_MAX)
}

fn doubled(times: u32) -> Duration {
    AGAIN_FIRST.saturating_mul(1 << times.saturating_sub(1).min(16))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
