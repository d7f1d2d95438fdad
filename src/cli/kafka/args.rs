//! What `kafka produce` and `kafka tail` are told.

use std::path::PathBuf;

use crate::cli::start::assignment;
use crate::config::Environment;

/// Which brokers, and how: the keys of the configuration, as a node has them.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Reaching Kafka")]
pub struct Broker {
    /// Brokers, comma separated; the same as --set kafka.bootstrap_servers=…
    #[arg(long, value_name = "HOST:PORT", env = "CIRO_KAFKA")]
    pub bootstrap: Option<String>,
    /// A node's configuration file: its kafka section has brokers, topics and credentials
    #[arg(long, short, value_name = "PATH", env = "CIRO_CONFIG")]
    pub config: Option<PathBuf>,
    /// development, staging, production or test: wins over what the file says
    #[arg(long, short, value_name = "NAME")]
    pub environment: Option<Environment>,
    /// Set a key, e.g. --set kafka.security_protocol=sasl_ssl
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    echo '{\"type\": \"sha256\", \"payload\": \"aGVsbG8K\"}' | ciro-coordinator kafka produce --bootstrap localhost:9092 --lines -\n  \
    ciro-coordinator kafka produce --bootstrap localhost:9092 --type sha256 --payload-dir src/\n\n\
    Each record gets an idempotency key of its own, unless --key or --idempotency-key names one: the same key is the\n\
    same job, however often it is sent.")]
pub struct Produce {
    #[command(flatten)]
    pub broker: Broker,
    /// Records to send as they are, one per file; - is standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Each line of the files is a record: the body of POST /jobs
    #[arg(long, conflicts_with = "kind")]
    pub lines: bool,
    /// Where to; without it the job topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// The record's key: it decides the partition, and is the job's identity (one record only)
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// The job's identity, in place of one made up (one record only)
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// A header for each record; several times for several
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// Make jobs of this type, of which the payload files are the input
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    pub kind: Option<String>,
    /// An input; several times for several jobs
    #[arg(long, value_name = "PATH", requires = "kind")]
    pub payload_file: Vec<PathBuf>,
    /// One job for each file below it
    #[arg(long, value_name = "PATH", requires = "kind")]
    pub payload_dir: Vec<PathBuf>,
    /// The input itself
    #[arg(long, value_name = "TEXT", requires = "kind")]
    pub payload: Option<String>,
    /// 1 (last) to 10 (first)
    #[arg(long, requires = "kind")]
    pub priority: Option<u32>,
    /// Several times for several
    #[arg(long = "tag", value_name = "TAG", requires = "kind")]
    pub tags: Vec<String>,
    /// How jobs made with --type are written
    #[arg(long, value_enum, default_value_t = Format::Protobuf)]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Protobuf,
    Json,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ciro-coordinator kafka tail --bootstrap localhost:9092 --from beginning --count 10"
)]
pub struct Tail {
    #[command(flatten)]
    pub broker: Broker,
    /// What to read; without it the result topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Where to begin in each partition
    #[arg(long, value_enum, default_value_t = From::End)]
    pub from: From,
    /// End after so many records
    #[arg(long)]
    pub count: Option<u64>,
    /// End after so long; exit code 6 if --count is not reached by then
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    Beginning,
    End,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
