//! Watching Raft: who leads, who is a member, when to snapshot, what is fatal.
//!
//! [`Leadership::Leading`] is said only once this term's own first entry is
//! applied, hence everything committed before it; and only while a quorum
//! answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::domain::NodeId;

use super::core::Core;
use super::types::{LogId, Metrics};
use super::{Error, Leadership, read};

/// How often time alone is looked at: quorum age, silent transfers.
const TICK: Duration = Duration::from_millis(100);

/// The log may hold this many times the bytes between two snapshots. Beyond it, no entries are kept behind one.
/// What sled holds of the log it mostly holds in memory, too; and who missed this much is sooner helped by a snapshot.
const LOG_SNAPSHOTS: u64 = 1;

/// How long a node that has started asks what is committed, at a time, and until it asks again.
const ASKED_FOR: Duration = Duration::from_secs(5);
const ASKED_AGAIN: Duration = Duration::from_millis(50);

/// How often members that have not been met are tried.
const MEET_EVERY: Duration = Duration::from_secs(1);

/// Follows Raft until it ends.
pub(super) async fn watch(core: Arc<Core>) {
    let mut metrics = core.raft.metrics();
    let mut members = None;
    let mut kept = Kept::default();
    loop {
        let now = metrics.borrow_and_update().clone();
        if let Err(fatal) = &now.running_state {
            core.leadership.send_if_modified(|leadership| step_to(leadership, Leadership::Following));
            if !core.tasks.token().is_cancelled() {
                tracing::error!(%fatal, "raft has stopped");
                // If the disk was the cause, its own error says more.
                let disk = timeout(TICK, core.store.failed()).await;
                core.fail(disk.map_or_else(|_| Error::Setup(format!("raft has stopped: {fatal}")), Error::Storage));
            }
            return;
        }
        let leadership = leadership(&core, &now);
        core.leadership.send_if_modified(|current| step_to(current, leadership));
        follow_members(&core, &now, &mut members);
        follow_snapshots(&core, &now, &mut kept).await;
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            () = sleep(TICK) => core.receiver.expire(),
        }
    }
}

fn step_to(current: &mut Leadership, next: Leadership) -> bool {
    if *current == next {
        return false;
    }
    *current = next;
    match next {
        Leadership::Leading { term } => tracing::info!(term, "leading"),
        Leadership::Following => tracing::info!("following"),
    }
    true
}

fn leadership(core: &Core, metrics: &Metrics) -> Leadership {
    let elected = metrics.state == ServerState::Leader && metrics.current_leader == Some(core.node);
    let term = metrics.current_term;
    let caught_up = metrics.last_applied.is_some_and(|id| id.leader_id.term == term);
    let heard = core.quorum_age(metrics).is_some_and(|age| age <= core.options.election_max);
    if elected && caught_up && heard { Leadership::Leading { term } } else { Leadership::Following }
}

/// Keeps the mesh's list of members in step with the log's.
fn follow_members(core: &Core, metrics: &Metrics, known: &mut Option<(Option<LogId>, u64)>) {
    let membership = &metrics.membership_config;
    let seen = (*membership.log_id(), core.trusted.version());
    if *known == Some(seen) {
        return;
    }
    *known = Some(seen);
    let mut members: BTreeSet<NodeId> = membership.nodes().map(|(id, _)| *id).collect();
    if core.heeds_trusted(metrics) {
        members.extend(core.trusted.all());
    }
    members.extend(core.peers.dismissed());
    core.transport.set_members(members);
}

/// What was last done about the length of the log.
#[derive(Default)]
struct Kept {
    snapshot: Option<LogId>,
    /// The log was cut down to this snapshot.
    cut: Option<LogId>,
}

/// Entries are counted by Raft; bytes are counted here.
async fn follow_snapshots(core: &Core, metrics: &Metrics, kept: &mut Kept) {
    if kept.snapshot != metrics.snapshot {
        // The first one seen may be from before the start; then what was logged since still counts.
        if kept.snapshot.is_some() {
            core.log.forget_appended();
        }
        kept.snapshot = metrics.snapshot;
    }
    let every = core.options.snapshot_every_bytes;
    if core.log.appended_bytes() > every {
        core.log.forget_appended();
        if let Err(fatal) = core.raft.trigger().snapshot().await {
            tracing::warn!(%fatal, "trigger a snapshot");
        }
    }
    // Large entries behind the snapshot are worth less than the disk they take.
    let long = core.log.stored_bytes() > every.saturating_mul(LOG_SNAPSHOTS);
    if let Some(snapshot) = kept.snapshot.filter(|_| long && kept.cut != kept.snapshot) {
        kept.cut = kept.snapshot;
        if let Err(fatal) = core.raft.trigger().purge_log(snapshot.index).await {
            tracing::warn!(%fatal, "trigger a purge");
        }
    }
}

/// Says hello to every member, also those that Raft has no reason to talk to: who lost its data must find
/// someone who remembers it.
pub(super) async fn meet(core: Arc<Core>) {
    loop {
        sleep(MEET_EVERY).await;
        let strangers: Vec<NodeId> = {
            let metrics = core.raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.membership().nodes().map(|(id, _)| *id);
            members.filter(|id| *id != core.node && !core.peers.is_greeted(*id)).collect()
        };
        for peer in strangers.into_iter().chain(core.peers.dismissed()) {
            if let Err(failure) = core.peers.greet(&*core.transport, peer, MEET_EVERY).await {
                tracing::debug!(%peer, ?failure, "not met");
            }
        }
    }
}

/// Reports readiness once this node applied what the cluster had committed when it was asked for that.
///
/// What is merely heard may be old news: a request that was written before this node started, or one from a leader
/// that has not committed anything yet. So the leader is asked, who answers when a quorum has confirmed it.
pub(super) async fn recover(core: Arc<Core>) {
    let target = loop {
        match read::committed(&core, clock::instant() + ASKED_FOR).await {
            Ok(index) => break index,
            Err(error) => tracing::debug!(%error, "not heard what is committed"),
        }
        sleep(ASKED_AGAIN).await;
    };
    if core.raft.wait(None).applied_index_at_least(Some(target), "recovered").await.is_ok() {
        core.recovered.store(true, Ordering::Release);
        tracing::info!(applied = *core.applied.index().borrow(), "recovered");
    }
}
