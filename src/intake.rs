//! What workers hand in, at any node: registrations and results.
//!
//! A worker is its key, so nobody speaks for another: the peer id of the stream
//! is the worker. A result is taken only with the worker's signature over job,
//! attempt and output digest, checked here before it enters the log. The log
//! decides the rest (attempt, holder, repeats) and its refusal is final for the
//! worker. If the log can not be reached, nothing was decided and the worker
//! tries again, here or elsewhere.

use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, info};

use crate::consensus::Client;
use crate::domain::command::{Complete, Done, Fail, Refusal, Reply};
use crate::domain::worker::Verdict;
use crate::domain::{Command, Digest, State, WorkerId};
use crate::mesh;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;
use proto::report::Outcome;
use proto::worker_request::Body;

/// How long a worker waits for the log before it should try elsewhere.
const COMMIT_LIMIT: Duration = Duration::from_secs(4);

/// Longest failure code and detail kept.
const CODE_MAX: usize = 64;
const DETAIL_MAX: usize = 4 * 1024;

/// Answers one request of a worker. `None`: it was malformed, which is an offence.
pub async fn serve(client: &Client, worker: WorkerId, body: Bytes) -> Option<Bytes> {
    let request = wire::decode::<proto::WorkerRequest>(body)?;
    let reply = match request.body? {
        Body::Register(register) => take_register(client, parse_register(worker, register)?).await,
        Body::Leave(proto::Leave {}) => take_all(client, worker, vec![Command::UnregisterWorker { worker }]).await,
        Body::Finished(finished) => take_finished(client, worker, finished).await?,
    };
    Some(wire::encode(&reply))
}

fn parse_register(worker: WorkerId, from: proto::Register) -> Option<Command> {
    if from.version.len() > CODE_MAX {
        return None;
    }
    let capabilities = Box::new(wire::capabilities_from_proto(from.capabilities?)?);
    let location = wire::location_from_proto(from.location.unwrap_or_default())?;
    Some(Command::RegisterWorker { worker, capabilities, location, version: from.version })
}

async fn take_register(client: &Client, register: Command) -> proto::WorkerReply {
    if client.read(|state| is_known(state, &register)) {
        return proto::WorkerReply { items: vec![item(&Ok(Done::Unchanged))], error: String::new() };
    }
    let said = match &register {
        Command::RegisterWorker { worker, capabilities, .. } => {
            Some((*worker, capabilities.max_parallel_jobs, capabilities.job_types.clone()))
        }
        _ => None,
    };
    let reply = submit(client, vec![register]).await;
    if let Some((worker, slots, types)) = said.filter(|_| reply.items.iter().all(|item| item.accepted)) {
        info!(worker = %worker, slots, ?types, "worker registered");
    }
    reply
}

/// Whether the log would change nothing: the worker is online with the same capabilities.
fn is_known(state: &State, register: &Command) -> bool {
    let Command::RegisterWorker { worker, capabilities, location, version } = register else { return false };
    state.worker(*worker).is_some_and(|known| {
        known.verdict == Verdict::Online
            && (&known.capabilities, &known.location, &known.version) == (&**capabilities, location, version)
    })
}

/// Commits what a registered worker hands in. Anyone can make a key and sign with it, so what others hand in is
/// answered here and never enters the log.
async fn take_all(client: &Client, worker: WorkerId, commands: Vec<Command>) -> proto::WorkerReply {
    match client.read(|state| refuse_stranger(state, worker, commands.len())) {
        Some(reply) => reply,
        None => submit(client, commands).await,
    }
}

/// As the log would refuse it. A worker takes this for "register first": we may only be late to know it.
fn refuse_stranger(state: &State, worker: WorkerId, items: usize) -> Option<proto::WorkerReply> {
    let refusal = Err(Refusal::UnknownWorker(worker));
    let stranger = state.worker(worker).is_none();
    stranger.then(|| proto::WorkerReply { items: vec![item(&refusal); items], error: String::new() })
}

async fn take_finished(client: &Client, worker: WorkerId, from: proto::Finished) -> Option<proto::WorkerReply> {
    if from.reports.len() > wire::ITEMS_MAX {
        return None;
    }
    let commands = from.reports.into_iter().map(|report| parse_report(worker, report)).collect::<Option<Vec<_>>>()?;
    Some(take_all(client, worker, commands).await)
}

/// `None` if it is malformed or not signed by `worker`.
fn parse_report(worker: WorkerId, report: proto::Report) -> Option<Command> {
    let (job, attempt) = wire::parse_attempt(report.attempt.as_ref())?;
    match report.outcome? {
        Outcome::Output(output) => {
            let output_sha256 = wire::digest(&output.sha256)?;
            let signed = wire::signed_result(job, attempt, &output_sha256);
            let whole = match output.kept_size {
                0 => output_sha256 == Digest::of(&output.inline),
                _ => output.inline.is_empty(),
            };
            let genuine = whole && mesh::verify(worker, &signed, &output.signature);
            genuine.then(|| {
                Command::Complete(Box::new(Complete {
                    job,
                    attempt,
                    worker,
                    output: output.inline.to_vec(),
                    kept_size: output.kept_size,
                    output_sha256,
                    exit_code: output.exit_code,
                    duration_ms: output.duration_ms,
                    signature: output.signature.to_vec(),
                }))
            })
        }
        Outcome::Failure(failure) => {
            let sane = failure.code.len() <= CODE_MAX && failure.detail.len() <= DETAIL_MAX;
            let proto::Failure { code, detail, retryable, .. } = failure;
            sane.then(|| Command::Fail(Box::new(Fail { job, attempt, worker, code, detail, retryable })))
        }
    }
}

