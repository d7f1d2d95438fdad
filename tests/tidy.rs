//! Holds what the lints cannot: who imports whom, how long a file and a
//! function may be, that every file says what it is for.
//!
//! The import table below is the architecture as data. A line of it is changed
//! together with `docs/architecture.md`, never to make a test pass.
//!
//! The checker reads tokens, not syntax trees: comments and strings are blanked,
//! what is left is split into names and marks. That is enough for `use` trees,
//! paths and braces, and needs no crate. It proves on bad samples that it can fail.

#![allow(clippy::unwrap_used, reason = "a failed test is the message")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/tokens.rs"]
mod tokens;
use tokens::{Token, text, tokens};

/// Which modules of ours a top-level module may name. `*` is any.
const IMPORTS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("tasks", &[]),
    ("clock", &["domain"]),
    ("telemetry", &["clock", "domain", "tasks"]),
    // Which addresses strangers may make us connect to.
    ("egress", &["tasks"]),
    ("storage", &["clock", "domain", "tasks", "telemetry"]),
    ("wire", &["domain"]),
    // What clients ask for, and what of it is refused: the same for every door.
    ("submission", &["domain", "egress", "wire"]),
    ("mesh", &["clock", "domain", "tasks", "telemetry", "wire"]),
    ("consensus", &["clock", "domain", "mesh", "storage", "tasks", "telemetry", "wire"]),
    // The state as a file: of a node's view, by the node or for who asks.
    ("backup", &["clock", "consensus", "domain", "tasks", "telemetry"]),
    ("chain", &["clock", "domain", "tasks", "telemetry"]),
    ("kafka", &["clock", "domain", "tasks", "telemetry"]),
    (
        "leader",
        &[
            "chain",
            "clock",
            "consensus",
            "domain",
            "egress",
            "kafka",
            "mesh",
            "submission",
            "tasks",
            "telemetry",
            "wire",
        ],
    ),
    ("worker", &["clock", "domain", "egress", "mesh", "tasks", "telemetry", "wire"]),
    ("api", &["backup", "chain", "clock", "consensus", "domain", "kafka", "mesh", "submission", "tasks", "telemetry"]),
    ("intake", &["clock", "consensus", "domain", "mesh", "telemetry", "wire"]),
    // What each layer may be told: one function per layer, from keys to its options.
    ("config", &["api", "backup", "chain", "consensus", "domain", "kafka", "leader", "mesh", "storage", "telemetry"]),
    ("bench", &["backup", "chain", "clock", "domain", "kafka", "submission", "tasks", "telemetry", "wire"]),
    (
        "node",
        &[
            "api",
            "backup",
            "chain",
            "clock",
            "config",
            "consensus",
            "domain",
            "intake",
            "kafka",
            "leader",
            "mesh",
            "storage",
            "submission",
            "tasks",
            "telemetry",
            "wire",
        ],
    ),
    // Tests only: a cluster in virtual time, of the parts that decide.
    ("sim", &["clock", "consensus", "domain", "kafka", "leader", "mesh", "wire", "worker"]),
    ("cli", &["*"]),
    ("lib", &["*"]),
    ("main", &["*"]),
    ("bin", &["*"]),
];

/// Crates that only one module may name.
const OWNED_CRATES: &[(&str, &str)] = &[
    ("openraft", "consensus"),
    ("sled", "storage"),
    ("libp2p", "mesh"),
    ("libp2p_stream", "mesh"),
    ("warp", "api"),
    ("wasmi", "worker"),
    ("rdkafka", "kafka"),
    ("starknet", "chain"),
];

/// What the pure part may name besides itself.
const DOMAIN_CRATES: &[&str] =
    &["std", "core", "serde", "thiserror", "sha2", "bs58", "uuid", "bincode", "proptest", "goldenscript"];

/// Names that bring chance, time, I/O or an order of their own, wherever the pure part would write them. Its tests may.
const IMPURE: &[&str] = &["rand", "tokio", "reqwest", "nix", "tracing", "HashMap", "HashSet", "SystemTime", "Instant"];

