//! The command line against small HTTP servers of the tests' own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::client::{Call, Client, segment};
use super::{Cli, Command, Remote, block_on, job, kafka, submit};
use crate::tasks::Tasks;

/// What a server was asked: `METHOD PATH`, idempotency key, body.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    key: Option<String>,
    body: Value,
}

/// A server that answers by a function of how many requests came before.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn new(answer: impl Fn(usize, &Asked) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = Arc::clone(&asked);
        Tasks::thread("test-server", move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(request) = read_request(&stream) else { continue };
                let before = {
                    let mut log = log.lock().unwrap();
                    log.push(request.clone());
                    log.len() - 1
                };
                reply(stream, answer(before, &request));
            }
        })
        .unwrap();
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

enum Reply {
    Json(u16, Value),
    /// Reads the request and hangs up.
    Nothing,
}

fn read_request(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (mut length, mut key) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "idempotency-key" => key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
    Some(Asked { line, key, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

fn reply(mut stream: TcpStream, reply: Reply) {
    if let Reply::Json(status, body) = reply {
        let body = body.to_string();
        let _ = write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
}

fn problem(status: u16, code: &str) -> Reply {
    Reply::Json(status, json!({ "code": code, "detail": "as the test wants", "hint": "none" }))
}

/// A port on which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn client(urls: &[&str], patience_ms: u64) -> Client {
    let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
    Client::new(&urls, Duration::from_millis(patience_ms)).unwrap()
}

fn remote(urls: &[&str]) -> Remote {
    Remote { node: urls.iter().map(|url| (*url).to_owned()).collect(), patience: 5, json: true }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn nodes_may_be_named_before_and_after_the_command() {
    for line in [
        vec!["x", "--node", "http://a:1,http://b:2", "job", "get", "1"],
        vec!["x", "job", "get", "1", "--node", "http://a:1", "--node", "http://b:2", "--json"],
    ] {
        assert_eq!(Cli::try_parse_from(line).unwrap().remote.node, ["http://a:1", "http://b:2"]);
    }
    for line in [
        ["x", "--node", "http://a:1,http://b:2", "--json", "bench", "submit"],
        ["x", "bench", "submit", "--json", "--node", "http://a:1,http://b:2"],
    ] {
        let Command::Bench(args) = Cli::try_parse_from(line).unwrap().command else { panic!("a bench") };
        assert_eq!((args.node, args.json), (vec!["http://a:1".to_owned(), "http://b:2".to_owned()], true));
    }
    let help = Cli::command().render_long_help().to_string();
    assert!(help.contains("6  not done within the time allowed"), "{help}");
    assert_eq!(Cli::try_parse_from(["x", "job", "fly"]).unwrap_err().exit_code(), 2);
}

#[test]
fn a_dead_node_and_one_without_a_leader_are_passed_over() {
    let headless = Server::new(|_, _| problem(503, "no_leader"));
    let good = Server::new(|_, _| Reply::Json(200, json!({ "ok": true })));
    let client = client(&[&nobody(), &headless.url, &good.url], 5_000);
    block_on(async {
        let answer = client.call(&Call::get("/status")).await?;
        assert_eq!((answer.body["ok"].clone(), answer.node), (json!(true), good.url.clone()));
        client.call(&Call::get("/status")).await?;
        Ok(())
    })
    .unwrap();
    assert_eq!((headless.asked().len(), good.asked().len()), (1, 2), "the second call goes to who answered");
}

#[test]
fn a_submission_is_repeated_under_the_same_key_until_its_fate_is_known() {
    let server = Server::new(|before, _| match before {
        0 => Reply::Nothing,
        1 => problem(503, "outcome_unknown"),
        _ => Reply::Json(201, json!({ "id": "j" })),
    });
    let client = client(&[&server.url], 5_000);
    let call = Call::post("/jobs").body(json!({ "type": "sha256" })).key("k-1");
    block_on(async {
        assert_eq!(client.call(&call).await?.status, 201);
        Ok(())
    })
    .unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|asked| asked.key.as_deref() == Some("k-1") && asked.body["type"] == "sha256"));
}

#[test]
fn a_failure_says_whether_the_call_may_have_had_its_effect() {
    let unsure = Server::new(|_, _| problem(503, "outcome_unknown"));
    let headless = Server::new(|_, _| problem(503, "no_leader"));
    let hangs_up = Server::new(|_, _| Reply::Nothing);
    let dead = nobody();
    let doubtful = |urls: &[&str]| {
        let call = Call::post("/jobs").body(json!({})).key("k");
        block_on(async { client(urls, 300).call(&call).await.map(drop) }).unwrap_err().doubtful
    };
    assert!(doubtful(&[&unsure.url]));
    assert!(doubtful(&[&hangs_up.url]));
    assert!(doubtful(&[&hangs_up.url, &headless.url, &dead]), "what comes after does not undo it");
    assert!(!doubtful(&[&headless.url, &dead]));
}

#[test]
fn many_jobs_are_waited_for_no_longer_than_one() {
    let server = cluster("running");
    let client = client(&[&server.url], 1_000);
    let started = crate::clock::instant();
    block_on(async {
        let limit = job::Limit::new(Duration::from_secs(1));
        let jobs = (0..200).map(|number| (format!("j{number}"), None)).collect();
        let ended = submit::wait_for(&client, jobs, limit).await;
        assert!(ended.iter().all(|ended| ended.as_ref().is_err_and(|failure| failure.code() == 6)));
        Ok(())
    })
    .unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn what_must_not_be_repeated_is_not() {
    let silent = Server::new(|_, _| Reply::Nothing);
    let unsure = Server::new(|_, _| problem(503, "outcome_unknown"));
    for server in [&silent, &unsure] {
        let client = client(&[&server.url], 2_000);
        let failure = block_on(async { client.call(&Call::post("/cluster/transfer-leadership")).await.map(drop) });
        assert_eq!(failure.unwrap_err().code(), 3);
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn a_refusal_is_final_and_says_what_the_node_said() {
    let server = Server::new(|_, _| problem(422, "invalid_field"));
    let client = client(&[&server.url, &nobody()], 2_000);
    let failure = block_on(async { client.call(&Call::get("/jobs")).await.map(drop) }).unwrap_err();
    assert_eq!((failure.code(), failure.message.as_str()), (4, "as the test wants (invalid_field)"));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn patience_ends_and_names_the_node() {
    let (a, started) = (nobody(), crate::clock::instant());
    let failure = block_on(async { client(&[&a], 300).call(&Call::get("/status")).await.map(drop) }).unwrap_err();
    assert_eq!(failure.code(), 3);
    assert!(failure.message.starts_with(&format!("{a} is not reachable")), "{failure}");
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_node_that_is_no_url_is_a_usage_error() {
    for node in ["ftp://x", "http://", "a b"] {
        let failure = Client::new(&[node.to_owned()], Duration::ZERO).unwrap_err();
        assert_eq!(failure.code(), 2, "{node}");
    }
    assert_eq!(client(&["user:pw@127.0.0.1:8080"], 0).nodes().collect::<Vec<_>>(), ["http://127.0.0.1:8080"]);
    assert_eq!(segment("../a b"), "..%2Fa%20b");
}

/// Answers submissions with a new job each, and waits with `state`.
fn cluster(state: &'static str) -> Server {
    Server::new(move |before, asked| {
        if asked.line.starts_with("POST /jobs") {
            return Reply::Json(201, json!({ "id": format!("j{before}"), "state": "pending", "submitted_index": 7 }));
        }
        Reply::Json(200, json!({ "id": "j", "state": state, "error": { "code": "exit", "detail": "exit code 3" } }))
    })
}

fn submit_line(line: &[&str]) -> submit::Args {
    let Ok(Cli { command: Command::Job(job::Command::Submit(args)), .. }) =
        Cli::try_parse_from(["x", "job", "submit"].iter().chain(line))
    else {
        panic!("{line:?} is a submission")
    };
    *args
}

#[test]
fn a_directory_is_one_job_per_file_with_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    let server = cluster("completed");
    let path = dir.path().to_str().unwrap();
    let args = submit_line(&["-t", "sha256", path, "--wait", "--priority", "7", "--min-cpu-cores", "2"]);
    let remote = remote(&[&server.url]);
    block_on(async { submit::run(args, &remote.client()?, &remote).await }).unwrap();

    let (submitted, waited): (Vec<_>, Vec<_>) = server.asked().into_iter().partition(|asked| asked.key.is_some());
    let mut payloads: Vec<String> = submitted.iter().map(|asked| asked.body["payload"].to_string()).collect();
    payloads.sort();
    assert_eq!(payloads, ["\"YQ==\"", "\"Yg==\"", "\"Yw==\""]);
    let keys: std::collections::BTreeSet<_> = submitted.iter().map(|asked| asked.key.clone()).collect();
    assert_eq!(keys.len(), 3);
    let body = &submitted[0].body;
    assert_eq!((&body["priority"], &body["requirements"]["min_cpu_cores"]), (&json!(7), &json!(2)));
    assert_eq!(waited.len(), 3);
    assert!(waited.iter().all(|asked| asked.line.contains("wait=terminal") && asked.line.contains("min_index=7")));
}

#[test]
fn exit_codes_tell_a_failed_job_from_one_that_takes_too_long() {
    let remote_of = |server: &Server| remote(&[&server.url]);
    for (state, timeout, code) in [("failed", "30", 5), ("cancelled", "30", 5), ("running", "0", 6)] {
        let server = cluster(state);
        let args = submit_line(&["-t", "x", "--payload", "p", "--wait", "--wait-timeout", timeout]);
        let remote = remote_of(&server);
        let failure = block_on(async { submit::run(args, &remote.client()?, &remote).await }).unwrap_err();
        assert_eq!(failure.code(), code, "{state}: {failure}");
    }
}

#[test]
fn a_submission_without_type_or_input_never_leaves() {
    let server = cluster("completed");
    let remote = remote(&[&server.url]);
    for line in [vec!["--payload", "x"], vec!["-t", "sha256"], vec!["-t", "x", "/a", "/nowhere"]] {
        let args = submit_line(&line);
        let failure = block_on(async { submit::run(args, &remote.client()?, &remote).await }).unwrap_err();
        assert_eq!(failure.code(), 2, "{line:?}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn lists_follow_the_cursor_up_to_the_limit() {
    let server = Server::new(|before, _| {
        let next = if before < 2 { json!("more") } else { Value::Null };
        Reply::Json(200, json!({ "jobs": [{ "id": before }, { "id": before }], "next_cursor": next }))
    });
    let client = client(&[&server.url], 1_000);
    block_on(async {
        assert_eq!(job::pages(&client, &Call::get("/jobs"), "jobs", 100).await?.len(), 6);
        Ok(())
    })
    .unwrap();
    assert!(server.asked()[1].line.contains("cursor=more"));
}

/// Runs a `kafka …` line against a server; its exit code.
fn kafka_line(line: &[&str], server: &Server) -> u8 {
    let Ok(Cli { command: Command::Kafka(command), .. }) = Cli::try_parse_from(["x", "kafka"].iter().chain(line))
    else {
        panic!("{line:?} is a kafka command")
    };
    let remote = remote(&[&server.url]);
    block_on(async { kafka::run(command, &remote).await }).map_or_else(|failure| failure.code(), |()| 0)
}

#[test]
fn kafka_commands_ask_what_they_say() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["status"], &["GET /kafka/status"]),
        (&["stats"], &["GET /kafka/stats"]),
        (&["dlq", "list", "--limit", "7"], &["GET /kafka/dead-letter-queue?consistency=linearizable&limit=7"]),
        (&["dlq", "show", "4711"], &["GET /kafka/dead-letter-queue/4711?consistency=linearizable"]),
        (
            &["dlq", "replay", "1", "2"],
            &["POST /kafka/dead-letter-queue/1/replay", "POST /kafka/dead-letter-queue/2/replay"],
        ),
        (&["dlq", "drop", "a/b"], &["DELETE /kafka/dead-letter-queue/a%2Fb"]),
        (&["seek", "ciro.jobs", "3", "42"], &["POST /kafka/intake/seek"]),
        (&["reset", "lkc-1"], &["POST /kafka/intake/reset"]),
        (&["forget"], &["DELETE /kafka/cursor"]),
    ];
    for (line, expected) in cases {
        let server = Server::new(|_, _| Reply::Json(200, json!({ "entries": [{ "id": "1" }], "next_cursor": null })));
        assert_eq!(kafka_line(line, &server), 0, "{line:?}");
        let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.line).collect();
        assert_eq!(asked, *expected, "{line:?}");
    }
    let server = Server::new(|_, _| Reply::Json(200, json!({})));
    kafka_line(&["seek", "ciro.jobs", "3", "42"], &server);
    assert_eq!(server.asked()[0].body, json!({ "topic": "ciro.jobs", "partition": 3, "offset": 42 }));
}

#[test]
fn a_letter_that_is_gone_does_not_keep_the_others_from_being_replayed() {
    let server = Server::new(|before, _| match before {
        1 => problem(404, "unknown_dead_letter"),
        _ => Reply::Json(200, json!({})),
    });
    assert_eq!(kafka_line(&["dlq", "replay", "1", "2", "3"], &server), 4);
    assert_eq!(server.asked().len(), 3);
    assert_eq!(kafka_line(&["forget"], &Server::new(|_, _| problem(409, "conflict"))), 4);
}

#[cfg(feature = "kafka")]
#[test]
fn a_broker_that_is_not_there_is_said_with_an_exit_code_of_its_own() {
    let server = Server::new(|_, _| Reply::Nothing);
    let broker = nobody().trim_start_matches("http://").to_owned();
    let mut lines = vec![
        vec!["tail", "--bootstrap", &broker],
        vec!["produce", "--bootstrap", &broker, "-t", "x", "--payload", "p"],
    ];
    for line in &mut lines {
        let Ok(Cli { command: Command::Kafka(command), .. }) = Cli::try_parse_from(["x", "kafka"].iter().chain(&*line))
        else {
            panic!("{line:?} is a kafka command")
        };
        let remote = Remote { patience: 0, ..remote(&[&server.url]) };
        let failure = block_on(async { kafka::run(command, &remote).await }).unwrap_err();
        assert_eq!(failure.code(), 3, "{failure}");
        assert!(failure.hint.unwrap().contains("--bootstrap"));
    }
    assert!(server.asked().is_empty(), "no node is asked");
}
