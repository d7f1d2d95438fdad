//! A state that things happen to, and what is written of them.

use crate::domain::apply::Position;
use crate::domain::command::{Complete, Fail, Record, Submit};
use crate::domain::job::{JobSpec, Retry, Source};
use crate::domain::kafka::{Header, Ingest, Item as Taken, Letter, Partition};
use crate::domain::worker::{Capabilities, Location};
use crate::domain::{Command, Digest, JobId, PeerId, Price, State, Timestamp, WorkerId, kafka, sample};
use crate::kafka::{Message, Topics};
use crate::leader::publish::batch::{Batch, Item};
use crate::leader::publish::record::{Form, Outlet};

/// 2025-11-24T16:00:00Z, and a millisecond more for each record of the log.
pub const START: u64 = 1_764_000_000_000;

#[derive(Default)]
pub struct World {
    pub state: State,
}

impl World {
    pub fn after(commands: impl IntoIterator<Item = Command>) -> Self {
        let mut world = Self::default();
        for command in commands {
            world.apply(vec![command]);
        }
        world
    }

    /// One record of the log; every command must be accepted.
    pub fn apply(&mut self, commands: Vec<Command>) {
        let position = Position { index: self.state.applied() + 1, term: 1 };
        let record = Record { at: Timestamp(START + position.index), commands };
        for reply in self.state.apply(position, &record) {
            reply.unwrap();
        }
    }

    /// All that is to be published after `seq`.
    pub fn items(&self, seq: u64) -> Vec<Item> {
        let mut batch = Batch::after(seq);
        while batch.extend(&self.state) {}
        assert_eq!(batch.through, self.state.journal().last_seq());
        batch.items
    }

    pub fn messages(&self) -> Vec<Message> {
        self.items(0).iter().map(|item| outlet().message(item, &Form::Whole)).collect()
    }
}

pub fn topics() -> Topics {
    Topics { jobs: "jobs".to_owned(), workers: "workers".to_owned(), results: "results".to_owned() }
}

pub fn outlet() -> Outlet {
    Outlet { topics: topics(), cluster: "test-net".to_owned() }
}

/// Each header as `name: text`.
pub fn shown(message: &Message) -> Vec<String> {
    let text = |header: &Header| String::from_utf8(header.value.clone().unwrap()).unwrap();
    message.headers.iter().map(|header| format!("{}: {}", header.name, text(header))).collect()
}

pub fn decoded<M: prost::Message + Default>(message: &Message) -> M {
    M::decode(message.value.as_deref().unwrap()).unwrap()
}

pub fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let header = message.headers.iter().find(|header| &*header.name == name)?;
    std::str::from_utf8(header.value.as_deref()?).ok()
}

pub fn job(n: u64) -> JobId {
    JobId::from_key("test", &n.to_string())
}

pub fn worker(n: u8) -> WorkerId {
    PeerId([n; 32])
}

pub fn submit(n: u64) -> Command {
    let spec = JobSpec {
        retry: Retry { max_attempts: 1, ..Retry::default() }.into(),
        tags: vec!["nightly".to_owned()],
        ..sample::spec()
    };
    let fingerprint = Digest::of(&n.to_be_bytes());
    let submit = Submit { id: job(n), spec, payload: Some(b"in".to_vec()), fingerprint, source: Source::Api };
    Command::Submit(Box::new(submit))
}

pub fn register(n: u8) -> Command {
    let job_types = vec!["sha256".to_owned()];
    let capabilities = Capabilities { cpu_cores: 4, max_parallel_jobs: 8, job_types, ..Capabilities::default() };
    let location = Location { region: "eu-north".to_owned(), ..Location::default() };
    let version = "1.0.0".to_owned();
    Command::RegisterWorker { worker: worker(n), capabilities: Box::new(capabilities), location, version }
}

pub fn assign(n: u64, attempt: u32, to: u8) -> Command {
    let (job, worker) = (job(n), worker(to));
    Command::Assign { job, attempt, worker, price: Price(70), lease_ms: 60_000, evidence: None }
}

pub fn complete(n: u64, attempt: u32, by: u8, output: &[u8]) -> Command {
    Command::Complete(Box::new(Complete {
        job: job(n),
        attempt,
        worker: worker(by),
        output: output.to_vec(),
        kept_size: 0,
        output_sha256: Digest::of(output),
        exit_code: 0,
        duration_ms: 12,
        signature: vec![7; 64],
    }))
}

pub fn fail(n: u64, attempt: u32, by: u8, code: &str) -> Command {
    let (code, detail) = (code.to_owned(), "it did not work".to_owned());
    Command::Fail(Box::new(Fail { job: job(n), attempt, worker: worker(by), code, detail, retryable: false }))
}

pub fn named(name: &str, value: &[u8]) -> Header {
    Header { name: name.into(), value: Some(value.to_vec()) }
}

pub fn letter(offset: u64, headers: Vec<Header>) -> Letter {
    Letter {
        partition: Partition { topic: "jobs".into(), number: 3 },
        offset,
        timestamp_ms: Some(1_700_000_000_123),
        key: Some(b"order-7".to_vec()),
        value: Some(vec![0xff, 0, 0x80]),
        headers,
        left_out: 0,
        code: "undecodable".into(),
        message: "the value is not a job".into(),
        attempts: 1,
        first_failed_at: None,
    }
}

pub fn ingest(letter: Letter) -> Command {
    let (partition, offset) = (letter.partition.clone(), letter.offset);
    let items = vec![Taken { offset, taken: kafka::Taken::Letter(Box::new(letter)) }];
    Command::Ingest(Box::new(Ingest { cluster: "one".to_owned(), partition, from: offset, items, next: offset + 1 }))
}
