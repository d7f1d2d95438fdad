//! Lines of orders, and what the broker then does.

use std::str::FromStr;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// All brokers.
const ALL: i32 = -1;

/// Most errors that one order asks for.
const ERRORS_MAX: usize = 10_000;

pub(super) fn obey(cluster: &Cluster, line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = match words.as_slice() {
        ["rtt", ms] => cluster.broker_round_trip_time(ALL, millis(ms)?),
        ["rtt", ms, broker] => cluster.broker_round_trip_time(number(broker)?, millis(ms)?),
        ["down"] => cluster.broker_down(ALL),
        ["down", broker] => cluster.broker_down(number(broker)?),
        ["up"] => cluster.broker_up(ALL),
        ["up", broker] => cluster.broker_up(number(broker)?),
        ["leader", topic, partition, "none"] => cluster.partition_leader(topic, number(partition)?, None),
        ["leader", topic, partition, broker] => {
            cluster.partition_leader(topic, number(partition)?, Some(number(broker)?))
        }
        ["topic", name, partitions] => cluster.create_topic(name, number(partitions)?, 1),
        ["errors", api, code, count] => {
            let count = number::<usize>(count)?.min(ERRORS_MAX);
            cluster.request_errors(find_api(api)?, &vec![find_code(code)?; count]);
            Ok(())
        }
        ["clear", api] => {
            cluster.clear_request_errors(find_api(api)?);
            Ok(())
        }
        _ => return Err("expected rtt, down, up, leader, topic, errors or clear; see dev-broker --help".to_owned()),
    };
    done.map_err(|error| error.to_string())
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn millis(text: &str) -> Result<Duration, String> {
    Ok(Duration::from_millis(number::<u32>(text)?.into()))
}

const APIS: &[(&str, Api)] = &[
    ("produce", Api::Produce),
    ("fetch", Api::Fetch),
    ("list_offsets", Api::ListOffsets),
    ("metadata", Api::Metadata),
    ("offset_commit", Api::OffsetCommit),
    ("offset_fetch", Api::OffsetFetch),
    ("find_coordinator", Api::FindCoordinator),
    ("init_producer_id", Api::InitProducerId),
];

const CODES: &[(&str, Code)] = &[
    ("disconnect", Code::RD_KAFKA_RESP_ERR__TRANSPORT),
    ("broker_not_available", Code::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE),
    ("invalid_record", Code::RD_KAFKA_RESP_ERR_INVALID_RECORD),
    ("kafka_storage_error", Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR),
    ("message_too_large", Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE),
    ("not_enough_replicas", Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS),
    ("not_leader", Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION),
    ("offset_out_of_range", Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE),
    ("request_timed_out", Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT),
    ("topic_authorization_failed", Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED),
    ("unknown_topic", Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART),
];

fn find_api(name: &str) -> Result<Api, String> {
    find(APIS, name).map(|index| APIS[index].1)
}

fn find_code(name: &str) -> Result<Code, String> {
    find(CODES, name).map(|index| CODES[index].1)
}

/// Where a name is in a table; the error says which there are.
fn find<T>(table: &[(&str, T)], name: &str) -> Result<usize, String> {
    let names = || table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    table.iter().position(|(known, _)| *known == name).ok_or_else(|| format!("{name:?} is none of {}", names()))
}