/// The same, as parts of `std`.
const IMPURE_STD: &[&str] = &["env", "fs", "net", "process", "thread"];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn the_source_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut findings = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for path in files_under(&root.join(folder), "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            findings.extend(check_rust(&name, &fs::read_to_string(&path).unwrap()));
        }
    }
    for folder in ["src", "tests", "scripts", "docs", "proto", "config", "deploy", ".ci"] {
        for path in files_under(&root.join(folder), "") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            findings.extend(check_words(&name, &fs::read_to_string(&path).unwrap_or_default()));
        }
    }
    findings.extend(check_words("README.md", &fs::read_to_string(root.join("README.md")).unwrap()));
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Every file below `folder`, in order; with `extension` if that is not empty.
fn files_under(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            found.extend(files_under(&path, extension));
        } else if extension.is_empty() || path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

fn check_rust(name: &str, source: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(format!("{name}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    if !source.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!")) {
        findings.push(format!("{name}:1: no `//!` header that says what the file is for"));
    }
    let tokens = tokens(source);
    findings.extend(check_functions(name, &tokens));
    if let Some(path) = module_path(name) {
        findings.extend(check_imports(name, &path, &tokens));
        findings.extend(check_crates(name, &path, &tokens));
        if path[0] == "domain" && !path.iter().any(|part| part == "tests") {
            findings.extend(check_purity(name, &tokens));
        }
    }
    findings
}

/// Words that mark what is not finished, and paths users do not have.
fn check_words(name: &str, text: &str) -> Vec<String> {
    let unfinished = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat()];
    let elsewhere = ["../sha", "red"].concat();
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        if let Some(word) = words.find(|word| unfinished.iter().any(|bad| bad == word)) {
            findings.push(format!("{name}:{}: {word}", number + 1));
        }
        if line.contains(&elsewhere) {
            findings.push(format!("{name}:{}: a path outside the project", number + 1));
        }
    }
    findings
}

/// `src/api/jobs.rs` → `[api, jobs]`; `None` outside `src`.
fn module_path(name: &str) -> Option<Vec<String>> {
    let inner = name.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut path: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if path.len() > 1 && path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    Some(path)
}

// ------------------------------------------------------------------ imports

fn check_imports(name: &str, path: &[String], tokens: &[Token]) -> Vec<String> {
    let module = path[0].as_str();
    let Some((_, allowed)) = IMPORTS.iter().find(|(known, _)| *known == module) else {
        return vec![format!("{name}: module `{module}` is not in the import table of tests/tidy.rs")];
    };
    let mut findings = Vec::new();
    for (line, named) in modules_named(path, tokens) {
        let known = IMPORTS.iter().any(|(known, _)| *known == named);
        if known && named != module && !allowed.contains(&"*") && !allowed.contains(&named.as_str()) {
            findings.push(format!("{name}:{line}: `{module}` may not import `{named}`"));
        }
    }
    findings
}

/// The top-level modules a file names, by `crate::x`, `use crate::{x, y::z}` or a chain of `super::`.
fn modules_named(path: &[String], tokens: &[Token]) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    let mut depth_of_braces: Vec<bool> = Vec::new(); // true: an inline module
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        match token.text.as_str() {
            "{" => depth_of_braces.push(at >= 2 && tokens[at - 2].text == "mod"),
            "}" => drop(depth_of_braces.pop()),
            "crate" if text(tokens, at + 1) == "::" => named.extend(heads(tokens, at + 2)),
            "super" if at == 0 || text(tokens, at - 1) != "::" => {
                let mut ups = 1;
                while text(tokens, at + 2 * ups - 1) == "::" && text(tokens, at + 2 * ups) == "super" {
                    ups += 1;
                }
                let depth = path.len() + depth_of_braces.iter().filter(|inline| **inline).count();
                if ups >= depth && !is_root(path) {
                    named.extend(heads(tokens, at + 2 * ups));
                }
                at += 2 * (ups - 1);
            }
            _ => {}
        }
        at += 1;
    }
    named
}

fn is_root(path: &[String]) -> bool {
    matches!(path[0].as_str(), "lib" | "main" | "bin")
}

