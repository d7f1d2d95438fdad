//! Real processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Action, Ended, Executor, Failure, Program, Recipe, Reference, Work, Workspace, leftovers};
use crate::clock;
use crate::domain::{Digest, JobId};
use crate::worker::desk::Cause;
use crate::worker::shelf::Shelf;

struct Bench {
    executor: Executor,
    directory: TempDir,
}

/// A bench with one job type, `script`, that runs `sh -c <script>`.
fn bench(script: &str) -> Bench {
    bench_with(Action::Command(program(script)))
}

fn program(script: &str) -> Program {
    Program {
        path: PathBuf::from("/bin/sh"),
        arguments: ["-c", script, "sh"].map(str::to_owned).to_vec(),
        environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        permanent_exit_codes: vec![9],
    }
}

fn bench_with(action: Action) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let (workspace, left) = Workspace::open(&directory.path().join("work")).unwrap();
    assert!(left.is_empty());
    let recipe = Recipe { action, max_input_bytes: 1 << 20, max_output_bytes: 1_000 };
    let executor = Executor::new(BTreeMap::from([("script".to_owned(), recipe)]), workspace);
    Bench { executor, directory }
}

fn work(input: &[u8]) -> Work {
    Work {
        key: (JobId([7; 16]), 1),
        kind: "script".to_owned(),
        input: Bytes::copy_from_slice(input),
        input_uri: None,
        input_sha256: Some(Digest::of(input)),
        timeout: Duration::from_secs(30),
    }
}

impl Bench {
    async fn run(&self, work: &Work) -> Ended {
        let (_stop, stopped) = oneshot::channel();
        self.executor.run(work, stopped).await
    }

    /// Every directory is gone after an attempt.
    fn assert_clean(&self) {
        assert_eq!(std::fs::read_dir(self.directory.path().join("work")).unwrap().count(), 0);
    }
}

fn failure(ended: Ended) -> Failure {
    match ended {
        Ended::Failed(failure) => failure,
        other => panic!("no failure: {other:?}"),
    }
}

fn output(ended: Ended) -> String {
    match ended {
        Ended::Output { bytes, exit_code: 0 } => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("no output: {other:?}"),
    }
}

