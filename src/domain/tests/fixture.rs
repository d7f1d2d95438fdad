//! What the tests share: short names for things, and what must hold of any state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::command::{Command, Complete, Fail, Submit};
use crate::domain::cow::Map;
use crate::domain::ids::{Digest, JobId, WorkerId};
use crate::domain::index::Index;
use crate::domain::job::{HISTORY_MAX, Input, Job, JobSpec, JobState, Source};
use crate::domain::journal::Event;
use crate::domain::matching::class;
use crate::domain::reputation::CHANGES_MAX;
use crate::domain::run::{Run, Tally};
use crate::domain::sample;
use crate::domain::shares::Shares;
use crate::domain::state::{LIMITS, Limits, State};
use crate::domain::worker::{Capabilities, Location, Worker};

/// Bounds that a short test reaches.
pub(super) const SMALL: Limits = Limits {
    letters: 3,
    letter_bytes: 400,
    partitions: 2,
    backlog: 6,
    backlog_bytes: 1_500,
    classes: 4,
    classes_in_all: 5,
    finished: 4,
    finished_bytes: 3_000,
    ballot_bytes: 900,
    evidence: 2,
    segment_jobs: 2,
    segment_bytes: 600,
    retired: 3,
    workers: 3,
    journal_keep: 10,
    journal_max: 40,
    callbacks: 4,
    callback_bytes: 4_000,
    callbacks_of_one: 2,
};

pub(super) fn job(n: u8) -> JobId {
    JobId([n; 16])
}

pub(super) fn worker(n: u8) -> WorkerId {
    crate::domain::PeerId([n; 32])
}

pub(super) fn spec(payload: &[u8]) -> JobSpec {
    JobSpec {
        input: Input { sha256: Digest::of(payload), size: payload.len() as u64, uri: None },
        timeout_secs: 3_600,
        ..sample::spec()
    }
}

pub(super) fn submit(id: JobId, spec: JobSpec, payload: &[u8]) -> Command {
    let fingerprint = Digest::of(format!("{spec:?}{payload:?}").as_bytes());
    Command::Submit(Box::new(Submit { id, spec, payload: Some(payload.to_vec()), fingerprint, source: Source::Api }))
}

pub(super) fn register(worker: WorkerId, max_parallel_jobs: u32) -> Command {
    let capabilities = Capabilities {
        cpu_cores: 4,
        ram_mb: 8_192,
        job_types: vec!["sha256".to_owned(), "wordcount".to_owned()],
        frameworks: vec!["onnx".to_owned()],
        max_parallel_jobs,
        ..Capabilities::default()
    };
    let location = Location { region: "eu-north".to_owned(), ..Location::default() };
    Command::RegisterWorker { worker, capabilities: Box::new(capabilities), location, version: "1.0.0".to_owned() }
}

pub(super) fn complete(job: JobId, attempt: u32, worker: WorkerId, output: &[u8]) -> Command {
    Command::Complete(Box::new(Complete {
        job,
        attempt,
        worker,
        output: output.to_vec(),
        kept_size: 0,
        output_sha256: Digest::of(output),
        exit_code: 0,
        duration_ms: 12,
        signature: vec![7; 64],
    }))
}

/// A result whose output stays with the worker.
pub(super) fn keep(job: JobId, attempt: u32, worker: WorkerId, kept_size: u64) -> Command {
    let Command::Complete(complete) = complete(job, attempt, worker, b"large") else { unreachable!() };
    Command::Complete(Box::new(Complete { output: vec![], kept_size, ..*complete }))
}

pub(super) fn fail(job: JobId, attempt: u32, worker: WorkerId, retryable: bool) -> Command {
    let (code, detail) = ("exit_code".to_owned(), "exited with 1".to_owned());
    Command::Fail(Box::new(Fail { job, attempt, worker, code, detail, retryable }))
}

pub(super) fn bytes(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.write_to(&mut bytes).unwrap();
    bytes
}