/// The first names of the path or the group of paths that starts at `at`.
fn heads(tokens: &[Token], at: usize) -> Vec<(usize, String)> {
    let Some(first) = tokens.get(at) else { return Vec::new() };
    if first.text != "{" {
        return vec![(first.line, first.text.clone())];
    }
    let mut found = Vec::new();
    let (mut depth, mut expected) = (0, true);
    for token in &tokens[at..] {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expected = true,
            word if depth == 1 && expected && word != "::" => {
                found.push((token.line, word.to_owned()));
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn check_crates(name: &str, path: &[String], tokens: &[Token]) -> Vec<String> {
    let module = path[0].as_str();
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let before = if at == 0 { "" } else { text(tokens, at - 1) };
        // `::libp2p::…` is the crate too, `mesh::libp2p` is not.
        let path_start = before != "::" || at < 2 || !tokens[at - 2].is_word();
        let names_crate = path_start && before != "." && (text(tokens, at + 1) == "::" || before == "use");
        if !names_crate {
            continue;
        }
        if let Some((owned, owner)) = OWNED_CRATES.iter().find(|(owned, _)| *owned == token.text)
            && *owner != module
        {
            findings.push(format!("{name}:{}: only `{owner}` may name `{owned}`", token.line));
        }
        let words = ["crate", "self", "super", "Self"];
        if module == "domain" && before == "use" && !words.contains(&token.text.as_str()) {
            let local = text(tokens, at + 1) == "::" && !DOMAIN_CRATES.contains(&token.text.as_str());
            let upper = token.text.starts_with(|c: char| c.is_ascii_uppercase());
            if local && !upper && !declares_module(tokens, &token.text) {
                findings.push(format!("{name}:{}: `domain` is pure, it may not use `{}`", token.line, token.text));
            }
        }
    }
    findings
}

fn check_purity(name: &str, tokens: &[Token]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "mod" && text(tokens, at + 1) == "tests" && text(tokens, at + 2) == "{" {
            at = matching(tokens, at + 2);
        } else if tokens[at].text == "std" && text(tokens, at + 1) == "::" {
            let parts = heads(tokens, at + 2).into_iter().filter(|(_, part)| IMPURE_STD.contains(&part.as_str()));
            findings.extend(parts.map(|(line, part)| format!("{name}:{line}: `domain` is pure: `std::{part}`")));
        } else if IMPURE.contains(&tokens[at].text.as_str()) {
            findings.push(format!("{name}:{}: `domain` is pure: `{}`", tokens[at].line, tokens[at].text));
        }
        at += 1;
    }
    findings
}

fn declares_module(tokens: &[Token], module: &str) -> bool {
    tokens.windows(2).any(|pair| pair[0].text == "mod" && pair[1].text == module)
}

// ---------------------------------------------------------------- functions

fn check_functions(name: &str, tokens: &[Token]) -> Vec<String> {
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let is_function = token.text == "fn" && tokens.get(at + 1).is_some_and(Token::is_word);
        if !is_function {
            continue;
        }
        let Some(open) = body_start(tokens, at) else { continue };
        let close = matching(tokens, open);
        let mut lines: Vec<usize> = tokens[open + 1..close].iter().map(|token| token.line).collect();
        lines.dedup();
        let count = lines.len();
        if count > FUNCTION_LINES_MAX {
            let function = &tokens[at + 1].text;
            findings
                .push(format!("{name}:{}: `{function}` has {count} lines, at most {FUNCTION_LINES_MAX}", token.line));
        }
    }
    findings
}

