//! A leader that should not lead says so, and gives leadership to somebody who should.
//!
//! Every write waits for a disk. With a leader's disk slow or full the cluster
//! is slow, or its late followers stay late, while another member could do
//! better. So the leader looks at its own disk every second. When its syncs have
//! been over [`super::Options::slow_disk`] for long enough, or it can not write
//! or serve a snapshot, it asks the other voters how they are, and hands over to
//! the one with the fastest disk that is clearly better off and has the log.
//!
//! Invariants
//!
//! * Nobody better, no hand-over: with all disks slow, or no other voter,
//!   leadership stays. That and [`COOL_DOWN`] keep it from going back and forth.
//! * Nothing but leadership changes: no lease of a job is revoked, no member
//!   leaves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::clock;
use crate::domain::NodeId;
use crate::mesh::Lane;

use super::Leadership;
use super::core::Core;
use super::frames::AskCondition;
use super::handover::{self, Reason};

/// Between two looks at the own disk.
const LOOK: Duration = Duration::from_secs(1);

/// A node that gave leadership away and has it again keeps it this much longer than it takes to judge a disk.
const COOL_DOWN: u32 = 6;

/// A member's disk must be this much faster than what is too slow.
const CLEARLY: u32 = 2;

/// Syncs of another member that are looked at.
const WINDOW: Duration = Duration::from_secs(10);

/// For a member to say how it is, and for it to take over.
const ASK_LIMIT: Duration = Duration::from_millis(500);
const MOVE_LIMIT: Duration = Duration::from_secs(5);

/// What this node could not do with snapshots, until it can.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<Option<String>>);

