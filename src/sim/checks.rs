//! What must hold after every record, and in the end.
//!
//! Beside the invariants that the domain's own tests know ([`domain::check`]), a
//! second, simple model of a job's life is kept from the journal: what follows what.

use std::collections::{BTreeMap, BTreeSet};

use super::crew::seal;
use super::world::World;
use crate::domain::chain::{Act, Stage};
use crate::domain::command::{Done, Refusal, Reply, Submit};
use crate::domain::job::Cause;
use crate::domain::journal::{Entry, Event, Sink};
use crate::domain::kafka::{Lane, Taken};
use crate::domain::tests::sim as domain;
use crate::domain::{Command, JobId, JobState, Record, State, WorkerId};

/// The whole state is looked at after so many records; what a record changed, after each.
const WHOLE_EVERY: u64 = 16;

/// A job as the journal tells it.
#[derive(Clone, Debug, Default)]
struct Life {
    redundancy: usize,
    last: u32,
    /// In force: by whom, and whether it started.
    runs: BTreeMap<u32, (WorkerId, bool)>,
    votes: BTreeMap<u32, WorkerId>,
    ended: Option<JobState>,
    completed: u32,
    settled: bool,
}

#[derive(Default)]
pub(super) struct Checks {
    lives: BTreeMap<JobId, Life>,
    created: BTreeSet<JobId>,
    acknowledged: BTreeSet<JobId>,
    told: u64,
    records: u64,
    /// Registrations that were parked at some time, by their entry.
    parked: BTreeMap<u64, JobId>,
    pub seen: Seen,
}

/// What came about, so that a test can say that something did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub records: u64,
    pub completed: u64,
    pub expired: u64,
    pub lost: u64,
    pub stale: u64,
    pub voted: u64,
    pub refused_awards: u64,
    pub repeats: u64,
    pub reopened: u64,
}

impl Checks {
    pub fn acknowledged(&mut self, job: JobId) {
        assert!(self.created.contains(&job), "job {job} is acknowledged, and no record has it");
        self.acknowledged.insert(job);
    }

    pub fn is_lost(&self, job: JobId) -> bool {
        let ended = self.lives.get(&job).and_then(|life| life.ended);
        matches!(ended, Some(JobState::Failed | JobState::Cancelled))
    }

    /// What the log said of the awards of a round.
    pub fn awards(&mut self, replies: &[Reply], _leads: bool) {
        self.seen.refused_awards += replies.iter().filter(|reply| reply.is_err()).count() as u64;
    }

    fn replies(&mut self, state: &State, record: &Record, replies: &[Reply]) {
        for (command, reply) in record.commands.iter().zip(replies) {
            match (command, reply) {
                (Command::Submit(submit), reply) => self.submitted(submit, reply),
                (Command::Ingest(ingest), Ok(Done::Ingested(taken))) => {
                    for item in ingest.items.iter().filter(|item| item.offset < taken.next) {
                        let Taken::Job(submit) = &item.taken else { continue };
                        // Repeats below the offset are passed over.
                        self.created.insert(submit.id);
                        assert!(state.remembers(submit.id), "offset {} is passed and its job is unknown", item.offset);
                    }
                }
                (_, Err(Refusal::StaleAttempt { .. } | Refusal::Finished { .. })) => self.seen.stale += 1,
                (Command::Chain(Act::Park { parked, .. }), Ok(_)) => {
                    let registers = parked.iter().filter(|(item, ..)| item.stage == Stage::Register);
                    self.parked.extend(registers.map(|(item, ..)| (item.seq, item.job)));
                }
                // An operator gave up on having it on chain, whatever becomes of it here.
                (Command::Chain(Act::Drop { seq }), Ok(_)) => {
                    if let Some(life) = self.parked.get(seq).and_then(|job| self.lives.get_mut(job)) {
                        life.settled = false;
                    }
                }
                (Command::Assign { worker, .. }, Ok(_)) => {
                    let known = state.worker(*worker);
                    let held = state.jobs_of(*worker).map_or(0, BTreeSet::len);
                    let most = known.map_or(0, |worker| worker.capabilities.max_parallel_jobs);
                    assert!(held <= most as usize, "{worker} holds {held} jobs of {most}");
                }
                _ => {}
            }
        }
    }

    /// One key is one job, and its first outcome is the outcome of every repetition.
    fn submitted(&mut self, submit: &Submit, reply: &Reply) {
        let job = submit.id;
        match reply {
            Ok(Done::Submitted { created: true, .. }) => {
                assert!(self.created.insert(job), "job {job} was created twice");
            }
            Ok(Done::Submitted { created: false, .. }) | Err(Refusal::Forgotten { .. }) => {
                assert!(self.created.contains(&job));
                self.seen.repeats += 1;
            }
            Err(Refusal::BacklogFull { .. }) => assert!(!self.created.contains(&job)),
            other => panic!("submission of {job} came to {other:?}"),
        }
    }

