//! Kafka over REST: its status and figures, the dead letters, and what an operator may do.
//!
//! Every node tells of its own connection and of the replicated rest, see
//! [`picture`]. Writes go through the log like all others, so they work on any
//! node, also one that is not connected itself.

mod alarms;
mod intake;
mod letters;
mod picture;
#[cfg(test)]
mod tests;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

pub use self::alarms::Alarm;
pub use self::picture::Picture;

use super::problem::Problem;
use super::request::Request;
use super::route::Route;
use super::{Api, respond, text};
use crate::clock;
use crate::domain::kafka::Lane;
use crate::domain::state::LIMITS;
use crate::telemetry::traffic::{self, Rate};
use picture::Reading;

pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/kafka/status", "The connection to Kafka, and how far intake and delivery are", status)
            .fresh()
            .answers::<KafkaStatus>(200, "This node's connection, and the replicated rest"),
        Route::get("/kafka/stats", "Messages, lag and rates by topic", stats)
            .fresh()
            .answers::<KafkaStats>(200, "The figures"),
    ];
    routes.extend(letters::routes());
    routes.extend(intake::routes());
    routes
}

#[derive(Serialize, ToSchema)]
struct KafkaStatus {
    /// This node's own connection.
    #[schema(pattern = "^(connected|connecting|down|disabled)$")]
    state: &'static str,
    bootstrap_servers: Vec<String>,
    /// embedded or external; null while disabled.
    mode: Option<&'static str>,
    /// at_least_once or exactly_once; null while disabled.
    delivery: Option<&'static str>,
    /// The cluster this node is connected to; null if it is not known.
    cluster_id: Option<String>,
    /// The cluster that the offsets are of; null before the first record was taken.
    recorded_cluster_id: Option<String>,
    brokers: Vec<String>,
    topics: Option<TopicNames>,
    intake: Vec<IntakeBody>,
    /// Number of the newest event that is published.
    journal_cursor: Option<u64>,
    /// Events that Kafka has not got.
    undelivered: u64,
    /// Events kept for Kafka while it lags; there new jobs are refused.
    undelivered_limit: u64,
    /// Dead letters in the queue, and their bytes.
    dead_letters: u64,
    dead_letter_bytes: u64,
    /// What needs somebody.
    alarms: Vec<Alarm>,
    /// Why this node was not connected, when it tried last.
    last_error: Option<String>,
    /// When this node asked a broker last.
    #[schema(format = DateTime)]
    as_of: Option<String>,
    applied_index: u64,
}

/// The topics that this node is configured with.
#[derive(Serialize, ToSchema)]
#[schema(as = KafkaTopics)]
struct TopicNames {
    jobs: String,
    workers: String,
    results: String,
    dead_letters: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = KafkaIntake)]
struct IntakeBody {
    topic: String,
    partition: u32,
    /// Where to go on, replicated; null if nothing of the partition was taken yet.
    next_offset: Option<u64>,
    /// The oldest offset, and the one after the newest, as this node saw them last; null if it did not.
    low_watermark: Option<u64>,
    high_watermark: Option<u64>,
    /// Records not read yet; null if not known.
    lag: Option<u64>,
    /// Records that made a job.
    jobs: u64,
    /// Records that named a job which was accepted before.
    repeats: u64,
    /// Records that became a dead letter.
    dead_letters: u64,
}

