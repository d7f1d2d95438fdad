//! The state as bytes: what a checkpoint stores and a follower receives.
//!
//! A versioned stream of frames, so that neither side needs the whole in memory:
//!
//! ```text
//! magic "ciro-sm\n" · version u32 · frame* · end frame
//! frame = section u8 · length u32 · bytes        (numbers big-endian)
//! ```
//!
//! The head frame comes first and says how many items each section has; items
//! follow section by section in key order, several to a frame; the end frame
//! carries the SHA-256 of everything before it.
//!
//! Invariants
//!
//! * Canonical: the same state gives the same bytes, however it came to be.
//! * What is read is believed only as far as it is checked. Nothing from the
//!   stream panics or allocates beyond what really arrives plus one frame.
//! * Indexes are not stored; they are built again from the records.

mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::archive::{Archive, Segment};
use super::bytes::{Owned, Slice};
use super::callback::{Callbacks, Notice};
use super::chain::{
    Again, Books, Closed, Felt, LANE_MAX, Ledger, Parked, RECENT_MAX, Settlement, Slot, TAIL_MAX, TRIES_MAX,
};
use super::cow::Map;
use super::ids::{Digest, JobId, WorkerId};
use super::index::{Index, keeps_payload};
use super::job::{Job, JobState, Outcome};
use super::journal::{Entry, Journal, Passed, Sink};
use super::kafka::{Dead, Intake, Kafka, Lane, Partition};
#[cfg(any(test, debug_assertions))]
use super::level;
use super::member::Members;
use super::restore::Fence;
use super::retired::{Key, Retired};
use super::shares::{Client, Shares};
use super::state::{LIMITS, Limits, State};
use super::time::Timestamp;
use super::worker::Worker;
use stream::{Reader, Writer};

const MAGIC: [u8; 8] = *b"ciro-sm\n";

/// The layout of the first feature level.
const VERSION: u32 = 9;

/// The layout of the level for tests: a section more.
#[cfg(any(test, debug_assertions))]
const TRIAL_VERSION: u32 = 1 << 31;

/// The format that this build writes, and reads.
pub const FORMAT: u32 = VERSION;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read or write snapshot")]
    Io(#[from] std::io::Error),
    #[error("snapshot has format {found}, this build reads {known}")]
    Version { found: u32, known: u32 },
    #[error("snapshot is damaged: {0}")]
    Damaged(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Head = 1,
    Workers = 2,
    Jobs = 3,
    Payloads = 4,
    Outputs = 5,
    Journal = 6,
    End = 7,
    Retired = 8,
    Shares = 9,
    Ballots = 10,
    Letters = 11,
    Lane = 12,
    Again = 13,
    Parked = 14,
    Settlements = 15,
    Payees = 16,
    Recent = 17,
    Notices = 18,
    Segments = 19,
    #[cfg(any(test, debug_assertions))]
    Trial = 255,
}

/// What does not follow from the items.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    level: u32,
    now: Timestamp,
    drawn_at: Timestamp,
    applied: u64,
    applied_term: u64,
    hash: Digest,
    submitted_total: u64,
    reopened_total: u64,
    ended_total: [u64; 6],
    journal_last_seq: u64,
    cursors: BTreeMap<Sink, u64>,
    passed: Passed,
    fence: Fence,
    workers: u64,
    jobs: u64,
    payloads: u64,
    outputs: u64,
    entries: u64,
    retired: u64,
    shares: u64,
    /// Virtual time and awards of the clients' shares.
    virtual_now: u64,
    awards: u64,
    ballots: u64,
    letters: u64,
    kafka_cluster: Option<Box<str>>,
    intake: BTreeMap<Partition, Intake>,
    published: BTreeMap<Lane, u64>,
    chain: Books,
    /// Slots, items to be planned again, parked ones, jobs on chain, payees, closed transactions.
    chain_items: [u64; 6],
    notices: u64,
    members: Members,
    hold: Option<(u32, u32)>,
    /// Numbers of the newest segment and of the newest removed, jobs removed, segments.
    archive: [u64; 4],
    history: u64,
}