/// Writes the state, reads it back, and checks that nothing is different.
pub(super) fn reread(state: &State) -> State {
    let written = bytes(state);
    let read = State::read_within(&mut written.as_slice(), state.limits).unwrap();
    assert_eq!(bytes(&read), written, "a snapshot of what was read differs");
    assert_eq!(read.index, state.index, "indexes built from a snapshot differ");
    assert_eq!(read.journal, state.journal);
    assert_eq!(read.kafka, state.kafka);
    assert_eq!(read.callbacks, state.callbacks);
    read
}

/// What holds of every state after every record.
pub(super) fn check(state: &State) {
    let passes = state.shares.passes().fold(Map::default(), |mut passes, (client, pass)| {
        passes.insert(client, pass);
        passes
    });
    let mut shares = Shares::from_parts(state.shares.now(), state.shares.awards(), passes);
    let index = Index::build(state.jobs.iter().map(|(_, job)| job), state.now, &mut shares);
    assert_eq!(state.index, index, "indexes differ");
    assert_eq!(state.shares, shares, "shares differ");
    assert!(state.shares.are_used(), "a client without jobs has a share");
    state.jobs.iter().for_each(|(id, job)| check_job(state, *id, job));
    state.workers().for_each(|worker| check_worker(state, worker));
    check_queues(state);
    check_sums(state);
    check_journal(state);
    check_kafka(state);
    check_callbacks(state);
}

fn check_job(state: &State, id: JobId, job: &Arc<Job>) {
    assert_eq!(job.id, id);
    let holders: BTreeSet<WorkerId> = job.runs_in_force().map(|run| run.award.worker).collect();
    assert!(holders.iter().all(|holder| state.worker(*holder).is_some()), "{id} is held by a stranger");
    let named = state.index.held.iter().filter(|(_, held)| held.contains(&id)).map(|(worker, _)| *worker);
    assert_eq!(named.collect::<BTreeSet<_>>(), holders, "{id} is {:?}", job.state);
    check_runs(state, job);
    assert!(job.failures <= job.failures_max() && job.failures <= job.attempt * job.redundancy() as u32);
    assert_eq!(job.finished_at.is_some(), job.state.is_final());
    assert_eq!(job.outcome.is_some(), job.state == JobState::Completed);
    assert_eq!(state.output(id).is_some(), job.outcome.as_ref().is_some_and(|outcome| !outcome.kept));
    assert_eq!(state.payload(id).is_some(), !matches!(job.state, JobState::Completed | JobState::Cancelled));
    assert!((1..=HISTORY_MAX).contains(&job.history.len()));
    let last = job.history.last().unwrap();
    assert_eq!(last.state, job.state);
    let fenced = job.submitted_index <= state.fence.index && job.attempt >= state.fence.floor;
    assert!(last.attempt == job.attempt || job.spec.redundancy > 1 || fenced);
    assert!(job.history.is_sorted_by_key(|line| (line.index, line.at)));
}

/// No worker has two runs of a job, no more run than are asked for, and what was voted for is kept until decided.
fn check_runs(state: &State, job: &Job) {
    let workers: BTreeSet<WorkerId> = job.runs.iter().map(|run| run.award.worker).collect();
    assert_eq!(workers.len(), job.runs.len(), "{} runs twice on one worker", job.id);
    assert!(job.runs.len() <= job.redundancy());
    assert!(job.runs.iter().all(|run| run.ballot.is_some() == (job.spec.redundancy > 1)));
    assert!(job.runs.is_sorted_by(|a, b| a.attempt < b.attempt));
    assert!(job.runs.iter().all(|run| run.attempt <= job.attempt));
    let kept = state.ballots.iter().filter(|((id, _), _)| *id == job.id).count();
    if job.state.is_final() {
        assert_eq!(kept, 0, "{} is decided and its votes are kept", job.id);
    } else {
        assert_eq!(job.state, job.standing());
        assert_eq!(job.tally(), Tally::Open, "{} could be decided", job.id);
        assert_eq!(kept, job.undecided().count());
    }
    let agreeing = job.runs.iter().filter(|run| job.owed(run).is_some_and(|owed| owed == run.award.price));
    if let Some(outcome) = job.outcome.as_ref().filter(|_| job.spec.redundancy > 1) {
        let same = |run: &&Run| run.output().is_some_and(|vote| vote.output_sha256 == outcome.output_sha256);
        assert!(job.runs.iter().filter(same).count() >= job.quorum(), "{} has no majority", job.id);
        assert!(agreeing.count() >= job.quorum());
    }
}

