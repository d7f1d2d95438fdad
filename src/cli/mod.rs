//! The command line: the node for operators, the cluster for clients.
//!
//! One file per family of commands. Parsing is clap's; everything that talks to
//! a cluster goes through [`client::Client`]; everything that is said goes
//! through [`output`]. Answers are on standard output, all else on standard
//! error, and the exit code says how it went ([`failure::Kind`]).

mod award;
mod backup;
mod blockchain;
mod client;
mod cluster;
#[cfg(feature = "kafka")]
mod dev_broker;
mod download;
mod failure;
mod files;
mod job;
mod kafka;
mod letters;
mod local;
mod members;
mod module;
mod output;
mod receipt;
mod reference;
mod restore;
mod start;
mod submit;
mod watch;
mod worker;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use client::Client;
use failure::{Failure, Kind};
use letters::each;

use crate::bench;

const CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  no node could be reached, or none could serve
  4  refused, or not found
  5  the job ended, but did not complete
  6  not done within the time allowed
  7  a receipt does not hold, or a backup is damaged

A client command tries the next --node when one does not answer, and submits under an
idempotency key, so that a retry never makes a second job.";

/// Where a node listens by default.
const DEFAULT_NODE: &str = "http://127.0.0.1:8080";

/// A peer-to-peer first coordinator node for a decentralized compute network:
/// the node itself, and the command line of its cluster.
#[derive(Debug, Parser)]
#[command(name = "ciro-coordinator", version, after_help = CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: Command,
}

/// How to reach a cluster, and how to show its answers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Reaching a cluster")]
pub struct Remote {
    /// URL of a node; several times, or comma separated, for several
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CIRO_NODE",
        value_delimiter = ',',
        default_value = DEFAULT_NODE
    )]
    node: Vec<String>,
    /// Seconds to go on trying while no node can serve
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 15)]
    patience: u64,
    /// Answer in JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
}

impl Remote {
    fn client(&self) -> Result<Client, Failure> {
        let mut nodes: Vec<String> = self.node.iter().filter(|node| !node.trim().is_empty()).cloned().collect();
        if nodes.is_empty() {
            // A variable that is set to nothing is not set.
            nodes.push(DEFAULT_NODE.to_owned());
        }
        Client::new(&nodes, self.patience())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience.min(86_400))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or SIGINT
    Start(start::Args),
    /// Write a complete, commented configuration file
    GenerateConfig(local::GenerateArgs),
    /// Print this node's peer id; makes its key if there is none
    Identity(local::IdentityArgs),
    /// Submit jobs and follow them
    #[command(subcommand)]
    Job(job::Command),
    /// The workers of the cluster
    #[command(subcommand)]
    Worker(worker::Command),
    /// The members of the cluster
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// The mesh as a node sees it
    #[command(subcommand)]
    Network(cluster::NetworkCommand),
    /// Kafka as the nodes see it, its dead letters, and records sent and read here
    #[command(subcommand)]
    Kafka(kafka::Command),
    /// The chain: transactions, what could not be settled, events; the contract, and the account that nodes pay with
    #[command(subcommand)]
    Blockchain(blockchain::Command),
    /// A node's status
    Status,
    /// A node's health, component by component; exit code 1 when it is unhealthy
    Health,
    /// Check a receipt, here, without any node; exit code 7 at the first lie
    Verify(receipt::Args),
    /// Measure a running cluster: throughput, latency, fail-over
    // Its own --node and --json stand for ours, wherever they are written.
    #[command(mut_arg("node", |arg| arg.global(true)), mut_arg("json", |arg| arg.global(true)))]
    Bench(bench::Args),
    /// For development: run a Kafka broker that keeps nothing, until SIGTERM or SIGINT
    #[cfg(feature = "kafka")]
    DevBroker(dev_broker::Args),
    /// Write shell completions to standard output
    Completions { shell: clap_complete::Shell },
}

/// Parses the command line, runs it, and maps how it went to an exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            // Help and version are answers; a reader that left is none of our business.
            let _ = told.print();
            return ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(Kind::Usage as u8));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.silent => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let remote = cli.remote;
    match cli.command {
        Command::Start(args) => start::run(args),
        Command::GenerateConfig(args) => local::generate(&args),
        Command::Identity(args) => local::identity(&args, remote.json),
        Command::Job(command) => block_on(job::run(command, &remote)),
        Command::Worker(command) => block_on(worker::run(command, &remote)),
        Command::Cluster(command) => block_on(cluster::run(command, &remote)),
        Command::Network(command) => block_on(cluster::network(command, &remote)),
        Command::Kafka(command) => block_on(kafka::run(command, &remote)),
        Command::Blockchain(command) => block_on(blockchain::run(command, &remote)),
        Command::Verify(args) => receipt::verify(&args, &remote),
        Command::Status => block_on(cluster::status(&remote)),
        Command::Health => block_on(cluster::health(&remote)),
        Command::Bench(args) => measure(args),
        #[cfg(feature = "kafka")]
        Command::DevBroker(args) => dev_broker::run(args),
        Command::Completions { shell } => local::completions(shell),
    }
}

fn complain(failure: &Failure) {
    use std::io::Write;
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "{failure}");
}

/// Hundreds of clients in one process: they get all cores.
fn measure(args: bench::Args) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bench::run(args)).map_err(|error| match error.downcast_ref::<std::io::Error>() {
        Some(pipe) if pipe.kind() == std::io::ErrorKind::BrokenPipe => {
            Failure { silent: true, ..Failure::new(Kind::Failed, "the reader went away") }
        }
        _ => Failure::new(Kind::Failed, failure::chain(error.as_ref())),
    })
}

/// Runs a client command: one thread is plenty.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}