fn body_start(tokens: &[Token], from: usize) -> Option<usize> {
    let mut depth = 0i32;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "{" if depth == 0 => return Some(at),
            ";" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn matching(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

// ------------------------------------------------- the checker can also fail

/// What the checker says about `body` as the file `name`, under a proper header.
fn says(name: &str, body: &str) -> String {
    check_rust(name, &format!("//! A sample.\n{body}")).join("\n")
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    for body in [
        "use crate::api::Server;",
        "use crate::{clock, api::Server};",
        "use crate::{clock::{now}, domain::{ids::{JobId}}, api};",
        "pub use crate::api;",
        "fn f() { crate::api::run(); }",
        "use super::api::Server;",
        "mod tests { use super::super::api; }",
    ] {
        assert!(says("src/leader/mod.rs", body).contains("`leader` may not import `api`"), "{body}");
    }
    assert!(says("src/leader/duty.rs", "use super::super::worker::X;").contains("may not import `worker`"));
    assert!(says("src/domain/job.rs", "use crate::clock;").contains("may not import `clock`"));
    assert!(says("src/novel/mod.rs", "").contains("not in the import table"));
}

#[test]
fn an_allowed_import_passes() {
    for (name, body) in [
        ("src/leader/mod.rs", "use crate::consensus::Client;\nuse crate::{domain::{Job, JobId}, mesh};"),
        ("src/leader/duty.rs", "use super::schedule; mod tests { use super::super::Term; }"),
        (
            "src/leader/mod.rs",
            "// use crate::api;\nconst A: &str = \"use crate::api\"; const B: &str = r#\"crate::api\"#;",
        ),
        ("src/leader/mod.rs", "/* crate::api /* nested */ */ fn f<'a>(x: &'a str) -> char { '\"' }"),
        ("src/bin/ciro-worker.rs", "use ciro::worker;"),
        ("src/domain/state.rs", "use std::sync::Arc; use serde::Serialize; use super::job::Job; use Refusal::Stale;"),
    ] {
        assert_eq!(says(name, body), "", "{name}: {body}");
    }
}

#[test]
fn a_crate_that_belongs_to_another_module_is_found() {
    assert!(says("src/leader/mod.rs", "use openraft::Raft;").contains("only `consensus` may name `openraft`"));
    assert!(says("src/node.rs", "fn f() -> ::libp2p::PeerId { todo() }").contains("only `mesh` may name `libp2p`"));
    assert!(says("src/cli/mod.rs", "use warp;").contains("only `api` may name `warp`"));
    assert!(says("src/domain/job.rs", "use rand::Rng;").contains("`domain` is pure"));
    assert_eq!(says("src/storage/mod.rs", "use sled::Db; fn f(t: sled::Tree) {}"), "");
    assert_eq!(says("src/mesh/mod.rs", "fn f() { self.sled.x(); mesh::warp::y(); }"), "");
}

#[test]
fn what_is_not_pure_is_found_in_the_domain_however_it_is_named() {
    for body in [
        "fn f() -> u64 { rand::random() }",
        "fn f() { tracing::info!(job, \"open\"); }",
        "struct S { by_id: std::collections::HashMap<u8, u8> }",
        "use std::{collections::{BTreeMap, HashSet}, fmt};",
        "fn f(at: std::time::Instant) {}",
        "fn f() -> bool { ::std::fs::exists(\"x\").is_ok() }",
        "use std::{fmt, thread::{self}};",
        "mod tests { fn f() { rand::random() } } fn g() { std::process::abort() }",
    ] {
        assert!(says("src/domain/job.rs", body).contains("`domain` is pure"), "{body}");
    }
    for (name, body) in [
        ("src/domain/job.rs", "use std::{collections::BTreeMap, fmt}; // not a HashMap, no rand::random()"),
        ("src/domain/job.rs", "#[cfg(test)] mod tests { fn f() -> u64 { rand::random() } }"),
        ("src/domain/tests/golden.rs", "fn f() { std::fs::read(\"x\"); }"),
        ("src/leader/mod.rs", "fn f() -> u64 { rand::random() }"),
    ] {
        assert_eq!(says(name, body), "", "{name}: {body}");
    }
}

#[test]
fn what_is_too_long_or_has_no_header_is_found() {
    let body = |lines: usize| {
        let mut body = String::from("fn long(a: [u8; 3]) -> u8\nwhere\n    u8: Copy,\n{\n");
        for line in 0..lines {
            writeln!(body, "    // not counted\n\n    let _x = {line};").unwrap();
        }
        body + "}\n"
    };
    assert_eq!(says("src/clock.rs", &body(70)), "");
    assert!(says("src/clock.rs", &body(71)).contains("`long` has 71 lines, at most 70"));
    assert!(says("src/clock.rs", &"\n".repeat(500)).contains("501 lines, at most 500"));
    assert!(check_rust("src/clock.rs", "fn f() {}\n").join("").contains("no `//!` header"));
    assert!(check_rust("src/clock.rs", "").join("").contains("no `//!` header"));
}

#[test]
fn unfinished_work_and_foreign_paths_are_found() {
    let unfinished = ["// TO", "DO: later"].concat();
    assert_eq!(check_words("a.rs", &unfinished).len(), 1);
    assert_eq!(check_words("a.md", &["see ../sha", "red/design"].concat()).len(), 1);
    assert!(check_words("a.rs", "todo!() is a lint's business; TODOS is a word").is_empty());
}

#[test]
fn the_import_table_has_no_cycle_below_the_entry_points() {
    let table: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    fn reaches(table: &BTreeMap<&str, &[&str]>, from: &str, to: &str) -> bool {
        table.get(from).is_some_and(|below| below.iter().any(|next| *next == to || reaches(table, next, to)))
    }
    for module in table.keys().filter(|module| table[*module] != ["*"]) {
        assert!(!reaches(&table, module, module), "`{module}` can import itself in a circle");
    }
}