fn check_worker(state: &State, worker: &Worker) {
    let held = state.jobs_of(worker.id).map_or(0, BTreeSet::len);
    assert!(worker.reputation <= 1_000 && worker.changes.len() <= CHANGES_MAX);
    assert!(worker.changes.is_sorted_by_key(|change| change.at));
    assert!(held as u32 <= worker.capabilities.max_parallel_jobs, "{} holds {held} jobs", worker.id);
}

fn check_queues(state: &State) {
    let wanting = |job: &&Arc<Job>| job.wants_run() && state.takes_votes(job);
    let pending: Vec<_> = state.jobs.iter().map(|(_, job)| job).filter(wanting).collect();
    let far = crate::domain::Timestamp(u64::MAX);
    let undated = pending.iter().filter(|job| job.spec.deadline.is_none()).count();
    assert_eq!(
        state.open_jobs(far).count(),
        undated,
        "the queue at the end of time has every undated job that wants a run"
    );
    let open: Vec<_> = state.open_jobs(state.now).collect();
    assert!(open.iter().all(|job| job.next_attempt_at <= state.now));
    assert_eq!(open.len(), state.open_count() - held_back(state), "every open job is served once");
    let undelivered = state.held_runs().filter(|(_, run)| run.award.started_at.is_none()).count();
    assert_eq!(state.undelivered_runs().count(), undelivered, "what was not taken yet is to be sent");
    let mut classes: BTreeMap<u64, BTreeSet<JobId>> = BTreeMap::new();
    for job in state.open_jobs(far) {
        classes.entry(class(&job.spec)).or_default().insert(job.id);
    }
    for (wanted, all) in classes {
        let served: BTreeSet<JobId> =
            state.serving(far, |class, _| class == wanted, |_| true).map(|job| job.id).collect();
        assert_eq!(served, all, "a class is served whole and alone");
    }
}

/// Open jobs whose deadline has passed, or that wait until votes of others are counted.
fn held_back(state: &State) -> usize {
    let wanting = state.jobs.iter().map(|(_, job)| job).filter(|job| job.wants_run());
    let open = wanting.filter(|job| job.next_attempt_at <= state.now);
    let late = |job: &Job| job.spec.deadline.is_some_and(|deadline| deadline <= state.now);
    open.filter(|job| late(job) || !state.takes_votes(job)).count()
}

fn check_sums(state: &State) {
    let limits = &state.limits;
    let remembered: u64 = state.job_counts().values().sum();
    assert_eq!(remembered, state.jobs.len() as u64 + state.archive().jobs());
    let ended: u64 = JobState::ALL.iter().map(|state_of| state.ended_total(*state_of)).sum();
    let begun = state.submitted_total() + state.reopened_total;
    assert_eq!(ended + state.index.active.len() as u64, begun, "each job ends once for each time it began");
    assert!(state.index.active.len() <= limits.backlog);
    if state.journal().undelivered() == 0 {
        let (hot, batch) = state.hold();
        assert!(state.index.finished.len() < hot.max(state.settling_most()) + batch);
        assert!(state.index.finished.len() < limits.finished * 2);
        assert!(state.index.finished_bytes <= limits.finished_bytes);
    }
    assert!(state.index.finished.len() <= limits.finished * 2 + limits.backlog);
    assert!(state.workers.len() <= limits.workers);
    assert!(state.index.evidenced.len() <= limits.evidence);
    assert!(state.retired.len() <= limits.retired);
    assert!(state.retired.iter().all(|(_, (id, _, _))| id.is_from_key() && state.job(*id).is_none()));
    assert!(state.retired.iter().all(|(_, (id, _, _))| state.remembers(*id)));
    let voted: usize = state.ballots.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(voted <= state.index.ballot_bytes && voted <= state.index.backlog_bytes, "votes are not counted");
    let kept: usize = state.outputs.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(kept <= state.index.finished_bytes, "outputs are not counted");
}

