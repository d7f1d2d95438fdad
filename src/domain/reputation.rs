//! What a worker is trusted with, from what the log knows of it.
//!
//! From 0 to 1000, starting at 500. Only facts in the log change it, each by
//! what [`Fact::delta`] says; with every hour of the log's clock it is drawn a
//! little back toward the start, so that neither fame nor shame is for ever.
//! The last changes are kept with the worker and explain the value.
//!
//! Below [`FLOOR`] a worker wins nothing until time has raised it. Below
//! [`BAN_BELOW`], which takes more than bad luck, it is banned for a day.
//!
//! The facts and their deltas are one table of constants, [`Fact`], shown with every worker's health. They are
//! not configurable: they are part of `apply`, where nodes that were configured differently would come to
//! different states.

use serde::{Deserialize, Serialize};

use super::auction::Sealed;
use super::ids::JobId;
use super::job::Award;
use super::time::Timestamp;
use super::worker::{REPUTATION_MAX, REPUTATION_START, Worker};

/// The least with which a worker may win a job.
pub const FLOOR: u32 = 100;

pub const BAN_BELOW: u32 = 50;

const BAN_MS: u64 = 24 * HOUR_MS;

pub(super) const HOUR_MS: u64 = 3_600_000;

/// Each hour takes this part of the way back to the start: half of it is gone in eleven hours.
const DRAW: u32 = 16;

/// Hours that still make a difference.
const HOURS_MAX: u64 = 256;

/// Changes kept per worker.
pub const CHANGES_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    Completed,
    /// The attempt failed by what the worker is or did.
    FailedByWorker,
    /// The attempt ran longer than the job allows: the machine is too slow, or the job too long.
    TimedOut,
    /// The worker vanished with the attempt, or let its lease lapse.
    Lost,
    /// It bid, won, and did not take the job.
    Declined,
    /// The result counts, but came much later than its bid promised, see [`is_late`].
    Late,
    /// Most of the workers that ran the same job agree on another result.
    WrongResult,
}

impl Fact {
    pub const ALL: [Self; 7] = [
        Self::Completed,
        Self::FailedByWorker,
        Self::TimedOut,
        Self::Lost,
        Self::Declined,
        Self::Late,
        Self::WrongResult,
    ];

    pub fn delta(self) -> i32 {
        match self {
            Self::Completed => 15,
            Self::FailedByWorker | Self::Lost => -25,
            Self::TimedOut | Self::Late => -5,
            Self::WrongResult => -100,
            Self::Declined => -1,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::FailedByWorker => "failed_by_worker",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::Declined => "declined",
            Self::Late => "late",
            Self::WrongResult => "wrong_result",
        }
    }

    /// What it means, in one line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Completed => "brought the result that counts, in the time it promised",
            Self::FailedByWorker => "failed by what the worker is or did",
            Self::TimedOut => "ran longer than the job allows",
            Self::Lost => "vanished with the attempt, or let its lease lapse",
            Self::Declined => "bid, won, and did not take the job",
            Self::Late => "brought the result that counts more than 3 times its promise and 30 s after the award",
            Self::WrongResult => "brought another result than most of the workers that ran the same job",
        }
    }

    /// What a failure says of the worker; `None`: it is the job's own fault, or nobody's.
    /// A code we do not know is the worker's, or it could choose one.
    pub(super) fn of_failure(code: &str) -> Option<Self> {
        match code {
            "exit_code" | "signal" | "output_too_large" | "input_damaged" | "cancelled" | "worker_stopping" => None,
            // What the client's module, payload or reference comes to is not the worker's to answer for.
            "module_unknown" | "wasm_payload" | "wasm_invalid" => None,
            "wasm_trap" | "wasm_out_of_fuel" | "wasm_out_of_memory" | "http_status" => None,
            "input_not_found" | "input_refused" | "input_mismatch" | "input_unreachable" | "input_forbidden" => None,
            "timeout" => Some(Self::TimedOut),
            _ => Some(Self::FailedByWorker),
        }
    }
}

/// A promise is broken by a result that comes later than this many times the promise, and the grace, after the award.
const LATE_TIMES: u64 = 3;

/// Time for what is not the worker's: the way to it and back, and a change of leader.
const LATE_GRACE_MS: u64 = 30_000;

/// Whether a result that comes now breaks what the award's bid promised. No promise, none broken.
pub(super) fn is_late(award: &Award, now: Timestamp) -> bool {
    let promised = u64::from(award.evidence.as_ref().map_or(0, Sealed::expected_ms));
    promised > 0 && now.since(award.assigned_at) > promised * LATE_TIMES + LATE_GRACE_MS
}

/// One change, and what it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub at: Timestamp,
    pub job: JobId,
    pub fact: Fact,
    /// The reputation after it.
    pub value: u32,
}

/// Takes a fact about `worker` in.
pub(super) fn rate(worker: &mut Worker, at: Timestamp, job: JobId, fact: Fact) {
    let value = worker.reputation.saturating_add_signed(fact.delta()).min(REPUTATION_MAX);
    if value == worker.reputation {
        return;
    }
    worker.reputation = value;
    if worker.changes.len() >= CHANGES_MAX {
        worker.changes.remove(0);
    }
    worker.changes.push(Change { at, job, fact, value });
    if value < BAN_BELOW && !is_banned(worker, at) {
        worker.banned_until = Some(at.after_ms(BAN_MS));
    }
}

pub fn is_banned(worker: &Worker, now: Timestamp) -> bool {
    worker.banned_until.is_some_and(|until| until > now)
}

/// Full hours of the log's clock between two times, as far as they count.
pub(super) fn hours(from: Timestamp, to: Timestamp) -> u64 {
    (to.0 / HOUR_MS).saturating_sub(from.0 / HOUR_MS).min(HOURS_MAX)
}

/// What `value` has become after `hours` without a fact.
pub(super) fn drawn_back(mut value: u32, hours: u64) -> u32 {
    for _ in 0..hours {
        let away = value.abs_diff(REPUTATION_START).div_ceil(DRAW);
        value = if value > REPUTATION_START { value - away } else { value + away };
    }
    value
}
