//! `job watch`: following events as they happen.
//!
//! The stream of events only wakes us; what is shown of one job is its history,
//! read again and continued where we were. So nothing is lost or shown twice
//! when a node dies and another one takes over the stream.

use std::time::Duration;

use serde_json::Value;

use super::client::{Client, segment};
use super::failure::Failure;
use super::job::{self, fresh, job_path};
use super::output;

/// The history is read at least this often, should the stream say nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Longest event held while its end is awaited.
const EVENT_MAX: usize = 1 << 20;

/// Server-sent events, across nodes.
struct Events<'c> {
    client: &'c Client,
    path: String,
    response: Option<reqwest::Response>,
    pending: Vec<u8>,
    last_id: Option<String>,
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
        Self { client, path, response: None, pending: vec![], last_id: None }
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
            none => none.insert(self.client.stream(&self.path, self.last_id.as_deref()).await?),
        };
        match response.chunk().await {
            Ok(Some(chunk)) if self.pending.len() + chunk.len() <= EVENT_MAX => self.pending.extend_from_slice(&chunk),
            _ => {
                self.response = None;
                self.pending.clear();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
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
        for entry in shown.news(entries(&history)) {
            show(entry, as_json)?;
        }
        if job::is_final(&job) {
            return job::judge(&[job]);
        }
        // Whichever comes first: something about this job, or the next look.
        tokio::time::timeout(LOOK_EVERY, events.next()).await.map_or(Ok(()), |event| event.map(drop))?;
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

/// The transitions, whatever the list is called.
fn entries(history: &Value) -> &[Value] {
    let list = match history {
        Value::Object(fields) => fields.values().find_map(Value::as_array),
        other => other.as_array(),
    };
    list.map(Vec::as_slice).unwrap_or_default()
}

fn show(entry: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return output::line(&entry.to_string());
    }
    let cell = |key: &str| output::cell(&entry[key]);
    let worker = ["worker_id", "worker"].into_iter().map(cell).find(|text| text != "-").unwrap_or_default();
    let (at, state, cause) = (cell("at"), cell("state"), cell("cause"));
    output::line(format!("{at}  {state:<10} attempt {:<3} {cause:<14} {worker}", cell("attempt")).trim_end())
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
