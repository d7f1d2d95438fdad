//! What follows from the jobs, kept at hand: queues, holders, sums.
//!
//! Nothing here is state of its own. Every entry is computed from one job
//! record (its [`Facets`]), so an index built from the records alone equals one
//! that followed each change. Tests compare the two after every record.
//!
//! Invariants
//!
//! * A job that wants a run is in `lines` if its time has come by the log's clock, else in
//!   `waiting`; never in both. [`Index::promote`] moves it when the clock moves.
//! * `heads` has the first job of each line, under the slice its client is in.
//! * A job is held by exactly the workers of its runs in force.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::auction::Sealed;
use super::cow::{Map, Set};
use super::ids::{JobId, WorkerId};
use super::job::{Job, JobSpec, JobState, Outcome};
use super::matching::Class;
use super::queue::{Head, Line, Turn};
use super::run::Run;
use super::shares::{Client, Shares, client};
use super::time::Timestamp;

/// Bytes one vote is counted with, beside its output.
const VOTE_BYTES: usize = 256;

/// Bytes one transition of a job's history is counted with.
const TRANSITION_BYTES: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Open jobs by client and by what they ask of a worker; see [`super::queue`].
    pub(super) lines: Set<(Client, Class, Turn)>,
    pub(super) heads: Set<Head>,
    /// Those with a deadline, nearest first.
    pub(super) urgent: Set<(Class, Timestamp, JobId)>,
    /// How many are in `lines`.
    pub(super) open: usize,
    /// Different classes in `lines`.
    pub(super) classes: usize,
    pub(super) waiting: Set<(Timestamp, JobId)>,
    pub(super) held: Map<WorkerId, Arc<BTreeSet<JobId>>>,
    /// Runs whose workers have not said yet that they took them.
    pub(super) undelivered: Set<(WorkerId, JobId)>,
    /// Jobs with votes and nobody at it, by when their round is over if it stays so.
    pub(super) stalled: Set<(Timestamp, JobId)>,
    pub(super) deadlines: Set<(Timestamp, JobId)>,
    pub(super) active: Set<JobId>,
    pub(super) finished: Set<(Timestamp, JobId)>,
    /// Those among them whose award still has its evidence.
    pub(super) evidenced: Set<(Timestamp, JobId)>,
    /// Jobs remembered, in the order of [`JobState::ALL`].
    pub(super) counts: [u64; 6],
    pub(super) backlog_bytes: usize,
    pub(super) finished_bytes: usize,
    /// Bytes of votes that are not decided yet.
    pub(super) ballot_bytes: usize,
}

/// Where a job stands in the indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facets {
    id: JobId,
    state: JobState,
    client: Client,
    open: Option<Line>,
    waiting: Option<(Timestamp, JobId)>,
    held: Option<WorkerId>,
    /// Other holders; only with redundancy.
    others: Vec<WorkerId>,
    /// Holders that have not said yet that they took it.
    undelivered: Vec<WorkerId>,
    stalled: Option<(Timestamp, JobId)>,
    deadline: Option<(Timestamp, JobId)>,
    finished: Option<(Timestamp, JobId)>,
    evidenced: Option<(Timestamp, JobId)>,
    bytes: usize,
    ballots: usize,
}

impl Facets {
    pub(super) fn of(job: &Job, now: Timestamp) -> Self {
        let wanting = job.wants_run();
        let due = job.next_attempt_at <= now;
        let mut holders = job.runs_in_force().map(|run| run.award.worker);
        let undelivered = job.runs_in_force().filter(|run| run.award.started_at.is_none());
        let is_final = job.state.is_final();
        let finished = is_final.then(|| (job.finished_at.unwrap_or_default(), job.id));
        Self {
            id: job.id,
            state: job.state,
            client: if is_final { 0 } else { client(&job.spec) },
            open: (wanting && due).then(|| Line::of(job)),
            waiting: (wanting && !due).then_some((job.next_attempt_at, job.id)),
            held: holders.next(),
            others: holders.collect(),
            undelivered: undelivered.map(|run| run.award.worker).collect(),
            stalled: job.vote_stalls_at().map(|at| (at, job.id)),
            deadline: job.spec.deadline.filter(|_| !is_final).map(|deadline| (deadline, job.id)),
            finished,
            evidenced: finished.filter(|_| job.runs.iter().any(|run| run.award.evidence.is_some())),
            bytes: weight(job),
            ballots: if is_final { 0 } else { ballots(job) },
        }
    }

