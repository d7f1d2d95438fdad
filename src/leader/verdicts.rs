//! Judges who lives, from heartbeats that every coordinator hears.
//!
//! Only a change of verdict enters the log. A change of leader changes no
//! verdict: the coordinator that a worker spoke to may have died with it, so
//! silence counts from when this leader began at the earliest, and a worker that
//! it never heard (this process is young, and workers still find their way back
//! to it) gets a longer time. Time in which this process did not run is not held
//! against anyone ([`Roster::attend`]).
//!
//! Heartbeats may be lost, and come late where there are many: a worker that is
//! nearly gone is asked, by whatever way there is, and lives if it answers.
//!
//! [`Roster::attend`]: crate::mesh::Roster::attend

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::info;

use super::sends::Sends;
use super::{Duty, Options, Reign};
use crate::clock;
use crate::consensus;
use crate::domain::worker::Verdict;
use crate::domain::{Command, WorkerId};
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// How much longer than usual a worker may be silent that this process never heard.
const NEVER_HEARD: u32 = 3;

/// How long before its time is up a silent worker is asked: as long as two ways to it may take, and later than its next
/// heartbeat is due.
const ASKED_BEFORE: Duration = Duration::from_millis(1_600);

/// How long each way to a worker may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);

/// How long after the limit an answer that is under way is waited for.
const GRACE: Duration = Duration::from_millis(500);

/// Asked at once. When a whole network is gone, the others are judged by their silence.
const ASKED_MAX: usize = 128;

/// What is to be done about a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// Whether it lives, by whatever way there is.
    Ask,
    Tell(Verdict),
}

#[derive(Default)]
pub(super) struct Verdicts {
    /// Workers this process never heard, and since when it listens for them.
    unheard: BTreeMap<WorkerId, Instant>,
    /// When this term's first look was.
    since: Option<Instant>,
    /// Questions under way: to whom, and since when.
    asked: Sends<(WorkerId, Instant)>,
    /// Who was asked in vain, and has said nothing since: once is enough.
    pub(super) in_vain: BTreeSet<WorkerId>,
}

impl Duty for Verdicts {
    const NAME: &'static str = "verdicts";

    fn period(&self, _: &Options) -> Duration {
        Duration::from_millis(200)
    }

    async fn step(&mut self, reign: &Reign) -> Result<(), consensus::Error> {
        let now = clock::instant();
        reign.context.roster.attend(now);
        self.take_answers(reign).await;
        let verdicts: Vec<(WorkerId, Verdict)> =
            reign.context.client.read(|state| state.workers().map(|worker| (worker.id, worker.verdict)).collect());
        let ids: BTreeSet<WorkerId> = verdicts.iter().map(|(worker, _)| *worker).collect();
        self.unheard.retain(|worker, _| ids.contains(worker));
        self.in_vain.retain(|worker| ids.contains(worker));
        let (roster, limit) = (&reign.context.roster, reign.context.options.offline_after);
        let mut commands = Vec::new();
        for (worker, old) in verdicts {
            match self.judge(roster.silence(worker, now), limit, now, worker, old) {
                Need::Nothing => {}
                Need::Ask => self.ask(reign, now, worker),
                Need::Tell(verdict) => commands.push(Command::SetVerdict { worker, verdict }),
            }
        }
        reign.record(Self::NAME, commands).await.map(drop)
    }
}

impl Verdicts {
    /// What is to be done about a worker that was last `heard` so long ago.
    pub(super) fn judge(
        &mut self,
        heard: Option<Duration>,
        limit: Duration,
        now: Instant,
        worker: WorkerId,
        old: Verdict,
    ) -> Need {
        let led_for = now.saturating_duration_since(*self.since.get_or_insert(now));
        let mut doubtful = false;
        let is_gone = match heard {
            Some(silence) => {
                let silence = silence.min(led_for);
                doubtful = is_doubtful(silence, limit);
                if !doubtful {
                    self.in_vain.remove(&worker);
                }
                // It is asked now, if it may be.
                let asked = self.asked.is_busy(worker) || (doubtful && old != Verdict::Offline && self.may_ask(worker));
                is_gone(silence, asked, limit)
            }
            None => {
                let since = *self.unheard.entry(worker).or_insert(now);
                now.saturating_duration_since(since) > limit * NEVER_HEARD
            }
        };
        if old != Verdict::Offline && is_gone {
            info!(worker = %worker, silent_ms = heard.map(|silence| silence.as_millis()), "worker is offline");
            return Need::Tell(Verdict::Offline);
        }
        if old == Verdict::Offline && heard.is_some_and(|silence| silence < limit / 2) {
            info!(worker = %worker, "worker is back online");
            return Need::Tell(Verdict::Online);
        }
        if doubtful && old != Verdict::Offline { Need::Ask } else { Need::Nothing }
    }

    fn may_ask(&self, worker: WorkerId) -> bool {
        self.asked.len() < ASKED_MAX && !self.asked.is_busy(worker) && !self.in_vain.contains(&worker)
    }

    /// Asks for nothing but an answer.
    fn ask(&mut self, reign: &Reign, now: Instant, worker: WorkerId) {
        if !self.may_ask(worker) {
            return;
        }
        let reign = reign.clone();
        let request = async move { reign.ask(worker, question(), ANSWER_LIMIT).await.is_ok() };
        self.asked.send(worker, (worker, now), request);
    }

    async fn take_answers(&mut self, reign: &Reign) {
        for ended in self.asked.settle(Duration::ZERO).await {
            let (worker, asked) = ended.note;
            if ended.answered {
                reign.context.roster.answered(worker, asked);
            } else {
                self.in_vain.insert(worker);
            }
        }
    }
}

/// A renewal of no lease: every worker answers it, and it changes nothing.
fn question() -> Bytes {
    let body = proto::coordinator_request::Body::Renew(proto::Renew::default());
    wire::encode(&proto::CoordinatorRequest { body: Some(body) })
}

/// Whether a worker that was silent for so long is asked.
fn is_doubtful(silence: Duration, limit: Duration) -> bool {
    silence > limit.saturating_sub(ASKED_BEFORE).max(limit / 2)
}

/// Whether a worker is gone that was silent for so long, of the time this leader has led: until then its heartbeats
/// may have gone to the one before, and it may be about to notice. `asked`: its answer may be under way.
fn is_gone(silence: Duration, asked: bool, limit: Duration) -> bool {
    silence > if asked { limit + GRACE } else { limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_under_way_is_waited_for_but_not_for_long() {
        let limit = Duration::from_secs(4);
        let gone = |millis, asked| is_gone(Duration::from_millis(millis), asked, limit);
        assert!(gone(4_001, false) && !gone(4_000, false), "a worker may be as slow as that");
        assert!(!gone(4_500, true) && gone(4_501, true));
    }

    #[test]
    fn who_is_nearly_gone_is_asked() {
        let doubtful = |millis, limit| is_doubtful(Duration::from_millis(millis), Duration::from_millis(limit));
        assert!(!doubtful(2_400, 4_000) && doubtful(2_401, 4_000));
        assert!(!doubtful(500, 1_000) && doubtful(501, 1_000), "not before the next heartbeat");
    }

    #[test]
    fn the_question_is_one_that_workers_understand() {
        let request: proto::CoordinatorRequest = wire::decode(question()).unwrap();
        assert!(
            matches!(request.body, Some(proto::coordinator_request::Body::Renew(renew)) if renew.renewals.is_empty())
        );
    }
}
