//! Who is served first.
//!
//! *Between clients* turns are shared ([`super::shares`]): whoever had fewer
//! awards of late is next. Clients that are within one slice of
//! [`SLICE`] awards are even, and among those the better job goes first,
//! so priority counts between clients as well, but only so far.
//!
//! *Among the jobs of a client, and of clients that are even,* the lower
//! [`Turn`] goes first: level, then deadline, then arrival. A job's level is the
//! minute in which it was queued plus one for every class of priority below 10,
//! so each minute of waiting lifts a job by one class over those that come
//! later, and nothing starves. It never changes while the job waits; no queue
//! is ever sorted again.
//!
//! *Every fourth place* goes to the job with the nearest deadline, if that is
//! less than a minute off, whosever it is. So fairness does not make jobs late
//! that could be in time, and deadlines do not make others starve.
//!
//! Jobs are found by class: jobs that ask the same of a worker
//! ([`super::matching::class`]). A class that nobody fits costs one look, however
//! many jobs are in it.
//!
//! Bounds: with `n` clients waiting, a client's first job is served after at most
//! `SLICE * n` others, and a third more for deadlines, once a worker fits it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use super::ids::JobId;
use super::index::Index;
use super::job::{Job, JobSpec};
use super::matching::{Class, class};
use super::shares::{Client, SLICE, client, start};
use super::state::State;
use super::time::Timestamp;

/// Waiting this long, in milliseconds, weighs as much as one class of priority.
pub const AGE_MS: u64 = 60_000;

/// Deadlines nearer than this, in milliseconds, may jump the queue.
pub const URGENT_MS: u64 = 60_000;

/// One place of this many is for the nearest deadline.
pub const URGENT_EVERY: u64 = 4;

/// Jobs looked at whose time has come while the log's clock stood still.
const LATE_MAX: usize = 10_000;

/// Place among the jobs of a client: level, deadline, arrival.
pub(super) type Turn = (u64, Timestamp, u64, JobId);

pub(super) const FIRST: Turn = (0, Timestamp(0), 0, JobId([0; 16]));
pub(super) const LAST: Turn = (u64::MAX, Timestamp(u64::MAX), u64::MAX, JobId([u8::MAX; 16]));

pub(super) fn turn(job: &Job) -> Turn {
    let level = (job.queued_at.0 / AGE_MS).saturating_add(u64::from(10_u8.saturating_sub(job.spec.priority)));
    (level, job.spec.deadline.unwrap_or(Timestamp(u64::MAX)), job.submitted_index, job.id)
}

/// Where an open job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) client: Client,
    pub(super) class: Class,
    pub(super) turn: Turn,
}

impl Line {
    pub(super) fn of(job: &Job) -> Self {
        Self { client: client(&job.spec), class: class(&job.spec), turn: turn(job) }
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(self.turn.1).filter(|deadline| deadline.0 != u64::MAX)
    }
}

/// Heads of lines: the first job of each client in each class.
pub(super) type Head = (Class, u64, Turn, Client);

impl Index {
    /// The first job of a client in a class.
    fn head(&self, client: Client, class: Class) -> Option<Turn> {
        self.next_turn(client, class, FIRST)
    }

    fn next_turn(&self, client: Client, class: Class, after: Turn) -> Option<Turn> {
        let next = self.lines.keys_after(Some((client, class, after))).next()?;
        ((next.0, next.1) == (client, class)).then_some(next.2)
    }

    /// Changes a line by `change`, and keeps its head. Returns whether there was one, and whether there is.
    fn change_line(&mut self, line: &Line, slice: u64, change: impl FnOnce(&mut Self)) -> (bool, bool) {
        let was = self.head(line.client, line.class);
        let known = self.knows(line.class);
        change(self);
        let is = self.head(line.client, line.class);
        if was != is {
            if let Some(turn) = was {
                self.heads.remove(&(line.class, slice, turn, line.client));
            }
            if let Some(turn) = is {
                self.heads.add((line.class, slice, turn, line.client));
            }
        }
        match (known, self.knows(line.class)) {
            (false, true) => self.classes += 1,
            (true, false) => self.classes -= 1,
            _ => {}
        }
        (was.is_some(), is.is_some())
    }

    /// Whether a job of this class is open.
    fn knows(&self, class: Class) -> bool {
        self.next_head((class, 0, FIRST, 0)).is_some()
    }

    pub(super) fn enqueue(&mut self, line: &Line, pass: u64) -> (bool, bool) {
        if let Some(deadline) = line.deadline() {
            self.urgent.add((line.class, deadline, line.turn.3));
        }
        self.open += 1;
        self.change_line(line, pass / SLICE, |index| index.lines.add((line.client, line.class, line.turn)))
    }

