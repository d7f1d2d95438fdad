//! Where a story meets Kafka: topics nobody else has, what it put there, what it found there.

use std::collections::BTreeMap;
use std::time::Duration;

use ciro::domain::kafka::{Header, Partition};
use ciro::kafka::{
    Delivery, Error, Handle, Intake, Message, Mode, Options, Reader, Record, Security, Start, Timing, Topics, Writer,
};
use ciro::tasks::Tasks;

use crate::{secs, until};

/// How long a topic must be quiet before we take it for read to its end.
const QUIET: Duration = secs(2);

pub struct Desk {
    /// The network's name: it also makes the names of groups and transactions.
    pub network: String,
    pub topics: Topics,
    pub delivery: Delivery,
    bootstrap: String,
    handle: Handle,
    writer: Writer,
}

impl Desk {
    /// `story`: a word that no other story uses.
    pub fn new(bootstrap: &str, story: &str, delivery: Delivery, tasks: &Tasks) -> Self {
        let topics = Topics {
            jobs: format!("{story}.jobs"),
            workers: format!("{story}.workers"),
            results: format!("{story}.results"),
        };
        let handle = Handle::start(options(bootstrap, story, &topics), tasks).unwrap();
        let writer = handle.writer().unwrap();
        let network = format!("ciro-{story}");
        Self { network, topics, delivery, bootstrap: bootstrap.to_owned(), handle, writer }
    }

    /// For the nodes.
    pub fn settings(&self) -> Vec<(String, String)> {
        let pairs = [
            ("ENABLED", "true"),
            ("MODE", "external"),
            ("BOOTSTRAP_SERVERS", &self.bootstrap),
            ("JOB_TOPIC", &self.topics.jobs),
            ("WORKER_TOPIC", &self.topics.workers),
            ("RESULT_TOPIC", &self.topics.results),
            ("DELIVERY", self.delivery.as_str()),
        ];
        pairs.map(|(name, value)| (format!("CIRO__KAFKA__{name}"), value.to_owned())).to_vec()
    }

    /// Returns when the broker has all of them. Not repeated if it fails: what is sent is counted.
    pub async fn produce(&self, messages: Vec<Message>) {
        self.writer.send(messages).await.expect("the broker takes what clients produce");
    }

    /// Waits until the topic is there.
    pub async fn topic(&self, topic: &str) {
        let reader = self.handle.reader().unwrap();
        until(secs(60), &format!("topic {topic} is there"), async || reader.survey(topic).await.ok()).await;
    }

    /// Behind the last record of each partition of the job topic.
    pub async fn ends(&self) -> BTreeMap<u32, u64> {
        let reader = self.handle.reader().unwrap();
        let survey =
            until(secs(30), "the job topic's ends", async || reader.survey(&self.topics.jobs).await.ok()).await;
        survey.partitions.into_iter().map(|marks| (marks.partition.number, marks.high)).collect()
    }

    /// Follows a topic from its beginning.
    pub async fn follow(&self, topic: &str) -> Follow {
        let mut reader = self.handle.reader().unwrap();
        let survey = until(secs(60), &format!("{topic} exists"), async || reader.survey(topic).await.ok()).await;
        let starts: Vec<(Partition, u64)> =
            survey.partitions.into_iter().map(|marks| (marks.partition, marks.low)).collect();
        reader.assign(&starts).await.unwrap();
        Follow { reader, records: vec![] }
    }

    /// All that readers of committed records see in a topic.
    pub async fn all(&self, topic: &str) -> Vec<Record> {
        let mut follow = self.follow(topic).await;
        follow.drain().await;
        follow.records
    }
}

/// A topic as it is read, from its beginning.
pub struct Follow {
    reader: Reader,
    pub records: Vec<Record>,
}

impl Follow {
    /// Waits until `enough` of what was read.
    pub async fn until(&mut self, limit: Duration, what: &str, mut enough: impl FnMut(&[Record]) -> bool) {
        let start = ciro::clock::instant();
        while !enough(&self.records) {
            assert!(start.elapsed() < limit, "not within {limit:?}: {what} ({} records)", self.records.len());
            self.more(Duration::from_millis(200)).await;
        }
    }

    /// Reads until nothing comes any more.
    pub async fn drain(&mut self) {
        while self.more(QUIET).await > 0 {}
    }

    async fn more(&mut self, wait: Duration) -> usize {
        match self.reader.read(10_000, 16 << 20, wait).await {
            Ok(records) => {
                let count = records.len();
                self.records.extend(records);
                count
            }
            Err(Error::Down(_)) => 0,
            Err(error) => panic!("read a topic: {error}"),
        }
    }
}

/// A header's value as text.
pub fn header(record: &Record, name: &str) -> Option<String> {
    let found = record.headers.iter().find(|header| *header.name == *name)?;
    Some(String::from_utf8_lossy(found.value.as_deref()?).into_owned())
}

pub fn with_headers(mut message: Message, headers: &[(&str, &str)]) -> Message {
    let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: Some(value.as_bytes().to_vec()) };
    message.headers.extend(headers.iter().map(header));
    message
}

fn options(bootstrap: &str, story: &str, topics: &Topics) -> Options {
    Options {
        bootstrap_servers: vec![bootstrap.to_owned()],
        mode: Mode::External,
        delivery: Delivery::AtLeastOnce,
        topics: topics.clone(),
        cluster_name: format!("{story}-reader"),
        client_id: format!("{story}-reader"),
        create_topics: false,
        intake: Intake { from: Start::Earliest, max_in_flight_jobs: 1, batch_records: 1, batch_bytes: 1 },
        security: Security::plaintext(),
        timing: Timing::default(),
    }
}
