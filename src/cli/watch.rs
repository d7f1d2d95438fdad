//! `job watch`: following events as they happen.
//!
//! The stream of events only wakes us; what is shown of one job is its history,
//! read again and continued where we were. So nothing is lost or shown twice
//! when a node dies and another one takes over the stream.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Client, segment};
use super::failure::{Failure, printable};
use super::job::{self, fresh, job_path};
use super::output;
use crate::clock;

/// The history is read at least this often, should the stream say nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A stream that is silent for longer is dead: a node says something every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);

/// Longest event held while its end is awaited.
const EVENT_MAX: usize = 1 << 20;

/// Server-sent events, across nodes.
struct Events<'c> {
    client: &'c Client,
    path: String,
    response: Option<reqwest::Response>,
    pending: Vec<u8>,
    last_id: Option<String>,
    heard: Instant,
    silence: Duration,
}

/// One event: its name and its data.
#[derive(Debug, PartialEq)]
struct Event {
    id: Option<String>,
    name: String,
    data: String,
}

impl<'c> Events<'c> {
    fn new(client: &'c Client, path: String) -> Self {
        Self { client, path, response: None, pending: vec![], last_id: None, heard: clock::instant(), silence: SILENCE }
    }

    /// The next event; connects again, where it was, when the stream breaks. May be dropped.
    async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            while let Some(end) = find_end(&self.pending) {
                let block: Vec<u8> = self.pending.drain(..end).collect();
                if let Some(event) = parse(&String::from_utf8_lossy(&block)) {
                    self.last_id = event.id.clone().or(self.last_id.take());
                    return Ok(event);
                }
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<(), Failure> {
        let response = match &mut self.response {
            Some(response) => response,
            none => {
                let response = self.client.stream(&self.path, self.last_id.as_deref()).await?;
                self.heard = clock::instant();
                none.insert(response)
            }
        };
        let left = self.silence.saturating_sub(self.heard.elapsed());
        match tokio::time::timeout(left, response.chunk()).await {
            Ok(Ok(Some(chunk))) if self.pending.len() + chunk.len() <= EVENT_MAX => {
                self.heard = clock::instant();
                self.pending.extend_from_slice(&chunk);
            }
            Ok(_) => self.broken().await,
            Err(_) => {
                self.client.pass_over();
                self.broken().await;
            }
        }
        Ok(())
    }

    async fn broken(&mut self) {
        self.response = None;
        self.pending.clear();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Behind the empty line that ends an event.
fn find_end(bytes: &[u8]) -> Option<usize> {
    let unix = bytes.windows(2).position(|two| two == b"\n\n").map(|at| at + 2);
    let dos = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    unix.into_iter().chain(dos).min()
}

/// An event, unless it is a comment that only keeps the connection alive.
fn parse(block: &str) -> Option<Event> {
    let mut event = Event { id: None, name: String::new(), data: String::new() };
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut event.name),
            "data" if event.data.is_empty() => value.clone_into(&mut event.data),
            "data" => event.data += &format!("\n{value}"),
            _ => {}
        }
    }
    (!event.data.is_empty()).then_some(event)
}

/// Shows everything that happens, until interrupted.
pub async fn everything(client: &Client, as_json: bool) -> Result<(), Failure> {
    let mut events = Events::new(client, "/events".to_owned());
    loop {
        let event = events.next().await?;
        let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
        if as_json {
            output::line(&data.to_string())?;
        } else {
            output::line(&format!("{:<10} {}", output::cell(&Value::String(event.name)), output::cell(&data)))?;
        }
    }
}

/// Shows a job's history, and what is added to it until the job has ended.
pub async fn job(client: &Client, id: &str, as_json: bool) -> Result<(), Failure> {
    let mut events = Events::new(client, format!("/events?job={}", segment(id)));
    let mut shown = Shown::default();
    loop {
        let job = client.call(&fresh(&job_path(id))).await?.body;
        let history = client.call(&fresh(&format!("{}/events", job_path(id)))).await?.body;
        let entries = history["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        for entry in shown.news(entries) {
            show(entry, as_json)?;
        }
        if job::is_final(&job) {
            return job::judge(&[job]);
        }
        // Whichever comes first: something about this job, or the next look.
        if let Ok(event) = tokio::time::timeout(LOOK_EVERY, events.next()).await {
            let event = event?;
            if event.name == "progress" {
                show_progress(&event.data, as_json)?;
            }
        }
    }
}

