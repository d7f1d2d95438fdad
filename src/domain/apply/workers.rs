//! What commands do to workers, and what follows for the attempts they hold.

use std::sync::Arc;

use super::Step;
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::{JobId, WorkerId};
use crate::domain::job::{Cause, JobError};
use crate::domain::journal::Event;
use crate::domain::reputation::{self, Fact};
use crate::domain::state::standing;
use crate::domain::worker::{Capabilities, Location, REPUTATION_START, Verdict, Worker, WorkerState};

impl Step<'_> {
    /// Registering again keeps what the log knows of the worker: attempts, draining, reputation, counters.
    pub(super) fn register(
        &mut self,
        id: WorkerId,
        capabilities: &Capabilities,
        location: &Location,
        version: &str,
    ) -> Reply {
        let now = self.state.now;
        let known = self.state.workers.get(&id).map(Arc::clone);
        if known.is_none() && self.state.workers.len() >= self.state.limits.workers {
            self.make_room()?;
        }
        let was = known.as_deref().cloned().unwrap_or_else(|| Worker {
            id,
            capabilities: Capabilities::default(),
            location: Location::default(),
            version: String::new(),
            verdict: Verdict::Online,
            draining: false,
            reputation: REPUTATION_START,
            changes: Vec::new(),
            banned_until: None,
            registered_at: now,
            verdict_at: now,
            completed: 0,
            failed: 0,
            lost: 0,
        });
        let paid_to = capabilities.payout_address.or(was.capabilities.payout_address);
        let worker = Worker {
            capabilities: Capabilities { payout_address: paid_to, ..capabilities.clone() },
            location: location.clone(),
            version: version.to_owned(),
            verdict: Verdict::Online,
            verdict_at: if was.verdict == Verdict::Online { was.verdict_at } else { now },
            ..was
        };
        if known.as_deref() == Some(&worker) {
            return Ok(Done::Unchanged);
        }
        let state = standing(&worker);
        self.state.workers.insert(id, Arc::new(worker));
        self.touched.workers.insert(id);
        self.announce(id, state);
        Ok(Done::Worker { worker: id })
    }

    /// Unregisters the worker that has been offline longest.
    fn make_room(&mut self) -> Result<(), Refusal> {
        let offline = self.state.workers().filter(|worker| worker.verdict == Verdict::Offline);
        let Some(gone) = offline.min_by_key(|worker| (worker.verdict_at, worker.id)).map(|worker| worker.id) else {
            return Err(Refusal::WorkersFull { limit: u64::try_from(self.state.limits.workers).unwrap_or(u64::MAX) });
        };
        self.unregister(gone).map(drop)
    }

    pub(super) fn unregister(&mut self, id: WorkerId) -> Reply {
        self.worker(id)?;
        self.hand_back(id, "it was unregistered")?;
        self.state.workers.remove(&id);
        self.touched.workers.insert(id);
        self.append(Event::WorkerGone { worker: id });
        Ok(Done::Worker { worker: id })
    }

    pub(super) fn set_draining(&mut self, id: WorkerId, draining: bool) -> Reply {
        if self.worker(id)?.draining == draining {
            return Ok(Done::Unchanged);
        }
        self.change_standing(id, |worker| worker.draining = draining)
    }

    pub(super) fn set_verdict(&mut self, id: WorkerId, verdict: Verdict) -> Reply {
        if self.worker(id)?.verdict == verdict {
            return Ok(Done::Unchanged);
        }
        let now = self.state.now;
        let reply = self.change_standing(id, |worker| {
            worker.verdict = verdict;
            worker.verdict_at = now;
        })?;
        if verdict == Verdict::Offline {
            self.hand_back(id, "it went offline")?;
        }
        Ok(reply)
    }

    /// Changes a worker, if it is (still) registered, without telling the journal.
    pub(super) fn change_worker(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.state.workers.get_mut(&id) {
            change(Arc::make_mut(worker));
            self.touched.workers.insert(id);
        }
    }

    pub(super) fn count_lost(&mut self, id: WorkerId, job: JobId) {
        self.change_worker(id, |worker| worker.lost = worker.lost.saturating_add(1));
        self.rate(id, job, Fact::Lost);
    }

    pub(super) fn rate(&mut self, id: WorkerId, job: JobId, fact: Fact) {
        let now = self.state.now;
        let mut banned = false;
        self.change_worker(id, |worker| {
            let was = reputation::is_banned(worker, now);
            reputation::rate(worker, now, job, fact);
            banned = !was && reputation::is_banned(worker, now);
        });
        if banned {
            self.announce(id, WorkerState::Banned);
        }
    }

    /// Draws every reputation toward the start, for each hour that the log's clock has passed.
    pub(super) fn draw_back(&mut self) {
        let hours = reputation::hours(self.state.drawn_at, self.state.now);
        if hours == 0 {
            return;
        }
        self.state.drawn_at = self.state.now;
        let moved = |worker: &&Arc<Worker>| worker.reputation != REPUTATION_START;
        let ids: Vec<WorkerId> = self.state.workers().filter(moved).map(|worker| worker.id).collect();
        for id in ids {
            self.change_worker(id, |worker| worker.reputation = reputation::drawn_back(worker.reputation, hours));
        }
    }

    fn worker(&self, id: WorkerId) -> Result<&Worker, Refusal> {
        self.state.workers.get(&id).map(Arc::as_ref).ok_or(Refusal::UnknownWorker(id))
    }

    /// Changes a worker, and tells the journal if users see a difference.
    fn change_standing(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker)) -> Reply {
        let was = standing(self.worker(id)?);
        self.change_worker(id, change);
        let is = standing(self.worker(id)?);
        if was != is {
            self.announce(id, is);
        }
        Ok(Done::Worker { worker: id })
    }

    /// Sends every attempt a worker holds back to the market, at once.
    fn hand_back(&mut self, id: WorkerId, why: &str) -> Result<(), Refusal> {
        let held: Vec<JobId> = self.state.jobs_of(id).into_iter().flatten().copied().collect();
        for job in held {
            self.count_lost(id, job);
            let error = JobError { code: "worker_lost".to_owned(), detail: format!("worker {id} is gone: {why}") };
            let run = self.job(job)?.run_of(id).map(|run| run.attempt);
            let Some(attempt) = run else { continue };
            self.attempt_failed(job, attempt, Cause::WorkerLost, error, Some(0))?;
        }
        Ok(())
    }

    fn announce(&mut self, worker: WorkerId, state: WorkerState) {
        self.append(Event::Worker { worker, state });
    }

    /// Appends to the journal; returns the entry's number.
    pub(super) fn append(&mut self, event: Event) -> u64 {
        self.state.journal.append(self.state.now, self.position.index, self.position.term, event);
        self.state.journal.last_seq()
    }
}
