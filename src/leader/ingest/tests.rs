//! The duty at work: a broker over TCP, a log on disk, and whoever leads.
//!
//! The library's mock cluster is the broker, so another cluster's id and a
//! partition that came later are tried on Apache Kafka, in `tests/cluster`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::clock;
use crate::consensus::Client;
use crate::consensus::tests::cluster::{Cluster, wait_until};
use crate::domain::kafka::{Intake, Partition};
use crate::domain::{Command, JobId, State};
use crate::kafka::broker::Broker;
use crate::kafka::{Delivery, Handle, Message, Mode, Options, Security, Start, Timing, Topics};
use crate::tasks::Tasks;

use super::{Duty, session};

const PARTITIONS: u32 = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// A broker, a log of one node, and a handle.
struct Stage {
    broker: Broker,
    cluster: Cluster,
    client: Client,
    term: u64,
    handle: Handle,
    tasks: Tasks,
}

impl Stage {
    async fn new(max_in_flight_jobs: usize) -> Self {
        let broker = Broker::start(1, &[("jobs".to_owned(), PARTITIONS)]).unwrap();
        let cluster = Cluster::new(1).await;
        let (leader, term) = cluster.leader().await;
        let (client, tasks) = (cluster.client(leader), Tasks::new());
        let topics = Topics { jobs: "jobs".to_owned(), workers: "workers".to_owned(), results: "results".to_owned() };
        let options = Options {
            bootstrap_servers: vec![broker.bootstrap_servers()],
            mode: Mode::Embedded,
            delivery: Delivery::AtLeastOnce,
            topics,
            cluster_name: "test".to_owned(),
            client_id: "ciro-test".to_owned(),
            create_topics: false,
            intake: crate::kafka::Intake {
                from: Start::Earliest,
                max_in_flight_jobs,
                batch_records: 40,
                batch_bytes: 1 << 20,
            },
            security: Security::plaintext(),
            timing: Timing { probe: Duration::from_millis(200), ..Timing::default() },
        };
        let handle = Handle::start(options, &tasks).unwrap();
        Self { broker, cluster, client, term, handle, tasks }
    }

    /// Leads, for as long as what it returns is not cancelled.
    fn reign(&self, term: u64) -> Tasks {
        self.counted_reign(term).0
    }

    /// The same, and how often the log has answered it.
    fn counted_reign(&self, term: u64) -> (Tasks, Arc<AtomicUsize>) {
        let tasks = self.tasks.child();
        let (client, handle, answers) = (self.client.clone(), self.handle.clone(), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&answers);
        let duty = Duty { client, term, handle, tasks: tasks.clone(), door: 1_000.into(), chain: None, answers };
        tasks.spawn_until_stopped("ingest", duty.run());
        (tasks, counted)
    }

    async fn produce(&self, messages: impl Iterator<Item = Message>) {
        self.handle.writer().unwrap().send(messages.collect()).await.unwrap();
    }

    fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.client.read(look)
    }

    /// What was taken from all partitions.
    fn taken(&self) -> Intake {
        self.read(|state| {
            state.kafka().intake().fold(Intake::default(), |sum, (_, one)| Intake {
                next: sum.next + one.next,
                jobs: sum.jobs + one.jobs,
                repeats: sum.repeats + one.repeats,
                letters: sum.letters + one.letters,
            })
        })
    }

    async fn taken_through(&self, next: u64) {
        wait_until("records to be taken", || self.taken().next == next).await;
    }

    async fn alarm(&self, word: &str) {
        let there = || self.handle.view().alarms.iter().any(|alarm| alarm.contains(word));
        wait_until(word, there).await;
    }

    async fn command(&self, command: Command) {
        self.client.submit(command, LIMIT).await.unwrap().1.unwrap();
    }

    async fn end(self) {
        self.tasks.cancel();
        self.cluster.shutdown().await;
    }
}

async fn stop(reign: Tasks) {
    reign.cancel();
    assert!(reign.join(LIMIT).await, "the duty did not end");
}

fn partition(number: u32) -> Partition {
    Partition { topic: "jobs".into(), number }
}

