//! The client against a broker that misbehaves on order, over TCP.
//!
//! The library's mock cluster answers here. It has no transactions, so
//! `ExactWriter` is tried on Apache Kafka, in `tests/cluster`.

mod down;
mod hostile;
mod read;
mod write;

use std::future::Future;
use std::time::{Duration, Instant};

use super::broker::Broker;
use crate::clock;
use crate::domain::kafka::{Header, Partition};
use crate::kafka::{
    Delivery, Error, Handle, Intake, Message, Mode, Options, Reader, Record, Security, Start, State, Timing, Topics,
    View,
};
use crate::tasks::Tasks;

/// Whatever is awaited comes within this, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);

/// A broker and a node's handle on it.
struct Stage {
    broker: Broker,
    handle: Handle,
    tasks: Tasks,
}

impl Stage {
    fn new(topics: &[(&str, u32)]) -> Self {
        let topics: Vec<_> = topics.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions)).collect();
        let broker = Broker::start(1, &topics).unwrap();
        let (handle, tasks) = connect(options(&broker.bootstrap_servers()));
        Self { broker, handle, tasks }
    }

    fn order(&self, line: &str) {
        self.broker.obey(line).unwrap();
    }

    async fn produce(&self, topic: &str, values: std::ops::Range<usize>) {
        let messages = values.map(|n| message(topic, &n.to_string())).collect();
        self.handle.writer().unwrap().send(messages).await.unwrap();
    }

    /// A reader of one partition.
    async fn reader(&self, topic: &str, at: u64) -> Reader {
        let mut reader = self.handle.reader().unwrap();
        reader.assign(&[(partition(topic, 0), at)]).await.unwrap();
        reader
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn connect(options: Options) -> (Handle, Tasks) {
    let tasks = Tasks::new();
    (Handle::start(options, &tasks).unwrap(), tasks)
}

fn options(servers: &str) -> Options {
    Options {
        bootstrap_servers: vec![servers.to_owned()],
        mode: Mode::Embedded,
        delivery: Delivery::AtLeastOnce,
        topics: Topics { jobs: "jobs".to_owned(), workers: "workers".to_owned(), results: "results".to_owned() },
        cluster_name: "test".to_owned(),
        client_id: "ciro-test".to_owned(),
        create_topics: false,
        intake: Intake { from: Start::Earliest, max_in_flight_jobs: 100, batch_records: 100, batch_bytes: 1 << 20 },
        security: Security::plaintext(),
        timing: Timing { probe: Duration::from_millis(200), ..Timing::default() },
    }
}

fn partition(topic: &str, number: u32) -> Partition {
    Partition { topic: topic.into(), number }
}

fn message(topic: &str, value: &str) -> Message {
    Message {
        topic: topic.to_owned(),
        partition: Some(0),
        key: None,
        value: Some(value.as_bytes().to_vec()),
        headers: vec![],
    }
}

/// Reads until there are `count` records, or time is over.
async fn read(reader: &mut Reader, count: usize) -> Vec<Record> {
    let mut records = vec![];
    let until = clock::instant() + SOON;
    while records.len() < count && clock::instant() < until {
        records.extend(reader.read(count - records.len(), 1 << 20, Duration::from_secs(1)).await.unwrap());
    }
    records
}

fn values(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.value.clone().unwrap()).unwrap();
    records.iter().map(text).collect()
}

/// Waits until the handle's view is as wanted.
async fn view(handle: &Handle, wanted: impl Fn(&View) -> bool) -> View {
    let until = clock::instant() + SOON;
    loop {
        let view = handle.view();
        if wanted(&view) {
            return view;
        }
        assert!(clock::instant() < until, "still {view:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What it gave, and how long it took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begun: Instant = clock::instant();
    let done = work.await;
    (done, begun.elapsed())
}

#[test]
fn nothing_that_is_shown_has_a_secret_in_it() {
    let mut told = options("127.0.0.1:9");
    told.security = Security {
        protocol: crate::kafka::Protocol::SaslPlaintext,
        mechanism: Some("GUESS".to_owned()),
        username: Some(crate::kafka::Hidden::new("hunter2")),
        password: Some(crate::kafka::Hidden::new("hunter3")),
        ..Security::plaintext()
    };
    assert!(!format!("{told:?}").contains("hunter"), "{told:?}");
    let refused = Handle::start(told, &Tasks::new()).unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    assert!(!format!("{refused} {refused:?}").contains("hunter"), "{refused}");
}

#[test]
fn a_name_and_a_password_are_taken_without_tls() {
    let mut told = options("127.0.0.1:9");
    told.security = Security {
        protocol: crate::kafka::Protocol::SaslPlaintext,
        mechanism: Some("PLAIN".to_owned()),
        username: Some(crate::kafka::Hidden::new("hunter2")),
        password: Some(crate::kafka::Hidden::new("hunter3")),
        ..Security::plaintext()
    };
    let (handle, tasks) = connect(told);
    handle.reader().unwrap();
    handle.writer().unwrap();
    assert!(!format!("{handle:?}").contains("hunter"));
    tasks.cancel();
}

#[tokio::test]
async fn a_duty_takes_its_alarm_with_it() {
    let stage = Stage::new(&[]);
    let (ingest, publish) = (stage.handle.alarm("ingest"), stage.handle.alarm("publish"));
    publish.note(Some("no room".to_owned()));
    ingest.note(Some("other cluster".to_owned()));
    assert_eq!(stage.handle.view().alarms, ["ingest: other cluster", "publish: no room"]);
    publish.note(None);
    assert_eq!(stage.handle.view().alarms, ["ingest: other cluster"]);
    drop(ingest);
    assert!(stage.handle.view().alarms.is_empty());
    assert!(matches!(stage.handle.view().state, State::Connecting | State::Connected));
}

fn header(name: &str, value: Option<&[u8]>) -> Header {
    Header { name: name.into(), value: value.map(<[u8]>::to_vec) }
}
