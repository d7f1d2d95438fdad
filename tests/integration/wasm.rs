//! What runs by way of the worker's own program: clients' modules, and commands with limits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ciro::clock;
use ciro::domain::{Digest, JobId};
use ciro::wire::wasm::{Call, Module};
use ciro::worker::executor::{Action, Ended, Executor, Failure, Program, Recipe, Reference, Sandbox, Work, Workspace};
use ciro::worker::limited::Args;
use ciro::worker::modules::Modules;
use ciro::worker::shelf::Shelf;
use tokio::sync::oneshot;

const MEMORY: u64 = 16 << 20;

fn executor(directory: &Path, fuel: u64) -> Executor {
    let sandbox = Sandbox {
        runner: PathBuf::from(env!("CARGO_BIN_EXE_ciro-worker")),
        memory_bytes: MEMORY,
        fuel,
        modules: Modules::new(directory.join("modules"), 1 << 20),
    };
    let recipe = Recipe { action: Action::Wasm(sandbox), max_input_bytes: 1 << 20, max_output_bytes: 10_000 };
    let (workspace, _) = Workspace::open(&directory.join("work")).unwrap();
    Executor::new(BTreeMap::from([("wasm".to_owned(), recipe)]), workspace)
}

fn work(payload: Bytes) -> Work {
    Work {
        key: (JobId([7; 16]), 1),
        kind: "wasm".to_owned(),
        input_sha256: Some(Digest::of(&payload)),
        input: payload,
        input_uri: None,
        timeout: Duration::from_secs(20),
    }
}

fn call(text: &str, input: &[u8]) -> Bytes {
    let module = Bytes::from(wat::parse_str(text).unwrap());
    Call { module: Module::Inline(module), input: Bytes::copy_from_slice(input) }.encode().unwrap()
}

async fn run(executor: &Executor, work: &Work) -> Ended {
    let (_stop, stopped) = oneshot::channel();
    executor.run(work, stopped).await
}

async fn failure(payload: Bytes, fuel: u64) -> Failure {
    let directory = tempfile::tempdir().unwrap();
    match run(&executor(directory.path(), fuel), &work(payload)).await {
        Ended::Failed(failure) => failure,
        other => panic!("no failure: {other:?}"),
    }
}