impl Snapshots {
    pub fn fail(&self, why: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.into());
    }

    pub fn succeed(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a member is, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Condition {
    /// Of the last seconds; 0 if there was nothing to sync.
    sync_p99_us: u64,
    /// It writes and serves snapshots, and its disk has room.
    sound: bool,
}

pub(super) fn condition(core: &Core) -> Condition {
    let since = clock::instant().checked_sub(WINDOW);
    let stats = since.map_or_else(|| core.store.sync_stats(), |since| core.store.sync_stats_since(since));
    let room = core.free_bytes().is_ok_and(|free| free >= core.options.min_free_bytes);
    Condition { sync_p99_us: stats.p99_us, sound: room && core.snapshots.trouble().is_none() }
}

/// Looks at the own disk for as long as this node runs.
pub(super) async fn watch(core: Arc<Core>) {
    let mut watch = Watch::default();
    loop {
        let begun = clock::instant();
        sleep(LOOK).await;
        let stats = core.store.sync_stats_since(begun);
        let look = Look {
            at: clock::instant(),
            leads: *core.leadership.borrow() != Leadership::Following,
            p99: (stats.barriers > 0).then(|| Duration::from_micros(stats.p99_us)),
        };
        let slow = watch.slow_disk(look, core.options.slow_disk, core.options.slow_disk_for);
        let reason = slow.or_else(|| core.snapshots.trouble().filter(|_| look.leads).map(Reason::Snapshot));
        if let Some(reason) = reason.filter(|_| watch.may_move(look.at, core.options.slow_disk_for)) {
            let gave = give_away(&core, reason).await;
            let now = Some(clock::instant());
            (watch.tried, watch.moved) = (now, if gave { now } else { watch.moved });
        }
    }
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    leads: bool,
    /// `None`: nothing was to be synced.
    p99: Option<Duration>,
}

#[derive(Default)]
struct Watch {
    slow_since: Option<Instant>,
    slowest: Duration,
    /// When it was last tried to give leadership away, and when that went well.
    tried: Option<Instant>,
    moved: Option<Instant>,
}

impl Watch {
    /// Whether the disk has been too slow for as long as it takes; `limit` 0: never.
    fn slow_disk(&mut self, look: Look, limit: Duration, for_long: Duration) -> Option<Reason> {
        match look.p99 {
            _ if limit.is_zero() || !look.leads => self.slow_since = None,
            Some(p99) if p99 > limit => {
                let fresh = self.slow_since.is_none();
                self.slow_since.get_or_insert(look.at);
                self.slowest = if fresh { p99 } else { self.slowest.max(p99) };
            }
            Some(_) => self.slow_since = None,
            None => {}
        }
        let lasted = look.at.saturating_duration_since(self.slow_since?);
        let detail = || {
            format!(
                "the p99 of syncs has been above {} ms for {} s; {} ms at most",
                limit.as_millis(),
                lasted.as_secs(),
                self.slowest.as_millis()
            )
        };
        (lasted >= for_long).then(|| Reason::SlowDisk(detail()))
    }

    fn may_move(&self, now: Instant, for_long: Duration) -> bool {
        let since = |at: Option<Instant>| at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        since(self.moved) >= for_long * COOL_DOWN && since(self.tried) >= for_long
    }
}

/// Hands over to the voter that is best off. Stays if none is clearly better. Whether leadership moved.
async fn give_away(core: &Core, reason: Reason) -> bool {
    let metrics = core.metrics();
    let voters = metrics.membership_config.membership().voter_ids();
    let able: Vec<NodeId> = voters.filter(|id| *id != core.node && handover::is_alive(&metrics, *id)).collect();
    let asked = join_all(able.into_iter().map(async |id| (id, ask(core, id).await))).await;
    let known = asked.into_iter().filter_map(|(id, condition)| Some((id, condition?)));
    let Some(to) = best(known, core.options.slow_disk) else {
        let (detail, reason) = (reason.detail(), reason.as_str());
        tracing::warn!(reason, detail, "should not lead, and no other voter is clearly better off");
        return false;
    };
    let moved = handover::hand_over(core, Some(to), reason, MOVE_LIMIT).await;
    moved.inspect_err(|error| tracing::warn!(%to, %error, "give leadership away")).is_ok()
}

async fn ask(core: &Core, member: NodeId) -> Option<Condition> {
    core.link.send(member, Lane::Forward, &AskCondition {}, ASK_LIMIT).await.ok()
}

/// The sound one with the fastest disk, if that is fast; `limit` 0: any is.
fn best(members: impl Iterator<Item = (NodeId, Condition)>, limit: Duration) -> Option<NodeId> {
    let limit_us = u64::try_from((limit / CLEARLY).as_micros()).unwrap_or(u64::MAX);
    let fit = |condition: &Condition| condition.sound && (limit.is_zero() || condition.sync_p99_us <= limit_us);
    let fit = members.filter(|(_, condition)| fit(condition));
    fit.min_by_key(|(id, condition)| (condition.sync_p99_us, *id)).map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PeerId;

    const LIMIT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(5);

    fn run(looks: &[(u64, bool, Option<u64>)]) -> Vec<bool> {
        let start = clock::instant();
        let mut watch = Watch::default();
        let mut see = |(secs, leads, p99): &(u64, bool, Option<u64>)| {
            let look =
                Look { at: start + Duration::from_secs(*secs), leads: *leads, p99: p99.map(Duration::from_millis) };
            watch.slow_disk(look, LIMIT, LONG).is_some()
        };
        looks.iter().map(&mut see).collect()
    }

    #[test]
    fn only_a_disk_that_stays_slow_costs_leadership() {
        let slow = |secs| (secs, true, Some(400));
        assert_eq!(run(&[slow(0), slow(1), slow(4), slow(5)]), [false, false, false, true]);
        assert_eq!(run(&[slow(0), slow(4), (5, true, Some(20)), slow(6), slow(10)]), [false; 5], "one good look");
        assert_eq!(run(&[slow(0), (3, true, None), slow(6)]), [false, false, true], "nothing to sync says nothing");
        assert_eq!(
            run(&[(0, false, Some(400)), (6, false, Some(400)), slow(7), slow(11)]),
            [false; 4],
            "it leads anew"
        );
    }

    #[test]
    fn leadership_does_not_go_back_and_forth() {
        let start = clock::instant();
        let watch = Watch { moved: Some(start), ..Watch::default() };
        assert!(!watch.may_move(start + LONG * 5, LONG));
        assert!(watch.may_move(start + LONG * 6, LONG));
        assert!(Watch::default().may_move(start, LONG));
        let tried = Watch { tried: Some(start), ..Watch::default() };
        assert!(!tried.may_move(start + LONG / 2, LONG) && tried.may_move(start + LONG, LONG), "it was in vain");
    }

    #[test]
    fn the_fastest_sound_member_is_chosen_or_none() {
        let member = |n: u8, ms: u64, sound| (PeerId([n; 32]), Condition { sync_p99_us: ms * 1_000, sound });
        let best = |members: &[(PeerId, Condition)]| best(members.iter().copied(), LIMIT).map(|id| id.0[0]);
        assert_eq!(best(&[member(1, 40, true), member(2, 3, true), member(3, 1, false)]), Some(2));
        assert_eq!(best(&[member(1, 60, true), member(2, 400, true)]), None, "slow, too");
        assert_eq!(best(&[]), None);
    }
}
