//! `kafka produce`: records into a topic, each under an identity that makes a repeat harmless.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::json;

use super::args::{Format, Produce};
use super::broker::Session;
use crate::cli::failure::{Failure, Kind};
use crate::cli::files::{self, Source};
use crate::cli::{Remote, output};
use crate::clock;
use crate::domain::kafka::Header;
use crate::kafka::{Error, Message, Writer};
use crate::wire::proto::kafka::v1 as proto;

/// Records sent together, and their bytes; a larger one goes alone.
const BATCH_RECORDS: usize = 200;
const BATCH_BYTES: usize = 1 << 20;

/// Longest line.
const LINE_MAX: u64 = 16 << 20;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const CONTENT_TYPE: &str = "content-type";

/// A record on its way.
#[derive(Debug, PartialEq)]
struct Item {
    name: String,
    /// What makes a repeat the same job, if the headers or the key say it.
    identity: String,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    headers: Vec<Header>,
}

pub async fn run(args: Produce, remote: &Remote) -> Result<(), Failure> {
    let sources = sources(&args)?;
    if sources.len() > 1 || args.lines {
        let single = [("--key", &args.key), ("--idempotency-key", &args.idempotency_key)];
        if let Some((flag, _)) = single.into_iter().find(|(_, value)| value.is_some()) {
            return Err(Failure::usage(format!("{flag} is for one record: several under one key would be one job")));
        }
    }
    let session = Session::new(&args.broker)?;
    let topic = args.topic.clone().unwrap_or_else(|| session.options().topics.jobs.clone());
    session.find(&topic, remote.patience()).await?;
    let writer = session.writer()?;
    for source in sources {
        match source {
            From::Lines(path) => lines(&path, &args, &topic, &writer, remote).await?,
            From::Whole(source) => {
                let item = item(source.name(), source.read()?, &args);
                send(vec![item], &topic, &writer, remote).await?;
            }
        }
    }
    Ok(())
}

/// Where records come from.
enum From {
    /// One for each line.
    Lines(PathBuf),
    /// One.
    Whole(Source),
}

fn sources(args: &Produce) -> Result<Vec<From>, Failure> {
    let paths: Vec<PathBuf> = args.files.iter().chain(&args.payload_file).chain(&args.payload_dir).cloned().collect();
    if args.lines {
        if paths.is_empty() {
            return Err(Failure::usage("nothing to send").hint("name files with a record in each line, or -"));
        }
        return Ok(paths.into_iter().map(From::Lines).collect());
    }
    Ok(files::sources(&paths, args.payload.as_deref())?.into_iter().map(From::Whole).collect())
}

/// A record of bytes that were read: a job's input if its type was named, else the record itself.
fn item(name: String, bytes: Vec<u8>, args: &Produce) -> Item {
    let (value, kind) = match (&args.kind, args.format) {
        (Some(kind), Format::Protobuf) => (protobuf(kind, bytes, args), Some("application/protobuf")),
        (Some(kind), Format::Json) => (json_job(kind, &bytes, args), Some("application/json")),
        (None, _) => {
            let json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
            (bytes, json.then_some("application/json"))
        }
    };
    let mut headers: Vec<Header> = args.headers.iter().map(|(name, value)| header(name, value)).collect();
    let has = |headers: &[Header], name: &str| headers.iter().any(|header| &*header.name == name);
    if let Some(kind) = kind.filter(|_| !has(&headers, CONTENT_TYPE)) {
        headers.push(header(CONTENT_TYPE, kind));
    }
    let identity = match (&args.idempotency_key, &args.key) {
        (Some(identity), _) => identity.clone(),
        (None, Some(key)) => key.clone(),
        (None, None) => clock::uuid().to_string(),
    };
    let named = has(&headers, IDEMPOTENCY_KEY) || (args.idempotency_key.is_none() && args.key.is_some());
    if !named {
        headers.push(header(IDEMPOTENCY_KEY, &identity));
    }
    let said = headers.iter().find(|header| &*header.name == IDEMPOTENCY_KEY);
    let identity = match said.and_then(|header| header.value.as_deref()) {
        Some(said) => String::from_utf8_lossy(said).into_owned(),
        None => identity,
    };
    Item { name, identity, key: args.key.clone().map(String::into_bytes), value, headers }
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: Some(value.as_bytes().to_vec()) }
}

