//! What of Kafka needs somebody, and what that somebody should do.
//!
//! Alarms follow from a [`Picture`] alone. All but `duty` show on every node
//! that can see the cause. The codes are a closed set: they are labels in
//! `/metrics`, and `docs/kafka.md` has a line for each (a test holds that).

use serde::Serialize;
use utoipa::ToSchema;

use super::picture::{Own, Picture};
use crate::domain::state::LIMITS;

/// Every code there is.
pub const CODES: [&str; 9] = [
    "down",
    "refused",
    "topic_missing",
    "other_cluster",
    "records_gone",
    "duty",
    "journal_near_bound",
    "events_lost",
    "dead_letters_near_bound",
];

/// A bound is near from this share of it on, in percent.
const NEAR_PERCENT: u64 = 80;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = KafkaAlarm)]
pub struct Alarm {
    /// Stable, for machines.
    #[schema(
        pattern = "^(down|refused|topic_missing|other_cluster|records_gone|duty|journal_near_bound|events_lost|dead_letters_near_bound)$"
    )]
    pub code: &'static str,
    /// What is wrong, and what to do.
    pub detail: String,
}

pub fn of(picture: &Picture) -> Vec<Alarm> {
    let own = picture.own.as_ref();
    let found = [
        own.and_then(|own| down(own, picture)),
        own.and_then(refused),
        own.and_then(topic_missing),
        own.and_then(|own| other_cluster(own, picture)),
        own.and_then(|own| records_gone(own, picture)),
        own.and_then(duty),
        journal_near_bound(picture),
        events_lost(picture),
        letters_near_bound(picture),
    ];
    found.into_iter().flatten().map(|(code, detail)| Alarm { code, detail }).collect()
}

type Found = Option<(&'static str, String)>;

fn down(own: &Own, picture: &Picture) -> Found {
    let why = own.last_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
    (own.state == "down").then(|| {
        let brokers = own.bootstrap_servers.join(", ");
        let detail = format!(
            "no broker of {brokers} is reachable{why}; it is tried again by itself. Jobs by REST go on; {} events wait",
            picture.undelivered
        );
        ("down", detail)
    })
}

fn refused(own: &Own) -> Found {
    let why = own.last_error.as_ref().filter(|_| own.state == "connected" && own.missing.is_empty())?;
    Some(("refused", format!("a broker is reachable, but not all is well: {why}")))
}

fn topic_missing(own: &Own) -> Found {
    (!own.missing.is_empty()).then(|| {
        let detail = format!(
            "{} do not exist: create them, or set kafka.create_topics = true so that the node does",
            own.missing.join(", ")
        );
        ("topic_missing", detail)
    })
}

fn duty(own: &Own) -> Found {
    (!own.complaints.is_empty()).then(|| ("duty", own.complaints.join("; ")))
}

fn other_cluster(own: &Own, picture: &Picture) -> Found {
    let (found, known) = (own.cluster_id.as_ref()?, picture.recorded_cluster.as_ref()?);
    (found != known).then(|| {
        let detail = format!(
            "connected to Kafka cluster {found}, but the offsets are of {known}: intake waits. If the change is meant, \
             `ciro-coordinator kafka reset {found}` forgets the old offsets; if not, correct kafka.bootstrap_servers"
        );
        ("other_cluster", detail)
    })
}

/// The watermarks are a few seconds old, so only what lies before the oldest is certain: that one only grows.
fn records_gone(own: &Own, picture: &Picture) -> Found {
    if own.cluster_id != picture.recorded_cluster {
        return None;
    }
    let gone = picture.readings.iter().find_map(|reading| {
        let (next, (low, _)) = (reading.intake?.next, reading.marks?);
        (next < low).then_some((&reading.partition, next, low))
    });
    gone.map(|(partition, next, low)| {
        let (topic, number) = (&partition.topic, partition.number);
        let detail = format!(
            "{topic} partition {number} begins at offset {low}, but {next} is the next to read: {} records were deleted \
             unread. `ciro-coordinator kafka seek {topic} {number} {low}` goes on without them",
            low - next
        );
        ("records_gone", detail)
    })
}

fn journal_near_bound(picture: &Picture) -> Found {
    let limit = u64::try_from(LIMITS.journal_max).unwrap_or(u64::MAX);
    let todo = match picture.own {
        Some(_) => "see why they are not published, above or in the leader's log",
        None => "enable Kafka, or `ciro-coordinator kafka forget` if it is gone for good",
    };
    is_near(picture.undelivered, limit).then(|| {
        let detail = format!(
            "{} of {limit} events that the journal keeps for Kafka wait; at the bound new jobs are refused: {todo}",
            picture.undelivered
        );
        ("journal_near_bound", detail)
    })
}

fn events_lost(picture: &Picture) -> Found {
    (picture.lost > 0).then(|| {
        let detail = format!(
            "{} events were dropped before Kafka got them, because it was behind for too long; \
             the jobs themselves are in /jobs?state=all",
            picture.lost
        );
        ("events_lost", detail)
    })
}

fn letters_near_bound(picture: &Picture) -> Found {
    let limit = |limit: usize| u64::try_from(limit).unwrap_or(u64::MAX);
    let (most, bytes) = (limit(LIMITS.letters), limit(LIMITS.letter_bytes));
    (is_near(picture.letters, most) || is_near(picture.letter_bytes, bytes)).then(|| {
        let detail = format!(
            "the queue holds {} of {most} dead letters and {} of {bytes} bytes; beyond it the oldest that are published \
             leave it: replay or drop them (`ciro-coordinator kafka dlq list`)",
            picture.letters, picture.letter_bytes
        );
        ("dead_letters_near_bound", detail)
    })
}

fn is_near(value: u64, limit: u64) -> bool {
    value >= limit / 100 * NEAR_PERCENT
}
