//! What workers said last: the soft half of a worker.
//!
//! Every coordinator hears every heartbeat, so a new leader knows at once who
//! lives. Nothing here is replicated; verdicts that matter go through the log.
//!
//! Silence is measured against this node's own attention: when the process did
//! not run for a while (paused, swapped out), that time does not count against
//! the workers. Every node attends from its start, also while it follows: who
//! wakes up and is elected must not blame the workers. See [`Roster::attend`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::warn;

use super::progress::{self, Progress};
use crate::domain::{JobId, Timestamp, WorkerId};
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// Workers remembered. Beyond this those silent longer than [`SILENT`] make room for a new one; if
/// there are none, it is not kept.
pub const WORKERS_MAX: usize = 20_000;

/// Those among them that the log does not know: anybody can make keys. It may know them a moment later.
pub const STRANGERS_MAX: usize = 1_000;

const CLEAR_EVERY: Duration = Duration::from_secs(1);

const SILENT: Duration = Duration::from_secs(60);

/// A heartbeat of an earlier life that comes later than this after the last one is no straggler: the
/// worker's clock was set back between its lives.
const STRAGGLER: Duration = Duration::from_secs(3);

/// Longer than this between two calls of [`Roster::attend`] counts as having been away.
const AWAY: Duration = Duration::from_millis(1_000);

/// The last heartbeat of one worker.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Timestamp,
    pub instant: Instant,
    pub version: String,
    pub started: Timestamp,
    pub seq: u64,
    pub cpu_permille: u32,
    pub memory_permille: u32,
    /// None: it does not measure.
    pub gpu_permille: Option<u32>,
    pub disk_permille: u32,
    pub load_permille: u32,
    pub room: u32,
    pub running: Vec<(JobId, u32)>,
    /// What attempts say of themselves.
    pub progress: Arc<BTreeMap<(JobId, u32), Progress>>,
    pub stopping: bool,
}

impl Heard {
    /// A heartbeat off the wire. `None` if it names something that cannot be.
    pub fn from_proto(from: proto::Heartbeat, at: Timestamp, instant: Instant) -> Option<Self> {
        if from.running.len().max(from.progress.len()) > wire::RUNNING_MAX || from.version.len() > 64 {
            return None;
        }
        let running =
            from.running.iter().map(|attempt| wire::parse_attempt(Some(attempt))).collect::<Option<Vec<_>>>()?;
        let progress = Arc::new(progress::from_proto(from.progress, &running)?);
        Some(Self {
            at,
            instant,
            version: from.version,
            started: Timestamp(from.started_ms),
            seq: from.seq,
            cpu_permille: from.cpu_usage_permille.min(1_000),
            memory_permille: from.memory_usage_permille.min(1_000),
            gpu_permille: from.gpu_usage_permille.map(|usage| usage.min(1_000)),
            disk_permille: from.disk_usage_permille.min(1_000),
            load_permille: from.load_permille,
            room: from.room,
            running,
            progress,
            stopping: from.stopping,
        })
    }
}

#[derive(Clone, Default)]
pub struct Roster {
    /// What they bid in vain.
    pub lost_bids: super::LostBids,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    heard: BTreeMap<WorkerId, Heard>,
    /// Those that were not registered when they were heard last.
    strangers: BTreeSet<WorkerId>,
    /// When the silent were last looked for.
    cleared: Option<Instant>,
    attended: Option<Instant>,
}

impl Roster {
    /// Notes a heartbeat. False if it is older than what we have, or there is no room. `registered`: in the log.
    pub fn hear(&self, worker: WorkerId, heard: Heard, registered: bool) -> bool {
        let mut inner = self.lock();
        let wanted = match inner.heard.get(&worker) {
            Some(last) if last.started == heard.started => last.seq < heard.seq,
            Some(last) if last.started > heard.started => {
                heard.instant.saturating_duration_since(last.instant) >= STRAGGLER
            }
            Some(_) => true,
            None => inner.has_room(registered) || inner.make_room(heard.instant, registered),
        };
        if wanted {
            inner.heard.insert(worker, heard);
            if registered {
                inner.strangers.remove(&worker);
            } else if inner.strangers.len() < STRANGERS_MAX {
                inner.strangers.insert(worker);
            }
        }
        wanted
    }

