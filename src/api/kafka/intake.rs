//! What an operator may do: move intake, accept another Kafka cluster, and give delivery up.
//!
//! Each is refused where this node can see that it is a mistake: an offset that
//! does not exist, a cluster it is not connected to, a sink that is in use.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::reply::Response;

use super::picture::Picture;
use crate::api::decode::{self, Int};
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::route::Route;
use crate::api::{Api, respond};
use crate::domain::journal::Sink;
use crate::domain::kafka::Partition;
use crate::domain::{Command, Done};

const BODY_MAX: usize = 4 << 10;

/// Kafka's own bounds.
const TOPIC_MAX: usize = 249;
const CLUSTER_MAX: usize = 255;
const PARTITION_MAX: i128 = (1 << 31) - 1;
const OFFSET_MAX: i128 = (1 << 63) - 1;

pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/kafka/intake/seek", "Move intake to another offset of a partition", seek)
            .takes::<Seek>(true, BODY_MAX)
            .answers::<Sought>(200, "Intake goes on there")
            .write(),
        Route::post("/kafka/intake/reset", "Accept another Kafka cluster: all offsets are forgotten", reset)
            .takes::<Reset>(true, BODY_MAX)
            .answers::<WasReset>(200, "Intake begins anew in that cluster")
            .write(),
        Route::delete("/kafka/cursor", "Give delivery up: events are no longer kept for Kafka", forget)
            .answers::<Forgotten>(200, "Events are not kept for Kafka until it is enabled again")
            .write(),
    ]
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KafkaSeek, example = json!({"topic": "ciro.jobs", "partition": 0, "offset": 1042}))]
pub struct Seek {
    #[schema(pattern = "^[A-Za-z0-9._-]{1,249}$")]
    topic: String,
    #[schema(value_type = u32, minimum = 0, maximum = 2147483647)]
    partition: Int,
    /// Of the record that is read next.
    #[schema(value_type = u64, minimum = 0, maximum = 9223372036854775807_i64)]
    offset: Int,
}

#[derive(Serialize, ToSchema)]
#[schema(as = KafkaSought)]
struct Sought {
    topic: String,
    partition: u32,
    next_offset: u64,
    applied_index: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KafkaReset, example = json!({"cluster_id": "MkU3OEVBNTcwNTJENDM2Qk"}))]
pub struct Reset {
    /// Id of the cluster that this node is connected to: see `cluster_id` of `/kafka/status`.
    #[schema(pattern = "^[!-~]{1,255}$")]
    cluster_id: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = KafkaWasReset)]
struct WasReset {
    cluster_id: String,
    /// False: the offsets were of this cluster, and stay.
    changed: bool,
    applied_index: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = KafkaForgotten)]
struct Forgotten {
    /// False: nothing was kept for Kafka.
    changed: bool,
    applied_index: u64,
}

impl Seek {
    /// The partition and the offset, within Kafka's own bounds.
    pub fn check(&self) -> Result<(Partition, u64), Problem> {
        if !is_topic(&self.topic) {
            let detail = format!("topic must have from 1 to {TOPIC_MAX} characters of a–z, A–Z, 0–9, '.', '_' and '-'");
            return Err(Problem::new(Code::InvalidField, detail).field("topic"));
        }
        let number = within("partition", self.partition, PARTITION_MAX)?;
        let offset = within("offset", self.offset, OFFSET_MAX)?;
        Ok((Partition { topic: self.topic.as_str().into(), number: u32::try_from(number).unwrap_or(u32::MAX) }, offset))
    }
}

fn is_topic(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=TOPIC_MAX).contains(&text.len()) && text.bytes().all(known)
}

fn within(field: &'static str, Int(value): Int, max: i128) -> Result<u64, Problem> {
    match u64::try_from(value) {
        Ok(small) if value <= max => Ok(small),
        _ => {
            Err(Problem::new(Code::InvalidField, format!("{field} must be from 0 to {max}, not {value}")).field(field))
        }
    }
}

