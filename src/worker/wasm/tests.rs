//! Real modules, written as text, in this process.

use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex};

use super::{End, Limits, Pipes, run};

const LIMITS: Limits = Limits { memory_bytes: 1 << 20, fuel: 50_000_000 };

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a module given as text: how it ended, and what it wrote.
fn run_text(text: &str, input: &[u8]) -> (End, String) {
    run_within(LIMITS, text, input)
}

fn run_within(limits: Limits, text: &str, input: &[u8]) -> (End, String) {
    let module = wat::parse_str(text).unwrap();
    let (output, error) = (Sink::default(), Sink::default());
    let end = run(&module, limits, Pipes::new(Cursor::new(input.to_vec()), output.clone(), error));
    let said = output.0.lock().unwrap().clone();
    (end, String::from_utf8_lossy(&said).into_owned())
}

/// A module of one page whose `_start` is `body`.
fn module(imports: &str, body: &str) -> String {
    format!(r#"(module {imports} (memory (export "memory") 1) (func (export "_start") {body}))"#)
}

const READ: &str = r#"(import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))"#;
const WRITE: &str =
    r#"(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))"#;
const EXIT: &str = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
const OPEN: &str = r#"(import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"#;

/// Copies its input to its output, some bytes at a time.
pub const ECHO: &str = include_str!("../../../tests/echo.wat");

#[test]
fn input_becomes_output() {
    let (end, said) = run_text(ECHO, b"a stranger's code, on this machine");
    assert_eq!((end, said.as_str()), (End::Exit(0), "a stranger's code, on this machine"));
}

#[test]
fn a_module_ends_itself_with_a_code_of_its_own() {
    let exit = |code: i32| run_text(&module(EXIT, &format!("(call $exit (i32.const {code}))")), b"").0;
    assert_eq!((exit(0), exit(3), exit(125)), (End::Exit(0), End::Exit(3), End::Exit(125)));
    // None can say that it trapped.
    assert_eq!((exit(240), exit(-1)), (End::Exit(125), End::Exit(125)));
}

#[test]
fn memory_has_a_limit_from_the_start_and_when_it_grows() {
    let bomb = module("", "(loop $more (drop (memory.grow (i32.const 1))) (br $more))");
    assert_eq!(run_text(&bomb, b"").0, End::OutOfMemory);
    let large = r#"(module (memory (export "memory") 65536) (func (export "_start")))"#;
    assert_eq!(run_text(large, b"").0, End::OutOfMemory);
    let within = module("", "(drop (memory.grow (i32.const 15)))");
    assert_eq!(run_text(&within, b"").0, End::Exit(0));
    let table = r#"(module (table 100000000 funcref) (func (export "_start")))"#;
    assert_eq!(run_text(table, b"").0, End::OutOfMemory);
}

#[test]
fn an_endless_loop_and_an_endless_recursion_end() {
    assert_eq!(run_text(&module("", "(loop $more (br $more))"), b"").0, End::OutOfFuel);
    let deep = r#"(module (func $f (call $f)) (func (export "_start") (call $f)))"#;
    assert!(matches!(run_text(deep, b"").0, End::Trap(_)));
    // Also before anything was asked of it.
    let start = r#"(module (func $f (loop $more (br $more))) (start $f) (func (export "_start")))"#;
    assert_eq!(run_text(start, b"").0, End::OutOfFuel);
}

#[test]
fn no_file_is_opened_wherever_it_is() {
    for path in ["/etc/passwd", "../../etc/passwd", "module.wasm"] {
        for descriptor in [0, 3, 4] {
            let text = format!(
                r#"(module {OPEN} {EXIT} (memory (export "memory") 1) (data (i32.const 64) "{path}")
                   (func (export "_start") (call $exit (call $open (i32.const {descriptor}) (i32.const 1)
                     (i32.const 64) (i32.const {}) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0)
                     (i32.const 8)))))"#,
                path.len()
            );
            // ENOTCAPABLE.
            assert_eq!(run_text(&text, b"").0, End::Exit(76), "{path} from {descriptor}");
        }
    }
}