fn check_journal(state: &State) {
    let journal = state.journal();
    let entries = journal.after(0, usize::MAX);
    let seqs: Vec<u64> = entries.iter().map(|entry| entry.seq).collect();
    let follows = |pair: &[u64]| journal.given(pair[0], pair[1]) == 1;
    assert!(seqs.windows(2).all(follows), "the journal has gaps: {seqs:?}");
    assert!(seqs.last().is_none_or(|newest| journal.given(*newest, journal.last_seq()) == 0), "the newest is gone");
    assert!(entries.is_sorted_by_key(|entry| (entry.index, entry.at)));
    assert!(journal.len() <= state.limits.journal_max * crate::domain::journal::OVERRUN);
}

fn check_kafka(state: &State) {
    let (kafka, limits) = (state.kafka(), &state.limits);
    let bytes: usize = kafka.letters_after(None).map(|dead| dead.letter.size()).sum();
    assert_eq!(kafka.letter_bytes(), bytes, "letters are not counted");
    assert!(kafka.letters() <= limits.letters && bytes <= limits.letter_bytes);
    assert!(kafka.intake().count() <= limits.partitions);
    assert!(kafka.letters_after(None).all(|dead| dead.replay.is_none_or(|replay| replay > dead.id)));
    // What a sink has not heard of can still be told whole, unless the journal was overrun.
    let Some(slowest) = state.journal().cursors().map(|(_, cursor)| cursor).min() else { return };
    if state.journal().first_seq() <= slowest + 1 {
        for entry in state.journal().after(slowest, usize::MAX) {
            if let Event::Job { job, state: JobState::Completed | JobState::Failed, .. } = entry.event {
                assert!(state.job(job).is_some(), "{job} was forgotten before it was told of");
            }
        }
    }
}

/// No end without a notice, and none that waits without being told of: who is to hear, hears or is given up.
fn check_callbacks(state: &State) {
    let (callbacks, limits) = (state.callbacks(), &state.limits);
    let bytes: usize = callbacks.after(0).map(|notice| notice.size()).sum();
    assert_eq!(callbacks.bytes(), bytes, "notices are not counted");
    assert!(callbacks.len() <= limits.callbacks && (bytes <= limits.callback_bytes || callbacks.len() == 1));
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    callbacks.after(0).for_each(|notice| *lines.entry(notice.receiver()).or_default() += 1);
    assert!(lines.values().all(|count| *count <= limits.callbacks_of_one));
    assert_eq!(callbacks.receivers(), lines.len());
    for (id, job) in state.jobs.iter() {
        let wanted = job.spec.callback_url.is_some();
        assert!(wanted || job.callback.is_none(), "{id} calls back unasked");
        assert!(!wanted || !job.state.is_final() || job.callback.is_some(), "{id} ended and leaves no notice");
        if let Some(callback) = &job.callback {
            assert_eq!(callbacks.notice(callback.event).is_some(), callback.called.is_none(), "{id}: {callback:?}");
        }
    }
}

#[test]
fn the_default_state_is_bounded_and_empty() {
    let state = State::default();
    assert_eq!(state.limits, LIMITS);
    assert_eq!((state.journal().first_seq(), state.journal().last_seq()), (1, 0));
    assert_eq!(state.job_counts().len(), JobState::ALL.len());
    check(&reread(&state));
}