/// Reads a file a script writes its process id to.
async fn pid_in(path: &Path) -> i32 {
    loop {
        if let Some(pid) = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()) {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Gone, or a zombie nobody has collected yet.
fn is_dead(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

async fn until_dead(pid: i32) {
    let dies = async {
        while !is_dead(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), dies).await.unwrap_or_else(|_| panic!("{pid} still lives"));
}

#[tokio::test]
async fn payload_goes_to_standard_input_and_the_result_comes_from_standard_output() {
    let bench = bench("tr a-z A-Z; echo to-stderr >&2");
    assert_eq!(output(bench.run(&work(b"hello")).await), "HELLO");
    bench.assert_clean();
}

#[tokio::test]
async fn files_take_the_place_of_pipes_when_the_command_names_them() {
    let mut program = program("rev < \"$1\" > \"$2\"; echo not the result");
    program.arguments.extend(["{input}", "{output}"].map(str::to_owned));
    let bench = bench_with(Action::Command(program));
    assert_eq!(output(bench.run(&work(b"abc\n")).await), "cba\n");
    bench.assert_clean();
}

#[tokio::test]
async fn a_large_payload_that_nobody_reads_does_not_block() {
    let bench = bench("echo done");
    assert_eq!(output(bench.run(&work(&[b'x'; 1 << 20])).await), "done\n");
}

#[tokio::test]
async fn a_bad_exit_is_reported_with_the_end_of_standard_error() {
    let bench = bench("head -c 100000 /dev/zero | tr '\\0' x >&2; printf '\\377 the reason' >&2; exit 3");
    let failed = failure(bench.run(&work(b"")).await);
    assert_eq!((failed.code, failed.exit_code, failed.retryable), ("exit_code", 3, true));
    assert!(failed.detail.ends_with("x\u{fffd} the reason") && failed.detail.len() < 2_100, "{}", failed.detail);
    bench.assert_clean();
}

#[tokio::test]
async fn an_exit_code_may_say_that_a_retry_is_no_use_and_a_signal_is_told_apart() {
    assert!(!failure(bench("exit 9").run(&work(b"")).await).retryable);
    let killed = failure(bench("kill -9 $$").run(&work(b"")).await);
    assert_eq!((killed.code, killed.exit_code), ("signal", 137));
}

#[tokio::test]
async fn a_command_that_is_not_there_is_a_failure_to_spawn() {
    let program = Program { path: PathBuf::from("/nonexistent/program"), ..program("") };
    let bench = bench_with(Action::Command(program));
    assert_eq!(failure(bench.run(&work(b"")).await).code, "spawn");
    bench.assert_clean();
}

#[tokio::test]
async fn the_environment_is_clean() {
    let bench = bench("env | cut -d= -f1 | sort | tr '\\n' ' '");
    // The shell itself adds PWD, and some add more of their own.
    let names = output(bench.run(&work(b"")).await);
    let ours = [
        "CIRO_ATTEMPT",
        "CIRO_JOB_ID",
        "CIRO_JOB_TYPE",
        "CIRO_PROGRESS_FILE",
        "HOME",
        "PATH",
        "PWD",
        "TMPDIR",
        "SHLVL",
        "OLDPWD",
        "_",
    ];
    assert!(names.split_whitespace().all(|name| ours.contains(&name)), "{names}");
    assert!(names.contains("CIRO_JOB_ID") && names.contains("PATH"), "{names}");
}

#[tokio::test]
async fn output_over_the_limit_ends_the_command() {
    let bench = bench("yes");
    let failed = failure(bench.run(&work(b"")).await);
    assert_eq!((failed.code, failed.retryable), ("output_too_large", false));
    bench.assert_clean();
}

#[tokio::test]
async fn input_is_checked_before_anything_runs() {
    let bench = bench("cat");
    let large = work(&vec![0; (1 << 20) + 1]);
    assert_eq!(failure(bench.run(&large).await).code, "input_too_large");
    let forged = Work { input_sha256: Some(Digest::of(b"other")), ..work(b"this") };
    assert_eq!(failure(bench.run(&forged).await).code, "input_damaged");
}

#[tokio::test]
async fn an_input_by_reference_is_read_like_any_other_once_it_was_fetched() {
    let reference = |file| Work {
        input_uri: Some(Reference { uri: "https://example.org/x".to_owned(), size: 8, file }),
        input_sha256: Some(Digest::of(b"fetched\n")),
        ..work(b"")
    };
    assert_eq!(failure(bench("cat").run(&reference(None)).await).code, "input_unavailable");

    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), 1 << 20, Duration::from_secs(60)).unwrap();
    let mut draft = shelf.draft().await.unwrap();
    draft.write(b"fetched\n").await.unwrap();
    let (digest, _) = draft.keep().await.unwrap();
    let here = reference(shelf.pin(&digest).map(Arc::new));
    assert_eq!(output(bench("cat; echo $CIRO_INPUT_URI").run(&here).await), "fetched\nhttps://example.org/x\n");
    // A command may write to its file; what is kept stays as it was.
    let mut changes = program("cat \"$1\"; echo more >> \"$1\"; cat \"$1\"");
    changes.arguments.push("{input}".to_owned());
    let said = output(bench_with(Action::Command(changes)).run(&here).await);
    assert_eq!(said, "fetched\nfetched\nmore\n");
    assert_eq!(&shelf.read(&digest, 0, 8).await.unwrap()[..], b"fetched\n");
}

#[tokio::test]
async fn a_timeout_kills_grandchildren_that_ignore_sigterm() {
    let outside = tempfile::tempdir().unwrap();
    let note = outside.path().join("pid");
    let script = format!("sh -c 'trap \"\" TERM; echo $$ > {}; while :; do sleep 1; done' & wait", note.display());
    let bench = bench(&script);
    let start = clock::instant();
    let slow = Work { timeout: Duration::from_secs(1), ..work(b"") };
    let (failed, pid) = tokio::join!(bench.run(&slow), pid_in(&note));
    assert_eq!(failure(failed).code, "timeout");
    assert!(start.elapsed() < Duration::from_secs(8), "took {:?}", start.elapsed());
    until_dead(pid).await;
    bench.assert_clean();
}

#[tokio::test]
async fn a_stop_kills_and_says_why() {
    let causes =
        [(Cause::Cancelled, "cancelled"), (Cause::LeaseLost, "lease_lost"), (Cause::Stopping, "worker_stopping")];
    for (cause, code) in causes {
        let outside = tempfile::tempdir().unwrap();
        let note = outside.path().join("pid");
        let bench = bench(&format!("echo $$ > {}; exec sleep 60", note.display()));
        let (stop, stopped) = oneshot::channel();
        let work = work(b"");
        let (ended, pid) = tokio::join!(bench.executor.run(&work, stopped), async {
            let pid = pid_in(&note).await;
            stop.send(cause).unwrap();
            pid
        });
        assert_eq!(failure(ended).code, code);
        assert!(is_dead(pid));
        bench.assert_clean();
    }
}

#[tokio::test]
async fn a_replaced_attempt_is_not_reported() {
    let bench = bench("sleep 60");
    let (stop, stopped) = oneshot::channel();
    stop.send(Cause::Replaced).unwrap();
    assert_eq!(bench.executor.run(&work(b""), stopped).await, Ended::Abandoned);
}

#[tokio::test]
async fn what_a_command_leaves_in_the_background_ends_with_it() {
    let outside = tempfile::tempdir().unwrap();
    let note = outside.path().join("pid");
    let bench = bench(&format!("sleep 60 & echo $! > {}; echo result", note.display()));
    let start = clock::instant();
    assert_eq!(output(bench.run(&work(b"")).await), "result\n");
    assert!(start.elapsed() < Duration::from_secs(10));
    until_dead(pid_in(&note).await).await;
}

#[tokio::test]
async fn the_next_life_ends_what_a_killed_worker_left_running() {
    let directory = tempfile::tempdir().unwrap();
    let (workspace, _) = Workspace::open(directory.path()).unwrap();
    let place = workspace.enter((JobId([7; 16]), 3)).await.unwrap();
    let mut child = tokio::process::Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    place.note_group(pid).await.unwrap();

    let (_, left) = Workspace::open(directory.path()).unwrap();
    assert_eq!(left, [(JobId([7; 16]), 3)]);
    assert!(!child.wait().await.unwrap().success(), "killed");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_process_that_only_has_the_same_id_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let started = leftovers::start_time(pid).unwrap();
    let note = directory.path().join(format!("{}-1.pgid", JobId([7; 16])));
    std::fs::write(note, format!("{pid} {}\n", started + 1)).unwrap();

    Workspace::open(directory.path()).unwrap();
    assert_eq!(child.try_wait().unwrap(), None, "still runs");
    child.kill().await.unwrap();
}

#[tokio::test]
async fn what_a_command_says_of_its_progress_is_known_until_it_ends() {
    let slow = bench("echo '30% warming up' >> $CIRO_PROGRESS_FILE; sleep 60");
    let (stop, stopped) = oneshot::channel();
    let work = work(b"");
    let (ended, said) = tokio::join!(slow.executor.run(&work, stopped), async {
        let told = async {
            loop {
                if let Some(said) = slow.executor.progress().all().pop() {
                    return said;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
        stop.send(Cause::Cancelled).unwrap();
        said
    });
    assert_eq!((said.0, said.1.permille, said.1.message.as_str()), (work.key, Some(300), "warming up"));
    assert_eq!(failure(ended).code, "cancelled");
    assert!(slow.executor.progress().all().is_empty());
    slow.assert_clean();
}

#[tokio::test]
async fn built_in_types_need_no_process() {
    assert_eq!(output(bench_with(Action::Noop).run(&work(b"x")).await), "");
    let digest = output(bench_with(Action::Digest).run(&work(b"x")).await);
    assert_eq!(digest, hex::encode(Digest::of(b"x").0));
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), 1 << 20, Duration::from_secs(60)).unwrap();
    let mut draft = shelf.draft().await.unwrap();
    draft.write(b"fetched").await.unwrap();
    let (digest, size) = draft.keep().await.unwrap();
    let file = shelf.pin(&digest).map(Arc::new);
    let reference = Reference { uri: "https://example.org/x".to_owned(), size, file };
    let fetched = Work { input_uri: Some(reference), input_sha256: Some(digest), ..work(b"") };
    assert_eq!(output(bench_with(Action::Digest).run(&fetched).await), hex::encode(digest.0));
}
