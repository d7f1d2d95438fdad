//! The duty, on a log of one node and a broker in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::fixture::{assign, complete, decoded, header, ingest, job, letter, register, submit, topics};
use crate::clock;
use crate::consensus::Raft;
use crate::domain::journal::Sink;
use crate::domain::kafka::{Header, Lane, Partition};
use crate::domain::{Command, Timestamp};
use crate::kafka::{self, Delivery, Handle, Intake, Message, Mode, Record, Security, Start, Timing, Topics, broker};
use crate::leader::publish::run;
use crate::leader::{Reign, lone};
use crate::tasks::Tasks;
use crate::wire::proto::kafka::v1 as proto;

/// Anything these tests wait for takes less, on a machine shared with compilers too.
const LIMIT: Duration = Duration::from_secs(60);

/// A leader without duties, and Kafka.
pub struct Bench {
    pub reign: Reign,
    pub kafka: Handle,
    control: Option<String>,
    _raft: Raft,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Bench {
    /// With a broker of its own.
    pub async fn new() -> Self {
        Self::with(&["jobs", "workers", "results", "jobs.dlq"]).await
    }

    /// With a broker of its own that has these topics.
    async fn with(there: &'static [&'static str]) -> Self {
        let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
        let (address, control) = start_broker(dir.path(), there, &tasks).await;
        let kafka = Handle::start(options(address, topics(), Delivery::AtLeastOnce), &tasks).unwrap();
        Self::over(kafka, Some(control), dir, tasks).await
    }

    /// With a real one, and topics of its own there.
    pub async fn exactly_once(address: String) -> Self {
        let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
        let name = |what: &str| format!("{what}-{}", clock::uuid());
        let topics = Topics { jobs: name("jobs"), workers: name("workers"), results: name("results") };
        let options = options(address, topics, Delivery::ExactlyOnce);
        let kafka = Handle::start(kafka::Options { cluster_name: name("net"), ..options }, &tasks).unwrap();
        Self::over(kafka, None, dir, tasks).await
    }

    async fn over(kafka: Handle, control: Option<String>, dir: tempfile::TempDir, tasks: Tasks) -> Self {
        let (mut reign, raft) = lone::start(dir.path(), &tasks).await;
        reign.context.kafka = Some(kafka.clone());
        Self { reign, kafka, control, _raft: raft, tasks, _dir: dir }
    }

    pub async fn submit(&self, commands: Vec<Command>) {
        let client = &self.reign.context.client;
        for reply in client.submit_many(commands, LIMIT).await.unwrap().replies {
            reply.unwrap();
        }
    }

    /// Jobs that are cancelled as soon as they are there: one result each.
    pub async fn cancelled(&self, jobs: std::ops::Range<u64>) {
        let cancel = |n| Command::Cancel { job: job(n), reason: String::new() };
        self.submit(jobs.flat_map(|n| [submit(n), cancel(n)]).collect()).await;
    }

    pub fn cursor(&self) -> Option<u64> {
        self.reign.context.client.read(|state| state.journal().cursor(Sink::Kafka))
    }

    pub fn newest(&self) -> u64 {
        self.reign.context.client.read(|state| state.journal().last_seq())
    }

    /// Runs the duty until `done`, then ends it where it is.
    pub async fn run_until(&self, what: &str, reign: &Reign, done: impl AsyncFnMut() -> bool) {
        tokio::select! {
            () = run(reign.clone()) => panic!("the duty ended"),
            () = tokio::time::sleep(LIMIT - Duration::from_secs(1)) => {
                panic!("waited too long for {what}: {:?}, cursor {:?}", self.kafka.view(), self.cursor())
            }
            () = until(what, done) => {}
        }
    }

    pub async fn run_until_delivered(&self) {
        self.run_until("delivery", &self.reign, async || self.cursor() == Some(self.newest())).await;
    }

    /// A leader that was deposed and does not know: nothing it says is committed.
    fn deposed(&self) -> Reign {
        Reign { number: self.reign.number + 1, context: self.reign.context.clone() }
    }

    /// Everything in a topic, by partition and offset.
    pub async fn records(&self, topic: &str) -> Vec<Record> {
        self.committed(topic, self.held(topic).await).await
    }

    /// At least so many records of a topic, and all there are besides.
    pub async fn committed(&self, topic: &str, wanted: u64) -> Vec<Record> {
        let mut reader = self.kafka.reader().unwrap();
        let mut partitions = reader.survey(topic).await.unwrap().partitions;
        partitions.retain(|marks| marks.high > marks.low);
        let begin: Vec<(Partition, u64)> =
            partitions.iter().map(|marks| (marks.partition.clone(), marks.low)).collect();
        reader.assign(&begin).await.unwrap();
        let mut records = vec![];
        let begun = clock::instant();
        loop {
            let more = reader.read(1_000, 4 << 20, Duration::from_millis(500)).await.unwrap();
            if more.is_empty() && records.len() as u64 >= wanted {
                break;
            }
            records.extend(more);
            assert!(begun.elapsed() < LIMIT, "read {} of {wanted} records", records.len());
        }
        records.sort_by_key(|record| (record.partition.clone(), record.offset));
        records
    }