fn main(imports: &str, body: &str) -> String {
    format!(r#"(module {imports} (memory (export "memory") 2) (func (export "_start") {body}))"#)
}

const WRITE: &str =
    r#"(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))"#;

const ECHO: &str = include_str!("../echo.wat");

#[tokio::test]
async fn a_module_brought_once_may_be_named_by_its_digest() {
    let directory = tempfile::tempdir().unwrap();
    let executor = executor(directory.path(), 1 << 30);
    let input = vec![b'x'; 5_000];
    let named = Module::Known(Digest::of(&wat::parse_str(ECHO).unwrap()));
    let named = Call { module: named, input: Bytes::from(input.clone()) }.encode().unwrap();
    let Ended::Failed(unknown) = run(&executor, &work(named.clone())).await else { panic!("nobody brought it yet") };
    assert_eq!((unknown.code, unknown.retryable, unknown.ill), ("module_unknown", true, false));
    for payload in [call(ECHO, &input), named] {
        let ended = run(&executor, &work(payload)).await;
        assert_eq!(ended, Ended::Output { bytes: Bytes::from(input.clone()), exit_code: 0 });
    }
    assert_eq!(std::fs::read_dir(directory.path().join("work")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_call_that_was_fetched_gives_the_module_its_input_and_not_the_whole_payload() {
    let directory = tempfile::tempdir().unwrap();
    let executor = executor(directory.path(), 1 << 30);
    let payload = call(ECHO, b"only this");
    let shelf = Shelf::open(&directory.path().join("inputs"), 1 << 20, Duration::from_secs(60)).unwrap();
    let mut draft = shelf.draft().await.unwrap();
    draft.write(&payload).await.unwrap();
    let (digest, size) = draft.keep().await.unwrap();
    let file = shelf.pin(&digest).map(Arc::new);
    let reference = Reference { uri: "https://example.org/call".to_owned(), size, file };
    let ended = run(&executor, &Work { input_uri: Some(reference), ..work(payload) }).await;
    assert_eq!(ended, Ended::Output { bytes: Bytes::from_static(b"only this"), exit_code: 0 });
}

#[tokio::test]
async fn a_memory_bomb_takes_no_more_than_its_limit() {
    let bomb = main("", "(loop $more (drop (memory.grow (i32.const 16))) (br $more))");
    let failed = failure(call(&bomb, b""), 1 << 40).await;
    assert_eq!((failed.code, failed.retryable, failed.exit_code), ("wasm_out_of_memory", false, 0));
}

#[tokio::test]
async fn an_endless_loop_ends_with_its_fuel_or_its_time() {
    let endless = call(&main("", "(loop $more (br $more))"), b"");
    let failed = failure(endless.clone(), 10_000_000).await;
    assert_eq!((failed.code, failed.retryable), ("wasm_out_of_fuel", false));
    let directory = tempfile::tempdir().unwrap();
    let start = clock::instant();
    let slow = Work { timeout: Duration::from_secs(1), ..work(endless) };
    let Ended::Failed(failed) = run(&executor(directory.path(), 1 << 60), &slow).await else { panic!("it ended") };
    assert_eq!(failed.code, "timeout");
    assert!(start.elapsed() < Duration::from_secs(8), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn output_above_the_limit_ends_the_module() {
    let flood = main(
        WRITE,
        "(i32.store (i32.const 4) (i32.const 60000))
         (loop $more (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $more))",
    );
    let failed = failure(call(&flood, b""), 1 << 40).await;
    assert_eq!((failed.code, failed.retryable), ("output_too_large", false));
}

#[tokio::test]
async fn what_a_module_says_last_is_in_the_report_of_its_trap() {
    let text = format!(
        r#"(module {WRITE} (memory (export "memory") 1) (data (i32.const 64) "the reason\n")
           (func (export "_start") (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 11))
             (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) unreachable))"#
    );
    let failed = failure(call(&text, b""), 1 << 30).await;
    assert_eq!((failed.code, failed.retryable), ("wasm_trap", false));
    assert!(failed.detail.starts_with("the reason\n") && failed.detail.contains("unreachable"), "{}", failed.detail);
}

#[tokio::test]
async fn what_is_no_module_is_refused_and_not_kept() {
    let failed = failure(Bytes::from_static(b"#!/bin/sh\nid\n"), 1).await;
    assert_eq!((failed.code, failed.retryable), ("wasm_payload", false));
    let directory = tempfile::tempdir().unwrap();
    let broken = Call { module: Module::Inline(Bytes::from_static(b"no module")), input: Bytes::new() };
    let executor = executor(directory.path(), 1_000);
    let Ended::Failed(failed) = run(&executor, &work(broken.encode().unwrap())).await else { panic!("it ran") };
    assert_eq!((failed.code, failed.retryable), ("wasm_invalid", false));
    assert!(!directory.path().join("modules").exists());
}

/// What becomes of a shell script within `limits`.
async fn limited(limits: Args, script: &str) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let arguments = limits.wrap(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()]);
    let program = Program {
        path: PathBuf::from(env!("CARGO_BIN_EXE_ciro-worker")),
        arguments,
        environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        permanent_exit_codes: vec![],
    };
    let recipe = Recipe { action: Action::Command(program), max_input_bytes: 100, max_output_bytes: 100_000 };
    let (workspace, _) = Workspace::open(&directory.path().join("work")).unwrap();
    let executor = Executor::new(BTreeMap::from([("wasm".to_owned(), recipe)]), workspace);
    run(&executor, &work(Bytes::from_static(b"input"))).await
}

#[tokio::test]
async fn a_command_keeps_to_its_limits() {
    let none = Args::default();
    let echoed = limited(Args { cpu_secs: Some(5), ..none.clone() }, "cat; ulimit -t").await;
    assert_eq!(echoed, Ended::Output { bytes: Bytes::from_static(b"input5\n"), exit_code: 0 });
    let file = Args { file_bytes: Some(10_000), ..none.clone() };
    assert!(matches!(limited(file, "head -c 100000 /dev/zero > file").await, Ended::Failed(_)));
    let memory = Args { memory_bytes: Some(64 << 20), ..none.clone() };
    let bomb = "head -c 200000000 /dev/zero | tail -c 150000000 | wc -c";
    let Ended::Output { bytes, .. } = limited(memory, bomb).await else { panic!("wc itself needs little") };
    assert_ne!(bytes.as_ref(), b"150000000\n", "tail holds what it is to print");
    let Ended::Failed(failed) = limited(Args { cpu_secs: Some(1), ..none }, "while :; do :; done").await else {
        panic!("it ended")
    };
    assert_eq!(failed.code, "signal");
}
