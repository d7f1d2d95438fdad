//! What follows from the jobs, kept at hand: queues, holders, sums.
//!
//! Nothing here is state of its own. Every entry is computed from one job
//! record (its [`Facets`]), so an index built from the records alone equals one
//! that followed each change. Tests compare the two after every record.
//!
//! Invariants
//!
//! * A pending job is in `open` if its time has come by the log's clock, else in
//!   `waiting`; never in both. [`Index::promote`] moves it when the clock moves.
//! * A job that is assigned or running is held by exactly the worker of its award.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::auction::Sealed;
use super::cow::{Map, Set};
use super::ids::{JobId, WorkerId};
use super::job::{Job, JobSpec, JobState, Outcome};
use super::time::Timestamp;

/// Place in the queue: priority, deadline, arrival.
pub(super) type Turn = (Reverse<u8>, Timestamp, u64, JobId);

/// Before every turn: no job has such a priority.
const FIRST: Turn = (Reverse(u8::MAX), Timestamp(0), 0, JobId([0; 16]));

/// Bytes one transition of a job's history is counted with.
const TRANSITION_BYTES: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) open: Set<Turn>,
    /// The same by job type, so that jobs nobody can run are not in the way of the others.
    pub(super) open_of: Set<(Arc<str>, Turn)>,
    pub(super) waiting: Set<(Timestamp, JobId)>,
    pub(super) held: Map<WorkerId, Arc<BTreeSet<JobId>>>,
    pub(super) deadlines: Set<(Timestamp, JobId)>,
    pub(super) active: Set<JobId>,
    pub(super) finished: Set<(Timestamp, JobId)>,
    /// Those among them whose award still has its evidence.
    pub(super) evidenced: Set<(Timestamp, JobId)>,
    /// Jobs remembered, in the order of [`JobState::ALL`].
    pub(super) counts: [u64; 6],
    pub(super) backlog_bytes: usize,
    pub(super) finished_bytes: usize,
}

/// Where a job stands in the indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facets {
    id: JobId,
    state: JobState,
    open: Option<Turn>,
    waiting: Option<(Timestamp, JobId)>,
    held: Option<WorkerId>,
    deadline: Option<(Timestamp, JobId)>,
    finished: Option<(Timestamp, JobId)>,
    evidenced: Option<(Timestamp, JobId)>,
    bytes: usize,
}

impl Facets {
    pub(super) fn of(job: &Job, now: Timestamp) -> Self {
        let pending = job.state == JobState::Pending;
        let due = job.next_attempt_at <= now;
        let held = matches!(job.state, JobState::Assigned | JobState::Running);
        let is_final = job.state.is_final();
        let finished = is_final.then(|| (job.finished_at.unwrap_or_default(), job.id));
        Self {
            id: job.id,
            state: job.state,
            open: (pending && due).then(|| turn(job)),
            waiting: (pending && !due).then_some((job.next_attempt_at, job.id)),
            held: job.award.as_ref().filter(|_| held).map(|award| award.worker),
            deadline: job.spec.deadline.filter(|_| !is_final).map(|deadline| (deadline, job.id)),
            finished,
            evidenced: finished.filter(|_| job.award.as_ref().is_some_and(|award| award.evidence.is_some())),
            bytes: weight(job),
        }
    }
}

pub(super) fn turn(job: &Job) -> Turn {
    let deadline = job.spec.deadline.unwrap_or(Timestamp(u64::MAX));
    (Reverse(job.spec.priority), deadline, job.submitted_index, job.id)
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
    let evidence = job.award.as_ref().and_then(|award| award.evidence.as_ref()).map_or(0, Sealed::len);
    bytes.saturating_add(evidence + error + texts(&job.spec) + job.history.len() * TRANSITION_BYTES)
}

pub(super) fn texts(spec: &JobSpec) -> usize {
    let lists = [&spec.tags, &spec.requirements.required_frameworks, &spec.requirements.preferred_regions];
    let options = [&spec.client_address, &spec.callback_url, &spec.settlement, &spec.input.uri];
    let listed: usize = lists.iter().flat_map(|list| list.iter()).map(|text| text.len() + size_of::<u64>() * 3).sum();
    let single: usize = options.iter().filter_map(|text| text.as_ref()).map(String::len).sum();
    spec.kind.len() + listed + single
}

