//! Awards on their way into the log.
//!
//! The next round opens while the awards of the one before commit. Until the
//! state shows an award, its job must not be announced again and the place it
//! takes on its worker is not free.
//!
//! Invariants
//!
//! * An award counts from the moment it is sent off until the state shows its
//!   attempt or its commit was answered, whichever comes first; never twice.
//! * At most [`COMMITS_MAX`] commits are under way, so what is kept is bounded
//!   by as many rounds.
//! * A commit that fails, or whose fate is unknown, puts its jobs back on the
//!   market. If it took effect after all, the attempt number refuses a second.

use std::collections::BTreeMap;
use std::future::Future;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::domain::auction::Win;
use crate::domain::{JobId, State, WorkerId};

/// Rounds whose awards may be committing. Beyond it the market waits for one of them.
const COMMITS_MAX: usize = 2;

/// A commit that was answered, or will not be.
pub(super) struct Landed {
    pub flight: u64,
    /// The jobs whose awards hold.
    pub awarded: Vec<JobId>,
}

/// Commits under way.
#[derive(Default)]
pub(super) struct Commits(FuturesUnordered<BoxFuture<'static, Landed>>);

impl Commits {
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= COMMITS_MAX
    }

    pub(super) fn push(&mut self, commit: BoxFuture<'static, Landed>) {
        self.0.push(commit);
    }

    /// The next flight that lands. Pending for ever if there is none.
    pub(super) async fn landed(&mut self) -> Landed {
        match self.0.next().await {
            Some(flight) => flight,
            None => std::future::pending().await,
        }
    }

    /// Runs `work` while commits go on; returns its outcome, and the flights that landed meanwhile.
    pub(super) async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> (T, Vec<Landed>) {
        let mut work = std::pin::pin!(work);
        let mut landed = Vec::new();
        loop {
            tokio::select! {
                outcome = &mut work => return (outcome, landed),
                flight = self.landed() => landed.push(flight),
            }
        }
    }
}

/// What is under way, by job.
#[derive(Default)]
pub(super) struct Flights {
    awards: BTreeMap<JobId, Award>,
    last: u64,
}

struct Award {
    flight: u64,
    attempt: u32,
    worker: WorkerId,
}

impl Flights {
    /// Notes the awards of a round; returns the number of their flight.
    pub(super) fn take_off(&mut self, wins: &[Win]) -> u64 {
        self.last += 1;
        let flight = self.last;
        let award = |win: &Win| (win.job, Award { flight, attempt: win.attempt, worker: win.worker });
        self.awards.extend(wins.iter().map(award));
        flight
    }

    pub(super) fn land(&mut self, flight: u64) {
        self.awards.retain(|_, award| award.flight != flight);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.awards.is_empty()
    }

    /// Awards that `state` does not show yet, by worker: places that are taken.
    pub(super) fn taken(&self, state: &State) -> BTreeMap<WorkerId, u32> {
        let mut taken = BTreeMap::new();
        for (job, award) in &self.awards {
            if award.is_unseen(state, *job) {
                *taken.entry(award.worker).or_default() += 1;
            }
        }
        taken
    }

    /// Whether an award of `job` is under way.
    pub(super) fn holds(&self, state: &State, job: JobId) -> bool {
        self.awards.get(&job).is_some_and(|award| award.is_unseen(state, job))
    }
}