    pub async fn held(&self, topic: &str) -> u64 {
        let reader = self.kafka.reader().unwrap();
        let partitions = reader.survey(topic).await.map(|survey| survey.partitions).unwrap_or_default();
        partitions.iter().map(|marks| marks.high - marks.low).sum()
    }

    /// Makes the broker misbehave.
    pub async fn order(&self, line: &str) {
        let mut stream = BufReader::new(TcpStream::connect(self.control.as_ref().unwrap()).await.unwrap());
        stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        assert_eq!(answer, "ok\n", "{line}");
    }
}

/// Its address, and that of its control port.
async fn start_broker(dir: &Path, there: &[&str], tasks: &Tasks) -> (String, String) {
    let address_file = dir.join("broker");
    let setup = broker::Setup {
        address_file: address_file.clone(),
        brokers: 1,
        topics: there.iter().map(|topic| ((*topic).to_owned(), 4)).collect(),
    };
    let ending = tasks.token().clone();
    // It does not go from thread to thread.
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Some(served) = runtime.block_on(ending.run_until_cancelled(broker::serve(setup))) {
            served.unwrap();
        }
    };
    Tasks::thread("broker", serve).unwrap();
    until("a broker", async || address_file.exists()).await;
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap().trim().to_owned();
    (read("broker"), read("broker.control"))
}

fn options(address: String, topics: Topics, delivery: Delivery) -> kafka::Options {
    kafka::Options {
        bootstrap_servers: vec![address],
        mode: if delivery == Delivery::AtLeastOnce { Mode::Embedded } else { Mode::External },
        delivery,
        topics,
        cluster_name: "test-net".to_owned(),
        client_id: "test".to_owned(),
        create_topics: delivery == Delivery::ExactlyOnce,
        intake: Intake { from: Start::Earliest, max_in_flight_jobs: 1, batch_records: 1, batch_bytes: 1 },
        security: Security::plaintext(),
        timing: Timing { send: Duration::from_secs(5), ..Timing::default() },
    }
}

pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = clock::instant();
    while !done().await {
        assert!(begun.elapsed() < LIMIT, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn as_message(record: &Record) -> Message {
    let Record { partition, key, value, headers, .. } = record.clone();
    Message { topic: partition.topic.into(), partition: Some(partition.number), key, value, headers }
}

fn id(record: &Record) -> String {
    header(&as_message(record), "ce_id").unwrap().to_owned()
}

/// Times each event is there.
pub fn counted(records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(id(record)).or_default() += 1;
    }
    counts
}

/// The journal's numbers of what a consumer sees of each key that drops repeats.
fn seen(records: &[Record]) -> BTreeMap<Vec<u8>, Vec<u64>> {
    let mut known = BTreeSet::new();
    let mut seen: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    for record in records.iter().filter(|record| known.insert(id(record))) {
        let seq = decoded::<proto::WorkerEvent>(&as_message(record)).seq;
        seen.entry(record.key.clone().unwrap()).or_default().push(seq);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_before_and_meanwhile_is_published_once_and_the_cursor_follows() {
    let bench = Bench::new().await;
    bench.cancelled(0..50).await;
    assert_eq!(bench.cursor(), None);
    bench
        .run_until("delivery", &bench.reign, async || {
            if bench.cursor() == Some(100) {
                bench.submit(vec![register(1), ingest(letter(5, vec![]))]).await;
                bench.cancelled(50..300).await;
            }
            bench.newest() == 602 && bench.cursor() == Some(602)
        })
        .await;
    let results = bench.records("results").await;
    assert_eq!(results.len(), 300);
    assert!(counted(&results).values().all(|count| *count == 1));
    assert_eq!(bench.records("workers").await.len(), 1);
    assert_eq!(bench.records("jobs.dlq").await.len(), 1);
    bench.reign.context.client.read(|state| {
        assert_eq!(state.kafka().published(Lane::Results), 300);
        assert_eq!(state.kafka().published(Lane::DeadLetters), 1);
    });
    // Nothing is left to say: a successor sends nothing.
    bench.submit(vec![submit(1_000)]).await;
    bench.run_until_delivered().await;
    assert_eq!((bench.held("results").await, bench.held("workers").await), (300, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_between_acknowledgement_and_cursor_repeats_under_the_same_id_and_in_order() {
    let bench = Bench::new().await;
    // Several events of one key, so that their order can be seen.
    let toggle = || {
        let worker = super::fixture::worker(1);
        [Command::Drain { worker }, Command::Resume { worker }]
    };
    bench.submit(std::iter::once(register(1)).chain((0..100).flat_map(|_| toggle())).collect()).await;
    let through = Command::Delivered { sink: Sink::Kafka, through: 0 };
    bench.submit(vec![through]).await;

    // Deposed, or about to die: Kafka has all, and the log hears nothing of it.
    let deposed = bench.deposed();
    bench.run_until("records", &deposed, async || bench.held("workers").await == 201).await;
    assert_eq!(bench.cursor(), Some(0), "a deposed leader changes nothing");

    // Its successor sends all of it again, and what came since.
    bench.submit(toggle().to_vec()).await;
    bench.run_until_delivered().await;
    let records = bench.records("workers").await;
    let counts = counted(&records);
    assert_eq!(counts.len(), 203);
    assert_eq!(counts.values().filter(|count| **count == 2).count(), 201);
    let seen = seen(&records);
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [(1..=203).collect::<Vec<u64>>()]);

    // Death after the cursor moved repeats nothing.
    bench.submit(vec![submit(1)]).await;
    bench.run_until_delivered().await;
    assert_eq!(bench.held("workers").await, 201 + 203);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_or_refuses_delays_and_loses_nothing() {
    let bench = Bench::new().await;
    bench.order("down").await;
    bench.cancelled(0..20).await;
    bench
        .run_until("an alarm", &bench.reign, async || {
            bench.kafka.view().alarms.iter().any(|alarm| alarm.starts_with("publish: "))
        })
        .await;
    assert_eq!(bench.cursor(), Some(0), "registered, so that the journal keeps it; nothing is delivered");
    assert_eq!(bench.kafka.view().alarms, [""; 0], "a duty that ended complains of nothing");

    bench
        .run_until("delivery", &bench.reign, async || {
            bench.order("up").await;
            bench.cursor() == Some(40)
        })
        .await;
    bench.order("errors produce not_enough_replicas 3").await;
    bench.cancelled(20..30).await;
    bench.run_until_delivered().await;
    assert_eq!(counted(&bench.records("results").await).len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_kafka_finds_too_long_is_published_without_its_output() {
    let bench = Bench::new().await;
    bench.submit(vec![register(1), submit(1), assign(1, 1, 1), complete(1, 1, 1, b"out")]).await;
    let through = Command::Delivered { sink: Sink::Kafka, through: 3 };
    bench.submit(vec![through.clone()]).await;
    bench.order("errors produce message_too_large 1").await;
    bench.run_until_delivered().await;
    let [result] = bench.records("results").await.try_into().unwrap();
    let result: proto::JobResult = decoded(&as_message(&result));
    let outcome = result.outcome.unwrap();
    assert_eq!((outcome.output, outcome.output_omitted), (None, true));

    bench.submit(vec![submit(2), assign(2, 1, 1)]).await;
    bench.run_until_delivered().await;
    bench.submit(vec![complete(2, 1, 1, b"out")]).await;
    bench.order("errors produce message_too_large 2").await;
    bench.run_until_delivered().await;
    let results = bench.records("results").await;
    let stub = results.iter().map(as_message).find(|result| header(result, "ciro.error.code").is_some()).unwrap();
    assert_eq!(header(&stub, "ciro.error.code"), Some("record_too_large"));
    assert!(decoded::<proto::JobResult>(&stub).details_missing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_goes_back_and_leaves_the_queue() {
    let bench = Bench::new().await;
    let theirs: Vec<Header> = vec![super::fixture::named("idempotency-key", b"k1")];
    bench.submit(vec![ingest(letter(5, theirs))]).await;
    bench.run_until_delivered().await;
    bench.submit(vec![Command::ReplayLetter { letter: 1 }]).await;
    bench.run_until_delivered().await;
    let [back] = bench.records("jobs").await.try_into().unwrap();
    assert_eq!(back.value.as_deref(), Some([0xff, 0, 0x80].as_slice()));
    assert_eq!(header(&as_message(&back), "idempotency-key"), Some("k1"));
    assert!(back.timestamp_ms.map(Timestamp).is_some_and(|at| at.0 > 0));
    assert_eq!(bench.reign.context.client.read(|state| state.kafka().letters()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_missing_delays_and_is_not_made_up_for_by_repeats() {
    let bench = Bench::with(&["jobs", "workers", "results"]).await;
    until("a look at the topics", async || !bench.kafka.view().missing.is_empty()).await;
    bench.submit(vec![register(1), ingest(letter(5, vec![]))]).await;
    bench.cancelled(0..10).await;
    let mut made = false;
    bench
        .run_until("delivery", &bench.reign, async || {
            let alarms = bench.kafka.view().alarms;
            if !made && alarms.iter().any(|alarm| alarm.contains("topic jobs.dlq does not exist")) {
                // Two looks later it is still missing: time enough to send again and again.
                for _ in 0..2 {
                    let seen = bench.kafka.view().as_of;
                    until("another look", async || bench.kafka.view().as_of != seen).await;
                }
                assert!(bench.held("workers").await <= 2, "nothing is sent while it is known to be missing");
                bench.order("topic jobs.dlq 1").await;
                made = true;
            }
            bench.cursor() == Some(bench.newest())
        })
        .await;
    assert!(made);
    assert_eq!((bench.held("jobs.dlq").await, counted(&bench.records("results").await).len()), (1, 10));
}