    fn journal(&mut self, state: &State) {
        for entry in state.journal().after(self.told, usize::MAX) {
            assert_eq!(entry.seq, self.told + 1, "entries were dropped before they were looked at");
            self.told = entry.seq;
            if let Event::Job { job, .. } = entry.event {
                let life = self.lives.entry(job).or_default();
                follow(life, state, &entry, &mut self.seen);
            }
        }
    }
}

/// What an entry of the journal does to a job's life, if it may.
fn follow(life: &mut Life, state: &State, entry: &Entry, seen: &mut Seen) {
    let Event::Job { job, state: now, attempt, cause, worker } = entry.event else { return };
    let before = life.clone();
    let what =
        || format!("{job}: {cause:?} of attempt {attempt} at entry {} does not follow from {before:?}", entry.seq);
    let known = state.job(job);
    match cause {
        Cause::Submitted => {
            assert!(life.redundancy == 0 && life.last == 0, "{}", what());
            life.redundancy = known.map_or(1, |job| job.redundancy());
            life.settled = known.is_some_and(|job| job.spec.settlement.is_some());
            return;
        }
        Cause::Reopened => {
            assert_eq!(life.ended, Some(JobState::Failed), "{}", what());
            (life.ended, life.runs, life.votes) = (None, BTreeMap::new(), BTreeMap::new());
            seen.reopened += 1;
            return;
        }
        _ => assert!(life.redundancy > 0 && life.ended.is_none(), "{}", what()),
    }
    match cause {
        Cause::Awarded => {
            let worker = worker.unwrap();
            let anew = life.runs.values().all(|(by, _)| *by != worker) && life.votes.values().all(|by| *by != worker);
            assert!(attempt == life.last + 1 && anew, "{}", what());
            assert!(life.runs.len() + life.votes.len() < life.redundancy, "{}", what());
            life.last = attempt;
            life.runs.insert(attempt, (worker, false));
        }
        Cause::Started => {
            assert_eq!(life.runs.get(&attempt), worker.map(|worker| (worker, false)).as_ref(), "{}", what());
            life.runs.insert(attempt, (worker.unwrap(), true));
        }
        Cause::Voted => {
            assert!(life.runs.contains_key(&attempt) && life.redundancy > 1, "{}", what());
            let (by, _) = life.runs.remove(&attempt).unwrap();
            life.votes.insert(attempt, by);
            seen.voted += 1;
        }
        Cause::Completed => {
            let votes = life.redundancy > 1;
            let by = if votes { life.votes.get(&attempt) } else { life.runs.get(&attempt).map(|(by, _)| by) };
            assert!(by.is_some() && by.copied() == worker, "{}", what());
            sealed(state, job, attempt);
            life.completed += 1;
            assert_eq!(life.completed, 1, "{}", what());
            seen.completed += 1;
        }
        Cause::Retry | Cause::Declined | Cause::LeaseExpired | Cause::WorkerLost => {
            assert!(life.runs.remove(&attempt).is_some(), "{}", what());
            seen.expired += u64::from(cause == Cause::LeaseExpired);
            seen.lost += u64::from(cause == Cause::WorkerLost);
        }
        Cause::Failed => {
            // Or it could not be registered on chain, and nobody was ever asked to run it.
            let unregistered = life.settled && life.last == 0;
            let spoke = unregistered || life.runs.contains_key(&attempt) || life.votes.contains_key(&attempt);
            assert!(spoke, "{}", what());
        }
        Cause::NoQuorum if !now.is_final() => (life.runs, life.votes) = (BTreeMap::new(), BTreeMap::new()),
        Cause::NoQuorum | Cause::DeadlinePassed | Cause::Cancelled => {}
        Cause::Submitted | Cause::Reopened => unreachable!(),
    }
    if now.is_final() {
        life.ended = Some(now);
    }
}

/// The result that counts is of the attempt that it is said to be of, by the worker that had it.
fn sealed(state: &State, job: JobId, attempt: u32) {
    let Some(outcome) = state.job(job).and_then(|job| job.outcome.as_ref()) else { return };
    assert_eq!(outcome.attempt, attempt);
    let wanted = seal(job, attempt, outcome.worker, outcome.output_sha256);
    assert_eq!(&*outcome.signature, wanted, "what was accepted for attempt {attempt} of job {job} is of another");
}