#[test]
fn addresses_beyond_its_memory_are_refused_to_the_module() {
    let (end, said) = run_text(
        &module(
            &format!("{WRITE}{EXIT}"),
            "(i32.store (i32.const 0) (i32.const 65530)) (i32.store (i32.const 4) (i32.const 100))
             (call $exit (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))",
        ),
        b"",
    );
    // EFAULT.
    assert_eq!((end, said.as_str()), (End::Exit(21), ""));
    for (list, count, told) in [(-1, 1, 8), (65_532, 1, 8), (0, -1, 8), (0, 1_000_000, 8), (0, 1, -4)] {
        for imports in [READ, WRITE] {
            let (name, fd) = if imports == READ { ("read", 0) } else { ("write", 1) };
            let call = format!(
                "(call $exit (call ${name} (i32.const {fd}) (i32.const {list}) (i32.const {count}) (i32.const {told})))"
            );
            let end = run_text(&module(&format!("{imports}{EXIT}"), &call), b"input").0;
            assert!(matches!(end, End::Exit(21 | 28)), "{name} {list} {count} {told}: {end:?}");
        }
    }
}

#[test]
fn what_is_no_module_or_wants_more_than_there_is_does_not_start() {
    let broken = |bytes: &[u8]| run(bytes, LIMITS, Pipes::new(Cursor::new(vec![]), io::sink(), io::sink()));
    assert!(matches!(broken(b""), End::Invalid(_)));
    assert!(matches!(broken(b"#!/bin/sh\nid"), End::Invalid(_)));
    assert!(matches!(broken(b"\0asm\x01\0\0\0\xff\xff\xff"), End::Invalid(_)));
    assert!(matches!(run_text("(module)", b"").0, End::Invalid(_)), "it has no _start");
    let foreign = r#"(module (import "env" "system" (func (param i32))) (func (export "_start")))"#;
    assert!(matches!(run_text(foreign, b"").0, End::Invalid(_)));
    // What is standard but not offered is there, and refuses.
    let sockets = r#"(import "wasi_snapshot_preview1" "sock_accept" (func $sock (param i32 i32 i32) (result i32)))"#;
    let call = "(call $exit (call $sock (i32.const 0) (i32.const 0) (i32.const 0)))";
    assert_eq!(run_text(&module(&format!("{sockets}{EXIT}"), call), b"").0, End::Exit(76));
}

#[test]
fn a_trap_is_told() {
    let End::Trap(detail) = run_text(&module("", "unreachable"), b"").0 else { panic!("no trap") };
    assert!(detail.contains("unreachable"), "{detail}");
}

#[test]
fn time_and_random_bytes_are_there() {
    let text = module(
        &format!(
            r#"{EXIT}
            (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#
        ),
        "(if (call $time (i32.const 0) (i64.const 1) (i32.const 0)) (then (call $exit (i32.const 1))))
         (if (i64.eqz (i64.load (i32.const 0))) (then (call $exit (i32.const 2))))
         (if (call $random (i32.const 0) (i32.const 16)) (then (call $exit (i32.const 3))))
         (if (i32.eqz (call $random (i32.const 65530) (i32.const 100))) (then (call $exit (i32.const 4))))",
    );
    assert_eq!(run_text(&text, b"").0, End::Exit(0));
}

#[test]
fn the_codes_of_the_process_and_of_modules_are_told_apart() {
    for end in [End::Trap(String::new()), End::OutOfFuel, End::OutOfMemory, End::Invalid(String::new())] {
        assert!(End::failure_code(end.code().into()).is_some(), "{end:?}");
    }
    assert!((0..=super::EXIT_MAX).all(|code| End::failure_code(code).is_none()));
}