impl IntakeBody {
    fn of(reading: &Reading) -> Self {
        let intake = reading.intake.unwrap_or_default();
        Self {
            topic: reading.partition.topic.to_string(),
            partition: reading.partition.number,
            next_offset: reading.intake.map(|intake| intake.next),
            low_watermark: reading.marks.map(|(low, _)| low),
            high_watermark: reading.marks.map(|(_, high)| high),
            lag: reading.lag(),
            jobs: intake.jobs,
            repeats: intake.repeats,
            dead_letters: intake.letters,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct KafkaStats {
    #[schema(pattern = "^(connected|connecting|down|disabled)$")]
    state: &'static str,
    topics: Vec<TopicFigures>,
    published: Published,
    applied_index: u64,
}

#[derive(Serialize, ToSchema)]
struct TopicFigures {
    topic: String,
    /// Records read: jobs, repeats and dead letters.
    messages_in: u64,
    /// Records written, as far as their delivery is recorded.
    messages_out: u64,
    /// Records not read yet; null if not known, or not read from.
    lag: Option<u64>,
    /// Both ways, over the last minute; null until there are two samples, which takes ten seconds.
    messages_per_second: Option<f64>,
    in_per_second: Option<f64>,
    out_per_second: Option<f64>,
}

/// Records written since the cluster began, by what they are.
#[derive(Serialize, ToSchema)]
#[schema(as = KafkaPublished)]
struct Published {
    results: u64,
    workers: u64,
    dead_letters: u64,
    replays: u64,
}

async fn status(api: Api, _request: Request) -> Result<Response, Problem> {
    respond::json(&status_of(Picture::of(&api.context)))
}

fn status_of(picture: Picture) -> KafkaStatus {
    let alarms = picture.alarms();
    let own = picture.own.as_ref();
    KafkaStatus {
        state: picture.state(),
        bootstrap_servers: own.map(|own| own.bootstrap_servers.clone()).unwrap_or_default(),
        mode: own.map(|own| own.mode),
        delivery: own.map(|own| own.delivery),
        cluster_id: own.and_then(|own| own.cluster_id.clone()),
        brokers: own.map(|own| own.brokers.clone()).unwrap_or_default(),
        topics: own.map(|own| TopicNames {
            jobs: own.topics.jobs.clone(),
            workers: own.topics.workers.clone(),
            results: own.topics.results.clone(),
            dead_letters: own.topics.dead_letters.clone(),
        }),
        intake: picture.readings.iter().map(IntakeBody::of).collect(),
        journal_cursor: picture.cursor,
        undelivered: picture.undelivered,
        undelivered_limit: u64::try_from(LIMITS.journal_max).unwrap_or(u64::MAX),
        dead_letters: picture.letters,
        dead_letter_bytes: picture.letter_bytes,
        alarms,
        last_error: own.and_then(|own| own.last_error.clone()),
        as_of: own.and_then(|own| own.as_of).map(text::time),
        applied_index: picture.applied_index,
        recorded_cluster_id: picture.recorded_cluster,
    }
}

async fn stats(api: Api, _request: Request) -> Result<Response, Problem> {
    respond::json(&stats_of(&Picture::of(&api.context)))
}

fn stats_of(picture: &Picture) -> KafkaStats {
    let traffic = picture.traffic();
    let rates = traffic::rates(clock::instant(), &traffic);
    let rate = |topic: &str, of: fn(&Rate) -> f64| rates.as_ref().and_then(|rates| rates.get(topic)).map(of);
    let topics = traffic.iter().map(|(topic, traffic)| TopicFigures {
        topic: topic.clone(),
        messages_in: traffic.read,
        messages_out: traffic.written,
        lag: lag_of(picture, topic),
        messages_per_second: rate(topic, |rate| rate.read + rate.written),
        in_per_second: rate(topic, |rate| rate.read),
        out_per_second: rate(topic, |rate| rate.written),
    });
    KafkaStats {
        state: picture.state(),
        topics: topics.collect(),
        published: Published {
            results: picture.published(Lane::Results),
            workers: picture.published(Lane::Workers),
            dead_letters: picture.published(Lane::DeadLetters),
            replays: picture.published(Lane::Replays),
        },
        applied_index: picture.applied_index,
    }
}

/// `None` if nothing is read from the topic, or the lag of one of its partitions is not known.
fn lag_of(picture: &Picture, topic: &str) -> Option<u64> {
    let mut of_topic = picture.readings.iter().filter(|reading| &*reading.partition.topic == topic).peekable();
    of_topic.peek()?;
    of_topic.map(Reading::lag).sum()
}