impl State {
    /// Writes the state as one stream. The writer should be buffered.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write_to(&self, out: &mut impl Write) -> Result<(), Error> {
        let mut writer = Writer::new(out);
        writer.put(&MAGIC)?;
        writer.put(&self.layout().to_be_bytes())?;
        writer.section(Section::Head, std::iter::once(self.head()))?;
        writer.section(Section::Workers, self.workers.iter().map(|(_, worker)| worker))?;
        writer.section(Section::Jobs, self.jobs.iter().map(|(_, job)| job))?;
        writer.section(Section::Payloads, self.payloads.iter().map(|(id, bytes)| (id, Slice(bytes))))?;
        writer.section(Section::Outputs, self.outputs.iter().map(|(id, bytes)| (id, Slice(bytes))))?;
        writer.section(Section::Journal, self.journal.entries())?;
        writer.section(Section::Retired, self.retired.iter())?;
        writer.section(Section::Shares, self.shares.passes())?;
        writer.section(Section::Ballots, self.ballots.iter().map(|(key, bytes)| (key, Slice(bytes))))?;
        writer.section(Section::Letters, self.kafka.letters_after(None))?;
        self.write_chain(&mut writer)?;
        writer.section(Section::Notices, self.callbacks.iter())?;
        writer.section(Section::Segments, self.archive.segments())?;
        #[cfg(any(test, debug_assertions))]
        if self.layout() == TRIAL_VERSION {
            writer.section(Section::Trial, std::iter::once((0, self.trial)))?;
        }
        writer.end()
    }

    /// How this state is written: as its feature level says.
    fn layout(&self) -> u32 {
        #[cfg(any(test, debug_assertions))]
        if self.level >= level::TRIAL {
            return TRIAL_VERSION;
        }
        VERSION
    }

    fn write_chain<W: Write>(&self, writer: &mut Writer<'_, W>) -> Result<(), Error> {
        let chain = &self.chain;
        writer.section(Section::Lane, chain.lane.iter())?;
        writer.section(Section::Again, chain.again())?;
        writer.section(Section::Parked, chain.parked_after(None))?;
        writer.section(Section::Settlements, chain.settlements.iter())?;
        writer.section(Section::Payees, chain.payees.iter())?;
        writer.section(Section::Recent, chain.recent_after(None))
    }

    /// Reads what [`Self::write_to`] wrote, and nothing beyond its end.
    ///
    /// # Errors
    ///
    /// [`Error::Version`] for another format, [`Error::Damaged`] for anything
    /// that is not a whole and consistent snapshot, else those of the reader.
    pub fn read_from(input: &mut impl Read) -> Result<Self, Error> {
        Self::read_within(input, LIMITS)
    }

    pub(super) fn read_within(input: &mut impl Read, limits: Limits) -> Result<Self, Error> {
        let mut reader = Reader::new(input);
        let layout = reader.preamble()?;
        let head: Head = reader.head()?;
        let workers = reader.map(Section::Workers, head.workers, |worker: Arc<Worker>| (worker.id, worker))?;
        let jobs = reader.map(Section::Jobs, head.jobs, |job: Arc<Job>| (job.id, job))?;
        let payloads = reader.map(Section::Payloads, head.payloads, bytes_of)?;
        let outputs = reader.map(Section::Outputs, head.outputs, bytes_of)?;
        let entries = reader.map(Section::Journal, head.entries, |entry: Entry| (entry.seq, entry))?;
        let retired = reader.map(Section::Retired, head.retired, |entry: (u64, Key)| entry)?;
        let passes = reader.map(Section::Shares, head.shares, |share: (Client, u64)| share)?;
        let ballots = reader.map(Section::Ballots, head.ballots, ballot_of)?;
        let letters = reader.map(Section::Letters, head.letters, |dead: Dead| (dead.id, dead))?;
        let chain = read_chain(&mut reader, head.chain, head.chain_items)?;
        let notices = reader.map(Section::Notices, head.notices, |notice: Arc<Notice>| (notice.event, notice))?;
        let [last, dropped, removed, count] = head.archive;
        let segments = reader.map(Section::Segments, count, |of: Arc<Segment>| (of.number, of))?;
        #[cfg(any(test, debug_assertions))]
        let trial = read_trial(&mut reader, layout)?;
        reader.end()?;
        let archive = Archive::from_parts(head.hold, [last, dropped, removed], segments)
            .ok_or_else(|| damaged("the archive's segments do not fit each other"))?;
        let kafka = Kafka::from_parts(head.kafka_cluster, head.intake, head.published, letters);
        if kafka.letters_after(None).any(|dead| dead.id > head.journal_last_seq) {
            return Err(damaged("a dead letter is newer than the journal"));
        }
        let retired = Retired::from_parts(retired).ok_or_else(|| damaged("a forgotten job is listed twice"))?;
        let journal = Journal::from_parts(head.journal_last_seq, head.cursors, entries, head.passed)
            .ok_or_else(|| damaged("journal does not fit its numbers"))?;
        check_jobs(&jobs, &workers, head.now)?;
        check_bytes(&jobs, &payloads, &outputs)?;
        let mut shares = Shares::from_parts(head.virtual_now, head.awards, passes);
        let index = Index::build(jobs.iter().map(|(_, job)| job), head.now, &mut shares);
        if u64::try_from(shares.len()).ok() != Some(head.shares) || !shares.are_used() {
            return Err(damaged("clients' shares do not fit the jobs"));
        }
        check_ballots(&jobs, &ballots)?;
        check_chain(&chain, &jobs, journal.last_seq())?;
        let callbacks = Callbacks::from_parts(notices);
        check_rest(&callbacks, &head.members, journal.last_seq())?;
        let state = Self {
            limits,
            level: head.level,
            #[cfg(any(test, debug_assertions))]
            trial,
            now: head.now,
            drawn_at: head.drawn_at,
            applied: head.applied,
            applied_term: head.applied_term,
            hash: head.hash,
            history: head.history,
            submitted_total: head.submitted_total,
            reopened_total: head.reopened_total,
            ended_total: head.ended_total,
            shares,
            index,
            jobs,
            payloads,
            outputs,
            ballots,
            retired,
            workers,
            journal,
            kafka,
            chain,
            callbacks,
            members: head.members,
            archive,
            fence: head.fence,
        };
        if state.layout() == layout { Ok(state) } else { Err(damaged("its layout is not that of its level")) }
    }

    fn head(&self) -> Head {
        let count = |items: usize| u64::try_from(items).unwrap_or(u64::MAX);
        Head {
            level: self.level,
            now: self.now,
            drawn_at: self.drawn_at,
            applied: self.applied,
            applied_term: self.applied_term,
            hash: self.hash,
            submitted_total: self.submitted_total,
            reopened_total: self.reopened_total,
            ended_total: self.ended_total,
            journal_last_seq: self.journal.last_seq(),
            cursors: self.journal.cursors().collect(),
            passed: self.journal.passed.clone(),
            fence: self.fence,
            workers: count(self.workers.len()),
            jobs: count(self.jobs.len()),
            payloads: count(self.payloads.len()),
            outputs: count(self.outputs.len()),
            entries: count(self.journal.len()),
            retired: count(self.retired.len()),
            shares: count(self.shares.len()),
            virtual_now: self.shares.now(),
            awards: self.shares.awards(),
            ballots: count(self.ballots.len()),
            letters: count(self.kafka.letters()),
            kafka_cluster: self.kafka.cluster.clone(),
            intake: self.kafka.intake.clone(),
            published: self.kafka.published.clone(),
            chain: self.chain.books.clone(),
            chain_items: [
                count(self.chain.lane.len()),
                count(self.chain.again_len()),
                count(self.chain.parked_len()),
                count(self.chain.settlements.len()),
                count(self.chain.payees.len()),
                count(self.chain.recent.len()),
            ],
            notices: count(self.callbacks.len()),
            members: self.members.clone(),
            hold: self.archive.hold,
            archive: [
                self.archive.last(),
                self.archive.dropped(),
                self.archive.removed_total(),
                count(self.archive.segment_count()),
            ],
            history: self.history,
        }
    }
}

