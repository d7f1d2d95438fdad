//! `dev-broker`: a Kafka broker that keeps nothing, for trying things out.

use std::path::PathBuf;

use super::failure::{self, Failure, Kind};
use crate::kafka::broker::{self, Setup};
use crate::telemetry;

/// What the default configuration uses.
const DEFAULT_TOPICS: &str = "ciro.jobs:4,ciro.workers:4,ciro.results:4,ciro.jobs.dlq:1";

const ORDERS: &str = "\
Orders, one a line, to the address in FILE.control; each is answered by ok or by error: and why.
  rtt MS [BROKER]             every answer takes this long
  down [BROKER] | up [BROKER] can not be reached; can be again. Move leaders as well when one of several is down
  errors API CODE COUNT       so many requests fail so, e.g. errors produce not_enough_replicas 5
  clear API                   they do not
  leader TOPIC PARTITION BROKER|none
  topic NAME PARTITIONS
Brokers count from 1. An unknown API or CODE is answered by those there are.";

#[derive(Debug, clap::Args)]
#[command(after_help = ORDERS)]
pub struct Args {
    /// File that gets the bootstrap servers when they can be reached; FILE.control gets the address for orders
    #[arg(long, value_name = "FILE")]
    address_file: PathBuf,
    /// A topic to begin with; several times, or comma separated. Others appear on first use, with 4 partitions
    #[arg(
        long,
        value_name = "NAME:PARTITIONS",
        value_parser = topic,
        value_delimiter = ',',
        default_value = DEFAULT_TOPICS
    )]
    topic: Vec<(String, u32)>,
    /// How many brokers to pretend to be
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    brokers: u16,
}

fn topic(text: &str) -> Result<(String, u32), String> {
    let (name, partitions) = text.rsplit_once(':').ok_or("expected NAME:PARTITIONS, e.g. ciro.jobs:4")?;
    match partitions.parse() {
        Ok(partitions @ 1..=1_000) if !name.is_empty() => Ok((name.to_owned(), partitions)),
        _ => Err("expected NAME:PARTITIONS, with 1 to 1000 partitions".to_owned()),
    }
}

/// Runs the broker until it is told to stop.
pub fn run(args: Args) -> Result<(), Failure> {
    telemetry::init("info", telemetry::Format::Text)
        .map_err(|error| Failure { kind: Kind::Usage, ..Failure::because("start logging", &error) })?;
    let setup = Setup { address_file: args.address_file, brokers: args.brokers, topics: args.topic };
    // It does not leave this thread: neither does the library's broker.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(broker::serve(setup)).map_err(|error| Failure::new(Kind::Failed, failure::chain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_names_and_numbers_of_partitions() {
        assert_eq!(topic("ciro.jobs:4"), Ok(("ciro.jobs".to_owned(), 4)));
        for refused in ["ciro.jobs", ":4", "a:0", "a:1001", "a:b"] {
            assert!(topic(refused).is_err(), "{refused}");
        }
    }
}