impl Award {
    fn is_unseen(&self, state: &State, job: JobId) -> bool {
        state.job(job).is_some_and(|job| job.attempt < self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::apply::Position;
    use crate::domain::auction::Evidence;
    use crate::domain::command::Submit;
    use crate::domain::job::{Input, Requirements, Retry, Source};
    use crate::domain::score::{Policy, Scale};
    use crate::domain::worker::{Capabilities, Location};
    use crate::domain::{Command, Digest, JobSpec, PeerId, Price, Record};

    const JOB: JobId = JobId([1; 16]);
    const WORKER: WorkerId = PeerId([2; 32]);

    fn spec() -> JobSpec {
        serde_json::from_value(serde_json::json!({
            "kind": "sha256",
            "input": Input { sha256: Digest::of(b""), size: 0, uri: None },
            "priority": 5, "max_price": null, "deadline": null, "timeout_secs": 60,
            "requirements": Requirements::default(), "policy": Policy::default(), "weights": null,
            "retry": Retry::default(), "redundancy": 1, "tags": [], "client_address": null,
            "callback_url": null, "settlement": null,
        }))
        .expect("a spec")
    }

    fn state() -> State {
        let mut state = State::default();
        let capabilities =
            Capabilities { job_types: vec!["sha256".to_owned()], max_parallel_jobs: 3, ..Capabilities::default() };
        let (location, version) = (Location::default(), String::new());
        let submit = Submit { id: JOB, spec: spec(), payload: None, fingerprint: Digest::of(b""), source: Source::Api };
        let commands = vec![
            Command::RegisterWorker { worker: WORKER, capabilities: Box::new(capabilities), location, version },
            Command::Submit(Box::new(submit)),
        ];
        apply(&mut state, commands);
        state
    }

    fn apply(state: &mut State, commands: Vec<Command>) {
        let position = Position { index: state.applied() + 1, term: 1 };
        let at = state.now().after_ms(1_000);
        let replies = state.apply(position, &Record { at, commands });
        assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    }

    fn win(attempt: u32) -> Win {
        let evidence = Evidence { scale: Scale::default(), bids: 1, offers: Box::new([]), proof: None };
        Win { job: JOB, attempt, worker: WORKER, price: Price(1), evidence }
    }

    fn seen(flights: &Flights, state: &State) -> (bool, u32) {
        (flights.holds(state, JOB), flights.taken(state).get(&WORKER).copied().unwrap_or(0))
    }

    #[test]
    fn an_award_takes_a_place_until_the_state_shows_it() {
        let (mut flights, mut state) = (Flights::default(), state());
        flights.take_off(&[win(1)]);
        assert_eq!(seen(&flights, &state), (true, 1));
        let assign = |attempt| Command::Assign {
            job: JOB,
            attempt,
            worker: WORKER,
            price: Price(1),
            lease_ms: 9_000,
            evidence: None,
        };
        apply(&mut state, vec![assign(1)]);
        assert_eq!(seen(&flights, &state), (false, 0), "the state counts it now");
        // It was declined before the answer to the commit came: it is open again.
        apply(&mut state, vec![Command::Decline { job: JOB, attempt: 1, worker: WORKER }]);
        assert_eq!(seen(&flights, &state), (false, 0));
    }

    #[test]
    fn a_flight_that_failed_puts_its_jobs_back_and_no_others() {
        let (mut flights, state) = (Flights::default(), state());
        let first = flights.take_off(&[win(1)]);
        flights.land(first);
        assert_eq!(seen(&flights, &state), (false, 0));
        let again = flights.take_off(&[win(1)]);
        flights.land(first);
        assert_eq!(seen(&flights, &state), (true, 1), "a late answer about the first says nothing of the second");
        flights.land(again);
        assert_eq!(seen(&flights, &state), (false, 0));
    }

    #[tokio::test]
    async fn commits_go_on_while_a_round_is_open() {
        let mut commits = Commits::default();
        let (tell, told) = tokio::sync::oneshot::channel();
        commits.push(Box::pin(async move {
            tell.send(()).expect("the round waits");
            Landed { flight: 1, awarded: vec![] }
        }));
        commits.push(Box::pin(std::future::pending()));
        assert!(commits.is_full());
        let (outcome, landed) = commits.alongside(told).await;
        assert!(outcome.is_ok(), "the commit was driven, else the round would wait for ever");
        assert!(landed.len() <= 1);
    }
}