async fn seek(api: Api, request: Request) -> Result<Response, Problem> {
    let wish: Seek = decode::json(&request.body)?;
    let (partition, next) = wish.check()?;
    may_seek(&Picture::of(&api.context), &partition, next)?;
    let (applied_index, _) = write(&api, Command::SeekIntake { partition, next }).await?;
    let (topic, partition) = (wish.topic, u32::try_from(wish.partition.0).unwrap_or(u32::MAX));
    respond::json(&Sought { topic, partition, next_offset: next, applied_index })
}

/// Refuses a partition that nobody reads, and an offset that this node knows not to exist.
pub fn may_seek(picture: &Picture, partition: &Partition, next: u64) -> Result<(), Problem> {
    let Partition { topic, number } = partition;
    let Some(reading) = picture.readings.iter().find(|reading| reading.partition == *partition) else {
        let problem =
            Problem::new(Code::Conflict, format!("partition {number} of {topic} is not read by this cluster"));
        return Err(problem.hint("GET /kafka/status lists the partitions that are."));
    };
    match reading.marks {
        Some((low, high)) if !(low..=high).contains(&next) => {
            let detail = format!("{topic} partition {number} has the offsets {low} to {high}, not {next}");
            Err(Problem::new(Code::Conflict, detail).field("offset").hint("Offsets that do not exist can not be read."))
        }
        _ => Ok(()),
    }
}

async fn reset(api: Api, request: Request) -> Result<Response, Problem> {
    let Reset { cluster_id } = decode::json(&request.body)?;
    let visible =
        (1..=CLUSTER_MAX).contains(&cluster_id.len()) && cluster_id.bytes().all(|byte| byte.is_ascii_graphic());
    if !visible {
        let detail = format!("cluster_id must have from 1 to {CLUSTER_MAX} visible ASCII characters");
        return Err(Problem::new(Code::InvalidField, detail).field("cluster_id"));
    }
    may_reset(&Picture::of(&api.context), &cluster_id)?;
    let (applied_index, done) = write(&api, Command::ResetIntake { cluster: cluster_id.clone() }).await?;
    respond::json(&WasReset { cluster_id, changed: done != Done::Unchanged, applied_index })
}

/// Refuses a cluster that this node does not see: offsets are not given up for a slip of the pen.
pub fn may_reset(picture: &Picture, wanted: &str) -> Result<(), Problem> {
    let refuse = |detail: String, hint: &str| Err(Problem::new(Code::Conflict, detail).field("cluster_id").hint(hint));
    match picture.own.as_ref().map(|own| own.cluster_id.as_deref()) {
        None => refuse(
            "Kafka is disabled on this node, so it can not tell whether that cluster is there".to_owned(),
            "Ask a node on which Kafka is enabled.",
        ),
        Some(None) => refuse(
            "this node was not connected to Kafka yet, so it can not tell whether that cluster is there".to_owned(),
            "Ask a node that is connected; GET /kafka/status says so.",
        ),
        Some(Some(found)) if found != wanted => refuse(
            format!("this node is connected to Kafka cluster {found}"),
            "Name the cluster_id that GET /kafka/status shows.",
        ),
        Some(Some(_)) => Ok(()),
    }
}

async fn forget(api: Api, _request: Request) -> Result<Response, Problem> {
    if api.context.kafka.is_some() {
        let problem = Problem::new(Code::Conflict, "Kafka is enabled on this node, and needs its events");
        return Err(problem.hint("Set kafka.enabled = false on every node first; or repair the connection."));
    }
    let (applied_index, done) = write(&api, Command::ForgetSink { sink: Sink::Kafka }).await?;
    respond::json(&Forgotten { changed: done != Done::Unchanged, applied_index })
}

async fn write(api: &Api, command: Command) -> Result<(u64, Done), Problem> {
    let (index, reply) = api.client().submit(command, api.limits().write_deadline).await?;
    Ok((index, reply?))
}
