//! A connection of the command line's own to Kafka, with the keys of a node's configuration.

use std::time::Duration;

use super::args::Broker;
use crate::cli::failure::{Failure, Kind};
use crate::cli::start;
use crate::clock;
use crate::config::{Config, Sources};
use crate::kafka::{Error, Handle, Options, Reader, Survey, Writer};
use crate::tasks::Tasks;

const PAUSE: Duration = Duration::from_millis(300);

/// A client, and the tasks it runs on. Dropping it ends them.
pub struct Session {
    handle: Handle,
    tasks: Tasks,
}

impl Session {
    pub fn new(broker: &Broker) -> Result<Self, Failure> {
        let options = options(broker, start::variables())?;
        let tasks = Tasks::new();
        let handle = Handle::for_one_use(options, &tasks);
        Ok(Self { handle, tasks })
    }

    pub fn options(&self) -> &Options {
        self.handle.options()
    }

    pub fn reader(&self) -> Result<Reader, Failure> {
        self.handle.reader().map_err(|error| failed(&error))
    }

    pub fn writer(&self) -> Result<Writer, Failure> {
        self.handle.writer().map_err(|error| failed(&error))
    }

    /// Looks at a topic, for as long as the patience lasts while no broker is there.
    pub async fn find(&self, topic: &str, patience: Duration) -> Result<Survey, Failure> {
        let (reader, give_up) = (self.reader()?, clock::instant() + patience);
        loop {
            match reader.survey(topic).await {
                Ok(survey) => return Ok(survey),
                Err(Error::Down(_)) if clock::instant() < give_up => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(failed(&error)),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// What a node with this configuration would be told of Kafka, whether it is enabled there or not.
fn options(broker: &Broker, variables: Vec<(String, String)>) -> Result<Options, Failure> {
    let named = broker.bootstrap.iter().map(|servers| ("kafka.bootstrap_servers".to_owned(), servers.clone()));
    let sources = Sources {
        file: broker.config.clone(),
        variables,
        environment: broker.environment,
        flags: broker.set.iter().cloned().chain(named).collect(),
    };
    let (config, _) = Config::load(&sources).map_err(|error| start::refused(&error))?;
    Ok(config.kafka_client("ciro-coordinator-cli".to_owned()))
}

/// What Kafka did not do, and which exit code says so.
pub fn failed(error: &Error) -> Failure {
    let (kind, hint) = match error {
        Error::Down(_) | Error::Stopping => {
            (Kind::Unreachable, Some("is the broker up? name it with --bootstrap HOST:PORT, or in --config"))
        }
        Error::NoTopic(_) => (Kind::Refused, Some("create it, or name another with --topic")),
        Error::Refused(_) => (Kind::Refused, Some("see the rights and the kafka.* keys of the configuration")),
        _ => (Kind::Failed, None),
    };
    let failure = Failure::new(kind, error.to_string());
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