fn protobuf(kind: &str, payload: Vec<u8>, args: &Produce) -> Vec<u8> {
    let job = proto::Job {
        r#type: kind.to_owned(),
        payload: Some(payload.into()),
        priority: args.priority,
        tags: args.tags.clone(),
        ..proto::Job::default()
    };
    job.encode_to_vec()
}

fn json_job(kind: &str, payload: &[u8], args: &Produce) -> Vec<u8> {
    let mut job = json!({ "type": kind, "payload": BASE64.encode(payload) });
    if let Some(priority) = args.priority {
        job["priority"] = json!(priority);
    }
    if !args.tags.is_empty() {
        job["tags"] = json!(args.tags);
    }
    job.to_string().into_bytes()
}

/// Sends the lines of one file, in batches of what is there already.
async fn lines(path: &Path, args: &Produce, topic: &str, writer: &Writer, remote: &Remote) -> Result<(), Failure> {
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(|error| cannot_read(path, &error))?)
    };
    let mut reader = BufReader::with_capacity(1 << 16, input);
    let mut number = 0;
    loop {
        let batch = batch(&mut reader, &mut number).map_err(|error| cannot_read(path, &error))?;
        if batch.is_empty() {
            return Ok(());
        }
        let name = |number: u64| format!("{}:{number}", path.display());
        let items = batch.into_iter().map(|(number, line)| item(name(number), line, args)).collect();
        send(items, topic, writer, remote).await?;
    }
}

/// The next lines that are not blank, with their numbers: waits for one, and takes those that came with it.
fn batch(reader: &mut BufReader<impl Read>, number: &mut u64) -> std::io::Result<Vec<(u64, Vec<u8>)>> {
    let (mut lines, mut bytes) = (vec![], 0);
    loop {
        let mut line = vec![];
        let read = reader.by_ref().take(LINE_MAX + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(lines);
        }
        if line.len() as u64 > LINE_MAX {
            return Err(std::io::Error::other(format!("line {} has more than {LINE_MAX} bytes", *number + 1)));
        }
        *number += 1;
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            bytes += line.len();
            lines.push((*number, line));
        }
        let full = lines.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES;
        if full || (!lines.is_empty() && !reader.buffer().contains(&b'\n')) {
            return Ok(lines);
        }
    }
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Usage, format!("read {}: {error}", path.display()))
}

/// Sends records and shows where they are.
async fn send(items: Vec<Item>, topic: &str, writer: &Writer, remote: &Remote) -> Result<(), Failure> {
    let message = |item: &Item| Message {
        topic: topic.to_owned(),
        partition: None,
        key: item.key.clone(),
        value: Some(item.value.clone()),
        headers: item.headers.clone(),
    };
    let placed = writer.place(items.iter().map(message).collect()).await.map_err(|error| failed(error, &items))?;
    for (item, place) in items.iter().zip(placed) {
        if remote.json {
            let row = json!({
                "input_name": item.name, "topic": topic, "partition": place.partition, "offset": place.offset,
                "idempotency_key": item.identity,
            });
            output::line(&row.to_string())?;
        } else {
            output::line(&format!("{}/{}@{}  {}  {}", topic, place.partition, place.offset, item.identity, item.name))?;
        }
    }
    Ok(())
}

