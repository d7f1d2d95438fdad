//! A job as a register: what clients may do to it, and what it may do by itself.
//!
//! Absent until submitted. Then workers move it, unseen by clients and at any
//! time, along `pending → assigned → running` to `completed` or `failed`, or back
//! to `pending` with the attempt spent. Laid out by attempt that is one line, on
//! which a job only goes forward: pending after attempt *n* is before assigned
//! with attempt *n* + 1. Only a client cancels it, and only a client's retry takes
//! it out of `failed`.
//!
//! What workers do is not in the history. So a [`State`] is where the job was
//! last seen, and stands for every place it may have gone from there by itself.
//! Of two ways to take an answer one always leads to a state that stands for
//! more than the other's, so [`step`] is a function.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Pending,
    Assigned,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Phase {
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Where a job was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sight {
    pub phase: Phase,
    pub attempt: u32,
}

impl std::fmt::Display for Sight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({})", self.phase, self.attempt)
    }
}

impl Sight {
    pub const fn new(phase: Phase, attempt: u32) -> Self {
        Self { phase, attempt }
    }

    /// Its place on the line.
    pub fn rank(self) -> u64 {
        let within = match self.phase {
            Phase::Assigned => 0,
            Phase::Running => 1,
            Phase::Completed | Phase::Failed => 2,
            Phase::Pending => 3,
            Phase::Cancelled => 4,
        };
        // Five places for an attempt; cancelled while pending is behind pending.
        u64::from(self.attempt) * 5 + within
    }

    /// Whether a job seen here may be there later, whatever workers and clients do.
    pub fn may_become(self, later: Self) -> bool {
        match self.phase {
            Phase::Completed | Phase::Cancelled => self == later,
            // Another attempt only.
            Phase::Failed if later.phase == Phase::Completed => later.attempt > self.attempt,
            _ => later.rank() >= self.rank(),
        }
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// With one of several bodies under the same idempotency key.
    Submit {
        body: u8,
    },
    Cancel,
    Retry,
    Look,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A submission: accepted.
    Created,
    /// A submission: accepted before.
    Existing,
    /// A submission: accepted before, with another body.
    Conflict,
    /// A cancellation or a retry: done, now or before.
    Done,
    /// A cancellation or a retry: too late, it has ended like this.
    Ended(Phase),
    /// There is no such job.
    Absent,
    /// A look: there it is.
    Seen(Sight),
    /// A look at its result: it has not ended.
    Open,
    /// A look at its result: it ended without one.
    NoResult,
    /// Nobody knows whether it took effect.
    Unknown,
    /// It certainly did not take effect.
    Refused,
}

/// Where a job was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Absent,
    Known {
        body: u8,
        sight: Sight,
        /// Whether the attempt is this one, not this one or a later. Matters only once the job has ended.
        exact: bool,
    },
}

/// The state after the answer, or `None` if the job could not have given it.
pub fn step(state: State, call: Call, answer: Answer) -> Option<State> {
    match (call, state) {
        (Call::Submit { body }, State::Absent) => match answer {
            Answer::Created | Answer::Unknown => {
                Some(State::Known { body, sight: Sight::new(Phase::Pending, 0), exact: true })
            }
            _ => None,
        },
        (Call::Submit { body: sent }, State::Known { body, .. }) => match answer {
            Answer::Existing if sent == body => Some(state),
            Answer::Conflict if sent != body => Some(state),
            _ => None,
        },
        (_, State::Absent) => (answer == Answer::Absent).then_some(state),
        (Call::Cancel, State::Known { body, sight, exact }) => match answer {
            Answer::Done | Answer::Unknown if !sight.phase.is_final() => {
                Some(State::Known { body, sight: Sight::new(Phase::Cancelled, sight.attempt), exact: false })
            }
            Answer::Done if sight.phase == Phase::Cancelled => Some(state),
            Answer::Ended(phase) if phase != Phase::Cancelled => ended(body, sight, exact, phase),
            _ => None,
        },
        (Call::Retry, State::Known { body, sight, exact }) => match answer {
            Answer::Done | Answer::Unknown if sight.phase == Phase::Failed => {
                Some(State::Known { body, sight: Sight::new(Phase::Pending, sight.attempt), exact: true })
            }
            Answer::Done if !sight.phase.is_final() => Some(state),
            Answer::Ended(phase) if phase != Phase::Failed => ended(body, sight, exact, phase),
            _ => None,
        },
        (Call::Look, State::Known { body, sight, exact }) => look(body, sight, exact, answer),
    }
}

fn look(body: u8, sight: Sight, exact: bool, answer: Answer) -> Option<State> {
    match answer {
        Answer::Seen(seen) => reaches(sight, exact, seen).then_some(State::Known { body, sight: seen, exact: true }),
        Answer::Open => (!sight.phase.is_final()).then_some(State::Known { body, sight, exact }),
        Answer::NoResult if sight.phase == Phase::Cancelled => Some(State::Known { body, sight, exact }),
        Answer::NoResult => ended(body, sight, exact, Phase::Failed),
        _ => None,
    }
}

/// It has ended in `phase`; the attempt is not told.
fn ended(body: u8, sight: Sight, exact: bool, phase: Phase) -> Option<State> {
    if sight.phase == phase {
        return Some(State::Known { body, sight, exact });
    }
    // Nobody but a client cancels, and that would be in the history.
    if sight.phase.is_final() || phase == Phase::Cancelled {
        return None;
    }
    let attempt = if sight.phase == Phase::Pending { sight.attempt + 1 } else { sight.attempt };
    Some(State::Known { body, sight: Sight::new(phase, attempt), exact: false })
}

/// Whether workers alone may have brought a job from one place to the other.
fn reaches(from: Sight, exact: bool, to: Sight) -> bool {
    if from.phase.is_final() {
        return from.phase == to.phase && (from.attempt == to.attempt || !exact && to.attempt > from.attempt);
    }
    // A client cancels. It ends out of an attempt that was under way.
    to.phase != Phase::Cancelled && to.rank() >= from.rank() && (to.attempt > 0 || to.phase == Phase::Pending)
}
