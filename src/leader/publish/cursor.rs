//! Moving the replicated cursor behind what Kafka has.
//!
//! Sending does not wait for it: the next batch is on its way while the cursor
//! of the last one commits. How far sending may run ahead is bounded, and with it
//! what a successor sends again.
//!
//! One commit covers many batches. What was published is reported soon; entries
//! that become no record only later, in one commit for many, just so that the
//! journal can let go of them.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::debug;

use crate::clock;
use crate::domain::Command;
use crate::domain::journal::Sink;
use crate::leader::{PAUSE, Reign};

/// Shortest time between two commits.
const SOON: Duration = Duration::from_millis(50);

/// Entries that are committed without waiting for that time to pass.
const MANY: u64 = 5_000;

/// Longest that entries without records wait for their commit.
const LATE: Duration = Duration::from_secs(3);

/// How far delivery got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Kafka has all up to this entry that is to be published.
    pub through: u64,
    /// The last entry of which it got a record.
    pub published: u64,
}

/// Commits as `progress` grows. Ends when nobody tells any more.
pub(super) async fn follow(reign: &Reign, mut progress: watch::Receiver<Progress>) {
    let mut last: Option<Instant> = None;
    loop {
        let committed = cursor(reign).unwrap_or(0);
        let now = *progress.borrow_and_update();
        let since = last.map_or(Duration::MAX, |last| last.elapsed());
        match due(now, committed, since) {
            Some(Duration::ZERO) => {
                last = Some(clock::instant());
                commit(reign, now.through).await;
            }
            Some(wait) => tokio::select! {
                () = tokio::time::sleep(wait) => {}
                told = progress.changed() => if told.is_err() { return },
            },
            None => {
                if progress.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// How long to wait before the next commit, `since` the last one; `None`: there is nothing to commit.
pub(super) fn due(now: Progress, committed: u64, since: Duration) -> Option<Duration> {
    let ahead = now.through.checked_sub(committed).filter(|ahead| *ahead > 0)?;
    let pause = match ahead {
        MANY.. => Duration::ZERO,
        _ if now.published > committed => SOON,
        _ => LATE,
    };
    Some(pause.saturating_sub(since))
}

/// Reports how far Kafka has everything; false if that is not committed now, but perhaps with what follows.
pub(super) async fn commit(reign: &Reign, through: u64) -> bool {
    let command = Command::Delivered { sink: Sink::Kafka, through };
    if let Err(error) = reign.record("publish", vec![command]).await {
        debug!(through, %error, "cursor not moved, will be tried again");
    }
    let moved = cursor(reign).is_some_and(|cursor| cursor >= through);
    if !moved {
        tokio::time::sleep(PAUSE).await;
    }
    moved
}

/// What is replicated; `None` before the first report ever.
pub(super) fn cursor(reign: &Reign) -> Option<u64> {
    reign.context.client.read(|state| state.journal().cursor(Sink::Kafka))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::MAX;

    fn progress(through: u64, published: u64) -> Progress {
        Progress { through, published }
    }

    #[test]
    fn nothing_new_is_nothing_to_commit() {
        assert_eq!(due(progress(7, 7), 7, LONG), None);
        // A predecessor's commit was applied after we began.
        assert_eq!(due(progress(7, 7), 9, LONG), None);
    }

    #[test]
    fn what_was_published_is_reported_soon_but_not_batch_by_batch() {
        assert_eq!(due(progress(8, 8), 7, LONG), Some(Duration::ZERO));
        assert_eq!(due(progress(8, 8), 7, Duration::from_millis(20)), Some(SOON - Duration::from_millis(20)));
        assert_eq!(due(progress(7 + MANY, 8), 7, Duration::ZERO), Some(Duration::ZERO), "many do not wait");
    }

    #[test]
    fn entries_without_records_move_the_cursor_late_and_together() {
        assert_eq!(due(progress(90, 7), 7, Duration::ZERO), Some(LATE));
        assert_eq!(due(progress(90, 7), 7, LATE), Some(Duration::ZERO));
        assert_eq!(due(progress(7 + MANY, 0), 7, Duration::ZERO), Some(Duration::ZERO));
    }
}