fn failed(error: Error, items: &[Item]) -> Failure {
    if let Error::TooLarge { index, bytes } = error {
        let name = items.get(index).map_or("a record", |item| item.name.as_str());
        return Failure::new(Kind::Refused, format!("{name}: {bytes} bytes are more than the topic takes"));
    }
    let failure = super::broker::failed(&error);
    match items {
        [item] => failure.doubtful().hint(format!(
            "it may have been written; repeat with --idempotency-key {}, and it is one job",
            item.identity
        )),
        _ => failure.doubtful().hint("those shown are written; of the rest some may be"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Produce,
    }

    fn args(line: &[&str]) -> Produce {
        Line::parse_from(["produce"].iter().chain(line)).args
    }

    fn text(item: &Item, name: &str) -> Option<String> {
        let header = item.headers.iter().find(|header| &*header.name == name)?;
        String::from_utf8(header.value.clone()?).ok()
    }

    #[test]
    fn what_is_read_is_sent_as_it_is_with_an_identity_of_its_own() {
        let (one, two) = (item("a".into(), b" {\"x\"".to_vec(), &args(&[])), item("b".into(), vec![0xff], &args(&[])));
        assert_eq!((one.value.as_slice(), one.key.as_deref()), (b" {\"x\"".as_slice(), None), "not looked at");
        assert_eq!(text(&one, CONTENT_TYPE).as_deref(), Some("application/json"));
        assert_eq!(text(&two, CONTENT_TYPE), None);
        assert_ne!(one.identity, two.identity);
        assert_eq!(text(&one, IDEMPOTENCY_KEY), Some(one.identity.clone()));
    }

    #[test]
    fn an_identity_that_is_given_wins_and_is_said_once() {
        let keyed = item("a".into(), vec![], &args(&["--key", "order-17"]));
        assert_eq!((keyed.identity.as_str(), text(&keyed, IDEMPOTENCY_KEY)), ("order-17", None), "the key is enough");
        let named = item("a".into(), vec![], &args(&["--key", "k", "--idempotency-key", "i"]));
        assert_eq!((named.identity.as_str(), named.key.as_deref()), ("i", Some(b"k".as_slice())));
        let said = item("a".into(), vec![], &args(&["--header", "idempotency-key=h", "--header", "content-type=x"]));
        assert_eq!((said.identity.as_str(), said.headers.len()), ("h", 2));
    }

    #[test]
    fn a_type_makes_jobs_of_inputs_in_either_form() {
        let made = item("a".into(), b"hi".to_vec(), &args(&["-t", "sha256", "--priority", "7", "--tag", "x"]));
        let job = proto::Job::decode(made.value.as_slice()).unwrap();
        assert_eq!(
            (job.r#type.as_str(), job.payload.as_deref(), job.priority),
            ("sha256", Some(b"hi".as_slice()), Some(7))
        );
        assert_eq!(text(&made, CONTENT_TYPE).as_deref(), Some("application/protobuf"));
        let made = item("a".into(), b"hi".to_vec(), &args(&["-t", "sha256", "--tag", "x", "--format", "json"]));
        let job: Value = serde_json::from_slice(&made.value).unwrap();
        assert_eq!(job, json!({"type": "sha256", "payload": "aGk=", "tags": ["x"]}));
    }

    #[test]
    fn lines_are_batched_as_they_come_and_blank_ones_passed_over() {
        let mut number = 0;
        let text = b"{1}\n\n  \r\n{2}\r\n{3}".as_slice();
        let mut reader = BufReader::new(text);
        let first = batch(&mut reader, &mut number).unwrap();
        assert_eq!(first, [(1, b"{1}".to_vec()), (4, b"{2}".to_vec())]);
        assert_eq!(batch(&mut reader, &mut number).unwrap(), [(5, b"{3}".to_vec())]);
        assert!(batch(&mut reader, &mut number).unwrap().is_empty());
        let many = "x\n".repeat(BATCH_RECORDS + 5);
        assert_eq!(batch(&mut BufReader::new(many.as_bytes()), &mut 0).unwrap().len(), BATCH_RECORDS);
    }

    #[test]
    fn inputs_need_a_type_and_lines_take_none() {
        for bad in [&["--payload", "x"][..], &["--payload-dir", "."], &["--lines", "-t", "sha256", "-"]] {
            assert!(Line::try_parse_from(["produce"].iter().chain(bad)).is_err(), "{bad:?}");
        }
        assert_eq!(sources(&args(&["--lines"])).err().unwrap().code(), 2);
        assert_eq!(sources(&args(&[])).err().unwrap().code(), 2);
    }
}