#[cfg(any(test, debug_assertions))]
fn read_trial<R: Read>(reader: &mut Reader<'_, R>, layout: u32) -> Result<level::Trial, Error> {
    if layout != TRIAL_VERSION {
        return Ok(level::Trial::default());
    }
    let found = reader.map(Section::Trial, 1, |item: (u64, level::Trial)| item)?;
    Ok(found.get(&0).copied().unwrap_or_default())
}

fn read_chain<R: Read>(reader: &mut Reader<'_, R>, books: Books, counts: [u64; 6]) -> Result<Ledger, Error> {
    let [lane, again, parked, settlements, payees, recent] = counts;
    let lane = reader.map(Section::Lane, lane, |slot: (u64, Arc<Slot>)| slot)?;
    let again = reader.map(Section::Again, again, |again: Arc<Again>| (again.item.seq, again))?;
    let parked = reader.map(Section::Parked, parked, |parked: Arc<Parked>| (parked.item.seq, parked))?;
    let settlements = reader.map(Section::Settlements, settlements, |of: (JobId, Arc<Settlement>)| of)?;
    let payees = reader.map(Section::Payees, payees, |payee: (WorkerId, Felt)| payee)?;
    let recent = reader.map(Section::Recent, recent, |closed: Arc<Closed>| (closed.number, closed))?;
    let lane = lane.iter().map(|(nonce, slot)| (*nonce, Arc::clone(slot))).collect();
    Ok(Ledger { books, lane, again, parked, settlements, payees, recent, ..Ledger::default() }.with_arrivals())
}

/// Notices are of ends that the journal knows, and the membership is sound.
fn check_rest(callbacks: &Callbacks, members: &Members, newest: u64) -> Result<(), Error> {
    if callbacks.iter().any(|notice| notice.event > newest || !notice.state.is_final()) {
        return Err(damaged("a notice of no end"));
    }
    if members.is_sound() { Ok(()) } else { Err(damaged("the books of the membership contradict themselves")) }
}

