//! Looking at the brokers every few seconds, on every node.
//!
//! The probe has a thread of its own, because looking blocks, and a client of
//! its own, so that what it sees is not what a busy reader or writer does. It is
//! the one place that says whether Kafka is up; and it makes missing topics
//! where it is told to.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use tracing::{info, warn};

use super::aside::{Patience, SLICE};
use super::context::Ear;
use super::{admin, codes, settings, survey};
use crate::clock;
use crate::kafka::{Error, Handle, State, View};
use crate::tasks::Tasks;

/// Between two attempts to make a topic.
const CREATE_EVERY: Duration = Duration::from_secs(10);

/// A client that saw nothing for so long is replaced: one whose connections died in a pause of the broker was seen
/// to go on failing long after others were connected again.
const RENEW_AFTER: Duration = Duration::from_secs(10);

struct Probe {
    handle: Handle,
    consumer: BaseConsumer<Ear>,
    /// When the client last saw something, or was made.
    fresh: Instant,
    created: Option<Instant>,
}

/// What one look saw.
struct Sight {
    cluster_id: String,
    brokers: Vec<String>,
    marks: Vec<crate::kafka::Marks>,
    missing: Vec<(String, u32)>,
}

pub(super) fn start(handle: &Handle) -> Result<(), Error> {
    let consumer = client(handle)?;
    let mut probe = Probe { handle: handle.clone(), consumer, fresh: clock::instant(), created: None };
    let run = move || probe.run();
    match Tasks::thread("kafka-probe", run) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Spent(format!("start a thread: {error}"))),
    }
}

fn client(handle: &Handle) -> Result<BaseConsumer<Ear>, Error> {
    let config = settings::consumer(handle.options(), None);
    config.create_with_context(Ear::new("probe")).map_err(|error| codes::of(&error, None, ""))
}

impl Probe {
    fn run(&mut self) {
        let token = self.handle.tasks().token().clone();
        while !token.is_cancelled() {
            let seen = self.look();
            self.renew(seen.is_ok());
            self.tell(seen);
            self.create_missing();
            self.rest();
        }
    }

    fn look(&self) -> Result<Sight, Error> {
        let options = self.handle.options();
        // Each question has its own time: a slow broker is not a dead one.
        let patience = || Patience::new(options.timing.request, self.handle.tasks().token().clone());
        let mut sight = Sight { cluster_id: String::new(), brokers: vec![], marks: vec![], missing: vec![] };
        let mut partitions = vec![];
        for (topic, wanted) in options.topics.all(options.delivery) {
            let shape = survey::shape(&self.consumer, &topic, &patience())?;
            sight.brokers = shape.brokers;
            match shape.partitions {
                Some(numbers) => partitions.extend(numbers.into_iter().map(|number| (topic.clone(), number))),
                None => sight.missing.push((topic, wanted)),
            }
        }
        sight.cluster_id = survey::cluster_id(&self.consumer, &patience())?;
        sight.marks = survey::marks(&self.consumer, &partitions, &patience())?;
        Ok(sight)
    }

    fn renew(&mut self, saw: bool) {
        if saw {
            self.fresh = clock::instant();
        } else if self.fresh.elapsed() >= RENEW_AFTER {
            self.fresh = clock::instant();
            match client(&self.handle) {
                Ok(consumer) => {
                    // Why the last one failed is still what there is to say.
                    consumer.client().context().keep_reason(self.consumer.client().context().reason());
                    self.consumer = consumer;
                }
                Err(error) => warn!(%error, "the probe's client was not replaced"),
            }
        }
    }

    /// Publishes what was seen. Only a change is logged.
    fn tell(&self, seen: Result<Sight, Error>) {
        let ear = self.consumer.client().context();
        survey::serve(&self.consumer);
        let before = self.handle.view();
        let after = match seen {
            Ok(sight) => {
                ear.forget_reason();
                connected(sight)
            }
            Err(Error::Stopping) => return,
            Err(error) => {
                let why = match (&error, ear.reason()) {
                    (Error::Down(_), Some(reason)) => reason,
                    _ => error.to_string(),
                };
                View { state: State::Down, last_error: Some(why), ..before.clone() }
            }
        };
        match (before.state, after.state) {
            (State::Connected, State::Connected) if before.last_error == after.last_error => {}
            (_, State::Connected) => {
                let cluster = after.cluster_id.as_deref().unwrap_or_default();
                info!(cluster, brokers = ?after.brokers, missing = ?after.missing, "connected to kafka");
            }
            (State::Down, _) => {}
            _ => warn!(error = after.last_error, "kafka is down"),
        }
        *self.handle.0.view.write().unwrap_or_else(PoisonError::into_inner) = after;
    }

    fn create_missing(&mut self) {
        let options = self.handle.options();
        let missing = self.handle.view().missing;
        let due = self.created.is_none_or(|at| at.elapsed() >= CREATE_EVERY);
        if !options.create_topics || !due || missing.is_empty() || self.handle.view().state != State::Connected {
            return;
        }
        self.created = Some(clock::instant());
        let mut wanted = options.topics.all(options.delivery);
        wanted.retain(|(topic, _)| missing.contains(topic));
        if let Err(error) = admin::create(options, &wanted) {
            warn!(%error, topics = ?missing, "topics not created");
        }
    }

    /// Waits, with jitter, and hears what the library has to say meanwhile.
    fn rest(&self) {
        let usual = self.handle.options().timing.probe;
        let pause = if self.created.is_some_and(|at| at.elapsed() < usual) {
            // Topics were made just now: look soon.
            SLICE * 3
        } else {
            usual.mul_f64(rand::random_range(0.8..1.2))
        };
        let until = clock::instant() + pause;
        let token = self.handle.tasks().token();
        while !token.is_cancelled() && clock::instant() < until {
            // Errors are kept by the ear.
            let _ = self.consumer.poll(SLICE);
        }
    }
}

fn connected(sight: Sight) -> View {
    let missing: Vec<String> = sight.missing.into_iter().map(|(topic, _)| topic).collect();
    let last_error = match missing.as_slice() {
        [] => None,
        [topic] => Some(format!("topic {topic} does not exist")),
        topics => Some(format!("topics {} do not exist", topics.join(", "))),
    };
    View {
        state: State::Connected,
        cluster_id: Some(sight.cluster_id),
        brokers: sight.brokers,
        marks: sight.marks,
        missing,
        last_error,
        alarms: vec![],
        as_of: Some(clock::now()),
    }
}