/// Commits, one item per command in order. A command that the log refused is final.
async fn submit(client: &Client, commands: Vec<Command>) -> proto::WorkerReply {
    if commands.is_empty() {
        return proto::WorkerReply::default();
    }
    match client.submit_many(commands, COMMIT_LIMIT).await {
        Ok(committed) => {
            proto::WorkerReply { items: committed.replies.iter().map(item).collect(), error: String::new() }
        }
        Err(error) => {
            debug!(%error, "worker's commands not committed");
            proto::WorkerReply { items: vec![], error: error.to_string() }
        }
    }
}

fn item(reply: &Reply) -> proto::ItemReply {
    match reply {
        Ok(_) => proto::ItemReply { accepted: true, code: String::new() },
        Err(refusal) => wire::refused(refusal.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::apply::Position;
    use crate::domain::command::Record;
    use crate::domain::{JobId, PeerId, Timestamp};
    use crate::mesh::Identity;
    use crate::wire::proto::job::v1 as proto_job;

    const JOB: JobId = JobId([7; 16]);

    fn report(
        signer: &Identity,
        signed_attempt: u32,
        said_attempt: u32,
        output: &[u8],
        digest: Digest,
    ) -> proto::Report {
        let signature = signer.sign(&wire::signed_result(JOB, signed_attempt, &digest));
        let output = proto::Output {
            inline: Bytes::copy_from_slice(output),
            sha256: Bytes::copy_from_slice(&digest.0),
            exit_code: 0,
            duration_ms: 5,
            signature: signature.into(),
            kept_size: 0,
        };
        proto::Report { attempt: Some(wire::attempt_ref(JOB, said_attempt)), outcome: Some(Outcome::Output(output)) }
    }

    #[test]
    fn who_is_not_registered_and_who_registers_again_need_no_log() {
        let (worker, mut state) = (PeerId([7; 32]), State::default());
        let register = |slots| {
            let capabilities = proto_job::Capabilities { max_parallel_jobs: slots, ..Default::default() };
            let register = proto::Register { capabilities: Some(capabilities), ..Default::default() };
            parse_register(worker, register).unwrap()
        };
        let refused = refuse_stranger(&state, worker, 2).expect("it is a stranger");
        assert_eq!(refused.items, vec![wire::refused("unknown_worker"); 2]);
        assert!(!is_known(&state, &register(1)));

        let mut log = |index, command| {
            let record = Record { at: Timestamp(1), commands: vec![command] };
            assert!(state.apply(Position { index, term: 1 }, &record)[0].is_ok());
            state.clone()
        };
        let state = log(1, register(1));
        assert_eq!(refuse_stranger(&state, worker, 1), None);
        assert!(is_known(&state, &register(1)) && !is_known(&state, &register(2)), "it offers more now");
        let state = log(2, Command::SetVerdict { worker, verdict: Verdict::Offline });
        assert!(!is_known(&state, &register(1)), "the log must learn that it is back");
    }

    #[test]
    fn a_signed_result_is_taken_in_its_workers_name() {
        let worker = Identity::from_secret([1; 32]);
        let taken = parse_report(worker.id(), report(&worker, 2, 2, b"out", Digest::of(b"out")));
        let Some(Command::Complete(complete)) = taken else { panic!("not taken: {taken:?}") };
        assert_eq!((complete.job, complete.attempt, complete.worker), (JOB, 2, worker.id()));
        assert_eq!(complete.output, b"out");
    }

    #[test]
    fn a_result_signed_by_another_is_not_taken() {
        let (worker, other) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        assert_eq!(parse_report(worker.id(), report(&other, 2, 2, b"out", Digest::of(b"out"))), None);
    }

    #[test]
    fn a_signature_for_an_older_attempt_is_not_taken_for_a_newer() {
        let worker = Identity::from_secret([1; 32]);
        assert_eq!(parse_report(worker.id(), report(&worker, 1, 2, b"out", Digest::of(b"out"))), None);
    }

    #[test]
    fn an_output_that_is_not_what_was_signed_is_not_taken() {
        let worker = Identity::from_secret([1; 32]);
        assert_eq!(parse_report(worker.id(), report(&worker, 2, 2, b"other", Digest::of(b"out"))), None);
    }

    #[test]
    fn an_output_that_the_worker_keeps_is_taken_on_its_signature() {
        let worker = Identity::from_secret([1; 32]);
        let kept = |inline: &[u8], said_attempt| {
            let mut report = report(&worker, 2, said_attempt, inline, Digest::of(b"large"));
            if let Some(Outcome::Output(output)) = &mut report.outcome {
                output.kept_size = 5;
            }
            parse_report(worker.id(), report)
        };
        let Some(Command::Complete(complete)) = kept(b"", 2) else { panic!("not taken") };
        assert_eq!((complete.kept_size, complete.output_sha256), (5, Digest::of(b"large")));
        assert_eq!(kept(b"large", 2), None, "here and there");
        assert_eq!(kept(b"", 3), None, "signed for another attempt");
    }

    #[test]
    fn a_failure_with_an_endless_detail_is_not_taken() {
        let failure = |detail: String| proto::Report {
            attempt: Some(wire::attempt_ref(JOB, 1)),
            outcome: Some(Outcome::Failure(proto::Failure { code: "exit_code".into(), detail, ..Default::default() })),
        };
        let worker = WorkerId::default();
        assert!(parse_report(worker, failure("x".repeat(DETAIL_MAX))).is_some());
        assert_eq!(parse_report(worker, failure("x".repeat(DETAIL_MAX + 1))), None);
    }

    #[test]
    fn a_report_without_attempt_or_outcome_is_not_taken() {
        assert_eq!(parse_report(WorkerId::default(), proto::Report::default()), None);
    }
}