    fn holders(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.held.iter().chain(&self.others).copied()
    }
}

/// Whether the state keeps the job's inline input.
pub(super) fn keeps_payload(job: &Job) -> bool {
    job.spec.input.uri.is_none() && !matches!(job.state, JobState::Completed | JobState::Cancelled)
}

/// Bytes a job takes beyond its fixed part, roughly: input or output, texts, history.
fn weight(job: &Job) -> usize {
    let payload = if keeps_payload(job) { job.spec.input.size } else { 0 };
    let output = job.outcome.as_ref().and_then(Outcome::inline_size).unwrap_or(0);
    let error = job.error.as_ref().map_or(0, |error| error.code.len() + error.detail.len());
    let bytes = usize::try_from(payload.saturating_add(output)).unwrap_or(usize::MAX);
    let evidence: usize = job.runs.iter().map(evidence).sum();
    let records = job.runs.iter().filter(|run| run.vote().is_some()).count() * VOTE_BYTES;
    let votes =
        if job.state.is_final() { records } else { records + job.undecided().map(|(_, size)| size).sum::<usize>() };
    bytes.saturating_add(votes + evidence + error + texts(&job.spec) + job.history.len() * TRANSITION_BYTES)
}

fn evidence(run: &Run) -> usize {
    run.award.evidence.as_ref().map_or(0, Sealed::len)
}

/// Bytes that the votes of a job take until it is decided.
fn ballots(job: &Job) -> usize {
    let votes = job.runs.iter().filter(|run| run.vote().is_some());
    let records: usize = votes.map(|run| VOTE_BYTES + evidence(run)).sum();
    records.saturating_add(job.undecided().map(|(_, size)| size).sum())
}

pub(super) fn texts(spec: &JobSpec) -> usize {
    let lists = [&spec.tags, &spec.requirements.required_frameworks, &spec.requirements.preferred_regions];
    let options = [&spec.client_address, &spec.callback_url, &spec.input.uri];
    let listed: usize = lists.iter().flat_map(|list| list.iter()).map(|text| text.len() + size_of::<u64>() * 3).sum();
    let single: usize = options.iter().filter_map(|text| text.as_deref()).map(str::len).sum();
    spec.kind.len() + listed + single
}

