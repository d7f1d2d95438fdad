//! Making topics that are missing.

use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer};
use tracing::{info, warn};

use super::context::Ear;
use super::{codes, settings};
use crate::kafka::{Error, Mode, Options};

/// Longest record of the topic for dead letters, which carry a record and more.
const LETTER_MAX_BYTES: &str = "4194304";

/// Creates topics with the brokers' own replication. One that another node made meanwhile is as good.
pub(super) fn create(options: &Options, topics: &[(String, u32)]) -> Result<(), Error> {
    if options.mode == Mode::Embedded {
        return ask_for(options, topics);
    }
    let admin: AdminClient<Ear> = settings::common(options)
        .create_with_context(Ear::new("admin"))
        .map_err(|error| codes::of(&error, None, ""))?;
    let dead_letters = options.topics.dead_letters();
    let wanted: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|(name, partitions)| {
            let topic = NewTopic::new(name, i32::try_from(*partitions).unwrap_or(1), TopicReplication::Fixed(-1));
            if *name == dead_letters { topic.set("max.message.bytes", LETTER_MAX_BYTES) } else { topic }
        })
        .collect();
    let limit = Some(options.timing.request);
    let asked = AdminOptions::new().request_timeout(limit).operation_timeout(limit);
    let made = match block_on(admin.create_topics(&wanted, &asked)) {
        // Old brokers make topics when they are asked for, if at all.
        Err(KafkaError::AdminOp(Code::UnsupportedFeature)) => return ask_for(options, topics),
        made => made.map_err(|error| codes::of(&error, None, ""))?,
    };
    for topic in made {
        match topic {
            Ok(topic) => info!(topic, "topic created"),
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => warn!(topic, error = %code, "topic not created"),
        }
    }
    Ok(())
}

/// The broker of `dev-broker` creates nothing on command, and everything on first use.
fn ask_for(options: &Options, topics: &[(String, u32)]) -> Result<(), Error> {
    let producer: BaseProducer<Ear> = settings::common(options)
        .set("allow.auto.create.topics", "true")
        .create_with_context(Ear::new("admin"))
        .map_err(|error| codes::of(&error, None, ""))?;
    for (topic, _) in topics {
        let asked = producer.client().fetch_metadata(Some(topic), options.timing.request);
        asked.map_err(|error| codes::of(&error, None, topic))?;
        producer.poll(Duration::ZERO);
    }
    Ok(())
}
