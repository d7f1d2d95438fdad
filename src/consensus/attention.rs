//! Whether this node has been running and hearing its leader all the time, and what it may say of itself if not.
//!
//! A process that is stopped (SIGSTOP, a debugger, a machine that swaps) wakes
//! with messages in its sockets that were written before, and believes them to
//! be new: a follower would take an old heartbeat for a sign that the leader
//! lives now. So a beat notices when this process did not run. From then on
//! everything it knows counts as old as the last beat before, until a
//! linearizable read that was begun after the waking has succeeded here.
//!
//! A link that was cut does the same: what lay in it arrives when it is mended.
//! So the first sign of a leader after a silence is taken for old in the same way.
//!
//! Between waking and noticing, [`Attention::doubt`] looks at the age of the last
//! beat itself, so there is no moment in which old news pass for new. A process
//! that is merely starved of CPU is treated alike: it can not tell the two apart.
//!
//! The monotonic clock of Linux goes on while a process is stopped. It stops
//! while a whole machine is suspended; nothing here notices that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::clock;

use super::core::Core;
use super::read;

/// Between two beats.
const BEAT: Duration = Duration::from_millis(50);

/// A beat that comes later than this is a pause. What is said of freshness may be wrong by as much.
const PAUSE: Duration = Duration::from_millis(300);

/// How long the leader has to answer a node that woke, before it is asked again.
const ASK_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Attention {
    seen: Mutex<Seen>,
    woke: Notify,
    /// A leader that is not heard for longer may be heard late.
    silence: Duration,
}

struct Seen {
    beat: Instant,
    /// The newest sign of a leader.
    heard: Option<Instant>,
    /// Begin of a pause or a silence, and when its end was noticed; while nobody has confirmed that we are up to date.
    doubt: Option<(Instant, Instant)>,
}

impl Seen {
    fn doubt(&mut self, since: Instant, now: Instant) {
        let since = self.doubt.map_or(since, |(earlier, _)| earlier);
        self.doubt = Some((since, now));
    }
}

impl Attention {
    pub fn new(now: Instant, silence: Duration) -> Self {
        Self { seen: Mutex::new(Seen { beat: now, heard: None, doubt: None }), woke: Notify::new(), silence }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that this process runs. True if it did not until now.
    fn beat(&self, now: Instant) -> bool {
        let mut seen = self.seen();
        let last = std::mem::replace(&mut seen.beat, now);
        let paused = now.saturating_duration_since(last) > PAUSE;
        if paused {
            seen.doubt(last, now);
        }
        paused
    }

    /// A sign of the leader came at `at`.
    pub fn hear(&self, at: Instant) {
        let mut seen = self.seen();
        // Requests that came one after the other may be done with in any order.
        let last = seen.heard;
        seen.heard = last.max(Some(at));
        if let Some(last) = last.filter(|last| at.saturating_duration_since(*last) > self.silence) {
            seen.doubt(last, at);
            self.woke.notify_one();
        }
    }

    /// This node leads, and a quorum answered it at `at`. It hears itself.
    fn lead(&self, at: Instant) {
        let mut seen = self.seen();
        seen.heard = seen.heard.max(Some(at));
    }

    /// How old everything that this node heard may be; `None` if what it heard is as new as it seems.
    pub fn doubt(&self, now: Instant) -> Option<Duration> {
        let seen = self.seen();
        let unnoticed = now.saturating_duration_since(seen.beat) > PAUSE;
        let since = seen.doubt.map(|(since, _)| since).or(unnoticed.then_some(seen.beat))?;
        Some(now.saturating_duration_since(since))
    }

    /// All that was committed at `asked` is applied. False if we slept since, so that it proves nothing.
    fn confirm(&self, asked: Instant) -> bool {
        let mut seen = self.seen();
        let proves = seen.doubt.is_none_or(|(_, woke)| asked >= woke);
        if proves {
            seen.doubt = None;
        }
        proves
    }

    fn doubts(&self) -> bool {
        self.seen().doubt.is_some()
    }
}

/// Beats for as long as this node runs.
pub(super) async fn beat(core: Arc<Core>) {
    loop {
        if core.attention.beat(clock::instant()) {
            tracing::debug!("this process did not run for a while");
            core.attention.woke.notify_one();
        }
        if let Some(at) = core.last_quorum() {
            core.attention.lead(at);
        }
        sleep(BEAT).await;
    }
}

/// After each pause and each silence, asks the leader until it answers.
pub(super) async fn recover(core: Arc<Core>) {
    loop {
        core.attention.woke.notified().await;
        while core.attention.doubts() {
            let asked = clock::instant();
            match read::linearize(&core, ASK_LIMIT).await {
                Ok(_) if core.attention.confirm(asked) => core.hear_leader_at(asked),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "not confirmed after a pause");
                    // A node that was removed is refused without having waited.
                    sleep(BEAT).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_before_a_pause_is_old_until_it_is_confirmed() {
        let start = clock::instant();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let attention = Attention::new(start, Duration::from_secs(1));
        assert!(!attention.beat(at(50)));
        assert_eq!(attention.doubt(at(100)), None);

        // Stopped from 60 to 5060: before the beat runs, and after it.
        assert_eq!(attention.doubt(at(5_060)), Some(Duration::from_millis(5_010)));
        assert!(attention.beat(at(5_070)));
        assert!(!attention.beat(at(5_120)));
        assert_eq!(attention.doubt(at(5_120)), Some(Duration::from_millis(5_070)));

        assert!(!attention.confirm(at(60)), "asked before it slept");
        assert!(attention.doubt(at(5_130)).is_some());
        assert!(attention.confirm(at(5_080)));
        assert_eq!(attention.doubt(at(5_130)), None);
    }

    #[test]
    fn a_second_pause_does_not_shorten_the_first() {
        let start = clock::instant();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let attention = Attention::new(start, Duration::from_secs(1));
        assert!(attention.beat(at(1_000)));
        assert!(attention.beat(at(3_000)));
        assert_eq!(attention.doubt(at(3_000)), Some(Duration::from_secs(3)));
        assert!(!attention.confirm(at(1_500)), "asked between the two");
    }

    #[test]
    fn what_comes_after_a_silence_may_have_lain_in_the_link() {
        let start = clock::instant();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let attention = Attention::new(start, Duration::from_secs(1));
        attention.hear(at(10));
        attention.hear(at(900));
        attention.beat(at(5_000));
        attention.confirm(at(5_000));
        assert_eq!(attention.doubt(at(5_000)), None, "it is steadily silent, and the silence itself is told");
        attention.hear(at(5_010));
        assert_eq!(attention.doubt(at(5_010)), Some(Duration::from_millis(4_110)));
        attention.hear(at(5_020));
        assert_eq!(attention.doubt(at(5_020)), Some(Duration::from_millis(4_120)), "more of what lay there");
        assert!(attention.confirm(at(5_010)));
        attention.hear(at(4_000));
        attention.hear(at(5_900));
        assert!(!attention.doubts(), "the one before last was done with late, and nobody was silent");
    }

    #[test]
    fn who_led_has_not_been_silent() {
        let start = clock::instant();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let attention = Attention::new(start, Duration::from_secs(1));
        attention.hear(at(10));
        for turn in 0..100 {
            attention.lead(at(turn * 50));
            attention.beat(at(turn * 50));
        }
        attention.hear(at(5_500));
        assert_eq!(attention.doubt(at(5_010)), None, "it handed over");
        attention.hear(at(7_000));
        assert_eq!(attention.doubt(at(7_000)), Some(Duration::from_millis(1_500)), "it was cut off");
    }
}