    pub(super) fn dequeue(&mut self, line: &Line, pass: u64) -> (bool, bool) {
        if let Some(deadline) = line.deadline() {
            self.urgent.remove(&(line.class, deadline, line.turn.3));
        }
        self.open -= 1;
        let key = (line.client, line.class, line.turn);
        self.change_line(line, pass / SLICE, |index| _ = index.lines.remove(&key))
    }

    /// The client has moved from one slice to another: so do the heads of its lines.
    pub(super) fn reslice(&mut self, client: Client, was: u64, is: u64) {
        let mut after = (client, 0, FIRST);
        while let Some(&(owner, class, turn)) = self.lines.keys_after(Some(after)).next() {
            if owner != client {
                return;
            }
            self.heads.remove(&(class, was, turn, client));
            self.heads.add((class, is, turn, client));
            after = (client, class, LAST);
        }
    }

    fn next_head(&self, after: Head) -> Option<Head> {
        self.heads.keys_after(Some(after)).next().filter(|head| head.0 == after.0).copied()
    }

    fn next_urgent(&self, after: (Class, Timestamp, JobId)) -> Option<(Class, Timestamp, JobId)> {
        self.urgent.keys_after(Some(after)).next().filter(|next| next.0 == after.0).copied()
    }

    /// Classes with open jobs, each with one of its jobs.
    fn classes(&self) -> impl Iterator<Item = (Class, JobId)> {
        let mut after: Option<Head> = None;
        std::iter::from_fn(move || {
            let head = self.heads.keys_after(after).next().copied()?;
            after = Some((head.0, u64::MAX, LAST, Client::MAX));
            Some((head.0, head.2.3))
        })
    }
}

/// Where a job in the heap comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Head of a line: the next line of its class is not in the heap yet.
    Head,
    Line,
    /// Not in any line: its time has come while the log's clock stood still.
    Late,
}

type Place = (u64, Turn, Class, Client, Origin);

/// Open jobs, first to be served first.
pub struct Serving<'a, W> {
    state: &'a State,
    now: Timestamp,
    /// Jobs that are passed over say no.
    wanted: W,
    places: BinaryHeap<Reverse<Place>>,
    urgent: BinaryHeap<Reverse<(Timestamp, JobId, Class)>>,
    /// Where clients stand if everything served so far is awarded.
    passes: BTreeMap<Client, u64>,
    virtual_now: u64,
    awards: u64,
    served: BTreeSet<JobId>,
    /// Jobs that may still be looked at.
    looks: usize,
}

impl<'a, W: FnMut(&Job) -> bool> Serving<'a, W> {
    fn new(state: &'a State, now: Timestamp, mut classes: impl FnMut(Class, &Job) -> bool, wanted: W) -> Self {
        let mut serving = Self {
            state,
            now,
            wanted,
            places: BinaryHeap::new(),
            urgent: BinaryHeap::new(),
            passes: BTreeMap::new(),
            virtual_now: state.shares.now(),
            awards: state.shares.awards(),
            served: BTreeSet::new(),
            looks: usize::MAX,
        };
        let mut known = BTreeMap::new();
        for (class, example) in state.index.classes() {
            let open = state.job(example).is_some_and(|job| classes(class, job));
            known.insert(class, open);
            if open {
                serving.open_head((class, 0, FIRST, 0));
                serving.open_urgent((class, now, JobId([u8::MAX; 16])));
            }
        }
        serving.late(known, classes);
        serving
    }

    /// Ends after this many jobs were looked at, wanted or not.
    #[must_use]
    pub fn within(mut self, looks: usize) -> Self {
        self.looks = looks;
        self
    }

    /// Jobs that `now` has opened and the log's clock has not yet.
    fn late(&mut self, mut known: BTreeMap<Class, bool>, mut classes: impl FnMut(Class, &Job) -> bool) {
        let (state, now) = (self.state, self.now);
        let due = state.index.waiting.keys().take_while(|(due, _)| *due <= now).filter_map(|(_, id)| state.job(*id));
        let mut found = Vec::new();
        for job in due {
            let line = Line::of(job);
            if *known.entry(line.class).or_insert_with(|| classes(line.class, job)) && (self.wanted)(job) {
                found.push(line);
            }
            if found.len() == LATE_MAX {
                break;
            }
        }
        for line in found {
            let slice = self.pass(line.client) / SLICE;
            self.places.push(Reverse((slice, line.turn, line.class, line.client, Origin::Late)));
        }
    }