impl World {
    /// A record was applied for the first time, by `node`.
    pub(super) fn applied_first(&mut self, node: usize, place: usize, was: &State) {
        let Self { nodes, log, checks, broker, .. } = self;
        let (state, entry) = (&nodes[node].state, &log.entries[place]);
        checks.records += 1;
        checks.seen.records += 1;
        if let Some(record) = &entry.record {
            domain::check_step(was, state, record, entry.replies());
            checks.replies(state, record, entry.replies());
        }
        checks.journal(state);
        if checks.records.is_multiple_of(WHOLE_EVERY) {
            domain::check(state);
        }
        for job in &checks.acknowledged {
            assert!(state.remembers(*job), "job {job} was acknowledged, and is gone at index {}", state.applied());
        }
        let (from, to) = (was.journal().cursor(Sink::Kafka), state.journal().cursor(Sink::Kafka));
        for entry in was.journal().after(from.unwrap_or(0), usize::MAX) {
            if Some(entry.seq) <= to && Lane::of(&entry.event).is_some() {
                assert!(broker.taken.contains_key(&entry.seq), "the cursor passed entry {}, Kafka lacks it", entry.seq);
            }
        }
    }

    /// Whether everything has come to its end.
    pub(super) fn is_done(&self) -> bool {
        let through = self.log.len();
        let state = &self.nodes[0].state;
        let same = self.nodes.iter().all(|node| node.up && node.state.applied() == through);
        let asked = self.clients.wishes.iter().all(|wish| wish.acknowledged);
        let fed = state.kafka().intake().map(|(_, intake)| intake.next).next().unwrap_or(0) == self.clients.fed();
        let unpublished =
            |entry: &Entry| Lane::of(&entry.event).is_some() && !self.broker.taken.contains_key(&entry.seq);
        let told = !state
            .journal()
            .after(state.journal().cursor(Sink::Kafka).unwrap_or(0), usize::MAX)
            .iter()
            .any(unpublished);
        let chain = state.chain();
        let idle =
            chain.waiting().next().is_none() && chain.again_len() == 0 && chain.parked_after(None).next().is_none();
        same && asked
            && fed
            && told
            && idle
            && state.active_jobs_after(None).next().is_none()
            && self.unsettled().is_none()
    }

    /// A job whose life on chain lacks something.
    pub(super) fn unsettled(&self) -> Option<(JobId, Stage)> {
        let settled = self.contract.settled();
        let has = |job: JobId, stage: Stage| settled.keys().any(|(of, which, _)| (*of, *which) == (job, stage));
        let lives = self.checks.lives.iter().filter(|(_, life)| life.settled);
        let lacks = |(job, life): (&JobId, &Life)| match life.ended {
            Some(JobState::Completed) if !has(*job, Stage::Register) => Some((*job, Stage::Register)),
            Some(JobState::Completed) if !has(*job, Stage::Settle) => Some((*job, Stage::Settle)),
            Some(_) if life.completed == 0 && has(*job, Stage::Register) && !has(*job, Stage::Refund) => {
                Some((*job, Stage::Refund))
            }
            _ => None,
        };
        lives.filter_map(lacks).next()
    }

    /// What must hold when it is over.
    pub(super) fn check_end(&self) {
        let first = &self.nodes[0].state;
        domain::check(first);
        self.contract.check();
        let bytes = domain::snapshot(first);
        for (number, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.state.hash(), first.hash(), "nodes 0 and {number} differ in the end");
            assert!(domain::snapshot(&node.state) == bytes, "nodes 0 and {number} differ in what no hash covers");
        }
        for submit in self.clients.all() {
            let life = &self.checks.lives[&submit.id];
            assert!(life.ended.is_some(), "job {} has not ended", submit.id);
        }
    }

    /// What is still open, for who asks why it did not end.
    pub(super) fn left_over(&self) -> String {
        let state = &self.nodes[0].state;
        let jobs: Vec<String> = state.active_jobs_after(None).map(|job| format!("{job:?}")).collect();
        let chain = state.chain();
        let applied: Vec<_> = self.nodes.iter().map(|node| (node.up, node.state.applied())).collect();
        format!(
            "active {jobs:?}\nnodes {applied:?} of {}, cursors {:?} of {}\nchain: waiting {}, again {}, parked {:?}, \
             unsettled {:?}, asked {:?}",
            self.log.len(),
            state.journal().cursors().collect::<Vec<_>>(),
            state.journal().last_seq(),
            chain.waiting().count(),
            chain.again_len(),
            chain
                .parked_after(None)
                .map(|parked| (parked.item.seq, parked.item.stage, &parked.reason))
                .collect::<Vec<_>>(),
            self.unsettled(),
            self.clients.wishes.iter().filter(|wish| !wish.acknowledged).count(),
        )
    }
}
