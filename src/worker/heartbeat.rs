//! When to send a heartbeat, and what it says.

use std::time::{Duration, Instant};

use rand::Rng;

use super::desk::Key;
use super::machine::Gauge;
use crate::clock;
use crate::mesh::Progress;
use crate::wire;
use crate::wire::proto::mesh::v1::{AttemptProgress, Heartbeat};

/// Heartbeats sent because something changed are at least this far apart, and this long after the change: what has
/// changed back by then was not worth one.
const CHANGED_MIN: Duration = Duration::from_millis(200);

/// What a heartbeat says of the worker's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub load_permille: u32,
    pub room: u32,
    /// Attempts that run or whose report is under way.
    pub running: Vec<Key>,
    pub progress: Vec<(Key, Progress)>,
    pub stopping: bool,
}

pub(super) struct Pulse {
    period: Duration,
    started_ms: u64,
    seq: u64,
    due: Instant,
    last: Option<Instant>,
    changed: Option<Instant>,
    said: Option<Status>,
    gauge: Gauge,
}

impl Pulse {
    pub fn new(period: Duration, gauge: Gauge) -> Self {
        Self {
            period,
            started_ms: clock::now().0,
            seq: 0,
            due: clock::instant(),
            last: None,
            changed: None,
            said: None,
            gauge,
        }
    }

    /// What is running changed: the next heartbeat is due as soon as allowed.
    pub fn changed(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    pub fn is_due(&self, now: Instant) -> bool {
        let long_ago = |at: Instant| now.saturating_duration_since(at) >= CHANGED_MIN;
        now >= self.due || (self.changed.is_some_and(long_ago) && self.last.is_none_or(long_ago))
    }

    /// Whether a heartbeat that is due says anything new, or must be sent to show that we live.
    pub fn is_worth_it(&mut self, now: Instant, status: &Status) -> bool {
        let news = now >= self.due || self.said.as_ref() != Some(status);
        if !news {
            self.changed = None;
        }
        news
    }

    /// The next heartbeat.
    pub fn beat(&mut self, now: Instant, status: Status) -> Heartbeat {
        self.seq += 1;
        self.changed = None;
        self.said = Some(status.clone());
        self.last = Some(now);
        self.due = now + self.period.mul_f64(rand::rng().random_range(0.9..=1.1));
        let usage = self.gauge.read(now);
        let running = status.running.into_iter().take(wire::RUNNING_MAX);
        Heartbeat {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seq: self.seq,
            started_ms: self.started_ms,
            sent_ms: clock::now().0,
            cpu_usage_permille: usage.cpu,
            memory_usage_permille: usage.memory,
            gpu_usage_permille: None,
            disk_usage_permille: usage.disk,
            load_permille: status.load_permille,
            room: status.room,
            running: running.map(|(job, attempt)| wire::attempt_ref(job, attempt)).collect(),
            stopping: status.stopping,
            progress: fitting(&status.progress),
            ..Heartbeat::default()
        }
    }
}

/// What attempts say of themselves, as far as it fits.
fn fitting(all: &[(Key, Progress)]) -> Vec<AttemptProgress> {
    let mut left = Progress::BYTES_MAX;
    let mut told = Vec::new();
    for (key, progress) in all {
        let said = progress.to_proto(*key);
        let size = Progress::size_in_heartbeat(&said);
        if size > left {
            break;
        }
        left -= size;
        told.push(said);
    }
    told
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn status() -> Status {
        Status { load_permille: 0, room: 1, running: vec![], progress: vec![], stopping: false }
    }

    #[test]
    fn beats_regularly_and_soon_after_a_change_but_not_too_soon() {
        let mut pulse = Pulse::new(Duration::from_secs(1), Gauge::new("/".into()));
        let now = clock::instant();
        assert!(pulse.is_due(now));
        let first = pulse.beat(now, status());
        assert!(!pulse.is_due(now + Duration::from_millis(899)));
        assert!(pulse.is_due(now + Duration::from_millis(1_100)));
        pulse.changed(now);
        assert!(!pulse.is_due(now + Duration::from_millis(199)));
        assert!(pulse.is_due(now + CHANGED_MIN));
        let second = pulse.beat(now + CHANGED_MIN, status());
        assert!(second.seq > first.seq && second.started_ms == first.started_ms);
        assert!(!pulse.is_due(now + CHANGED_MIN * 2));
    }

    #[test]
    fn a_heartbeat_of_a_full_worker_fits_into_one_message() {
        let keys = (0..wire::RUNNING_MAX).map(|n| (crate::domain::JobId((n as u128).to_be_bytes()), u32::MAX));
        let keys: Vec<Key> = keys.collect();
        let said = Progress::new(Some(1_000), &"x".repeat(1_000)).unwrap();
        let progress: Vec<_> = keys.iter().map(|key| (*key, said.clone())).collect();
        let status = Status { running: keys, progress, ..status() };
        let beat = Pulse::new(Duration::from_secs(1), Gauge::new("/".into())).beat(clock::instant(), status);
        assert!(beat.encoded_len() < 60 * 1024, "{}", beat.encoded_len());
        assert_eq!(beat.running.len(), wire::RUNNING_MAX);
        assert!(beat.progress.len() > 100 && beat.progress[0].message.len() == 128, "{}", beat.progress.len());
    }

    #[test]
    fn what_has_changed_back_is_not_worth_a_heartbeat() {
        let mut pulse = Pulse::new(Duration::from_secs(1), Gauge::new("/".into()));
        let now = clock::instant();
        pulse.beat(now, status());
        pulse.changed(now);
        let later = now + CHANGED_MIN;
        assert!(pulse.is_due(later) && !pulse.is_worth_it(later, &status()));
        assert!(!pulse.is_due(later + CHANGED_MIN), "forgotten");
        pulse.changed(later);
        let busy = Status { room: 0, ..status() };
        assert!(pulse.is_worth_it(later + CHANGED_MIN, &busy));
        assert!(pulse.is_worth_it(now + Duration::from_secs(2), &status()), "it is time for one anyway");
    }
}