/// Slots are of one nonce each, items of entries that are, jobs on chain of jobs that are kept.
fn check_chain(chain: &Ledger, jobs: &Map<JobId, Arc<Job>>, newest: u64) -> Result<(), Error> {
    let slots = chain.lane().all(|(nonce, slot)| {
        !slot.tries.is_empty()
            && slot.tries.len() <= TRIES_MAX
            && slot.tries.iter().all(|known| known.nonce == nonce)
            && slot.items().iter().all(|item| item.seq <= newest)
    });
    let items = chain.again().map(|again| again.item.seq).chain(chain.parked_after(None).map(|parked| parked.item.seq));
    let entries = items.into_iter().all(|seq| seq <= newest);
    let bounded = chain.lane.len() <= LANE_MAX && chain.recent.len() <= RECENT_MAX && chain.tail().len() <= TAIL_MAX;
    let known = chain.settlements.iter().all(|(job, _)| jobs.contains(job));
    if slots && entries && bounded && known {
        Ok(())
    } else {
        Err(damaged("the books of the chain contradict themselves"))
    }
}

/// Every job that is held has a known holder, and every one that ended says when.
fn check_jobs(jobs: &Map<JobId, Arc<Job>>, workers: &Map<WorkerId, Arc<Worker>>, now: Timestamp) -> Result<(), Error> {
    for (id, job) in jobs.iter() {
        let held = job.runs_in_force().all(|run| workers.contains(&run.award.worker)) && runs_fit(job);
        let fits = match job.state {
            JobState::Pending | JobState::Assigned | JobState::Running => {
                job.state == job.standing() && job.finished_at.is_none()
            }
            JobState::Completed => job.outcome.is_some() && job.finished_at.is_some(),
            JobState::Failed | JobState::Cancelled => job.outcome.is_none() && job.finished_at.is_some(),
        };
        if !fits || !held || job.history.is_empty() || job.finished_at.is_some_and(|at| at > now) {
            return Err(damaged(format!("job {id} contradicts itself")));
        }
    }
    Ok(())
}

/// No worker twice, no more runs than the job asks for, each with an attempt that was awarded.
fn runs_fit(job: &Job) -> bool {
    let attempts = job.runs.is_sorted_by(|a, b| a.attempt < b.attempt)
        && job.runs.last().is_none_or(|run| run.attempt <= job.attempt);
    let workers: BTreeSet<WorkerId> = job.runs.iter().map(|run| run.award.worker).collect();
    let compared = job.spec.redundancy > 1;
    attempts
        && workers.len() == job.runs.len()
        && job.runs.len() <= job.redundancy()
        && job.runs.iter().all(|run| run.ballot.is_some() == compared)
}

/// What was voted for is there exactly for the jobs that are not decided.
fn check_ballots(jobs: &Map<JobId, Arc<Job>>, ballots: &Map<(JobId, Digest), Arc<[u8]>>) -> Result<(), Error> {
    let undecided = jobs.iter().filter(|(_, job)| !job.state.is_final());
    let mut wanted = 0;
    for (id, digest, size) in undecided.flat_map(|(id, job)| job.undecided().map(|(digest, size)| (*id, digest, size)))
    {
        wanted += 1;
        if ballots.get(&(id, digest)).is_none_or(|bytes| bytes.len() != size) {
            return Err(damaged(format!("a vote for job {id} has no output")));
        }
    }
    if wanted == ballots.len() { Ok(()) } else { Err(damaged("votes of no undecided job")) }
}

/// Inputs and outputs are there exactly for the jobs that have them, and as long as those say.
fn check_bytes(
    jobs: &Map<JobId, Arc<Job>>,
    payloads: &Map<JobId, Arc<[u8]>>,
    outputs: &Map<JobId, Arc<[u8]>>,
) -> Result<(), Error> {
    let mut present = [0usize; 2];
    for (id, job) in jobs.iter() {
        let input = Some(job.spec.input.size).filter(|_| keeps_payload(job));
        let output = job.outcome.as_ref().and_then(Outcome::inline_size);
        for (place, (wanted, found)) in [(input, payloads.get(id)), (output, outputs.get(id))].into_iter().enumerate() {
            let size = found.map(|bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            // An empty input may have been given as none at all.
            if size != wanted && (size.is_some() || wanted != Some(0)) {
                return Err(damaged(format!("bytes of job {id} do not fit it")));
            }
            present[place] += usize::from(size.is_some());
        }
    }
    if present == [payloads.len(), outputs.len()] { Ok(()) } else { Err(damaged("bytes of no known job")) }
}

fn bytes_of((id, Owned(bytes)): (JobId, Owned)) -> (JobId, Arc<[u8]>) {
    (id, Arc::from(bytes))
}

fn ballot_of((key, Owned(bytes)): ((JobId, Digest), Owned)) -> ((JobId, Digest), Arc<[u8]>) {
    (key, Arc::from(bytes))
}

fn damaged(what: impl Into<String>) -> Error {
    Error::Damaged(what.into())
}