/// One job for each number, spread over the partitions.
fn jobs(numbers: Range<u32>) -> impl Iterator<Item = Message> {
    numbers.map(|n| message(n, br#"{"type":"sha256","payload":"aGk="}"#))
}

fn message(n: u32, value: &[u8]) -> Message {
    Message {
        topic: "jobs".to_owned(),
        partition: Some(n % PARTITIONS),
        key: Some(n.to_string().into_bytes()),
        value: Some(value.to_vec()),
        headers: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_becomes_one_job_or_one_letter_whoever_leads() {
    let stage = Stage::new(100_000).await;
    stage.produce(jobs(0..150)).await;
    stage.produce((0..6).map(|n| message(n, b"\xff\xff"))).await;
    let first = stage.reign(stage.term);
    wait_until("the first records", || stage.taken().jobs > 0).await;
    // Between any two steps of it.
    stop(first).await;
    let at_stop = stage.taken();
    println!("the first leader took {} records", at_stop.next);
    // Retries of clients among what is new.
    stage.produce(jobs(140..210)).await;
    let second = stage.reign(stage.term);
    stage.taken_through(226).await;
    let taken = stage.taken();
    assert_eq!((taken.jobs, taken.repeats, taken.letters), (210, 10, 6));
    let letters: Vec<(u32, String)> = stage.read(|state| {
        let about = |dead: &crate::domain::kafka::Dead| (dead.letter.partition.number, dead.letter.code.to_string());
        state.kafka().letters_after(None).map(about).collect()
    });
    assert_eq!(letters.iter().filter(|(number, code)| *number == 0 && code == "undecodable").count(), 2);
    stop(second).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_takes_nothing() {
    let stage = Stage::new(100_000).await;
    stage.produce(jobs(0..30)).await;
    for other in [stage.term + 7, stage.term - 1] {
        let (deposed, answers) = stage.counted_reign(other);
        wait_until("the log to have refused it", || answers.load(Ordering::SeqCst) > 0).await;
        assert_eq!(stage.taken(), Intake::default());
        stop(deposed).await;
    }
    let leader = stage.reign(stage.term);
    stage.taken_through(30).await;
    stop(leader).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_out_of_range_stops_its_partition_until_somebody_seeks() {
    let stage = Stage::new(100_000).await;
    stage.produce(jobs(0..30)).await;
    let reign = stage.reign(stage.term);
    stage.taken_through(30).await;
    stage.command(Command::SeekIntake { partition: partition(1), next: 5_000 }).await;
    stage.alarm("jobs/1 has offsets 0 to 10, and 5000 would be next").await;
    stage.produce(jobs(30..60)).await;
    wait_until("the others", || stage.taken().jobs == 50).await;
    // The next leader sees the same, before it reads anything.
    stop(reign).await;
    assert!(stage.handle.view().alarms.is_empty(), "who does not lead complains of nothing");
    let reign = stage.reign(stage.term);
    stage.alarm("jobs/1").await;
    // Back to the start: what was taken before is taken for repeats.
    stage.command(Command::SeekIntake { partition: partition(1), next: 0 }).await;
    stage.taken_through(60).await;
    let taken = stage.taken();
    assert_eq!((taken.jobs, taken.repeats, taken.letters), (60, 10, 0));
    wait_until("no alarm", || stage.handle.view().alarms.is_empty()).await;
    stop(reign).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_another_kafka_stop_intake_until_somebody_resets_it() {
    let stage = Stage::new(100_000).await;
    stage.produce(jobs(0..9)).await;
    stage.command(Command::ResetIntake { cluster: "elsewhere".to_owned() }).await;
    let reign = stage.reign(stage.term);
    stage.alarm("the offsets are of Kafka cluster \"elsewhere\"").await;
    assert_eq!(stage.taken(), Intake::default());
    let here = stage.handle.view().cluster_id.unwrap();
    stage.command(Command::ResetIntake { cluster: here }).await;
    stage.taken_through(9).await;
    stop(reign).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intake_pauses_while_too_many_jobs_are_under_way_and_goes_on_at_the_half() {
    let stage = Stage::new(60).await;
    stage.produce(jobs(0..300)).await;
    let reign = stage.reign(stage.term);
    let active = || stage.read(|state| state.active_jobs_after(None).map(|job| job.id).collect::<Vec<_>>());
    let cancel = async |jobs: Vec<JobId>| {
        for job in jobs {
            stage.command(Command::Cancel { job, reason: "done".to_owned() }).await;
        }
    };
    wait_until("as many jobs as may be", || active().len() == 60).await;
    let full = clock::instant();
    wait_until("it to be seen", || full.elapsed() > session::LOOK * 3).await;
    // Above the half of it nothing more is taken.
    cancel(active().split_off(31)).await;
    let looked = clock::instant();
    wait_until("several looks", || looked.elapsed() > session::LOOK * 5).await;
    assert_eq!((stage.taken().jobs, active().len()), (60, 31));
    cancel(active()).await;
    while stage.taken().next < 300 {
        wait_until("more jobs", || active().len() > 30 || stage.taken().next == 300).await;
        let under_way = active();
        assert!(under_way.len() <= 60, "{} jobs", under_way.len());
        cancel(under_way).await;
    }
    assert_eq!(stage.taken().jobs, 300);
    stop(reign).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_and_comes_back_is_read_on() {
    let stage = Stage::new(100_000).await;
    stage.produce(jobs(0..30)).await;
    let reign = stage.reign(stage.term);
    stage.taken_through(30).await;
    stage.broker.obey("down").unwrap();
    wait_until("it to be noticed", || stage.handle.view().state == crate::kafka::State::Down).await;
    stage.broker.obey("up").unwrap();
    wait_until("the connection", || stage.handle.view().state == crate::kafka::State::Connected).await;
    stage.produce(jobs(30..60)).await;
    stage.taken_through(60).await;
    assert_eq!(stage.taken().jobs, 60);
    stop(reign).await;
    stage.end().await;
}