    fn open_head(&mut self, after: Head) {
        if let Some((class, slice, turn, client)) = self.state.index.next_head(after) {
            self.places.push(Reverse((slice, turn, class, client, Origin::Head)));
        }
    }

    fn open_urgent(&mut self, after: (Class, Timestamp, JobId)) {
        let near = self.now.after_ms(URGENT_MS);
        if let Some((class, deadline, id)) = self.state.index.next_urgent(after).filter(|(_, at, _)| *at <= near) {
            self.urgent.push(Reverse((deadline, id, class)));
        }
    }

    fn pass(&self, client: Client) -> u64 {
        self.passes.get(&client).copied().unwrap_or_else(|| self.state.shares.pass(client))
    }

    /// The job, if it is to be served now. Its client pays for it also if it is not wanted: else one whose jobs
    /// nobody wants would be in the way of all others.
    fn serve(&mut self, id: JobId, client: Client) -> Option<&'a Arc<Job>> {
        self.looks = self.looks.checked_sub(1)?;
        let job = self.state.jobs.get(&id)?;
        let late = job.spec.deadline.is_some_and(|deadline| deadline <= self.now);
        if late || !self.served.insert(id) {
            return None;
        }
        let start = start(self.pass(client), self.virtual_now);
        self.virtual_now = self.virtual_now.max(start);
        self.passes.insert(client, start.saturating_add(1));
        if !self.state.takes_votes(job) || !(self.wanted)(job) {
            return None;
        }
        self.awards = self.awards.wrapping_add(1);
        Some(job)
    }

    fn next_urgent(&mut self) -> Option<&'a Arc<Job>> {
        while self.looks > 0
            && let Some(Reverse((deadline, id, class))) = self.urgent.pop()
        {
            self.open_urgent((class, deadline, id));
            let owner = self.state.jobs.get(&id).map(|job| client(&job.spec));
            if let Some(job) = owner.and_then(|owner| self.serve(id, owner)) {
                return Some(job);
            }
        }
        None
    }

    fn next_in_turn(&mut self) -> Option<&'a Arc<Job>> {
        while self.looks > 0
            && let Some(Reverse((slice, turn, class, client, origin))) = self.places.pop()
        {
            if origin == Origin::Head {
                self.open_head((class, slice, turn, client));
            }
            let present = self.pass(client) / SLICE;
            if present > slice {
                let origin = if origin == Origin::Head { Origin::Line } else { origin };
                self.places.push(Reverse((present, turn, class, client, origin)));
                continue;
            }
            let job = self.serve(turn.3, client);
            if origin != Origin::Late
                && let Some(next) = self.state.index.next_turn(client, class, turn)
            {
                let slice = self.pass(client) / SLICE;
                self.places.push(Reverse((slice, next, class, client, Origin::Line)));
            }
            if job.is_some() {
                return job;
            }
        }
        None
    }
}

impl<'a, W: FnMut(&Job) -> bool> Iterator for Serving<'a, W> {
    type Item = &'a Arc<Job>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.awards % URGENT_EVERY == URGENT_EVERY - 1
            && let Some(job) = self.next_urgent()
        {
            return Some(job);
        }
        self.next_in_turn()
    }
}

impl State {
    /// Pending jobs whose time has come, first to be served first.
    ///
    /// `now` may be ahead of the log's clock. Jobs whose deadline has passed by then are left out.
    pub fn open_jobs(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Job>> {
        self.serving(now, |_, _| true, |_| true)
    }

    /// The same, of those classes and jobs only that are wanted. `classes` is asked once for each class with open
    /// jobs, with one job of it; the jobs of a class that is not wanted are not looked at.
    pub fn serving<W: FnMut(&Job) -> bool>(
        &self,
        now: Timestamp,
        classes: impl FnMut(Class, &Job) -> bool,
        wanted: W,
    ) -> Serving<'_, W> {
        Serving::new(self, now, classes, wanted)
    }

    /// Different requirements among the open jobs of a client, `spec` included.
    pub(super) fn classes_with(&self, spec: &JobSpec) -> usize {
        let client = client(spec);
        let known = self.index.head(client, class(spec)).is_some();
        self.shares.classes(client) + usize::from(!known)
    }

    /// The same among the open jobs of all clients.
    pub(super) fn classes_in_all_with(&self, spec: &JobSpec) -> usize {
        self.index.classes + usize::from(!self.index.knows(class(spec)))
    }

    /// Pending jobs whose time had come when the log's clock last moved.
    pub fn open_count(&self) -> usize {
        self.index.open
    }
}