/// How far a history was shown: its front may be dropped meanwhile, and one log
/// entry may hold several transitions.
#[derive(Default)]
struct Shown {
    index: u64,
    of_index: usize,
}

impl Shown {
    fn news<'e>(&mut self, entries: &'e [Value]) -> Vec<&'e Value> {
        let index_of = |entry: &Value| entry["index"].as_u64().unwrap_or_default();
        let old = |entry: &&Value| index_of(entry) < self.index;
        let news: Vec<&Value> = entries.iter().skip_while(old).collect();
        let seen = news.iter().take_while(|entry| index_of(entry) == self.index).count().min(self.of_index);
        if let Some(last) = news.last() {
            self.index = index_of(last);
            self.of_index = news.iter().filter(|entry| index_of(entry) == self.index).count();
        }
        news.into_iter().skip(seen).collect()
    }
}

fn show(entry: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return output::line(&entry.to_string());
    }
    let cell = |key: &str| output::cell(&entry[key]);
    let worker = entry["worker_id"].as_str().map(printable).unwrap_or_default();
    let (at, state, cause) = (cell("at"), cell("state"), cell("cause"));
    output::line(format!("{at}  {state:<10} attempt {:<3} {cause:<14} {worker}", cell("attempt")).trim_end())
}

/// What the attempt says of itself.
fn show_progress(data: &str, as_json: bool) -> Result<(), Failure> {
    let said: Value = serde_json::from_str(data).unwrap_or_default();
    if as_json {
        return output::line(&said.to_string());
    }
    let share = said["progress"].as_f64().map(|share| format!("{:.1} %", share * 100.0)).unwrap_or_default();
    let message = said["message"].as_str().map(printable).unwrap_or_default();
    output::line(
        format!("{:24}  progress   attempt {:<3} {share:<14} {message}", "", output::cell(&said["attempt"])).trim_end(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_continued_where_it_was() {
        let entries = |indexes: &[u64]| -> Vec<Value> {
            indexes.iter().map(|index| serde_json::json!({ "index": index })).collect()
        };
        let mut shown = Shown::default();
        assert_eq!(shown.news(&entries(&[1, 4, 4])).len(), 3);
        assert_eq!(shown.news(&entries(&[1, 4, 4])).len(), 0);
        assert_eq!(shown.news(&entries(&[1, 4, 4, 4, 6])).len(), 2, "a third of one log entry, and the next");
        assert_eq!(shown.news(&entries(&[1, 9])).len(), 1, "what was between is forgotten");
        assert_eq!(shown.news(&[]).len(), 0);
    }

    #[tokio::test]
    async fn a_stream_that_falls_silent_is_taken_up_at_another_node() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let node = async |text: String| {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let answer = async move {
                let mut stream = listener.accept().await.unwrap().0;
                // An answer before the request would be a fault of its own.
                assert_ne!(stream.read(&mut [0; 1_024]).await.unwrap(), 0);
                stream.write_all(text.as_bytes()).await.unwrap();
                std::future::pending::<()>().await;
            };
            (url, answer)
        };
        let (silent, first) = node(head.to_owned()).await;
        let (speaking, second) = node(format!("{head}id: 7\nevent: job\ndata: {{}}\n\n")).await;
        let client = Client::new(&[silent, speaking], Duration::from_secs(5)).unwrap();
        let mut events = Events { silence: Duration::from_millis(200), ..Events::new(&client, "/events".to_owned()) };
        let next = tokio::time::timeout(Duration::from_secs(10), events.next());
        let event = tokio::select! {
            event = next => event.expect("another node is asked").unwrap(),
            ((), ()) = async { tokio::join!(first, second) } => unreachable!("the nodes do not end"),
        };
        assert_eq!(event.id.as_deref(), Some("7"));
    }

    #[test]
    fn events_are_cut_at_empty_lines_and_comments_are_skipped() {
        let stream = b"id: 7\nevent: job\ndata: {\"a\":\ndata: 1}\n\n:keep-alive\n\nrest";
        let end = find_end(stream).unwrap();
        let event = parse(std::str::from_utf8(&stream[..end]).unwrap()).unwrap();
        assert_eq!(event, Event { id: Some("7".into()), name: "job".into(), data: "{\"a\":\n1}".into() });
        let rest = &stream[end..];
        let end = find_end(rest).unwrap();
        assert_eq!(parse(std::str::from_utf8(&rest[..end]).unwrap()), None);
        assert_eq!(find_end(&rest[end..]), None);
        assert_eq!(find_end(b"data: x\r\n\r\n"), Some(11));
    }
}