    pub fn get(&self, worker: WorkerId) -> Option<Heard> {
        self.lock().heard.get(&worker).cloned()
    }

    /// Load in permille, and free places, as of the last heartbeat.
    pub fn load_and_room(&self, worker: WorkerId) -> Option<(u32, u32)> {
        self.lock().heard.get(&worker).map(|heard| (heard.load_permille, heard.room))
    }

    /// What an attempt said last, in the last heartbeat of its worker.
    pub fn progress(&self, worker: WorkerId, attempt: (JobId, u32)) -> Option<Progress> {
        self.lock().heard.get(&worker)?.progress.get(&attempt).cloned()
    }

    /// Workers heard within `limit` before `now`.
    pub fn fresher_than(&self, now: Instant, limit: Duration) -> Vec<(WorkerId, Heard)> {
        let inner = self.lock();
        let fresh = inner.heard.iter().filter(|(_, heard)| now.saturating_duration_since(heard.instant) <= limit);
        fresh.map(|(worker, heard)| (*worker, heard.clone())).collect()
    }

    /// How long ago we heard the worker, not counting time we were away.
    pub fn silence(&self, worker: WorkerId, now: Instant) -> Option<Duration> {
        self.lock().heard.get(&worker).map(|heard| now.saturating_duration_since(heard.instant))
    }

    /// Notes that a worker we have heard before answered a question of `asked`.
    pub fn answered(&self, worker: WorkerId, asked: Instant) {
        if let Some(heard) = self.lock().heard.get_mut(&worker) {
            heard.instant = heard.instant.max(asked);
        }
    }