impl Index {
    /// The index of `jobs`, and the counts of their clients in `shares`.
    pub(super) fn build<'a>(jobs: impl Iterator<Item = &'a Arc<Job>>, now: Timestamp, shares: &mut Shares) -> Self {
        let mut index = Self::default();
        for job in jobs {
            index.change(None, Some(&Facets::of(job, now)), shares);
        }
        index
    }

    /// Follows one job from what it was to what it is; `None` is not there. Its client is charged for an award.
    pub(super) fn change(&mut self, was: Option<&Facets>, is: Option<&Facets>, shares: &mut Shares) {
        if was == is {
            return;
        }
        if let Some(job) = is.filter(|_| active(was).is_none() && active(is).is_some()) {
            shares.join(job.client);
        }
        self.queue(was.and_then(|f| f.open.as_ref()), is.and_then(|f| f.open.as_ref()), shares);
        self.charge(was, is, shares);
        if let Some(job) = was.filter(|_| active(was).is_some() && active(is).is_none()) {
            shares.leave(job.client);
        }
        swap(&mut self.waiting, was.and_then(|f| f.waiting), is.and_then(|f| f.waiting));
        swap(&mut self.deadlines, was.and_then(|f| f.deadline), is.and_then(|f| f.deadline));
        swap(&mut self.finished, was.and_then(|f| f.finished), is.and_then(|f| f.finished));
        swap(&mut self.evidenced, was.and_then(|f| f.evidenced), is.and_then(|f| f.evidenced));
        swap(&mut self.active, active(was), active(is));
        swap(&mut self.stalled, was.and_then(|f| f.stalled), is.and_then(|f| f.stalled));
        self.hand_over(was, is);
        self.deliver(was, is);
        if let Some(was) = was {
            *self.count(was.state) -= 1;
            *self.bytes(was.state) -= was.bytes;
            self.ballot_bytes -= was.ballots;
        }
        if let Some(is) = is {
            *self.count(is.state) += 1;
            *self.bytes(is.state) += is.bytes;
            self.ballot_bytes += is.ballots;
        }
    }

    /// Opens the jobs whose time has come. `job_of` looks a job up.
    pub(super) fn promote<'a>(
        &mut self,
        now: Timestamp,
        shares: &mut Shares,
        job_of: impl Fn(JobId) -> Option<&'a Arc<Job>>,
    ) {
        while let Some((&(due, id), ())) = self.waiting.first() {
            if due > now {
                break;
            }
            self.waiting.remove(&(due, id));
            if let Some(job) = job_of(id) {
                self.queue(None, Some(&Line::of(job)), shares);
            }
        }
    }

    fn queue(&mut self, was: Option<&Line>, is: Option<&Line>, shares: &mut Shares) {
        if was == is {
            return;
        }
        if let Some(line) = was
            && let (true, false) = self.dequeue(line, shares.pass(line.client))
        {
            shares.count_class(line.client, false);
        }
        if let Some(line) = is
            && let (false, true) = self.enqueue(line, shares.pass(line.client))
        {
            shares.count_class(line.client, true);
        }
    }

    fn charge(&mut self, was: Option<&Facets>, is: Option<&Facets>, shares: &mut Shares) {
        let held = was.map(|f| f.holders().count());
        let Some(job) = is.filter(|f| held.is_some_and(|held| f.holders().count() > held)) else { return };
        let (before, after) = shares.charge(job.client);
        if before != after {
            self.reslice(job.client, before, after);
        }
    }

    fn hand_over(&mut self, was: Option<&Facets>, is: Option<&Facets>) {
        let Some(job) = was.or(is).map(|f| f.id) else { return };
        let holds = |facets: Option<&Facets>, worker| facets.is_some_and(|f| f.holders().any(|held| held == worker));
        for worker in was.iter().flat_map(|f| f.holders()).filter(|worker| !holds(is, *worker)) {
            self.let_go(worker, job);
        }
        for worker in is.iter().flat_map(|f| f.holders()).filter(|worker| !holds(was, *worker)) {
            if !self.held.contains(&worker) {
                self.held.insert(worker, Arc::default());
            }
            if let Some(held) = self.held.get_mut(&worker) {
                Arc::make_mut(held).insert(job);
            }
        }
    }

    fn deliver(&mut self, was: Option<&Facets>, is: Option<&Facets>) {
        let of = |facets: Option<&Facets>| facets.map_or(vec![], |f| f.undelivered.clone());
        let Some(job) = was.or(is).map(|f| f.id) else { return };
        let (was, is) = (of(was), of(is));
        for worker in was.iter().filter(|worker| !is.contains(worker)) {
            self.undelivered.remove(&(*worker, job));
        }
        for worker in is.into_iter().filter(|worker| !was.contains(worker)) {
            self.undelivered.add((worker, job));
        }
    }

    fn let_go(&mut self, worker: WorkerId, job: JobId) {
        if let Some(held) = self.held.get_mut(&worker) {
            Arc::make_mut(held).remove(&job);
        }
        if self.held.get(&worker).is_some_and(|held| held.is_empty()) {
            self.held.remove(&worker);
        }
    }

    fn count(&mut self, state: JobState) -> &mut u64 {
        &mut self.counts[place(state)]
    }

    fn bytes(&mut self, state: JobState) -> &mut usize {
        if state.is_final() { &mut self.finished_bytes } else { &mut self.backlog_bytes }
    }
}

/// A state's place in [`JobState::ALL`].
pub(super) fn place(state: JobState) -> usize {
    match state {
        JobState::Pending => 0,
        JobState::Assigned => 1,
        JobState::Running => 2,
        JobState::Completed => 3,
        JobState::Failed => 4,
        JobState::Cancelled => 5,
    }
}

fn active(facets: Option<&Facets>) -> Option<JobId> {
    facets.filter(|f| !f.state.is_final()).map(|f| f.id)
}

fn swap<K: Ord + Clone>(set: &mut Set<K>, was: Option<K>, is: Option<K>) {
    if was == is {
        return;
    }
    if let Some(key) = was {
        set.remove(&key);
    }
    if let Some(key) = is {
        set.add(key);
    }
}