impl Index {
    pub(super) fn build<'a>(jobs: impl Iterator<Item = &'a Arc<Job>>, now: Timestamp) -> Self {
        let mut index = Self::default();
        for job in jobs {
            index.change(&job.spec.kind, None, Some(&Facets::of(job, now)));
        }
        index
    }

    /// Follows one job of type `kind` from what it was to what it is; `None` is not there.
    pub(super) fn change(&mut self, kind: &str, was: Option<&Facets>, is: Option<&Facets>) {
        if was == is {
            return;
        }
        self.queue(kind, was.and_then(|f| f.open), is.and_then(|f| f.open));
        swap(&mut self.waiting, was.and_then(|f| f.waiting), is.and_then(|f| f.waiting));
        swap(&mut self.deadlines, was.and_then(|f| f.deadline), is.and_then(|f| f.deadline));
        swap(&mut self.finished, was.and_then(|f| f.finished), is.and_then(|f| f.finished));
        swap(&mut self.evidenced, was.and_then(|f| f.evidenced), is.and_then(|f| f.evidenced));
        swap(&mut self.active, active(was), active(is));
        self.hand_over(was, is);
        if let Some(was) = was {
            *self.count(was.state) -= 1;
            *self.bytes(was.state) -= was.bytes;
        }
        if let Some(is) = is {
            *self.count(is.state) += 1;
            *self.bytes(is.state) += is.bytes;
        }
    }

    /// Opens the jobs whose time has come. `job_of` looks a job up.
    pub(super) fn promote<'a>(&mut self, now: Timestamp, job_of: impl Fn(JobId) -> Option<&'a Arc<Job>>) {
        while let Some((&(due, id), ())) = self.waiting.first() {
            if due > now {
                break;
            }
            self.waiting.remove(&(due, id));
            if let Some(job) = job_of(id) {
                self.queue(&job.spec.kind, None, Some(turn(job)));
            }
        }
    }

    /// Turns of the open jobs of `kinds`, first to be served first.
    pub(super) fn turns_of<'a>(&'a self, kinds: &BTreeSet<&str>) -> impl Iterator<Item = Turn> + use<'a> {
        let mut queues: Vec<_> = kinds.iter().map(|kind| self.queue_of(Arc::from(*kind)).peekable()).collect();
        let mut heads: BTreeSet<(Turn, usize)> =
            queues.iter_mut().enumerate().filter_map(|(at, queue)| Some((*queue.peek()?, at))).collect();
        std::iter::from_fn(move || {
            let (turn, at) = heads.pop_first()?;
            let queue = queues.get_mut(at)?;
            queue.next();
            heads.extend(queue.peek().map(|next| (*next, at)));
            Some(turn)
        })
    }

    fn queue_of(&self, kind: Arc<str>) -> impl Iterator<Item = Turn> {
        let first = self.open_of.keys_after(Some((Arc::clone(&kind), FIRST)));
        first.take_while(move |(other, _)| *other == kind).map(|(_, turn)| *turn)
    }

    fn queue(&mut self, kind: &str, was: Option<Turn>, is: Option<Turn>) {
        if was == is {
            return;
        }
        let kind: Arc<str> = Arc::from(kind);
        swap(&mut self.open, was, is);
        swap(&mut self.open_of, was.map(|turn| (Arc::clone(&kind), turn)), is.map(|turn| (kind, turn)));
    }

    fn hand_over(&mut self, was: Option<&Facets>, is: Option<&Facets>) {
        let (from, to) = (was.and_then(|f| f.held), is.and_then(|f| f.held));
        let Some(job) = was.or(is).map(|f| f.id) else { return };
        if from == to {
            return;
        }
        if let Some(held) = from.and_then(|worker| self.held.get_mut(&worker)) {
            Arc::make_mut(held).remove(&job);
        }
        if let Some(worker) = from.filter(|worker| self.held.get(worker).is_some_and(|held| held.is_empty())) {
            self.held.remove(&worker);
        }
        let Some(worker) = to else { return };
        if !self.held.contains(&worker) {
            self.held.insert(worker, Arc::default());
        }
        if let Some(held) = self.held.get_mut(&worker) {
            Arc::make_mut(held).insert(job);
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