    /// Says that this node is awake at `now`; called several times a second.
    /// Time away is forgiven to every worker and returned. Whoever looks at
    /// silence calls it first: after a pause it may be the first to run.
    pub fn attend(&self, now: Instant) -> Option<Duration> {
        let mut inner = self.lock();
        let last = inner.attended.replace(now)?;
        let away = now.saturating_duration_since(last);
        if away < AWAY {
            return None;
        }
        for heard in inner.heard.values_mut() {
            heard.instant = (heard.instant + away).min(now);
        }
        warn!(away_ms = away.as_millis(), "this process was not running for a while; workers are not blamed");
        Some(away)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn has_room(&self, registered: bool) -> bool {
        self.heard.len() < WORKERS_MAX && (registered || self.strangers.len() < STRANGERS_MAX)
    }

    /// Forgets those that have been silent for long. False if that is not enough. Looks at most once a second:
    /// whoever floods us must not make us look at everybody each time.
    fn make_room(&mut self, now: Instant, registered: bool) -> bool {
        if self.cleared.is_some_and(|at| now.saturating_duration_since(at) < CLEAR_EVERY) {
            return false;
        }
        self.cleared = Some(now);
        self.heard.retain(|_, heard| now.saturating_duration_since(heard.instant) <= SILENT);
        let heard = &self.heard;
        self.strangers.retain(|worker| heard.contains_key(worker));
        self.has_room(registered)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock;
    use crate::domain::PeerId;

    fn heard(instant: Instant, started: u64, seq: u64) -> Heard {
        Heard {
            at: Timestamp(0),
            instant,
            version: String::new(),
            started: Timestamp(started),
            seq,
            cpu_permille: 0,
            memory_permille: 0,
            gpu_permille: None,
            disk_permille: 0,
            load_permille: 0,
            room: 0,
            running: vec![],
            progress: Arc::default(),
            stopping: false,
        }
    }

    #[test]
    fn an_answer_is_as_good_as_a_heartbeat_but_not_newer_than_its_question() {
        let (roster, start) = (Roster::default(), clock::instant());
        let at = |seconds| start + Duration::from_secs(seconds);
        let worker = PeerId([1; 32]);
        roster.answered(worker, at(1));
        assert_eq!(roster.silence(worker, at(1)), None, "who was never heard has said nothing of itself");
        roster.hear(worker, heard(start, 1, 1), true);
        roster.answered(worker, at(3));
        assert_eq!(roster.silence(worker, at(4)), Some(Duration::from_secs(1)));
        roster.hear(worker, heard(at(4), 1, 2), true);
        roster.answered(worker, at(3));
        assert_eq!(roster.silence(worker, at(4)), Some(Duration::ZERO));
    }

    #[test]
    fn an_older_heartbeat_does_not_replace_a_newer_one() {
        let (roster, worker, now) = (Roster::default(), WorkerId::default(), clock::instant());
        assert!(roster.hear(worker, heard(now, 1, 7), true));
        assert!(!roster.hear(worker, heard(now, 1, 6), true));
        assert!(!roster.hear(worker, heard(now, 0, 9), true), "a previous life of the worker");
        assert!(roster.hear(worker, heard(now, 2, 1), true), "a restarted worker counts anew");
    }

    #[test]
    fn a_worker_restarted_after_its_clock_was_set_back_is_heard_again() {
        let (roster, worker, now) = (Roster::default(), WorkerId::default(), clock::instant());
        assert!(roster.hear(worker, heard(now, 7_200, 9), true));
        assert!(!roster.hear(worker, heard(now + Duration::from_secs(1), 0, 1), true), "perhaps a straggler");
        assert!(roster.hear(worker, heard(now + STRAGGLER, 0, 2), true), "no, a new life");
        assert!(roster.hear(worker, heard(now + STRAGGLER, 0, 3), true));
    }

    #[test]
    fn the_silent_make_room_for_the_new() {
        let (roster, now) = (Roster::default(), clock::instant());
        let id = |n: usize| {
            let mut id = WorkerId::default();
            id.0[..8].copy_from_slice(&n.to_be_bytes());
            id
        };
        for n in 0..WORKERS_MAX {
            assert!(roster.hear(id(n), heard(now, 1, 1), true));
        }
        assert!(!roster.hear(id(WORKERS_MAX), heard(now + SILENT, 1, 1), true), "all are heard of");
        assert!(roster.hear(id(0), heard(now + SILENT, 1, 2), true));
        assert!(roster.hear(id(WORKERS_MAX), heard(now + SILENT + Duration::from_secs(1), 1, 2), true));
        assert!(roster.get(id(0)).is_some() && roster.get(id(1)).is_none());
    }

    #[test]
    fn strangers_fill_a_small_part_and_make_room_for_each_other_only() {
        let (roster, now) = (Roster::default(), clock::instant());
        let id = |n: usize| {
            let mut id = WorkerId::default();
            id.0[..8].copy_from_slice(&n.to_be_bytes());
            id
        };
        let heard_at = |at| heard(at, 1, 1);
        assert!((0..STRANGERS_MAX).all(|n| roster.hear(id(n), heard_at(now), false)));
        assert!(!roster.hear(id(STRANGERS_MAX), heard_at(now), false));
        assert!(roster.hear(id(STRANGERS_MAX), heard_at(now), true), "a registered one has room");
        assert!(roster.hear(id(0), heard(now, 1, 2), true), "it has registered meanwhile");
        assert!(roster.hear(id(STRANGERS_MAX + 1), heard_at(now), false), "and left a place");
        let later = now + SILENT + Duration::from_secs(1);
        assert!(roster.hear(id(STRANGERS_MAX + 2), heard_at(later), false), "the others are gone");
        assert!(roster.get(id(1)).is_none());
    }

    #[test]
    fn time_we_were_paused_is_not_held_against_workers() {
        let (roster, worker, start) = (Roster::default(), WorkerId::default(), clock::instant());
        roster.hear(worker, heard(start, 1, 1), true);
        assert_eq!(roster.attend(start), None);
        let woken = start + Duration::from_secs(5);
        assert_eq!(roster.attend(woken), Some(Duration::from_secs(5)));
        assert_eq!(roster.silence(worker, woken), Some(Duration::ZERO));
        let later = woken + Duration::from_millis(400);
        assert_eq!(roster.attend(later), None);
        assert_eq!(roster.silence(worker, later), Some(Duration::from_millis(400)));
    }

    #[test]
    fn a_heartbeat_with_a_broken_attempt_is_refused() {
        let broken = proto::Heartbeat {
            running: vec![proto::AttemptRef { job: Bytes::from_static(b"short"), attempt: 1 }],
            ..Default::default()
        };
        assert!(Heard::from_proto(broken, Timestamp(0), clock::instant()).is_none());
    }
}
