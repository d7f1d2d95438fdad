//! What the tests share: short names for things, and what must hold of any state.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::command::{Command, Complete, Fail, Submit};
use crate::domain::ids::{Digest, JobId, WorkerId};
use crate::domain::index::Index;
use crate::domain::job::{HISTORY_MAX, Input, Job, JobSpec, JobState, Requirements, Retry, Source};
use crate::domain::reputation::CHANGES_MAX;
use crate::domain::score::Policy;
use crate::domain::state::{LIMITS, Limits, State};
use crate::domain::worker::{Capabilities, Location, Worker};

/// Bounds that a short test reaches.
pub(super) const SMALL: Limits = Limits {
    backlog: 6,
    backlog_bytes: 1_500,
    finished: 4,
    finished_bytes: 3_000,
    evidence: 2,
    retired: 3,
    workers: 3,
    journal_keep: 10,
    journal_max: 40,
};

pub(super) fn job(n: u8) -> JobId {
    JobId([n; 16])
}

pub(super) fn worker(n: u8) -> WorkerId {
    crate::domain::PeerId([n; 32])
}

pub(super) fn spec(payload: &[u8]) -> JobSpec {
    JobSpec {
        kind: "sha256".to_owned(),
        input: Input { sha256: Digest::of(payload), size: payload.len() as u64, uri: None },
        priority: 5,
        max_price: None,
        deadline: None,
        timeout_secs: 3_600,
        requirements: Requirements::default(),
        policy: Policy::default(),
        weights: None,
        retry: Retry::default(),
        redundancy: 1,
        tags: Vec::new(),
        client_address: None,
        callback_url: None,
        settlement: None,
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
    read
}

/// What holds of every state after every record.
pub(super) fn check(state: &State) {
    assert_eq!(state.index, Index::build(state.jobs.iter().map(|(_, job)| job), state.now), "indexes differ");
    state.jobs.iter().for_each(|(id, job)| check_job(state, *id, job));
    state.workers().for_each(|worker| check_worker(state, worker));
    check_queues(state);
    check_sums(state);
    check_journal(state);
}

fn check_job(state: &State, id: JobId, job: &Arc<Job>) {
    assert_eq!(job.id, id);
    let held = matches!(job.state, JobState::Assigned | JobState::Running);
    if held {
        let holder = job.award.as_ref().unwrap().worker;
        assert!(state.jobs_of(holder).is_some_and(|held| held.contains(&id)), "{id} is not with its holder");
        assert!(state.worker(holder).is_some(), "{id} is held by a stranger");
    }
    let holders = state.index.held.iter().filter(|(_, held)| held.contains(&id)).count();
    assert_eq!(holders, usize::from(held), "{id} is {:?} and held {holders} times", job.state);
    assert!(job.failures <= job.spec.retry.max_attempts && job.failures <= job.attempt);
    assert_eq!(job.finished_at.is_some(), job.state.is_final());
    assert_eq!(job.outcome.is_some(), job.state == JobState::Completed);
    assert_eq!(state.output(id).is_some(), job.outcome.as_ref().is_some_and(|outcome| !outcome.kept));
    assert_eq!(state.payload(id).is_some(), !matches!(job.state, JobState::Completed | JobState::Cancelled));
    assert!((1..=HISTORY_MAX).contains(&job.history.len()));
    let last = job.history.last().unwrap();
    assert_eq!((last.state, last.attempt), (job.state, job.attempt));
    assert!(job.history.is_sorted_by_key(|line| (line.index, line.at)));
}

fn check_worker(state: &State, worker: &Worker) {
    let held = state.jobs_of(worker.id).map_or(0, BTreeSet::len);
    assert!(worker.reputation <= 1_000 && worker.changes.len() <= CHANGES_MAX);
    assert!(worker.changes.is_sorted_by_key(|change| change.at));
    assert!(held as u32 <= worker.capabilities.max_parallel_jobs, "{} holds {held} jobs", worker.id);
}

fn check_queues(state: &State) {
    let pending: Vec<_> = state.jobs.iter().map(|(_, job)| job).filter(|job| job.state == JobState::Pending).collect();
    let far = crate::domain::Timestamp(u64::MAX);
    let undated = pending.iter().filter(|job| job.spec.deadline.is_none()).count();
    assert_eq!(state.open_jobs(far).count(), undated, "the queue at the end of time has every undated pending job");
    let open: Vec<_> = state.open_jobs(state.now).collect();
    assert!(open.iter().all(|job| job.next_attempt_at <= state.now));
    assert!(open.is_sorted_by_key(|job| crate::domain::index::turn(job)), "the queue is out of order");
    for kinds in [&["sha256"][..], &["wordcount", "sha256"], &["other"]] {
        let kinds: BTreeSet<&str> = kinds.iter().copied().collect();
        let wanted = |job: &&&Arc<Job>| kinds.contains(job.spec.kind.as_str());
        assert!(
            state.open_jobs_of(far, &kinds).eq(state
                .open_jobs(far)
                .collect::<Vec<_>>()
                .iter()
                .filter(|j| wanted(j))
                .copied())
        );
    }
}

fn check_sums(state: &State) {
    let limits = &state.limits;
    let remembered: u64 = state.job_counts().values().sum();
    assert_eq!(remembered, state.jobs.len() as u64);
    let ended: u64 = JobState::ALL.iter().map(|state_of| state.ended_total(*state_of)).sum();
    assert_eq!(ended + state.index.active.len() as u64, state.submitted_total(), "each job ends once");
    assert!(state.index.active.len() <= limits.backlog);
    assert!(state.index.finished.len() <= limits.finished);
    assert!(state.index.finished_bytes <= limits.finished_bytes);
    assert!(state.workers.len() <= limits.workers);
    assert!(state.index.evidenced.len() <= limits.evidence);
    assert!(state.retired.len() <= limits.retired);
    assert!(state.retired.iter().all(|(_, (id, _))| id.is_from_key() && state.job(*id).is_none()));
    let kept: usize = state.outputs.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(kept <= state.index.finished_bytes, "outputs are not counted");
}

fn check_journal(state: &State) {
    let journal = state.journal();
    let entries = journal.after(0, usize::MAX);
    let seqs: Vec<u64> = entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (journal.first_seq()..=journal.last_seq()).collect::<Vec<_>>(), "the journal has gaps");
    assert!(entries.is_sorted_by_key(|entry| (entry.index, entry.at)));
    assert!(journal.len() <= state.limits.journal_max * crate::domain::journal::OVERRUN);
}

#[test]
fn the_default_state_is_bounded_and_empty() {
    let state = State::default();
    assert_eq!(state.limits, LIMITS);
    assert_eq!((state.journal().first_seq(), state.journal().last_seq()), (1, 0));
    assert_eq!(state.job_counts().len(), JobState::ALL.len());
    check(&reread(&state));
}
